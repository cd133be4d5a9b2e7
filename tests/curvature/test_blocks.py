"""Recomputed blocks give the same products as the whole model, and the models that can't be cut."""

import functools
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian import HessianOperator
from tf_hessian.curvature import blocks, keras_internals

L, ops = keras.layers, keras.ops


@pytest.fixture(autouse=True)
def in_float64(float64):  # noqa: ARG001
  random.seed(0)


def chain():
  return keras.Sequential(
    [
      keras.Input((8, 8, 2)),
      L.Conv2D(4, 3, activation="tanh", kernel_regularizer="l2"),
      L.BatchNormalization(),
      L.Dropout(0.3),
      L.GlobalAveragePooling2D(),
      L.Dense(5, activation="softplus", activity_regularizer="l2"),
      L.Dropout(0.2),
      L.Dense(3),
    ]
  )


def residual():
  x = inputs = keras.Input((8, 8, 2))
  x = L.Conv2D(4, 3, padding="same")(x)
  for _ in range(2):
    y = L.Conv2D(4, 3, padding="same", activation="tanh")(L.BatchNormalization()(x))
    x = L.Add()([x, y])
  return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))


def two_outputs():
  inputs = keras.Input((8, 8, 2))
  x = L.Conv2D(4, 3, activation="tanh")(inputs)
  early = L.Dense(3, name="early")(L.GlobalAveragePooling2D()(x))
  x = L.Conv2D(4, 3, activation="tanh")(x)
  return keras.Model(inputs, [early, L.Dense(3, name="late")(L.GlobalAveragePooling2D()(x))])


def shared_layers():
  inputs = keras.Input((8, 8, 2))
  conv, drop = L.Conv2D(2, 3, padding="same", activation="tanh"), L.Dropout(0.4, seed=3)
  x = inputs
  for _ in range(3):
    x = drop(conv(x))
  return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))


def images(rng):
  return rng.standard_normal((5, 8, 8, 2))


def tokens():
  inputs = keras.Input((6,), dtype="int32")
  x = L.Embedding(7, 4)(inputs)
  x = L.Dense(4, activation="tanh")(x)
  return keras.Model(inputs, L.Dense(3)(L.Flatten()(x)))


def named_inputs():
  a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
  x = L.Dense(4, activation="tanh")(L.Concatenate()([a, b]))
  return keras.Model({"b": b, "a": a}, L.Dense(3)(L.Dense(4, activation="tanh")(x)))


MODELS = {
  "chain": (chain, images),
  "residual": (residual, images),
  "two_outputs": (two_outputs, images),
  "shared_layers": (shared_layers, images),
  "tokens": (tokens, lambda rng: rng.integers(0, 7, (5, 6)).astype(np.int32)),
  "named_inputs": (
    named_inputs,
    lambda rng: {"a": rng.standard_normal((5, 3)), "b": rng.standard_normal((5, 3))},
  ),
}


def operators(name, count, **options):
  """Returns the operator without and with recomputed blocks."""
  build, make = MODELS[name]
  model = build()
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 3, 5)
  targets = (labels, labels) if len(model.outputs) > 1 else labels
  weights = rng.uniform(0.5, 2, 5)
  batch = (make(rng), targets) if len(model.outputs) > 1 else (make(rng), targets, weights)
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  options = {"training": True, **options}
  return [
    HessianOperator(model, loss, [batch], recompute_blocks=c, **options) for c in (None, count)
  ]


QUICK = ("residual",)


@pytest.mark.parametrize(
  "name, count",
  [
    *(pytest.param(*case, marks=pytest.mark.slow) for case in [("chain", 1), ("residual", 2)]),
    # The others are cut by the same rules.
    *((n, 3) if n in QUICK else pytest.param(n, 3, marks=pytest.mark.slow) for n in MODELS),
  ],
)
def test_products_and_gradients_are_those_of_the_whole_model(name, count):
  whole, cut = residual_operators() if (name, count) == ("residual", 3) else operators(name, count)
  v = np.random.default_rng(1).standard_normal(whole.shape[0])
  for expected, found in ((whole @ v, cut @ v), (whole.gradient(), cut.gradient())):
    assert np.linalg.norm(found - expected) <= 1e-12 * np.linalg.norm(expected)


@functools.cache
def residual_operators():
  """Those of the model with shortcuts, which no test changes."""
  return operators("residual", 3)


def compared(model, count, loss="mse"):
  """Compares products and gradients; returns the operators, without and with blocks, and data."""
  rng = np.random.default_rng(0)
  data = [(rng.standard_normal((6, 3)), rng.standard_normal((6, 2)))]
  whole, cut = (HessianOperator(model, loss, data, recompute_blocks=c) for c in (None, count))
  v = rng.standard_normal(whole.shape[0])
  for expected, found in ((whole @ v, cut @ v), (whole.gradient(), cut.gradient())):
    assert np.linalg.norm(found - expected) <= 1e-12 * np.linalg.norm(expected)
  return whole, cut, data


