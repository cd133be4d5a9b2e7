"""Models on disk: whole or not there, checked when they are read, named by their step."""

import pathlib
import re
import zipfile

import keras

_FOLDER = "checkpoints"


def save_model(model, path, /, *, compiled=False):
  """Writes a `.keras` file, whole or not at all.

  Args:
    model: a Keras model.
    path: the file; its folder is made if needed.
    compiled: write the optimizer's state too.

  Raises:
    OSError: if it can't be written.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.partial.keras")
  try:
    model.save(temporary, include_optimizer=compiled)
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def load_model(path, /, *, compiled=False):
  """Reads a `.keras` file.

  Args:
    path: the file.
    compiled: read the optimizer's state too.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if it is damaged.
  """
  if not pathlib.Path(path).exists():
    raise FileNotFoundError(f"{path}: there is no such checkpoint; train the model first")
  try:
    with zipfile.ZipFile(path) as archive:
      damaged = archive.testzip()
    if damaged:
      raise ValueError(f"{damaged} has a wrong checksum")
    return keras.models.load_model(path, compile=compiled)
  except Exception as e:  # a damaged archive fails in many ways inside zipfile, h5py and Keras
    raise ValueError(f"{path}: not a Keras model, or damaged ({e})") from e


def step_path(workdir, step, /):
  """Returns the path of the checkpoint of a step."""
  return pathlib.Path(workdir) / _FOLDER / f"step_{step:08d}.keras"


def saved_steps(workdir, /):
  """Returns a dict: step -> path, of the checkpoints in a folder of training, ascending."""
  found = pathlib.Path(workdir, _FOLDER).glob("step_*.keras")
  named = [(re.fullmatch(r"step_(\d+)\.keras", p.name), p) for p in found]
  return dict(sorted((int(m[1]), p) for m, p in named if m))
