"""Filters of unit norm, and that the function stays."""

import random
import re

import keras
import numpy as np
import pytest

from tf_hessian.models.cifar_resnet import cifar_resnet
from tf_hessian.models.filters import normalize_filters
from tf_hessian.models.imagenet_resnet import imagenet_resnet18
from tf_hessian.models.inception_v3 import inception_v3
from tf_hessian.models.mlp import mlp
from tf_hessian.models.vgg import vgg11

layers = keras.layers
X = np.random.default_rng(0).standard_normal((6, 8, 8, 3))


def convolutions(model):
  return [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]


def norms(convolution):
  return np.sqrt(np.sum(convolution.kernel.numpy() ** 2, axis=(0, 1, 2)))


def size(array):
  return np.abs(array).max()


def residual_network(normalization):
  """A small residual network with large filters, whose statistics a few steps have moved.

  Its normalizations' epsilon is too small to be felt.
  """
  random.seed(0)
  model = cifar_resnet(
    depth=8, width=2, num_classes=3, input_shape=(8, 8, 3), normalization=normalization
  )
  rng = np.random.default_rng(1)
  for layer in model.layers:
    if isinstance(layer, layers.Conv2D):
      scale = rng.uniform(1, 5, layer.filters)
      layer.kernel.assign(scale * rng.standard_normal(layer.kernel.shape))
    elif isinstance(layer, layers.BatchNormalization):
      layer.momentum, layer.epsilon = 0.5, 1e-13
      layer.gamma.assign(rng.uniform(0.5, 2, layer.gamma.shape))
      layer.beta.assign(rng.standard_normal(layer.beta.shape))
  for i in range(4):
    model(X + i / 4, training=True)
  return model


@pytest.fixture(scope="module")
def trained(in_float64):
  """Returns a function: normalization -> a float64 `residual_network`, as it was at first."""
  models = {}

  def get(normalization="batch"):
    if normalization not in models:
      with in_float64():
        model = residual_network(normalization)
      models[normalization] = model, model.get_weights()
    model, weights = models[normalization]
    model.set_weights(weights)
    return model

  return get


def single(epsilon, *, normalization=layers.BatchNormalization, **options):
  """A convolution and its normalization, whose statistics a step has moved."""
  model = keras.Sequential(
    [
      keras.Input(X.shape[1:]),
      layers.Conv2D(**{"filters": 4, "kernel_size": 3, "name": "convolution"} | options),
      normalization(epsilon=epsilon, name="normalization"),
    ]
  )
  rng = np.random.default_rng(1)
  convolution = model.get_layer("convolution")
  convolution.kernel.assign(3 * rng.standard_normal(convolution.kernel.shape))
  if convolution.use_bias:
    convolution.bias.assign(rng.standard_normal(convolution.bias.shape))
  model(X, training=True)
  return model


def call(model, training):
  """Returns the outputs; the statistics stay as they were."""
  weights = model.get_weights()
  outputs = np.array(model(X, training=training))
  model.set_weights(weights)
  return outputs


def refused(model):
  """Returns the names of the layers for which a model is refused."""
  with pytest.raises(ValueError, match="filter normalization: expected a model whose") as error:
    normalize_filters(model)
  return set(re.search(r"of their own, got (.*)$", str(error.value)).group(1).split(", "))


# What changes and what does not.


@pytest.mark.parametrize("normalization", ["batch", "population"])
def test_all_filters_have_unit_norm_afterwards(trained, normalization):
  model = trained(normalization)
  assert all(norms(c).min() > 2 for c in convolutions(model))
  normalize_filters(model)
  for convolution in convolutions(model):
    np.testing.assert_allclose(norms(convolution), 1, rtol=1e-14)


@pytest.mark.parametrize(
  "build",
  [
    lambda: cifar_resnet(depth=8),
    lambda: vgg11(width=1, dense_units=2, normalization="batch"),
    pytest.param(
      lambda: inception_v3(auxiliary=False, input_shape=(75, 75, 3), width=0.01, num_classes=2),
      marks=pytest.mark.slow,
    ),
  ],
  ids=["cifar_resnet", "vgg11", "inception_v3"],
)
def test_filters_of_float32_models_have_unit_norm_to_rounding(build):
  model = build()
  normalize_filters(model)
  for convolution in convolutions(model):
    np.testing.assert_allclose(norms(convolution), 1, rtol=1e-6)


def test_directions_of_the_filters_stay(trained):
  model = trained()
  before = [c.kernel.numpy() / norms(c) for c in convolutions(model)]
  normalize_filters(model)
  for convolution, expected in zip(convolutions(model), before, strict=True):
    np.testing.assert_allclose(convolution.kernel, expected, rtol=1e-14)


