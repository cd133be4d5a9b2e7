"""Eigenvalues of dense symmetric matrices: the exact side of comparisons."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.linalg

from tf_hessian.numerics import checks


@dataclasses.dataclass(frozen=True)
class ExactSpectrum:
  """All eigenvalues of an n x n matrix.

  Rows that are exactly zero were set aside first.

  >>> import numpy as np
  >>> from scipy.sparse.linalg import aslinearoperator
  >>> import tf_hessian
  >>> exact = tf_hessian.exact_spectrum(aslinearoperator(np.diag([2.0, 0.0, 1.0])))
  >>> exact.eigenvalues.tolist(), exact.num_zero_rows
  ([0.0, 1.0, 2.0], 1)
  """

  eigenvalues: np.ndarray  # (n,) float64, ascending, with the zeros of the zero rows
  num_zero_rows: int
  # Of the part that is not zero; None if only eigenvalues were asked for.
  nonzero_rows: np.ndarray  # (r,) int64: indices of the other rows
  nonzero_eigenvalues: np.ndarray  # (r,) float64, ascending
  eigenvectors: np.ndarray | None  # (r, r) float64, columns

  @property
  def weights(self) -> np.ndarray:
    """Each eigenvalue's share 1/n of the density: (n,) float64."""
    return np.full(self.eigenvalues.size, 1 / self.eigenvalues.size)

  def draw(self, v: np.ndarray, /) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nodes and weights of the exact measure of a draw.

    Its weight at lambda_i is (v' q_i)^2. All zero rows together are one node at 0, the last one.

    Args:
      v: (n,) start vector of length 1.

    Raises:
      ValueError: if the eigenvectors were not kept, or v has another length.
    """
    if self.eigenvectors is None:
      raise ValueError("exact spectrum of a draw: needs eigenvectors, none were kept")
    checks.check_vector("v", v, self.eigenvalues.size)
    weights = (v[self.nonzero_rows] @ self.eigenvectors) ** 2
    if not self.num_zero_rows:
      return self.nonzero_eigenvalues, weights
    rest = max(0.0, float(v @ v - np.sum(v[self.nonzero_rows] ** 2)))
    return np.append(self.nonzero_eigenvalues, 0.0), np.append(weights, rest)


def symmetric_spectrum(matrix: np.ndarray, /, *, eigenvectors: bool = False) -> ExactSpectrum:
  """Returns the `ExactSpectrum` of a symmetric matrix.

  Rows that are exactly zero (dead units, pixels that are never on) are dropped first: each is an
  eigenvalue 0. Of the rest, the lower triangle is read.

  Args:
    matrix: (n, n) float64, symmetric to rounding.
    eigenvectors: keep the eigenvectors too, for `ExactSpectrum.draw`; takes about r x r x 8 bytes
      more, and longer.

  Raises:
    ValueError: if the matrix is not square or not finite.

  >>> found = symmetric_spectrum([[0.0, 2.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
  >>> found.eigenvalues.round(12).tolist(), found.num_zero_rows
  ([-2.0, 0.0, 2.0], 1)
  """
  matrix = np.asarray(matrix, np.float64)
  if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
    raise ValueError(f"matrix: expected a square matrix, got shape {matrix.shape}")
  if not np.isfinite(matrix.sum()) and not np.isfinite(matrix).all():
    raise ValueError("matrix: expected finite numbers, got NaN or infinity")
  rows = np.flatnonzero(matrix.any(axis=1))
  block = np.array(matrix[np.ix_(rows, rows)], order="F")
  return block_spectrum(block, rows, len(matrix), eigenvectors=eigenvectors)


def block_spectrum(
  block: np.ndarray, rows: np.ndarray, n: int, /, *, eigenvectors: bool = False
) -> ExactSpectrum:
  """Returns the `ExactSpectrum` of a matrix with one nonzero block.

  Args:
    block: (r, r) float64, symmetric to rounding; overwritten.
    rows: (r,) ascending indices of its rows and columns.
    n: order of the whole matrix.
    eigenvectors: keep the eigenvectors too, for `ExactSpectrum.draw`.

  >>> block_spectrum(np.array([[5.0]]), np.array([1]), 3).eigenvalues.tolist()
  [0.0, 0.0, 5.0]
  """
  num_zero = n - len(rows)
  vectors = None
  if not len(rows):
    values, vectors = np.empty(0), np.empty((0, 0)) if eigenvectors else None
  elif eigenvectors:
    values, vectors = scipy.linalg.eigh(block, overwrite_a=True, check_finite=False, driver="evd")
  else:
    values = scipy.linalg.eigvalsh(block, overwrite_a=True, check_finite=False)
  everything = np.sort(np.concatenate([values, np.zeros(num_zero)]))
  return ExactSpectrum(everything, num_zero, rows, values, vectors)


def asymmetry(matrix: np.ndarray, /) -> float:
  """Returns how far a matrix H is from being symmetric.

  It is max |H - H'| / max |H|, or 0 for a zero matrix.

  >>> asymmetry(np.array([[4.0, 1.0], [2.0, 0.0]]))
  0.25
  """
  largest = max(-matrix.min(), matrix.max())
  if not largest:
    return 0.0
  block = 2048  # rows at a time, so that no second matrix is made
  difference = max(
    np.abs(matrix[i : i + block] - matrix[:, i : i + block].T).max()
    for i in range(0, len(matrix), block)
  )
  return float(difference / largest)
