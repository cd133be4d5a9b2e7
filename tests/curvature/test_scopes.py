"""Random numbers of Keras are those of a batch's seed, whoever holds the generator."""

import random as python_random

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.curvature import scopes, selfcheck
from tf_hessian.curvature.fisher import FisherOperator
from tf_hessian.curvature.operator import HessianOperator

layers, random = keras.layers, keras.random
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((8, 3)), RNG.standard_normal((8, 2))
OUTSIDE = random.SeedGenerator(3)

pytestmark = pytest.mark.usefixtures("float64")


class Sampling(layers.Layer):
  """Adds noise in any mode, as variational models do."""

  def __init__(self, kind):
    super().__init__()
    self.kind = kind
    if kind == "own":
      self.generator = random.SeedGenerator(1)

  def call(self, inputs):
    shape = keras.ops.shape(inputs)
    if self.kind == "dropout":
      return random.dropout(inputs, 0.5)
    seed = {"own": getattr(self, "generator", None), "outside": OUTSIDE, "none": None}[self.kind]
    return inputs + random.normal(shape, seed=seed) + random.normal(shape, seed=seed)


def new_model(kind):
  keras.utils.set_random_seed(0)
  return keras.Sequential(
    [keras.Input((3,)), layers.Dense(4, "tanh"), Sampling(kind), layers.Dense(2)]
  )


def operator_of(kind, seed=0, model=None, **options):
  model = new_model(kind) if model is None else model
  return HessianOperator(model, "mse", [(X, Y)] * 2, seed=seed, **options)


@pytest.mark.parametrize("kind", ["none", "outside", "dropout"])
def test_generators_that_no_model_holds_draw_by_seed_and_batch(kind, difference_error):
  operator = operator_of(kind)
  value, v = operator.loss(), np.cos(np.arange(operator.shape[0]))
  product = operator @ v
  random.normal((1,))  # moves Keras's own generator
  random.normal((1,), seed=OUTSIDE)
  assert operator.loss() == value and np.array_equal(operator @ v, product)
  assert operator_of(kind).loss() == value != operator_of(kind, seed=1).loss()
  first, second = operator.batch_gradients()
  assert not np.array_equal(first, second)  # of the same examples
  v = (v / np.linalg.norm(v))[:, None]
  assert difference_error(operator, v, (operator @ v)) <= 1e-8


def test_generators_outside_are_as_they_were():
  before = np.array(OUTSIDE.state)
  operator_of("outside").loss()
  np.testing.assert_array_equal(OUTSIDE.state, before)


def test_two_draws_of_a_generator_differ():
  class Twice(layers.Layer):
    def call(self, inputs):
      shape = keras.ops.shape(inputs)
      return inputs + random.normal(shape) - random.normal(shape)

  model = keras.Sequential([keras.Input((3,)), layers.Dense(2), Twice()])
  plain = keras.Sequential([keras.Input((3,)), model.layers[0]])
  assert operator_of("", model=model).loss() > operator_of("", model=plain).loss() + 0.1


@pytest.mark.parametrize("kind", ["none", "outside"])
def test_recomputed_blocks_need_a_generator_of_the_model(kind):
  with pytest.raises(ValueError, match="recompute_blocks: random numbers .*SeedGenerator an attr"):
    _ = operator_of(kind, recompute_blocks=2) @ np.ones(26)
  blocks = operator_of("own", recompute_blocks=2)
  assert blocks.loss() == operator_of("own").loss()


class Cell(layers.Layer):
  """A cell that draws random numbers in each step."""

  state_size = 2

  def __init__(self, seed):
    super().__init__()
    self.seed, self.dense = seed, layers.Dense(2)

  def build(self, shape):
    self.dense.build((None, shape[-1] + 2))

  def call(self, inputs, states):
    hidden = self.dense(keras.ops.concatenate([inputs, states[0]], -1))
    return (hidden := random.dropout(hidden, 0.5, seed=self.seed)), [hidden]


@pytest.mark.parametrize("seed", [None, OUTSIDE], ids=["none", "outside"])
def test_steps_of_a_loop_that_would_draw_the_same_are_refused(seed, difference_error):
  x = RNG.standard_normal((8, 3, 2))

  def new_operator(unroll):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3, 2)), layers.RNN(Cell(seed), unroll=unroll)])
    return HessianOperator(model, "mse", [(x, Y)])

  with pytest.raises(ValueError, match="drawn in a loop .*unroll"):
    new_operator(unroll=False)
  operator = new_operator(unroll=True)
  v = np.cos(np.arange(operator.shape[0]))[:, None]
  v /= np.linalg.norm(v)
  assert difference_error(operator, v, operator @ v) <= 1e-8


class Recomputed(layers.Layer):
  """A layer whose inner one has a gradient of its own."""

  def __init__(self, way):
    super().__init__()
    self.dense, self.way = layers.Dense(3), way

  def build(self, shape):
    self.dense.build(shape)

  def call(self, inputs):
    return self.way(lambda x: self.dense(x))(inputs)


@pytest.mark.parametrize("way", [keras.remat, tf.recompute_grad], ids=["keras", "tensorflow"])
@pytest.mark.parametrize("first", [True, False])
def test_variables_that_a_gradient_of_its_own_would_miss_are_refused(way, first):
  before = [] if first else [layers.Dense(3)]
  model = keras.Sequential([keras.Input((3,)), *before, Recomputed(way), layers.Dense(2)])
  with pytest.raises(ValueError, match="dense.*/kernel.* is read in a function with a gradient of"):
    HessianOperator(model, "mse", [(X, Y)])


def test_constants_may_be_read_in_a_gradient_of_its_own():
  constant = keras.Variable(2.0)  # not of the model

  @tf.custom_gradient
  def scaled(x):
    def gradient(dy, variables):
      return dy * constant, [tf.zeros_like(v) for v in variables]

    return x * constant, gradient

  inputs = keras.Input((3,))
  model = keras.Sequential([inputs, layers.Lambda(scaled), layers.Dense(2)])
  plain = keras.Sequential([inputs, layers.Rescaling(2.0), model.layers[-1]])
  products = [operator_of("", model=m) @ np.ones(8) for m in (model, plain)]
  np.testing.assert_allclose(*products, rtol=1e-12)


def test_check_does_not_take_other_random_numbers_for_rounding():
  report = selfcheck.check_operator(operator_of("own"))
  assert report.passed and report.rounding_error is None


def test_drawn_targets_are_not_drawn_by_the_numbers_of_layers():
  seeds = set()
  model = new_model("own")
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  for kind in ("own", "plain"):
    if kind == "plain":
      model = keras.Sequential([keras.Input((3,)), layers.Dense(4, "tanh"), layers.Dense(2)])
    operator = FisherOperator(model, loss, [(X, np.arange(8) % 2)], kind="sampled")
    seeds.add(operator._output_matrix.args[0]["drawn"])
  assert seeds == {0, 1}


def test_random_numbers_of_python_are_kept():
  python_random.seed(5)
  with scopes.python_random_kept():
    python_random.random()
  first = python_random.random()
  python_random.seed(5)
  assert python_random.random() == first
