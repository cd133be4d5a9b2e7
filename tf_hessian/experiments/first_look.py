"""A look at a command's config and files.

It comes before TensorFlow is imported, which takes seconds.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

from tf_hessian.experiments import fields
from tf_hessian.experiments.weights import Weights, check_model_file, nearest_file

_CLUSTERS = ("multi_worker", "parameter_server")


def look_at_training(config: Any, workdir: str | os.PathLike, /) -> None:
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
  config: Any,
  workdir: str | os.PathLike,
  weights: Weights,
  /,
  *,
  strategy: str = "one_device",
) -> None:
  """Looks at the config, the folder and the files of a measurement.

  Args:
    config: `ml_collections.ConfigDict`.
    workdir: path of the folder.
    weights: the weights that are measured.
    strategy: its name; of a cluster, the model is the chief's to find.

  Raises:
    TypeError, ValueError: for a bad field.
    OSError: if the folder is a file, or a file that the config names is not there.
  """
  config, workdir = fields.check(config), pathlib.Path(workdir)
  _check_folder(workdir)
  if strategy in _CLUSTERS:
    return
  _check_data(config)
  weights.look(config, workdir)


def _check_data(config):
  """Raises FileNotFoundError if the file of a user's function is not there."""
  if config["data"].get("name") != "function":
    return
  path = str(config["data"].get("function", "")).rpartition(":")[0]
  if (path.endswith(".py") or os.sep in path) and not os.path.exists(path):
    raise FileNotFoundError(f"config.data.function: there is no file {path}{nearest_file(path)}")


def _check_folder(path):
  """Raises OSError if a file is where the folder should be."""
  for there in (path, *path.absolute().parents):
    if os.path.lexists(there) and not there.is_dir():
      raise NotADirectoryError(f"workdir: expected a folder, got a file: {there}")
    if there.is_dir():
      return
