"""A look at a command's config and files before TensorFlow is imported, which takes seconds."""

import difflib
import os
import pathlib

from tf_hessian.experiments import fields

_CLUSTERS = ("multi_worker", "parameter_server")


def look_at_training(config, workdir, /):
  """Looks at the config, the folder and the files of a training.

  Args:
    config: `ml_collections.ConfigDict`.
    workdir: path of the folder.

  Raises:
    TypeError, ValueError: for a bad field.
    OSError: if the folder is a file, or a file that the config names is not there.
  """
  config = fields.check(config)
  _check_folder(pathlib.Path(workdir))
  if os.path.exists(pathlib.Path(workdir) / "model.keras"):
    return  # it may be finished, and need nothing else
  _check_data(config)
  if config["model"].get("name") == "keras_file":
    check_model_file("config.model.path", config["model"].get("path", ""))


def look_at_measurement(
  config,
  workdir,
  /,
  *,
  checkpoint=None,
  initial=False,
  step=None,
  all_steps=False,
  strategy="one_device",
):
  """Looks at the config, the folder and the files of a measurement.

  Args:
    config, workdir: see `look_at_training`.
    checkpoint, initial, step, all_steps: see `commands.spectrum`.
    strategy: its name; of a cluster, the model is the chief's to find.

  Raises:
    TypeError, ValueError, OSError: see `look_at_training`.
  """
  config, workdir = fields.check(config), pathlib.Path(workdir)
  _check_folder(workdir)
  if strategy in _CLUSTERS:
    return
  _check_data(config)
  own_file = config["model"].get("name") == "keras_file"
  if checkpoint is not None:
    check_model_file("checkpoint", checkpoint)
  elif all_steps or step is not None:
    check_steps(workdir, step)
  elif own_file and (initial or "train" not in config):
    check_model_file("config.model.path", config["model"].get("path", ""))
  elif not initial and not os.path.exists(workdir / "model.keras"):
    raise FileNotFoundError(
      f"{workdir / 'model.keras'}: there is no such checkpoint; train the model first"
    )


def _check_data(config):
  """Raises FileNotFoundError if the file of a user's function is not there."""
  if config["data"].get("name") != "function":
    return
  path = str(config["data"].get("function", "")).rpartition(":")[0]
  if path and not os.path.exists(path):
    raise FileNotFoundError(f"config.data.function: there is no file {path}{_nearest(path)}")


def check_model_file(name, path, /):
  """Raises FileNotFoundError or ValueError, naming the argument, unless a model can be there."""
  if not os.path.exists(path):
    raise FileNotFoundError(
      f"{name}: there is no such checkpoint: {path}{_nearest(path)}; it is what model.save or "
      "training has written"
    )
  if os.path.isdir(path):
    raise ValueError(f"{name}: expected a .keras file, got a folder: {path}")


def check_steps(workdir, step, /):
  """Raises FileNotFoundError if there are no checkpoints of steps, or none of the given one."""
  folder = pathlib.Path(workdir) / "checkpoints"
  there = sorted(folder.glob("step_*.keras"))
  if not there:
    raise FileNotFoundError(
      f"{workdir}: there are no checkpoints of steps; name them in config.train.checkpoint_steps, "
      "and train"
    )
  if step is not None and not (folder / f"step_{step:08d}.keras").exists():
    numbers = ", ".join(str(int(p.stem[5:])) for p in there if p.stem[5:].isdigit())
    raise FileNotFoundError(
      f"{workdir}: there is no checkpoint of step {step}; there are {numbers}"
    )


def _check_folder(path):
  """Raises OSError if a file is where the folder should be."""
  for there in (path, *path.absolute().parents):
    if os.path.lexists(there) and not there.is_dir():
      raise NotADirectoryError(f"workdir: expected a folder, got a file: {there}")
    if there.is_dir():
      return


def _nearest(path):
  """Returns "; did you mean x?" for the file of the same folder whose name is nearest, or ""."""
  path = pathlib.Path(path)
  try:
    names = [p.name for p in path.parent.iterdir()]
  except OSError:
    return ""
  near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.8)
  return f"; did you mean {path.with_name(near[0])}?" if near else ""
