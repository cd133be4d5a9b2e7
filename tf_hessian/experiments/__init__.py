"""Runs: from a config or a model to results on disk, resumable."""