def test_other_trainable_weights_stay(trained):
  model = trained()
  others = [v for v in model.trainable_variables if not v.path.endswith("conv/kernel")]
  before = [v.numpy() for v in others]
  normalize_filters(model)
  for v, expected in zip(others, before, strict=True):
    np.testing.assert_array_equal(v, expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("normalization", ["batch", "population"])
def test_outputs_stay(trained, normalization, training):
  model = trained(normalization)
  before = call(model, training)
  normalize_filters(model)
  # Behind filters of unit norm variances are above 1e-2, so an epsilon of 1e-13 is felt as 1e-11 at
  # most in each of seven layers; roundings are less.
  assert min(v.numpy().min() for v in model.variables if v.path.endswith("variance")) > 1e-2
  np.testing.assert_allclose(call(model, training), before, rtol=0, atol=1e-10 * size(before))


def test_statistics_move_on_as_they_would_have(trained):
  model = trained()
  model(X + 2, training=True)
  expected = call(model, training=False)
  model = trained()
  normalize_filters(model)
  model(X + 2, training=True)
  found = call(model, training=False)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * size(expected))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("training", [True, False])
def test_what_changes_comes_from_epsilon(training):
  model = single(epsilon=0.5)
  convolution, layer = model.get_layer("convolution"), model.get_layer("normalization")
  batch = np.array(convolution(X)).var(axis=(0, 1, 2))
  variance = batch if training else layer.moving_variance.numpy()
  before, scale = call(model, training), norms(convolution)
  normalize_filters(model)
  # (y - m) / s / sqrt(v / s^2 + e) = (y - m) / sqrt(v + s^2 e).
  expected = before * np.sqrt((variance + 0.5) / (variance + 0.5 * scale**2))
  assert size(expected - before) > 0.01
  np.testing.assert_allclose(call(model, training), expected, rtol=0, atol=1e-13)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
  "options", [{"groups": 3, "filters": 6}, {"strides": 2}, {"use_bias": False}]
)
def test_outputs_of_other_convolutions_stay(options, training):
  model = single(epsilon=0.0, **options)
  before = call(model, training)
  normalize_filters(model)
  np.testing.assert_allclose(norms(model.get_layer("convolution")), 1, rtol=1e-14)
  np.testing.assert_allclose(call(model, training), before, rtol=0, atol=1e-13 * size(before))


