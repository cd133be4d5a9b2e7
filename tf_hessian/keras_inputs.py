"""Data in the other forms that Keras's `fit` takes: arrays, and `keras.utils.PyDataset`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

BATCH_SIZE = 128  # of arrays; the mean loss of a model without batch statistics has none


def as_batches(data: Any, /) -> Any:
  """Returns arrays and a `PyDataset` as a data set of batches.

  Args:
    data: a tuple (inputs, targets[, sample weights]) of nests of arrays whose rows are examples; a
      `keras.utils.PyDataset`; or anything else, which is returned as it is.

  Raises:
    ValueError: for arrays of different lengths, or a `PyDataset` that is empty or has no end.
  """
  if isinstance(data, tuple):
    return _of_arrays(data)
  if isinstance(data, keras.utils.PyDataset):
    return _of_py_dataset(data)
  return data


def without_none(batch: Any, /) -> Any:
  """Leaves out sample weights that are None, as Keras allows."""
  while isinstance(batch, tuple) and batch and batch[-1] is None:
    batch = batch[:-1]
  return batch


def _of_arrays(data):
  data = _arrays(without_none(data))
  lengths = [len(x) if x.ndim else None for x in tf.nest.flatten(data)]
  if len(data) not in (2, 3) or len(set(lengths)) != 1 or None in lengths:
    raise ValueError(
      "data set: expected a tuple (inputs, targets) or (inputs, targets, sample weights) of arrays "
      f"with one row an example, got {len(data)} parts with {lengths} rows; a list holds batches"
    )
  if not lengths[0]:
    raise ValueError("data set: it is empty; expected at least one example")
  return tf.data.Dataset.from_tensor_slices(data).batch(BATCH_SIZE)


def _of_py_dataset(data):
  count = data.num_batches
  if count is None:
    raise ValueError(
      f"data set: {type(data).__name__} has no end (num_batches is None); give it a length"
    )
  if not count:
    raise ValueError(f"data set: {type(data).__name__} is empty; expected at least one batch")

  def batch(b):
    return _arrays(without_none(data[b]))

  def batches():
    for b in range(count):
      yield batch(b)

  # A batch's number of examples may differ, and so may lengths of sequences.
  first = tf.nest.map_structure(tf.convert_to_tensor, batch(0))
  spec = tf.nest.map_structure(lambda t: tf.TensorSpec([None] * t.shape.rank, t.dtype), first)
  found = tf.data.Dataset.from_generator(batches, output_signature=spec)
  return found.apply(tf.data.experimental.assert_cardinality(count))


def _arrays(value):
  """Returns a nest of arrays, with tuples in the place of lists."""
  if isinstance(value, dict):
    return {k: _arrays(x) for k, x in value.items()}
  if isinstance(value, tuple) or (isinstance(value, list) and any(map(_is_array, value))):
    return tuple(map(_arrays, value))  # as data sets take a list to be an array
  return np.asarray(value)


def _is_array(value):
  return hasattr(value, "shape")
