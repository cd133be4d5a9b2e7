"""Algorithm 1 of the paper: k draws of m Lanczos steps on one matrix."""

import dataclasses
import io
import json

from absl import logging
import numpy as np
import scipy.sparse.linalg

from tf_hessian import files, spectrum
from tf_hessian.curvature.group import lead
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.curvature.selfcheck import check_operator
from tf_hessian.distribute import machine
from tf_hessian.distribute.sharing import Sharing
from tf_hessian.experiments import environment, run_folder
from tf_hessian.experiments import identity as identity_lib
from tf_hessian.experiments.basis_plan import KINDS, Team, default_memory
from tf_hessian.experiments.lock_step import Bases, LockStep, plan_layout
from tf_hessian.experiments.progress import Progress
from tf_hessian.experiments.run_folder import RunFolder
from tf_hessian.numerics import checks, probes, quadrature, stopping
from tf_hessian.numerics.results import LanczosStatus


def spectral_density(
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
  patience=600.0,
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
  progress=True,
):
  """Estimates the whole eigenvalue density of the Hessian of a model's mean loss.

  The Hessian is that of the mean loss over the whole data set, in the model's variables.

  Args:
    model: a built `keras.Model`, or a list of tensors or variables.
    loss: see `objective.build_objective`.
    dataset: `tf.data.Dataset` of batches (inputs, targets[, sample_weight]), in a fixed order.
    num_draws: number k of start vectors (default: the paper's).
    lanczos_steps: number m of Lanczos steps for each (default: the paper's).
    seed: seed of the start vectors and of random layers.
    loss_weights: coefficients of several outputs' losses.
    variables: block of the Hessian: variables, layers, names or patterns.
    training: what `training` the model is called with; True means batch statistics in batch
      normalization, and dropout with fixed seeds.
    num_batches: use only the first so many batches.
    mode: see `HessianOperator`.
    deterministic: make products bitwise repeatable.
    cache_bytes: keep data sets up to this size in memory.
    strategy: a `tf.distribute.Strategy` whose replicas or workers share the batches; None for one
      device. Of several workers each calls this function, and all get the result, while the chief
      alone does the Lanczos steps and writes `workdir`. See docs/cluster.md.
    num_shards: see `Sharing`, also for the next.
    patience: seconds.
    jit_compile: see `HessianOperator`, also for the next.
    recompute_blocks: for models that hardly fit into memory.
    vectors_per_pass: how many draws advance together, with one pass over the data for the products
      of all. By default as many as fit into memory, if that is faster.
    target_error: stop when the density is good enough. Draws are added, up to `num_draws`, until
      the integral of the density's standard error is at most this; a draw's steps end, at
      `lanczos_steps` at the latest, once the last ten have changed its density by less in L1.
      `config["target"]` of the result has both errors, `stderr` and `change`, and `reached`.
    sigma_squared: variance of the kernel of that density.
    relative: see `Spectrum.density`.
    basis: where the Lanczos vectors live: "memory", "workers", "disk", "float32", "float32_disk",
      or "auto", which chooses by what there is room for; see docs/design/basis.md.
    memory_budget: bytes that vectors may take; by default 70 % of what the process can have.
    check: first check that products and data repeat and that H is symmetric (three products).
    workdir: folder for the state after each step; a run that was interrupted goes on from there and
      ends with bitwise the same tridiagonal matrices. The result is written there too, as
      spectrum.npz and spectrum.json. It has to be new or empty, or hold this run. None keeps
      everything in memory.
    progress: show a bar, or log lines where there is no terminal.

  Returns:
    A `Spectrum`.

  Raises:
    TypeError, ValueError: for bad arguments, data, or a matrix that can't be relied on.
    OSError: if `workdir` can't be written, or (ClusterError) other processes of a cluster are gone.
  """
  checks.check_count("num_draws", num_draws)
  checks.check_count("lanczos_steps", lanczos_steps)
  _check_machine(vectors_per_pass, basis, memory_budget)
  make_target(target_error, sigma_squared, relative, num_draws)
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
    strategy=Sharing(strategy, num_shards, patience),
    jit_compile=jit_compile,
    recompute_blocks=recompute_blocks,
  )
  return estimate_spectrum(
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
    progress=progress,
  )


