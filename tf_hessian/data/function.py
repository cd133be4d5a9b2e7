"""A user's own data set, from a Python function."""

from __future__ import annotations

import collections.abc
import importlib.util
import inspect
import itertools
import os
import pathlib
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_hessian import keras_inputs
from tf_hessian.data import source
from tf_hessian.reading import Reading

_COUNTED_AT_ONCE = 32
_OBJECT = 150  # bytes of an array beside its numbers
_COPIES = 3  # examples that are yielded, stacked, and as a tensor


def function(
  *,
  function: str,
  batched: bool | None = None,
  num_examples: int = 0,
  shuffle_buffer: int = 10_000,
  memory: float | None = None,
) -> source.Source:
  """Returns the examples of a user's function, as a `Source`.

  The function takes no arguments and returns examples (input, target) or (input, target, sample
  weight), always the same in the same order: as a `tf.data.Dataset`; as a `keras.utils.PyDataset`;
  as a tuple of arrays, one entry an example; or by yielding them, in which case they are kept in
  memory. What has no end needs `num_examples`; how far the first reading has come is logged.

  Args:
    function: "path/to/file.py:name", or "module:name" of a module that Python can import.
    batched: whether a data set has batches, which are cut into examples; None if that is to be seen
      from the size of its first dimension, which `batch` leaves open.
    num_examples: take the first so many; 0 for all.
    shuffle_buffer: for training: number of examples that a random one is taken from.
    memory: bytes that yielded examples may take; None for no limit.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file has no such function, what it returns is none of these, has no end,
      has fewer examples than `num_examples`, or does not fit into memory.
  """
  result = _call(function, load("config.data.function", function))
  reading = Reading(f"config.data.num_examples ({function})")
  examples = _as_dataset(result, function, num_examples, memory, reading, bool(batched))
  if _has_batches(result, examples) if batched is None else batched:
    examples = examples.unbatch()
  if num_examples:
    examples = examples.take(num_examples)
  count = int(examples.cardinality())
  if count == tf.data.INFINITE_CARDINALITY:
    raise ValueError(
      f"config.data.function: {function}: the data set is infinite; give config.data.num_examples, "
      "or take() a part"
    )
  if count < 0:
    count = _count(examples, reading)
  if not isinstance(examples.element_spec, tuple) or len(examples.element_spec) not in (2, 3):
    raise ValueError(
      f"config.data.function: {function}: expected examples (input, target) or (input, target, "
      f"sample weight), got {examples.element_spec}"
    )
  if not count:
    raise ValueError(f"config.data.function: {function} gives no examples")
  if num_examples > count:
    raise ValueError(f"config.data.num_examples: expected at most {count}, got {num_examples}")

  def batches(seed, first, size):
    source.check_batch_size(size, count)
    shuffled = source.stream(lambda _: examples, count, seed, first * size, shuffle_buffer)
    return shuffled.map(lambda example, _: example).batch(size, drop_remainder=True)

  return source.Source(examples, batches, count)


def _call(name, found):
  """Calls a user's function without arguments."""
  try:
    inspect.signature(found).bind()
  except TypeError as e:
    raise ValueError(
      f"config.data.function: {name}: expected a function that can be called without arguments, "
      f"got {type(found).__name__} ({e})"
    ) from e
  except ValueError:  # of some classes in C nothing is known
    pass
  return found()


def load(field: str, name: str, /) -> Any:
  """Returns what a user's file or module has by a name.

  Args:
    field: the field of the config that says so, for errors.
    name: "path/to/file.py:name" or "module:name".

  Raises:
    FileNotFoundError: if there is no such file or module.
    ValueError: if it has no such name.
  """
  path, _, attribute = name.rpartition(":")
  if not path or not attribute:
    raise ValueError(f"{field}: expected path/to/file.py:name or module:name, got {name!r}")
  module = _run_file(field, path) if is_file(path) else _import(field, path)
  try:
    return getattr(module, attribute)
  except AttributeError:
    raise ValueError(f"{field}: {path} has no {attribute!r}") from None


