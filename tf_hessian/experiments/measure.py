"""The command that measures the spectrum of a config's model."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import json
import os
import pathlib
from typing import Any

from absl import logging
import keras
import tensorflow as tf

from tf_hessian import files, plotting
from tf_hessian.curvature.operator import CurvatureOperator
from tf_hessian.distribute import cluster
from tf_hessian.experiments import experiment
from tf_hessian.experiments import pairs as pairs_lib
from tf_hessian.experiments.computation import Computation
from tf_hessian.experiments.pairs import Pairs
from tf_hessian.experiments.report import report
from tf_hessian.experiments.serve import serve
from tf_hessian.experiments.weights import Weights, step_folder
from tf_hessian.planning import planner
from tf_hessian.slq.density import spectral_density
from tf_hessian.slq.method import SLQ, make_target
from tf_hessian.slq.storage import Storage
from tf_hessian.spectrum import Spectrum
from tf_hessian.training import checkpoints
from tf_hessian.training import folder as training_folder

_FOLLOWED = "the chief has finished, and has the result"


def measure(
  config: Any,
  workdir: str | os.PathLike,
  /,
  weights: Weights = Weights(),  # noqa: B008 - it is frozen
  *,
  gradient: bool = False,
  check: bool = True,
  progress: bool = True,
  data_dir: str | None = None,
  download: bool = False,
  computation: Computation = Computation(),  # noqa: B008
  storage: Storage = Storage(),  # noqa: B008
  plan_workers: int | None = None,
  pairs: Pairs | None = None,
) -> str:
  """Measures the spectrum of a config's model, or its extreme eigenpairs.

  As a task of a cluster it takes part in that.

  Args:
    config: `ml_collections.ConfigDict`; see configs/.
    workdir: the results go to its folder `spectrum` (`spectrum_initial` of the initial weights,
      `spectra/step_<n>` of steps), with the name of another matrix than the Hessian, and with
      `_gradient` for `gradient`, added.
    weights: the weights that are measured.
    gradient: one draw that begins at the gradient of the loss: its weights are the shares of the
      gradient's energy in the eigenvectors.
    check: check the operator first.
    progress: show progress.
    data_dir: folder with TFDS data sets; None for TFDS's own choice.
    download: fetch a data set that isn't there.
    computation: who computes, and how.
    storage: where Lanczos vectors live.
    pairs: the eigenpairs to find instead, into the folder `eigenpairs` (and so on).
    plan_workers: instead of measuring, say what it would take on so many equal machines; nothing is
      written.

  Returns:
    A report: text of a few lines.

  Raises:
    ValueError: for a bad config or checkpoint, another run's folder, or a plan of a run that does
      not fit.
    OSError: if the checkpoint or the data are missing, the folder can't be written, or
      (ClusterError) other processes of the cluster are gone.
  """
  if plan_workers is not None:
    _check_plan(computation.strategy, weights.all_steps)
  values = experiment.check(config)
  if cluster.serves(computation.strategy):
    serve(config=values, patience=computation.patience, deterministic=computation.deterministic)
    return "the chief has finished"
  # First: some have to be made before any tensor is.
  strategy = cluster.make_strategy(
    computation.strategy, num_devices=computation.num_devices, patience=computation.patience
  )
  workdir = pathlib.Path(workdir)
  with cluster.released(computation.strategy):
    # What can be found out before the data are read.
    if weights.by_step:
      weights.saved(workdir)
    if weights.of_workdir(values):
      _check_trained(workdir, values)
    if weights.initial:
      experiment.check_model(values)
    setup = experiment.build(config, data_dir=data_dir, download=download)
    measurement = _Measurement(
      setup, workdir, gradient, check, progress, computation, strategy, storage, pairs
    )
    if plan_workers is not None:
      return measurement.plan(weights, plan_workers)
    return measurement.of_steps(weights) if weights.by_step else measurement.of(weights)


def _check_plan(strategy, all_steps):
  """Refuses a plan that can't be made, before anything is read."""
  if all_steps:
    raise ValueError("plan: it is of one spectrum: give step instead of all_steps")
  if strategy in ("multi_worker", "parameter_server"):
    raise ValueError(
      f"plan: it is made in one process, not by a cluster: leave strategy {strategy!r} out, and "
      "give the number of its workers as plan_workers"
    )


def _check_trained(workdir, config):
  """Refuses a config that is not that of the checkpoint.

  It would go on record.
  """
  path = workdir / "config.json"
  if not path.exists():
    return
  config = json.loads(json.dumps(config))
  try:
    found = json.loads(path.read_text())
    different = training_folder.differences(found, config, ("model", "train"))
  except (ValueError, KeyError, TypeError) as e:
    raise ValueError(f"{path}: damaged ({e}); use --checkpoint and another --workdir") from e
  if different:
    raise ValueError(
      f"{workdir}: its model was trained with another config ({'; '.join(different)}); leave those "
      "fields as they were, or train in another --workdir"
    )