def estimate_spectrum(
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
  progress=True,
  config=None,
):
  """Does what `spectral_density` does, for any symmetric linear operator.

  With a start vector g of its own, the weights of the single draw are the shares of its energy in
  the eigenvectors q_i, (g' q_i)^2 / |g|^2: the spectral density as g sees it. A Ritz value that has
  converged has its eigenvector's share; see `Spectrum.mass`.

  Args:
    operator: a `HessianOperator`, or a symmetric `scipy.sparse.linalg.LinearOperator` or matrix.
    num_draws: see `spectral_density`, also for the others.
    lanczos_steps: at most n; more are lowered to n, which is logged.
    seed: seed of the start vectors.
    start: "gradient" begins at the gradient of a `HessianOperator`'s mean loss, a vector (n,) at
      that; num_draws has to be 1. None for random vectors.
    vectors_per_pass: see `spectral_density`, also for the next five. Of operators that are no
      `HessianOperator`, one by default.
    target_error: L1 error.
    sigma_squared: variance.
    relative: whether that is relative.
    basis: kind.
    memory_budget: bytes.
    check: whether to check a `HessianOperator` first.
    workdir: folder for the state and the result, or None.
    progress: show progress.
    config: plain values to record in the result, such as an experiment's config.

  Returns:
    A `Spectrum`.

  Raises:
    TypeError, ValueError, OSError: see `spectral_density`.
  """
  checks.check_count("num_draws", num_draws)
  checks.check_count("lanczos_steps", lanczos_steps)
  operator = as_operator(operator)
  n = operator.shape[0]
  seed, lanczos_steps = checks.check_seed(seed), int(lanczos_steps)
  try:
    json.dumps(config)
  except TypeError as e:
    raise TypeError(f"config: expected plain values that JSON can hold: {e}") from e
  if lanczos_steps > n:
    logging.warning("lanczos_steps lowered from %d to n = %d", lanczos_steps, n)
    lanczos_steps = n
  start = _check_start(start, operator, num_draws)
  _check_machine(vectors_per_pass, basis, memory_budget)
  run = _Run(
    operator=operator,
    num_draws=int(num_draws),
    steps=lanczos_steps,
    seed=seed,
    start=start,
    target=make_target(target_error, sigma_squared, relative, num_draws),
    check=check and isinstance(operator, HessianOperator),
    show=progress,
  )
  options = {"vectors_per_pass": vectors_per_pass, "basis": basis, "memory": memory_budget}
  if not isinstance(operator, HessianOperator):
    return _measure(run, options, workdir, config)
  operator.agree(
    **environment.identity(),
    config=config,
    draws=num_draws,
    lanczos_steps=lanczos_steps,
    seed=seed,
    start=identity_lib.start_name(start),
    target=run.target and dataclasses.asdict(run.target),
    point=identity_lib.digest(operator),
  )
  options["team"] = _team(operator.engine, memory_budget)
  return lead(operator, lambda: _measure(run, options, workdir, config), _to_bytes, _from_bytes)


def _check_machine(vectors_per_pass, basis, memory_budget):
  if vectors_per_pass is not None:
    checks.check_count("vectors_per_pass", vectors_per_pass)
  checks.check_choice("basis", basis, KINDS)
  if memory_budget is not None:
    checks.check_positive("memory_budget", memory_budget)


def _team(engine, memory_budget):
  """Returns the `Team` of an engine's workers, all of which must call it, or None."""
  if not engine.followers:
    return None
  memory = default_memory() // engine.neighbours if memory_budget is None else int(memory_budget)
  return Team(engine.size, min(engine.gather([memory])))


def make_target(error, sigma_squared, relative, num_draws, /):
  """Returns the `stopping.Target` of a run, None if there is no error to be reached."""
  if error is None:
    return None
  if num_draws < 2:
    raise ValueError(f"num_draws: expected at least 2 with target_error, got {num_draws}")
  return stopping.Target(error, sigma_squared, relative)


