"""Matrices with prescribed eigenvalues, and bases of each kind."""

import numpy as np
import pytest

from tf_hessian.numerics.disk_basis import DiskBasis, file_bytes
from tf_hessian.numerics.lanczos import Lanczos
from tf_hessian.numerics.memory_basis import MemoryBasis
from tf_hessian.numerics.probes import probe


@pytest.fixture(scope="session")
def symmetric():
  """Returns a function: (eigenvalues, seed) -> symmetric matrix in a random orthonormal basis."""

  def make(eigenvalues, seed=0):
    n = len(eigenvalues)
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    h = (q * eigenvalues) @ q.T
    return (h + h.T) / 2

  return make


@pytest.fixture
def new(tmp_path):
  """Returns a function that makes a basis of a kind, and closes them all at the end."""
  made = []

  def make(kind, steps, n, path="basis", **options):
    dtype = np.float32 if "float32" in kind else np.float64
    if "memory" in kind:
      made.append(MemoryBasis(np.empty((steps, n), dtype), **options))
    else:
      if "resident" in kind:  # its first block, which may be the only one
        options["resident_bytes"] = file_bytes(steps, min(n, 2**15), dtype) + 2**20
      made.append(DiskBasis(tmp_path / path, steps, n, dtype=dtype, **options))
    return made[-1]

  yield make
  for basis in made:
    basis.close()


@pytest.fixture(scope="session")
def random_rows():
  """Returns a function: (steps, n) -> orthonormal rows (steps, n)."""

  def make(steps, n):
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((n, steps)))
    return q.T.copy()

  return make


@pytest.fixture(scope="session")
def fill():
  """Returns a function that stores rows in a basis, which it returns."""

  def store(basis, rows):
    for j, row in enumerate(rows):
      basis.store(j, row)
    return basis

  return store


@pytest.fixture(scope="session")
def stored():
  """Returns a function: (basis, count) -> its first rows (count, n)."""
  return lambda basis, count: np.array([basis.row(j) for j in range(count)])


@pytest.fixture(scope="session")
def run():
  """Returns a function that takes all Lanczos steps that a basis has room for."""

  def take(basis, matvec, draw=0):
    basis.store(0, probe(0, draw, basis.n))
    lanczos = Lanczos(basis)
    lanczos.run(matvec)
    return lanczos

  return take


@pytest.fixture(scope="session")
def assert_same_tridiagonal():
  """Returns a function that compares two recurrences bit by bit."""

  def compare(first, second):
    np.testing.assert_array_equal(first.alphas, second.alphas)
    np.testing.assert_array_equal(first.betas, second.betas)
    assert (first.scale, first.status) == (second.scale, second.status)

  return compare
