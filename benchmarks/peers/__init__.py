"""A density run by this package against the same run by three PyTorch packages."""
