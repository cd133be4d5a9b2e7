"""The precision of an operator is that of the least precise type on the way to the loss."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.curvature.operator import HessianOperator

layers = keras.layers
X = np.random.default_rng(0).standard_normal((4, 3))
EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7}


def model_of(dtype, *parts, inputs=None):
  head = layers.Dense(1, dtype=dtype)
  return keras.Sequential([keras.Input((3,), dtype=inputs or dtype), *parts, head])


def operator_of(model, data=np.float64):
  return HessianOperator(model, "mse", [(X.astype(data), X[:, :1].astype(data))])


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_a_model_of_one_type_has_its_precision_without_a_word(dtype, caplog):
  assert operator_of(model_of(dtype), np.float32).precision == EPS[dtype]
  assert not caplog.records


def test_a_declared_type_is_not_remarked(caplog):
  model = model_of("mixed_bfloat16", inputs="float32")
  assert operator_of(model).precision == EPS["bfloat16"]
  assert not caplog.records


def test_data_that_a_float64_model_rounds_are_told(caplog):
  operator = operator_of(model_of("float64", inputs="float32"))
  assert operator.precision == EPS["float32"]
  assert "rounds float64 data to float32; keras.Input(..., dtype='float64')" in caplog.text


def test_data_of_less_precision_are_exact():
  assert operator_of(model_of("float64"), np.float32).precision == EPS["float64"]


def test_an_operation_that_rounds_is_told_with_its_layer(caplog):
  class Low(layers.Layer):
    def call(self, inputs):
      return tf.cast(tf.cast(inputs, tf.float32), inputs.dtype)

  dense = layers.Dense(3, dtype="float64")
  operator = operator_of(model_of("float64", dense, Low(dtype="float64", name="low")))
  assert operator.precision == EPS["float32"]
  assert operator.precision_dtype == "float32"
  assert "layer 'low' computes in float32" in caplog.text


def test_constants_of_less_precision_are_exact():
  def loss(parameters, batch):
    steps = tf.cast(tf.range(3, dtype=tf.float32) * 2, tf.float64)
    return tf.reduce_sum((batch * parameters[0] - steps) ** 2, axis=1)

  assert HessianOperator([tf.ones(3, tf.float64)], loss, [X]).precision == EPS["float64"]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_rounding_inside_a_loop_is_told(dtype):
  def loss(parameters, batch):
    def body(i, total):
      return i + 1, total + tf.cast(tf.cast(parameters[0], dtype) ** 2, tf.float64)

    _, total = tf.while_loop(lambda i, _: i < 2, body, [0, tf.zeros(3, tf.float64)])
    return tf.reduce_sum(batch * total, axis=1)

  assert HessianOperator([tf.ones(3, tf.float64)], loss, [X]).precision == EPS[dtype]
