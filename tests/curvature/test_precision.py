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


def test_copy_is_compiled_with_the_models_loss():
  inputs = keras.Input((3,))
  hidden = layers.Dense(2, "tanh", kernel_regularizer="l2")(inputs)
  model = keras.Model(inputs, [layers.Dense(1)(hidden), layers.Dense(1)(hidden)])
  data = [(X, (X[:, :1], X[:, 1:2]))]
  model.compile("sgd", ["mse", "mae"], loss_weights=[1.0, 3.0])
  losses = [
    tf_hessian.HessianOperator(m, None, data).loss()
    for m in (model, tf_hessian.float64_model(model))
  ]
  assert losses[1] == pytest.approx(losses[0], rel=20 * 2.0**-23)


def test_copy_of_a_model_that_is_not_compiled_is_not_compiled():
  model = keras.Sequential([keras.Input((3,)), layers.Dense(1, kernel_regularizer="l2")])
  with pytest.raises(ValueError, match="^loss: .* is not compiled; give one"):
    tf_hessian.HessianOperator(tf_hessian.float64_model(model), None, [(X, X[:, :1])])


def test_loss_that_may_read_the_model_is_not_copied():
  model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
  read = model.layers[0].kernel
  model.compile("sgd", lambda t, p: (t - p) ** 2 + keras.ops.sum(read**2))
  with pytest.raises(ValueError, match="is compiled with none and its layers add none"):
    tf_hessian.HessianOperator(tf_hessian.float64_model(model), None, [(X, X[:, :1])])


def test_model_that_is_not_built_is_refused():
  with pytest.raises(ValueError, match="does not describe it: Sequential model"):
    tf_hessian.float64_model(keras.Sequential([layers.Dense(2)]))


@pytest.mark.parametrize("nested", [False, True])
def test_variable_that_is_an_argument_of_an_operation_is_refused(nested):
  inputs, dense = keras.Input((3,)), layers.Dense(3)
  model = keras.Model(inputs, keras.ops.matmul(dense(inputs), dense.kernel))
  if nested:
    model = keras.Sequential([keras.Input((3,)), model, layers.Dense(1)])
  with pytest.raises(ValueError, match="kernel' is an argument of an operation"):
    tf_hessian.float64_model(model)
