"""The check passes healthy operators, and names what is wrong with others."""

import functools
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.curvature.selfcheck import OperatorReport, check_operator

layers = keras.layers
RNG = np.random.default_rng(0)
X = RNG.standard_normal((8, 3)).astype(np.float32)
Y = RNG.standard_normal((8, 1)).astype(np.float32)
DATA = [(X[:4], Y[:4]), (X[4:], Y[4:])]


def model_of(*parts, shape=(3,)):
  return keras.Sequential([keras.Input(shape), *parts, layers.Dense(1, name="head")])


HEALTHY = {
  "dense": (lambda: model_of(layers.Dense(4, "tanh")), {}),
  "batch statistics and dropout": (
    lambda: model_of(layers.BatchNormalization(), layers.Dropout(0.3)),
    {"training": True},
  ),
  "a block": (lambda: model_of(layers.Dense(4, "tanh")), {"variables": "head"}),
}


def values(model):
  return [v.numpy().tobytes() for v in model.variables]


@pytest.fixture(scope="module")
def healthy():
  """Returns a function: name -> (report, whether the model is unchanged), once each."""

  @functools.cache
  def check(name):
    make, options = HEALTHY[name]
    random.seed(0)
    model = make()
    before = values(model)
    report = check_operator(HessianOperator(model, "mse", DATA, **options))
    return report, values(model) == before

  return check


@pytest.mark.parametrize(
  "name", ["dense", *(pytest.param(n, marks=pytest.mark.slow) for n in [*HEALTHY][1:])]
)
def test_healthy_models_pass(healthy, name):
  report, _ = healthy(name)
  report.raise_for_problems()
  assert report.passed and report.repeatable
  assert report.difference_error is not None and report.difference_error < 1e-6


@pytest.mark.slow
def test_a_healthy_plain_function_passes():
  def loss(parameters, batch):
    x, y = batch
    return (tf.tanh(tf.linalg.matvec(x, parameters[0])) - tf.cast(y[:, 0], x.dtype)) ** 2

  report = check_operator(HessianOperator([tf.Variable([0.1, 0.2, 0.3])], loss, DATA))
  report.raise_for_problems()
  assert report.difference_error < 1e-6


def test_the_model_is_unchanged(healthy):
  _, unchanged = healthy("batch statistics and dropout")
  assert unchanged


def test_the_rounding_error_of_a_float32_model_is_rounding(healthy):
  report, _ = healthy("dense")
  assert 0 < report.rounding_error < 1e-5


def test_the_rounding_error_is_not_given_where_float64_has_other_random_numbers(healthy):
  report, _ = healthy("batch statistics and dropout")
  assert report.rounding_error is None


def test_a_zero_hessian_passes():
  operator = HessianOperator([tf.ones(3)], lambda p, b: b * tf.reduce_sum(p[0]), [np.ones(2, "f4")])
  report = check_operator(operator)
  report.raise_for_problems()
  assert report.difference_error < 1e-6
  assert report.rounding_error is None


def test_differences_can_be_left_out():
  report = check_operator(HessianOperator(model_of(), "mse", DATA), differences=False)
  assert (report.difference_error, report.difference_skipped) == (None, "not asked for")


def problem(operator, **options):
  """Returns the only problem that is found."""
  report = check_operator(operator, **options)
  assert not report.passed
  assert len(report.problems) == 1
  return report.problems[0]


@pytest.mark.parametrize("cache_bytes", [2**30, 0], ids=["cached", "streamed"])
def test_reshuffled_data_are_named(cache_bytes):
  data = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(8, seed=1).batch(4)
  operator = HessianOperator(model_of(), "mse", data, cache_bytes=cache_bytes)
  report = check_operator(operator, differences=False)
  assert any("the order of the examples changes" in p for p in report.problems)


def test_a_random_map_is_named():
  rng = np.random.default_rng(0)

  def noisy(x, y):
    z = tf.numpy_function(lambda a: a + np.float32(rng.standard_normal()), [x], tf.float32)
    return tf.ensure_shape(z, x.shape), y

  data = tf.data.Dataset.from_tensor_slices((X, Y)).map(noisy).batch(4)
  operator = HessianOperator(model_of(), "mse", data)
  report = check_operator(operator, differences=False)
  assert any("the examples themselves change" in p for p in report.problems)


