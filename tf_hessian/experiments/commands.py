"""What the binaries do, as functions."""

import json
import pathlib

from absl import logging
import numpy as np

from tf_hessian import files, plotting
from tf_hessian.distribute import cluster
from tf_hessian.experiments import density_run, environment, experiment, plan
from tf_hessian.training import checkpoints
from tf_hessian.training import folder as training_folder
from tf_hessian.training import train as training


def train(
  config,
  workdir,
  /,
  *,
  data_dir=None,
  download=False,
  strategy="one_device",
  num_devices=0,
  patience=600.0,
):
  """Trains the model of a config into a folder, or takes part in that as a task of a cluster.

  Args:
    config: `ml_collections.ConfigDict`; see configs/.
    workdir: folder for model.keras, checkpoints/, train.csv, train.json and config.json; of all
      workers the same. It has to be new or empty, or hold this training; spectra may be there.
    data_dir: folder with TFDS data sets; None for TFDS's own choice.
    download: fetch a data set that isn't there.
    strategy: name of a `distribute.STRATEGIES`; `TF_CONFIG` says which task this is.
    num_devices: number of replicas of "mirrored".
    patience: seconds that the tasks of a cluster wait for each other.

  Returns:
    dict; see `training.train.train`. None in processes other than the chief.

  Raises:
    ValueError: for a bad config, another config's folder, or training that fails.
    OSError: if the data or a checkpoint are missing, the folder can't be written, or (ClusterError)
      other processes of the cluster are gone.
  """
  values = experiment.check(config)
  if "train" not in values:
    raise ValueError("config: missing field 'train', which says how to train")
  if cluster.serves(strategy):
    serve(config=values, patience=patience, deterministic=False)
    return None
  strategies = cluster.make_strategy(strategy, num_devices=num_devices, patience=patience)
  with cluster.released(strategy):
    leads = strategies is None or strategies.extended.should_checkpoint
    identity = training_folder.identity_of(values)
    result = training_folder.finished(workdir, identity, leads=leads)
    if result is not None:  # before the data are read
      logging.info("%s: already trained; delete its model.keras to train again", workdir)
      return result
    experiment.check_model(values)
    setup = experiment.build(config, data_dir=data_dir, download=download)
    setup.check_training()
    return training.train(
      setup.new_model,
      setup.task,
      setup.source,
      setup.config["train"],
      workdir,
      seed=setup.config["seed"],
      identity=identity,
      strategy=strategies,
      patience=patience,
    )


def _check_trained(workdir, config):
  """Refuses a config that says of the checkpoint what it is not: it would go on record."""
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


