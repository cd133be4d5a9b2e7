"""Seconds, memory, network and error of a density run to come.

The very pass of the run is timed over two batches, and scaled to the data set by the sizes of the
batches. So are the building of functions, and the Lanczos steps, on a basis of few rows. Peak
memory is that of the timed pass, with data and model, and of the bases that the run makes.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import tempfile
import time
from typing import Literal

from absl import logging
import tensorflow as tf

from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.distribute import memory, traffic
from tf_hessian.numerics import checks, probes
from tf_hessian.planning.pilot import expect_error
from tf_hessian.planning.plan import Passes, Plan
from tf_hessian.planning.timing import TimedPass, largest_part, time_lanczos, time_pass
from tf_hessian.slq import matrix
from tf_hessian.slq import storage as storage_lib
from tf_hessian.slq.layout import Layout, plan_layout
from tf_hessian.slq.method import SLQ, make_target
from tf_hessian.slq.shared_products import SHARED_FIRST, SharedProducts

_BATCHES = 2  # of each replica, in what is timed
_CHECK_PRODUCTS = 3  # of `check_operator`
_LOSS_PASSES = 2  # for the weights of the examples, and for the loss on record
_PILOT_SHARE, _PILOT_LEAST = 0.05, 5.0  # of the seconds of the run; seconds


_SMALLER = (
  "take smaller batches (config.hessian.batch_size), or compute activations again "
  "(recompute_blocks=4)"
)
_FEWER_VECTORS = (
  "let fewer draws share a pass (vectors_per_pass), take fewer lanczos_steps, or store them in "
  "float32 or on disk"
)


@dataclasses.dataclass(frozen=True)
class Beginning:
  """Memory at the beginning of a plan, made by `begin`."""

  resident: int
  available: int  # that the process can have besides


def begin() -> Beginning:
  """Returns the `Beginning` of a plan.

  The peak of memory is measured from here on.
  """
  memory.reset_peak()
  return Beginning(memory.resident(), storage_lib.available_memory())


def plan(
  operator: HessianOperator,
  /,
  *,
  num_draws: int = 10,
  lanczos_steps: int = 90,
  seed: int = 0,
  start: Literal["gradient"] | None = None,
  target_error: float | None = None,
  sigma_squared: float = 1e-5,
  relative: bool = False,
  storage: storage_lib.Storage | None = None,
  check: bool = True,
  workdir: str | os.PathLike | None = None,
  workers: int = 1,
  pilot_seconds: float = 60.0,
) -> Plan:
  """Plans a run of `spectral_density`, by timing two batches.

  The arguments are those of the run. It builds the functions of a batch, and times the passes that
  the run would make. The model is not changed and nothing is written but temporary files. The
  figures hold for this machine, as busy as it is now, and for a process that begins with the run. A
  process that has built such functions before needs less for the start-up.

  >>> import numpy as np
  >>> import tensorflow as tf
  >>> import tf_hessian
  >>> def loss(p, batch):
  ...   return batch * tf.reduce_sum(p[0] ** 4)
  >>> point, data = [tf.Variable([3.0, 1.0])], [np.ones(1, "float32")]
  >>> hessian = tf_hessian.HessianOperator(point, loss, data)
  >>> plan = tf_hessian.plan(hessian, num_draws=2, lanczos_steps=2, pilot_seconds=0)
  >>> plan.lanczos_steps, plan.host_bytes < plan.available_bytes
  (2, True)

  Args:
    operator: a `HessianOperator` in one process, best one of which no pass was run yet.
    num_draws: number k of start vectors (default: the paper's).
    lanczos_steps: number m of Lanczos steps for each (default: the paper's).
    seed: seed of the start vectors.
    start: None for random start vectors; "gradient" for a run that begins at the gradient.
    target_error: error in L1 that the run is to reach; None for all draws. The draws are those that
      the pilot says are needed for it, `num_draws` at most. Steps are counted as if no draw ended
      early.
    sigma_squared: variance of the kernel of the density whose error is told (default: the paper's).
    relative: multiply it by max(1, range of the nodes), as the original code did.
    storage: a `Storage`: where vectors live, and how many share a pass. None chooses by what there
      is room for.
    check: whether the run checks the operator first, as by default.
    workdir: folder where the run would write; None for memory. A run that is in it already keeps to
      its choices, and the plan is of all of it.
    workers: number of equal machines to plan for, each like this one; by default this one alone.
      They share the batches. The network is counted for both kinds of clusters, and takes no time
      here.
    pilot_seconds: most seconds for the pilot, which tells the error. Of these it takes 5 % of the
      run's time, or 5 s if that is more; 0 leaves it out.

  Returns:
    A `Plan`.

  Raises:
    TypeError, ValueError: for bad arguments, or for a run that does not fit into memory or on the
      disk; says what to change.
  """
  beginning = begin()
  matrix.check_is_of_model(operator)
  checks.check_choice("start", start, [None, "gradient"])
  method = SLQ(
    num_draws, lanczos_steps, seed, start, make_target(target_error, sigma_squared, relative)
  )
  checks.check_positive("sigma_squared", sigma_squared)
  if pilot_seconds != 0:
    checks.check_positive("pilot_seconds", pilot_seconds)
  storage = storage_lib.as_storage(storage)
  planner = Planner(
    operator, method, storage, check=check, workdir=workdir, workers=workers, beginning=beginning
  )
  return planner.plan_with_error(
    sigma_squared=sigma_squared, relative=relative, pilot_seconds=pilot_seconds
  )


class Planner:
  """Measured parts of a run, put together as its plan."""

  def __init__(
    self,
    operator: HessianOperator,
    method: SLQ,
    storage: storage_lib.Storage,
    /,
    *,
    check: bool,
    workdir: str | os.PathLike | None,
    workers: int,
    beginning: Beginning,
  ):
    """Lays the run out, and times its parts.

    Args:
      operator: a `HessianOperator` in one process.
      method: numbers of draws and steps, and the start vectors.
      storage: choices of where vectors live.
      check: whether the run checks the operator first.
      workdir: the run's folder, or None.
      workers: number of equal machines to plan for.
      beginning: memory from which on it is counted.

    Raises:
      ValueError: if the run can't fit, or the operator is a cluster's.
    """
    begun = time.monotonic()
    checks.check_count("workers", workers)
    if operator.engine.is_cluster:
      raise ValueError(
        "strategy: a plan is made in one process, not by a cluster: make the operator without it, "
        "and give the number of its workers as workers"
      )
    method = method.of_order(operator.shape[0])
    if workdir is not None:
      method.check_folder(workdir)
    self._operator = operator
    self._method = method
    self._check = check
    self._workers = int(workers)
    self._workdir = workdir
    self._beginning = beginning
    self._layout = _layout(operator, method, storage, workdir, self._workers)
    self._num_shards = min(operator.sharing.num_shards, operator.batches.num_batches)
    replicas = operator.engine.description.get("replicas", 1)
    self._fewer: dict[int, TimedPass] = {}  # number of draws in lock step -> `TimedPass`
    self.sample = operator.sample(_BATCHES * replicas)
    self._products = SharedProducts(matrix.as_matrix(self.sample), self._layout)
    sizes, sampled = operator.batches.sizes, self.sample.batches.sizes
    self._scale = largest_part(sizes, self._workers * replicas) / largest_part(sampled, replicas)
    self._built = operator.startup_seconds + time.monotonic() - begun
    self._measure()

  def plan_with_error(self, *, sigma_squared: float, relative: bool, pilot_seconds: float) -> Plan:
    """Returns the `Plan`, with the error to expect by a pilot.

    Args:
      sigma_squared: variance of the density's kernel.
      relative: whether to multiply it by max(1, range of the nodes).
      pilot_seconds: most seconds for the pilot; 0 leaves it out.
    """
    method = self._method
    seconds = max(_PILOT_LEAST, _PILOT_SHARE * self.plan(method.num_draws).total_seconds)
    error = expect_error(
      self.sample,
      method,
      sigma_squared=sigma_squared,
      relative=relative,
      seconds=min(pilot_seconds, seconds),
      kept=self._layout.basis.kept,
    )
    num_draws = min(method.num_draws, error.draws_for_target or method.num_draws)
    return dataclasses.replace(self.plan(num_draws), error=error)

  def _measure(self):
    """Times passes and steps, and measures memory.

    Raises:
      ValueError: if the run can't fit.
    """
    layout, sample = self._layout, self.sample
    vector = probes.probe(0, 0, sample.shape[0])
    logging.info("timing passes over %d batches", sample.batches.num_batches)
    self._times = {}
    self._time("loss", sample.loss)
    self._time("one", lambda: sample.matvec(vector))
    if self._method.start is not None:
      self._time("gradient", sample.gradient)
    self._refuse_too_large(memory.peak())
    if layout.vectors_per_pass > 1:
      self._time("together", lambda: self._advance(layout.basis.draws))
    before = memory.peak()
    memory.reset_peak()
    self._advance(layout.basis.draws)
    self._host = max(before, memory.peak() + self._bases_bytes())
    self._device = memory.accelerator_peak()
    self._refuse_too_large(memory.peak())
    self._lanczos = time_lanczos(layout.basis.part(), recorded=self._workdir is not None)

  def _advance(self, count):
    """Makes the products of one step of `count` draws.

    They are made as in the run.
    """
    vector = probes.probe(0, 0, self.sample.shape[0])
    self._products(dict.fromkeys(range(count), vector))

  def plan(self, num_draws: int, /) -> Plan:
    """Returns the `Plan` of a run of `num_draws` draws, without error."""
    operator, layout, basis = self._operator, self._layout, self._layout.basis
    ratio = len(operator.batches.signatures) / len(self.sample.batches.signatures)
    startup = self._built + ratio * sum(t.build for t in self._times.values())
    if self._check:
      startup += operator.batches.seconds  # read again, and compared
    passes = tuple(self._passes(num_draws))
    # Draws in lock step last as long as all their passes.
    lasting = sum(p.count * p.seconds for p in passes) * layout.vectors_per_pass / num_draws
    lasting += layout.vectors_per_pass * self._lanczos.steps
    return Plan(
      num_parameters=operator.shape[0],
      num_batches=operator.batches.num_batches,
      num_examples=operator.batches.num_examples,
      num_draws=int(num_draws),
      lanczos_steps=self._method.lanczos_steps,
      vectors_per_pass=layout.vectors_per_pass,
      workers=int(self._workers),
      passes=passes,
      startup_seconds=startup,
      lanczos_seconds=num_draws * self._lanczos.seconds(self._method.lanczos_steps, lasting),
      host_bytes=self._host,
      available_bytes=self._beginning.available + self._beginning.resident,
      device_bytes=self._device,
      basis=basis.kind,
      basis_count=basis.draws,
      basis_bytes=basis.rows_bytes,
      basis_place=self._place(),
      basis_reason=basis.reason,
      error=None,  # type: ignore[arg-type]  # which `plan_with_error` knows
    )

  def _time(self, name, function):
    batches = None if name == "loss" else self.sample.batches  # of no examples there is no mean
    try:
      self._times[name] = time_pass(function, batches)
    except ValueError as e:
      if not isinstance(e.__cause__, tf.errors.ResourceExhaustedError):
        raise
      raise ValueError(f"a pass over a batch does not fit into memory ({e}): {_SMALLER}") from e

  def _passes(self, num_draws):
    """Yields the `Passes` of a run."""
    operator, layout = self._operator, self._layout
    yield self._row("loss", "loss", _LOSS_PASSES, 0, before=True)
    if self._method.start is not None:
      yield self._row("gradient", "gradient", 1, 0, before=True)
    noted = operator.deterministic and self._workdir is not None  # in the run's folder
    before = noted + _CHECK_PRODUCTS * self._check
    if before:
      yield self._row("one", "one vector", before, 1, before=True)
    if self._check and layout.vectorized and layout.vectors_per_pass > 1:
      yield self._row("together", "2 vectors together", 1, 2, before=True)
    shared, alone = self._of_draws(num_draws)
    if layout.unsure and shared and shared[size := max(shared)] > SHARED_FIRST:
      if self._seconds("together", size) / size > self._seconds("one"):
        alone += sum(count * width for width, count in shared.items()) - SHARED_FIRST * size
        shared = {size: SHARED_FIRST}
      else:  # one of these passes is made alone, to find that out
        alone += size
        shared[size] -= 1
    for size, count in sorted(shared.items(), reverse=True):
      yield self._row("together", f"{size} vectors together", count, size)
    if alone:
      yield self._row("one", "one vector", alone, 1)

  def _of_draws(self, num_draws):
    """Returns the numbers of shared passes and of passes of one vector.

    The first is a dict: vectors that share a pass -> number of such passes.
    """
    layout, steps = self._layout, self._method.lanczos_steps
    sizes = collections.Counter(len(group) for group in layout.groups(range(num_draws)))
    if layout.vectors_per_pass == 1:
      return {}, num_draws * steps
    alone = 0 if layout.vectorized else sizes.pop(1, 0)
    return {size: count * steps for size, count in sizes.items()}, alone * steps

  def _row(self, name, what, count, vectors, before=False):
    """Returns the `Passes` of one kind.

    The network moves all places of a pass, also those that are not used.
    """
    layout, n = self._layout, self._operator.shape[0]
    moved = 8 * n * (layout.vectors_per_pass if name == "together" else vectors)
    sums = moved or 8 * n * (name == "gradient")
    network = {}
    if self._workers > 1:
      of_shards = {"num_shards": self._num_shards, "num_workers": self._workers}
      network = {
        "equal workers": traffic.of_equal_parts(moved, sums, num_workers=self._workers),
        "coordinator": traffic.of_shards(self._parameter_bytes, moved, sums, **of_shards),
      }
    return Passes(what, int(count), vectors, not before, self._seconds(name, vectors), network)

  def _seconds(self, name, vectors=1):
    """Returns the seconds of a pass over all data."""
    timed = self._times[name]
    if name == "together" and vectors < self._layout.basis.draws and not self._layout.vectorized:
      if vectors not in self._fewer:
        self._fewer[vectors] = time_pass(lambda: self._advance(vectors), self.sample.batches)
      timed = self._fewer[vectors]
    read = 0.0 if self._operator.batches.cached else self._operator.batches.seconds
    return timed.seconds(self._scale) + read

  @property
  def _parameter_bytes(self):
    return sum(
      p.dtype.size * p.shape.num_elements()
      for p in map(tf.convert_to_tensor, self._operator.objective.parameters)
    )

  def _bases_bytes(self):
    """Returns the bytes that the bases add to a pass.

    Vectors of the pass itself are not counted.
    """
    basis = self._layout.basis
    # In memory in float64, vectors are rows; of others each is a copy.
    rows = basis.kind in ("memory", "none")
    return basis.held_bytes + (0 if rows else 8 * basis.n * basis.draws)

  def _refuse_too_large(self, peak):
    """Raises ValueError if the run takes more memory than there is.

    It takes the measured peak, and the bases.
    """
    there, bases = self._beginning.available + self._beginning.resident, self._bases_bytes()
    if peak + bases <= there:
      return
    remedies = [_SMALLER, _FEWER_VECTORS]
    raise ValueError(
      f"the run does not fit: model, data and a pass over {_BATCHES} batches take "
      f"{peak / 1e9:.3g} GB, Lanczos vectors {bases / 1e9:.3g} GB, and there are {there / 1e9:.3g} "
      "GB: " + "; ".join(reversed(remedies) if bases > peak else remedies)
    )

  def _place(self):
    if self._workdir is not None:
      mapped = "" if self._layout.basis.on_disk else ", mapped into memory"
      return f"files in {self._workdir}{mapped}"
    if self._layout.basis.distributed:
      return f"memory of each of {self._workers} workers"
    return f"files in {tempfile.gettempdir()}" if self._layout.basis.on_disk else "memory"


def _layout(operator, method, storage, workdir, workers) -> Layout:
  """Returns the run's `Layout`.

  If there is no room, raises ValueError, which says what would have room in the words of `plan`'s
  arguments.
  """
  try:
    return plan_layout(
      matrix.as_matrix(operator),
      method,
      storage,
      folder=workdir,
      workers=_equal_machines(workers, storage),
    )
  except storage_lib.NoRoomError as e:
    raise storage_lib.NoRoomError(f"{e} (the arguments storage, lanczos_steps and workdir)") from e


def _equal_machines(count, storage):
  """Returns the `Workers` of `count` machines like this one.

  None if vectors are not to be distributed over them.
  """
  if storage.place != "workers" or count < 2:
    return None
  return storage_lib.Workers(count, int(storage.memory or storage_lib.default_memory()))
