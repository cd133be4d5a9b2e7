"""Algorithm 1 of the paper: k draws of m Lanczos steps on one matrix."""

import hashlib
import json
import pathlib
import tempfile
import time

from absl import logging
import numpy as np
import scipy.sparse.linalg

from tf_hessian import files, spectrum
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.curvature.selfcheck import check_operator
from tf_hessian.distribute import machine
from tf_hessian.experiments import environment
from tf_hessian.experiments.leading import lead
from tf_hessian.experiments.progress import Progress
from tf_hessian.experiments.run_folder import RunFolder
from tf_hessian.numerics import checks, probes
from tf_hessian.numerics.lanczos import Lanczos
from tf_hessian.numerics.results import LanczosStatus

_STREAM = 2**31 + 2  # of the vector that a matrix is known by, apart from those of the draws


def spectral_density(
  model,
  loss,
  dataset,
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
    num_shards: see `HessianOperator`, also for the next three.
    patience: seconds.
    jit_compile: compile by XLA.
    recompute_blocks: for models that hardly fit into memory.
    check: first check that products and data repeat and that H is symmetric (three products).
    workdir: folder for the state after each step; a run that was interrupted goes on from there and
      ends with bitwise the same tridiagonal matrices. The result is written there too, as
      spectrum.npz and spectrum.json. None keeps everything in memory.
    progress: show a bar, or log lines where there is no terminal.

  Returns:
    A `Spectrum`.

  Raises:
    TypeError, ValueError: for bad arguments, data, or a matrix that can't be relied on.
    OSError: if `workdir` can't be written, or (ClusterError) other processes of a cluster are gone.
  """
  checks.check_count("num_draws", num_draws)
  checks.check_count("lanczos_steps", lanczos_steps)
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
    num_shards=num_shards,
    patience=patience,
    jit_compile=jit_compile,
    recompute_blocks=recompute_blocks,
  )
  return estimate_spectrum(
    operator,
    num_draws=num_draws,
    lanczos_steps=lanczos_steps,
    seed=seed,
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
  run = _Run(operator, num_draws, lanczos_steps, seed, start, check, progress)
  if not isinstance(operator, HessianOperator):
    return _measure(run, workdir, config)
  operator.agree(
    **environment.identity(),
    config=config,
    draws=num_draws,
    lanczos_steps=lanczos_steps,
    seed=seed,
    start=_start_name(start),
    point=_digest(operator),
  )
  return lead(operator, lambda: _measure(run, workdir, config), _to_bytes, _from_bytes)


def _measure(run, workdir, config):
  """Does the draws of a run, in a folder if there is one; returns the `Spectrum`."""
  operator, n = run.operator, run.operator.shape[0]
  about = _describe(operator)
  identity = {
    "n": n,
    "seed": run.seed,
    "lanczos_steps": run.steps,
    "point": _digest(operator) if isinstance(operator, HessianOperator) else None,
    "product": _product_digest(operator),
    "start": _start_name(run.start),
    **about,
  }
  about = about | {
    "lanczos_steps": run.steps,
    "start": _start_name(run.start),
    "config": config,
    "machine": machine.settings(),
  }
  if workdir is None:
    return run.result(run.draws(None), about)
  with RunFolder(workdir, identity, steps=run.steps, n=n) as folder:
    result = run.result(run.draws(folder), about)
    result.save(folder.path / "spectrum.npz")
    files.write_text(folder.path / "spectrum.json", json.dumps(result.summary(), indent=2))
    folder.clear_draw_in_progress()
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


def _start_name(start):
  """Returns what a start is known by on record."""
  return start if start is None or isinstance(start, str) else _hash([start])


def _to_bytes(result):
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "spectrum.npz"
    result.save(path)
    return path.read_bytes()


def _from_bytes(content):
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "spectrum.npz"
    path.write_bytes(content)
    return spectrum.load(path)


class _Run:
  """The draws of one run."""

  def __init__(self, operator, num_draws, steps, seed, start, check, progress):
    self.operator = operator
    self.start = start
    self._num_draws = num_draws
    self.steps = steps
    self.seed = seed
    self._check = check and isinstance(operator, HessianOperator)
    self._show = progress
    self._loss = None

  def draws(self, folder):
    """Returns a list of (coefficients, wall time), computing what the folder does not have."""
    finished = [folder and folder.load_draw(i) for i in range(self._num_draws)]
    missing = [i for i, state in enumerate(finished) if not state]
    shape = (self.steps, self.operator.shape[0])
    if missing:  # first, since there may be no room
      basis = folder.basis() if folder else np.empty(shape)
    if isinstance(self.operator, HessianOperator):
      if self._show:
        logging.info("building the functions of a batch; a minute or more for deep networks")
      self._loss = self.operator.loss()
    if not missing:
      logging.info("all %d draws were finished before", self._num_draws)
      return finished
    if self._check:
      check_operator(self.operator, differences=False).raise_for_problems()
    point = _digest(self.operator)
    total = self._num_draws * self.steps
    with Progress(total, done=total - len(missing) * self.steps, enabled=self._show) as progress:
      for draw in missing:
        coefficients, seconds = self._draw(draw, basis, folder, progress)
        if _digest(self.operator) != point:
          if folder:
            folder.clear_draw_in_progress()
          raise ValueError("the model's variables changed during the run; the draw is not kept")
        if folder:
          folder.save_draw(draw, coefficients, seconds)
        finished[draw] = coefficients, seconds
    return finished

  def _draw(self, draw, basis, folder, progress):
    resumed = folder and folder.load_step(draw, basis)
    if resumed:
      state = Lanczos(basis)
      state.restore(resumed[0])
      before = resumed[1]
      progress.resume(state.num_steps)
    else:
      basis[0] = self._first(draw)
      state = Lanczos(basis)
      before = 0.0
      if folder:
        folder.save_step(draw, state, before)
    begin = time.monotonic()
    while state.status is LanczosStatus.RUNNING:
      state.step(self.operator.matvec)
      if folder:
        folder.save_step(draw, state, before + time.monotonic() - begin)
      ended = state.status is LanczosStatus.INVARIANT
      progress.update(draw, state.num_steps, skipped=self.steps - state.num_steps if ended else 0)
    if state.status is LanczosStatus.INVARIANT:
      logging.info("draw %d: %s (%d nodes)", draw, state.status.value, state.num_steps)
    return state.coefficients(), before + time.monotonic() - begin

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
    return spectrum.Spectrum(
      diagonals=tuple(c["alphas"] for c, _ in draws),
      off_diagonals=tuple(c["betas"][:-1] for c, _ in draws),
      residuals=np.array([c["betas"][-1] for c, _ in draws]),
      statuses=tuple(str(c["status"]) for c, _ in draws),
      num_parameters=operator.shape[0],
      seed=self.seed if self.start is None else None,
      parameter_names=tuple(getattr(operator, "parameter_names", ())),
      parameter_shapes=tuple(getattr(operator, "parameter_shapes", ())),
      loss=self._loss,
      config=about,
      versions=environment.versions(),
      device=environment.device(),
      wall_times=np.array([seconds for _, seconds in draws]),
    )


def _describe(operator):
  if isinstance(operator, HessianOperator):
    names = [list(operator.parameter_names), [list(s) for s in operator.parameter_shapes]]
    return operator.description() | {"variables": hashlib.sha256(repr(names).encode()).hexdigest()}
  return {"operator": type(operator).__name__}


def _digest(operator):
  """Returns a digest of the point at which H is taken; for other operators, of a product."""
  if not isinstance(operator, HessianOperator):
    return _product_digest(operator)
  return _hash(p.numpy() for p in operator.objective.parameters + operator.objective.context)


def _product_digest(operator):
  """Returns a digest of a product, by which another function of the same variables is noticed.

  None for products that don't repeat bitwise.
  """
  if not getattr(operator, "deterministic", True):
    return None
  return _hash([operator @ probes.probe(0, _STREAM, operator.shape[0])])


def _hash(arrays):
  digest = hashlib.blake2b(digest_size=16)
  for array in arrays:
    digest.update(array.tobytes())
  return digest.hexdigest()
