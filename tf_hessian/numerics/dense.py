"""Eigenvalues of dense symmetric matrices: the exact side of comparisons."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import io
from typing import Any

import numpy as np
import scipy.linalg

from tf_hessian.numerics import checks

_TILE = 512  # rows and columns that are mirrored at a time


@dataclasses.dataclass(frozen=True)
class ExactSpectrum:
  """All eigenvalues of an n x n matrix.

  Rows that are exactly zero were set aside first.

  >>> import numpy as np
  >>> import tf_hessian
  >>> exact = tf_hessian.exact_spectrum(np.diag([2.0, 0.0, 1.0]), progress=False)
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

  def arrays(self) -> dict[str, Any]:
    """Returns what a file of the result holds: name -> array."""
    return {name: value for name, value in vars(self).items() if value is not None}

  @classmethod
  def from_arrays(cls, found: Mapping[str, Any], /) -> ExactSpectrum:
    """Returns the result that `arrays` gave; raises KeyError if something is missing."""
    values, rows, nonzero = (
      found[n] for n in ("eigenvalues", "nonzero_rows", "nonzero_eigenvalues")
    )
    return cls(values, int(found["num_zero_rows"]), rows, nonzero, found.get("eigenvectors"))

  def to_bytes(self) -> bytes:
    """Returns the result as bytes, for other processes."""
    file = io.BytesIO()
    np.savez(file, **self.arrays())
    return file.getvalue()

  @classmethod
  def from_bytes(cls, content: bytes, /) -> ExactSpectrum:
    """Returns the result that `to_bytes` gave."""
    with np.load(io.BytesIO(content), allow_pickle=False) as saved:
      return cls.from_arrays(dict(saved))

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
  block = np.ascontiguousarray(matrix.T[np.ix_(rows, rows)])
  return block_spectrum(block, rows, len(matrix), eigenvectors=eigenvectors)


def block_spectrum(
  block: np.ndarray, rows: np.ndarray, n: int, /, *, eigenvectors: bool = False
) -> ExactSpectrum:
  """Returns the `ExactSpectrum` of a matrix with one nonzero block.

  Besides the block, LAPACK needs next to no memory for the eigenvalues, and once as much for the
  eigenvectors.

  Args:
    block: (r, r) float64 in C order, of which the upper triangle is read; overwritten.
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
  else:
    # Only a matrix in Fortran order is not copied. "evd" would need a third one.
    found = scipy.linalg.eigh(
      block.T,
      lower=True,
      eigvals_only=not eigenvectors,
      overwrite_a=True,
      check_finite=False,
      driver="evr",
    )
    values, vectors = found if eigenvectors else (found, None)
  everything = np.sort(np.concatenate([values, np.zeros(num_zero)]))
  return ExactSpectrum(everything, num_zero, rows, values, vectors)


class Triangle:
  """The upper triangle of a symmetric matrix, filled by columns.

  These come in their order. What they say of the lower triangle is compared with the entries that
  are there, and dropped. So the asymmetry, max |H - H'| / max |H|, is known without it.

  >>> triangle = Triangle(np.zeros((2, 2)))
  >>> columns = np.array([[4.0, 2.0], [1.0, 0.0]])  # one a row
  >>> triangle.keep(0, columns, triangle.judge(0, columns))
  >>> triangle.asymmetry
  0.25
  >>> triangle.mirror()
  >>> triangle.matrix.tolist()
  [[4.0, 2.0], [2.0, 0.0]]

  Args:
    matrix: (n, n) float64, to be filled.

  Attributes:
    matrix: the same. What is below the diagonal does not count.
  """

  def __init__(self, matrix: np.ndarray, /) -> None:
    self.matrix = matrix
    self._found = np.zeros(2)

  def judge(self, start: int, columns: np.ndarray, /) -> np.ndarray:
    """Compares the next columns with those before.

    Args:
      start: number of the first.
      columns: (k, n), one a row.

    Returns:
      (2,): the largest difference of two entries that should be equal, and the largest entry.
    """
    stop = start + len(columns)
    square = columns[:, start:stop]
    above = columns[:, :start] - self.matrix[:start, start:stop].T
    differences = (np.abs(d).max(initial=0.0) for d in (above, square - square.T))
    return np.array([max(differences), np.abs(columns).max(initial=0.0)])

  def keep(self, start: int, columns: np.ndarray, found: np.ndarray, /) -> None:
    """Keeps the next columns.

    Args:
      start: number of the first.
      columns: (k, n - start) entries from row `start` on, one column a row.
      found: what `judge` said of them.
    """
    self.matrix[start : start + len(columns), start:] = columns
    self._found = np.maximum(self._found, found)

  @property
  def asymmetry(self) -> float:
    """The asymmetry of the columns so far; 0 of a zero matrix."""
    difference, largest = self._found.tolist()
    return difference / largest if largest else 0.0

  def mirror(self) -> None:
    """Copies the triangle to below the diagonal."""
    n = len(self.matrix)
    for i in range(0, n, _TILE):
      for j in range(i, n, _TILE):
        above = self.matrix[i : i + _TILE, j : j + _TILE].T.copy()
        below = self.matrix[j : j + _TILE, i : i + _TILE]
        np.copyto(below, above, where=j > i or np.tri(len(above), k=-1, dtype=bool))
