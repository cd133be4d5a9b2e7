"""Matrices with prescribed eigenvalues."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def symmetric():
  """Returns a function: (eigenvalues, seed) -> symmetric matrix in a random orthonormal basis."""

  def make(eigenvalues, seed=0):
    n = len(eigenvalues)
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    h = (q * eigenvalues) @ q.T
    return (h + h.T) / 2

  return make
