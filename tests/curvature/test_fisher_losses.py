"""Fisher matrices of losses, targets and outputs that are unusual."""

import random

import keras
from keras import layers
import numpy as np
import pytest
import tensorflow as tf

from tests.curvature.networks import FLOAT64, jacobians, network, numbers
import tf_hessian
from tf_hessian.curvature.fisher import FisherOperator
from tf_hessian.curvature.gauss_newton import GaussNewtonOperator

pytestmark = pytest.mark.usefixtures("float64")


# Losses whose targets are not along the last axis of the outputs.


def over_time(time, units):
  random.seed(0)
  return keras.Sequential(
    [keras.Input((time, 2)), layers.Dense(3, "tanh"), layers.Dense(units, activation=None)]
  )


@pytest.mark.parametrize(
  "count, time", [(4, 4), (1, 4), pytest.param(5, 3, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", ["mse", "bce"])
def test_targets_without_the_last_axis_are_those_of_the_units(
  columns, relative_error, kind, count, time
):
  # Keras takes the mean over positions then.
  model, x = over_time(time, 1), numbers(count, time, 2)
  y = (numbers(count, time, seed=1) > 0).astype(np.float64)
  loss = keras.losses.MeanSquaredError()
  if kind == "bce":
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
  expected = columns(GaussNewtonOperator(model, loss, [(x, y)]))
  assert relative_error(columns(FisherOperator(model, loss, [(x, y)])), expected) <= FLOAT64


def test_drawn_targets_without_the_last_axis_are_as_many_and_weigh_as_much(columns, relative_error):
  model, x, y = over_time(3, 1), numbers(3, 3, 2), numbers(3, 3, seed=1)
  loss = keras.losses.MeanSquaredError()
  options = {"kind": "sampled", "samples": 20_000}
  found = columns(FisherOperator(model, loss, [(x, y)], **options))
  # Each of nine positions has a factor of 1 and a deviation of sqrt(2 / samples) = 1 %.
  assert relative_error(found, columns(FisherOperator(model, loss, [(x, y)]))) < 0.04


@pytest.mark.filterwarnings(
  "ignore:In loss categorical_crossentropy"
)  # of one class by the last axis
@pytest.mark.parametrize("time", [3, 1, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_axis_of_a_cross_entropy_is_that_of_its_classes(columns, relative_error, kind, time):
  model, x = over_time(3, time), numbers(4, 3, 2)  # outputs (4, 3 classes, time)
  y = np.eye(3)[np.random.default_rng(1).integers(0, 3, (4, time))].transpose(0, 2, 1)
  if kind == "softmax":
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, axis=1)
  else:
    loss = keras.losses.BinaryCrossentropy(from_logits=True, axis=1)
  expected = columns(GaussNewtonOperator(model, loss, [(x, y)]))
  assert relative_error(columns(FisherOperator(model, loss, [(x, y)])), expected) <= FLOAT64


def test_cross_entropy_along_the_examples_has_no_gradients_of_examples():
  loss = keras.losses.CategoricalCrossentropy(from_logits=True, axis=0)
  operator = FisherOperator(network(3), loss, [(numbers(4, 4), np.eye(4, 3))], kind="empirical")
  with pytest.raises(ValueError, match="examples"):
    operator @ np.ones(operator.shape[0])


def test_outputs_without_an_axis_of_units_are_refused_with_the_remedy():
  model = network(1)
  model = keras.Model(model.inputs, keras.ops.squeeze(model.outputs[0], -1))
  operator = FisherOperator(model, "mean_squared_error", [(numbers(4, 4), numbers(4))])
  with pytest.raises(ValueError, match="^loss: .* one number for the whole batch.* a last axis"):
    operator @ np.ones(operator.shape[0])


# Random layers.


@pytest.mark.parametrize("seed", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_drawn_targets_do_not_depend_on_dropped_units(seed):
  # These seeds' masks and targets were of the same random numbers once, in a ratio of 1.6.
  model = keras.Sequential(
    [
      keras.Input((1,)),
      layers.Dropout(0.5),
      layers.Dense(1, kernel_initializer="zeros", bias_initializer="ones"),
    ]
  )
  data = [(np.ones((4000, 1)), np.zeros((4000, 1)))]
  loss = keras.losses.BinaryCrossentropy(from_logits=True)
  exact, sampled = (
    FisherOperator(model, loss, data, kind=kind, training=True, seed=seed) @ [1.0, 0.0]
    for kind in ("exact", "sampled")
  )
  # Of 2,000 units, whose factors deviate by 0.6 of their mean: by 1.4 % together.
  assert sampled[0] == pytest.approx(exact[0], rel=0.06)


# Losses that are more than Keras's own.


class Half(keras.losses.MeanSquaredError):
  def call(self, y_true, y_pred):
    return 0.5 * super().call(y_true, y_pred)


class Coupled(keras.losses.MeanSquaredError):
  def call(self, y_true, y_pred):
    return super().call(y_true, y_pred - tf.reduce_mean(y_pred, 0))


class Concave(keras.losses.MeanSquaredError):
  def call(self, y_true, y_pred):
    return -super().call(y_true, y_pred)


class Weighted(keras.losses.SparseCategoricalCrossentropy):
  """Takes targets (class, weight)."""

  def call(self, y_true, y_pred):
    return super().call(y_true[:, 0], y_pred) * y_true[:, 1]


def test_loss_that_overrides_call_is_not_taken_for_its_parent(columns, relative_error, caplog):
  data = [(numbers(4, 4), numbers(4, 3, seed=1))]
  with pytest.raises(ValueError, match="of Half.* it isn't known how it distributes targets"):
    FisherOperator(network(), Half(), data)
  with pytest.raises(ValueError, match="Coupled.* of an example depends on the outputs of others"):
    FisherOperator(network(), Coupled(), data, kind="empirical")
  with caplog.at_level("WARNING", logger="absl"):
    GaussNewtonOperator(network(), Concave(), data)
  assert "not convex in the outputs" in caplog.text
  half = columns(GaussNewtonOperator(network(), Half(), data))
  whole = columns(GaussNewtonOperator(network(), keras.losses.MeanSquaredError(), data))
  assert relative_error(half, whole / 2) <= FLOAT64


def test_loss_that_overrides_call_takes_targets_of_its_own():
  model = network()
  x, y = numbers(4, 4), np.stack([[0, 2, 1, 1], [1, 2, 0.5, 3]], axis=1)
  model.compile(loss=Weighted(from_logits=True))
  operator = tf_hessian.HessianOperator(model, Weighted(from_logits=True), [(x, y)])
  # Keras's own is computed in float32.
  assert operator.loss() == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-6)


class Scaled(layers.Layer):
  """Has a variable that the loss reads, not the outputs."""

  def build(self, _):
    self.log_variance = self.add_weight(shape=(), initializer="ones", name="log_variance")

  def call(self, inputs):
    return inputs


@pytest.mark.parametrize("kind", ["empirical", "covariance"])
def test_loss_that_reads_a_variable_besides_the_outputs_is_refused_by_its_name(
  kind, columns, relative_error
):
  random.seed(0)
  scaled = Scaled()
  model = keras.Sequential([keras.Input((4,)), layers.Dense(2), scaled])

  def loss(y_true, y_pred):
    s = scaled.log_variance
    return tf.reduce_mean((y_true - y_pred) ** 2, axis=-1) * tf.exp(-s) + s

  data = [(numbers(3, 4), numbers(3, 2, seed=1))]

  def make(**options):
    if kind == "covariance":
      return tf_hessian.GradientCovarianceOperator(model, loss, data, **options)
    return FisherOperator(model, loss, data, kind=kind, **options)

  operator = make()
  with pytest.raises(
    ValueError, match="^loss: loss reads '.*log_variance' besides the model's out"
  ):
    operator @ np.ones(operator.shape[0])
  of_rest = make(variables="dense*")
  z, j = jacobians(keras.Sequential(model.layers[:1]), data)
  g = np.einsum("iu,iun->in", (z - data[0][1]) * np.exp(-1.0), j)
  expected = g.T @ g / 3 - (kind == "covariance") * np.outer(g.mean(0), g.mean(0))
  assert relative_error(columns(of_rest), expected) <= FLOAT64


# Several outputs, whose examples weigh otherwise.


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_example_weighs_the_mean_of_its_shares_in_all_outputs(order, columns, relative_error):
  random.seed(0)
  inputs = keras.Input((2,))
  heads = [layers.Dense(1, use_bias=False, kernel_initializer="zeros")(inputs) for _ in "ab"]
  weights, coefficients = [np.array([1.0, 0.0]), np.array([1.0, 3.0])], [1.0, 2.0]
  model = keras.Model(inputs, [heads[i] for i in order])
  y = np.ones((2, 1))
  data = [(np.eye(2), (y, y), tuple(weights[i] for i in order))]
  options = {"loss_weights": [coefficients[i] for i in order]}
  found = columns(FisherOperator(model, ["mse", "mse"], data, kind="empirical", **options))
  # The gradient of (1 - z)^2 is -2, in the weight of head and example.
  g = np.zeros((2, 2, 2))  # (example, head, weight)
  for h in range(2):
    for i in range(2):
      g[i, h, i] = -2 * coefficients[h] * weights[h][i] / weights[h].sum()
  shares = sum(c * w / w.sum() for c, w in zip(coefficients, weights, strict=True)) / 3
  g = g[:, list(order)].reshape(2, 4)
  expected = sum(np.outer(x, x) / s for x, s in zip(g, shares, strict=True))
  assert relative_error(found, expected) <= FLOAT64
  covariance = columns(
    tf_hessian.GradientCovarianceOperator(model, ["mse", "mse"], data, **options)
  )
  mean = g.sum(axis=0)
  assert relative_error(covariance, expected - np.outer(mean, mean)) <= FLOAT64
  assert np.linalg.eigvalsh(covariance)[0] >= -1e-12


def test_output_of_all_examples_together_is_refused():
  loss = tf_hessian.SplitLoss(
    outputs=lambda p, batch: [tf.linalg.matvec(batch, p[0]), p[0][:1]],
    loss=lambda z, _: z[0] ** 2 + z[1] ** 2,
  )
  point = [tf.Variable([1.0, 2.0], dtype="float64")]
  operator = FisherOperator(point, loss, [numbers(3, 2)], kind="empirical")
  with pytest.raises(ValueError, match=r"shape \(1,\) is of all 3 examples together"):
    operator @ np.ones(2)
