"""What the binaries do, as functions."""

import json
import pathlib

from absl import logging

from tf_hessian import files
from tf_hessian.experiments import density_run, experiment
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


def spectrum(config, workdir, /, *, checkpoint=None, initial=False, check=True, progress=True):
  """Measures the spectrum of a config's model.

  Args:
    config: `ml_collections.ConfigDict`; see configs/.
    workdir: the results go to its folder `spectrum` (`spectrum_initial` with `initial`).
    checkpoint: path of the model; by default `workdir`/model.keras.
    initial: measure the initial weights instead.
    check: check the operator first.
    progress: show progress.

  Returns:
    A report: text of a few lines.

  Raises:
    ValueError: for a bad config or checkpoint, or another run's folder.
    OSError: if the checkpoint is missing or the folder can't be written.
  """
  setup = experiment.build(config)
  workdir = pathlib.Path(workdir)
  if initial:
    model = setup.new_model()
  else:
    model = training.load_model(checkpoint or workdir / "model.keras")
    if checkpoint is None:
      _check_trained(workdir, setup.config)
  folder = workdir / ("spectrum_initial" if initial else "spectrum")
  result = density_run.estimate_spectrum(
    setup.operator(model),
    num_draws=setup.config["lanczos"]["draws"],
    lanczos_steps=setup.config["lanczos"]["steps"],
    seed=setup.config["seed"],
    check=check,
    workdir=folder,
    progress=progress,
    config=setup.config,
  )
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
