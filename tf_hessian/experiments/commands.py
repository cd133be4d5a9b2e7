"""What the binaries do, as functions."""

import json
import pathlib

from absl import logging

from tf_hessian import files
from tf_hessian.distribute import cluster
from tf_hessian.experiments import density_run, environment, experiment
from tf_hessian.training import train as training


def train(config, workdir, /):
  """Trains the model of a config into a folder.

  Args:
    config: `ml_collections.ConfigDict`; see configs/.
    workdir: folder for model.keras, train.csv, train.json and config.json.

  Returns:
    dict: loss, accuracy, epochs.

  Raises:
    ValueError: for a bad config, another config's folder, or training that fails.
    OSError: if the folder can't be written.
  """
  setup = experiment.build(config)
  workdir = pathlib.Path(workdir)
  done = workdir / "train.json"
  finished = done.exists() and (workdir / "model.keras").exists()
  _claim(workdir, setup.config, finished)
  if finished:
    try:
      result = json.loads(done.read_text())
    except ValueError as e:
      raise ValueError(f"{done}: damaged ({e}); delete it to train again") from e
    logging.info("%s: already trained", workdir)
    return result
  return training.train(
    setup.new_model(),
    setup.loss,
    setup.examples,
    setup.config["train"],
    workdir,
    seed=setup.config["seed"],
  )


def _claim(workdir, config, finished):
  """Records the config that a folder is trained with; refuses a folder with another.

  Before the end of training, the conditions of its end may still be changed.
  """
  keys = ("seed", "model", "data", "loss", "train")
  config = json.loads(json.dumps({k: config[k] for k in keys}))
  path = workdir / "config.json"
  begun = any((workdir / name).exists() for name in ("model.keras", "training.keras"))
  if path.exists():
    try:
      found = json.loads(path.read_text())
      if not finished:
        found["train"] |= {k: config["train"][k] for k in ("until_accuracy", "max_epochs")}
      different = [k for k in keys if found[k] != config[k]]
    except (ValueError, KeyError, TypeError) as e:
      raise ValueError(f"{path}: damaged ({e}); use another --workdir, or delete this one") from e
    if different and begun:
      raise ValueError(
        f"{workdir}: a model was trained there with another config ({', '.join(different)}); use "
        "another --workdir, or delete this one"
      )
  files.write_text(path, json.dumps(config, indent=2))


def _check_trained(workdir, config):
  """Refuses a config that says of the checkpoint what it is not: it would go on record."""
  path = workdir / "config.json"
  if not path.exists():
    return
  found = json.loads(path.read_text())
  config = json.loads(json.dumps(config))
  different = [k for k in ("model", "train") if found.get(k) != config[k]]
  if different:
    raise ValueError(
      f"{workdir}: its model was trained with another config ({', '.join(different)}); leave those "
      "fields as they were, or train in another --workdir"
    )


def spectrum(
  config,
  workdir,
  /,
  *,
  checkpoint=None,
  initial=False,
  check=True,
  progress=True,
  strategy="one_device",
  num_devices=0,
  patience=600.0,
  deterministic=True,
  jit_compile=False,
  recompute_blocks=None,
):
  """Measures the spectrum of a config's model, or takes part in that as a task of a cluster.

  Args:
    config: `ml_collections.ConfigDict`; see configs/.
    workdir: the results go to its folder `spectrum` (`spectrum_initial` with `initial`).
    checkpoint: path of the model; by default `workdir`/model.keras.
    initial: measure the initial weights instead.
    check: check the operator first.
    progress: show progress.
    strategy: name of a `distribute.STRATEGIES`; `TF_CONFIG` says which task this is.
    num_devices: number of replicas of "mirrored".
    patience: seconds that the processes of "parameter_server" wait for each other.
    deterministic: make products bitwise repeatable.
    jit_compile: compile the function of a batch by XLA.
    recompute_blocks: see `HessianOperator`.

  Returns:
    A report: text of a few lines.

  Raises:
    ValueError: for a bad config or checkpoint, or another run's folder.
    OSError: if the checkpoint is missing, the folder can't be written, or (ClusterError) other
      processes of the cluster are gone.
  """
  values = experiment.check(config)
  if cluster.serves(strategy):
    serve(config=values, patience=patience, deterministic=deterministic)
    return "the chief has finished"
  options = {
    # First: some have to be made before any tensor is.
    "strategy": cluster.make_strategy(strategy, num_devices=num_devices),
    "patience": patience,
    "deterministic": deterministic,
    "jit_compile": jit_compile,
    "recompute_blocks": recompute_blocks,
  }
  with cluster.released(strategy):
    setup = experiment.build(config)
    return _measure(setup, pathlib.Path(workdir), checkpoint, initial, check, progress, options)


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


def _measure(setup, workdir, checkpoint, initial, check, progress, options):
  if initial:
    model = setup.new_model()
  else:
    model = training.load_model(checkpoint or workdir / "model.keras")
    if checkpoint is None:
      _check_trained(workdir, setup.config)
  folder = workdir / ("spectrum_initial" if initial else "spectrum")
  operator = setup.operator(model, **options)
  result = density_run.estimate_spectrum(
    operator,
    num_draws=setup.config["lanczos"]["draws"],
    lanczos_steps=setup.config["lanczos"]["steps"],
    seed=setup.config["seed"],
    check=check,
    workdir=folder,
    progress=progress,
    config=setup.config,
  )
  if not operator.engine.leads:
    return "the chief has finished, and has the result"
  picture = folder / "spectrum.png"
  try:
    result.plot(picture, **setup.config["density"])
  except (ValueError, OSError) as e:  # the numbers are worth having without it
    logging.error("no picture: %s", e)
    picture = f"none ({e})"
  return report(result, picture)


def report(result, picture, /):
  """Returns the main numbers of a `Spectrum` as text."""
  trace, stderr = result.trace()
  largest = " ".join(f"{x:.6g}" for x in result.largest(10))
  smallest = " ".join(f"{x:.6g}" for x in result.smallest(5))
  return "\n".join(
    [
      f"largest Ritz values   {largest}",
      f"smallest Ritz values  {smallest}",
      f"trace                 {trace:.6g} ± {stderr:.2g} (standard error over draws)",
      f"loss                  {result.loss:.8g}",
      f"picture               {picture}",
    ]
  )
