"""Fisher matrices against matrices made of Jacobians and of single gradients."""

import functools
import itertools
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


def batches(targets, weighted=False, sizes=(4, 4)):
  """Returns batches; most are of one shape, since each shape is traced, which takes the time."""
  data = []
  for seed, size in enumerate(sizes):
    weights = (np.abs(numbers(size, seed=seed)) + 0.1,) if weighted else ()
    data.append((numbers(size, 4, seed=seed), targets(size, seed), *weights))
  return data


def classes(size, seed):
  return np.random.default_rng(seed).integers(0, 3, size)


def ones_and_zeros(size, seed):
  return np.random.default_rng(seed).integers(0, 2, (size, 3)).astype(np.float64)


LOSSES = {
  "softmax": (keras.losses.SparseCategoricalCrossentropy, {"from_logits": True}, classes),
  "softmax, smoothed": (
    keras.losses.CategoricalCrossentropy,
    {"from_logits": True, "label_smoothing": 0.1},
    lambda k, s: np.eye(3)[classes(k, s)],
  ),
  "sigmoid": (keras.losses.BinaryCrossentropy, {"from_logits": True}, ones_and_zeros),
  "squares": (keras.losses.MeanSquaredError, {}, lambda k, s: numbers(k, 3, seed=s + 9)),
}


def slowly(cases, *slow):
  """Returns the cases as parameters; what a slow one rests on, another test holds as well."""
  return [
    pytest.param(
      *(c if isinstance(c, tuple) else (c,)), marks=pytest.mark.slow if c in slow else ()
    )
    for c in cases
  ]


def make(name, of=FisherOperator, model=None, weighted=True, **options):
  loss, arguments, targets = LOSSES[name]
  data = batches(targets, weighted)
  return of(model or network(), loss(**arguments), data, **options)


@pytest.fixture(scope="module")
def of_softmax():
  """Returns a function: kind -> operator of the first loss, traced once; no test changes it."""
  return functools.cache(lambda kind: make("softmax", kind=kind))


