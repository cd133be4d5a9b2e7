"""A Lanczos basis whose columns are spread over workers.

Worker r of W holds columns n r / W to n (r + 1) / W of each row, and of the vector that is made
orthogonal to them. Overlaps and squared lengths are sums over columns: each worker adds up its own,
and the workers' sums are added in the workers' order, by all of them alike. So all go through the
same passes of Gram-Schmidt, whose number depends on those sums, without being told.

The chief calls the methods of a `DistributedBasis`; each is announced, and the others join it by
`Shards.join`. What they need of each other goes through a `Group`.

Nobody is left waiting for a worker that has no room for its part: it says so with its next sum, and
all raise the same error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
import os
import pathlib
from typing import Any, Protocol
import zlib

import numpy as np
from numpy.typing import ArrayLike

from tf_hessian.numerics.basis import Basis
from tf_hessian.numerics.memory_basis import MemoryBasis, mapped

# Operations that are announced, by number.
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


class Group(Protocol):
  """The ways between the workers that a basis is spread over.

  Attributes:
    rank: number of this worker, from 0, the chief's.
    size: number of all, with the chief.
  """

  rank: int
  size: int

  def announce(self, text: str, /) -> None:
    """Lets the others call `join` with a text's numbers, as the chief."""

  def committed(self) -> AbstractContextManager:
    """Returns a context of the chief for what the others have joined."""

  def broadcast(self, array: np.ndarray, /) -> ArrayLike:
    """Returns the chief's array to all; others pass one of its shape."""

  def broadcast_bytes(self, content: bytes, rank: int, /) -> bytes:
    """Returns one worker's bytes to all."""

  def add(self, array: np.ndarray, /) -> ArrayLike:
    """Returns the sum of all workers' arrays to all.

    It is exact if at most one of them has another number than zero in each place.
    """

  def failure(self, message: str, /) -> Exception:
    """Returns the error to raise when a worker can't go on."""


