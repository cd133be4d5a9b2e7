"""Gradients of single batches, of the same terms and seeds as the passes over all of them."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.models.mlp import mlp

SIZES = (4, 4, 3)
EPS32 = float(np.finfo(np.float32).eps)
LOSS = keras.losses.CategoricalCrossentropy(from_logits=True)


@pytest.fixture(scope="module")
def model():
  random.seed(0)
  return mlp(input_shape=(3,), hidden_units=(5,), num_classes=2, activation="tanh")


@pytest.fixture(scope="module")
def data():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((sum(SIZES), 3)).astype(np.float32)
  y = np.eye(2, dtype=np.float32)[rng.integers(2, size=len(x))]
  weights = rng.uniform(0.5, 2, len(x)).astype(np.float32)
  cuts = np.cumsum(SIZES)[:-1]
  return list(zip(*(np.split(a, cuts) for a in (x, y, weights)), strict=True))


def by_tape(model, x, y, sample_weight=None):
  """Returns the gradient of the mean loss of one batch."""
  with tf.GradientTape() as tape:
    losses = keras.losses.categorical_crossentropy(y, model(x), from_logits=True)
    weights = tf.ones(len(x)) if sample_weight is None else tf.constant(sample_weight)
    loss = tf.reduce_sum(losses * weights) / tf.reduce_sum(weights)
  return np.concatenate([np.ravel(g) for g in tape.gradient(loss, model.trainable_weights)])


@pytest.mark.parametrize("weighted", [False, True])
def test_each_is_the_gradient_of_its_batchs_mean_loss(model, data, weighted):
  batches = data if weighted else [batch[:2] for batch in data]
  found = list(HessianOperator(model, LOSS, batches).batch_gradients())
  assert len(found) == len(SIZES) and found[0].dtype == np.float64
  for g, batch in zip(found, batches, strict=True):
    # Float32 sums of a few terms.
    np.testing.assert_allclose(g, by_tape(model, *batch), rtol=0, atol=16 * EPS32)


def test_their_mean_by_the_batches_weights_is_the_gradient(model, data):
  operator = HessianOperator(model, LOSS, data)
  weights = [batch[2].sum() for batch in data]
  mean = np.average(list(operator.batch_gradients()), axis=0, weights=weights)
  np.testing.assert_allclose(mean, operator.gradient(), rtol=0, atol=16 * EPS32)


def test_regularization_counts_once_in_each():
  w = tf.Variable([1.0, 2.0], dtype=tf.float64)
  random.seed(0)
  inputs = keras.Input((2,))
  layer = keras.layers.Dense(1, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.5))
  model = keras.Model(inputs, layer(inputs))
  model.set_weights([np.array([[1.0], [2.0]])])
  x, y = np.zeros((4, 2), np.float32), np.zeros((4, 1), np.float32)
  operator = HessianOperator(model, keras.losses.MeanSquaredError(), [(x, y), (x, y)])
  for g in operator.batch_gradients():
    np.testing.assert_allclose(g, w, rtol=4 * EPS32)  # 2 * 0.5 * w; the data give nothing


@pytest.mark.slow
def test_dropout_draws_what_the_pass_draws(data):
  random.seed(0)
  inputs = keras.Input((3,))
  x = keras.layers.Dropout(0.5)(keras.layers.Dense(20)(inputs))
  model = keras.Model(inputs, keras.layers.Dense(2)(x))
  operator = HessianOperator(model, LOSS, data, training=True, seed=3)
  weights = [batch[2].sum() for batch in data]
  mean = np.average(list(operator.batch_gradients()), axis=0, weights=weights)
  np.testing.assert_allclose(mean, operator.gradient(), rtol=0, atol=64 * EPS32)


def test_batch_without_weight_is_named(model, data):
  x, y, weights = data[1]
  batches = [data[0], (x, y, 0 * weights), data[2]]
  with pytest.raises(ValueError, match="batch 1: expected a positive sum"):
    list(HessianOperator(model, LOSS, batches).batch_gradients())


def test_batch_with_nan_is_named(model, data):
  x, y, weights = data[2]
  operator = HessianOperator(model, LOSS, [data[0], data[1], (x, y, weights)])
  kernel = model.trainable_weights[0]
  before = kernel.numpy()
  try:
    kernel.assign(np.full(before.shape, np.nan))
    with pytest.raises(ValueError, match="gradient: NaN or infinity in batch 0"):
      list(operator.batch_gradients())
  finally:
    kernel.assign(before)
