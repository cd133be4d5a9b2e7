"""A user's own data set, from a Python function."""

import collections.abc
import importlib.util
import pathlib
import sys

import numpy as np
import tensorflow as tf

from tf_hessian.data import source


def function(*, function, shuffle_buffer=10_000):
  """Returns what a user's function gives, as a `Source`.

  The function takes no arguments and returns single examples (input, target) or (input, target,
  sample weight), always the same in the same order: as a finite `tf.data.Dataset`; as a tuple of
  arrays, one entry an example; or by yielding them, in which case they are kept in memory.

  Args:
    function: "path/to/file.py:name".
    shuffle_buffer: for training: number of examples that a random one is taken from.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file has no such function, or what it returns is none of these.
  """
  examples = _as_dataset(_load(function)(), function)
  count = int(examples.cardinality())
  if count == tf.data.INFINITE_CARDINALITY:
    raise ValueError(f"config.data.function: {function}: the data set is infinite; take() a part")
  if count < 0:
    count = int(examples.reduce(np.int64(0), lambda n, *_: n + 1))
  if not isinstance(examples.element_spec, tuple) or len(examples.element_spec) not in (2, 3):
    raise ValueError(
      f"config.data.function: {function}: expected examples (input, target) or (input, target, "
      f"sample weight), got {examples.element_spec}"
    )
  if not count:
    raise ValueError(f"config.data.function: {function} gives no examples")

  def batches(seed, first, size):
    source.check_batch_size(size, count)
    shuffled = source.stream(lambda _: examples, count, seed, first * size, shuffle_buffer)
    return shuffled.map(lambda example, _: example).batch(size, drop_remainder=True)

  return source.Source(examples, batches, count)


def _load(name):
  path, _, attribute = name.rpartition(":")
  if not path or not attribute:
    raise ValueError(f"config.data.function: expected path/to/file.py:name, got {name!r}")
  path = pathlib.Path(path).resolve()
  if not path.exists():
    raise FileNotFoundError(f"config.data.function: there is no file {path}")
  spec = importlib.util.spec_from_file_location(path.stem, path)
  if spec is None:
    raise ValueError(f"config.data.function: expected a file *.py, got {path}")
  module = importlib.util.module_from_spec(spec)
  sys.modules.setdefault(path.stem, module)  # layers that it defines are found by it
  spec.loader.exec_module(module)
  try:
    return getattr(module, attribute)
  except AttributeError:
    raise ValueError(f"config.data.function: {path} has no {attribute!r}") from None


def _as_dataset(result, name):
  if isinstance(result, tf.data.Dataset):
    return result
  kind = type(result).__name__
  if not isinstance(result, tuple) and isinstance(result, collections.abc.Iterable):
    result = list(result)  # what a generator raises is the user's
    if not result:
      raise ValueError(f"config.data.function: {name} gives no examples")
  try:
    if not isinstance(result, tuple):
      result = tf.nest.map_structure(lambda *parts: np.stack(parts), *result)
    return tf.data.Dataset.from_tensor_slices(result)
  except (TypeError, ValueError) as e:
    raise ValueError(
      f"config.data.function: {name}: expected a data set, a tuple of arrays or examples (input, "
      f"target), got {kind} ({e})"
    ) from e