@keras.saving.register_keras_serializable(package="test_selfcheck")
class Noise(layers.Layer):
  """Draws from TensorFlow's own stateful generator."""

  def call(self, inputs):
    return inputs * (1 + 0.1 * tf.random.normal(tf.shape(inputs), dtype=inputs.dtype))


def test_random_numbers_of_a_layer_are_named():
  operator = HessianOperator(model_of(Noise(name="noise")), "mse", DATA, deterministic=False)
  report = check_operator(operator, differences=False)
  assert not report.repeatable
  assert any("layer 'noise' draws random numbers" in p for p in report.problems)


@keras.saving.register_keras_serializable(package="test_selfcheck")
class StoppedSquare(layers.Layer):
  """Adds x^2 with a gradient whose own derivative is stopped: no second derivative of x^2."""

  def call(self, inputs):
    return inputs + wrong_square(inputs)


@tf.custom_gradient
def wrong_square(x):
  """x^2 with the right gradient, whose own derivative is stopped."""
  return x * x, lambda g: 2 * g * tf.stop_gradient(x)


def test_a_stopped_second_derivative_is_found():
  operator = HessianOperator(model_of(layers.Dense(3), StoppedSquare()), "mse", DATA)
  report = check_operator(operator)
  assert any("wrong second derivative" in p for p in report.problems)


def test_a_wrong_custom_gradient_of_a_plain_function_is_found_by_differences():
  def loss(parameters, batch):
    return batch * tf.reduce_sum(wrong_square(parameters[0]))

  operator = HessianOperator([tf.Variable([1.0, 2.0])], loss, [np.ones(2, np.float32)])
  # Its products are all zero, where they should be twice the vector.
  report = check_operator(operator)
  assert any("differ from central differences" in p for p in report.problems)


def test_an_asymmetric_matrix_is_found_without_differences():
  @tf.custom_gradient
  def wrong_product(a, b):
    return a * b, lambda g: (g * b, g * tf.stop_gradient(a))

  def loss(parameters, batch):
    a, b = parameters
    return batch * (tf.reduce_sum(a * a) + tf.reduce_sum(wrong_product(a, b)))

  point = [tf.Variable([1.0, 2.0]), tf.Variable([3.0, 4.0])]
  operator = HessianOperator(point, loss, [np.ones(2, np.float32)])
  assert "it is not symmetric" in problem(operator, differences=False)


def test_asymmetry_at_float32_rounding_is_found_in_a_float64_model():
  # 1e-5 relative is far above the rounding of float64, though below a thousand of float32.
  @tf.custom_gradient
  def slightly_wrong(a, b):
    stopped = tf.stop_gradient(a)
    return a * b, lambda g: (g * b, g * (a + 2e-5 * (stopped - a)))

  @keras.saving.register_keras_serializable(package="test_selfcheck")
  class Wrong(layers.Layer):
    def build(self, shape):
      self.a = self.add_weight(shape=(1,), initializer="ones", name="a")
      self.b = self.add_weight(shape=(1,), initializer="ones", name="b")
      super().build(shape)

    def call(self, inputs):
      return inputs + slightly_wrong(self.a.value + 0.0, self.b.value + 0.0)

  model = keras.Sequential([keras.Input((3,), dtype="float64"), Wrong(dtype="float64")])
  operator = HessianOperator(model, "mse", [(X.astype(float), X[:, ::-1].astype(float))])
  assert "it is not symmetric" in problem(operator, differences=False)


class NoConfig(keras.Model):
  """A subclassed model that no config describes."""

  def __init__(self, *parts):
    super().__init__()
    self.parts = list(parts)

  def call(self, inputs, training=False):
    for part in self.parts:
      inputs = part(inputs, training=training) if part is self.parts[0] else part(inputs)
    return inputs


class StraightThrough(layers.Layer):
  """Passes rounded values on, and the gradient as if they were not."""

  def call(self, inputs):
    return inputs + keras.ops.stop_gradient(keras.ops.round(inputs) * inputs - inputs)


class Float32(layers.Layer):
  """Names float32 in its code."""

  def __init__(self, function=tf.tanh, dtype=tf.float32):
    super().__init__(name="low")
    self.function, self.inner = function, dtype

  def call(self, inputs):
    return tf.cast(self.function(tf.cast(inputs, self.inner)), inputs.dtype)


