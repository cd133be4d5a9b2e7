"""A fixed small problem that tells whether processes compute alike.

They do if the bits of its results are equal. The same operation has other kernels for other
instruction sets, libraries and numbers of threads, which round differently.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
import functools
import hashlib

import numpy as np
import tensorflow as tf

# Enough terms for the blocks of a matrix product and for the parts of several threads.
_ROWS, _INNER, _COLUMNS = 64, 1031, 48
_IMAGES, _SIZE, _CHANNELS, _FILTERS = 8, 17, 8, 16


def digest() -> dict[str, str]:
  """Returns digests of the results of this process's kernels: kind -> hex.

  Kinds are matrix products, convolutions, reductions and elementary functions, with their
  gradients, in float32 and float64.
  """
  return {
    f"{name}_{dtype.name}": hashlib.blake2b(
      b"".join(v.numpy().tobytes() for v in function(dtype)), digest_size=8
    ).hexdigest()
    for dtype in (tf.float32, tf.float64)
    for name, function in (
      ("matmul", _matmul),
      ("convolution", _convolution),
      ("reduction", _reduction),
      ("elementary", _elementary),
    )
  }


REMEDY = (
  "give all workers the same image and kind of processor, as many threads (--intra_op_threads) "
  "and the same variables ONEDNN_* and TF_ENABLE_ONEDNN_OPTS, or do without bitwise equal sums by "
  "--nodeterministic"
)


def most_common(found: Sequence[dict[str, str]], mine: dict[str, str], /) -> dict[str, str]:
  """Returns the digest that most workers have.

  Args:
    found: digests of the workers.
    mine: this process's digest. Between equally many it decides, and after it the first.
  """
  names = [tuple(sorted(f.items())) for f in found]
  counts = collections.Counter(names)
  most = max(counts.values(), default=0)
  best = [dict(n) for n in dict.fromkeys(names) if counts[n] == most]
  return mine if mine in best or not best else best[0]


def _numbers(dtype, *shape):
  """Returns fixed numbers, uniform from -2 to 2.

  NumPy's generators of integers don't depend on the processor.
  """
  numbers = np.random.Generator(np.random.PCG64(sum(shape))).integers(-(2**20), 2**20, shape)
  return tf.constant(numbers / 2.0**19, dtype)


def _with_gradients(function, *arguments):
  """Returns a function's value and its gradients.

  They are computed in a graph, as those of a pass are.
  """

  def run(*arguments):
    with tf.GradientTape() as tape:
      tape.watch(arguments)
      value = function(*arguments)
    return [value, *tape.gradient(value, arguments, value)]

  # partial() gives each its own identity; TensorFlow counts the traces of a function together.
  return tf.function(functools.partial(run), autograph=False)(*arguments)


def _matmul(dtype):
  a, b = _numbers(dtype, _ROWS, _INNER), _numbers(dtype, _INNER, _COLUMNS)
  return _with_gradients(tf.matmul, a, b)


def _convolution(dtype):
  images = _numbers(dtype, _IMAGES, _SIZE, _SIZE, _CHANNELS)
  filters = _numbers(dtype, 3, 3, _CHANNELS, _FILTERS)
  return _with_gradients(lambda x, f: tf.nn.conv2d(x, f, 1, "SAME"), images, filters)


def _reduction(dtype):
  numbers = _numbers(dtype, _ROWS, _INNER)
  return [tf.reduce_sum(numbers, axis) for axis in (None, 0, 1)] + [tf.nn.softmax(numbers)]


def _elementary(dtype):
  numbers = _numbers(dtype, _ROWS * _INNER)
  functions = (tf.exp, tf.tanh, tf.sigmoid, tf.nn.softplus, lambda x: tf.math.log(tf.abs(x) + 1))
  return [f(numbers) for f in functions]
