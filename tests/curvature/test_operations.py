"""TensorFlow's operations one by one: the right product, or a refusal by name."""

import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.curvature.operator import HessianOperator

# Of a variable in (0, 1), all smooth there.
ELEMENTWISE = {
  "abs": tf.abs,
  "acos": tf.acos,
  "asin": tf.asin,
  "asinh": tf.asinh,
  "atan": tf.atan,
  "atanh": tf.atanh,
  "cos": tf.cos,
  "cosh": tf.cosh,
  "digamma": tf.math.digamma,
  "elu": lambda x: tf.nn.elu(x) + tf.nn.elu(-x),
  "erf": tf.math.erf,
  "exp": tf.exp,
  "expm1": tf.math.expm1,
  "gelu": tf.nn.gelu,
  "leaky relu": tf.nn.leaky_relu,
  "lgamma": tf.math.lgamma,
  "log": tf.math.log,
  "log1p": tf.math.log1p,
  "log sigmoid": tf.math.log_sigmoid,
  "negative": tf.negative,
  "power": lambda x: x**1.5,
  "reciprocal": tf.math.reciprocal,
  "relu": tf.nn.relu,
  "rsqrt": tf.math.rsqrt,
  "selu": lambda x: tf.nn.selu(-x),
  "sigmoid": tf.sigmoid,
  "silu": tf.nn.silu,
  "sin": tf.sin,
  "sinh": tf.sinh,
  "softplus": tf.math.softplus,
  "sqrt": tf.sqrt,
  "square": tf.square,
  "tan": tf.tan,
  "tanh": tf.tanh,
}


def second_derivative(function, x, h=1e-4):
  """Central differences of the gradient of 10 f + f^2."""

  def gradient(x):
    with tf.GradientTape() as tape:
      tape.watch(x)
      y = function(x)
      loss = tf.reduce_sum(10.0 * y + y * y)
    return tape.gradient(loss, x)

  return (gradient(x + h) - gradient(x - h)) / (2 * h)


@pytest.fixture(scope="module", params=["forward_over_backward", "backward_over_backward"])
def bare_products(request):
  """Products of losses whose variables go straight into an elementwise operation: by name."""
  x = np.linspace(0.2, 0.8, 5)
  variables = [tf.Variable(x, name=f"x_{i}") for i in range(len(ELEMENTWISE))]

  def loss(params, batch):
    ys = [f(p) for f, p in zip(ELEMENTWISE.values(), params, strict=True)]
    return tf.add_n([batch * tf.reduce_sum(10.0 * y + y * y) for y in ys])

  operator = HessianOperator(variables, loss, [tf.ones(1, tf.float64)], mode=request.param)
  found = operator @ np.ones(operator.shape[0])
  several = operator.products(np.ones((3, operator.shape[0])))
  np.testing.assert_allclose(several, [found] * 3, rtol=1e-12)
  return dict(zip(ELEMENTWISE, found.reshape(len(ELEMENTWISE), -1), strict=True))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_variable_that_goes_straight_into_an_operation_passes_both_modes(name, bare_products):
  expected = second_derivative(ELEMENTWISE[name], tf.constant(np.linspace(0.2, 0.8, 5), tf.float64))
  # The differences err by h^2 times fourth derivatives, up to 1e3 here, and by eps / h = 2e-12.
  np.testing.assert_allclose(bare_products[name], expected, rtol=1e-5, atol=1e-8)
