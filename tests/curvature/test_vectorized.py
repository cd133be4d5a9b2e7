"""Vectorized products of several vectors against each by itself."""

import keras
import numpy as np
import pytest

from tf_hessian.curvature import choices
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.curvature.selfcheck import check_operator

layers = keras.layers
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((5, 6, 6, 4)).astype("float32"), RNG.integers(0, 3, 5)
EPS = np.finfo(np.float32).eps

# Each is a branch of one model, so that they are traced once.
CONVOLUTIONS = {
  "plain": layers.Conv2D(3, 3, activation="tanh"),
  "strides": layers.Conv2D(3, 3, strides=2, padding="same", activation="tanh"),
  "dilated": layers.Conv2D(3, 2, dilation_rate=2, activation="tanh"),
  "depthwise": layers.DepthwiseConv2D(3, depth_multiplier=2, activation="tanh"),
  "depthwise_strides": layers.DepthwiseConv2D(3, strides=2, padding="same", activation="tanh"),
  "separable": layers.SeparableConv2D(3, 3, activation="tanh"),
  "transposed": layers.Conv2DTranspose(3, 3, strides=2, activation="tanh"),
}


def operator_of(branches):
  keras.utils.set_random_seed(0)
  inputs = keras.Input(X.shape[1:])
  hidden = layers.Conv2D(4, 1, activation="tanh", name="below")(inputs)
  pooled = [layers.GlobalAveragePooling2D()(branch(hidden)) for branch in branches]
  joined = layers.concatenate(pooled) if len(pooled) > 1 else pooled[0]
  model = keras.Model(inputs, layers.Dense(3, name="above")(joined))
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  return HessianOperator(model, loss, [(X, Y)])


def blocks(operator, product):
  ends = np.cumsum([np.prod(s) for s in operator.parameter_shapes])[:-1]
  return dict(zip(operator.parameter_names, np.split(product, ends), strict=True))


@pytest.mark.slow
def test_convolutions_of_all_kinds_are_those_of_each_vector():
  operator = operator_of(CONVOLUTIONS.values())
  assert operator.vectorized
  vectors = RNG.standard_normal((3, operator.shape[0]))
  together = operator.products(vectors, vectors_per_pass=3)
  for vector, found in zip(vectors, together, strict=True):
    alone = blocks(operator, operator @ vector)
    for name, block in blocks(operator, found).items():
      # Sums of some hundred products in float32, in another order.
      size = max(np.linalg.norm(alone[name]), 1e-3)
      assert np.linalg.norm(block - alone[name]) <= 1000 * EPS * size, name


@pytest.fixture(scope="module")
def grouped():
  return operator_of([layers.Conv2D(6, 3, groups=2, activation="tanh", name="grouped")])


def test_grouped_convolutions_are_not_vectorized(grouped):
  assert not grouped.vectorized
  vectors = RNG.standard_normal((2, grouped.shape[0]))
  together = grouped.products(vectors, vectors_per_pass=2)
  np.testing.assert_array_equal(together, [grouped @ v for v in vectors])
  with pytest.raises(ValueError, match="since grouped convolution of layer 'grouped' can't be"):
    grouped.vectorized = True


@pytest.mark.slow
def test_check_finds_what_is_vectorized_wrongly(monkeypatch):
  monkeypatch.setattr(choices, "_is_grouped", lambda _: False)
  operator = operator_of([layers.Conv2D(6, 3, groups=2, activation="tanh")])
  assert operator.vectorized
  report = check_operator(operator, differences=False)
  assert "products that share a pass are others than alone" in str(report)
  operator.vectorized = False
  assert not check_operator(operator, differences=False).problems