@dataclasses.dataclass(frozen=True)
class _Measurement:
  """The choices that measurements of an experiment have in common."""

  setup: experiment.Experiment
  workdir: pathlib.Path
  gradient: bool
  check: bool
  progress: bool
  computation: Computation
  strategy: tf.distribute.Strategy | None
  storage: Storage
  pairs: Pairs | None

  def of(self, weights: Weights) -> str:
    """Measures one model; returns the report."""
    operator = self._operator(self._model(weights))
    if self.pairs:
      return self._find(operator, weights.folder(self.workdir))
    result, picture = self._measure(operator, weights.folder(self.workdir))
    return _FOLLOWED if result is None or picture is None else report(result, picture)

  def of_steps(self, weights: Weights) -> str:
    """Measures the checkpoints of steps; returns the report.

    All of them are drawn together.
    """
    results, texts = {}, []
    operator = built = None
    saved = weights.saved(self.workdir)
    for path in saved.values():  # before hours are spent on the others
      checkpoints.check_archive(path)
    for step, path in saved.items():
      logging.info("checkpoint of step %d", step)
      model = training_folder.load(self.workdir, path)
      if operator is None or built is None:
        operator, built = self._operator(model), model
        if not self.pairs:
          method = self._slq().of_order(operator.shape[0])
          for number in saved:
            method.check_folder(self._folder(step_folder(self.workdir, number)))
      else:  # which builds nothing anew
        self.setup.prepare(model)
        built.set_weights(model.get_weights())
        operator.check_point()
      folder = step_folder(self.workdir, step)
      if self.pairs:
        texts.append(f"step {step}\n{self._find(operator, folder)}")
        continue
      result, picture = self._measure(operator, folder)
      if result is not None and picture is not None:
        results[step] = result
        texts.append(f"step {step}\n{report(result, picture)}")
    if not texts:
      return _FOLLOWED
    if weights.all_steps and results:
      texts.append(f"all steps             {self._draw_together(results)}")
    return "\n".join(texts)

  def plan(self, weights: Weights, workers: int) -> str:
    """Returns the report of a `Plan` of what `of` would do."""
    model = self._model(weights)
    beginning = planner.begin()
    operator = self._operator(model)
    return (
      planner.Planner(
        operator,
        self._slq(),
        self.storage,
        check=self.check,
        workdir=self._folder(weights.folder(self.workdir)),
        workers=workers,
        beginning=beginning,
      )
      .plan_with_error(pilot_seconds=60.0, **self.setup.config["density"])
      .report()
    )

  def _model(self, weights):
    """Returns the Keras model with the weights."""
    values = self.setup.config
    if weights.step is not None:
      return training_folder.load(self.workdir, weights.saved(self.workdir)[weights.step])
    if weights.checkpoint:
      return self.setup.load(weights.checkpoint)
    if weights.initial or not weights.of_workdir(values):
      return self.setup.new_model()
    return training_folder.load(self.workdir, self.workdir / "model.keras")

  def _measure(
    self, operator: CurvatureOperator, folder: pathlib.Path
  ) -> tuple[Spectrum, pathlib.Path | str] | tuple[None, None]:
    """Returns a matrix's spectrum and the path of its picture.

    On followers both are None.
    """
    folder = self._folder(folder)
    error, sigma_squared, relative = self._target()
    result = spectral_density(
      operator,
      **self._method(),
      target_error=error,
      sigma_squared=sigma_squared,
      relative=relative,
      storage=self.storage,
      check=self.check,
      workdir=folder,
      progress=self.progress,
      config=self.setup.config,
    )
    if not operator.engine.leads:
      return None, None
    picture = folder / "spectrum.png"
    problem = _draw(lambda: result.plot(picture, **self.setup.config["density"]))
    return result, f"none ({problem})" if problem else picture

  def _find(self, operator, folder):
    """Finds the eigenpairs of a matrix; returns the report."""
    folder = folder.with_name(folder.name.replace("spectrum", "eigenpairs") + self._suffix)
    if folder.parent != self.workdir:  # of a step
      folder = self.workdir / "eigenpairs_of_steps" / folder.name
    how = {"seed": self.setup.config["seed"], "check": self.check, "progress": self.progress}
    found = pairs_lib.find(operator, self.pairs, folder, **how, config=self.setup.config)
    return found if operator.engine.leads else _FOLLOWED

  def _operator(self, model: keras.Model) -> CurvatureOperator:
    return self.setup.operator(
      model,
      strategy=self.strategy,
      patience=self.computation.patience,
      **self.computation.passes(),
    )

  def _slq(self):
    return SLQ(**self._method(), target=make_target(*self._target()))

  def _method(self):
    """Returns draws, steps, seed and start, as arguments of `spectral_density`."""
    lanczos = self.setup.config["lanczos"]
    return {
      "num_draws": 1 if self.gradient else lanczos["draws"],
      "lanczos_steps": lanczos["steps"],
      "seed": self.setup.config["seed"],
      "start": "gradient" if self.gradient else None,
    }

  def _target(self):
    """Returns (target error, sigma squared, whether it is relative)."""
    config = self.setup.config
    error = None if self.gradient else config["lanczos"]["target_error"] or None
    return error, config["density"]["sigma_squared"], config["density"]["relative"]

  def _folder(self, folder):
    return folder.with_name(folder.name + self._suffix)

  @property
  def _suffix(self):
    matrix = self.setup.config["hessian"]["matrix"]
    of_matrix = "" if matrix == "hessian" else f"_{matrix}"
    return of_matrix + ("_gradient" if self.gradient else "")

  def _draw_together(self, results):
    """Draws the spectra of steps; returns the picture's path.

    Their summaries are written beside it.
    """
    name = f"spectra{self._suffix}"
    picture = self.workdir / "spectra" / f"{name}.png"
    named = {f"step {n:,}": r for n, r in results.items()}
    _draw(lambda: plotting.plot_spectra(named, picture, **self.setup.config["density"]))
    summaries = {n: r.summary() for n, r in results.items()}
    files.write_text(self.workdir / "spectra" / f"{name}.json", json.dumps(summaries, indent=2))
    return picture


def _draw(function: Callable[[], Any]) -> Exception | None:
  """Draws a picture; returns the error if there is one.

  The numbers are worth having without it.
  """
  try:
    function()
  except (ValueError, OSError) as e:
    logging.error("no picture: %s", e)
    return e
  return None
