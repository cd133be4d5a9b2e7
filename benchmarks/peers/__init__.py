"""Density runs and products by this package against the same by PyTorch packages."""
