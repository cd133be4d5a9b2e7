"""Where the vectors of a Lanczos recurrence live: in memory or on disk, in float64 or float32.

Arithmetic is float64 throughout. A basis in float32 takes half the bytes. Each vector is rounded
once, when it is stored, and H is multiplied by the rounded vector. That disturbs the recurrence by
at most 2^-24 |H| a step, less than products in float32 do. Rows are off unit length and off being
orthogonal by up to 2^-24, and by about 2e-7 / sqrt(n) if their energy is spread over all entries.
docs/design/basis.md has the measurements.

Sums over columns are made of the same pieces in the same order whatever the kind, the number of
threads and the place. So a basis in memory and one on disk of the same dtype give bitwise the same
recurrence.
"""

import abc
from concurrent import futures
import contextlib
import errno
import fcntl
import itertools
import mmap
import os
import queue
import stat
import tempfile
import zlib

import numpy as np

from tf_hessian.numerics import checks

# Columns of a piece of a sum over columns, and of what is subtracted or converted at once, which so
# stays in the cache. Pieces are added in order. Vectors up to the second length are one piece,
# which BLAS is given, with its own threads if it has several.
_PIECE = 2**13
SMALL = 2**14
# Larger ones are given to it in tiles, from threads of this module. OpenBLAS takes up to 9215
# entries in the thread that calls; its own threads would wait for each other after each tile.
_TILE_ROWS = 4
_TILE_COLUMNS = 2**11
# Columns of what a thread works on at once. Reads should be large, from disk and from memory too,
# where half as much again comes in the same time from rows of 512 KiB as from rows of 64.
_BLOCK = 2**16
_SUBTRACTED_ROWS = 96  # that are subtracted from a piece at once
_PAGE = 4096  # reads and writes that bypass the page cache are of whole pages
_HUGE_PAGE = 2**21
_MAX_THREADS = 4  # that few exhaust a memory's bandwidth

# A further pass is needed only when the last has still removed half of the vector, that is, when
# the vector is all but contained in the space; three passes more than suffice then.
_MAX_PASSES = 5

_DTYPES = (np.dtype(np.float64), np.dtype(np.float32))


class Basis(abc.ABC):
  """The rows q_0 .. q_{steps - 1} of a recurrence, each of length n.

  Attributes:
    steps: number of rows there is room for.
    n: length of a row.
    dtype: in which rows are stored, float64 or float32.
  """

  def __init__(self, steps, n, dtype):
    checks.check_count("steps", steps)
    checks.check_count("n", n)
    self.steps, self.n, self.dtype = int(steps), int(n), np.dtype(dtype)
    checks.check_choice("dtype", self.dtype, _DTYPES)

  @property
  def nbytes(self):
    """Bytes of the rows."""
    return self.steps * self.n * self.dtype.itemsize

  @abc.abstractmethod
  def row(self, j, /):
    """Returns row j as stored, (n,) float64, read-only."""

  @abc.abstractmethod
  def store(self, j, vector, /):
    """Stores a vector (n,) float64 as row j, rounded to `dtype`."""

  @abc.abstractmethod
  def combine(self, coefficients, /):
    """Returns coefficients (k, j) times the first j rows, (k, n) float64."""

  @abc.abstractmethod
  def orthogonalize(self, w, count, smallest, /, *, recent=None):
    """Makes a vector orthogonal to the first rows, in place, by classical Gram-Schmidt.

    A pass is trusted if it leaves more than half of what it was given; otherwise another follows.
    The first pass is never trusted. With `recent`, it takes the last rows alone: the product with
    the last row of a Lanczos recurrence lies in the span of the last two and of the new direction,
    up to rounding and to the asymmetry of products. The pass over all rows that follows is judged
    as ever. So rows are read twice in a step, once for the overlaps and once to subtract, and not
    four times.

    Args:
      w: (n,) float64, changed; what is left of it, for `extend`, though a basis that is spread over
        processes leaves that to them.
      count: number of rows in use, which are orthonormal.
      smallest: length below which what is left is rounding error.
      recent: number of rows of the first pass; all if None.

    Returns:
      (overlaps (count,) with the rows, length of what is left).
    """

  def extend(self, j, w, length, /):
    """Stores the vector that `orthogonalize` was given last, divided by a length, as row j.

    Args:
      j: number of the row.
      w: the vector, changed.
      length: of what `orthogonalize` has left of it.
    """
    self.store(j, np.divide(w, length, out=w))

  def checksum(self, j, /):
    """Returns a checksum of row j as stored: an int of 32 bits."""
    return zlib.crc32(self.row(j))

  def flush(self):  # noqa: B027 - memory has nothing to do
    """Waits until what is stored on disk is safe there."""

  def close(self):  # noqa: B027 - nor has a plain array
    """Gives back files and threads; the basis can't be used afterwards."""

  def discard(self):
    """Closes a basis that is not to be gone on with; files of other processes are removed."""
    self.close()


