"""Residual networks for CIFAR-10: sizes, shortcuts, files."""

import keras
import numpy as np
import pytest

from tf_hessian.models.cifar_resnet import PaddedShortcut, cifar_resnet


def trainable(model):
  return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def expected_size(depth, normalization):
  """Returns the number of weights of He et al.'s network, counted by hand."""
  n = (depth - 2) // 6
  inputs = [3] + [16] * (2 * n) + [16] + [32] * (2 * n - 1) + [32] + [64] * (2 * n - 1)
  outputs = [16] * (2 * n + 1) + [32] * (2 * n) + [64] * (2 * n)
  kernels = sum(9 * a * b for a, b in zip(inputs, outputs, strict=True))
  return kernels + sum(outputs) * (1 if normalization == "none" else 2) + 64 * 10 + 10


def layers(model, kind):
  return [layer for layer in model.layers if isinstance(layer, kind)]


def test_depth_32_has_the_published_size():
  model = cifar_resnet(depth=32)
  assert trainable(model) == 464_154
  # With the moving statistics of batch normalization.
  assert model.count_params() == 464_154 + 2 * (11 * 16 + 10 * 32 + 10 * 64)


@pytest.mark.parametrize("depth", [8, 14])
@pytest.mark.parametrize("normalization", ["batch", "none"])
@pytest.mark.parametrize("residual", [True, False])
def test_number_of_parameters_is_that_of_the_layers(depth, normalization, residual):
  model = cifar_resnet(depth=depth, normalization=normalization, residual=residual)
  assert trainable(model) == expected_size(depth, normalization)
  # Weight layers: convolutions and logits.
  assert len(layers(model, (keras.layers.Conv2D, keras.layers.Dense))) == depth


@pytest.mark.parametrize("normalization, count", [("batch", 7), ("population", 7), ("none", 0)])
def test_batch_norm_can_be_left_out(normalization, count):
  model = cifar_resnet(depth=8, normalization=normalization)
  assert len(layers(model, keras.layers.BatchNormalization)) == count
  assert all(c.use_bias is (count == 0) for c in layers(model, keras.layers.Conv2D))


@pytest.mark.parametrize("residual, additions, padded", [(True, 3, 2), (False, 0, 0)])
def test_shortcuts_can_be_left_out(residual, additions, padded):
  model = cifar_resnet(depth=8, residual=residual)
  assert len(layers(model, keras.layers.Add)) == additions
  assert len(layers(model, PaddedShortcut)) == padded


@pytest.mark.parametrize("rate, count", [(0.0, 0), (0.5, 1)])
def test_dropout_is_there_if_asked_for(rate, count):
  assert len(layers(cifar_resnet(depth=8, dropout_rate=rate), keras.layers.Dropout)) == count


@pytest.mark.parametrize("depth", [-4, 0, 2, 7, 9, 31, 33])
def test_depth_that_is_not_of_the_series_is_refused(depth):
  with pytest.raises(ValueError, match=f"6n \\+ 2.*got {depth}"):
    cifar_resnet(depth=depth)


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (9, 7, 2)])
@pytest.mark.parametrize("normalization", ["batch", "none"])
@pytest.mark.parametrize("residual", [True, False])
def test_images_become_finite_logits(shape, normalization, residual):
  model = cifar_resnet(
    depth=8, input_shape=shape, num_classes=4, normalization=normalization, residual=residual
  )
  x = np.random.default_rng(0).random((3, *shape)).astype(np.float32)
  logits = np.array(model(x))
  assert logits.shape == (3, 4)
  assert np.isfinite(logits).all()


@pytest.mark.parametrize("residual", [True, False])
def test_saved_model_gives_bitwise_the_same_logits(tmp_path, residual):
  model = cifar_resnet(depth=8, residual=residual)
  model.save(tmp_path / "model.keras")
  found = keras.models.load_model(tmp_path / "model.keras", compile=False)
  x = np.random.default_rng(0).random((3, 32, 32, 3)).astype(np.float32)
  np.testing.assert_array_equal(found(x), model(x))
  assert [v.path for v in found.trainable_variables] == [v.path for v in model.trainable_variables]


# The shortcut.


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("height, width", [(8, 8), (7, 5)])
@pytest.mark.parametrize("channels, filters", [(2, 2), (2, 4), (2, 5)])
def test_shortcut_is_slicing_and_padding(stride, height, width, channels, filters):
  x = np.random.default_rng(0).standard_normal((3, height, width, channels)).astype(np.float32)
  expected = np.zeros((3, -(-height // stride), -(-width // stride), filters), np.float32)
  first = (filters - channels) // 2
  expected[..., first : first + channels] = x[:, ::stride, ::stride]
  np.testing.assert_array_equal(PaddedShortcut(filters, stride=stride)(x), expected)


def test_shortcut_has_no_parameters():
  layer = PaddedShortcut(4, stride=2)
  layer(np.ones((1, 4, 4, 2), np.float32))
  assert layer.variables == []


def test_shortcut_comes_back_from_its_config():
  layer = PaddedShortcut.from_config(PaddedShortcut(4, stride=2, name="shortcut").get_config())
  assert (layer.filters, layer.stride, layer.name) == (4, 2, "shortcut")
