"""Draws that advance in lock step, so that one pass over the data gives the products of several."""

import contextlib
import dataclasses
import tempfile
import threading
import time

from absl import logging
import numpy as np
import threadpoolctl

from tf_hessian.experiments import basis_plan, run_folder
from tf_hessian.numerics import checks
from tf_hessian.numerics import columns as columns_lib
from tf_hessian.numerics.lanczos import Lanczos, breakdown_tolerance
from tf_hessian.numerics.results import LanczosStatus

_MOST_DRAWS = 32
# Passes that draws share before those products are made alone once, and the times compared: the
# first, in which functions are built, and two more.
SHARED_FIRST = 3
_RESULTS_BYTES = 2**32  # that the results of all draws may take
# Of a draw in a pass, bytes a parameter: its vector and its sums, on their way through TensorFlow.
_PASS_BYTES = 36


@dataclasses.dataclass(frozen=True)
class Layout:
  """How many draws share a pass, and where their bases live."""

  vectors_per_pass: int
  basis: basis_plan.BasisPlan
  vectorized: (
    bool  # products of a pass are computed together, so rounding depends on vectors_per_pass
  )
  chosen: bool  # by `plan_layout`, not by the user

  @property
  def unsure(self):
    """Whether products might take less time alone, and may be made so: the user didn't choose."""
    return self.chosen and not self.vectorized and self.vectors_per_pass > 1

  @property
  def description(self):
    """What the bits of a result depend on, and what lies in a run's folder: for records."""
    return {
      "basis": self.basis.kind,
      "draws_per_pass": self.vectors_per_pass if self.vectorized else None,
    }

  def groups(self, draws, /):
    """Returns lists of the draws that are in lock step; each draw has its place in a pass."""
    numbers = sorted({d // self.vectors_per_pass for d in draws})
    return [[d for d in draws if d // self.vectors_per_pass == g] for g in numbers]


def plan_layout(
  operator,
  num_draws,
  steps,
  /,
  *,
  vectors_per_pass=None,
  basis="auto",
  memory=None,
  folder=None,
  recorded=None,
  first=None,
  team=None,
):
  """Chooses how many draws share a pass, within a budget of memory.

  As many as possible, in passes of about equal size, whose bases fit into memory in float64. If not
  even one fits, a basis lives where `basis_plan` says.

  Args:
    operator: a linear operator of shape (n, n).
    num_draws: number of draws of the run.
    steps: Lanczos steps of a draw.
    vectors_per_pass: the number, if it is not to be chosen.
    basis: one of `basis_plan.KINDS`.
    memory: bytes that bases and vectors may take; by default 70 % of what the process can have.
    folder: the run's folder, or None.
    recorded: what is on record of the run in the folder, whose `Layout.description` is kept to.
    first: number of draws that are begun with, if more may follow.
    team: the `basis_plan.Team` of workers, or None.

  Returns:
    A `Layout`.

  Raises:
    TypeError, ValueError: for bad arguments, or if there is no room; says what would help.
  """
  n = operator.shape[0]
  _check_results(num_draws, steps)
  # Of what `matmat` does nothing is known.
  vectorized = bool(getattr(operator, "vectorized", not hasattr(operator, "products")))
  if memory is None:
    memory = basis_plan.default_memory()
  else:
    checks.check_positive("memory_budget", memory)
  checks.check_choice("basis", basis, basis_plan.KINDS)
  recorded = recorded or {}
  chosen = vectors_per_pass is None
  if chosen and vectorized:
    vectors_per_pass = recorded.get("draws_per_pass")
  if basis == "auto" and (team or recorded.get("basis") != "workers"):
    basis = recorded.get("basis") or "auto"
  precision = getattr(operator, "precision", 0.0)
  disk = basis_plan.free_disk(folder or tempfile.gettempdir()) + run_folder.held_bytes(folder)

  def plan(count, kind):
    passes = _PASS_BYTES * n * (count if count > 1 else 0)
    return basis_plan.plan_basis(
      n,
      steps,
      min(count, num_draws),
      kind=kind,
      memory=max(0, memory - passes),
      disk=disk,
      precision=precision,
      in_files=folder is not None,
      team=team and dataclasses.replace(team, memory=max(0, team.memory - passes)),
    )

  if vectors_per_pass is not None:
    checks.check_count("vectors_per_pass", vectors_per_pass)
    count = int(vectors_per_pass) if vectorized else min(int(vectors_per_pass), num_draws)
    return Layout(count, plan(count, basis), vectorized, chosen)
  if vectorized and first is not None:
    num_draws = min(num_draws, first)  # places that are not used cost as much as others
  most = _most_draws(operator, num_draws)
  sizes = {-(-num_draws // groups) for groups in range(1, num_draws + 1)}
  if not vectorized:
    sizes |= {size + size % 2 for size in sizes if size > 1}  # loops take two in each turn
  one = plan(1, basis)
  if one.on_disk:
    return Layout(1, one, vectorized, chosen)
  for count in sorted(sizes, reverse=True):
    if count <= most:
      try:
        return Layout(count, plan(count, one.kind), vectorized, chosen)
      except basis_plan.NoRoomError:
        continue
  return Layout(1, one, vectorized, chosen)


def _check_results(num_draws, steps):
  """Refuses draws whose results alone, of 1 kB and a few numbers a step, are too much."""
  each = 1000 + 64 * steps
  if num_draws * each > _RESULTS_BYTES:
    raise ValueError(
      f"num_draws: expected at most {_RESULTS_BYTES // each:,} draws of {steps} steps, whose "
      f"results take {_RESULTS_BYTES / 1e9:.2g} GB, got {num_draws}"
    )


def _most_draws(operator, num_draws):
  """Returns how many draws may share a pass of an operator, apart from memory for them."""
  if not hasattr(operator, "products"):
    return 1  # of a matrix or another operator it is not known whether that is any use
  if operator.vectorized:
    return min(num_draws, operator.vectors_per_pass)
  return min(num_draws, _MOST_DRAWS)


class Bases:
  """The bases of draws in progress; a context manager that gives them back.

  Args:
    plan: a `BasisPlan`.
    folder: a `RunFolder` that holds them; None for memory, or files for the time being.
    distributed: function (steps, path or None) -> `Basis` that is spread over workers, if they are.
  """

  def __init__(self, plan, folder, /, *, distributed=None):
    self._plan = plan
    self._folder = folder
    self._distributed = distributed
    self._open = {}
    self._spare = []

  def open(self, draws, /):
    """Returns the bases of a group of draws, making those that there are not yet.

    Raises:
      OSError: if there is no room for one.
    """
    missing = [draw for draw in draws if draw not in self._open]
    if not (self._folder or self._plan.on_disk or self._plan.kind == "workers"):
      more = max(0, len(missing) - len(self._spare))
      self._spare += self._plan.open_in_memory(more)
    for draw in missing:
      self._open[draw] = self._spare.pop() if self._spare else self._new(draw)
    return [self._open[draw] for draw in draws]

  def release(self, draws, /):
    """Says that draws are finished."""
    for draw in draws:
      basis = self._open.pop(draw)
      if self._folder:
        basis.discard()
      else:
        self._spare.append(basis)
    if self._folder:
      self._folder.clear_in_progress(draws)

  def _new(self, draw):
    path = self._folder.basis_path(draw) if self._folder else None
    if self._plan.kind == "workers":
      return self._distributed(self._plan.steps, path)
    return self._plan.open(path)

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    for basis in (*self._open.values(), *self._spare):
      basis.close()


def without_blas_threads(n, /):
  """Returns a context in which steps with vectors of length n go with passes over the data.

  BLAS's threads, which small vectors are given to, go on spinning after each call. Passes of a
  small network, which need the processor, took 1.5 times as long for that.
  """
  if n > columns_lib.SMALL:
    return contextlib.nullcontext()
  return _one_blas_thread()


@contextlib.contextmanager
def _one_blas_thread():
  """Leaves BLAS one thread as long as any thread of this process is inside."""
  with _Limit.lock:
    if not _Limit.inside:
      _Limit.limits = threadpoolctl.threadpool_limits(1, user_api="blas")
    _Limit.inside += 1
  try:
    yield
  finally:
    with _Limit.lock:
      _Limit.inside -= 1
      if not _Limit.inside:
        _Limit.limits.restore_original_limits()


class _Limit:
  lock = threading.Lock()
  inside = 0
  limits = None


class LockStep:
  """Takes the Lanczos steps of some draws at a time.

  Args:
    operator: the linear operator.
    layout: a `Layout`.
    folder: a `RunFolder` that keeps the state after each step, or None.
    first: function (draw) -> start vector (n,) float64 of length 1.
    target: a `stopping.Target` that ends a draw's steps, or None.
    progress: a `Progress`.
    choose: whether to find out, by a pass of the run itself, if products that share a pass take
      longer than alone; they then don't share any more.
  """

  def __init__(self, operator, layout, /, *, folder, first, target, progress, choose=False):
    self._operator = operator
    self._layout = layout
    self._folder = folder
    self._first = first
    self._target = target
    self._progress = progress
    self._choose = choose and layout.unsure
    self._together = layout.vectors_per_pass > 1
    self._seconds = []  # of a product, in each pass that was shared to find out
    self._scratch = None

  def run(self, draws, bases, /):
    """Takes all steps of a group of draws.

    Args:
      draws: list of numbers.
      bases: for each, the `Basis` that it may use.

    Returns:
      list of (`Lanczos.coefficients`, seconds).
    """
    # A matrix of the caller may need BLAS's threads.
    passes = hasattr(self._operator, "products")
    with without_blas_threads(self._operator.shape[0]) if passes else contextlib.nullcontext():
      return self._run(draws, bases)

  def _run(self, draws, bases):
    states, seconds = {}, {}
    for draw, basis in zip(draws, bases, strict=True):
      states[draw], seconds[draw] = self._begin(draw, basis)
    while True:
      running = [d for d, s in states.items() if s.status is LanczosStatus.RUNNING]
      if not running:
        break
      begin = time.monotonic()
      self._step({d: states[d] for d in running})
      spent = (time.monotonic() - begin) / len(running)
      for draw in running:
        seconds[draw] += spent
        if self._folder:
          self._folder.save_step(draw, states[draw], seconds[draw])
      self._show(running, states)
    for draw, state in states.items():
      if state.status is LanczosStatus.INVARIANT:
        logging.info("draw %d: %s (%d nodes)", draw, state.status.value, state.num_steps)
    return [(states[d].coefficients(), seconds[d]) for d in draws]

  def _step(self, states):
    """Takes one step of each draw in draw -> `Lanczos`."""
    products = self.products({d: self._vector(state) for d, state in states.items()})
    for state, product in zip(states.values(), products, strict=True):
      status = state.update(product)
      if (
        self._target
        and status is LanczosStatus.RUNNING
        and self._target.enough_steps(*state.tridiagonal())
      ):
        state.end()

  def _begin(self, draw, basis):
    """Returns a draw's `Lanczos`, perhaps that of an earlier start of the run, and its seconds."""
    resumed = self._folder and self._folder.load_step(draw, basis)
    if not resumed:
      basis.store(0, self._first(draw))
    # With rounded rows, a residual of rounding error is as large as that.
    precision = float(np.finfo(basis.dtype).eps)
    state = Lanczos(basis, tolerance=breakdown_tolerance(basis.n, precision))
    if resumed:
      coefficients, seconds = resumed
      state.restore(coefficients)
      self._progress.resume(basis.steps if state.status in _EARLY else state.num_steps)
      return state, seconds
    if self._folder:
      self._folder.save_step(draw, state, 0.0)
    return state, 0.0

  def _vector(self, state):
    """Returns what a `Lanczos` is to be multiplied by: (n,), or where that is spread."""
    if self._layout.basis.kind == "workers":
      return state.vectors, state.num_steps
    return state.vector

  def products(self, vectors, /):
    """Returns the products with vectors, in their order, (n,) each.

    Args:
      vectors: draw -> (n,), or (basis, number of a row) of all if they are spread over workers.
    """
    if self._layout.vectorized and self._layout.vectors_per_pass > 1:
      return self._shared(vectors, [draw % self._layout.vectors_per_pass for draw in vectors])
    if not self._together or len(vectors) == 1:
      return [self._alone_product(v) for v in vectors.values()]
    if self._choose and len(self._seconds) == SHARED_FIRST:
      return self._compared(vectors)
    begin = time.monotonic()
    result = self._shared(vectors, list(range(len(vectors))))
    if self._choose:
      self._seconds.append((time.monotonic() - begin) / len(vectors))
    return result

  def _compared(self, vectors):
    """Returns products, each by itself; if that takes less time, others don't share a pass."""
    result, seconds = [], []
    for vector in vectors.values():
      begin = time.monotonic()
      result.append(self._alone_product(vector))
      seconds.append(time.monotonic() - begin)
    # The least of each, since other programs can only make them longer, as the first is by far.
    each, alone = min(self._seconds), min(seconds)
    logging.info("products that share a pass take %.3g s each, alone %.3g", each, alone)
    self._choose, self._together = False, each <= alone
    return result

  def _alone_product(self, vector):
    if isinstance(vector, tuple):
      return self._operator.distributed_products([vector])[0]
    return self._operator.matvec(vector)

  def _shared(self, vectors, places):
    """Returns the products by one pass, in which each vector has its place."""
    vectors_per_pass, vectors = self._layout.vectors_per_pass, list(vectors.values())
    if isinstance(vectors[0], tuple):
      return self._operator.distributed_products(
        vectors, places=places, vectors_per_pass=vectors_per_pass
      )
    columns = self._filled(
      places, vectors, vectors_per_pass if self._layout.vectorized else len(vectors)
    )
    if hasattr(self._operator, "products"):
      result = self._operator.products(columns, vectors_per_pass=vectors_per_pass)
    else:
      result = self._operator.matmat(columns.T).T
    return [result[place] for place in places]

  def _filled(self, rows, vectors, count):
    """Returns (count, n) with vectors in some rows, and zeros in the others."""
    if self._scratch is None or len(self._scratch) != count:
      self._scratch = np.zeros((count, self._operator.shape[0]))
    else:
      self._scratch[:] = 0.0
    for row, vector in zip(rows, vectors, strict=True):
      self._scratch[row] = vector
    return self._scratch

  def _show(self, running, states):
    ended = [d for d in running if states[d].status in _EARLY]
    skipped = sum(self._layout.basis.steps - states[d].num_steps for d in ended)
    steps = sorted({states[d].num_steps for d in running})
    draws = f"draw {running[0]}" if len(running) == 1 else f"draws {running[0]}-{running[-1]}"
    self._progress.advance(f"{draws}, step {steps[-1]}", products=len(running), skipped=skipped)


_EARLY = (LanczosStatus.INVARIANT, LanczosStatus.CONVERGED)
