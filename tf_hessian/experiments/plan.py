"""What a density run will take, before it is begun: seconds, memory, network, and its error.

A pass over two batches is timed, the very pass of the run, and scaled to the data set by the sizes
of the batches. So are the Lanczos steps, on a basis of few rows, and the building of functions.
Peak memory is that of the timed pass, which has data and model in it, and of the bases that the run
makes.
"""

import collections
import dataclasses
import tempfile
import time

from absl import logging
import tensorflow as tf

from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.distribute import memory, traffic
from tf_hessian.experiments import basis_plan, run_folder
from tf_hessian.experiments.density_run import make_target
from tf_hessian.experiments.lock_step import SHARED_FIRST, LockStep, plan_layout
from tf_hessian.experiments.pilot import ExpectedError, expect_error
from tf_hessian.experiments.timing import largest_part, time_lanczos, time_pass
from tf_hessian.numerics import checks, probes, stopping

_BATCHES = 2  # of each replica, in what is timed
_CHECK_PRODUCTS = 3  # of `check_operator`
_LOSS_PASSES = 2  # for the weights of the examples, and for the loss on record
_PILOT_SHARE, _PILOT_LEAST = 0.05, 5.0  # of the seconds of the run; seconds
_CLUSTERS = (
  tf.distribute.MultiWorkerMirroredStrategy,
  tf.distribute.ParameterServerStrategy,
)