def lora_layer():
  layer = layers.Dense(4, "tanh")
  layer.build((None, 3))
  layer.enable_lora(2)
  layer.lora_kernel_b.assign(0.3 + layer.lora_kernel_b)  # zero at first
  return layer


def subclassed():
  model = NoConfig(layers.Dense(4, "tanh"), layers.Dense(1))
  model(X)
  return model


def nested():
  inner = keras.Sequential([keras.Input((3,)), layers.Dense(4, "tanh")])
  return model_of(inner, layers.BatchNormalization())


def mixed():
  return model_of(layers.Dense(4, "tanh", dtype="mixed_bfloat16"))


# Models that no config copies, or not as they are.
COPIED_AS_THEY_ARE = {
  "a subclassed model": subclassed,
  "a lambda": lambda: model_of(layers.Dense(4, activation=lambda x: keras.ops.tanh(x))),
  "a Lambda layer": lambda: model_of(layers.Dense(4), layers.Lambda(lambda x: keras.ops.tanh(x))),
  "LoRA": lambda: model_of(lora_layer()),
  "nested models": nested,
  "mixed precision": mixed,
}


# Another test has a Lambda layer: that of the gradient of no loss.
SLOWLY_COPIED = "a lambda", "a Lambda layer", "nested models", "LoRA"


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(n, marks=pytest.mark.slow if n in SLOWLY_COPIED else [])
    for n in COPIED_AS_THEY_ARE
  ],
)
def test_any_model_is_compared_in_float64_and_left_as_it_is(name):
  if name == "mixed precision" and not hasattr(keras.ops, "polar"):
    pytest.skip("an earlier Keras computes such layers in their own type, which the report says")
  model = COPIED_AS_THEY_ARE[name]()
  types = [(x.name, x.dtype_policy.name) for x in model._flatten_layers()]
  before = values(model)
  report = check_operator(HessianOperator(model, "mse", DATA))
  assert report.passed and report.compared_in == "float64"
  assert report.difference_error < 1e-7
  assert report.rounding_error < (0.05 if name == "mixed precision" else 1e-5)
  assert [(x.name, x.dtype_policy.name) for x in model._flatten_layers()] == types
  assert values(model) == before
  assert keras.config.floatx() == "float32"
  assert keras.config.dtype_policy().name == "float32"
  assert all(v.dtype == "float32" for v in model.variables)


WORDS = np.array([["a"], ["b"], ["a"], ["c"]], object)


@pytest.mark.slow
@pytest.mark.parametrize("adapted", [pytest.param(False, marks=pytest.mark.slow), True])
def test_tables_of_preprocessing_layers_are_those_of_the_model(adapted):
  lookup = layers.StringLookup(vocabulary=None if adapted else ["a", "b"])
  if adapted:
    lookup.adapt(WORDS)
  inputs = keras.Input((1,), dtype="string")
  hidden = layers.Embedding(5, 2)(lookup(inputs))
  model = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(hidden)))
  report = check_operator(HessianOperator(model, "mse", [(WORDS, Y[:4])]))
  assert report.passed and report.difference_error < 1e-7


@pytest.mark.parametrize(
  "low", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["float64", "float32"]
)
def test_a_straight_through_layer_is_found(low):
  parts = [layers.Dense(3), StraightThrough()] + ([Float32()] if low else [])
  report = check_operator(HessianOperator(model_of(*parts), "mse", DATA))
  assert report.passed is False
  assert report.compared_in == ("float32" if low else "float64")
  assert "wrong second derivative" in report.problems[0]
  assert report.summary().startswith("FAILED: it is not the derivative of the gradient")


@pytest.mark.parametrize(
  "factor, wrong",
  [
    (0.05, True),
    *(
      pytest.param(*case, marks=pytest.mark.slow)
      for case in [(0.05, False), (0.5, False), (0.5, True), (3.0, True), (3.0, False)]
    ),
  ],
)
def test_errors_above_a_percent_are_found_in_float32(wrong, factor):
  @tf.custom_gradient
  def square(x):
    part = tf.stop_gradient(x) if wrong else x
    return x * x, lambda g: 2 * g * ((1 - factor) * x + factor * part)

  model = model_of(layers.Dense(4), Float32(square))
  model.layers[0].kernel.assign(2 * RNG.standard_normal((3, 4)))
  report = check_operator(HessianOperator(model, "mse", DATA))
  assert report.compared_in == "float32"
  assert report.passed is not wrong
  assert "not all of it computes in float64: layer 'low'" in report.difference_skipped