class SummedBasis(Basis):
  """A basis of which a kind does all that runs over columns, in `_overlaps` and `_subtract`.

  So columns may be spread over processes, which reduce what these two return.
  """

  @abc.abstractmethod
  def _overlaps(self, w, first, count):
    """Returns the inner products of rows first .. count - 1 with w: (count - first,) float64."""

  @abc.abstractmethod
  def _subtract(self, w, part, first):
    """Subtracts part (j,) times rows first .. first + j - 1 from w, in place; returns w' w."""

  def orthogonalize(self, w, count, smallest, /, *, recent=None):
    overlaps, norm = np.zeros(count), np.inf  # so that the first pass is not trusted
    first = 0 if recent is None else max(count - recent, 0)
    for _ in range(_MAX_PASSES):
      part = self._overlaps(w, first, count)
      before, norm = norm, float(np.sqrt(self._subtract(w, part, first)))
      overlaps[first:] += part
      if norm <= smallest or norm > 0.5 * before:
        break
      first = 0
    return overlaps, norm


class _LocalBasis(SummedBasis):
  """A basis of this process. Threads work on blocks of its columns."""

  def __init__(self, steps, n, dtype, spans):
    super().__init__(steps, n, dtype)
    self._spans = spans  # of columns, one for each block
    self._whole = self.n <= SMALL  # vectors are a single piece
    self._piece = self.n if self._whole else _PIECE
    self._pool = None
    self._scratch = None  # queue of what a thread needs for itself

  @abc.abstractmethod
  def _stored(self, i, first, count, scratch):
    """Returns rows first .. count - 1 of block i in `dtype`, (count - first, columns)."""

  def _new_scratch(self):
    """Returns what a thread needs for itself, ending in room for rows in float64."""
    if self.dtype == np.float64:
      return (None,)
    return (np.empty((self.steps, self._piece)),)

  def _map(self, function):
    """Returns function(i, scratch) of each block i, in order."""
    if self._scratch is None:
      threads = min(num_threads(), len(self._spans))
      self._scratch = queue.SimpleQueue()
      for _ in range(threads):
        self._scratch.put(self._new_scratch())
      if threads > 1:
        self._pool = futures.ThreadPoolExecutor(threads)

    def task(i):
      scratch = self._scratch.get()
      try:
        return function(i, scratch)
      finally:
        self._scratch.put(scratch)

    return list((self._pool.map if self._pool else map)(task, range(len(self._spans))))

  def _parts(self, i, first, count, scratch, columns=None):
    """Yields (columns, rows first .. count - 1 of them as float64) of block i.

    They are so many columns at a time, all by default, or a piece of rows that have to be
    converted.
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
      begin = self._spans[i].start + start
      yield slice(begin, begin + part.shape[1]), part

  def _overlaps(self, w, first, count):
    def task(i, scratch):
      parts = self._parts(i, first, count, scratch)
      if self._whole:
        return [[rows @ w] for _, rows in parts]
      return [_times(rows, w[columns]) for columns, rows in parts]

    result = np.zeros(count - first)
    for sums in self._map(task):
      for piece in itertools.chain.from_iterable(sums):  # by columns, whatever the blocks
        result += piece
    return result

  def _subtract(self, w, part, first):
    def task(i, scratch):
      # Of few rows more columns at once, since each call has its price; sums stay in the cache.
      at_once = self._piece * max(1, _SUBTRACTED_ROWS // max(1, len(part)))
      for columns, rows in self._parts(i, first, first + len(part), scratch, at_once):
        if self._whole:
          np.subtract(w, part @ rows, out=w)
        else:
          _subtract_times(w[columns], part, rows)
      span = self._spans[i]
      starts = range(span.start, span.stop, self._piece)
      return [x @ x for x in (w[s : min(s + self._piece, span.stop)] for s in starts)]

    return sum(square for squares in self._map(task) for square in squares)

  def combine(self, coefficients, /):
    result = np.empty((len(coefficients), self.n))

    def task(i, scratch):
      for columns, rows in self._parts(i, 0, coefficients.shape[1], scratch, self._piece):
        result[:, columns] = coefficients @ rows

    self._map(task)
    return result

  def close(self):
    if self._pool is not None:
      self._pool.shutdown()
    self._pool = self._scratch = None


class MemoryBasis(_LocalBasis):
  """A basis in an array of the caller: memory, or a `np.memmap`.

  Args:
    array: (steps, n) float64 or float32, C order. It is written to.

  Raises:
    ValueError: for another shape or dtype.
  """

  def __init__(self, array, /):
    if np.ndim(array) != 2:
      raise ValueError(f"basis: expected shape (steps, n), got {np.shape(array)}")
    super().__init__(*array.shape, array.dtype, _memory_spans(np.shape(array)[1]))
    self._given = array
    self._array = np.asarray(array)

  def row(self, j, /):
    return _read_only(self._array[j].astype(np.float64, copy=False))

  def store(self, j, vector, /):
    def task(i, _):
      self._array[j, self._spans[i]] = vector[self._spans[i]]

    self._map(task)  # where memory is new, systems take long to give it

  def flush(self):
    if isinstance(self._given, np.memmap):
      self._given.flush()

  def _stored(self, i, first, count, _):
    return self._array[first:count, self._spans[i]]


class DiskBasis(_LocalBasis):
  """A basis in a file, of which each thread has one block in memory at a time.

  The file holds the blocks one after the other, each with its rows one after the other, so that
  what a pass needs of a block is one piece. Where the system can, reads and writes bypass its page
  cache, which would only be filled with what is not read again soon. The process needs
  `buffer_bytes` beside a few vectors of length n.

  A file that is there already is opened with what it holds, to go on from; whether that is right
  is for the caller to know, such as by checksums of `row`.

  Args:
    path: the file; made, with room for all rows, if needed. None for one in the temporary folder
      that has no name, so that nothing is left of it when the process ends, however that is.
    steps: number of rows.
    n: length of a row.
    dtype: float64 or float32.
    resident_bytes: so much of the file, in whole blocks, is kept in memory too, and not read again.

  Raises:
    OSError: if the file can't be written or there is no room for it.
  """

  def __init__(self, path, steps, n, /, *, dtype=np.float64, resident_bytes=0):
    self._columns = _disk_columns(n)
    super().__init__(steps, n, dtype, _disk_spans(n))
    self.path = None if path is None else os.fspath(path)
    self._row_bytes = self._columns * self.dtype.itemsize
    self._file = _open(self.path, file_bytes(self.steps, self.n, self.dtype))
    count = min(int(resident_bytes) // (self.steps * self._row_bytes), len(self._spans))
    self._resident = aligned((count, self.steps, self._columns), self.dtype)
    for i, block in enumerate(self._resident):
      self._transfer(os.preadv, block, i, 0)

  @property
  def resident_bytes(self):
    """Bytes of the file that are kept in memory."""
    return len(self._resident) * self.steps * self._row_bytes

  def row(self, j, /):
    result = np.empty(self.n)

    def task(i, scratch):
      span = self._spans[i]
      result[span] = self._stored(i, j, j + 1, scratch)[0]

    self._map(task)
    return _read_only(result)

  def store(self, j, vector, /):
    def task(i, scratch):
      span, stored = self._spans[i], scratch[0][:1]
      stored[0, : span.stop - span.start] = vector[span]
      if i < len(self._resident):
        self._resident[i][j] = stored[0]
      self._transfer(os.pwritev, stored, i, j)

    self._map(task)

  def flush(self):
    os.fsync(self._file)

  def close(self):
    super().close()
    if self._file is not None:
      os.close(self._file)
    self._file, self._resident = None, ()

  def _new_scratch(self):
    return (aligned((self.steps, self._columns), self.dtype), *super()._new_scratch())

  def _stored(self, i, first, count, scratch):
    if i < len(self._resident):
      rows = self._resident[i][first:count]
    else:
      rows = scratch[0][: count - first]
      if len(rows):
        self._transfer(os.preadv, rows, i, first)
    return rows[:, : self._spans[i].stop - self._spans[i].start]

  def _transfer(self, call, rows, i, first):
    """Reads or writes rows first .. first + j - 1 of block i, those of an array (j, columns)."""
    view = memoryview(rows).cast("B")
    place, done = (i * self.steps + first) * self._row_bytes, 0
    while done < len(view):
      try:
        moved = call(self._file, [view[done:]], place + done)
      except OSError as e:
        raise OSError(e.errno, f"{_name(self.path)}: {os.strerror(e.errno)}") from e
      if not moved:
        raise OSError(errno.EIO, f"{_name(self.path)}: the file has become shorter during the run")
      done += moved


def mapped(path, steps, n, dtype, /):
  """Returns a `MemoryBasis` in a file, which is made if needed, mapped into memory.

  Raises:
    OSError: if the file can't be written or there is no room for it.
  """
  file = _open(path, steps * n * np.dtype(dtype).itemsize, direct=False)
  with os.fdopen(file, "r+b") as opened:
    return MemoryBasis(np.memmap(opened, dtype, mode="r+", shape=(steps, n)))


def as_basis(basis, /):
  """Returns a `Basis`, that of a plain array if one is given.

  Raises:
    TypeError: if an array is not float64: rounding of vectors has to be asked for.
  """
  if isinstance(basis, Basis):
    return basis
  if basis.dtype != np.float64:
    raise TypeError(f"basis: expected float64, got {basis.dtype}")
  return MemoryBasis(basis)


def file_bytes(steps, n, dtype, /):
  """Returns the size of the file of a `DiskBasis`: its rows, in whole blocks."""
  columns = _disk_columns(n)
  return -(-n // columns) * columns * steps * np.dtype(dtype).itemsize


def make_room(path, size, /):
  """Makes a file of so many bytes, or lets one that is there grow to them.

  Raises:
    OSError: if the file can't be written or there is no room for it.
  """
  os.close(_open(path, size))


def buffer_bytes(steps, n, dtype, /, *, disk):
  """Returns what a basis needs in memory for its threads to read and convert rows."""
  size = disk * steps * _disk_columns(n) * np.dtype(dtype).itemsize
  if np.dtype(dtype) != np.float64:
    size += 8 * steps * (n if n <= SMALL else _PIECE)
  spans = _disk_spans(n) if disk else _memory_spans(n)
  return min(num_threads(), len(spans)) * size


def aligned(shape, dtype, /):
  """Returns an array of zeros that begins at a huge page, and is of such where there are any.

  A request to a disk takes a limited number of pieces of memory. Small pages make short requests.
  """
  size = int(np.prod(shape)) * np.dtype(dtype).itemsize
  private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}  # what is shared has small pages
  memory = mmap.mmap(-1, size + _HUGE_PAGE, **private)
  if hasattr(mmap, "MADV_HUGEPAGE"):
    with contextlib.suppress(OSError):  # a system without them
      memory.madvise(mmap.MADV_HUGEPAGE)
  room = np.frombuffer(memory, np.uint8)
  start = -room.ctypes.data % _HUGE_PAGE
  return room[start : start + size].view(dtype).reshape(shape)


def num_threads():
  """Returns how many threads work on a basis: two at least, so that one can wait for the disk."""
  return max(2, min(_MAX_THREADS, len(os.sched_getaffinity(0))))


def orthogonalize(w, basis, smallest, /):
  """Makes a vector orthogonal to all rows of a plain array; see `Basis.orthogonalize`.

  Args:
    w: (n,) float64, changed.
    basis: (j, n) float64, orthonormal rows.
    smallest: length below which what is left is rounding error.

  Returns:
    (overlaps (j,) with the rows, length of what is left).
  """
  if not len(basis):
    return np.zeros(0), float(np.linalg.norm(w))
  return as_basis(basis).orthogonalize(w, len(basis), smallest)


def _tiles(rows):
  """Yields (which, tiles (r, c, height, _TILE_COLUMNS)) of the columns that fill whole tiles."""
  count, columns = rows.shape
  full = count // _TILE_ROWS * _TILE_ROWS
  wide = columns // _TILE_COLUMNS
  for which, height in ((slice(full), _TILE_ROWS), (slice(full, count), count - full)):
    part = rows[which, : wide * _TILE_COLUMNS]
    if part.size:
      yield which, part.reshape(-1, height, wide, _TILE_COLUMNS).transpose(0, 2, 1, 3)


def _times(rows, x):
  """Returns rows (j, c) times x (c,), each sum in pieces of columns: (pieces, j)."""
  whole = len(x) // _TILE_COLUMNS * _TILE_COLUMNS
  result = np.zeros((-(-len(x) // _PIECE), len(rows)))
  result[-1] = np.vecdot(rows[:, whole:], x[whole:])
  starts = range(0, whole // _TILE_COLUMNS, _PIECE // _TILE_COLUMNS)
  x = x[:whole].reshape(-1, _TILE_COLUMNS, 1)
  for which, tiles in _tiles(rows):
    sums = np.add.reduceat(np.matmul(tiles, x)[..., 0], starts, axis=1)
    result[: len(starts), which] += sums.transpose(1, 0, 2).reshape(len(starts), -1)
  return result


def _subtract_times(x, part, rows):
  """Subtracts part (j,) times rows (j, c) from x (c,) in place, in tiles."""
  whole = len(x) // _TILE_COLUMNS * _TILE_COLUMNS
  x[whole:] -= np.einsum("i,ij->j", part, rows[:, whole:])
  for which, tiles in _tiles(rows):
    products = np.matmul(part[which].reshape(-1, 1, 1, tiles.shape[2]), tiles)
    x[:whole] -= products.sum(axis=0).ravel()


def _memory_spans(n):
  """Returns the columns of blocks in memory: whole pieces, and about as many for each thread."""
  if n <= SMALL:
    return [slice(0, n)]
  threads, pieces = num_threads(), -(-n // _PIECE)
  blocks = min(threads * -(-n // (threads * _BLOCK)), pieces)
  ends = [_PIECE * (pieces * i // blocks) for i in range(blocks)] + [n]
  return [slice(*pair) for pair in itertools.pairwise(ends)]


def _disk_spans(n):
  columns = _disk_columns(n)
  return [slice(start, min(start + columns, n)) for start in range(0, n, columns)]


def _disk_columns(n):
  """Returns the columns of a block in a file: whole pages of either dtype, and whole pieces."""
  blocks = -(-n // _BLOCK)
  unit = _PIECE if n > SMALL else _PAGE // 4
  return -(-n // (blocks * unit)) * unit


def _read_only(q):
  """Returns a view of a row: a product that writes to its argument would corrupt the basis."""
  view = q.view()
  view.flags.writeable = False
  return view


def _open(path, size, *, direct=True):
  """Returns the descriptor of a file with room for so many bytes; it is never opened by a link.

  Args:
    path: the file, made if needed; None for one without a name.
    size: the bytes.
    direct: bypass the page cache, where the file system can.
  """
  try:
    file = _scratch_file() if path is None else _own_file(path)
    try:
      if direct:
        _bypass_cache(file)
      os.posix_fallocate(file, 0, size)
    except BaseException:
      os.close(file)
      raise
  except OSError as e:
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
      raise OSError(
        e.errno, f"{_name(path)}: no room for the Lanczos basis of {size / 2**30:.3g} GiB"
      ) from e
    raise OSError(e.errno, f"can't write {_name(path)}: {e.strerror}") from e
  return file


def _own_file(path):
  """Returns the descriptor of a file that has no other name by which it is somebody else's."""
  try:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
  except OSError as e:
    if e.errno == errno.ELOOP:
      raise OSError(e.errno, "it is a link; remove it") from e
    raise
  found = os.fstat(file)
  if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
    os.close(file)
    raise OSError(errno.EEXIST, "it is not a file, or has other names; remove it")
  return file


def _scratch_file():
  """Returns the descriptor of a file without a name."""
  with tempfile.TemporaryFile(prefix="tf_hessian-", buffering=0) as file:
    return os.dup(file.fileno())


def _bypass_cache(file):
  if hasattr(os, "O_DIRECT"):
    with contextlib.suppress(OSError):  # this file system can't
      fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_DIRECT)


def _name(path):
  return f"a file in {tempfile.gettempdir()}" if path is None else path
