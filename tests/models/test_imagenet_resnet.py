"""ResNet-18 for ImageNet: sizes, shortcuts, and the function."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.models.imagenet_resnet import imagenet_resnet18
from tf_hessian.models.normalization import PopulationNormalization

STAGES, BLOCKS = (1, 2, 3, 4), (1, 2)


@pytest.fixture(scope="module")
def full():
  """The model of the paper."""
  return imagenet_resnet18()


@pytest.fixture(scope="module")
def narrow():
  """Returns a function: (normalization, shape of an image) -> a small model, images (4, *shape).

  All the models' weights have been moved, the statistics by a training step.
  """

  @functools.cache
  def build(normalization="batch", shape=(33, 33, 3)):
    model = imagenet_resnet18(
      num_classes=5, input_shape=shape, width=4, normalization=normalization
    )
    rng = np.random.default_rng(0)
    for v in model.trainable_variables:
      v.assign(v.numpy() + 0.1 * rng.standard_normal(v.shape))
    x = rng.standard_normal((4, *shape)).astype(np.float32)
    model(x, training=True)
    return model, x

  return build


def trainable(model):
  return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def expected_size(width, classes):
  """Returns the number of weights of the network of version 2, counted by hand."""
  total, channels = 7 * 7 * 3 * width, width
  for stage in STAGES:
    filters = width * 2 ** (stage - 1)
    total += 2 * channels + channels * filters + 9 * channels * filters  # normalized, projected
    total += 3 * (2 * filters + 9 * filters**2)
    channels = filters
  return total + 2 * channels + (channels + 1) * classes


def size(model, layer):
  return model.get_layer(layer).output.shape[1:3]


def layers(model, kind):
  return [layer for layer in model.layers if isinstance(layer, kind)]


def reference(model, x):
  """Returns the logits of the repository's graph, with the weights of a model."""

  def convolution(x, name, stride=1):
    kernel = model.get_layer(f"{name}_conv").kernel.value
    margin = [(kernel.shape[0] - 1) // 2] * 2
    return tf.nn.conv2d(x, kernel, stride, padding=[[0, 0], margin, margin, [0, 0]])

  def activation(x, name):
    gamma, beta, mean, variance = model.get_layer(f"{name}_bn").get_weights()
    return tf.nn.relu((x - mean) / np.sqrt(variance + 1e-5) * gamma + beta)

  x = tf.nn.max_pool2d(convolution(x, "stem", 2), 3, 2, "SAME")
  for stage in STAGES:
    for block in BLOCKS:
      name = f"stage{stage}_block{block}"
      stride = 2 if stage > 1 and block == 1 else 1
      y = activation(x, f"{name}_1")
      shortcut = convolution(y, f"{name}_shortcut", stride) if block == 1 else x
      y = activation(convolution(y, f"{name}_1", stride), f"{name}_2")
      x = shortcut + convolution(y, f"{name}_2")
  x = tf.reduce_mean(activation(x, "last"), axis=(1, 2))
  kernel, bias = model.get_layer("logits").get_weights()
  return x @ kernel + bias


def test_full_model_has_the_size_of_the_documentation(full):
  assert trainable(full) == expected_size(64, 1001) == 11_692_329


def test_a_thousand_classes_have_513_parameters_less_than_1001():
  assert trainable(imagenet_resnet18(num_classes=1000)) == expected_size(64, 1000) == 11_691_816


def test_number_of_parameters_is_that_of_the_layers(narrow):
  model, _ = narrow()
  assert trainable(model) == expected_size(4, 5)


def test_maps_have_the_sizes_of_the_repository_at_299(full):
  assert size(full, "stem_conv") == (150, 150)
  assert size(full, "stem_pool") == (75, 75)
  maps = [size(full, f"stage{i}_block{j}_add") for i in STAGES for j in BLOCKS]
  assert maps == [(n, n) for n in (75, 75, 38, 38, 19, 19, 10, 10)]


def test_there_are_eight_blocks(full):
  assert [a.name for a in layers(full, keras.layers.Add)] == [
    f"stage{i}_block{j}_add" for i in STAGES for j in BLOCKS
  ]


def test_channels_double_with_each_stage(full):
  channels = [full.get_layer(f"stage{i}_block2_add").output.shape[-1] for i in STAGES]
  assert channels == [64, 128, 256, 512]


@pytest.mark.parametrize("stage", STAGES)
def test_first_block_of_a_stage_projects_its_activation(full, stage):
  projection = full.get_layer(f"stage{stage}_block1_shortcut_conv")
  assert projection.kernel_size == (1, 1)
  assert full.get_layer(f"stage{stage}_block1_add").input[0] is projection.output


@pytest.mark.parametrize("stage", STAGES)
def test_second_block_of_a_stage_adds_what_came_into_it(full, stage):
  first, second = (full.get_layer(f"stage{stage}_block{i}_add") for i in BLOCKS)
  assert second.input[0] is first.output


def test_nothing_is_normalized_between_stem_and_pooling(full):
  assert full.get_layer("stem_pool").input is full.get_layer("stem_conv").output


@pytest.mark.parametrize("shape", [(33, 33, 3), (32, 47, 3)])
def test_logits_are_those_of_the_repositorys_graph(narrow, shape):
  model, x = narrow(shape=shape)
  expected = reference(model, x)
  # Some twenty layers of float32, each of a few roundings of 6e-8.
  np.testing.assert_allclose(model(x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("normalization", ["batch", "population", "none"])
def test_images_become_finite_logits(narrow, normalization):
  model, x = narrow(normalization)
  logits = np.array(model(x))
  assert logits.shape == (4, 5)
  assert np.isfinite(logits).all()


@pytest.mark.parametrize(
  "normalization, kind, count",
  [
    ("batch", keras.layers.BatchNormalization, 17),
    ("population", PopulationNormalization, 17),
    ("none", None, 0),
  ],
)
def test_normalization_is_the_one_asked_for(narrow, normalization, kind, count):
  model, _ = narrow(normalization)
  found = layers(model, keras.layers.BatchNormalization)
  assert [type(layer) for layer in found] == [kind] * count
  assert {c.use_bias for c in layers(model, keras.layers.Conv2D)} == {count == 0}


def test_normalization_has_the_constants_of_the_repository(full):
  found = layers(full, keras.layers.BatchNormalization)
  assert {(layer.momentum, layer.epsilon) for layer in found} == {(0.997, 1e-5)}


def test_unknown_normalization_is_refused():
  with pytest.raises(ValueError, match="normalization: .* got 'group'"):
    imagenet_resnet18(normalization="group")