def test_a_low_precision_cast_is_named_as_such():
  model = model_of(layers.Dense(4), Float32(dtype=tf.bfloat16))
  report = check_operator(HessianOperator(model, "mse", DATA))
  assert report.passed
  assert report.precision == "layer 'low' computes in bfloat16"
  assert report.precision in report.summary()


@pytest.mark.slow
def test_a_low_precision_cast_in_a_loss_is_named_as_such(caplog):
  def loss(targets, outputs):
    return tf.cast(tf.cast(targets - outputs, tf.bfloat16) ** 2, tf.float32)[:, 0]

  operator = HessianOperator(model_of(layers.Dense(4, "tanh")), loss, DATA)
  assert operator.precision == 2.0**-7
  assert "the model or its loss computes in bfloat16" in caplog.text
  assert check_operator(operator).passed is not False


@pytest.mark.slow
def test_rounding_that_spoils_products_is_a_problem_of_its_own():
  # Two examples are normalised to 1 and -1, whatever they were: derivatives are those of epsilon,
  # and differences of much larger numbers.
  model = model_of(layers.Dense(4, "tanh"), layers.BatchNormalization(epsilon=1e-9))
  operator = HessianOperator(
    model, "mse", [(X[:2], Y[:2])], training=True, variables="*dense*/kernel"
  )
  report = check_operator(operator)
  assert report.rounding_error > 0.1
  assert any("rounding is too coarse: products are " in p for p in report.problems)
  assert not any("wrong second derivative" in p for p in report.problems)


@tf.custom_gradient
def reversed_gradient(x):
  return tf.identity(x), lambda g: -g


@pytest.mark.slow
def test_the_gradient_of_no_loss_is_not_symmetric_though_products_are_its_derivative():
  parts = layers.Dense(5, "tanh"), layers.Lambda(reversed_gradient)
  report = check_operator(HessianOperator(model_of(*parts), "mse", DATA))
  assert report.passed is False
  assert report.difference_error < 1e-6
  assert "that is the gradient of no loss" in report.problems[0]


def test_what_was_not_compared_has_neither_passed_nor_failed():
  report = check_operator(HessianOperator(model_of(), "mse", DATA), differences=False)
  assert report.passed is None
  assert "NOT COMPARED with differences of gradients (not asked for)" in str(report)


def test_differences_without_digits_are_not_a_comparison():
  # The gradient is 1e6 times as long as the product: float32 has no digits left for it.
  def loss(parameters, batch):
    w = tf.cast(parameters[0], tf.float32)
    return batch * (1e6 * tf.reduce_sum(w) + 1e-3 * tf.reduce_sum(tf.sin(w)))

  operator = HessianOperator([tf.Variable([1.0, 2.0])], loss, [np.ones(2, np.float32)])
  report = check_operator(operator)
  assert report.passed is None
  assert "differences of gradients in float32 have too few digits" in report.summary()


def test_raise_for_problems_raises_all_of_them():
  report = OperatorReport(False, 0.0, 1e-4, None, "not asked for", None, ("one thing", "another"))
  with pytest.raises(ValueError, match="the matrix can't be relied on: one thing; another"):
    report.raise_for_problems()


@pytest.mark.slow
def test_a_model_without_float64_kernels_is_compared_in_float32():
  parts = layers.Conv3D(2, 2, activation="tanh"), layers.AveragePooling3D(2), layers.Flatten()
  x = RNG.standard_normal((4, 5, 5, 5, 1)).astype(np.float32)
  model = model_of(*parts, shape=(5, 5, 5, 1))
  report = check_operator(HessianOperator(model, "mse", [(x, Y[:4])]))
  report.raise_for_problems()
  assert report.compared_in == "float32"
  assert report.difference_error < 1e-2
  assert "AvgPool3D" in report.difference_skipped


def test_a_shuffled_data_set_is_the_only_problem_named():
  data = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(8).batch(4)
  operator = HessianOperator(model_of(layers.Dense(4, "tanh")), "mse", data, cache_bytes=0)
  (problem,) = check_operator(operator).problems
  assert "the order of the examples changes" in problem