@dataclasses.dataclass(frozen=True)
class Passes:
  """Passes of one kind over the data."""

  what: str
  count: int
  vectors: int  # that each multiplies for the run
  for_draws: bool  # or before them
  seconds: float  # of each, without the network
  network_bytes: dict  # design -> bytes of each that a worker receives and sends


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a density run is expected to take; made by `plan`. `print` shows it as a table.

  Bytes are of the process that has the Lanczos vectors. Seconds are without the network.
  """

  num_parameters: int
  num_batches: int
  num_examples: int
  num_draws: int  # of the run; with a target_error, those that it suggests
  lanczos_steps: int
  vectors_per_pass: int
  workers: int
  passes: tuple  # of `Passes`
  startup_seconds: float  # reading the data, and building the functions of a batch
  lanczos_seconds: float  # orthogonalization, and recording each step if there is a workdir
  host_bytes: int  # peak of the process's resident memory
  available_bytes: int  # that the process could have had at the beginning, with what it had
  device_bytes: int | None  # peak on an accelerator; None without one
  basis: str  # kind, see `spectral_density`
  basis_count: int  # bases at a time
  basis_bytes: int  # of the rows of all of these
  basis_place: str
  basis_reason: str
  error: ExpectedError

  @property
  def pass_seconds(self):
    """Seconds of a pass of the draws."""
    return self._of_draws.seconds

  @property
  def num_passes(self):
    """Passes over the data of the whole run."""
    return sum(p.count for p in self.passes)

  @property
  def num_products(self):
    """Products of H with vectors in the whole run."""
    return sum(p.count * p.vectors for p in self.passes)

  @property
  def total_seconds(self):
    """Seconds of the whole run."""
    passes = sum(p.count * p.seconds for p in self.passes)
    return self.startup_seconds + passes + self.lanczos_seconds

  @property
  def network_bytes(self):
    """Bytes of the whole run that a worker receives and sends: dict, by design."""
    designs = self._of_draws.network_bytes
    return {d: sum(p.count * p.network_bytes[d] for p in self.passes) for d in designs}

  @property
  def _of_draws(self):
    return max((p for p in self.passes if p.for_draws), key=lambda p: p.count * p.vectors)

  def to_dict(self):
    """Returns all of it as plain values, for JSON."""
    derived = ("pass_seconds", "num_passes", "num_products", "total_seconds", "network_bytes")
    return dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}

  def report(self):
    """Returns a table: text of a few lines."""
    return "\n".join(f"{name:21s} {text}" for name, text in self._lines())

  def __str__(self):
    return self.report()

  def _lines(self):
    each = self._of_draws
    yield "parameters", f"{self.num_parameters:,}"
    yield "data", f"{self.num_examples:,} examples in {self.num_batches:,} batches"
    yield (
      "draws",
      f"{self.num_draws} of {self.lanczos_steps} steps, {self.vectors_per_pass} to a pass",
    )
    yield (
      "passes",
      f"{self.num_passes:,} for {self.num_products:,} products; {each.seconds:.3g} s a pass "
      f"({each.what})",
    )
    yield "start-up", f"{self.startup_seconds:.3g} s"
    yield "Lanczos", f"{self.lanczos_seconds:.3g} s"
    by = "" if self.workers == 1 else f" by {self.workers} equal machines, without the network"
    yield "total time", f"{_clock(self.total_seconds)} ({self.total_seconds:.3g} s){by}"
    yield (
      "peak memory",
      f"{self.host_bytes / 1e9:.3g} GB, of {self.available_bytes / 1e9:.3g} GB that there are",
    )
    if self.device_bytes is not None:
      yield "accelerator's memory", f"{self.device_bytes / 1e9:.3g} GB"
    yield (
      "basis",
      f"{self.basis}: {self.basis_count} of {self.basis_bytes / self.basis_count / 1e9:.3g} GB in "
      f"{self.basis_place}",
    )
    yield "", self.basis_reason
    yield from self._network_lines(each)
    yield from self._error_lines()

  def _network_lines(self, each):
    if self.workers == 1:
      yield "network", "nothing, in one process"
    for design, total in self.network_bytes.items():
      one = each.network_bytes[design]
      yield (
        "network",
        f"{one / 1e9:.3g} GB a pass, {total / 1e9:.3g} GB in all for each worker ({design})",
      )

  def _error_lines(self):
    e = self.error
    if e.draws is not None:
      yield (
        "error of the draws",
        f"L1 {e.draws:.2g} (integral of the standard error {e.stderr:.2g})",
      )
    if e.steps is not None:
      yield "error of the steps", f"L1 {e.steps:.2g}, by the last {stopping.WINDOW} of a draw"
    if e.draws_for_target is not None:
      yield "target error", f"suggests {e.draws_for_target} draws"
    elif e.target is not None and e.steps is not None:
      yield (
        "target error",
        f"needs more than {self.lanczos_steps} steps; planned are all {self.num_draws} draws",
      )
    if e.reason:
      yield "error not known", e.reason
    if e.pilot_steps:
      yield (
        "errors are by",
        f"{e.pilot_draws} draws of {e.pilot_steps} steps on {e.num_batches} batches, whose "
        "spectrum is not that of all",
      )


@dataclasses.dataclass(frozen=True)
class Beginning:
  """Time and memory at the moment from which a run is planned; made by `begin`."""

  seconds: float
  resident: int
  available: int  # that the process can have besides


def begin():
  """Returns the `Beginning` of a plan; the peak of memory is measured from here on."""
  memory.reset_peak()
  return Beginning(time.monotonic(), memory.resident(), basis_plan.available_memory())


def plan(
  model,
  loss=None,
  dataset=None,
  *,
  num_draws=10,
  lanczos_steps=90,
  seed=0,
  loss_weights=None,
  variables=None,
  training=False,
  num_batches=None,
  mode=None,
  deterministic=True,
  cache_bytes=2**30,
  strategy=None,
  num_shards=16,
  jit_compile=False,
  recompute_blocks=None,
  vectors_per_pass=None,
  target_error=None,
  sigma_squared=1e-5,
  relative=False,
  basis="auto",
  memory_budget=None,
  check=True,
  workdir=None,
  workers=1,
  pilot_seconds=60.0,
):
  """Tells what `spectral_density` of the same arguments will take, by timing two batches.

  It reads the data set once, builds the functions of a batch, and times the passes that the run
  would make. The model is not changed and nothing is written but temporary files. The figures hold
  for this machine and for how busy it is now, and for a process that begins with it: another that
  has built such functions before needs less for the start-up.

  Args:
    model, loss, dataset, num_draws, lanczos_steps, seed: see `spectral_density`; so are the others.
    loss_weights, variables, training, num_batches, mode: what the matrix is.
    deterministic, cache_bytes, jit_compile, recompute_blocks: how products are computed.
    strategy: None, or one whose replicas are in this process.
    num_shards: what a `ParameterServerStrategy` would hand out.
    vectors_per_pass, basis, memory_budget: where vectors live, and how many share a pass.
    target_error: if given, the draws are those that the pilot says are needed for it, `num_draws`
      at most; steps are counted as if no draw ended early.
    sigma_squared, relative: kernel of the density whose error is told.
    check: whether the run checks the operator first.
    workdir: where the run would write; of a folder with a run in it, the run's choices are kept
      to, and the plan is of all of it.
    workers: number of equal machines to plan for, each like this one. They share the batches; the
      network is counted for both kinds of clusters, and takes no time here.
    pilot_seconds: most seconds for the pilot that the error is told by, of which 5 % of the run's
      time are taken; 0 leaves it out.

  Returns:
    A `Plan`.

  Raises:
    TypeError, ValueError: for bad arguments, and for a run that does not fit into memory or on the
      disk: says what to change.
  """
  if isinstance(strategy, _CLUSTERS):
    raise ValueError(
      "strategy: a plan is made in one process, not by a cluster: leave it out, and give the "
      "number of its workers as workers"
    )
  beginning = begin()
  operator = HessianOperator(
    model,
    loss,
    dataset,
    loss_weights=loss_weights,
    variables=variables,
    training=training,
    seed=seed,
    num_batches=num_batches,
    mode=mode,
    deterministic=deterministic,
    cache_bytes=cache_bytes,
    strategy=strategy,
    jit_compile=jit_compile,
    recompute_blocks=recompute_blocks,
  )
  return plan_operator(
    operator,
    num_draws=num_draws,
    lanczos_steps=lanczos_steps,
    seed=seed,
    vectors_per_pass=vectors_per_pass,
    target_error=target_error,
    sigma_squared=sigma_squared,
    relative=relative,
    basis=basis,
    memory_budget=memory_budget,
    check=check,
    workdir=workdir,
    workers=workers,
    num_shards=num_shards,
    pilot_seconds=pilot_seconds,
    beginning=beginning,
  )


def plan_operator(
  operator,
  /,
  *,
  num_draws=10,
  lanczos_steps=90,
  seed=0,
  start=None,
  vectors_per_pass=None,
  target_error=None,
  sigma_squared=1e-5,
  relative=False,
  basis="auto",
  memory_budget=None,
  check=True,
  workdir=None,
  workers=1,
  num_shards=16,
  pilot_seconds=60.0,
  beginning=None,
):
  """Does what `plan` does, for `estimate_spectrum` of a `HessianOperator`.

  Args:
    operator: the `HessianOperator`, in one process, of which no pass was run yet.
    num_draws: see `estimate_spectrum`, also for the others.
    lanczos_steps: steps.
    seed: seed.
    start: None or "gradient".
    vectors_per_pass, target_error, sigma_squared, relative: see `plan`.
    basis, memory_budget, check: see `plan`.
    workdir, workers, num_shards, pilot_seconds: see `plan`.
    beginning: what `begin` has returned before the operator was made, so that this counts too.

  Returns:
    A `Plan`.

  Raises:
    TypeError, ValueError: see `plan`.
  """
  for name, count in (
    ("num_draws", num_draws),
    ("lanczos_steps", lanczos_steps),
    ("workers", workers),
    ("num_shards", num_shards),
  ):
    checks.check_count(name, count)
  checks.check_choice("start", start, [None, "gradient"])
  if pilot_seconds != 0:
    checks.check_positive("pilot_seconds", pilot_seconds)
  checks.check_positive("sigma_squared", sigma_squared)
  make_target(target_error, sigma_squared, relative, num_draws)
  beginning = beginning or begin()
  steps = min(int(lanczos_steps), operator.shape[0])
  layout = _layout(
    operator,
    num_draws,
    steps,
    vectors_per_pass=vectors_per_pass,
    basis=basis,
    memory=memory_budget,
    folder=workdir,
    recorded={} if workdir is None else run_folder.recorded(workdir),
    first=num_draws if target_error is None else stopping.FIRST_DRAWS,
    team=_team(workers, basis, memory_budget),
  )
  built = time.monotonic() - beginning.seconds
  planner = _Planner(
    operator, layout, steps, start=start, check=check, workers=workers, num_shards=num_shards
  )
  planner.measure(beginning, built, workdir)
  error = expect_error(
    planner.sample,
    num_draws,
    steps,
    seed=seed,
    sigma_squared=sigma_squared,
    relative=relative,
    target_error=target_error,
    seconds=min(
      pilot_seconds, max(_PILOT_LEAST, _PILOT_SHARE * planner.plan(num_draws).total_seconds)
    ),
  )
  if error.draws_for_target is not None:
    num_draws = min(num_draws, error.draws_for_target)
  return dataclasses.replace(planner.plan(num_draws), error=error)


class _Planner:
  """Measures the parts of a run, and puts them together."""

  def __init__(self, operator, layout, steps, /, *, start, check, workers, num_shards):
    self._operator = operator
    self._layout = layout
    self._steps = steps
    self._start = start
    self._check = check
    self._workers = workers
    self._num_shards = min(num_shards, operator.batches.num_batches)
    replicas = operator.engine.description.get("replicas", 1)
    self._fewer = {}  # number of draws in lock step -> `TimedPass`
    self.sample = operator.sample(_BATCHES * replicas)
    self._lock_step = LockStep(
      self.sample, layout, folder=None, first=None, target=None, progress=None
    )
    sizes, sampled = operator.batches.sizes, self.sample.batches.sizes
    self._scale = largest_part(sizes, workers * replicas) / largest_part(sampled, replicas)

  def measure(self, beginning, built, workdir, /):
    """Runs what is timed, and measures memory; raises ValueError if the run can't fit."""
    self._beginning, self._built = beginning, built
    self._workdir = workdir
    layout, sample = self._layout, self.sample
    vector = probes.probe(0, 0, sample.shape[0])
    logging.info("timing passes over %d batches", sample.batches.num_batches)
    self._times = {}
    self._time("loss", sample.loss)
    self._time("one", lambda: sample.matvec(vector))
    if self._start is not None:
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
    self._lanczos = time_lanczos(layout.basis.part(), recorded=workdir is not None)

  def _advance(self, count):
    """Makes the products of a step of so many draws, as the run does."""
    vector = probes.probe(0, 0, self.sample.shape[0])
    self._lock_step.products(dict.fromkeys(range(count), vector))

  def plan(self, num_draws, /):
    """Returns the `Plan` of a run of so many draws, without its error."""
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
      lanczos_steps=self._steps,
      vectors_per_pass=layout.vectors_per_pass,
      workers=int(self._workers),
      passes=passes,
      startup_seconds=startup,
      lanczos_seconds=num_draws * self._lanczos.seconds(self._steps, lasting),
      host_bytes=self._host,
      available_bytes=self._beginning.available + self._beginning.resident,
      device_bytes=self._device,
      basis=basis.kind,
      basis_count=basis.draws,
      basis_bytes=basis.rows_bytes,
      basis_place=self._place(),
      basis_reason=basis.reason,
      error=None,
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
    if self._start is not None:
      yield self._row("gradient", "gradient", 1, 0, before=True)
    noted = operator.deterministic and self._workdir is not None  # in the run's folder
    before = noted + _CHECK_PRODUCTS * self._check
    if before:
      yield self._row("one", "one vector", before, 1, before=True)
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
    """Returns (dict: vectors that share a pass -> number of such passes, passes of one vector)."""
    layout = self._layout
    sizes = collections.Counter(len(group) for group in layout.groups(range(num_draws)))
    if layout.vectors_per_pass == 1:
      return {}, num_draws * self._steps
    alone = 0 if layout.vectorized else sizes.pop(1, 0)
    return {size: count * self._steps for size, count in sizes.items()}, alone * self._steps

  def _row(self, name, what, count, vectors, before=False):
    """Returns the `Passes` of one kind; they are moved whole, also if places are not used."""
    layout, n = self._layout, self._operator.shape[0]
    together = name == "together"
    moved = 8 * n * (layout.vectors_per_pass if together else vectors)
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
    """Returns the bytes that the bases add to a pass: what is not a vector of the pass itself."""
    basis = self._layout.basis
    # In memory in float64, vectors are rows; of others each is a copy.
    copies = 0 if basis.kind == "memory" else 8 * basis.n * basis.draws
    return basis.held_bytes + copies

  def _refuse_too_large(self, peak):
    """Raises ValueError if what has been measured and the bases are more than there is."""
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
    if self._layout.basis.kind == "workers":
      return f"memory of each of {self._workers} workers"
    return f"files in {tempfile.gettempdir()}" if self._layout.basis.on_disk else "memory"


_SMALLER = (
  "take smaller batches (config.hessian.batch_size), or compute activations again "
  "(recompute_blocks=4)"
)
_FEWER_VECTORS = (
  'let fewer draws share a pass (vectors_per_pass), take fewer lanczos_steps, or basis="float32" '
  'or "disk"'
)


def _layout(operator, num_draws, steps, **options):
  """Returns the run's `Layout`; says in the words of the arguments what would have room."""
  try:
    return plan_layout(operator, num_draws, steps, **options)
  except basis_plan.NoRoomError as e:
    raise ValueError(
      f"{e}. These are vectors_per_pass, lanczos_steps, memory_budget, workdir"
    ) from e


def _team(workers, basis, memory_budget):
  """Returns the `Team` of machines like this one, if vectors are to be spread over them."""
  if basis != "workers" or workers < 2:
    return None
  return basis_plan.Team(workers, int(memory_budget or basis_plan.default_memory()))


def _clock(seconds):
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}"
