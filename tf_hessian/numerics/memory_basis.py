"""A Lanczos basis in an array: memory, or a mapped file."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import DTypeLike

from tf_hessian.numerics.basis import Basis, read_only
from tf_hessian.numerics.basis_files import open_file
from tf_hessian.numerics.columns import ThreadedBasis, thread_blocks


class MemoryBasis(ThreadedBasis):
  """A basis in an array of the caller: memory, or a `np.memmap`.

  Args:
    array: (steps, n) float64 or float32, C order. It is written to.
    threads: the most that work at once; by default as many as exhaust a memory's bandwidth.

  Raises:
    ValueError: for another shape or dtype.
  """

  def __init__(self, array: np.ndarray, /, *, threads: int | None = None) -> None:
    if np.ndim(array) != 2:
      raise ValueError(f"basis: expected shape (steps, n), got {np.shape(array)}")
    steps, n = array.shape
    super().__init__(steps, n, array.dtype, thread_blocks(n, threads), threads)
    self._given = array
    self._array = np.asarray(array)

  def row(self, j: int, /) -> np.ndarray:
    return read_only(self._array[j].astype(np.float64, copy=False))

  def store(self, j: int, vector: np.ndarray, /) -> None:
    def task(i, _):
      self._array[j, self._blocks[i]] = vector[self._blocks[i]]

    self._map(task)  # where memory is new, systems take long to give it

  def flush(self) -> None:
    if isinstance(self._given, np.memmap):
      self._given.flush()

  def _stored(self, i, first, count, _):
    return self._array[first:count, self._blocks[i]]


def mapped(
  path: str | os.PathLike, steps: int, n: int, dtype: DTypeLike = np.float64, /
) -> np.memmap:
  """Returns the array of a file that is mapped into memory.

  It is one for a `MemoryBasis`.

  Args:
    path: the file; made if needed, or opened with what it holds.
    steps: number of rows.
    n: length of a row.
    dtype: float64, the default, or float32.

  Raises:
    OSError: if the file can't be written or there is no room for it.
  """
  file = open_file(path, steps * n * np.dtype(dtype).itemsize, direct=False)
  with os.fdopen(file, "r+b") as opened:
    return np.memmap(opened, dtype, mode="r+", shape=(steps, n))


def as_basis(basis: Basis | np.ndarray, /) -> Basis:
  """Returns a `Basis`, that of a plain array if one is given.

  Raises:
    TypeError: if an array is not float64: rounding of vectors has to be asked for.
  """
  if isinstance(basis, Basis):
    return basis
  if basis.dtype != np.float64:
    raise TypeError(f"basis: expected float64, got {basis.dtype}")
  return MemoryBasis(basis)


def orthogonalize(w: np.ndarray, rows: np.ndarray, smallest: float, /) -> tuple[np.ndarray, float]:
  """Makes a vector orthogonal to all rows of a plain array.

  Args:
    w: (n,) float64, changed in place to what is left of it.
    rows: (j, n) float64, orthonormal.
    smallest: length below which what is left is rounding error.

  Returns:
    (overlaps (j,) with the rows, length of what is left).

  >>> w = np.array([3.0, 4.0])
  >>> overlaps, length = orthogonalize(w, np.array([[1.0, 0.0]]), 0.0)
  >>> overlaps.tolist(), length, w.tolist()
  ([3.0], 4.0, [0.0, 4.0])
  """
  if not len(rows):
    return np.zeros(0), float(np.linalg.norm(w))
  return as_basis(rows).orthogonalize(w, len(rows), smallest)
