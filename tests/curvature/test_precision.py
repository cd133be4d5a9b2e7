"""Copies of models in float64: the same function of the same variables."""

import keras
import numpy as np
import pytest

import tf_hessian

layers = keras.layers
X = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)


def normalized():
  layer = layers.Normalization()
  layer.adapt(3 + 2 * X)
  return keras.Sequential([keras.Input((3,)), layer, layers.Dense(2, "tanh"), layers.Dense(1)]), X


def looked_up(kind, words):
  layer = kind()
  layer.adapt(words)
  inputs = keras.Input((1,), dtype=words.dtype.name if words.dtype.kind == "i" else "string")
  hidden = layers.Embedding(6, 2)(layer(inputs))
  return keras.Model(inputs, layers.Dense(1)(layers.Flatten()(hidden))), words


MODELS = {
  "adapted Normalization": normalized,
  "adapted IntegerLookup": lambda: looked_up(layers.IntegerLookup, np.array([[7], [9], [7], [3]])),
  "adapted StringLookup": lambda: looked_up(layers.StringLookup, np.array([["a"], ["b"], ["a"]])),
}


@pytest.mark.parametrize("name", MODELS)
def test_copy_has_the_values_of_the_model(name):
  model, inputs = MODELS[name]()
  values = np.asarray(model(keras.ops.convert_to_tensor(inputs)))
  copy = tf_hessian.float64_model(model)
  found = np.asarray(copy(keras.ops.convert_to_tensor(inputs)))
  assert found.dtype == np.float64 and values.dtype == np.float32
  # A few sums of three terms in float32.
  np.testing.assert_allclose(found, values, rtol=0, atol=20 * 2.0**-23 * np.abs(values).max())


def test_single_variables_that_are_not_trained_are_not_in_the_copy():
  model = keras.Sequential([keras.Input((3,)), layers.Dense(2), layers.Dense(1)])
  model.layers[0].bias.trainable = False
  copy = tf_hessian.float64_model(model)
  kept = [[v.path.split("/")[-2:] for v in m.trainable_variables] for m in (copy, model)]
  assert kept[0] == kept[1] and len(kept[0]) == 3
