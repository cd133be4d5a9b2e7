"""Models on disk: whole or not there, checked when they are read, named by their step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import contextlib
import json
import os
import pathlib
from typing import Any
import zipfile
import zlib

import keras
import numpy as np

from tf_hessian import files
from tf_hessian.training import steps

_NOTE = "tf_hessian.json"


def save_model(
  model: keras.Model,
  path: str | os.PathLike,
  /,
  *,
  compiled: bool = False,
  note: dict[str, Any] | None = None,
) -> None:
  """Writes a `.keras` file, whole or not at all.

  A link is replaced itself.

  Args:
    model: a Keras model.
    path: the file; its folder is made if needed.
    compiled: whether to write the optimizer's state too, to go on training.
    note: dict of plain values to carry along, for `read_note`.

  Raises:
    OSError: if it can't be written.
  """
  with saved(model, path, compiled=compiled, note=note):
    pass


@contextlib.contextmanager
def saved(
  model: keras.Model,
  path: str | os.PathLike,
  /,
  *,
  compiled: bool = False,
  note: dict[str, Any] | None = None,
) -> Iterator[None]:
  """Writes a `.keras` file, but puts it in place afterwards.

  It is written as by `save_model`, and put in its place at the end of the context.
  """
  with files.replacing(path, suffix=".keras") as file:
    model.save(file.name, include_optimizer=compiled)
    if note is not None:
      with zipfile.ZipFile(file.name, "a") as archive:
        archive.writestr(_NOTE, json.dumps(note | {"checksum": _checksum(archive)}))
    yield


def load_model(path: str | os.PathLike, /, *, compiled: bool = False) -> keras.Model:
  """Reads a `.keras` file.

  Args:
    path: the file.
    compiled: whether to read the optimizer's state too, to go on training.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if it is damaged.
  """
  if not pathlib.Path(path).exists():
    raise FileNotFoundError(f"{path}: there is no such checkpoint; train the model first")
  if str(path).endswith((".h5", ".hdf5")):
    raise ValueError(
      f"{path}: expected a .keras file, got HDF5; save the whole model anew, by "
      'model.save("model.keras")'
    )
  check_archive(path)
  try:
    return keras.models.load_model(path, compile=compiled)
  except Exception as e:  # a damaged archive fails in many ways inside zipfile, h5py and Keras
    raise _damaged(path, e) from e


def check_finite(variables: Iterable[keras.Variable], path: str | os.PathLike, /) -> None:
  """Refuses variables of a file that are not finite.

  Raises:
    ValueError: if one is not.
  """
  for variable in variables:
    if not np.isfinite(variable.numpy()).all():
      raise ValueError(f"{path}: {variable.path} is not finite")


def check_archive(path: str | os.PathLike, /) -> None:
  """Refuses a `.keras` file that is damaged, by its checksums.

  Raises:
    ValueError: if it is.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      damaged = archive.testzip()
    if damaged:
      raise ValueError(f"{damaged} has a wrong checksum")
  except Exception as e:  # it fails in many ways
    raise _damaged(path, e) from e


def read_note(path: str | os.PathLike, /) -> dict[str, Any] | None:
  """Returns the note that a `.keras` file carries: a dict, or None.

  Raises:
    ValueError: if it is damaged, or its weights are not those that the note was written for.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      if _NOTE not in archive.namelist():
        return None
      note = json.loads(archive.read(_NOTE))
      if note.pop("checksum") != _checksum(archive):
        raise ValueError("its weights were changed")
      return note
  except Exception as e:  # it fails in many ways
    raise _damaged(path, e) from e


def step_path(workdir: str | os.PathLike, step: int, /) -> pathlib.Path:
  """Returns the path of the checkpoint of a step."""
  return pathlib.Path(workdir) / steps.FOLDER / f"{steps.name(step)}.keras"


def _damaged(path, error):
  return ValueError(f"{path}: not a Keras model, or damaged ({error})")


def _checksum(archive):
  """Returns a checksum of a model's parts, by those of the archive."""
  parts = sorted((i.filename, i.CRC) for i in archive.infolist() if i.filename != _NOTE)
  return zlib.crc32(json.dumps(parts).encode())