def is_file(path: str, /) -> bool:
  """Returns whether it is the name of a file, not a module."""
  return path.endswith(".py") or os.sep in path or os.path.exists(path)


def _run_file(field, path):
  path = pathlib.Path(path).resolve()
  if not path.exists():
    raise FileNotFoundError(f"{field}: there is no file {path}")
  spec = importlib.util.spec_from_file_location(path.stem, path)
  if spec is None:
    raise ValueError(f"{field}: expected a file *.py, got {path}")
  module = importlib.util.module_from_spec(spec)
  sys.modules.setdefault(path.stem, module)  # layers that it defines are found by it
  spec.loader.exec_module(module)
  return module


def _import(field, name):
  here = os.getcwd()
  if not {"", here} & set(sys.path):  # as python -m has it
    sys.path.insert(0, here)
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as e:
    if e.name is None or not f"{name}.".startswith(f"{e.name}."):
      raise  # of something that it needs
    raise FileNotFoundError(
      f"{field}: there is no module {e.name}, seen from {here}; a file is path/to/{name}.py"
    ) from e


def _has_batches(result, examples):
  """Returns whether a data set has batches: none of their sizes is known."""
  if isinstance(result, keras.utils.PyDataset):
    return True
  shapes = [s.shape for s in tf.nest.flatten(examples.element_spec)]
  known = [s for s in shapes if s.rank is not None]
  return len(known) == len(shapes) > 0 and all(s.rank and s[0] is None for s in shapes)


def _count(examples, reading):
  """Returns the number of examples, by reading them.

  In Python, which Ctrl-C reaches, while it does not reach TensorFlow's own loops.
  """
  for ones in examples.map(lambda *_: np.int8(1)).batch(_COUNTED_AT_ONCE):
    reading.add(len(ones))
  return reading.examples


def _as_dataset(result, name, num_examples, memory, reading, batched):
  if isinstance(result, keras.utils.PyDataset):
    result = keras_inputs.as_batches(result)
  if isinstance(result, tf.data.Dataset):
    return result
  kind = type(result).__name__
  if not isinstance(result, tuple) and isinstance(result, collections.abc.Iterable):
    result = _kept(result, name, num_examples, memory, reading)
    if not result:
      raise ValueError(f"config.data.function: {name} gives no examples")
  try:
    if not isinstance(result, tuple):
      _check_shapes(result, name, batched)
      # Batches may have different sizes, so that they can't be stacked.
      join = (lambda parts: np.concatenate(parts)[None]) if batched else np.stack
      result = tf.nest.map_structure(lambda *parts: join(parts), *result)
    return tf.data.Dataset.from_tensor_slices(result)
  except (TypeError, ValueError) as e:
    raise ValueError(
      f"config.data.function: {name}: expected a data set, a tuple of arrays or examples (input, "
      f"target), got {kind} ({e})"
    ) from e


def _check_shapes(examples, name, batched):
  """Refuses examples, or batches but for their sizes, of different shapes."""
  shapes = [[np.shape(t)[batched:] for t in tf.nest.flatten(e)] for e in examples]
  other = next((s for s in shapes if s != shapes[0]), None)
  if other is not None and len(other) == len(shapes[0]):
    of_batches = "if they are batches, say --batched, or config.data.batched; otherwise "
    raise ValueError(
      f"config.data.function: {name}: yields examples of different shapes, {shapes[0]} and {other}"
      f"; {'' if batched else of_batches}pad them, or return a tf.data.Dataset"
    )


def _kept(examples, name, num_examples, memory, reading):
  """Returns a list of what a function yields, if there is room."""
  kept = []
  for example in itertools.islice(examples, num_examples or None):  # what it raises is the user's
    kept.append(example)
    reading.add(1, sum(getattr(t, "nbytes", 8) + _OBJECT for t in tf.nest.flatten(example)))
    if memory is not None and _COPIES * reading.bytes > memory:
      raise ValueError(
        f"config.data.function: {name}: yields more than fits into memory: {reading} so far, and "
        f"{_COPIES} times as much is needed of {memory / 1e9:.3g} GB; give "
        "config.data.num_examples, or return a tf.data.Dataset, which is not kept"
      )
  return kept