def _measure(run, options, workdir, config):
  """Does the draws of a run, in a folder if there is one; returns the `Spectrum`."""
  if workdir is not None:
    run_folder.check(workdir)
  operator = run.operator
  about = identity_lib.describe(operator)
  layout = plan_layout(
    operator,
    run.num_draws,
    run.steps,
    folder=workdir,
    recorded={} if workdir is None else run_folder.recorded(workdir),
    first=run.num_draws if run.target is None else stopping.FIRST_DRAWS,
    **options,
  )
  settings = {
    "lanczos_steps": run.steps,
    "start": identity_lib.start_name(run.start),
    "target": run.target and dataclasses.asdict(run.target),
    **layout.description,
  }
  record = about | settings | {"config": config, "machine": machine.settings()}
  if workdir is None:
    return run.result(run.draws(layout, None), record)
  identity = {
    "n": operator.shape[0],
    "seed": run.seed,
    "point": identity_lib.digest(operator) if isinstance(operator, HessianOperator) else None,
    "product": identity_lib.product_digest(operator),
    **settings,
    **about,
  }
  with RunFolder(workdir, identity) as folder:
    result = run.result(run.draws(layout, folder), record)
    result.save(folder.path / "spectrum.npz")
    files.write_text(folder.path / "spectrum.json", json.dumps(result.summary(), indent=2))
    folder.clear_all_in_progress()
  return result


def as_operator(operator, /):
  """Returns what is given as a square SciPy linear operator.

  Raises:
    TypeError: if it is none, such as a model.
    ValueError: if it is not square.
  """
  try:
    result = scipy.sparse.linalg.aslinearoperator(operator)
  except TypeError as e:
    raise TypeError(
      "operator: expected a HessianOperator, a linear operator or a matrix, got "
      f"{type(operator).__name__}"
    ) from e
  if result.shape != (result.shape[0],) * 2:
    raise ValueError(f"operator: expected a square matrix, got shape {result.shape}")
  return result


def _check_start(start, operator, num_draws):
  """Returns a start: None, "gradient", or a vector (n,) float64 that is not zero."""
  if start is None:
    return None
  if num_draws != 1:
    raise ValueError(f"num_draws: expected 1 with a start vector of its own, got {num_draws}")
  if isinstance(start, str):
    checks.check_choice("start", start, ["gradient"])
    if not isinstance(operator, HessianOperator):
      raise ValueError('start: "gradient" is for a HessianOperator; give the vector')
    return start
  start = np.asarray(start, np.float64)
  checks.check_vector("start", start, operator.shape[0])
  if not np.isfinite(start).all() or not start.any():
    raise ValueError("start: expected a vector of finite numbers that is not zero")
  return start


def _to_bytes(result):
  file = io.BytesIO()
  result.write(file)
  return file.getvalue()


def _from_bytes(content):
  return spectrum.Spectrum.read(io.BytesIO(content))