def test_filters_of_unit_norm_stay(trained):
  model = trained()
  normalize_filters(model)
  before = model.get_weights()
  normalize_filters(model)
  for found, expected in zip(model.get_weights(), before, strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.slow
def test_frozen_convolutions_stay():
  model = cifar_resnet(depth=8)
  frozen, following, *_ = convolutions(model)
  frozen.trainable = False
  before = frozen.kernel.numpy()
  normalize_filters(model)
  np.testing.assert_array_equal(frozen.kernel, before)
  np.testing.assert_allclose(norms(following), 1, rtol=1e-6)


# What is refused.


@pytest.mark.parametrize(
  "build", [lambda **k: cifar_resnet(depth=8, **k), lambda **k: vgg11(width=1, **k)]
)
def test_models_without_normalization_are_refused_naming_their_convolutions(build):
  model = build(normalization="none")
  assert refused(model) == {c.name for c in convolutions(model)}


def test_imagenet_resnet_is_refused_naming_what_is_added_or_pooled():
  model = imagenet_resnet18(input_shape=(33, 33, 3), num_classes=2, width=1)
  stages, blocks = (1, 2, 3, 4), (1, 2)
  added = {f"stage{i}_block{j}_2_conv" for i in stages for j in blocks}
  projections = {f"stage{i}_block1_shortcut_conv" for i in stages}
  assert refused(model) == added | projections | {"stem_conv"}


def test_refused_models_stay():
  model = single(epsilon=1e-3, activation="relu")
  before = model.get_weights()
  refused(model)
  for found, expected in zip(model.get_weights(), before, strict=True):
    np.testing.assert_array_equal(found, expected)


def test_an_activation_before_the_normalization_is_refused():
  assert refused(single(epsilon=1e-3, activation="relu")) == {"convolution"}


def test_another_use_of_a_convolution_is_refused():
  inputs = keras.Input((8, 8, 3))
  y = layers.Conv2D(3, 3, padding="same", name="convolution")(inputs)
  model = keras.Model(inputs, layers.Add()([layers.BatchNormalization()(y), y]))
  assert refused(model) == {"convolution"}


def test_another_normalization_is_refused():
  model = single(epsilon=1e-3, normalization=layers.LayerNormalization)
  assert refused(model) == {"convolution"}


def test_models_without_convolutions_are_refused():
  with pytest.raises(ValueError, match="got no convolution"):
    normalize_filters(mlp(input_shape=(6,)))


def test_a_filter_of_zeros_is_refused_naming_its_layer():
  model = cifar_resnet(depth=8)
  convolution = model.get_layer("stage2_block1_1_conv")
  kernel = convolution.kernel.numpy()
  kernel[..., 1] = 0
  convolution.kernel.assign(kernel)
  with pytest.raises(ValueError, match="'stage2_block1_1_conv' has a filter that is zero"):
    normalize_filters(model)


# Models that share layers or tensors.


def boosted(model):
  """Gives a model filters far from unit norm."""
  for layer in model._flatten_layers():
    if isinstance(layer, keras.layers.Conv2D):
      layer.kernel.assign(layer.kernel * 5)
    if isinstance(layer, keras.layers.BatchNormalization):
      layer.epsilon = 1e-12
  return model


def images():
  return np.random.default_rng(0).standard_normal((6, 8, 8, 3)).astype(np.float32)


def sequence():
  model = keras.Sequential()  # each add() makes the graph anew
  for layer in (keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.ReLU()):
    model.add(layer)
    if isinstance(layer, keras.layers.Conv2D):
      model.add(keras.layers.BatchNormalization())
  return model


def features():
  inputs = keras.Input((8, 8, 3))
  x = keras.layers.Conv2D(4, 3)(inputs)
  model = keras.Model(inputs, keras.layers.BatchNormalization()(x))
  keras.Model(inputs, keras.layers.ReLU()(x))  # of another model, which does not count
  return model


def nested():
  inputs = keras.Input((8, 8, 3))
  return keras.Model(inputs, sequence()(inputs))


@pytest.mark.parametrize("build", [sequence, features, nested])
def test_what_other_graphs_do_with_a_convolution_does_not_count(build):
  model = boosted(build())
  before = model(images()).numpy()
  normalize_filters(model)
  (layer,) = [x for x in model._flatten_layers() if isinstance(x, keras.layers.Conv2D)]
  np.testing.assert_allclose(np.sum(layer.kernel.numpy() ** 2, (0, 1, 2)), 1, rtol=1e-5)
  np.testing.assert_allclose(model(images()).numpy(), before, rtol=1e-4, atol=1e-4)


def shared_normalization():
  inputs = keras.Input((8, 8, 3))
  layer = keras.layers.BatchNormalization()
  both = [layer(keras.layers.Conv2D(4, 3)(inputs)) for _ in range(2)]
  return keras.Model(inputs, keras.layers.Concatenate()(both))


def convolution_that_is_an_output():
  inputs = keras.Input((8, 8, 3))
  x = keras.layers.Conv2D(4, 3)(inputs)
  return keras.Model(inputs, [keras.layers.BatchNormalization()(x), x])


def normalization_of_rows():
  layers = [keras.layers.Conv2D(8, 3, padding="same"), keras.layers.BatchNormalization(axis=1)]
  return keras.Sequential([keras.Input((8, 8, 3)), *layers])


def depthwise():
  layers = [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()]
  return keras.Sequential([keras.Input((8, 8, 3)), *layers, keras.layers.DepthwiseConv2D(3)])


@pytest.mark.parametrize(
  "build", [shared_normalization, convolution_that_is_an_output, normalization_of_rows, depthwise]
)
def test_model_whose_function_would_change_is_refused_and_stays(build):
  model = boosted(build())
  before = [v.numpy() for v in model.variables]
  with pytest.raises(ValueError, match="batch normalization of their own, got .*conv2d"):
    normalize_filters(model)
  for a, b in zip(before, model.variables, strict=True):
    np.testing.assert_array_equal(a, b.numpy())


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e-30])
def test_filter_that_cannot_be_rescaled_is_refused_before_any_other_changes(value):
  layers = [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()] * 2
  layers = [type(x).from_config(x.get_config() | {"name": f"l{i}"}) for i, x in enumerate(layers)]
  model = boosted(keras.Sequential([keras.Input((8, 8, 3)), *layers]))
  kernel = layers[2].kernel.numpy()
  kernel[..., 1] = value
  layers[2].kernel.assign(kernel)
  before = layers[0].kernel.numpy()
  with pytest.raises(ValueError, match="'l2' has a filter that is zero, or too small"):
    normalize_filters(model)
  np.testing.assert_array_equal(before, layers[0].kernel.numpy())