class Adding(L.Dense):
  """A layer that adds a loss whenever it is called."""

  def call(self, inputs):
    self.add_loss(0.5 * keras.ops.sum(inputs**2))
    return super().call(inputs)


class Twice(L.Layer):
  """A layer around one that it calls twice."""

  def __init__(self, inner):
    super().__init__()
    self.inner = inner

  def call(self, inputs):
    return self.inner(self.inner(inputs))


PENALIZED = {
  "activity": lambda: L.Dense(3, "tanh", activity_regularizer=keras.regularizers.L2(0.5)),
  "added": lambda: Adding(3, "tanh"),
  "nested": lambda: Twice(Adding(3, "tanh")),
}


@pytest.mark.parametrize(
  "name, count",
  [
    pytest.param(n, c, marks=[] if (n, c) == ("nested", 2) else pytest.mark.slow)
    for n in PENALIZED
    for c in (1, 2, 4)
  ],
)
def test_penalties_of_a_layer_count_as_often_as_it_is_called(name, count):
  shared, inputs = PENALIZED[name](), keras.Input((3,))
  x = L.Dense(3, "tanh")(shared(shared(inputs)))
  model = keras.Model(inputs, L.Dense(2)(shared(L.Dense(3, "tanh")(x))))
  whole, cut, data = compared(model, count)
  assert cut.loss() == pytest.approx(whole.loss(), rel=1e-14)
  expected = model(data[0][0])  # the penalties by Keras itself
  mse = float(np.mean((expected - data[0][1]) ** 2))
  assert whole.loss() == pytest.approx(mse + float(sum(model.losses)), rel=1e-13)


class Product(keras.regularizers.Regularizer):
  def __init__(self, factor):
    self._factor = factor

  def __call__(self, x):
    return ops.sum(x**2) * self._factor()


def reading(kind):
  """Returns a model, and a loss, of which something reads the kernel of the first layer."""
  inputs, first = keras.Input((3,)), L.Dense(4, "tanh", name="first")
  x, loss = first(inputs), "mse"

  def squares():
    return ops.sum(first.kernel**2)

  if kind == "loss":

    def loss(targets, outputs):
      return ops.mean((targets - outputs) ** 2, axis=-1) * (1 + squares())

  elif kind == "operation":
    x = ops.matmul(L.Dense(3, "tanh")(x), first.kernel)
  elif kind == "lambda":
    x = L.Lambda(lambda z: z * squares())(L.Dense(4, "tanh")(x))
  elif kind == "activity":
    x = L.Dense(3, "tanh", activity_regularizer=lambda z: ops.mean(z**2) * squares())(x)
  elif kind == "penalty":
    x = L.Dense(3, "tanh", kernel_regularizer=Product(squares))(x)
  return keras.Model(inputs, L.Dense(2)(x)), loss


@pytest.mark.parametrize("kind", ["loss", "operation", "lambda", "activity", "penalty"])
def test_variables_that_other_layers_read_are_differentiated_there_too(kind):
  model, loss = reading(kind)
  compared(model, 2, loss)


class ByLength(L.Layer):
  """Reads a variable in long sequences only."""

  def build(self, _):
    self.scale = self.add_weight(shape=(), initializer="ones")

  def call(self, x):
    return x * self.scale**2 if (x.shape[1] or 5) > 4 else x


def test_variables_that_only_other_shapes_read_are_differentiated():
  layers = [L.Dense(3, "tanh"), ByLength(), L.Dense(2, "tanh"), L.GlobalAveragePooling1D()]
  model = keras.Sequential([keras.Input((None, 3)), *layers])
  rng = np.random.default_rng(0)
  data = [(rng.standard_normal((5, n, 3)), rng.standard_normal((5, 2))) for n in (4, 6)]
  whole, cut = (HessianOperator(model, "mse", data, recompute_blocks=c) for c in (None, 2))
  v = rng.standard_normal(whole.shape[0])
  for expected, found in ((whole @ v, cut @ v), (whole.gradient(), cut.gradient())):
    assert np.linalg.norm(found - expected) <= 1e-12 * np.linalg.norm(expected)


class Doubled(keras.Model):
  def call(self, inputs, training=None, mask=None):
    return 2 * super().call(inputs, training=training, mask=mask)


class DoubledSequence(keras.Sequential):
  def call(self, inputs, training=None, mask=None):
    return 2 * super().call(inputs, training=training, mask=mask)


