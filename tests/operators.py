"""Operators that count and fail, and a tiny one of a model."""

import random

import keras
import numpy as np
import scipy.sparse.linalg
import tensorflow as tf

from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.models.mlp import mlp
from tf_hessian.numerics import probes


class Counting(scipy.sparse.linalg.LinearOperator):
  """A symmetric matrix that counts products and fails at one of them.

  The product that a run tells matrices apart by, that of `Stream.KNOWN_VECTOR`, is not counted.
  """

  def __init__(self, matrix, fail_at=None, error=RuntimeError):
    super().__init__(np.dtype(np.float64), matrix.shape)
    self.matrix = matrix
    self.count = 0
    self._fail_at = fail_at
    self._error = error
    self._mark = probes.probe(0, probes.Stream.KNOWN_VECTOR, len(matrix))

  def _matvec(self, x):
    if not np.array_equal(np.ravel(x), self._mark):
      self.count += 1
      if self.count == self._fail_at:
        raise self._error("failed on purpose")
    return self.matrix @ x


def make_operator(seed=0, **options):
  random.seed(0)  # for the weights; with TensorFlow's own, its functions are made ready anew
  model = mlp(input_shape=(3,), hidden_units=(4,), num_classes=2, activation="tanh")
  rng = np.random.default_rng(seed)
  # Batches of one shape: each shape is traced, which is most of what the operator takes.
  x = rng.standard_normal((12, 3)).astype(np.float32)
  y = np.eye(2, dtype=np.float32)[rng.integers(2, size=12)]
  data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
  loss = keras.losses.CategoricalCrossentropy(from_logits=True)
  return HessianOperator(model, loss, data, **options)


def make_pooled():
  """A small network with constants that Grappler moves, but not into a loop."""
  layers = keras.layers
  keras.utils.set_random_seed(0)
  model = keras.Sequential(
    [
      keras.Input((6, 6, 4)),
      layers.DepthwiseConv2D(2, name="conv"),
      layers.BatchNormalization(name="norm"),
      layers.GlobalAveragePooling2D(name="pool"),
      layers.Dense(3, name="logits"),
    ],
    name="pooled",
  )
  rng = np.random.default_rng(0)
  data = [(rng.standard_normal((20, 6, 6, 4), np.float32), np.arange(20) % 3)]
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  operator = HessianOperator(model, loss, data, training=True)
  operator.vectorized = False
  return operator
