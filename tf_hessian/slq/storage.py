"""Room for the Lanczos bases of a run: in memory or on disk, in float64 or float32.

Bases of a run with several workers may also be distributed over the workers' memory. A density
needs no basis: the last of its vectors are enough.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os
import pathlib
import shutil

import numpy as np

from tf_hessian.curvature import widths
from tf_hessian.machine_memory import available_memory
from tf_hessian.numerics import checks
from tf_hessian.numerics.basis import Basis
from tf_hessian.numerics.disk_basis import DiskBasis, buffer_bytes, file_bytes
from tf_hessian.numerics.memory_basis import MemoryBasis, mapped
from tf_hessian.numerics.recent_basis import ROWS, RecentBasis

# Of the memory that is left; the rest is for the data and the model, which come later.
_FRACTION = 0.7
_FLOAT32 = 2.0**-24  # relative rounding error of products in float32
_SHARED = 4  # vectors (n,) at a time on their way between workers

# Kind -> (dtype, place), exact ones first.
_KINDS = {
  "memory": (np.float64, "memory"),
  "workers": (np.float64, "workers"),
  "disk": (np.float64, "disk"),
  "float32": (np.float32, "memory"),
  "float32_disk": (np.float32, "disk"),
  "none": (np.float64, "none"),
}
# Memory before disk, then float64 before float32, but no more bytes on disk than needed.
_PREFERRED = ("memory", "workers", "float32", "float32_disk", "disk", "none")
PLACES = ("auto", "memory", "workers", "disk", "none")
DTYPES = ("auto", "float64", "float32")


class NoRoomError(ValueError):
  """Bases fit neither into memory nor on the disk.

  >>> import numpy as np
  >>> import tf_hessian
  >>> small = tf_hessian.Storage("memory", memory=100)
  >>> try:
  ...   tf_hessian.spectral_density(np.eye(50), lanczos_steps=20, storage=small, progress=False)
  ... except tf_hessian.NoRoomError as e:
  ...   print("memory" in str(e))
  True
  """


def _option(default, flag, text, **more):
  """Returns a field of `Storage`, with what its flag is made of."""
  return dataclasses.field(default=default, metadata={"flag": flag, "text": text, **more})


@dataclasses.dataclass(frozen=True)
class Storage:
  """Choices of where Lanczos vectors live, and how many share a pass.

  A result depends on them in rounding only.

  >>> import numpy as np
  >>> import tf_hessian
  >>> storage = tf_hessian.Storage("disk", dtype="float32", vectors_per_pass=2)
  >>> spectrum = tf_hessian.spectral_density(np.eye(4), storage=storage, progress=False)

  Attributes:
    place: "memory" of this process, memory of all "workers", "disk", "none", or "auto", which takes
      the first of these that has room. With "none" only the last vectors are kept, in memory: the
      density takes some more steps, an eigenvalue that has converged may have several nodes, and
      there are no eigenvectors (docs/design/basis.md).
    dtype: "float64", "float32", or "auto", which takes float64. If the place is "auto" too, float32
      comes before the disk for products in float32, and after it for others.
    memory: bytes that vectors may take; None for 70 % of what the process can have, which leaves
      the rest to data and model.
    vectors_per_pass: number of draws that advance together, with one pass over the data for the
      products of all; None for as many as have room, if that is faster.

  Raises:
    TypeError, ValueError: for choices that can't be right.
  """

  place: str = _option(
    "auto", "storage", "Where Lanczos vectors live; auto: the first that has room.", choices=PLACES
  )
  dtype: str = _option(
    "auto", "storage_dtype", "Type that they are stored in; docs/design/basis.md.", choices=DTYPES
  )
  memory: float | None = _option(
    None,
    "storage_memory",
    "Bytes that they may take, such as 12e9; default: 70 % of what there is.",
  )
  vectors_per_pass: int | None = _option(
    None, "vectors_per_pass", "Draws whose products share a pass; default: as many as have room."
  )

  def __post_init__(self) -> None:
    if isinstance(self.place, str) and self.place in DTYPES[1:]:
      raise ValueError(f'storage.place: {self.place!r} is a type: Storage(dtype="{self.place}")')
    checks.check_choice("storage.place", self.place, PLACES)
    checks.check_choice("storage.dtype", self.dtype, DTYPES)
    if not self.kinds:
      raise ValueError(f"storage.dtype: vectors with the place {self.place!r} are in float64")
    if self.memory is not None:
      checks.check_positive("storage.memory", self.memory)
    if self.vectors_per_pass is not None:
      checks.check_count("storage.vectors_per_pass", self.vectors_per_pass)

  @property
  def kinds(self) -> tuple[str, ...]:
    """Kinds of bases that it allows, exact ones first."""
    if (self.place, self.dtype) == ("auto", "auto"):
      return tuple(_KINDS)
    dtype = "float32" if self.dtype == "float32" else "float64"
    return tuple(
      kind
      for kind, (of_kind, place) in _KINDS.items()
      if np.dtype(of_kind).name == dtype and self.place in ("auto", place)
    )


def as_storage(value: Storage | None, /) -> Storage:
  """Returns the choices that an argument gives; None for automatic ones.

  Raises:
    TypeError: if they are no `Storage`.
  """
  if value is None:
    return Storage()
  if not isinstance(value, Storage):
    raise TypeError(
      f'storage: expected a tf_hessian.Storage, such as Storage("disk"), or None, got {value!r}'
    )
  return value


@dataclasses.dataclass(frozen=True)
class Workers:
  """Workers over which bases can be distributed."""

  size: int  # with the chief
  memory: int  # bytes that may be used on the one that has least


@dataclasses.dataclass(frozen=True)
class BasisPlan:
  """Place and size of the bases of draws in lock step."""

  kind: str  # of _KINDS
  n: int
  steps: int
  draws: int  # bases at a time
  memory_bytes: int  # of all of them with their buffers and vectors, in this process
  disk_bytes: int  # of its files; 0 if there are none
  resident_bytes: int  # of each file, kept in memory too
  reason: str
  workers: int = 1  # over which they are distributed

  @property
  def on_disk(self) -> bool:
    """Whether rows are read from files.

    Files that are mapped into memory count as memory.
    """
    return _KINDS[self.kind][1] == "disk"

  @property
  def kept(self) -> bool:
    """Whether all rows are kept, and not the last ones alone."""
    return self.kind != "none"

  @property
  def rows(self) -> int:
    """Rows that are kept of a basis."""
    return _rows(self.kind, self.steps)

  @property
  def distributed(self) -> bool:
    """Whether each worker has some columns of the rows."""
    return self.kind == "workers"

  @property
  def rows_bytes(self) -> int:
    """Bytes of the rows of all bases, in this process."""
    columns = -(-self.n // self.workers)
    return self.draws * self.rows * columns * np.dtype(_KINDS[self.kind][0]).itemsize

  @property
  def held_bytes(self) -> int:
    """Bytes of memory for rows and buffers.

    The vectors of a step are not counted.
    """
    return self.memory_bytes - _vector_bytes(self.n, self.draws)

  def part(self) -> BasisPlan:
    """Returns the plan of this process's part of the bases.

    Of distributed bases, that is its columns, in memory. Of others it is the plan itself.
    """
    if not self.distributed:
      return self
    columns = -(-self.n // self.workers)
    return dataclasses.replace(self, kind="memory", n=columns, workers=1)

  def open(self, path: str | os.PathLike | None = None, /) -> Basis:
    """Returns the basis of one draw.

    It is in a file if the plan has files or a path is given. A distributed basis is made by
    `HessianOperator.distributed_basis`.

    Raises:
      OSError: if the file can't be written or there is no room for it.
    """
    dtype, _ = _KINDS[self.kind]
    shape = (self.rows, self.n)
    if self.on_disk:
      return DiskBasis(path, *shape, dtype=dtype, resident_bytes=self.resident_bytes)
    if path is None:
      return self.open_in_memory(1)[0]
    return self._in_array(mapped(path, *shape, dtype))

  def open_in_memory(self, count: int, /) -> list:
    """Returns the bases of `count` draws, in one piece of memory.

    The system gives one piece in larger pages.
    """
    dtype, _ = _KINDS[self.kind]
    return [self._in_array(a) for a in np.empty((count, self.rows, self.n), dtype)]

  def _in_array(self, array):
    return MemoryBasis(array) if self.kept else RecentBasis(array, self.steps)


def plan_basis(
  n: int,
  steps: int,
  /,
  draws: int = 1,
  *,
  kinds: Sequence[str] = tuple(_KINDS),
  memory: float | None = None,
  disk: float = 0,
  precision: float = 0.0,
  in_files: bool = False,
  workers: Workers | None = None,
) -> BasisPlan:
  """Chooses where the Lanczos bases of a run live.

  Float64 in memory comes first: of this process, then distributed over the workers, if there are
  any. If products are in float32 anyway, rows in float32 come next, since they cost less than those
  products do. For products in float64, float64 on disk comes next. A basis on disk has as much of
  it in memory as there is room for. Where none has room, none is kept.

  Args:
    n: number of parameters.
    steps: Lanczos steps of a draw.
    draws: number of draws in lock step, each with a basis of its own; by default one.
    kinds: kinds of bases that may be chosen, exact ones first, such as `Storage.kinds`. All by
      default. A single one is taken if it has room.
    memory: bytes that may be used; by default 70 % of `available_memory()`, which leaves the rest
      to data and model.
    disk: free bytes where the files would be, with those of files that are there already; 0, the
      default, if there is no place for them.
    precision: relative rounding error of the products; 0, the default, is for exact ones.
    in_files: whether bases in memory are to outlast the process, as files mapped into memory; by
      default they are not.
    workers: the `Workers` over which bases can be distributed; None if there are no others.

  Returns:
    A `BasisPlan`.

  Raises:
    TypeError, ValueError: for bad arguments, or (NoRoomError) if nothing has room; says what would.
  """
  for name, count in (("n", n), ("steps", steps), ("draws", draws)):
    checks.check_count(name, count)
  memory = int(default_memory() if memory is None else memory)
  order = sorted(kinds, key=_PREFERRED.index) if precision >= _FLOAT32 else list(kinds)
  if order == ["workers"]:
    _check_workers(workers, n)
  elif "workers" in order and (workers is None or n < workers.size):
    order.remove("workers")
  size, of_worker = (workers.size, workers.memory) if workers else (1, 0)
  needs = {k: _needs(k, n, steps, draws, in_files, size) for k in order}
  for choice in order:
    in_memory, on_disk = needs[choice]
    allowed = min(memory, of_worker) if choice == "workers" else memory
    if in_memory <= allowed and on_disk <= disk:
      plan = _plan(choice, n, steps, draws, allowed, needs)
      return dataclasses.replace(plan, workers=size if choice == "workers" else 1)
  least = f", {_gb(of_worker)} of it on each worker" if "workers" in order else ""
  raise NoRoomError(
    f"Lanczos bases: no room for {steps} steps of {draws} draws at a time with n = {n}: "
    + "; ".join(f"{k} needs {_words(*needs[k])}" for k in order)
    + f"; there are {_gb(memory)} of memory{least} for them (storage.memory, or what there is) and "
    f"{_gb(disk)} of disk: "
    + ("let fewer draws advance at a time (storage.vectors_per_pass), " if draws > 1 else "")
    + ("" if order == ["none"] else "take fewer steps, ")
    + "give more memory or a folder on a larger disk, or measure a block (variables=)"
  )


def pass_bytes(n: int, count: int, /) -> int:
  """Returns the bytes that vectors take in a pass that they share.

  Args:
    n: their length.
    count: number of vectors; a single one takes nothing besides.
  """
  return widths.PARAMETER_BYTES * n * (count if count > 1 else 0)


def default_memory() -> int:
  """Returns the bytes that bases may take by default.

  That is 70 % of what there is.
  """
  return int(_FRACTION * available_memory())


def free_disk(path: str | os.PathLike, /) -> int:
  """Returns the free bytes of a folder's disk.

  The folder may not exist yet.
  """
  path = pathlib.Path(path).absolute()
  while not path.exists():
    path = path.parent
  return shutil.disk_usage(path).free


def _check_workers(workers, n):
  if workers is None:
    raise ValueError(
      "storage.place: 'workers' distributes vectors over the workers of a "
      "MultiWorkerMirroredStrategy, at least two of them, and there are no others than this "
      "process; choose another place"
    )
  if n < workers.size:
    raise ValueError(
      f"storage.place: {n} parameters can't be distributed over {workers.size} workers"
    )


def _needs(kind, n, steps, draws, in_files, workers):
  """Returns (bytes of memory, bytes of disk) that a kind needs.

  These are the least, on each worker.
  """
  dtype, place = _KINDS[kind]
  memory, rows = _vector_bytes(n, draws), _rows(kind, steps)
  if kind == "workers":
    memory += 8 * n * _SHARED
    n = -(-n // workers)
  elif dtype != np.float64 or place == "disk":
    memory += draws * buffer_bytes(steps, n, dtype, disk=place == "disk")
  if place == "disk":
    return memory, draws * file_bytes(steps, n, dtype)
  size = draws * rows * n * np.dtype(dtype).itemsize
  return memory + size, size if in_files else 0


def _rows(kind, steps):
  return ROWS if kind == "none" else steps


def _vector_bytes(n, draws):
  # Of each draw its vector and its product; of the one that takes its step, a copy and a new row.
  return 8 * n * (2 * draws + 2)


def _plan(kind, n, steps, draws, memory, needs):
  """Returns the plan with a kind that has room.

  The memory that is left is used for resident blocks.
  """
  in_memory, on_disk = needs[kind]
  disk = _KINDS[kind][1] == "disk"
  resident = min((memory - in_memory) // draws, on_disk // draws) if disk else 0
  earlier = list(needs)[: list(needs).index(kind)]
  reason = f"{kind} needs {_words(in_memory, on_disk)}"
  if resident:
    reason += f", and keeps {_gb(draws * resident)} of the files in memory too"
  for k in earlier:
    reason += f"; {k} would need {_words(*needs[k])}"
  reason += f"; allowed are {_gb(memory)} of memory"
  total = in_memory + draws * resident
  return BasisPlan(kind, n, steps, draws, total, on_disk, resident, reason)


def _words(memory, disk):
  return f"{_gb(memory)} of memory" + (f" and {_gb(disk)} of disk" if disk else "")


def _gb(size):
  return f"{size / 1e9:.3g} GB" if size >= 1e6 or not size else f"{int(size):,} bytes"
