"""The cost of Lanczos vectors, by their length alone."""

from __future__ import annotations

import dataclasses
import tempfile

from tf_hessian.distribute import traffic
from tf_hessian.numerics import checks
from tf_hessian.planning.timing import time_lanczos
from tf_hessian.slq import storage as storage_lib


@dataclasses.dataclass(frozen=True)
class VectorPlan:
  """Bytes and seconds of a run's Lanczos vectors, of each machine.

  Attributes:
    basis: place and size of the vectors of one draw.
    orthogonalization_seconds: of all draws, one after the other, without products and network.
    network_bytes: that a worker receives and sends in all products; 0 for a single machine.
  """

  basis: storage_lib.BasisPlan
  orthogonalization_seconds: float
  network_bytes: float

  @property
  def memory_bytes(self) -> int:
    """Bytes of memory of each machine for rows, buffers and vectors."""
    return self.basis.memory_bytes

  @property
  def rows_bytes(self) -> int:
    """Bytes of the rows that each machine has."""
    return self.basis.rows_bytes


def plan_vectors(
  n: int,
  /,
  *,
  num_draws: int = 10,
  lanczos_steps: int = 90,
  workers: int = 1,
  storage: storage_lib.Storage | None = None,
) -> VectorPlan:
  """Plans the vectors of a run by timing a few steps.

  The steps are of this machine, on as many columns as each has. So a machine like the workers' and
  memory for a few of their vectors are enough.

  >>> plan = plan_vectors(10_000, num_draws=1, lanczos_steps=4)
  >>> plan.basis.kind, plan.rows_bytes
  ('memory', 320000)

  Args:
    n: number of parameters.
    num_draws: number k of start vectors.
    lanczos_steps: number m of Lanczos steps of each.
    workers: number of equal machines, of which each has the memory that the storage allows.
    storage: a `Storage`; None chooses by what this machine has room for, spread over the workers if
      there are several.

  Raises:
    TypeError, ValueError: for bad arguments, or (NoRoomError) if nothing has room.
  """
  counts = {"n": n, "num_draws": num_draws, "lanczos_steps": lanczos_steps, "workers": workers}
  for name, count in counts.items():
    checks.check_count(name, count)
  lanczos_steps = min(lanczos_steps, n)
  storage = storage_lib.as_storage(storage)
  memory = int(storage_lib.default_memory() if storage.memory is None else storage.memory)
  basis = storage_lib.plan_basis(
    n,
    lanczos_steps,
    kinds=storage.kinds,
    memory=memory,
    disk=storage_lib.free_disk(tempfile.gettempdir()),
    workers=storage_lib.Workers(workers, memory) if workers > 1 else None,
  )
  moved = traffic.of_equal_parts(8 * n, 8 * n, num_workers=workers) if workers > 1 else 0.0
  steps = time_lanczos(basis.part(), recorded=False).steps
  return VectorPlan(basis, num_draws * steps, num_draws * lanczos_steps * moved)
