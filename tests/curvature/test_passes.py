"""A pass leaves the model alone, is traced once, and takes neither time nor memory of its own."""

import gc
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.curvature.operator import HessianOperator

layers = keras.layers
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
X = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
Y = np.arange(10) % 3


def dataset(batch_size=5, num_examples=10):
  pairs = X[:num_examples], Y[:num_examples]
  return tf.data.Dataset.from_tensor_slices(pairs).batch(batch_size)


def random_model():
  """Batch norm and dropout: a model with moving statistics and a seed generator."""
  return keras.Sequential(
    [
      keras.Input((4,)),
      layers.BatchNormalization(),
      layers.Dropout(0.5),
      layers.Dense(3),
    ]
  )


def small_model():
  """103 parameters."""
  return keras.Sequential(
    [keras.Input((4,)), layers.Dense(12, activation="tanh"), layers.Dense(3)], name="small"
  )


def vector(operator, seed=0):
  return np.random.default_rng(seed).standard_normal(operator.shape[0])


# The state of the model.


@pytest.mark.parametrize("what", ["product", "products", "loss"])
def test_moving_statistics_and_seed_generators_stay_bit_identical(what):
  model = random_model()
  before = [v.numpy().tobytes() for v in model.variables]
  operator = HessianOperator(model, LOSS, dataset(), training=True)
  calls = {
    "product": lambda: operator @ vector(operator),
    "products": lambda: operator @ np.eye(operator.shape[0])[:, :3],
    "loss": operator.loss,
  }
  calls[what]()
  calls[what]()
  assert [v.numpy().tobytes() for v in model.variables] == before


@pytest.fixture(scope="module")
def random_operators():
  """Operators on one model with dropout, seeds 0, 0 and 1."""
  random.seed(0)
  model = random_model()
  return [HessianOperator(model, LOSS, dataset(), training=True, seed=s) for s in (0, 0, 1)]


def test_dropout_gives_the_same_matrix_twice(random_operators, columns):
  first, second = columns(random_operators[0]), columns(random_operators[0])
  np.testing.assert_array_equal(first, second)


def test_dropout_gives_the_same_matrix_in_another_operator_of_the_same_seed(random_operators):
  first, second, _ = random_operators
  np.testing.assert_array_equal(first @ vector(first), second @ vector(first))


def test_dropout_gives_another_matrix_for_another_seed(random_operators):
  first, _, third = random_operators
  assert not np.allclose(first @ vector(first), third @ vector(first))


def test_dropout_drops_other_units_in_other_batches():
  # Two batches of the same examples: with the same masks, the loss would be that of one batch.
  model = random_model()
  same = (X[:5], Y[:5])
  one, two = (HessianOperator(model, LOSS, [same] * n, training=True).loss() for n in (1, 2))
  assert abs(one - two) > 1e-3


def test_dropout_of_two_layers_is_not_the_same():
  inputs = keras.Input((50,))
  drop = [layers.Dropout(0.5, seed=7)(inputs) for _ in range(2)]
  outputs = layers.Dense(1, use_bias=False, kernel_initializer="ones")(layers.Subtract()(drop))
  # With the same masks, the difference would be zero.
  model = keras.Model(inputs, outputs)
  data = [(np.ones((4, 50), np.float32), np.zeros((4, 1), np.float32))]
  assert HessianOperator(model, "mse", data, training=True).loss() > 0


def test_without_training_nothing_is_dropped():
  model = random_model()
  operators = [HessianOperator(model, LOSS, dataset(), seed=s) for s in (0, 1)]
  assert operators[0].loss() == operators[1].loss()


@pytest.mark.parametrize("seed", [2**40 + 3])
def test_large_seeds_are_different_seeds(seed):
  model = random_model()
  first, second = (
    HessianOperator(model, LOSS, dataset(), training=True, seed=s) for s in (seed, seed % 2**31)
  )
  assert first.loss() != second.loss()


# Tracing, memory, time.


@pytest.mark.parametrize(
  "num_examples, count, cache_bytes",
  [
    pytest.param(10, 1, 2**30, id="even-cached"),
    pytest.param(8, 2, 0, id="short last-streamed"),
    pytest.param(10, 1, 0, id="even-streamed", marks=pytest.mark.slow),
    pytest.param(8, 2, 2**30, id="short last-cached", marks=pytest.mark.slow),
  ],
)
def test_a_product_is_traced_once_for_each_shape(num_examples, count, cache_bytes):
  operator = HessianOperator(small_model(), LOSS, dataset(5, num_examples), cache_bytes=cache_bytes)
  for i in range(12):
    operator @ vector(operator, i)
  assert operator.program.product.tracing_count == count


@pytest.mark.parametrize(
  "cache_bytes", [pytest.param(2**30, marks=pytest.mark.slow), 0], ids=["cached", "streamed"]
)
def test_shapes_in_varying_order_are_traced_once_each(cache_bytes):
  sizes = [2, 2, 1, 3, 3, 3, 1, 2, 1, 1, 3, 2]
  x = np.ones((sum(sizes), 4), np.float32)
  ends = np.cumsum(sizes)

  def generate():
    for e, s in zip(ends, sizes, strict=True):
      yield x[e - s : e], np.zeros(s, np.int64)

  specs = tf.TensorSpec((None, 4), tf.float32), tf.TensorSpec((None,), tf.int64)
  data = tf.data.Dataset.from_generator(generate, output_signature=specs)
  operator = HessianOperator(small_model(), LOSS, data, cache_bytes=cache_bytes)
  for i in range(3):
    operator @ vector(operator, i)
  assert operator.program.product.tracing_count == 3


