"""Spectra of many checkpoints of one model, by one operator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import contextlib
import json
import os
import pathlib
from typing import Any

from absl import logging
import keras

from tf_hessian import notices
from tf_hessian.curvature import keras_internals, scopes
from tf_hessian.curvature.operator import CurvatureOperator
from tf_hessian.folders import as_path
from tf_hessian.slq.density import spectral_density
from tf_hessian.slq.matrix import check_is_of_model
from tf_hessian.slq.method import SLQ, make_target
from tf_hessian.spectrum import Spectrum
from tf_hessian.training import checkpoints as checkpoints_lib

_WEIGHTS = ".weights.h5"
_HDF5 = b"\x89HDF\r\n\x1a\n"  # what such files begin with


def spectra(
  operator: CurvatureOperator,
  checkpoints: Mapping[str, str | os.PathLike] | Iterable[str | os.PathLike],
  /,
  *,
  workdir: str | os.PathLike | None = None,
  check: bool = True,
  **options: Any,
) -> dict[str, Spectrum]:
  """Returns the spectra of a model's checkpoints.

  The operator's model takes on the weights of each, one after the other, and has its own again in
  the end. So the functions are built once. `plotting.plot_spectra` and `plotting.plot_evolution`
  draw the result.

  >>> import os
  >>> import tempfile
  >>> import keras
  >>> import numpy as np
  >>> import tf_hessian
  >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
  >>> x = np.eye(2, dtype="float32")
  >>> hessian = tf_hessian.HessianOperator(model, keras.losses.MeanSquaredError(), [(x, x[:, :1])])
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   path = os.path.join(folder, "step_1.weights.h5")
  ...   model.save_weights(path)
  ...   found = tf_hessian.spectra(hessian, [path], num_draws=2, lanczos_steps=2, progress=False)
  >>> {name: spectrum.largest(1).round(5).tolist() for name, spectrum in found.items()}
  {'step_1': [1.0]}

  Args:
    operator: a `HessianOperator` or another matrix of a Keras model.
    checkpoints: paths of `.keras` or `.weights.h5` files of the same model, or a dict: name ->
      path. Without names they are called by their files.
    workdir: folder around one folder for each, from which an interrupted run goes on.
    check: as in `spectral_density`; only the first is checked.
    **options: further arguments of `spectral_density`, such as `num_draws`.

  Returns:
    dict: name -> `Spectrum`, in the order of the checkpoints.

  Raises:
    TypeError: for an operator of no Keras model.
    FileNotFoundError: before anything is measured, for a file that is not there.
    ValueError: for a damaged file, one of another model, two of one name, or bad arguments.
  """
  check_is_of_model(operator)
  model = operator.model
  if not isinstance(model, keras.Model):
    raise TypeError(f"operator: expected one of a keras.Model, got one of {type(model).__name__}")
  paths = _named(checkpoints)
  for name in paths:
    if workdir is not None and (name in ("", ".", "..") or pathlib.Path(name).name != name):
      raise ValueError(
        f"checkpoints: expected names of folders inside of workdir, got {name!r}; give a dict: "
        "name -> path"
      )
  folders = {n: None if workdir is None else as_path(workdir) / n for n in paths}
  _look_first(paths.values(), folders.values(), operator.shape[0], options)
  before, found = model.get_weights(), {}
  try:
    for i, (name, path) in enumerate(paths.items()):
      notices.show("checkpoint %d of %d: %s", i + 1, len(paths), name)
      load_into(model, path)
      operator.check_point()
      found[name] = spectral_density(
        operator, workdir=folders[name], check=check and not i, **options
      )
  finally:
    _set_weights(model, before)
  return found


def _look_first(paths, folders, n, options):
  """Refuses what are no files of models, and folders of other runs."""
  for path in paths:
    if not str(path).endswith(_WEIGHTS):
      checkpoints_lib.check_archive(path)
    else:
      with open(path, "rb") as file:
        begins = file.read(len(_HDF5))
      if begins != _HDF5:
        raise ValueError(f"{path}: no file of weights, or damaged")
  names = ("num_draws", "lanczos_steps", "seed", "start")
  kernel = options.get("sigma_squared", 1e-5), options.get("relative", False)
  target = make_target(options.get("target_error"), *kernel)
  method = SLQ(**{k: options[k] for k in names if k in options}, target=target).of_order(n)
  for folder in filter(None, folders):
    method.check_folder(folder)


def load_into(model: keras.Model, path: str | os.PathLike, /) -> None:
  """Gives a model the weights of a file.

  Args:
    model: the model.
    path: a `.keras` or `.weights.h5` file.

  Raises:
    ValueError: for a damaged file, or one of another model.
  """
  if str(path).endswith(_WEIGHTS):
    with _only_weights(model):
      try:
        model.load_weights(path)
      except Exception as e:  # in many ways inside h5py and Keras
        raise ValueError(f"{path}: not weights of model {model.name!r}, or damaged ({e})") from e
    return
  with scopes.python_random_kept():
    other = checkpoints_lib.load_model(path)
  take_weights(model, other, str(path))


def _set_weights(model, values):
  """Sets a model's weights, and the constants that layers make of them."""
  model.set_weights(values)
  for layer in keras_internals.normalizations(keras_internals.layers_of(model)):
    layer.finalize_state()