def spectrum(
  config,
  workdir,
  /,
  *,
  checkpoint=None,
  initial=False,
  step=None,
  all_steps=False,
  gradient=False,
  check=True,
  progress=True,
  data_dir=None,
  download=False,
  strategy="one_device",
  num_devices=0,
  patience=600.0,
  deterministic=True,
  jit_compile=False,
  recompute_blocks=None,
  vectors_per_pass=None,
  basis="auto",
  memory_budget=None,
  plan_workers=None,
):
  """Measures the spectrum of a config's model, or takes part in that as a task of a cluster.

  Args:
    config: `ml_collections.ConfigDict`; see configs/.
    workdir: the results go to its folder `spectrum` (`spectrum_initial` with `initial`,
      `spectra/step_<n>` with `step` and `all_steps`), with `_gradient` added with `gradient`.
    checkpoint: path of the model; by default `workdir`/model.keras.
    initial: measure the initial weights instead.
    step: measure the checkpoint of that step of training instead.
    all_steps: measure the checkpoints of all steps, one after the other, and draw them together.
    gradient: one draw that begins at the gradient of the loss: its weights are the shares of the
      gradient's energy in the eigenvectors.
    check: check the operator first.
    progress: show progress.
    data_dir: folder with TFDS data sets; None for TFDS's own choice.
    download: fetch a data set that isn't there.
    strategy: name of a `distribute.STRATEGIES`; `TF_CONFIG` says which task this is.
    num_devices: number of replicas of "mirrored".
    patience: seconds that the tasks of a cluster wait for each other.
    deterministic: make products bitwise repeatable.
    jit_compile: compile the function of a batch by XLA.
    recompute_blocks: see `HessianOperator`.
    vectors_per_pass: see `density_run.spectral_density`, also for the next two.
    basis: kind.
    memory_budget: bytes.
    plan_workers: instead of measuring, say what it would take on so many equal machines; nothing is
      written. See `plan.plan`.

  Returns:
    A report: text of a few lines.

  Raises:
    ValueError: for a bad config or checkpoint, another run's folder, or a plan of a run that does
      not fit.
    OSError: if the checkpoint or the data are missing, the folder can't be written, or
      (ClusterError) other processes of the cluster are gone.
  """
  if sum(map(bool, (checkpoint, initial, step is not None, all_steps))) > 1:
    raise ValueError("checkpoint, initial, step and all_steps exclude each other")
  if plan_workers is not None:
    _check_plan(strategy, all_steps)
  values = experiment.check(config)
  if cluster.serves(strategy):
    serve(config=values, patience=patience, deterministic=deterministic)
    return "the chief has finished"
  options = {
    # First: some have to be made before any tensor is.
    "strategy": cluster.make_strategy(strategy, num_devices=num_devices, patience=patience),
    "patience": patience,
    "deterministic": deterministic,
    "jit_compile": jit_compile,
    "recompute_blocks": recompute_blocks,
  }
  workdir = pathlib.Path(workdir)
  own_file = values["model"]["name"] == "keras_file" and "train" not in values
  by_step = all_steps or step is not None
  with cluster.released(strategy):
    # What can be found out before the data are read.
    saved = _saved_steps(workdir, step) if by_step else {}
    if by_step or not (initial or checkpoint or own_file):
      _check_trained(workdir, values)
    if initial:
      experiment.check_model(values)
    setup = experiment.build(config, data_dir=data_dir, download=download)
    how = {
      "gradient": gradient,
      "check": check,
      "progress": progress,
      "vectors_per_pass": vectors_per_pass,
      "basis": basis,
      "memory_budget": memory_budget,
    }
    if by_step and plan_workers is None:
      return _measure_steps(setup, workdir, saved, step, how, options)
    folder = workdir / ("spectrum_initial" if initial else "spectrum")
    if by_step:
      model = training_folder.load(workdir, saved[step])
      folder = workdir / "spectra" / saved[step].stem
    elif initial or (own_file and checkpoint is None):
      model = setup.new_model()
    elif checkpoint:
      model = checkpoints.load_model(checkpoint)
    else:
      model = training_folder.load(workdir, workdir / "model.keras")
    if plan_workers is not None:
      return _plan(setup, model, folder, how, options, plan_workers)
    result, picture = _measure(setup, model, folder, how, options)
    return _FOLLOWED if result is None else report(result, picture)


_FOLLOWED = "the chief has finished, and has the result"


def _check_plan(strategy, all_steps):
  """Refuses a plan that can't be made, before anything is read."""
  if all_steps:
    raise ValueError("plan: it is of one spectrum: give step instead of all_steps")
  if strategy in ("multi_worker", "parameter_server"):
    raise ValueError(
      f"plan: it is made in one process, not by a cluster: leave strategy {strategy!r} out, and "
      "give the number of its workers as plan_workers"
    )


def _plan(setup, model, folder, how, options, workers):
  """Returns the report of a `Plan` of the run that `_measure` would make."""
  beginning = plan.begin()
  operator = setup.operator(model, **options)
  arguments = _run_options(setup, folder, how)
  del arguments["progress"], arguments["config"]
  return plan.plan_operator(
    operator,
    **arguments,
    workers=workers,
    num_shards=setup.config["hessian"]["num_shards"],
    beginning=beginning,
  ).report()


def _saved_steps(workdir, step):
  """Returns the checkpoints of steps in a folder; raises if there are none, or `step` is not."""
  saved = checkpoints.saved_steps(workdir)
  if not saved:
    raise FileNotFoundError(
      f"{workdir}: there are no checkpoints of steps; name them in config.train.checkpoint_steps, "
      "and train"
    )
  if step is not None and step not in saved:
    raise FileNotFoundError(
      f"{workdir}: there is no checkpoint of step {step}; there are {', '.join(map(str, saved))}"
    )
  return saved


