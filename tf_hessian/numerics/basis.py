"""The contract of Lanczos bases, and their passes of Gram-Schmidt.

Arithmetic is float64 throughout. A basis in float32 takes half the bytes. Each vector is rounded
once, when it is stored, and H is multiplied by the rounded vector. That disturbs the recurrence by
at most 2^-24 |H| a step, less than products in float32 do. Rows are off unit length and off being
orthogonal by up to 2^-24, and by about 2e-7 / sqrt(n) if their energy is spread over all entries.
docs/design/basis.md has the measurements.

Sums over columns are made of the same pieces in the same order whatever the kind, the number of
threads and the place. So a basis in memory and one on disk of the same dtype give bitwise the same
recurrence.
"""

from __future__ import annotations

import abc
import zlib

import numpy as np
from numpy.typing import DTypeLike

from tf_hessian.numerics import checks

# A further pass is needed only when the last has still removed half of the vector, that is, when
# the vector is all but contained in the space; three passes more than suffice then.
_MAX_PASSES = 5

_DTYPES = (np.dtype(np.float64), np.dtype(np.float32))


class Basis(abc.ABC):
  """The rows q_0, q_1, ... of a recurrence, each of length n.

  Attributes:
    steps: number of rows there is room for.
    n: length of a row.
    dtype: in which rows are stored, float64 or float32.
    complete: whether all rows are kept, and new ones made orthogonal to all of them.
  """

  complete = True

  def __init__(self, steps: int, n: int, dtype: DTypeLike) -> None:
    checks.check_count("steps", steps)
    checks.check_count("n", n)
    self.steps, self.n, self.dtype = int(steps), int(n), np.dtype(dtype)
    checks.check_choice("dtype", self.dtype, _DTYPES)

  @property
  def nbytes(self) -> int:
    """Bytes of the rows."""
    return self.steps * self.n * self.dtype.itemsize

  def first_kept(self, count: int, /) -> int:  # noqa: ARG002 - most keep all
    """Returns the first of `count` rows that is still there."""
    return 0

  @abc.abstractmethod
  def row(self, j: int, /) -> np.ndarray:
    """Returns row j as stored, (n,) float64, read-only."""

  @abc.abstractmethod
  def store(self, j: int, vector: np.ndarray, /) -> None:
    """Stores a vector (n,) float64 as row j, rounded to `dtype`."""

  @abc.abstractmethod
  def combine(self, coefficients: np.ndarray, /) -> np.ndarray:
    """Returns coefficients (k, j) times the first j rows, (k, n) float64."""

  @abc.abstractmethod
  def orthogonalize(
    self, w: np.ndarray, count: int, smallest: float, /, *, recent: int | None = None
  ) -> tuple[np.ndarray, float]:
    """Makes a vector orthogonal to the first rows, by classical Gram-Schmidt.

    A pass is trusted if it leaves more than half of what it was given; otherwise another follows.
    The first pass is never trusted. With `recent`, it takes the last rows alone: the product with
    the last row of a Lanczos recurrence lies in the span of the last two and of the new direction,
    up to rounding and to the asymmetry of products. The pass over all rows that follows is judged
    as ever. So rows are read twice in a step, once for the overlaps and once to subtract, and not
    four times.

    Args:
      w: (n,) float64, changed in place to what is left of it, for `extend`; a basis that is
        distributed over processes keeps that there.
      count: number of rows in use, which are orthonormal.
      smallest: length below which what is left is rounding error.
      recent: number of rows of the first pass; all if None.

    Returns:
      (overlaps (count,) with the rows, length of what is left).
    """

  def extend(self, j: int, w: np.ndarray, length: float, /) -> None:
    """Stores what `orthogonalize` has left, divided by its length, as row j.

    Args:
      j: number of the row.
      w: the vector that `orthogonalize` was given last, changed again.
      length: of what `orthogonalize` has left of it.
    """
    self.store(j, np.divide(w, length, out=w))

  def checksum(self, j: int, /) -> int:
    """Returns a checksum of row j as stored, of 32 bits."""
    return zlib.crc32(self.row(j).data)

  def flush(self) -> None:  # noqa: B027 - memory has nothing to do
    """Waits until the rows that were stored on disk are safe there."""

  def close(self) -> None:  # noqa: B027 - nor has a plain array
    """Gives back files and threads; the basis can't be used afterwards."""

  def discard(self) -> None:
    """Closes a basis for good; files of other processes are removed."""
    self.close()


class SummedBasis(Basis):
  """A basis whose sums over columns are two methods, `overlaps` and `subtract`.

  So columns may be spread over processes, which reduce what these two return.
  """

  @abc.abstractmethod
  def overlaps(self, w: np.ndarray, first: int, count: int, /) -> np.ndarray:
    """Returns the inner products of rows with a vector.

    Args:
      w: (n,) float64.
      first: number of the first row.
      count: number of the row after the last.

    Returns:
      (count - first,) float64.
    """

  @abc.abstractmethod
  def subtract(self, w: np.ndarray, part: np.ndarray, first: int, /) -> float:
    """Subtracts multiples of rows from a vector in place.

    Args:
      w: (n,) float64, changed.
      part: (j,) float64, the factors.
      first: number of the first row.

    Returns:
      w' w, of what is left.
    """

  def orthogonalize(
    self, w: np.ndarray, count: int, smallest: float, /, *, recent: int | None = None
  ) -> tuple[np.ndarray, float]:
    overlaps, norm = np.zeros(count), np.inf  # so that the first pass is not trusted
    first = 0 if recent is None else max(count - recent, 0)
    for _ in range(_MAX_PASSES):
      part = self.overlaps(w, first, count)
      before, norm = norm, float(np.sqrt(self.subtract(w, part, first)))
      overlaps[first:] += part
      if norm <= smallest or norm > 0.5 * before:
        break
      first = 0
    return overlaps, norm


def read_only(vector: np.ndarray, /) -> np.ndarray:
  """Returns a view of a row that products can't write to.

  That would corrupt the basis.

  >>> read_only(np.zeros(2)).flags.writeable
  False
  """
  view = vector.view()
  view.flags.writeable = False
  return view
