"""The covariance of gradients against that of gradients of single examples."""

import random

import keras
from keras import layers
import numpy as np
import pytest
import tensorflow as tf

import tf_hessian
from tf_hessian.curvature.gradient_covariance import GradientCovarianceOperator

# Sums of some thousand terms, rounded to 1e-16, of a difference that is as large as its parts.
FLOAT64 = 1e-12
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def make(regularizer=None, **options):
  random.seed(0)
  model = keras.Sequential(
    [
      keras.Input((4,), dtype="float64"),
      layers.Dense(5, "tanh", kernel_regularizer=regularizer, dtype="float64"),
      layers.Dense(3, dtype="float64"),
    ]
  )
  rng = np.random.default_rng(0)
  data = [
    (rng.standard_normal((k, 4)), rng.integers(0, 3, k), rng.uniform(0.1, 2, k)) for k in (4, 3)
  ]
  return GradientCovarianceOperator(model, LOSS, data, **options)


@pytest.fixture(scope="module")
def operator():
  return make()


def covariance(operator):
  """Returns the covariance of the gradients of single examples, by tapes."""
  gradients, weights = [], []
  for x, y, w in operator.batches:
    for i in range(len(w)):
      with tf.GradientTape() as tape:
        z = operator.model(x[i : i + 1])
        value = keras.losses.sparse_categorical_crossentropy(y[i : i + 1], z, from_logits=True)[0]
      found = tape.gradient(value, [v.value for v in operator.model.trainable_variables])
      gradients.append(np.concatenate([np.ravel(g) for g in found]))
      weights.append(float(w[i]))
  return np.cov(np.stack(gradients).T, aweights=weights, ddof=0)


def test_it_is_the_covariance_of_gradients_of_examples(operator, columns, relative_error):
  assert relative_error(columns(operator), covariance(operator)) <= FLOAT64


@pytest.mark.slow
def test_products_that_share_a_pass_are_the_same(operator, relative_error):
  v = np.random.default_rng(1).standard_normal((3, operator.shape[0]))
  alone = np.stack([operator @ x for x in v])
  assert relative_error(operator.products(v, vectors_per_pass=3), alone) <= FLOAT64
  assert relative_error((operator @ v.T).T, alone) <= FLOAT64


def test_it_follows_a_model_that_moves(operator, columns, relative_error):
  columns(operator)
  with operator.at(operator.parameters() + 0.1):
    assert relative_error(columns(operator), covariance(operator)) <= FLOAT64


def test_its_mean_is_taken_once_a_point(operator, monkeypatch):
  v = np.ones(operator.shape[0])
  operator @ v
  taken = []
  gradient = operator.runner.gradient
  monkeypatch.setattr(operator.runner, "gradient", lambda *a: taken.append(1) or gradient(*a))
  operator @ v
  assert not taken
  with operator.at(operator.parameters() + 0.1):
    operator @ v
    operator @ v
  assert len(taken) == 1


@pytest.mark.slow
def test_penalties_do_not_count(operator, columns, relative_error):
  found = columns(make(keras.regularizers.L2(1.0)))
  assert relative_error(found, columns(operator)) <= FLOAT64


@pytest.mark.slow
def test_check_operator_compares_it_with_differences(operator):
  report = tf_hessian.check_operator(operator)
  assert report.passed and report.difference_error <= 1e-6


def test_density_is_resumed_bitwise(operator, tmp_path, monkeypatch):
  options = {"num_draws": 2, "lanczos_steps": 5, "progress": False}
  whole = tf_hessian.spectral_density(operator, **options)
  products = type(operator).products
  calls = []

  def interrupted(self, vectors, **kwargs):
    calls.append(1)
    if len(calls) == 4:
      raise KeyboardInterrupt
    return products(self, vectors, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(type(operator), "products", interrupted)
    with pytest.raises(KeyboardInterrupt):
      tf_hessian.spectral_density(operator, workdir=tmp_path, **options)
  found = tf_hessian.spectral_density(operator, workdir=tmp_path, **options)
  for a, b in zip(found.diagonals, whole.diagonals, strict=True):
    np.testing.assert_array_equal(a, b)
  assert found.config["matrix"] == "gradient_covariance"
  assert min(n.min() for n in found.nodes) >= -1e-12


def test_batch_loss_is_refused_with_the_remedy():
  random.seed(0)
  model = keras.Sequential([keras.Input((4,), dtype="float64"), layers.Dense(3, dtype="float64")])
  data = [(np.zeros((2, 4)), np.zeros((2, 3)))]
  whole = lambda y, z: tf.reduce_mean((y - z) ** 2)  # noqa: E731
  with pytest.raises(ValueError, match="return one loss an example"):
    GradientCovarianceOperator(model, whole, data) @ np.zeros(15)


@pytest.mark.parametrize("weight", [1, 4])
def test_sample_weights_need_a_loss_that_is_a_mean_by_them(weight):
  rng = np.random.default_rng(0)
  model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
  model.compile("sgd", "mse")
  data = [(rng.standard_normal((12, 3)), rng.standard_normal((12, 2)), np.full(12, weight))]
  given = tf_hessian.GradientCovarianceOperator(model, "mse", data) @ np.eye(8)
  assert np.linalg.eigvalsh(given)[0] >= -1e-5
  if weight == 1:
    found = tf_hessian.GradientCovarianceOperator(model, None, data) @ np.eye(8)
    np.testing.assert_allclose(found, given, rtol=0, atol=1e-5)
  else:
    with pytest.raises(ValueError, match="^loss: .*give the loss instead of None"):
      tf_hessian.GradientCovarianceOperator(model, None, data)