# What else a model may read.


def test_lookup_tables_of_a_model_are_read():
  inputs = keras.Input((2,), dtype="string")
  tokens = layers.StringLookup(vocabulary=["a", "b", "c"])(inputs)
  outputs = layers.Dense(1)(layers.Flatten()(layers.Embedding(4, 3)(tokens)))
  words = np.array([["a", "b"], ["c", "d"], ["b", "b"]])
  numbers = np.array([[1, 2], [3, 0], [2, 2]])
  whole = keras.Model(inputs, outputs)
  rest = keras.Sequential([keras.Input((2,)), *whole.layers[2:]])
  y = np.ones((3, 1), np.float32)
  first, second = (
    HessianOperator(m, "mse", [(x, y)]) for m, x in ((whole, words), (rest, numbers))
  )
  np.testing.assert_array_equal(first @ vector(first), second @ vector(first))


class Decorated(layers.Layer):
  """Reads its weight in a function that is traced when the model is built."""

  def build(self, shape):
    self.w = self.add_weight(shape=(shape[-1], 1), name="w")

  @tf.function
  def call(self, inputs):
    return tf.tanh(inputs @ self.w)


class Concrete(Decorated):
  """Calls a graph that was traced when the layer was built."""

  def build(self, shape):
    super().build(shape)
    function = tf.function(lambda x: tf.tanh(x @ self.w), autograph=False)
    self.graph = function.get_concrete_function(tf.TensorSpec((10, 4)))

  def call(self, inputs):
    return self.graph(inputs)


def test_variable_that_a_traced_graph_hides_is_refused():
  model = keras.Sequential([keras.Input((4,)), Concrete()])
  with pytest.raises(ValueError, match="/w.* is read behind the back of the derivative"):
    HessianOperator(model, "mse", [(X, np.ones((10, 1), np.float32))])


def test_several_operators_do_not_share_their_traces():
  operators = [HessianOperator(small_model(), LOSS, dataset()) for _ in range(2)]
  for operator in operators:
    operator @ vector(operator)
  assert [o.program.product.tracing_count for o in operators] == [1, 1]


def resident_bytes():
  with open("/proc/self/status") as status:
    line = next(line for line in status if line.startswith("VmRSS:"))
  return int(line.split()[1]) * 1024


@pytest.mark.parametrize(
  "cache_bytes", [2**30, pytest.param(0, marks=pytest.mark.slow)], ids=["cached", "streamed"]
)
def test_memory_does_not_grow_product_after_product(cache_bytes):
  gc.freeze()  # so that only what is new is looked through
  operator = HessianOperator(small_model(), LOSS, dataset(), cache_bytes=cache_bytes)
  v = vector(operator)
  for _ in range(20):
    operator @ v
  gc.collect()
  gc.unfreeze()
  before = resident_bytes()
  for _ in range(200):
    operator @ v
  assert resident_bytes() - before < 5e6


# Any number of vectors.

PARTS = {  # last, since a batch of another shape is another function of a batch
  "one batch": {"batch_size": 10},
  "two batches": {},
  "two shapes": {"batch_size": 7},
}
QUICK = [("one batch", False), ("two batches", True), ("two shapes", False)]


@pytest.mark.parametrize(
  "parts, streamed",
  [
    pytest.param(p, s, marks=[] if (p, s) in QUICK else pytest.mark.slow)
    for p in PARTS
    for s in (False, True)
  ],
)
def test_one_pass_is_traced_for_any_number_of_vectors(parts, streamed):
  options = {"cache_bytes": 0} if streamed else {}
  operator = HessianOperator(small_model(), LOSS, dataset(**PARTS[parts]), **options)
  operator.vectorized = False
  vectors = np.random.default_rng(3).standard_normal((5, operator.shape[0]))
  alone = np.array([operator @ v for v in vectors])
  for count in (3, 1, 5, 2):
    np.testing.assert_array_equal(operator.products(vectors, vectors_per_pass=count), alone)
  shapes = len(operator.program.batches.signatures)
  assert operator.program.columns(3) is operator.program.columns(5)
  assert operator.program.columns(3).tracing_count == shapes


@pytest.mark.slow
def test_vectors_are_of_a_pass_of_their_number_where_it_is_part_of_the_compiled_code():
  for options in ({"jit_compile": True}, {}):
    operator = HessianOperator(small_model(), LOSS, dataset(), **options)
    operator.vectorized = not options
    vectors = np.random.default_rng(3).standard_normal((5, operator.shape[0]))
    together = operator.products(vectors, vectors_per_pass=3)
    expected = np.array([operator @ v for v in vectors])
    np.testing.assert_allclose(together, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert operator.program.columns(3) is not operator.program.columns(5)
