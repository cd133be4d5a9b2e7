"""Arrays and Keras's data sets give what their batches give."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.callback import SpectrumCallback
from tf_hessian.curvature.operator import HessianOperator

RNG = np.random.default_rng(0)
N, SIZE = 300, 128
X, Y = RNG.standard_normal((N, 3)), RNG.standard_normal((N, 2))
W = RNG.uniform(0.5, 2, N)
SEQUENCES = [(RNG.integers(9, size=(4, n)), np.ones((4, 2))) for n in (3, 5, 3)]


class Pages(keras.utils.PyDataset):
  """Batches by number."""

  def __init__(self, batches):
    super().__init__()
    self._batches = batches

  def __len__(self):
    return len(self._batches)

  def __getitem__(self, b):
    return self._batches[b]


class Endless(Pages):
  @property
  def num_batches(self):
    return None


def cut(*arrays, size=SIZE):
  """Returns a list of batches."""
  return [tuple(a[i : i + size] for a in arrays) for i in range(0, len(arrays[0]), size)]


@pytest.fixture(scope="module")
def model():
  random.seed(0)
  layers = [keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)]
  return keras.Sequential([keras.Input((3,)), *layers])


@pytest.mark.parametrize(
  "data, batches",
  [
    pytest.param((X, Y), cut(X, Y), marks=pytest.mark.slow),
    ((X, Y, W), cut(X, Y, W)),
    pytest.param((X, Y, None), cut(X, Y), marks=pytest.mark.slow),
    pytest.param((X.tolist(), Y.tolist()), cut(X, Y), marks=pytest.mark.slow),
    pytest.param((tf.constant(X), tf.constant(Y)), cut(X, Y), marks=pytest.mark.slow),
    pytest.param((X[:7], Y[:7]), [(X[:7], Y[:7])], marks=pytest.mark.slow),
    pytest.param(Pages(cut(X, Y, size=70)), cut(X, Y, size=70), marks=pytest.mark.slow),
    (Pages(cut(X, Y, W, size=70)), cut(X, Y, W, size=70)),
    pytest.param(Pages([(x, y, None) for x, y in cut(X, Y)]), cut(X, Y), marks=pytest.mark.slow),
  ],
)
def test_products_are_bitwise_those_of_the_batches(model, data, batches):
  found, expected = (HessianOperator(model, "mse", d) for d in (data, batches))
  v = np.random.default_rng(1).standard_normal(found.shape[0])
  assert found.batches.num_examples == expected.batches.num_examples
  assert found.loss() == expected.loss()
  assert found.batches.fingerprint == expected.batches.fingerprint
  np.testing.assert_array_equal(found @ v, expected @ v)


def test_several_inputs_and_outputs_may_be_lists_or_dicts():
  a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
  outputs = [keras.layers.Dense(2, name="c")(a), keras.layers.Dense(1, name="d")(b)]
  model = keras.Model([a, b], outputs)
  x, y = [X, Y], [Y, W[:, None]]
  forms = [
    (tuple(x), tuple(y)),
    (x, y),
    ({"a": X, "b": Y}, tuple(y)),
    Pages([([u, v], [t, s]) for u, v, t, s in cut(*x, *y)]),
  ]
  found = [HessianOperator(model, ["mse", "mae"], form).gradient() for form in forms]
  for gradient in found[1:]:
    np.testing.assert_array_equal(gradient, found[0])


def test_batches_of_a_py_dataset_may_have_sequences_of_different_lengths():
  layers = [keras.layers.Embedding(9, 2), keras.layers.GlobalAveragePooling1D()]
  model = keras.Sequential([keras.Input((None,), dtype="int64"), *layers])
  pages, batches = (HessianOperator(model, "mse", d) for d in (Pages(SEQUENCES), SEQUENCES))
  assert pages.batches.fingerprint == batches.batches.fingerprint


@pytest.mark.slow
def test_py_dataset_that_does_not_fit_into_the_cache_is_streamed(model):
  streamed = HessianOperator(model, "mse", Pages(cut(X, Y)), cache_bytes=0)
  v = np.ones(streamed.shape[0])
  assert not streamed.batches.cached
  np.testing.assert_array_equal(streamed @ v, HessianOperator(model, "mse", (X, Y)) @ v)


@pytest.mark.parametrize(
  "data, problem",
  [
    ((X, Y[:-1]), r"one row an example, got 2 parts with \[300, 299\] rows"),
    ((X,), "expected a tuple"),
    ((X, Y, W, W), "got 4 parts"),
    ((X, 1.0), r"\[300, None\] rows"),
    ((X[:0], Y[:0]), "it is empty"),
    (Pages([]), "Pages is empty"),
    (Endless(cut(X, Y)), "Endless has no end"),
  ],
)
def test_what_can_not_be_cut_into_batches_is_refused(model, data, problem):
  with pytest.raises(ValueError, match=problem):
    HessianOperator(model, "mse", data)


@pytest.mark.parametrize("data", [X, "data", {"x": X}], ids=["array", "text", "dict"])
def test_other_kinds_of_data_are_refused_with_those_that_can_be(model, data):
  with pytest.raises(TypeError, match="a tuple .inputs, targets. of arrays or a keras.utils.PyD"):
    HessianOperator(model, "mse", data)


def test_callback_takes_arrays(model):
  model.compile("sgd", "mse")
  history = model.fit(X, Y, verbose=0, callbacks=[SpectrumCallback((X, Y))]).history
  assert history["hessian_top_1"][0] > 0
