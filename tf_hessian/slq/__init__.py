"""Stochastic Lanczos quadrature of any symmetric matrix, resumable."""
