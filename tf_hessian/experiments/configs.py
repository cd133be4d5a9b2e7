"""Reads the files of configs/ from Python."""

import importlib.util
import pathlib

from ml_collections import config_dict


def load_config(path, /, **overrides):
  """Returns the config of a file, as `--config` does.

  Args:
    path: a Python file with a function `get_config`.
    **overrides: values of fields, such as `train={"steps": 10}`, which are added to sections.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it has no `get_config`.
    KeyError: for a field that the config does not have.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(
      f"{path}: there is no such config; the configs are in the folder configs of the repository "
      "(--configs)"
    )
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, "get_config"):
    raise ValueError(f"{path}: expected a function get_config")
  config = module.get_config().lock()
  config.update(overrides)
  return config


def fields_named(config, name, /):
  """Returns the fields of a config and its sections that have a name, such as "lanczos.steps"."""
  found = []
  for field, value in config.items():
    if isinstance(value, config_dict.ConfigDict):
      found += [f"{field}.{inner}" for inner in fields_named(value, name)]
    elif field == name:
      found.append(field)
  return found