class Centering(L.Layer):
  """Takes a moving mean away, which it has just moved."""

  def build(self, shape):
    self.mean = self.add_weight(name="mean", shape=shape[1:], trainable=False, initializer="ones")

  def call(self, inputs):
    self.mean.assign(0.5 * self.mean + 0.5 * keras.ops.mean(inputs, 0))
    return inputs - self.mean


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_state_goes_on_from_one_block_to_the_next(count):
  center, inputs = Centering(), keras.Input((3,))
  x = center(L.Dense(3, "tanh")(center(L.Dense(3, "tanh")(inputs))))
  model = keras.Model(inputs, L.Dense(2)(center(L.Dense(3, "tanh")(x))))
  compared(model, count)
  np.testing.assert_array_equal(center.mean, np.ones(3))


@pytest.mark.slow
@pytest.mark.parametrize("training", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_block_of_the_hessian_is_cut_too(training):
  whole, cut = operators("chain", 3, variables="*dense*/*", training=training)
  v = np.random.default_rng(1).standard_normal(whole.shape[0])
  assert np.linalg.norm(cut @ v - whole @ v) <= 1e-12 * np.linalg.norm(whole @ v)


def test_product_is_bitwise_repeatable():
  _, cut = residual_operators()
  v = np.random.default_rng(1).standard_normal(cut.shape[0])
  assert np.array_equal(cut @ v, cut @ v)


def test_model_and_its_layers_are_not_changed():
  model = residual()
  nodes = [len(layer._inbound_nodes) for layer in model.layers]
  names = [v.path for v in model.variables]
  blocks.split(model, 3)
  assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
  assert [v.path for v in model.variables] == names


def test_blocks_share_the_activations_about_equally():
  model = residual()
  sizes = [
    sum(int(np.prod(layer.output.shape[1:])) for layer in model.layers if layer.trainable_variables)
  ]
  cuts = blocks._cuts(model, keras_internals.calls_of(model), 3)
  assert len(cuts) == 2 and sizes[0]
  assert all(len(live) <= 2 for _, live in cuts)


def convolutions(operator):
  return [node for node in operator.program.gradient.graphs[0].node if node.op == "Conv2D"]


def test_activations_are_computed_again():
  whole, cut = residual_operators()
  # All convolutions but those of the last block run once more.
  assert len(convolutions(whole)) < len(convolutions(cut)) < 2 * len(convolutions(whole))


@pytest.mark.parametrize(
  "build, options, message",
  [
    (lambda: Subclassed(), {}, "is not functional or sequential"),
    (
      lambda: keras.Sequential(
        [
          keras.Input((4,), dtype="int32"),
          L.Embedding(5, 3, mask_zero=True),
          L.LSTM(2, unroll=True),
        ]
      ),
      {},
      "passes masks",
    ),
    (chain, {"mode": "backward_over_backward"}, "forward over backward only"),
    (
      lambda: Doubled(*[(i := keras.Input((4,))), L.Dense(3)(L.Dense(2)(i))]),
      {},
      "has a call.. of its own",
    ),
    (
      lambda: DoubledSequence([keras.Input((4,)), L.Dense(2), L.Dense(3)]),
      {},
      "has a call.. of its own",
    ),
  ],
)
def test_what_can_not_be_cut_is_refused(build, options, message):
  model = build()
  rng = np.random.default_rng(0)
  symbolic = getattr(model, "inputs", None)
  x = np.ones((5, *symbolic[0].shape[1:]), symbolic[0].dtype) if symbolic else np.ones((5, 4))
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  with pytest.raises(ValueError, match=message):
    operator = HessianOperator(
      model, loss, [(x, rng.integers(0, 3, 5))], recompute_blocks=2, **options
    )
    operator @ np.ones(operator.shape[0])


class Subclassed(keras.Model):
  def __init__(self):
    super().__init__()
    self.dense = L.Dense(3)
    self.build((None, 4))

  def build(self, shape):
    self.dense.build(shape)
    self.built = True

  def call(self, x):
    return self.dense(x)


def test_function_is_refused():
  with pytest.raises(ValueError, match="is for Keras models"):
    HessianOperator(
      [tf.ones(2)], lambda p, b: tf.reduce_sum(b * p[0], 1), [tf.ones((1, 2))], recompute_blocks=2
    )


@pytest.mark.parametrize("count", [100, 10**20])
def test_more_blocks_than_calls_of_layers_are_refused_with_their_number(count):
  calls = len(residual().layers) - 1  # each is called once, but for the input
  with pytest.raises(ValueError, match=f"recompute_blocks: expected at most {calls}, .* {count}$"):
    operators("residual", count)
