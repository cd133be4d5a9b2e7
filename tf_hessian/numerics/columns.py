"""Sums over columns of bases: threads, blocks, pieces and tiles.

A block is what a thread works on at once, a piece what is added up at once, and a tile what BLAS is
given at once. Pieces are added in the order of their columns, so that neither the number of threads
nor the size of a block changes a bit of a sum. Pieces and tiles do: their sizes are part of the
results.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from concurrent import futures
import itertools
import queue

import numpy as np
from numpy.typing import DTypeLike

from tf_hessian import portable
from tf_hessian.numerics.basis import SummedBasis

# Columns of a piece: 64 KiB of float64, which stay in the cache while they are converted, added up
# and subtracted from.
PIECE = 2**13
# Vectors up to this length are a single piece, which BLAS is given, with its own threads if it has
# several: the price of threads of ours would be more than the sums.
SMALL = 2 * PIECE
# Larger ones are given to it in tiles of as many entries as a piece has columns. OpenBLAS takes up
# to 9215 in the thread that calls; its own threads would wait for each other after each tile.
_TILE_ROWS = 4
_TILE_COLUMNS = PIECE // _TILE_ROWS
# Columns of a block, at most. Reads should be large, from disk and from memory too, where half as
# much again comes in the same time from rows of 512 KiB as from rows of 64.
BLOCK = 8 * PIECE
# Rows that are subtracted from a piece in one call. Of fewer rows a call takes more pieces, since
# each call has its price.
_SUBTRACTED_ROWS = 96
_MAX_THREADS = 4  # that few exhaust a memory's bandwidth


class ThreadedBasis(SummedBasis):
  """A basis of this process. Threads work on blocks of its columns."""

  def __init__(
    self,
    steps: int,
    n: int,
    dtype: DTypeLike,
    blocks: Sequence[slice],
    threads: int | None,
  ) -> None:
    """Makes a basis without rows.

    Args:
      steps: number of rows.
      n: length of a row.
      dtype: float64 or float32.
      blocks: columns of each block, in order.
      threads: the most that work at once; None for `num_threads`.
    """
    super().__init__(steps, n, dtype)
    self._blocks = blocks
    self._whole = self.n <= SMALL  # vectors are a single piece
    self._piece = piece_columns(self.n)
    self._threads = min(threads or num_threads(), len(blocks))
    self._pool: futures.ThreadPoolExecutor | None = None
    self._scratch: queue.SimpleQueue | None = None  # queue of what a thread needs for itself

  @abc.abstractmethod
  def _stored(self, i, first, count, scratch):
    """Returns some rows of block i in `dtype`, (count - first, columns)."""

  def _new_scratch(self):
    """Returns a thread's own memory, ending in room for rows in float64."""
    return (None if self.dtype == np.float64 else np.empty((self.steps, self._piece)),)

  def _map(self, function):
    """Returns function(i, scratch) of each block i, in order."""
    if self._scratch is None:
      self._scratch = queue.SimpleQueue()
      for _ in range(self._threads):
        self._scratch.put(self._new_scratch())
      if self._threads > 1:
        self._pool = futures.ThreadPoolExecutor(self._threads)

    def task(i):
      scratch = self._scratch.get()
      try:
        return function(i, scratch)
      finally:
        self._scratch.put(scratch)

    return list((self._pool.map if self._pool else map)(task, range(len(self._blocks))))

  def _parts(self, i, first, count, scratch, columns=None):
    """Yields (columns, some rows of them as float64) of block i.

    The rows are first .. count - 1. They are so many columns at a time, all by default, or a piece
    of rows that have to be converted.
    """
    stored, converted = self._stored(i, first, count, scratch), scratch[-1]
    columns = columns or stored.shape[1]
    if converted is not None:
      columns = self._piece
    for start in range(0, stored.shape[1], columns):
      part = stored[:, start : start + columns]
      if converted is not None:
        rows = converted[: len(part), : part.shape[1]]
        np.copyto(rows, part)
        part = rows
      begin = self._blocks[i].start + start
      yield slice(begin, begin + part.shape[1]), part

  def overlaps(self, w: np.ndarray, first: int, count: int, /) -> np.ndarray:
    def task(i, scratch):
      parts = self._parts(i, first, count, scratch)
      if self._whole:  # np.dot, not @, which keeps other draws' threads from working
        return [[np.dot(rows, w)] for _, rows in parts]
      return [times(rows, w[columns]) for columns, rows in parts]

    result = np.zeros(count - first)
    for sums in self._map(task):
      for piece in itertools.chain.from_iterable(sums):  # by columns, whatever the blocks
        result += piece
    return result

  def subtract(self, w: np.ndarray, part: np.ndarray, first: int, /) -> float:
    def task(i, scratch):
      at_once = self._piece * max(1, _SUBTRACTED_ROWS // max(1, len(part)))
      for columns, rows in self._parts(i, first, first + len(part), scratch, at_once):
        if self._whole:
          np.subtract(w, np.dot(part, rows), out=w)
        else:
          subtract_times(w[columns], part, rows)
      block = self._blocks[i]
      starts = range(block.start, block.stop, self._piece)
      return [x @ x for x in (w[s : min(s + self._piece, block.stop)] for s in starts)]

    return sum(square for squares in self._map(task) for square in squares)

  def combine(self, coefficients: np.ndarray, /) -> np.ndarray:
    result = np.empty((len(coefficients), self.n))

    def task(i, scratch):
      for columns, rows in self._parts(i, 0, coefficients.shape[1], scratch, self._piece):
        result[:, columns] = coefficients @ rows

    self._map(task)
    return result

  def close(self) -> None:
    if self._pool is not None:
      self._pool.shutdown()
    self._pool = self._scratch = None


def num_threads() -> int:
  """Returns how many threads work on a basis.

  They are two at least, so that one can wait for the disk.
  """
  return max(2, min(_MAX_THREADS, portable.cores()))


def piece_columns(n: int, /) -> int:
  """Returns the columns of a piece of vectors of length n."""
  return n if n <= SMALL else PIECE


def thread_blocks(n: int, threads: int | None = None, /) -> list[slice]:
  """Returns the columns of blocks in memory.

  They are whole pieces, and about as many for each thread.

  Args:
    n: number of columns.
    threads: that share them; None for `num_threads`.

  >>> thread_blocks(70_000, 2)
  [slice(0, 32768, None), slice(32768, 70000, None)]
  """
  if n <= SMALL:
    return [slice(0, n)]
  threads, pieces = threads or num_threads(), -(-n // PIECE)
  blocks = min(threads * -(-n // (threads * BLOCK)), pieces)
  ends = [PIECE * (pieces * i // blocks) for i in range(blocks)] + [n]
  return [slice(*pair) for pair in itertools.pairwise(ends)]


def times(rows: np.ndarray, x: np.ndarray, /) -> np.ndarray:
  """Returns rows (j, c) times x (c,), by pieces: (pieces, j)."""
  whole = len(x) // _TILE_COLUMNS * _TILE_COLUMNS
  result = np.zeros((-(-len(x) // PIECE), len(rows)))
  result[-1] = np.vecdot(rows[:, whole:], x[whole:])
  starts = range(0, whole // _TILE_COLUMNS, PIECE // _TILE_COLUMNS)
  x = x[:whole].reshape(-1, _TILE_COLUMNS, 1)
  for which, tiles in _tiles(rows):
    sums = np.add.reduceat(np.matmul(tiles, x)[..., 0], starts, axis=1)
    result[: len(starts), which] += sums.transpose(1, 0, 2).reshape(len(starts), -1)
  return result


def subtract_times(x: np.ndarray, part: np.ndarray, rows: np.ndarray, /) -> None:
  """Subtracts part (j,) times rows (j, c) from x (c,), in place."""
  whole = len(x) // _TILE_COLUMNS * _TILE_COLUMNS
  x[whole:] -= np.einsum("i,ij->j", part, rows[:, whole:])
  for which, tiles in _tiles(rows):
    products = np.matmul(part[which].reshape(-1, 1, 1, tiles.shape[2]), tiles)
    x[:whole] -= products.sum(axis=0).ravel()


def _tiles(rows):
  """Yields (which, tiles (r, c, height, _TILE_COLUMNS)) of whole tiles."""
  count, columns = rows.shape
  full = count // _TILE_ROWS * _TILE_ROWS
  wide = columns // _TILE_COLUMNS
  for which, height in ((slice(full), _TILE_ROWS), (slice(full, count), count - full)):
    part = rows[which, : wide * _TILE_COLUMNS]
    if part.size:
      yield which, part.reshape(-1, height, wide, _TILE_COLUMNS).transpose(0, 2, 1, 3)