@contextlib.contextmanager
def _only_weights(model):
  """Keeps what a file has besides weights: states of optimizer, seeds and metrics."""
  optimizer = getattr(model, "optimizer", None)
  weights = {id(v) for v in model.weights}
  others = [v for v in model.variables if id(v) not in weights]
  others += optimizer.variables if optimizer is not None else []
  before = [(v, v.numpy()) for v in others]
  try:
    yield
  finally:
    for variable, value in before:
      variable.assign(value)


def take_weights(model: keras.Model, other: keras.Model, source: str, /) -> None:
  """Gives a model the weights of another one.

  A layer that computes differently in the other one is warned of: its settings are the model's own.

  Args:
    model: the model.
    other: the other one, which may be of other names.
    source: where it is from, for the message.

  Raises:
    ValueError: if the shapes of their variables differ.
  """
  shapes = [[tuple(v.shape) for v in m.weights] for m in (model, other)]
  if shapes[0] != shapes[1]:
    i = next(
      (i for i, (a, b) in enumerate(zip(*shapes, strict=False)) if a != b), min(map(len, shapes))
    )
    pair = [str(s[i]) if i < len(s) else "none" for s in shapes]
    counts = [len(s) for s in shapes]
    other_count = "" if counts[0] == counts[1] else f"of {counts[1]} variables, not {counts[0]}; "
    raise ValueError(
      f"{source}: it is of another model: {other_count}variable {i} has shape {pair[1]} instead of "
      f"{pair[0]}"
    )
  difference = _difference(model, other)
  if difference:
    logging.warning("%s: %s; its weights are measured in the operator's model", source, difference)
  _set_weights(model, other.get_weights())


# Settings of layers that say nothing of what they compute.
_NO_MATTER = ("name", "trainable", "dtype", "seed", "initializer", "constraint")


def _difference(model, other):
  """Returns how another model computes differently, in words, or None."""
  pairs = zip(*map(keras_internals.layers_of, (model, other)), strict=False)
  for mine, its in pairs:
    if type(mine).__name__ != type(its).__name__:
      return f"layer {mine.name!r} is {type(its).__name__} there, {type(mine).__name__} here"
    first, second = _settings(mine), _settings(its)
    for key in sorted(first.keys() & second.keys()):
      if first[key] != second[key]:
        return f"layer {mine.name!r} has {key}={second[key]} there, {first[key]} here"
  return None


def _settings(layer):
  """Returns the settings that a layer's values depend on, as JSON."""
  if isinstance(layer, keras.Model):
    return {}  # its layers come by themselves
  try:
    config = keras.saving.serialize_keras_object(layer)["config"]
  except (NotImplementedError, TypeError, ValueError, AttributeError):
    return {}  # a layer of a user's that can't be saved
  return {
    key: json.dumps(value, sort_keys=True, default=repr)
    for key, value in config.items()
    if not key.endswith(_NO_MATTER)
  }


def _named(checkpoints):
  """Returns a dict: name -> path of a file that is there."""
  if isinstance(checkpoints, (str, os.PathLike)):
    raise TypeError(f"checkpoints: expected a list of paths, got a single one, {checkpoints!r}")
  if isinstance(checkpoints, Mapping):
    result = {str(name): path for name, path in checkpoints.items()}
    if len(result) < len(checkpoints):
      raise ValueError("checkpoints: two names are the same as text; give each its own")
  else:
    paths = list(checkpoints)
    names = [pathlib.Path(p).name.removesuffix(".keras").removesuffix(_WEIGHTS) for p in paths]
    result = dict(zip(names, paths, strict=True))
    if len(result) < len(paths):
      raise ValueError("checkpoints: two files have one name; give a dict: name -> path")
  if not result:
    raise ValueError("checkpoints: expected at least one")
  for path in result.values():
    if not pathlib.Path(path).is_file():
      raise FileNotFoundError(f"checkpoints: there is no file {path}")
  return result
