"""Products of one vector: their bits are those of shared ones, and no pass is built in vain."""

import functools
import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.operators import make_pooled
import tf_hessian
from tf_hessian.parts.block_spectra import block_spectra

layers = keras.layers
IMAGES = (6, 6, 4)


def run(operator, *, draws, steps=4, vectors_per_pass=None, **options):
  return tf_hessian.spectral_density(
    operator,
    num_draws=draws,
    lanczos_steps=steps,
    storage=tf_hessian.Storage(vectors_per_pass=vectors_per_pass),
    **{"progress": False, "check": False} | options,
  )


def passes_of_products(operator):
  """Returns which passes of products an operator has built."""
  program = operator.program
  single = [name for name in ("product", "straight_product") if name in vars(program)]
  return single + ["columns"] * len(program._columns)


# What is built.

MEASUREMENTS = {
  "one draw": (lambda h, path: run(h, draws=1, workdir=path), ["product"]),
  "draws": (lambda h, path: run(h, draws=3, workdir=path), ["columns"]),
  "draws and their check": (lambda h, _: run(h, draws=3, check=True), ["columns"]),
  "eigenpairs": (
    lambda h, path: tf_hessian.top_eigenpairs(h, 2, workdir=path, progress=False),
    ["product"],
  ),
  "matrix": (
    lambda h, path: tf_hessian.dense_hessian(h, workdir=path, progress=False),
    ["columns"],
  ),
  "eigenvalues": (
    lambda h, path: tf_hessian.exact_spectrum(h, workdir=path, progress=False),
    ["columns"],
  ),
  "blocks": (
    lambda h, path: block_spectra(
      h, lanczos_steps=3, num_draws=2, check=False, progress=False, workdir=path
    ),
    ["columns"],
  ),
  "trace": (lambda h, _: tf_hessian.trace(h, 6, progress=False), ["columns"]),
}


@pytest.mark.parametrize("measure, built", MEASUREMENTS.values(), ids=MEASUREMENTS)
def test_a_measurement_builds_one_pass_of_products(measure, built, tmp_path):
  operator = make_pooled()
  measure(operator, tmp_path / "folder")
  assert passes_of_products(operator) == built


def test_a_product_is_built_anew_after_its_vectors_are_vectorized_or_not():
  operator = make_pooled()
  v = np.random.default_rng(0).standard_normal(operator.shape[0])
  looped = operator @ v
  operator.vectorized = True
  operator @ v
  operator.vectorized = False
  np.testing.assert_array_equal(operator @ v, looped)
  np.testing.assert_array_equal(operator.products(v[np.newaxis])[0], looped)


# Bits.


def attention(h):
  h = layers.Reshape((9, 16))(h)
  h = layers.LayerNormalization()(h + layers.MultiHeadAttention(2, 4, dropout=0.2)(h, h))
  return layers.GlobalAveragePooling1D()(h)


def _second_order(h):
  """A layer whose loss reads a constant, and whose operations have some in between."""
  h = layers.Dense(6, activation="gelu")(layers.Flatten()(h))
  return layers.ActivityRegularization(l2=0.3)(layers.Dropout(0.3)(h) / 3.0)


NETWORKS = {
  "normalized and pooled": lambda h: layers.GlobalAveragePooling2D()(
    layers.BatchNormalization()(layers.DepthwiseConv2D(2)(h))
  ),
  "padded and averaged": lambda h: layers.Flatten()(
    layers.AveragePooling2D(3, padding="same")(layers.Conv2D(3, 2, activation="swish")(h))
  ),
  "attention": attention,
  "gelu, dropout and penalties": _second_order,
  "grouped": lambda h: layers.Flatten()(layers.Conv2D(4, 3, groups=2, activation="tanh")(h)),
  "layers of cells": lambda h: layers.LSTM(3)(layers.Reshape((6, 24))(h)),
  "unit norm": lambda h: layers.UnitNormalization()(layers.Dense(4)(layers.Flatten()(h))),
  "squeezed": lambda h: layers.GlobalMaxPooling2D()(
    h * layers.Dense(4, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(h))
  ),
  "transposed": lambda h: layers.Flatten()(layers.Conv2DTranspose(2, 3, activation="elu")(h)),
}
TYPES = ("float32", "float64", "mixed_bfloat16")


def make_network(name, policy="float32"):
  keras.utils.set_random_seed(0)
  before = keras.mixed_precision.dtype_policy()
  keras.mixed_precision.set_dtype_policy(policy)
  try:
    x = keras.Input(IMAGES)
    model = keras.Model(x, layers.Dense(3)(NETWORKS[name](x)))
  finally:
    keras.mixed_precision.set_dtype_policy(before)
  rng = np.random.default_rng(0)
  data = [(rng.standard_normal((n, *IMAGES), np.float32), np.arange(n) % 3) for n in (7, 7)]
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  operator = tf_hessian.HessianOperator(model, loss, data, training=True)
  operator.vectorized = False
  return operator