@pytest.mark.parametrize(
  "mode",
  ["forward_over_backward", pytest.param("backward_over_backward", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("name", slowly(LOSSES, "softmax", "sigmoid", "squares"))
def test_exact_is_the_gauss_newton_matrix(columns, relative_error, name, mode):
  found = columns(make(name, mode=mode))
  assert relative_error(found, columns(make(name, GaussNewtonOperator))) <= FLOAT64


def test_exact_is_the_covariance_of_gradients_of_all_targets(columns, relative_error):
  model, data = network(), batches(classes, weighted=True)
  z, j = jacobians(model, data)
  p = tf.nn.softmax(z).numpy()
  w = np.concatenate([batch[2] for batch in data])
  expected = 0.0
  for c in range(3):  # with its probability
    g = np.einsum("ic,ica->ia", p - np.eye(3)[c], j)
    expected = expected + np.einsum("i,ia,ib->ab", w * p[:, c], g, g) / w.sum()
  assert relative_error(columns(make("softmax", model=model)), expected) <= FLOAT64


def test_logits_in_front_of_a_softmax_are_the_outputs(columns, relative_error):
  logits = network()
  model = keras.Sequential([logits, layers.Softmax()])
  data = batches(classes)
  found = columns(FisherOperator(model, "sparse_categorical_crossentropy", data))
  expected = columns(make("softmax", model=logits, weighted=False))
  assert relative_error(found, expected) <= FLOAT64


KINDS = ["exact", "sampled", "empirical"]  # the first two are one function


@pytest.mark.parametrize("kind", slowly(KINDS, "sampled"))
def test_penalties_do_not_count(columns, of_softmax, kind):
  found = columns(make("softmax", model=network(regularizer=keras.regularizers.L2(1.0)), kind=kind))
  np.testing.assert_allclose(found, columns(of_softmax(kind)), rtol=0, atol=1e-14)


# Sampled.


@pytest.mark.parametrize("name", slowly(LOSSES, "softmax", "softmax, smoothed", "squares"))
def test_sampled_tends_to_exact_with_the_root_of_the_samples(columns, relative_error, name):
  exact = columns(make(name))
  counts = np.array([16, 512])
  errors = [
    np.mean(
      [
        relative_error(columns(make(name, kind="sampled", samples=int(n), seed=s)), exact)
        for s in range(2)
      ]
    )
    for n in counts
  ]
  slope = np.diff(np.log(errors))[0] / np.diff(np.log(counts))[0]
  # Of two means of two errors, each known to about 20 % / sqrt(2): 0.06.
  assert -0.7 < slope < -0.3
  assert errors[-1] < 0.15


def test_sampled_is_of_equal_targets_in_each_product_and_of_others_by_seed(columns):
  first, again, other = (
    columns(make("softmax", kind="sampled", samples=2, seed=s)) for s in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize("name", slowly(LOSSES, "softmax", "softmax, smoothed", "squares"))
def test_sampled_is_semidefinite(columns, name):
  assert np.linalg.eigvalsh(columns(make(name, kind="sampled"))).min() >= -1e-14


# Empirical.


@pytest.mark.parametrize("name", slowly(LOSSES, "softmax, smoothed", "squares"))
def test_empirical_is_the_mean_of_outer_products(columns, relative_error, name):
  operator = make(name, kind="empirical")
  single, weights = [], []
  for x, y, w in operator.batches:
    for i in range(len(w)):
      loss, arguments, _ = LOSSES[name]
      model = operator.model
      with tf.GradientTape() as tape:
        value = loss(**arguments)(y[i : i + 1], model(x[i : i + 1]))
      grads = tape.gradient(value, [v.value for v in model.trainable_variables])
      single.append(np.concatenate([np.ravel(g) for g in grads]))
      weights.append(float(w[i]))
  g, w = np.stack(single), np.array(weights)
  expected = np.einsum("i,ia,ib->ab", w, g, g) / w.sum()
  assert relative_error(columns(operator), expected) <= FLOAT64


def sequences():
  """Returns (model, data) of targets at each position, some of them masked."""
  random.seed(0)
  model = keras.Sequential(
    [keras.Input((3, 4)), layers.Masking(), layers.TimeDistributed(layers.Dense(3, "tanh"))]
  )
  x = numbers(5, 3, 4)
  x[1:, 2] = 0
  return model, [(x[:3], numbers(3, 3, 3)), (x[3:], numbers(2, 3, 3, seed=1))]


@pytest.mark.slow
def test_an_example_of_the_empirical_one_is_a_row_with_its_positions(columns, relative_error):
  model, data = sequences()
  expected, total = 0.0, 0.0
  for x, y in data:
    for i in range(len(x)):
      kept = np.any(x[i] != 0, axis=-1)
      with tf.GradientTape() as tape:
        z = model.layers[-1](tf.constant(x[i : i + 1]))[0]
        value = tf.reduce_mean(tf.reduce_mean((z - y[i]) ** 2, -1)[kept])
      grads = tape.gradient(value, [v.value for v in model.trainable_variables])
      g = np.concatenate([np.ravel(g) for g in grads])
      expected, total = expected + kept.sum() * np.outer(g, g), total + kept.sum()
  found = columns(FisherOperator(model, "mean_squared_error", data, kind="empirical"))
  assert relative_error(found, expected / total) <= FLOAT64


@pytest.mark.slow
def test_exact_of_positions_is_the_gauss_newton_matrix(columns, relative_error):
  model, data = sequences()
  found, expected = (
    columns(kind(model, "mean_squared_error", data))
    for kind in (FisherOperator, GaussNewtonOperator)
  )
  assert relative_error(found, expected) <= FLOAT64


def two_outputs():
  random.seed(0)
  inputs = keras.Input((4,))
  hidden = layers.Dense(5, "tanh")(inputs)
  model = keras.Model(
    inputs, [layers.Dense(3, name="a")(hidden), layers.Dense(2, name="b")(hidden)]
  )
  loss = [keras.losses.SparseCategoricalCrossentropy(from_logits=True), "mean_squared_error"]
  data = batches(lambda k, s: [classes(k, s), numbers(k, 2, seed=s + 3)])
  return model, loss, data


def test_of_two_outputs_exact_is_the_gauss_newton_matrix(columns, relative_error):
  model, loss, data = two_outputs()
  options = {"loss_weights": [0.5, 2.0]}
  found, expected = (
    columns(kind(model, loss, data, **options)) for kind in (FisherOperator, GaussNewtonOperator)
  )
  assert relative_error(found, expected) <= FLOAT64


def test_of_two_outputs_gradients_are_those_of_the_whole_loss(columns, relative_error):
  model, loss, data = two_outputs()
  expected = 0.0
  for x, y in data:
    for i in range(len(x)):
      with tf.GradientTape() as tape:
        a, b = model(x[i : i + 1])
        value = 0.5 * loss[0](y[0][i : i + 1], a) + 2.0 * tf.reduce_mean((b - y[1][i]) ** 2)
      grads = tape.gradient(value, [v.value for v in model.trainable_variables])
      g = np.concatenate([np.ravel(g) for g in grads])
      expected = expected + np.outer(g, g) / sum(len(x) for x, _ in data)
  options = {"loss_weights": [0.5, 2.0], "kind": "empirical"}
  assert relative_error(columns(FisherOperator(model, loss, data, **options)), expected) <= FLOAT64


def test_empirical_of_a_split_loss_is_the_mean_of_outer_products(columns, relative_error):
  weights = tf.Variable(numbers(3), dtype=tf.float64)
  loss = tf_hessian.SplitLoss(
    outputs=lambda parameters, batch: tf.linalg.matvec(batch[0], parameters[0]),
    loss=lambda outputs, batch: tf.math.log(tf.cosh(outputs - batch[1])),
  )
  x, y = numbers(5, 3), numbers(5)
  g = np.tanh(x @ weights.numpy() - y)[:, None] * x
  operator = FisherOperator([weights], loss, [(x[:3], y[:3]), (x[3:], y[3:])], kind="empirical")
  assert relative_error(columns(operator), g.T @ g / 5) <= FLOAT64


# As any other matrix.


@pytest.mark.parametrize("kind", slowly(KINDS, "sampled", "empirical"))
def test_check_compares_it_with_differences(of_softmax, kind):
  report = tf_hessian.check_operator(of_softmax(kind))
  assert report.passed and report.difference_error <= 1e-8


@pytest.mark.slow
def test_sampled_targets_are_those_of_the_float64_model():
  keras.config.set_dtype_policy("float32")
  keras.config.set_floatx("float32")
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  data = [tuple(np.float32(x) if x.dtype == np.float64 else x for x in b) for b in batches(classes)]
  report = tf_hessian.check_operator(FisherOperator(network(), loss, data, kind="sampled"))
  assert report.passed and report.rounding_error < 1e-5


@pytest.mark.parametrize(
  "kind, samples", slowly([("exact", 1), ("sampled", 3), ("empirical", 1)], ("exact", 1))
)
def test_others_like_it_and_records_know_its_kind(of_softmax, kind, samples):
  operator = of_softmax(kind) if samples == 1 else make("softmax", kind=kind, samples=samples)
  again = operator.like(dataset=list(operator.batches))
  v = numbers(operator.shape[0])
  np.testing.assert_array_equal(again @ v, operator @ v)
  description = again.description()
  assert (description["matrix"], description["kind"]) == ("fisher", kind)
  assert description.get("samples") == (samples if kind == "sampled" else None)


@pytest.mark.parametrize(
  "kind, vectorized",
  slowly(
    itertools.product(["sampled", "empirical"], [True, False]),
    ("sampled", False),
    ("empirical", True),
  ),
)
def test_products_that_share_a_pass_are_the_same(of_softmax, monkeypatch, kind, vectorized):
  operator = of_softmax(kind)
  v = numbers(3, operator.shape[0])
  single = np.stack([operator @ x for x in v])
  monkeypatch.setattr(operator, "vectorized", vectorized)
  np.testing.assert_allclose(operator.products(v), single, rtol=0, atol=1e-14)


# Bad input.


@pytest.mark.parametrize("kind", ["exact", "sampled"])
@pytest.mark.parametrize(
  "loss, message",
  [
    ("huber", "of huber it isn't known how it distributes"),
    (lambda y, z: (y[:, None] - z)[:, 0] ** 2, "kind='empirical' is of any loss"),
    ("sparse_categorical_crossentropy", "is of probabilities, which Keras clips"),
  ],
)
def test_losses_that_distribute_nothing_are_named(kind, loss, message):
  with pytest.raises(ValueError, match=message):
    FisherOperator(
      network(1 if loss == "huber" else 3), loss, batches(classes), kind=kind
    ) @ np.ones(31 if loss == "huber" else 43)


def test_losses_of_whole_batches_have_no_gradients_of_examples():
  loss = lambda y, z: tf.reduce_mean((tf.cast(y, z.dtype) - z[:, 0]) ** 2)  # noqa: E731
  with pytest.raises(ValueError, match="return one loss an example"):
    FisherOperator(network(), loss, batches(classes), kind="empirical") @ np.ones(43)


@pytest.mark.parametrize("kind", KINDS)
def test_models_that_compute_their_loss_have_no_losses_of_examples(kind):
  class Own(keras.Sequential):
    def compute_loss(self, y=None, y_pred=None, **_):
      return keras.ops.mean((y - y_pred) ** 2)

  model = Own([keras.Input((4,)), layers.Dense(3)])
  data = batches(lambda k, s: numbers(k, 3, seed=s))
  with pytest.raises(ValueError, match="give the loss as loss="):
    FisherOperator(model, None, data, kind=kind) @ np.ones(15)


@pytest.mark.parametrize(
  "options, message",
  [
    ({"kind": "empiric"}, "kind: expected"),
    ({"samples": 0}, "samples"),
    ({"samples": 2}, "samples: is for kind='sampled', got kind='exact'"),
    ({"recompute_blocks": 2}, "recompute_blocks: is for the Hessian"),
  ],
)
def test_bad_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    make("softmax", **options)
