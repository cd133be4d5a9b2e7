"""Fisher matrices against matrices made of Jacobians and of single gradients."""

import functools
import itertools
import random

import keras
from keras import layers
import numpy as np
import pytest
import tensorflow as tf

import tf_hessian
from tf_hessian.curvature.fisher import FisherOperator
from tf_hessian.curvature.gauss_newton import GaussNewtonOperator

# Sums of some thousand terms, rounded to 1e-16.
FLOAT64 = 1e-12
pytestmark = pytest.mark.usefixtures("float64")


def numbers(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape)


def network(outputs=3, regularizer=None):
  random.seed(0)
  return keras.Sequential(
    [
      keras.Input((4,)),
      layers.Dense(5, "tanh", kernel_regularizer=regularizer),
      layers.Dense(outputs),
    ]
  )


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


def jacobians(model, data):
  """Returns the outputs (examples, units) and J (examples, units, n)."""
  x = np.concatenate([batch[0] for batch in data])
  with tf.GradientTape() as tape:
    z = model(x)
  found = tape.jacobian(z, [v.value for v in model.trainable_variables])
  return z.numpy(), np.concatenate([np.reshape(j, (*z.shape, -1)) for j in found], axis=-1)


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