def _measure_steps(setup, workdir, saved, step, how, options):
  """Measures the checkpoint of one step, or of all (None); returns a report."""
  results, texts = {}, []
  for number in saved if step is None else [step]:
    logging.info("checkpoint of step %d", number)
    model = training_folder.load(workdir, saved[number])
    folder = workdir / "spectra" / saved[number].stem
    result, picture = _measure(setup, model, folder, how, options)
    if result is not None:
      results[number] = result
      texts.append(f"step {number}\n{report(result, picture)}")
  if not results:
    return _FOLLOWED
  if step is None:
    name = f"spectra{_suffix(how['gradient'])}"
    picture = workdir / "spectra" / f"{name}.png"
    named = {f"step {n:,}": r for n, r in results.items()}
    _draw(lambda: plotting.plot_spectra(named, picture, **setup.config["density"]))
    summaries = {n: r.summary() for n, r in results.items()}
    files.write_text(workdir / "spectra" / f"{name}.json", json.dumps(summaries, indent=2))
    texts.append(f"all steps             {picture}")
  return "\n".join(texts)


def serve(*, config=None, patience=600.0, deterministic=True):
  """Serves as a worker or parameter server (`TF_CONFIG`) until the chief ends; docs/cluster.md.

  Args:
    config: plain values that the chief must have too, or None.
    patience: seconds without a chief after which it ends.
    deterministic: run operations deterministically.

  Raises:
    ValueError: if `TF_CONFIG` does not describe such a task.
    OSError: if the port is taken, or (ClusterError) the chief ended with an error, refused this
      task, or has been gone for too long.
  """
  identity = environment.identity() | ({} if config is None else {"config": config})
  cluster.serve(identity, patience=patience, deterministic=deterministic)


def _suffix(gradient):
  return "_gradient" if gradient else ""


def _measure(setup, model, folder, how, options):
  """Measures a model; returns (`Spectrum`, path of the picture), or (None, None) on followers."""
  operator = setup.operator(model, **options)
  arguments = _run_options(setup, folder, how)
  result = density_run.estimate_spectrum(operator, **arguments)
  if not operator.engine.leads:
    return None, None
  picture = arguments["workdir"] / "spectrum.png"
  error = _draw(lambda: result.plot(picture, **setup.config["density"]))
  return result, f"none ({error})" if error else picture


def _run_options(setup, folder, how):
  """Returns the arguments of `estimate_spectrum` beside the operator: a dict."""
  how = dict(how)
  gradient = how.pop("gradient")
  lanczos = setup.config["lanczos"]
  return {
    "num_draws": 1 if gradient else lanczos["draws"],
    "lanczos_steps": lanczos["steps"],
    "seed": setup.config["seed"],
    "start": "gradient" if gradient else None,
    "target_error": None if gradient else lanczos["target_error"] or None,
    **setup.config["density"],
    "workdir": folder.with_name(folder.name + _suffix(gradient)),
    "config": setup.config,
    **how,
  }


def _draw(function):
  """Draws a picture; the numbers are worth having without it, so an error is returned."""
  try:
    function()
  except (ValueError, OSError) as e:
    logging.error("no picture: %s", e)
    return e
  return None


def report(result, picture, /):
  """Returns the main numbers of a `Spectrum` as text."""
  lines = {
    "largest Ritz values": " ".join(f"{x:.6g}" for x in result.largest(10)),
    "smallest Ritz values": " ".join(f"{x:.6g}" for x in result.smallest(5)),
  }
  if result.start is None:
    trace, stderr = result.trace()
    error = f" ± {stderr:.2g} (standard error over draws)" if result.num_draws > 1 else ""
    lines["trace"] = f"{trace:.6g}{error}"
  else:
    shares = result.summary()["energy_in_largest"]
    shown = ", ".join(f"{share:.4g} in {count}" for count, share in shares.items() if count <= 10)
    bound = result.residual_bounds()[0][-10:].max()
    lines["energy of the gradient"] = (
      f"{shown} of the largest Ritz values (10 largest are eigenvalues to within {bound:.2g})"
    )
  if result.config.get("target"):
    lines["target error"] = _target_text(result)
  lines |= {"loss": f"{result.loss:.8g}", "picture": picture}
  return "\n".join(f"{name:21s} {text}" for name, text in lines.items())


def _target_text(result):
  target = result.config["target"]
  # Of steps that are too few to tell, there is no change.
  change = np.inf if target["change"] is None else target["change"]
  errors = {"draws": target["stderr"], "steps": change}
  missing = [what for what, error in errors.items() if error > target["error"]]
  return (
    f"{target['error']:g} "
    f"{'reached' if target['reached'] else 'NOT reached: allow more ' + ' and '.join(missing)}: "
    f"L1 standard error {target['stderr']:.3g} of {result.num_draws} draws, {target['products']} "
    f"products ({target['saved']} saved)"
  )
