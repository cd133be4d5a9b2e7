"""Normalization by population statistics, and the kinds there are."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.models.normalization import PopulationNormalization, check, normalize

IMAGES, VECTORS = (4, 3, 5, 2), (6, 3)


def draw(shape, seed=0, dtype="float32"):
  """Returns random inputs of mean 1 and variance 4."""
  return (1 + 2 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def moved(layer, shape):
  """Returns a layer, built, none of whose weights is at its initial value."""
  layer.build(shape)
  rng = np.random.default_rng(7)
  size = shape[layer.axis]
  mean, shift = rng.standard_normal((2, size))
  scale, variance = rng.uniform(0.5, 2, (2, size))
  layer.set_weights([scale, shift, mean, variance])
  return layer


def statistics(layer):
  return np.stack([layer.moving_mean.numpy(), layer.moving_variance.numpy()])


def same(function):
  return function


# In training.


@pytest.mark.parametrize("run", [same, tf.function], ids=["eager", "graph"])
def test_a_step_normalises_by_the_statistics_before_it(run):
  layer, x = moved(PopulationNormalization(), IMAGES), draw(IMAGES)
  before = statistics(layer)
  expected = run(lambda: layer(x, training=False))()
  found = run(lambda: layer(x, training=True))()
  assert (statistics(layer) != before).all()
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("run", [same, tf.function], ids=["eager", "graph"])
@pytest.mark.parametrize("shape, axis", [(IMAGES, -1), (IMAGES, 1), (VECTORS, -1), (VECTORS, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_bfloat16"])
def test_statistics_move_exactly_as_those_of_batch_normalization(run, shape, axis, dtype):
  kinds = PopulationNormalization, keras.layers.BatchNormalization
  found, expected = (
    moved(kind(axis=axis, momentum=0.7, dtype=dtype, name="layer"), shape) for kind in kinds
  )

  @run
  def step(x):
    found(x, training=True)
    expected(x, training=True)

  for seed in range(3):
    step(tf.constant(draw(shape, seed, found.variable_dtype)))
  np.testing.assert_array_equal(statistics(found), statistics(expected))


def test_no_gradient_flows_through_the_statistics():
  layer = moved(PopulationNormalization(dtype="float64"), IMAGES)
  gamma, _, _, variance = layer.get_weights()
  x = tf.constant(draw(IMAGES, dtype="float64"))
  coefficients = draw(IMAGES, seed=1, dtype="float64")
  with tf.GradientTape() as tape:
    tape.watch(x)
    loss = tf.reduce_sum(coefficients * layer(x, training=True))
  expected = coefficients * gamma / np.sqrt(variance + layer.epsilon)
  np.testing.assert_allclose(tape.gradient(loss, x), expected, rtol=1e-14)


def test_outputs_are_affine_in_the_inputs():
  layer = moved(PopulationNormalization(dtype="float64"), IMAGES)
  x = tf.constant(draw(IMAGES, dtype="float64"))
  with tf.GradientTape() as outer:
    outer.watch(x)
    with tf.GradientTape() as inner:
      inner.watch(x)
      outputs = layer(x, training=True)
    gradient = inner.gradient(outputs, x)
  assert outer.gradient(gradient, x) is None


def test_statistics_settle_to_those_of_the_data():
  layer = PopulationNormalization(momentum=0.98)
  batch, steps, variance = 200, 500, 4.0
  layer.build((None, 3))

  @tf.function
  def step(x):
    layer(x, training=True)

  for x in draw((steps, batch, 3)):
    step(tf.constant(x))
  # The first values have shrunk to 0.98^500 = 4e-5. Those of the last some hundred batches are
  # averaged, which divides a batch's variance by (1 + 0.98) / (1 - 0.98) = 99.
  error = np.sqrt(variance / batch / 99)
  np.testing.assert_allclose(layer.moving_mean, 1, rtol=0, atol=4 * error)
  error = variance * np.sqrt(2 / batch / 99)
  expected = variance * (1 - 1 / batch)
  np.testing.assert_allclose(layer.moving_variance, expected, rtol=0, atol=4 * error)


def test_one_repeated_batch_ends_in_its_own_statistics():
  layer, x = PopulationNormalization(momentum=0.5, dtype="float64"), draw(VECTORS, dtype="float64")
  for _ in range(60):  # the first values have shrunk to 2^-60
    layer(x, training=True)
  np.testing.assert_allclose(statistics(layer), [x.mean(axis=0), x.var(axis=0)], rtol=1e-13)


# When statistics stay.


@pytest.mark.parametrize("training", [False, None])
def test_statistics_stay_outside_training(training):
  layer = moved(PopulationNormalization(), IMAGES)
  before = statistics(layer)
  layer(draw(IMAGES), training=training)
  np.testing.assert_array_equal(statistics(layer), before)


def test_statistics_of_a_frozen_layer_stay():
  layer = moved(PopulationNormalization(trainable=False), IMAGES)
  before = statistics(layer)
  layer(draw(IMAGES), training=True)
  np.testing.assert_array_equal(statistics(layer), before)


# Files and precision.


@pytest.fixture
def files(tmp_path):
  """A model whose statistics have moved, and the same from its file."""
  model = keras.Sequential(
    [keras.Input(IMAGES[1:]), PopulationNormalization(momentum=0.7, epsilon=0.02, name="layer")]
  )
  model(draw(IMAGES), training=True)
  model.save(tmp_path / "model.keras")
  return model, keras.models.load_model(tmp_path / "model.keras", compile=False)


def test_layer_comes_back_from_a_file(files):
  model, found = files
  assert type(found.get_layer("layer")) is PopulationNormalization
  assert found.get_layer("layer").get_config() == model.get_layer("layer").get_config()
  np.testing.assert_array_equal(found(draw(IMAGES)), model(draw(IMAGES)))


def test_layer_from_a_file_trains_on_the_same_way(files):
  x = draw(IMAGES, seed=1)
  outputs = [m(x, training=True) for m in files]
  np.testing.assert_array_equal(*outputs)
  np.testing.assert_array_equal(*[statistics(m.get_layer("layer")) for m in files])


@pytest.mark.parametrize("training", [True, False])
def test_float64_is_kept_throughout(training):
  layer = moved(PopulationNormalization(dtype="float64"), IMAGES)
  gamma, beta, mean, variance = (w.copy() for w in layer.get_weights())
  x = draw(IMAGES, dtype="float64")
  found = np.array(layer(x, training=training))
  assert {found.dtype, *(w.dtype for w in layer.get_weights())} == {np.dtype("float64")}
  expected = (x - mean) / np.sqrt(variance + layer.epsilon) * gamma + beta
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14 * np.abs(expected).max())


def test_statistics_are_moved_in_float64():
  layer = moved(PopulationNormalization(dtype="float64", momentum=0.7), IMAGES)
  before, x = statistics(layer), draw(IMAGES, dtype="float64")
  layer(x, training=True)
  moments = np.stack([x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))])
  np.testing.assert_allclose(statistics(layer), 0.7 * before + 0.3 * moments, rtol=0, atol=1e-14)


# Kinds.


@pytest.mark.parametrize("kind", ["batch", "population", "none"])
def test_kinds_that_there_are_pass_the_check(kind):
  check(kind)


@pytest.mark.parametrize("kind", ["layer", "", None, "Batch"])
def test_unknown_kinds_are_refused(kind):
  message = f"normalization: expected one of batch, population, none, got {kind!r}"
  with pytest.raises(ValueError, match=message):
    check(kind)
  with pytest.raises(ValueError, match=message):
    normalize(keras.Input(IMAGES[1:]), kind, name="layer")


def test_none_returns_the_tensor_itself():
  x = keras.Input(IMAGES[1:])
  assert normalize(x, "none", name="layer") is x


@pytest.mark.parametrize(
  "kind, expected",
  [("batch", keras.layers.BatchNormalization), ("population", PopulationNormalization)],
)
def test_layer_has_the_name_and_the_options_asked_for(kind, expected):
  x = normalize(keras.Input(IMAGES[1:]), kind, name="layer", momentum=0.7, scale=False)
  layer = x._keras_history.operation
  assert (type(layer), layer.name, layer.momentum, layer.gamma) == (expected, "layer", 0.7, None)


def test_masked_examples_do_not_move_the_statistics():
  x = np.random.default_rng(0).standard_normal((6, 5, 3)).astype(np.float32)
  mask = np.arange(5)[None] < np.arange(1, 7)[:, None]
  layers = [PopulationNormalization(momentum=0.5), keras.layers.BatchNormalization(momentum=0.5)]
  for layer in layers:
    layer(x, training=True, mask=mask)
  for a, b in zip(*(layer.get_weights() for layer in layers), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(
  "renorm" not in inspect.signature(keras.layers.BatchNormalization).parameters,
  reason="an earlier Keras",
)
def test_renormalization_is_refused():
  with pytest.raises(ValueError, match="renorm=True"):
    PopulationNormalization(renorm=True)
