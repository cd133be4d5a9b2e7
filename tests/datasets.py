"""Data sets that several tests read."""

import numpy as np
import tensorflow as tf


def numbers(*sizes):
  """Returns a data set of pairs (i, i^2) cut into batches of the given sizes."""

  def generate():
    start = 0
    for size in sizes:
      i = np.arange(start, start + size, dtype=np.float32)
      yield i, i**2
      start += size

  spec = tf.TensorSpec((None,), tf.float32)
  return tf.data.Dataset.from_generator(generate, output_signature=(spec, spec))
