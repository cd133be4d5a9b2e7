"""Closed forms, and matrices made without second derivatives."""

import random

import keras
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _same_weights_each_time():
  # That of which Keras makes its seeds; after a change of its own, TensorFlow makes its functions
  # ready anew.
  random.seed(0)


@pytest.fixture
def float64():
  """Keras layers that are made inside are float64 throughout."""
  floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
  keras.config.set_floatx("float64")
  keras.config.set_dtype_policy("float64")
  yield
  keras.config.set_floatx(floatx)
  keras.config.set_dtype_policy(policy)


@pytest.fixture(scope="session")
def relative_error():
  """Returns a function: (found, expected) -> |found - expected| / |expected|, Frobenius."""
  return lambda found, expected: float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="session")
def columns():
  """Returns a function: operator -> its dense matrix, one product a column."""
  return lambda operator: np.stack([operator.matvec(e) for e in np.eye(operator.shape[0])], axis=1)


@pytest.fixture(scope="session")
def assign():
  """Returns a function that sets an operator's variables to a point (n,)."""

  def set_to(operator, point):
    start = 0
    for p in operator.objective.parameters:
      size = p.shape.num_elements()
      p.assign(np.reshape(point[start : start + size], p.shape))
      start += size

  return set_to


@pytest.fixture(scope="session")
def difference_error(assign):
  """Returns a function: (operator, directions, products, function) -> relative error.

  `products` (n, k) are compared with central differences of `function`, by default the gradient,
  along `directions` (n, k), at the best of several steps h: their error is h^2 times third
  derivatives plus eps / h, so at best about eps^(2/3) = 4e-11 times the size of the derivatives.
  """

  def error(operator, directions, products, function=None, steps=(3e-4, 1e-4, 3e-5, 1e-5)):
    function = function or operator.gradient
    point = operator.parameters()
    errors = []
    for h in steps:
      found = []
      for d in directions.T:
        values = []
        for sign in (1, -1):
          assign(operator, point + sign * h * d)
          values.append(function())
        found.append((values[0] - values[1]) / (2 * h))
      found = np.stack(found, axis=-1)
      errors.append(np.linalg.norm(found - products) / np.linalg.norm(products))
    assign(operator, point)
    return min(errors)

  return error


@pytest.fixture(scope="session")
def softmax_hessian():
  """Returns a function: (x, logits, weights) -> the Hessian of softmax regression with biases.

  sum_i w_i (x_i, 1)(x_i, 1)' (x) (diag(p_i) - p_i p_i') / sum_i w_i, for the kernel (inputs,
  classes) in C order, followed by the biases.
  """

  def hessian(x, logits, weights=None):
    weights = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    x1 = np.concatenate([x, np.ones((len(x), 1))], axis=1).astype(np.float64)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    blocks = [
      w * np.kron(np.outer(a, a), np.diag(q) - np.outer(q, q))
      for w, a, q in zip(weights, x1, p, strict=True)
    ]
    return np.sum(blocks, axis=0) / weights.sum()

  return hessian


@pytest.fixture(scope="session")
def regression_hessian():
  """Returns a function: (x, outputs, weights) -> the Hessian of linear regression with biases.

  The loss is the mean over outputs and the weighted mean over examples of squared errors.
  """

  def hessian(x, outputs=1, weights=None):
    weights = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    x1 = np.concatenate([x, np.ones((len(x), 1))], axis=1).astype(np.float64)
    second_moment = (x1 * weights[:, None]).T @ x1 / weights.sum()
    return np.kron(2 * second_moment / outputs, np.eye(outputs))

  return hessian
