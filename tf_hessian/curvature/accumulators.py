"""Sums in float64 variables, added to under a lock."""

import tensorflow as tf


class Accumulators:
  """One float64 sum a tensor.

  `add` may be called from several threads and replicas at once: a resource variable adds under its
  lock, so no addition is lost. The order of additions is the callers' business.

  Attributes:
    shapes: tuple of shapes.
    size: number of entries of all sums together.
  """

  def __init__(self, shapes, /):
    self.shapes = tuple(tf.TensorShape(s) for s in shapes)
    self.size = sum(s.num_elements() for s in self.shapes)
    self._sums = [
      tf.Variable(tf.zeros(s, tf.float64), trainable=False, name="accumulator") for s in self.shapes
    ]

  def reset(self):
    """Sets all sums to zero."""
    for total in self._sums:
      total.assign(tf.zeros_like(total))

  def add(self, values, /):
    """Casts each value to float64 and adds it to its sum."""
    for total, value in zip(self._sums, values, strict=True):
      total.assign_add(tf.cast(value, tf.float64), use_locking=True, read_value=False)

  def read(self):
    """Returns the sums, each flattened, one after the other: (size,) float64."""
    return tf.concat([tf.reshape(total, [-1]) for total in self._sums], 0)
