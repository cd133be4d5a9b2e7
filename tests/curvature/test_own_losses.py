"""Losses that a model computes itself are run as `fit` runs them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.curvature.fitted import (
  FLOAT64,
  INPUTS,
  N,
  X,
  Y,
  agree_with_differences,
  slowly,
  state,
  two_outputs,
)
from tf_hessian.curvature.operator import HessianOperator

layers, ops = keras.layers, keras.ops

pytestmark = pytest.mark.usefixtures("float64")


class OwnLoss(keras.Model):
  def __init__(self):
    super().__init__()
    self.hidden, self.last = layers.Dense(3, "tanh"), layers.Dense(1)

  def call(self, inputs):
    return self.last(self.hidden(inputs))

  def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
    del sample_weight
    return ops.mean(ops.square(y - y_pred) * ops.square(x[:, :1])) + ops.mean(y_pred**4)


def own_loss_model():
  model = OwnLoss()
  model.compile("sgd", "mse")
  model(X)
  return model


@pytest.mark.parametrize("loss", [None, *slowly([("the method",), ("compute_loss",)])])
def test_a_models_own_compute_loss_is_what_is_measured(loss, difference_error):
  model = own_loss_model()
  loss = model.compute_loss if loss == "the method" else loss
  operator = HessianOperator(model, loss, [(X[:5], Y[:5]), (X[5:], Y[5:])])
  assert agree_with_differences(operator, difference_error)
  p = np.array(model(X))
  expected = float(np.mean((Y - p) ** 2 * X[:, :1] ** 2) + np.mean(p**4))
  assert operator.loss() == pytest.approx(expected, rel=FLOAT64)


@pytest.mark.parametrize("name", ["compute_loss", "train_step"])
def test_the_standard_methods_mean_the_compiled_loss(name):
  model = two_outputs()
  model.compile("sgd", "mse")
  operators = [
    HessianOperator(model, x, [(X, (Y, Y))]) for x in (name, getattr(model, name), "mse")
  ]
  assert len({o.loss() for o in operators}) == 1


def test_the_method_of_another_model_is_refused():
  model, other = own_loss_model(), own_loss_model()
  with pytest.raises(ValueError, match="compute_loss is of another model"):
    HessianOperator(model, other.compute_loss, [(X, Y)])


class OwnStep(OwnLoss):
  """A variational model: its loss stands in its step, and draws random numbers."""

  def __init__(self, optimizers=1):
    super().__init__()
    self.seeds = keras.random.SeedGenerator(1)
    self.mean = keras.metrics.Mean(name="mean")
    self.parts = [None] if optimizers == 1 else [self.hidden, self.last]

  def train_step(self, data):
    x, y = data
    for part in self.parts:
      with tf.GradientTape() as tape:
        noise = keras.random.normal(ops.shape(x), seed=self.seeds)
        loss = ops.mean(ops.square(self(x + noise, training=True) - y))
      weights = self.trainable_weights if part is None else part.trainable_weights
      gradients = tape.gradient(loss, weights)
      self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
    self.mean.update_state(loss)
    return {"loss": self.mean.result()}


def own_step_model(**options):
  model = OwnStep(**options)
  model.compile("adam")
  model(X)
  return model


@pytest.mark.parametrize("loss", ["train_step", *slowly([("compute_loss",), (None,)])])
def test_the_loss_of_a_models_own_step_is_what_is_measured(loss, difference_error):
  model = own_step_model()
  model.fit(X, Y, verbose=0)
  before = state(model)
  operator = HessianOperator(model, loss, [(X, Y)], training=True)
  assert agree_with_differences(operator, difference_error)
  assert state(model) == before
  model.seeds.state.assign([1, 0])
  losses = [HessianOperator(model, loss, [(X, Y)], training=True, seed=s).loss() for s in (0, 0, 1)]
  assert losses[0] == losses[1] != losses[2]
  model.fit(X, Y, verbose=0)  # it still trains
  assert state(model) != before


def test_a_step_without_noise_has_the_value_that_fit_reports():
  class Plain(OwnStep):
    def train_step(self, data):
      x, y = data
      with tf.GradientTape() as tape:
        loss = ops.sum(ops.square(self(x, training=True) - y)) / N
      gradients = tape.gradient(loss, self.trainable_weights)
      self.optimizer.apply(gradients, self.trainable_weights)
      return {"loss": loss}

  model = Plain()
  model.compile("sgd")
  model(X)
  value = HessianOperator(model, None, [(X, Y)], training=True).loss()
  (reported,) = model.fit(X, Y, verbose=0).history["loss"]
  assert value == pytest.approx(reported, rel=1e-6)  # Keras reports float32


def test_an_optimizer_that_scales_losses_leaves_that_of_a_step_as_it_is():
  class KerasStep(keras.Model):
    def train_step(self, data):
      return super().train_step(data)

  keras.utils.set_random_seed(0)
  inputs = keras.Input((INPUTS,))
  model = KerasStep(inputs, layers.Dense(1)(inputs))
  model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)), "mse")
  before = state(model)
  operator = HessianOperator(model, None, [(X, Y)], training=True)
  assert operator.loss() == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-6)
  right = HessianOperator(model, "mse", [(X, Y)], training=True)
  v = np.cos(np.arange(right.shape[0]))
  np.testing.assert_allclose(operator @ v, right @ v, rtol=FLOAT64)
  assert model.optimizer.scale_loss(1.0) == model.optimizer.initial_scale  # as before
  assert state(model)[: len(model.variables)] == before[: len(model.variables)]


def test_a_model_without_a_call_is_measured_once_its_layers_are_built(difference_error):
  class WithoutCall(keras.Model):
    def __init__(self):
      super().__init__()
      self.net = keras.Sequential([layers.Dense(2, "tanh"), layers.Dense(1)])

    def train_step(self, data):
      x, y = data
      with tf.GradientTape() as tape:
        loss = ops.mean(ops.square(self.net(x) - y))
      weights = self.net.trainable_weights
      self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
      return {"loss": loss}

  model = WithoutCall()
  model.compile("sgd")
  with pytest.raises(ValueError, match="not built, .* or fit it for a step"):
    HessianOperator(model, None, [(X, Y)], training=True)
  model.fit(X, Y, verbose=0)
  assert not model.built
  operator = HessianOperator(model, None, [(X, Y)], training=True)
  assert agree_with_differences(operator, difference_error)


class Scaled(OwnStep):
  """A model whose step scales its loss by `output_gradients`."""

  factors = 3.0

  def train_step(self, data):
    x, y = data
    with tf.GradientTape() as tape:
      losses = ops.mean(ops.square(self(x, training=True) - y), -1)
      target = losses if np.ndim(self.factors) else ops.mean(losses)
    factors = tf.constant(self.factors, target.dtype)
    gradients = tape.gradient(target, self.trainable_weights, factors)
    self.optimizer.apply(gradients, self.trainable_weights)
    return {"loss": ops.mean(losses)}


@pytest.mark.parametrize("factors", [3.0, np.linspace(0, 1, N).tolist()])
def test_a_step_that_scales_gradients_is_that_of_the_scaled_loss(factors):
  model = Scaled()
  model.factors = factors
  model.compile(keras.optimizers.SGD(1.0))
  model(X)
  operator = HessianOperator(model, None, [(X, Y)], training=True)
  before = operator.parameters()
  gradient = operator.gradient()
  model.fit(X, Y, batch_size=N, shuffle=False, verbose=0)
  np.testing.assert_allclose(before - operator.parameters(), gradient, rtol=1e-6, atol=1e-7)


def test_a_step_of_several_losses_is_refused_with_what_to_write():
  model = own_step_model(optimizers=2)
  with pytest.raises(ValueError, match="takes 2 gradients .* a list of variables"):
    HessianOperator(model, "compute_loss", [(X, Y)], training=True)


def test_a_step_is_run_in_training_mode_only():
  with pytest.raises(ValueError, match="give training=True"):
    HessianOperator(own_step_model(), None, [(X, Y)])


def test_a_step_needs_a_compiled_model():
  model = OwnStep()
  model(X)
  with pytest.raises(ValueError, match="compile model"):
    HessianOperator(model, None, [(X, Y)], training=True)


def test_loss_weights_of_a_model_that_computes_its_loss_are_refused():
  with pytest.raises(ValueError, match="loss_weights: .* computes its loss itself"):
    HessianOperator(own_loss_model(), None, [(X, Y)], loss_weights=[2.0])
