"""Products of cross-entropies over large vocabularies."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.curvature import large_logits
from tf_hessian.curvature.linearize import Linearization
from tf_hessian.curvature.operator import HessianOperator

N, WORDS, WIDTH = 6, 40, 3
RNG = np.random.default_rng(0)
X, LABELS = RNG.standard_normal((N, WIDTH)), RNG.integers(0, WORDS, N)
WEIGHTS = np.array([1.0, 0.0, 2.0, 0.5, 1.0, 1e-300])
POINT = [RNG.standard_normal((WIDTH, WIDTH)), RNG.standard_normal((WIDTH, WORDS))]


def losses(first, second, *, scale=1.0):
  logits = scale * tf.matmul(tf.tanh(tf.matmul(X, first)), second)
  return tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, logits)


LOSSES = {
  "mean": lambda *p: tf.reduce_mean(losses(*p)),
  "weighted, some by nothing": lambda *p: tf.reduce_sum(WEIGHTS * losses(*p)),
  "sure of some": lambda *p: tf.reduce_mean(losses(*p, scale=100.0)),
  "squared": lambda *p: tf.reduce_sum(losses(*p) ** 2),
  "one factor for all": lambda *p: 0.3 * tf.reduce_sum(losses(*p)),
  "through an identity": lambda *p: tf.reduce_sum(tf.identity(losses(*p))),
  "with a penalty": lambda *p: tf.reduce_sum(losses(*p)) + 0.1 * tf.reduce_sum(p[1] ** 3),
}


def gradient_of(loss):
  def gradient(*point):
    with tf.GradientTape() as tape:
      tape.watch(point)
      value = loss(*point)
    return tape.gradient(value, list(point))

  return gradient


def products(gradient, point, v):
  """Returns the products by the tangents of the graph, and by forward accumulation."""

  @tf.function
  def ours(point, v):
    return Linearization(gradient(*point), point)(v)

  with tf.autodiff.ForwardAccumulator(list(point), v) as accumulator:
    values = gradient(*point)
  return ours(point, v), accumulator.jvp(values)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("least", [1, 2**22])
def test_product_is_that_of_forward_accumulation(monkeypatch, name, least):
  monkeypatch.setattr(large_logits, "_LARGE", least)
  used, times = [], large_logits.LogitsTangent.times
  monkeypatch.setattr(
    large_logits.LogitsTangent, "times", lambda *a: used.append(times(*a)) or used[-1]
  )
  point = list(map(tf.constant, POINT))
  v = [tf.constant(RNG.standard_normal(p.shape)) for p in POINT]
  found, expected = products(gradient_of(LOSSES[name]), point, v)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-13 * (1 + np.abs(b).max()))
  # A loss that is not a sum has factors that change, for which the tangent is made by itself.
  in_place = [u for u in used if u is not None]
  assert bool(in_place) == (least == 1 and name != "squared")


@pytest.mark.slow
def test_compiled_products_are_those_of_the_same_matrix(monkeypatch):
  monkeypatch.setattr(large_logits, "_LARGE", 1)
  data = [(X.astype(np.float32), LABELS)]
  inputs = keras.Input((WIDTH,))
  model = keras.Model(inputs, keras.layers.Dense(WORDS)(keras.layers.Dense(4, "tanh")(inputs)))
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  plain, compiled = (HessianOperator(model, loss, data, jit_compile=j) for j in (False, True))
  v = RNG.standard_normal(plain.shape[0])
  expected = plain @ v
  # Some hundred roundings of float32.
  error = np.linalg.norm(compiled @ v - expected)
  assert error <= 200 * np.finfo(np.float32).eps * np.linalg.norm(expected)


@pytest.mark.parametrize("turned", itertools.product([False, True], repeat=2))
@pytest.mark.parametrize("joined", [False, True])
def test_tangent_of_a_product_of_matrices_may_be_one_product(monkeypatch, turned, joined):
  monkeypatch.setattr(large_logits, "_LARGE", 1 if joined else 2**22)
  a, b, da, db = (RNG.standard_normal(s) for s in [(9, 1), (1, 8)] * 2)
  turn = [np.transpose if t else (lambda x: x) for t in turned]

  @tf.function
  def tangent(first, second):
    y = tf.matmul(first, second, transpose_a=turned[0], transpose_b=turned[1])
    (t,) = Linearization([y], [first, second])([tf.constant(turn[0](da)), tf.constant(turn[1](db))])
    assert (t.op.type == "MatMul") == joined
    return t

  found = tangent(tf.constant(turn[0](a)), tf.constant(turn[1](b)))
  np.testing.assert_allclose(found, da @ b + a @ db, atol=1e-14)


def test_wide_inputs_are_not_joined(monkeypatch):
  monkeypatch.setattr(large_logits, "_LARGE", 1)

  @tf.function
  def tangent(first, second):
    return Linearization([tf.matmul(first, second)], [first, second])([first, second])

  concrete = tangent.get_concrete_function(tf.ones([9, 4]), tf.ones([4, 8]))
  assert "ConcatV2" not in {op.type for op in concrete.graph.get_operations()}
