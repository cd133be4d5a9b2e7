"""Reads the files of configs/ from Python."""

from __future__ import annotations

import difflib
import importlib.machinery
import importlib.util
import os
import pathlib
import re
from typing import Any

from ml_collections import config_dict

from tf_hessian.experiments import fields


def load_config(path: str | os.PathLike, /, **overrides: Any) -> config_dict.ConfigDict:
  """Returns the config of a file, as `--config` does.

  Fields that it has left out are filled in.

  Args:
    path: a Python file with a function `get_config`; what follows a colon is its argument. Names
      without a folder and suffix, such as "mnist_mlp", are those of the configs that come with the
      package.
    **overrides: values of fields, such as `train={"steps": 10}`, which are added to sections.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is no such file, or it fails.
    KeyError: for a field that the config does not have.
  """
  name, colon, argument = str(path).partition(":")
  module = _run(_own(name) or pathlib.Path(name).expanduser())
  if not callable(getattr(module, "get_config", None)):
    raise ValueError(f"{name}: expected a Python file with a function get_config, and it has none")
  try:
    config = module.get_config(*([argument] if colon else []))
  except Exception as e:  # whatever it is, it is a mistake in the user's file
    raise ValueError(f"{name}: its get_config fails: {_in_a_line(e, name)}") from e
  if not isinstance(config, config_dict.ConfigDict):
    raise ValueError(
      f"{name}: expected get_config to return an ml_collections.ConfigDict, got "
      f"{type(config).__name__}"
    )
  config.unlock()
  fields.fill(config)
  config.lock()
  config.update(overrides)
  return config


def _own(name):
  """Returns the file of a config of the package, or None."""
  if not re.fullmatch(r"\w+", name) or pathlib.Path(name).exists():
    return None
  here = pathlib.Path(__file__).resolve()
  found = [here.parents[i] / "configs" / f"{name}.py" for i in (1, 2)]  # installed, or a clone
  return next((path for path in found if path.is_file()), None)


def _run(path):
  """Runs a Python file; returns its module."""
  if not path.name:
    raise ValueError("expected the path of a Python file, such as configs/mnist_mlp.py, got ''")
  if path.is_dir():
    near = ", ".join(sorted(p.name for p in path.glob("*.py"))[:10])
    raise ValueError(f"{path}: expected a Python file, got a folder (of {near or 'no such files'})")
  if not path.is_file():
    others = [str(p) for p in path.parent.glob("*.py")]
    near = difflib.get_close_matches(str(path), others, n=1)
    raise FileNotFoundError(
      f"{path}: there is no such config"
      + (f"; did you mean {near[0]}?" if near else "")
      + "; the configs are in the folder configs of the repository (of reproduce: --configs)"
    )
  loader = importlib.machinery.SourceFileLoader(path.stem, str(path))
  module = importlib.util.module_from_spec(importlib.util.spec_from_loader(path.stem, loader))
  try:
    loader.exec_module(module)
  except (SyntaxError, ValueError) as e:
    if isinstance(e, ValueError) and "null bytes" not in str(e):  # Python 3.10's word for binary
      raise ValueError(f"{path}: it fails: {_in_a_line(e, path)}") from e
    raise ValueError(f"{path}: expected a Python file: {_in_a_line(e, path)}") from e
  except (Exception, SystemExit) as e:  # whatever it is, it is a mistake in the user's file
    if isinstance(e, OSError) and e.filename == str(path):
      raise OSError(e.errno, f"{path}: it can't be read ({e.strerror})") from e
    raise ValueError(f"{path}: it fails: {_in_a_line(e, path)}") from e
  return module


def _in_a_line(error, path):
  """Returns an error as a line, with its kind and place.

  The place is the last line of the file that it came from.
  """
  lines, traceback = [], error.__traceback__
  while traceback is not None:
    if traceback.tb_frame.f_code.co_filename == str(path):
      lines.append(traceback.tb_lineno)
    traceback = traceback.tb_next
  if isinstance(error, SyntaxError):
    text, lines = error.msg, [error.lineno] if error.lineno else []
  else:
    text = " ".join(str(error).split())
  place = f", in line {lines[-1]}" if lines else ""
  return f"{type(error).__name__}{f': {text}' if text else ''}{place}"


def check_override(config: config_dict.ConfigDict, name: str, /) -> None:
  """Raises ValueError, with the nearest names, unless a config has a field.

  Args:
    config: `ConfigDict`.
    name: such as "lanczos.steps"; what follows a bracket is left to others.
  """
  node = config
  for part in name.split("[")[0].split("."):
    if isinstance(node, config_dict.ConfigDict) and part in node:
      node = node[part]
      continue
    names = field_names(config)
    # A name without its section, then whatever is spelt alike, with the section or without.
    last = name.split(".")[-1]
    near = fields_named(config, name) or difflib.get_close_matches(name, names, n=2)
    near = near or fields_named(config, last)
    if not near:
      ends = {n.split(".")[-1]: n for n in names}
      near = [ends[e] for e in difflib.get_close_matches(last, ends, n=2)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(names)}"
    raise ValueError(f"--config.{name}: the config has no such field; {hint}")


def field_names(config: config_dict.ConfigDict, /) -> list[str]:
  """Returns the names of all fields, such as "lanczos.steps".

  They are those of a config and its sections.
  """
  names = []
  for field, value in config.items():
    if isinstance(value, config_dict.ConfigDict):
      names += [f"{field}.{inner}" for inner in field_names(value)]
    else:
      names.append(field)
  return names


def fields_named(config: config_dict.ConfigDict, name: str, /) -> list[str]:
  """Returns the fields with a name, such as "lanczos.steps".

  They are those of a config and its sections.
  """
  return [field for field in field_names(config) if field.split(".")[-1] == name]
