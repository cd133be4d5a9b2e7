"""A Lanczos basis in a file, read and written by blocks."""

from __future__ import annotations

from collections.abc import Sequence
import errno
import os

import numpy as np
from numpy.typing import DTypeLike

from tf_hessian import portable
from tf_hessian.numerics.basis import read_only
from tf_hessian.numerics.basis_files import label, open_file
from tf_hessian.numerics.columns import (
  BLOCK,
  PIECE,
  SMALL,
  ThreadedBasis,
  num_threads,
  piece_columns,
  thread_blocks,
)

# Reads and writes that bypass the page cache are of whole pages. It is part of the file's layout,
# so it is not the page of the system that happens to run.
_PAGE = 4096
_HUGE_PAGE = 2**21  # of x86-64 and ARM alike; others have no use of the alignment


class DiskBasis(ThreadedBasis):
  """A basis in a file.

  Each thread has one block of it in memory at a time. The file holds the blocks one after the
  other, each with its rows one after the other, so that what a pass needs of a block is one piece.
  Where the system can, reads and writes bypass its page cache, which would only be filled with what
  is not read again soon. The process needs `buffer_bytes` beside a few vectors of length n.

  A file that is there already is opened with what it holds, to go on from; whether that is right
  is for the caller to know, such as by checksums of `row`.

  Args:
    path: the file; made, with room for all rows, if needed. None for one in the temporary folder
      that has no name, so that nothing is left of it when the process ends, however that is.
    steps: number of rows.
    n: length of a row.
    dtype: float64 or float32.
    resident_bytes: so much of the file, in whole blocks, is kept in memory too, and not read again.
    threads: the most that work at once; by default as many as exhaust a memory's bandwidth.

  Raises:
    OSError: if the file can't be written or there is no room for it.
  """

  def __init__(
    self,
    path: str | os.PathLike | None,
    steps: int,
    n: int,
    /,
    *,
    dtype: DTypeLike = np.float64,
    resident_bytes: int = 0,
    threads: int | None = None,
  ) -> None:
    self._columns = _block_columns(n)
    super().__init__(steps, n, dtype, _file_blocks(n), threads)
    self.path = None if path is None else os.fspath(path)
    self._row_bytes = self._columns * self.dtype.itemsize
    self._file = open_file(self.path, file_bytes(self.steps, self.n, self.dtype), direct=True)
    count = min(int(resident_bytes) // (self.steps * self._row_bytes), len(self._blocks))
    self._resident = aligned((count, self.steps, self._columns), self.dtype)
    for i, block in enumerate(self._resident):
      self._transfer(portable.read_at, block, i, 0)

  @property
  def resident_bytes(self) -> int:
    """Bytes of the file that are kept in memory."""
    return len(self._resident) * self.steps * self._row_bytes

  def row(self, j: int, /) -> np.ndarray:
    result = np.empty(self.n)

    def task(i, scratch):
      result[self._blocks[i]] = self._stored(i, j, j + 1, scratch)[0]

    self._map(task)
    return read_only(result)

  def store(self, j: int, vector: np.ndarray, /) -> None:
    def task(i, scratch):
      block, stored = self._blocks[i], scratch[0][:1]
      stored[0, : block.stop - block.start] = vector[block]
      if i < len(self._resident):
        self._resident[i][j] = stored[0]
      self._transfer(portable.write_at, stored, i, j)

    self._map(task)

  def flush(self) -> None:
    os.fsync(self._file)

  def close(self) -> None:
    super().close()
    if self._file is not None:
      os.close(self._file)
    self._file, self._resident = None, ()  # type: ignore[assignment]  # it is not used any more

  def _new_scratch(self):
    return (aligned((self.steps, self._columns), self.dtype), *super()._new_scratch())

  def _stored(self, i, first, count, scratch):
    if i < len(self._resident):
      rows = self._resident[i][first:count]
    else:
      rows = scratch[0][: count - first]
      if len(rows):
        self._transfer(portable.read_at, rows, i, first)
    return rows[:, : self._blocks[i].stop - self._blocks[i].start]

  def _transfer(self, call, rows, i, first):
    """Reads or writes rows of block i, an array (j, columns)."""
    view = memoryview(rows).cast("B")
    place, done = (i * self.steps + first) * self._row_bytes, 0
    while done < len(view):
      try:
        moved = call(self._file, [view[done:]], place + done)
      except OSError as e:
        raise OSError(e.errno, f"{label(self.path)}: {os.strerror(e.errno)}") from e
      if not moved:
        raise OSError(errno.EIO, f"{label(self.path)}: the file has become shorter during the run")
      done += moved


def file_bytes(steps: int, n: int, dtype: DTypeLike, /) -> int:
  """Returns the size of a `DiskBasis`'s file: its rows, in whole blocks.

  >>> file_bytes(3, 100, np.float64)  # a block of 1,024 columns
  24576
  """
  columns = _block_columns(n)
  return -(-n // columns) * columns * steps * np.dtype(dtype).itemsize


def buffer_bytes(steps: int, n: int, dtype: DTypeLike, /, *, disk: bool) -> int:
  """Returns the bytes that threads need to read and convert rows.

  Args:
    steps: number of rows.
    n: length of a row.
    dtype: in which rows are stored.
    disk: whether it is a `DiskBasis`; else a `MemoryBasis`.
  """
  size = disk * steps * _block_columns(n) * np.dtype(dtype).itemsize
  if np.dtype(dtype) != np.float64:
    size += 8 * steps * piece_columns(n)
  return min(num_threads(), len(_file_blocks(n) if disk else thread_blocks(n))) * size


def aligned(shape: int | Sequence[int], dtype: DTypeLike, /) -> np.ndarray:
  """Returns an array of zeros that begins at a huge page.

  It is of huge pages, if the system has any. A request to a disk takes a limited number of pieces
  of memory. Small pages make short requests.
  """
  size = int(np.prod(shape)) * np.dtype(dtype).itemsize
  room = np.frombuffer(portable.private_memory(size + _HUGE_PAGE), np.uint8)
  start = -room.ctypes.data % _HUGE_PAGE
  return room[start : start + size].view(dtype).reshape(shape)


def _file_blocks(n):
  columns = _block_columns(n)
  return [slice(start, min(start + columns, n)) for start in range(0, n, columns)]


def _block_columns(n):
  """Returns the columns of a file's blocks: whole pages and pieces."""
  blocks = -(-n // BLOCK)
  unit = PIECE if n > SMALL else _PAGE // 4
  return -(-n // (blocks * unit)) * unit
