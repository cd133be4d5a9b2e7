"""Data, a network of two outputs, and what tests of losses compare."""

import keras
import numpy as np
import pytest

layers, ops = keras.layers, keras.ops
N, INPUTS = 8, 3
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((N, INPUTS)), RNG.standard_normal((N, 1))
CLASS = np.arange(N) % 3
# Differences at the best step err by some 1e-10 (see difference_error); third derivatives of these
# nets are up to ten times the second ones.
DIFFERENCES = 1e-8
# The same float64 operations in another order.
FLOAT64 = 1e-12


def agree_with_differences(operator, difference_error):
  directions = np.random.default_rng(1).standard_normal((operator.shape[0], 2))
  directions /= np.linalg.norm(directions, axis=0)
  products = np.stack([operator @ d for d in directions.T], axis=1)
  return difference_error(operator, directions, products) <= DIFFERENCES


def state(model):
  optimizer = getattr(model, "optimizer", None)
  variables = [*model.variables, *(optimizer.variables if optimizer else [])]
  return [np.array(v).tobytes() for v in variables]


def slowly(cases):
  """Marks cases of what quicker ones test as well."""
  return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


def two_outputs():
  inputs = keras.Input((INPUTS,))
  hidden = layers.Dense(3, "tanh")(inputs)
  return keras.Model(inputs, [layers.Dense(1, name="a")(hidden), layers.Dense(1, name="b")(hidden)])
