"""Inception V3: sizes, the function of Keras's own, the auxiliary head."""

import keras
import numpy as np
import pytest

from tf_hessian.models.inception_v3 import inception_v3
from tf_hessian.models.normalization import PopulationNormalization

SMALLEST = {True: 107, False: 75}  # with the head, without


@pytest.fixture(scope="module")
def full():
  """The model of the paper."""
  return inception_v3()


@pytest.fixture(scope="module")
def headless():
  """The model without head, for the images of Keras's."""
  return inception_v3(auxiliary=False, num_classes=1000, input_shape=(75, 75, 3))


@pytest.fixture(scope="module")
def original():
  """Keras's model, with logits; its number of parameters does not depend on the input."""
  return keras.applications.InceptionV3(
    weights=None, input_shape=(75, 75, 3), classifier_activation=None
  )


@pytest.fixture(scope="module")
def narrow():
  """A small model with head for the smallest images, without normalization."""
  return inception_v3(
    num_classes=4, input_shape=(107, 107, 3), width=0.03, normalization="none", dropout_rate=0.0
  )


@pytest.fixture(scope="module")
def narrow_headless():
  """A small model without head for the smallest images, with population statistics."""
  return inception_v3(
    num_classes=4, input_shape=(75, 75, 3), width=0.03, normalization="population", auxiliary=False
  )


def trainable(model):
  return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def images(model):
  return np.random.default_rng(0).random((2, *model.input_shape[1:]), np.float32)


def layers(model, kind):
  return [layer for layer in model.layers if isinstance(layer, kind)]


def weight_layers(model):
  """Returns the layers with weights, inputs before outputs and branches in the order joined."""
  found, seen = [], set()

  def visit(tensor):
    operation = tensor._keras_history.operation
    if operation in seen:
      return
    seen.add(operation)
    for node in operation._inbound_nodes:
      for argument in node.input_tensors:
        visit(argument)
    if operation.weights:
      found.append(operation)

  visit(model.outputs[0])
  return found


@pytest.mark.slow
def test_full_model_has_the_size_of_the_documentation(full):
  assert trainable(full) == 27_145_970


def test_model_without_head_has_the_size_of_the_documentation(headless):
  assert trainable(headless) == 23_817_352


@pytest.mark.slow
def test_model_without_head_has_the_weights_of_keras_own(headless, original):
  shapes = [sorted(tuple(v.shape) for v in m.trainable_variables) for m in (headless, original)]
  assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_model_without_head_is_the_function_of_keras_own(headless, original):
  rng = np.random.default_rng(0)
  for ours, theirs in zip(weight_layers(headless), weight_layers(original), strict=True):
    if isinstance(theirs, keras.layers.BatchNormalization):
      shape = theirs.beta.shape
      beta, mean = 0.3 * rng.standard_normal((2, *shape))
      # Variances that keep signals about as large as they are, from layer to layer.
      theirs.set_weights([beta, mean, rng.uniform(0.2, 0.4, shape)])
    ours.set_weights(theirs.get_weights())
  x = images(original)
  expected = np.array(original(x))
  # Ninety-five layers of float32, each of a few roundings of 6e-8.
  np.testing.assert_allclose(headless(x), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_head_adds_its_own_weights_only(full):
  head = [v for v in full.trainable_variables if v.path.startswith("auxiliary")]
  # Two convolutions with shifts, and the logits.
  expected = 768 * 128 + 128 + 5 * 5 * 128 * 768 + 768 + 768 * 1001 + 1001
  assert sum(int(np.prod(v.shape)) for v in head) == expected
  assert trainable(full) - expected == 23_817_352 + 2049  # a class more


@pytest.mark.parametrize(
  "layer, shape",
  [
    ("stem_pool_2", (35, 35, 192)),
    ("block35_3", (35, 35, 288)),
    ("reduction35", (17, 17, 768)),
    ("block17_4", (17, 17, 768)),
    ("reduction17", (8, 8, 1280)),
    ("block8_2", (8, 8, 2048)),
    ("auxiliary_pool", (5, 5, 768)),
    ("auxiliary_2_conv", (1, 1, 768)),
  ],
)
def test_maps_have_the_sizes_of_the_article_at_299(full, layer, shape):
  assert full.get_layer(layer).output.shape[1:] == shape


def test_head_hangs_on_the_last_17_x_17_map(full):
  assert full.get_layer("auxiliary_pool").input is full.get_layer("block17_4").output


def test_normalization_has_no_scale(full):
  found = layers(full, keras.layers.BatchNormalization)
  assert len(found) == 96
  assert all(layer.gamma is None for layer in found)
  assert not any(v.path.endswith("gamma") for v in full.variables)


def test_normalization_has_the_constants_of_the_original(full):
  found = layers(full, keras.layers.BatchNormalization)
  assert {(layer.momentum, layer.epsilon) for layer in found} == {(0.9997, 1e-3)}


def test_logits_come_before_those_of_the_head(full):
  expected = [full.get_layer(name).output for name in ("logits", "auxiliary_logits")]
  assert full.outputs == expected
  assert [o.shape for o in full.outputs] == [(None, 1001)] * 2


def test_there_is_one_output_without_head(headless):
  assert headless.output.shape == (None, 1000)


def test_smallest_images_become_finite_logits_of_both_heads(narrow):
  for logits in narrow(images(narrow)):
    assert logits.shape == (2, 4)
    assert np.isfinite(logits).all()


def test_smallest_images_become_finite_logits_without_head(narrow_headless):
  logits = np.array(narrow_headless(images(narrow_headless)))
  assert logits.shape == (2, 4)
  assert np.isfinite(logits).all()


@pytest.mark.parametrize("auxiliary", [True, False])
@pytest.mark.parametrize("narrower", [0, 1])
def test_smaller_images_are_refused(auxiliary, narrower):
  shape = [299, 299, 3]
  shape[narrower] = SMALLEST[auxiliary] - 1
  with pytest.raises(ValueError, match=f"expected at least {SMALLEST[auxiliary]} each way, got"):
    inception_v3(auxiliary=auxiliary, input_shape=tuple(shape))


def test_width_scales_all_channels_down_to_one(narrow):
  channels = {c.name: c.filters for c in layers(narrow, keras.layers.Conv2D)}
  assert channels["stem_1_conv"] == 1
  assert channels["stem_4_conv"] == 2  # 0.03 * 80
  assert channels["auxiliary_2_conv"] == 23  # 0.03 * 768
  assert min(channels.values()) == 1


def test_dropout_is_there_by_default(full):
  assert [d.rate for d in layers(full, keras.layers.Dropout)] == [0.2]


def test_dropout_of_zero_adds_no_layer(narrow):
  assert not layers(narrow, keras.layers.Dropout)


def test_convolutions_without_normalization_have_biases(narrow):
  assert not layers(narrow, keras.layers.BatchNormalization)
  assert all(c.use_bias for c in layers(narrow, keras.layers.Conv2D))


def test_convolutions_before_a_normalization_have_none(full):
  assert not any(c.use_bias for c in layers(full, keras.layers.Conv2D))


def test_population_normalization_has_no_scale_either(narrow_headless):
  found = layers(narrow_headless, keras.layers.BatchNormalization)
  assert {(type(layer), layer.gamma) for layer in found} == {(PopulationNormalization, None)}


def test_unknown_normalization_is_refused():
  with pytest.raises(ValueError, match="normalization: .* got None"):
    inception_v3(normalization=None)
