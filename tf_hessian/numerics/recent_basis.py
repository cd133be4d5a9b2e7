"""The last rows of a recurrence that keeps no basis.

A new vector is made orthogonal to the last two alone, which is the three-term recurrence. Rounding
then brings eigenvalues that have converged back, as further nodes beside the first. Together they
have the weight of one, so that densities stay as they are (Greenbaum, 1989; `quadrature.distinct`).
"""

from __future__ import annotations

import numpy as np

from tf_hessian.numerics.basis import read_only
from tf_hessian.numerics.memory_basis import MemoryBasis

# A row is written where an older one was, so that the last two survive a process that is killed.
ROWS = 3
_PASSES = 2  # which leaves the new vector orthogonal to the last two, to rounding


class RecentBasis(MemoryBasis):
  """The last two rows of a recurrence, in float64.

  It can't give vectors of its span: no Ritz vectors, and no row but the last two.

  Args:
    array: (3, n) float64, C order: memory or a `np.memmap`. It is written to.
    steps: the number of rows that the recurrence may have.

  Raises:
    ValueError: for another shape or dtype.
  """

  complete = False

  def __init__(self, array: np.ndarray, steps: int, /, *, threads: int | None = None) -> None:
    if np.shape(array)[:1] != (ROWS,) or array.dtype != np.float64:
      raise ValueError(
        f"basis: expected float64 of shape ({ROWS}, n), got {array.dtype} of {np.shape(array)}"
      )
    super().__init__(array, threads=threads)
    self.steps = int(steps)

  @property
  def nbytes(self) -> int:
    return self._array.nbytes

  def first_kept(self, count: int, /) -> int:
    return max(count - 2, 0)

  def row(self, j: int, /) -> np.ndarray:
    return read_only(self._array[j % ROWS])

  def store(self, j: int, vector: np.ndarray, /) -> None:
    super().store(j % ROWS, vector)

  def combine(self, coefficients: np.ndarray, /) -> np.ndarray:  # noqa: ARG002
    raise ValueError("basis: none is kept, so there are no Ritz vectors: keep one, or take fewer")

  def overlaps(self, w: np.ndarray, first: int, count: int, /) -> np.ndarray:
    found = super().overlaps(w, first, count)
    return found[::-1] if _turned(first, count) else found

  def subtract(self, w: np.ndarray, part: np.ndarray, first: int, /) -> float:
    turned = _turned(first, first + len(part))
    return super().subtract(w, part[::-1] if turned else part, first)

  def orthogonalize(
    self,
    w: np.ndarray,
    count: int,
    smallest: float,
    /,
    *,
    recent: int | None = None,  # noqa: ARG002 - it is 2
  ) -> tuple[np.ndarray, float]:
    """Makes a vector orthogonal to the last two rows alone.

    Overlaps with others are returned as 0.
    """
    first = self.first_kept(count)
    overlaps, norm = np.zeros(count), np.inf
    for _ in range(_PASSES):
      part = self.overlaps(w, first, count)
      norm = float(np.sqrt(self.subtract(w, part, first)))
      overlaps[first:] += part
      if norm <= smallest:
        break
    return overlaps, norm

  def _stored(self, i, first, count, _):
    """Returns one row or two, in the order of their places."""
    places = sorted(j % ROWS for j in range(first, count))
    step = max(places[-1] - places[0], 1)
    return self._array[places[0] : places[-1] + 1 : step, self._blocks[i]]


def _turned(first, count):
  """Returns whether the later of two rows is in the earlier place."""
  return first % ROWS > (count - 1) % ROWS