@dataclasses.dataclass
class _Run:
  """The draws of one run."""

  operator: scipy.sparse.linalg.LinearOperator
  num_draws: int  # the most there may be, if there is a target
  steps: int  # likewise
  seed: int
  start: object  # see `_check_start`
  target: stopping.Target | None
  check: bool
  show: bool
  loss: float | None = None

  def draws(self, layout, folder):
    """Returns a list of (coefficients, wall time), computing what the folder does not have."""
    finished = {}
    for draw in range(self.num_draws) if folder else ():
      state = folder.load_draw(draw)
      if state:
        finished[draw] = state
    groups = layout.groups(self._missing(finished))
    distributed = getattr(self.operator, "distributed_basis", None)
    with Bases(layout.basis, folder, distributed=distributed) as bases:
      if groups:  # first, since there may be no room
        bases.open(groups[0])
      self._prepare(groups)
      if groups:
        self._take(groups, finished, layout, folder, bases)
      else:
        logging.info("all %d draws were finished before", self._wanted(finished))
    return [finished[draw] for draw in range(self._wanted(finished))]

  def _prepare(self, groups):
    """Looks at the operator before anything is computed with it."""
    if isinstance(self.operator, HessianOperator):
      if self.show:
        logging.info("building the functions of a batch; a minute or more for deep networks")
      self.loss = self.operator.loss()
    if groups and self.check:
      check_operator(self.operator, differences=False).raise_for_problems()

  def _take(self, groups, finished, layout, folder, bases):
    """Takes the steps of groups of draws, and of those that turn out to be needed after them."""
    point = identity_lib.digest(self.operator)
    total = self.num_draws * self.steps
    with Progress(total, done=len(finished) * self.steps, enabled=self.show) as progress:
      lock_step = LockStep(
        self.operator,
        layout,
        folder=folder,
        first=self._first,
        target=self.target,
        progress=progress,
        choose=True,
      )
      while groups:
        for group in groups:
          results = lock_step.run(group, bases.open(group))
          if identity_lib.digest(self.operator) != point:
            if folder:
              folder.clear_in_progress(group)
            raise ValueError("the model's variables changed during the run; the draw is not kept")
          for draw, (coefficients, seconds) in zip(group, results, strict=True):
            if folder:
              folder.save_draw(draw, coefficients, seconds)
            finished[draw] = coefficients, seconds
          bases.release(group)
        groups = layout.groups(self._missing(finished))

  def _wanted(self, finished):
    """Returns how many draws there should be, by what the finished ones among the first tell."""
    if self.target is None:
      return self.num_draws
    count = 0
    while all(draw in finished for draw in range(count)):
      rules = [_rule(finished[draw][0]) for draw in range(count)]
      wanted = self.target.next_draws(rules, self.num_draws)
      if wanted == count:
        break
      count = wanted
    return count

  def _missing(self, finished):
    return [draw for draw in range(self._wanted(finished)) if draw not in finished]

  def _first(self, draw):
    """Returns the start vector of a draw, of length 1."""
    if self.start is None:
      return probes.probe(self.seed, draw, self.operator.shape[0])
    v = self.operator.gradient() if isinstance(self.start, str) else self.start
    length = np.linalg.norm(v)
    if not length:
      raise ValueError("start: the gradient is exactly zero, so no direction is given")
    return v / length

  def result(self, draws, about):
    """Returns the `Spectrum` of finished draws."""
    operator = self.operator
    if self.target is not None:
      about = about | {"target": about["target"] | self._reached(draws)}
    return spectrum.Spectrum(
      diagonals=tuple(c["alphas"] for c, _ in draws),
      off_diagonals=tuple(c["betas"][:-1] for c, _ in draws),
      residuals=np.array([c["betas"][-1] for c, _ in draws]),
      statuses=tuple(str(c["status"]) for c, _ in draws),
      num_parameters=operator.shape[0],
      seed=self.seed if self.start is None else None,
      parameter_names=tuple(getattr(operator, "parameter_names", ())),
      parameter_shapes=tuple(getattr(operator, "parameter_shapes", ())),
      loss=self.loss,
      config=about,
      versions=environment.versions(),
      device=environment.device(),
      wall_times=np.array([seconds for _, seconds in draws]),
    )

  def _reached(self, draws):
    """Returns what became of the target, for records, and logs it."""
    target, usual = self.target, stopping.PAPER_DRAWS * stopping.PAPER_STEPS
    stderr = target.stderr([_rule(c) for c, _ in draws])
    n = self.operator.shape[0]
    change = target.change(
      (
        c["alphas"],
        c["betas"][:-1],
        str(c["status"]) == LanczosStatus.INVARIANT.name or len(c["alphas"]) == n,
      )
      for c, _ in draws
    )
    products = sum(len(c["alphas"]) for c, _ in draws)
    missing = [
      what for what, error in (("draws", stderr), ("steps", change)) if error > target.error
    ]
    logging.log(
      logging.WARNING if missing else logging.INFO,
      "target_error %g: %s; L1 standard error of the draws %.3g, change by the last %d steps %.3g; "
      "%d draws, %d products, %d (%.0f %%) %s than %d draws of %d steps",
      target.error,
      f"not reached, allow more {' and '.join(missing)}" if missing else "reached",
      stderr,
      stopping.WINDOW,
      change,
      len(draws),
      products,
      abs(usual - products),
      100 * abs(usual - products) / usual,
      "fewer" if products <= usual else "more",
      stopping.PAPER_DRAWS,
      stopping.PAPER_STEPS,
    )
    return {
      "stderr": stderr,
      "change": change if np.isfinite(change) else None,
      "reached": not missing,
      "products": products,
      "saved": usual - products,
    }


def _rule(coefficients):
  return quadrature.gauss_quadrature(coefficients["alphas"], coefficients["betas"][:-1])
