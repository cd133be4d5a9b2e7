"""Commands: flags in, one library call, files out."""
