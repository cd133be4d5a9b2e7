"""A stopped gradient is told, unless it cancels."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.curvature.operator import HessianOperator

layers, ops = keras.layers, keras.ops
X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


class Function(layers.Layer):
  def __init__(self, function):
    super().__init__(name="culprit")
    self.function = function

  def call(self, inputs):
    return self.function(inputs)


def log_of(function, caplog, loss="mse", **options):
  parts = [layers.Dense(3, name="first"), Function(function), layers.Dense(3, name="head")]
  HessianOperator(keras.Sequential([keras.Input((3,)), *parts]), loss, [(X, X)], **options)
  return caplog.text


STOPPING = {
  "straight-through": lambda x: x + tf.stop_gradient(tf.round(x) - x),
  "normalised by a fixed length": lambda x: x / tf.stop_gradient(tf.norm(x)),
  "Keras's": lambda x: ops.stop_gradient(x) * x,
}


@pytest.mark.parametrize("name", STOPPING)
def test_a_layer_that_stops_what_depends_on_variables_is_named(name, caplog):
  assert "layer 'culprit': tf.stop_gradient holds values fixed" in log_of(STOPPING[name], caplog)


HARMLESS = {
  "of data": (lambda x: x, lambda t, p: tf.reduce_mean((tf.stop_gradient(t) - p) ** 2, -1)),
  "logsumexp": (lambda x: tf.reduce_logsumexp(x, -1, keepdims=True), "mse"),
  "Keras's logsumexp": (lambda x: ops.logsumexp(x, -1, keepdims=True), "mse"),
  "softmax": (tf.nn.softmax, "categorical_crossentropy"),
  "log softmax": (tf.nn.log_softmax, "mse"),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_not_depend_on_variables_or_cancels_is_not_told(name, caplog):
  function, loss = HARMLESS[name]
  assert "stop_gradient" not in log_of(function, caplog, loss)


def test_variables_behind_the_layer_are_not_concerned(caplog):
  text = log_of(STOPPING["straight-through"], caplog, variables="head")
  assert "stop_gradient" not in text


class Centering(layers.Layer):
  """Takes a moving mean of what comes in away, which it has just moved."""

  def build(self, shape):
    self.mean = self.add_weight(name="mean", shape=shape[1:], trainable=False, initializer="ones")

  def call(self, inputs):
    self.mean.assign(0.5 * self.mean + 0.5 * ops.mean(inputs, 0))
    return inputs - self.mean


def centered(**options):
  keras.utils.set_random_seed(0)
  parts = [layers.Dense(3, name="first"), Centering(name="center"), layers.Dense(3, "tanh")]
  model = keras.Sequential([keras.Input((3,)), *parts])
  model.compile("sgd", "mse")
  return model, HessianOperator(model, None, [(X, X)], training=True, **options)


@pytest.mark.parametrize("options", [{}, {"recompute_blocks": 2}])
def test_what_a_layer_assigns_and_reads_is_held_fixed_as_in_fit(caplog, options):
  model, operator = centered(**options)
  assert "layer 'center': tf.stop_gradient holds values fixed" in caplog.text
  with tf.GradientTape() as tape:
    loss = tf.reduce_mean((model(X, training=True) - X) ** 2)
  model.layers[1].mean.assign([1.0, 1.0, 1.0])
  expected = np.concatenate(
    [np.ravel(g) for g in tape.gradient(loss, [v.value for v in model.trainable_variables])]
  )
  # Rounding of float32 over its sums.
  np.testing.assert_allclose(operator.gradient(), expected, atol=1e-6)
  np.testing.assert_array_equal(model.layers[1].mean, [1.0, 1.0, 1.0])


def test_statistics_that_batch_normalization_moves_are_not_told(caplog):
  model = keras.Sequential([keras.Input((3,)), layers.Dense(3), layers.BatchNormalization()])
  HessianOperator(model, "mse", [(X, X)], training=True)
  assert "stop_gradient" not in caplog.text


def test_spectral_normalization_is_refused_in_training_mode_only():
  wrapped = layers.SpectralNormalization(layers.Dense(3), name="wrapped")
  model = keras.Sequential([keras.Input((3,)), wrapped])
  HessianOperator(model, "mse", [(X, X)])
  with pytest.raises(ValueError, match="'wrapped' .SpectralNormalization. .* training=False"):
    HessianOperator(model, "mse", [(X, X)], training=True)
