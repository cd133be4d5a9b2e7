"""The multi-layer perceptrons."""

import random

import keras
import numpy as np
import pytest

from tf_hessian.models.mlp import mlp


def test_default_is_the_network_of_the_paper():
  assert mlp().count_params() == 15_910


@pytest.mark.parametrize("hidden_units", [(), (5,), (5, 4, 3)])
@pytest.mark.parametrize("use_bias", [False, True])
def test_number_of_parameters_is_that_of_the_layers(hidden_units, use_bias):
  model = mlp(input_shape=(6,), hidden_units=hidden_units, num_classes=2, use_bias=use_bias)
  sizes = [6, *hidden_units, 2]
  expected = sum((a + use_bias) * b for a, b in zip(sizes, sizes[1:], strict=False))
  assert model.count_params() == expected


@pytest.mark.parametrize("input_shape", [(6,), (2, 3), (2, 3, 1)])
def test_examples_of_any_shape_become_logits(input_shape):
  model = mlp(input_shape=input_shape, hidden_units=(4,), num_classes=3)
  assert model(np.ones((5, *input_shape), np.float32)).shape == (5, 3)


def test_outputs_are_logits():
  random.seed(0)
  model = mlp(input_shape=(6,), hidden_units=(4,), num_classes=3)
  x = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
  w1, b1, w2, b2 = model.get_weights()
  expected = np.maximum(x @ w1 + b1, 0) @ w2 + b2
  np.testing.assert_allclose(model(x), expected, rtol=0, atol=1e-5)


def test_activation_is_the_one_asked_for():
  model = mlp(activation="tanh")
  assert model.get_layer("hidden_1").activation is keras.activations.tanh


def test_saved_model_gives_bitwise_the_same_logits(tmp_path):
  model = mlp(input_shape=(6,))
  model.save(tmp_path / "model.keras")
  x = np.ones((5, 6), np.float32)
  found = keras.models.load_model(tmp_path / "model.keras", compile=False)
  np.testing.assert_array_equal(found(x), model(x))
