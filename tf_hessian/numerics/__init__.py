"""Lanczos, Gauss quadrature and spectral densities, in NumPy and SciPy only."""
