"""A Lanczos basis whose columns are spread over workers.

Worker r of W holds columns n r / W to n (r + 1) / W of each row, and of the vector that is made
orthogonal to them. Overlaps and squared lengths are sums over columns: each worker adds up its own,
and the workers' sums are added in the workers' order, by all of them alike. So all go through the
same passes of Gram-Schmidt, whose number depends on those sums, without being told.

The chief calls the methods of a `DistributedBasis`; each is announced, and the others join it by
`Shards.join`. What they need of each other goes through a group, an object with

  rank, size             number of this worker, from 0, the chief's; and of all
  announce(text)         on the chief: lets the others call `join` with the numbers in the text
  committed()            a context manager on the chief, while they wait for it in what they joined
  broadcast(array)       returns the chief's array to all; the others pass one of the same shape
  broadcast_bytes(content, rank)
                         returns one worker's bytes to all
  add(array)             returns the sum of all workers' arrays to all; it is exact if at most one
                         of them has another number than zero in each place
  failure(message)       returns the error to raise when a worker can't go on

Nobody is left waiting for a worker that has no room for its part: it says so with its next sum, and
all raise the same error.
"""

import os
import pathlib
import zlib

import numpy as np

from tf_hessian.numerics.basis import Basis, SummedBasis
from tf_hessian.numerics.memory_basis import MemoryBasis, mapped

# What is announced, by number.
_OPERATIONS = (
  "open",
  "store",
  "row",
  "combine",
  "orthogonalize",
  "extend",
  "checksum",
  "flush",
  "discard",
)


class DistributedBasis(Basis):
  """A basis in float64 that is spread over workers; the chief's view of it.

  The chief holds its own columns, as each worker does, and at times a single vector of length n.

  Args:
    shards: the chief's `Shards`; the others must `join` what is announced.
    steps: number of rows.
    n: length of a row.
    path: files of the workers' parts, to which `_RANK_of_SIZE` is added; opened with what they
      hold. None for memory.

  Attributes:
    number: what all workers know it by.

  Raises:
    ValueError: if there are more workers than columns.
    Exception: `group.failure`, on all workers, if one has no room for its part.
  """

  def __init__(self, shards, steps, n, path=None, /):
    super().__init__(steps, n, np.float64)
    size = shards.group.size
    if self.n < size:
      raise ValueError(f"basis: {self.n} columns can't be spread over {size} workers")
    self._shards = shards
    self.number = shards.lead_open(self.steps, self.n, path)

  def row(self, j, /):
    row = self._lead("row", j)
    row.flags.writeable = False
    return row

  def store(self, j, vector, /):
    self._lead("store", j, data=vector)

  def combine(self, coefficients, /):
    return self._lead("combine", *np.shape(coefficients), data=coefficients)

  def orthogonalize(self, w, count, smallest, /, *, recent=None):
    """Does what `Basis.orthogonalize` does, but leaves `w`: what is left of it is spread.

    If it is the product that the workers kept their parts of, it does not travel.
    """
    recent = count if recent is None else recent
    if self._shards.has(self.number, w):
      return self._lead("orthogonalize", count, recent, to_bits(smallest), 1)
    return self._lead("orthogonalize", count, recent, to_bits(smallest), 0, data=w)

  def extend(self, j, w, length, /):  # noqa: ARG002 - the workers have what is left of it
    self._lead("extend", j, to_bits(length))

  def checksum(self, j, /):
    return self._lead("checksum", j)

  def flush(self):
    self._lead("flush")

  def close(self):
    """Gives back the chief's part; the others keep theirs until they no longer follow."""
    self._shards.close(self.number)

  def discard(self):
    self._lead("discard")

  def _lead(self, operation, *numbers, data=None):
    return self._shards.lead(operation, self.number, *numbers, data=data)