def _cases():
  for name in NETWORKS:
    for policy in TYPES:
      quick = policy == "float32" and name in ("normalized and pooled", "grouped")
      yield pytest.param(name, policy, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize("name, policy", _cases())
def test_single_products_are_bitwise_those_of_several(name, policy):
  operator = make_network(name, policy)
  assert operator.program.product
  gc.collect()  # of functions that nobody holds, graphs could call none any more
  vectors = np.random.default_rng(5).standard_normal((3, operator.shape[0]))
  alone = np.stack([operator @ v for v in vectors])
  for count in (1, 3):
    found = operator.products(vectors, vectors_per_pass=count)
    np.testing.assert_array_equal(found, alone)
  assert set(passes_of_products(operator)) == {"product", "columns"}


MATRICES = {
  "Hessian": tf_hessian.HessianOperator,
  "Gauss-Newton": tf_hessian.GaussNewtonOperator,
  "Fisher": functools.partial(tf_hessian.FisherOperator, kind="exact"),
  "sampled Fisher": functools.partial(tf_hessian.FisherOperator, kind="sampled", samples=2),
  "empirical Fisher": functools.partial(tf_hessian.FisherOperator, kind="empirical"),
  "covariance": tf_hessian.GradientCovarianceOperator,
}


@pytest.mark.parametrize("name", MATRICES)
def test_products_of_each_matrix_are_bitwise_the_same_for_any_number(name):
  keras.utils.set_random_seed(0)
  model = keras.Sequential([keras.Input((6,)), layers.Dense(40, "tanh"), layers.Dense(3)])
  rng = np.random.default_rng(0)
  data = [(rng.standard_normal((16, 6), np.float32), rng.integers(0, 3, 16)) for _ in range(2)]
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  operator = MATRICES[name](model, loss, data)
  operator.vectorized = False
  vectors = rng.standard_normal((5, operator.shape[0]))
  alone = np.stack([operator @ v for v in vectors])
  for found in (
    operator.products(vectors),
    operator.products(vectors, vectors_per_pass=2),
    operator.products(np.asfortranarray(vectors)),
    operator.matmat(vectors.T).T,
  ):
    np.testing.assert_array_equal(found, alone)
  np.testing.assert_array_equal(operator.products(vectors[:2]), alone[:2])
  np.testing.assert_array_equal(operator @ np.asfortranarray(vectors)[1], alone[1])


def test_single_products_read_tables_of_words_as_shared_ones_do():
  words = keras.layers.StringLookup(vocabulary=["a", "b", "c"])
  w = tf.Variable(np.linspace(-1.0, 1.0, 4))

  def loss(parameters, batch):
    picked = tf.gather(parameters[0], words(batch))
    return tf.reduce_mean(tf.exp(picked) / 3.0, axis=-1)

  data = [np.array([["a", "b"], ["c", "?"]]), np.array([["b", "b"]])]
  operator = tf_hessian.HessianOperator([w], loss, data)
  operator.vectorized = False
  expected = np.exp(w.numpy()) * np.array([1, 1, 3, 1]) / 3 / 6
  np.testing.assert_allclose(operator @ np.ones(4), expected, rtol=1e-14)
  np.testing.assert_array_equal(operator.products(np.ones((2, 4)))[1], operator @ np.ones(4))


def test_without_regard_to_the_bits_of_shared_products_they_differ():
  operator = make_pooled()
  v = np.random.default_rng(5).standard_normal(operator.shape[0])
  alike = operator @ v
  operator.program.straight = True
  straight = operator @ v
  assert not np.array_equal(alike, straight)  # or the tests of bits here could not fail
  np.testing.assert_allclose(straight, alike, rtol=1e-4, atol=1e-5)


# Runs.


@pytest.mark.parametrize(
  "count", [2, 7, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))]
)
def test_product_alone_is_bitwise_that_of_any_number_of_vectors(count):
  operator = make_pooled()
  vectors = np.random.default_rng(5).standard_normal((7, operator.shape[0]))
  alone = np.stack([operator @ v for v in vectors])
  np.testing.assert_array_equal(operator.products(vectors, vectors_per_pass=count), alone)


@pytest.mark.parametrize(
  "first, then",
  [
    ({"draws": 1}, {"draws": 3}),
    pytest.param({"draws": 3}, {"draws": 1}, marks=pytest.mark.slow),
    pytest.param(
      {"draws": 3, "vectors_per_pass": 1},
      {"draws": 3, "vectors_per_pass": 3},
      marks=pytest.mark.slow,
    ),
  ],
)
def test_finished_run_goes_on_with_other_draws_and_vectors_a_pass(first, then, tmp_path):
  run(make_pooled(), workdir=tmp_path, **first)  # by an operator of its own
  found, whole = run(make_pooled(), workdir=tmp_path, **then), run(make_pooled(), draws=3)
  for mine, other in zip(found.tridiagonals, whole.tridiagonals, strict=False):
    np.testing.assert_array_equal(mine, other)