class DistributedBasis(Basis):
  """The chief's view of a basis in float64 over several workers.

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

  def __init__(
    self, shards: Shards, steps: int, n: int, path: str | os.PathLike | None = None, /
  ) -> None:
    super().__init__(steps, n, np.float64)
    size = shards.group.size
    if self.n < size:
      raise ValueError(f"basis: {self.n} columns can't be spread over {size} workers")
    self._shards = shards
    self.number = shards.lead_open(self.steps, self.n, path)

  def row(self, j: int, /) -> np.ndarray:
    row = self._lead("row", j)
    row.flags.writeable = False
    return row

  def store(self, j: int, vector: np.ndarray, /) -> None:
    self._lead("store", j, data=vector)

  def combine(self, coefficients: np.ndarray, /) -> np.ndarray:
    return self._lead("combine", *np.shape(coefficients), data=coefficients)

  def orthogonalize(
    self, w: np.ndarray, count: int, smallest: float, /, *, recent: int | None = None
  ) -> tuple[np.ndarray, float]:
    """Makes a vector orthogonal to the first rows, as `Basis.orthogonalize`.

    But it leaves `w`: each worker has its part of what is left. If `w` is the product that the
    workers kept their parts of, it does not travel.
    """
    recent = count if recent is None else recent
    kept = self._shards.has(self.number, w)
    numbers = (count, recent, to_bits(smallest), kept)
    return self._lead("orthogonalize", *numbers, data=None if kept else w)

  def extend(self, j: int, w: np.ndarray, length: float, /) -> None:  # noqa: ARG002 - workers have it
    self._lead("extend", j, to_bits(length))

  def checksum(self, j: int, /) -> int:
    return self._lead("checksum", j)

  def flush(self) -> None:
    self._lead("flush")

  def close(self) -> None:
    """Gives back the chief's part.

    The others keep theirs until they no longer follow.
    """
    self._shards.close(self.number)

  def discard(self) -> None:
    self._lead("discard")

  def _lead(self, operation, *numbers, data=None):
    return self._shards.lead(operation, self.number, *numbers, data=data)


class Shards:
  """The parts that one worker has of distributed bases.

  With the other workers it does what the chief announces.

  Attributes:
    group: connects the workers.
  """

  def __init__(self, group: Group, /) -> None:
    self.group = group
    self._shards: dict[int, _Shard] = {}  # number of a basis -> _Shard
    self._next = 0

  def lead_open(self, steps: int, n: int, path: str | os.PathLike | None) -> int:
    """Makes a basis on all workers, as the chief; returns its number."""
    number, self._next = self._next, self._next + 1
    self.lead("open", number, steps, n, data=os.fsencode(path or ""))
    return number

  def lead(
    self, operation: str, number: int, *numbers: float, data: ArrayLike | bytes | None = None
  ) -> Any:
    """Announces an operation, as the chief, and returns its result.

    Args:
      operation: its name.
      number: of the basis.
      *numbers: the arguments that are announced too.
      data: an array or bytes that only the chief has.
    """
    words = [_OPERATIONS.index(operation), number, *map(int, numbers)]
    self.group.announce(" ".join(map(str, ("basis", *words))))
    with self.group.committed():
      return getattr(self, f"_{operation}")(number, *numbers, data=data)

  def join(self, operation: int, /, *numbers: int) -> None:
    """Takes part, as another worker, in what the chief has announced."""
    getattr(self, f"_{_OPERATIONS[operation]}")(*numbers)

  def place(self, number: int, j: int, out: np.ndarray, /) -> None:
    """Copies this worker's columns of row j into a vector (n,)."""
    held = self._shards[number]
    out[held.columns] = held.row(j)

  def keep(self, number: int, product: np.ndarray, /) -> None:
    """Keeps this worker's columns of a vector (n,) for the next `orthogonalize`."""
    held = self._shards[number]
    held.kept = product[held.columns].copy()

  def has(self, number: int, w: np.ndarray, /) -> bool:
    """Returns whether this worker kept its columns of a vector (n,)."""
    held = self._shards[number]
    return held.kept is not None and np.array_equal(held.kept, w[held.columns])

  def close(self, number: int, /) -> None:
    """Gives back this worker's part of a basis, if it is there."""
    held = self._shards.pop(number, None)
    if held is not None:
      held.close()

  def clear(self) -> None:
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
    """Returns this worker's columns of the chief's vector, as a new array."""
    vector = np.zeros(held.whole) if vector is None else vector
    return np.array(np.asarray(self.group.broadcast(vector))[held.columns])

  def _assembled(self, held, compute):
    """Returns a vector (n,) of which `compute` gives this worker's columns."""
    return self._placed(compute, held.whole, held.columns.start)

  def gather(
    self, compute: Callable[[], Sequence[float] | np.ndarray], capacity: int
  ) -> np.ndarray:
    """Returns the numbers that a function gives on each worker.

    They are (workers, capacity). All sums of a basis are given the same capacity, so that they are
    of one shape.
    """
    size, rank = self.group.size, self.group.rank
    return self._placed(compute, size * capacity, rank * capacity).reshape(size, capacity)

  def _placed(self, compute, size, first):
    """Returns (size,), in which a worker's numbers begin at its `first`.

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


class _Shard(MemoryBasis):
  """The columns of a basis that one worker has.

  Sums over columns are those of all workers.

  Attributes:
    whole: length of the rows that it has columns of.
    columns: slice of them.
    path: its file, or None.
    kept: this worker's part of a vector that is to be made orthogonal next, or None.
    left: that of the one that was made orthogonal last.
  """

  def __init__(self, shards: Shards, steps: int, whole: int, path: str) -> None:
    group = shards.group
    self.whole = whole
    self.columns = slice(*(whole * r // group.size for r in (group.rank, group.rank + 1)))
    n = self.columns.stop - self.columns.start
    self.path = pathlib.Path(f"{path}_{group.rank}_of_{group.size}") if path else None
    if self.path:
      self.path.parent.mkdir(parents=True, exist_ok=True)
    super().__init__(mapped(self.path, steps, n) if self.path else np.empty((steps, n)))
    self.kept: np.ndarray | None = None
    self.left: np.ndarray | None = None
    self._shards = shards

  def overlaps(self, w: np.ndarray, first: int, count: int, /) -> np.ndarray:
    sums = self._shards.gather(lambda: MemoryBasis.overlaps(self, w, first, count), self.steps)
    return sums[:, : count - first].sum(axis=0)

  def subtract(self, w: np.ndarray, part: np.ndarray, first: int, /) -> float:
    return self._shards.gather(lambda: [MemoryBasis.subtract(self, w, part, first)], 1).sum()


def to_bits(x: float, /) -> int:
  """Returns the bits of a float as an integer, for announcements.

  >>> from_bits(to_bits(0.1)) == 0.1
  True
  """
  return int(np.float64(x).view(np.int64))


def from_bits(integer: int, /) -> float:
  """Returns the float of such bits."""
  return float(np.int64(integer).view(np.float64))