class Shards:
  """What one worker has of spread bases, and what it does with it together with the others.

  Attributes:
    group: what connects the workers; see the module.
  """

  def __init__(self, group, /):
    self.group = group
    self._shards = {}  # number of a basis -> _Shard
    self._next = 0

  def lead_open(self, steps, n, path):
    """On the chief: makes a basis on all workers, and returns its number."""
    number, self._next = self._next, self._next + 1
    content = b"" if path is None else os.fsencode(path)
    self.lead("open", number, steps, n, data=content)
    return number

  def lead(self, operation, number, *numbers, data=None):
    """On the chief: announces an operation on basis `number`, and returns its result."""
    words = [_OPERATIONS.index(operation), number, *map(int, numbers)]
    self.group.announce(" ".join(map(str, ("basis", *words))))
    with self.group.committed():
      return getattr(self, f"_{operation}")(number, *numbers, data=data)

  def join(self, operation, /, *numbers):
    """On the others: takes part in what the chief has announced."""
    getattr(self, f"_{_OPERATIONS[operation]}")(*numbers)

  def place(self, number, j, out, /):
    """Copies this worker's columns of row j of a basis into a vector (n,)."""
    held = self._shards[number]
    out[held.columns] = held.row(j)

  def keep(self, number, product, /):
    """Keeps this worker's columns of a vector (n,) for the next `orthogonalize`."""
    held = self._shards[number]
    held.kept = product[held.columns].copy()

  def has(self, number, w, /):
    """Returns whether this worker kept its columns of a vector (n,)."""
    held = self._shards[number]
    return held.kept is not None and np.array_equal(held.kept, w[held.columns])

  def close(self, number, /):
    """Gives back this worker's part of a basis, if it is there."""
    held = self._shards.pop(number, None)
    if held is not None:
      held.close()

  def clear(self):
    """Gives back all parts."""
    for number in list(self._shards):
      self.close(number)

  # Operations, which all workers go through together. The others have no data. --------------

  def _open(self, number, steps, n, data=b""):
    path = os.fsdecode(self.group.broadcast_bytes(data, 0))

    def make():
      self._shards[number] = _Shard(self, steps, n, path)
      return ()

    self.gather(make, 1)

  def _store(self, number, j, data=None):
    held = self._shards[number]
    held.store(j, self._received(held, data))

  def _row(self, number, j, data=None):  # noqa: ARG002
    held = self._shards[number]
    return self._assembled(held, lambda: held.row(j))

  def _combine(self, number, k, j, data=None):
    coefficients = np.zeros((k, j)) if data is None else np.asarray(data, np.float64)
    coefficients = np.asarray(self.group.broadcast(coefficients))
    held = self._shards[number]
    rows = [self._assembled(held, lambda c=c: held.combine(c[None])[0]) for c in coefficients]
    return np.stack(rows)

  def _orthogonalize(self, number, count, recent, smallest, kept, data=None):
    held = self._shards[number]
    held.left = held.kept if kept else self._received(held, data)
    held.kept = None
    return held.orthogonalize(held.left, count, from_bits(smallest), recent=recent)

  def _extend(self, number, j, length, data=None):  # noqa: ARG002
    held = self._shards[number]
    held.extend(j, held.left, from_bits(length))

  def _checksum(self, number, j, data=None):  # noqa: ARG002
    held = self._shards[number]
    return zlib.crc32(self.gather(lambda: [held.checksum(j)], 1).astype(np.uint32))

  def _flush(self, number, data=None):  # noqa: ARG002
    self.gather(lambda: self._shards[number].flush() or (), 1)

  def _discard(self, number, data=None):  # noqa: ARG002
    def remove():
      path = self._shards[number].path
      self.close(number)
      if path:
        path.unlink(missing_ok=True)
      return ()

    self.gather(remove, 1)

  # What they are made of. ---------------------------------------------------------------------

  def _received(self, held, vector):
    """Returns this worker's columns of the chief's vector (n,), as an array of its own."""
    vector = np.zeros(held.whole) if vector is None else vector
    return np.array(np.asarray(self.group.broadcast(vector))[held.columns])

  def _assembled(self, held, compute):
    """Returns a vector (n,) of which `compute` gives this worker's columns."""
    return self._placed(compute, held.whole, held.columns.start)

  def gather(self, compute, capacity):
    """Returns the numbers that `compute` gives on each worker: (workers, capacity).

    All sums of a basis are given the same capacity, so that they are of one shape.
    """
    size, rank = self.group.size, self.group.rank
    return self._placed(compute, size * capacity, rank * capacity).reshape(size, capacity)

  def _placed(self, compute, size, first):
    """Returns (size,), in which what `compute` gives on a worker begins at its `first`.

    Raises:
      Exception: `group.failure`, on all workers, if `compute` fails on one.
    """
    workers, reason = self.group.size, ""
    flat = np.zeros(workers + size)  # whether each has failed, then the numbers
    try:
      values = compute()
      flat[workers + first : workers + first + len(values)] = values
    except Exception as e:  # whatever it is, the others wait for this worker
      flat[self.group.rank], reason = 1.0, f"{type(e).__name__}: {e}"
    flat = np.array(self.group.add(flat))
    failed = np.flatnonzero(flat[:workers])
    if failed.size:
      reason = self.group.broadcast_bytes(reason.encode(), int(failed[0])).decode()
      raise self.group.failure(
        f"worker {failed[0]} can't go on with its part of a Lanczos basis: {reason}"
      )
    return flat[workers:]


class _Shard(SummedBasis):
  """One worker's columns of a basis; sums over columns are those of all workers.

  Attributes:
    whole: length of the rows that it has columns of.
    columns: slice of them.
    path: its file, or None.
    kept: this worker's part of a vector that is to be made orthogonal next, or None.
    left: that of the one that was made orthogonal last.
  """

  def __init__(self, shards, steps, whole, path):
    group = shards.group
    self.whole = whole
    self.columns = slice(*(whole * r // group.size for r in (group.rank, group.rank + 1)))
    n = self.columns.stop - self.columns.start
    super().__init__(steps, n, np.float64)
    self.path = pathlib.Path(f"{path}_{group.rank}_of_{group.size}") if path else None
    if self.path:
      self.path.parent.mkdir(parents=True, exist_ok=True)
      self._rows = mapped(self.path, steps, n, np.float64)
    else:
      self._rows = MemoryBasis(np.empty((steps, n)))
    self.kept = self.left = None
    self._shards = shards

  def row(self, j, /):
    return self._rows.row(j)

  def store(self, j, vector, /):
    self._rows.store(j, vector)

  def combine(self, coefficients, /):
    return self._rows.combine(coefficients)

  def flush(self):
    self._rows.flush()

  def close(self):
    self._rows.close()

  def overlaps(self, w, first, count, /):
    sums = self._shards.gather(lambda: self._rows.overlaps(w, first, count), self.steps)
    return sums[:, : count - first].sum(axis=0)

  def subtract(self, w, part, first, /):
    return self._shards.gather(lambda: [self._rows.subtract(w, part, first)], 1).sum()


def to_bits(x, /):
  """Returns the bits of a float as an integer, as which it is announced."""
  return int(np.float64(x).view(np.int64))


def from_bits(integer, /):
  """Returns the float of such bits."""
  return float(np.int64(integer).view(np.float64))
