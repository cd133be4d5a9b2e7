"""Matrices of models that gather rows of variables, whose gradients are sparse."""

import functools

import keras
from keras import layers
import numpy as np
import pytest
import tensorflow as tf

import tf_hessian
from tf_hessian.curvature.products import MODES

# Sums of some thousand terms, rounded to 1e-16.
FLOAT64 = 1e-12
pytestmark = pytest.mark.usefixtures("float64")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 5, (8, 4))
CLASSES = RNG.integers(0, 3, 8)
DATA = [(TOKENS[:4], CLASSES[:4]), (TOKENS[4:], CLASSES[4:])]


class Gathered(layers.Layer):
  """Rows of a weight, each of which may be taken several times."""

  def build(self, _):
    self.table = self.add_weight(shape=(5, 2), name="table")

  def call(self, x):
    return tf.gather(self.table, x)


def model(*first):
  keras.utils.set_random_seed(0)
  return keras.Sequential([keras.Input((4,), dtype="int32"), *first, layers.Dense(3)])


MODELS = {
  "embedding": lambda: model(layers.Embedding(5, 2), layers.Flatten()),
  "gather": lambda: model(Gathered(), layers.Flatten()),
  "embedding, masked": lambda: model(
    layers.Embedding(5, 2, mask_zero=True), layers.GlobalAveragePooling1D()
  ),
  "embedding, tanh": lambda: model(
    layers.Embedding(5, 2), layers.Flatten(), layers.Dense(3, "tanh")
  ),
}
RECURRENT = {
  "SimpleRNN": lambda: model(layers.Embedding(5, 2), layers.SimpleRNN(3)),
  "LSTM": lambda: model(layers.Embedding(5, 2), layers.LSTM(2)),
  "GRU": lambda: model(layers.Embedding(5, 2), layers.GRU(2)),
}
KINDS = {
  "gauss_newton": tf_hessian.GaussNewtonOperator,
  "exact": tf_hessian.FisherOperator,
  "empirical": functools.partial(tf_hessian.FisherOperator, kind="empirical"),
  "sampled": functools.partial(tf_hessian.FisherOperator, kind="sampled", samples=2),
  "covariance": tf_hessian.GradientCovarianceOperator,
}


def by_tapes(network, kind):
  """Returns the matrix by Jacobians of the logits."""
  with tf.GradientTape(persistent=True) as tape:
    z = network(TOKENS)
  variables = [v.value for v in network.trainable_variables]
  found = tape.jacobian(z, variables, experimental_use_pfor=False)
  j = np.concatenate([np.reshape(tf.convert_to_tensor(g), (8, 3, -1)) for g in found], axis=-1)
  p = tf.nn.softmax(z).numpy()
  if kind in ("gauss_newton", "exact"):
    inner = np.einsum("ic,cd->icd", p, np.eye(3)) - np.einsum("ic,id->icd", p, p)
    return np.einsum("ica,icd,idb->ab", j, inner, j) / 8
  g = np.einsum("ic,ica->ia", p - np.eye(3)[CLASSES], j)
  if kind == "covariance":
    g = g - g.mean(axis=0)
  return g.T @ g / 8


CASES = [
  *(("embedding", k, MODES[1]) for k in KINDS if k != "sampled"),
  *((m, "gauss_newton", "backward_over_backward") for m in MODELS if m != "embedding"),
  *(
    pytest.param(m, k, mode, marks=pytest.mark.slow)
    for networks, mode in ((RECURRENT, None), (("embedding",), MODES[0]))
    for m in networks
    for k in KINDS
    if k != "sampled"
  ),
]


@pytest.mark.parametrize("name, kind, mode", CASES)
def test_matrix_is_that_of_jacobians(columns, relative_error, name, kind, mode):
  network = (MODELS | RECURRENT)[name]()
  operator = KINDS[kind](network, LOSS, DATA, mode=mode)
  assert relative_error(columns(operator), by_tapes(network, kind)) <= FLOAT64


@pytest.mark.parametrize("kind", ["sampled", pytest.param("covariance", marks=pytest.mark.slow)])
def test_both_modes_agree(columns, relative_error, kind):
  first, second = (columns(KINDS[kind](MODELS["gather"](), LOSS, DATA, mode=m)) for m in MODES)
  assert relative_error(first, second) <= FLOAT64


def test_split_loss_may_gather(columns, relative_error):
  table = tf.Variable(RNG.standard_normal((5, 3)))
  loss = tf_hessian.SplitLoss(
    outputs=lambda parameters, batch: tf.reduce_sum(tf.gather(parameters[0], batch[0]), axis=1),
    loss=lambda z, batch: tf.nn.sparse_softmax_cross_entropy_with_logits(batch[1], z),
  )
  found = [
    columns(tf_hessian.GaussNewtonOperator([table], loss, DATA, mode=mode)) for mode in MODES
  ]
  hessian = columns(tf_hessian.HessianOperator([table], loss, DATA))  # the outputs are linear
  assert max(relative_error(f, hessian) for f in found) <= FLOAT64
