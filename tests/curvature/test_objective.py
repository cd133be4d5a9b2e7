"""Models, losses, weights and variables: which function of which parameters is measured."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.curvature.operator import HessianOperator

layers = keras.layers
N, INPUTS, CLASSES = 8, 3, 3
# Two correct float64 computations of these small matrices differ by some roundings of 1e-16.
FLOAT64 = 1e-12
RNG = np.random.default_rng(0)
X, Z = RNG.standard_normal((N, INPUTS)), RNG.standard_normal((N, 2))
Y = RNG.standard_normal((N, 2))
CLASS = np.arange(N) % CLASSES
ONE_HOT = np.eye(CLASSES)[CLASS]


def batches(*parts, sizes=(4, 4)):
  """Cuts nests of arrays into a list of batches of the given sizes."""
  ends = np.cumsum(sizes)
  return [
    tf.nest.map_structure(lambda a, e=e, s=s: a[e - s : e], parts)
    for s, e in zip(sizes, ends, strict=True)
  ]


def block_diagonal(*blocks):
  n = sum(len(b) for b in blocks)
  result, start = np.zeros((n, n)), 0
  for b in blocks:
    result[start : start + len(b), start : start + len(b)] = b
    start += len(b)
  return result


def dense_model(units=2, inputs=INPUTS, **options):
  """A single float64 layer; call it under the fixture `float64`."""
  return keras.Sequential([keras.Input((inputs,)), layers.Dense(units, name="dense", **options)])


# Losses by name keep the model's dtype.


@pytest.mark.usefixtures("float64")
def test_mse_by_name_is_float64(columns, relative_error, regression_hessian):
  operator = HessianOperator(dense_model(), "mse", batches(X, Y))
  assert relative_error(columns(operator), regression_hessian(X, 2)) <= FLOAT64


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
  "name, targets",
  [("categorical_crossentropy", ONE_HOT), ("sparse_categorical_crossentropy", CLASS)],
)
def test_crossentropy_by_name_is_float64(columns, relative_error, softmax_hessian, name, targets):
  model = dense_model(CLASSES, activation="softmax")
  operator = HessianOperator(model, name, batches(X, targets))
  kernel, bias = model.get_weights()
  assert relative_error(columns(operator), softmax_hessian(X, X @ kernel + bias)) <= FLOAT64


@pytest.mark.usefixtures("float64")
def test_binary_crossentropy_by_name_is_float64(columns, relative_error):
  model = dense_model(1, activation="sigmoid")
  kernel, bias = model.get_weights()
  p = 1 / (1 + np.exp(-(X @ kernel + bias)))
  x1 = np.concatenate([X, np.ones((N, 1))], axis=1)
  expected = (x1 * p * (1 - p)).T @ x1 / N
  operator = HessianOperator(model, "binary_crossentropy", batches(X, (CLASS > 0).astype(int)))
  assert relative_error(columns(operator), expected) <= FLOAT64


@pytest.mark.usefixtures("float64")
def test_float32_targets_of_a_float64_model_are_cast(columns, relative_error, regression_hessian):
  operator = HessianOperator(dense_model(), "mse", batches(X, Y.astype(np.float32)))
  assert relative_error(columns(operator), regression_hessian(X, 2)) <= FLOAT64


@pytest.mark.usefixtures("float64")
def test_loss_as_a_function_of_targets_and_outputs(columns, relative_error, regression_hessian):
  operator = HessianOperator(
    dense_model(), lambda y, z: tf.reduce_mean((y - z) ** 2, -1), batches(X, Y)
  )
  assert relative_error(columns(operator), regression_hessian(X, 2)) <= FLOAT64


@pytest.mark.usefixtures("float64")
def test_loss_as_a_function_that_returns_the_batchs_mean(
  columns, relative_error, regression_hessian
):
  operator = HessianOperator(
    dense_model(), lambda y, z: tf.reduce_mean((y - z) ** 2), batches(X, Y)
  )
  assert relative_error(columns(operator), regression_hessian(X, 2)) <= FLOAT64


@pytest.mark.usefixtures("float64")
def test_label_smoothing_is_kept(relative_error):
  # The Hessian of softmax regression does not depend on the targets; the gradient does.
  model = dense_model(CLASSES)
  loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.3)
  operator = HessianOperator(model, loss, batches(X, ONE_HOT))
  kernel, bias = model.get_weights()
  logits = X @ kernel + bias
  p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  x1 = np.concatenate([X, np.ones((N, 1))], axis=1)
  expected = (x1.T @ (p - 0.7 * ONE_HOT - 0.1) / N).ravel()
  assert relative_error(operator.gradient(), expected) <= FLOAT64


# Regularization.

FACTOR = 0.125  # exact: some versions of Keras round it to float32 in any model
L2_HESSIAN = np.diag([2 * FACTOR] * 6 + [0.0] * 2)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
  "sizes", [(8,), (3, 3, 2), pytest.param((1,) * 6 + (2,), marks=pytest.mark.slow)]
)
def test_l2_adds_twice_its_factor_on_its_kernel_only(columns, regression_hessian, sizes):
  model = dense_model(kernel_regularizer=keras.regularizers.L2(FACTOR))
  operator = HessianOperator(model, "mse", batches(X, Y, sizes=sizes))
  added = columns(operator) - regression_hessian(X, 2)
  # The largest entries are below 4, so each difference is rounded at some 1e-16.
  np.testing.assert_allclose(added, L2_HESSIAN, rtol=0, atol=5e-15)


@pytest.mark.usefixtures("float64")
def test_l2_is_not_scaled_by_sample_weights(columns, regression_hessian):
  model = dense_model(kernel_regularizer=keras.regularizers.L2(FACTOR))
  weights = np.arange(N, dtype=float)
  operator = HessianOperator(model, "mse", batches(X, Y, weights, sizes=(3, 3, 2)))
  added = columns(operator) - regression_hessian(X, 2, weights)
  np.testing.assert_allclose(added, L2_HESSIAN, rtol=0, atol=5e-15)


def activity_is_summed():
  """Returns whether a penalty of activities is that of all examples, and not their mean."""
  layer = layers.Activation("linear", activity_regularizer=keras.regularizers.L2(1.0))
  layer(np.ones((2, 1)))
  return float(layer.losses[0]) == 2.0


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("sizes", [pytest.param((8,), marks=pytest.mark.slow), (3, 3, 2)])
def test_activity_regularization_enters_once(columns, regression_hessian, sizes):
  model = dense_model(activity_regularizer=keras.regularizers.L2(FACTOR))
  operator = HessianOperator(model, "mse", batches(X, Y, sizes=sizes))
  x1 = np.concatenate([X, np.ones((N, 1))], axis=1)
  # Keras divides the penalty by the size of the batch, so batches enter it like the loss. Earlier
  # versions don't: a batch's share of the examples counts besides.
  shares = sizes if activity_is_summed() else np.ones(len(sizes))
  scale = np.repeat(shares, sizes)[:, None]
  expected = regression_hessian(X, 2) + np.kron(2 * FACTOR * x1.T @ (scale * x1) / N, np.eye(2))
  np.testing.assert_allclose(columns(operator), expected, rtol=0, atol=5e-15)


@pytest.mark.usefixtures("float64")
def test_add_loss_enters_once(columns, regression_hessian):
  class Penalised(layers.Dense):
    def call(self, inputs):
      self.add_loss(0.3 * keras.ops.sum(self.bias**2))
      return super().call(inputs)

  model = keras.Sequential([keras.Input((INPUTS,)), Penalised(2)])
  added = columns(HessianOperator(model, "mse", batches(X, Y))) - regression_hessian(X, 2)
  np.testing.assert_allclose(added, np.diag([0.0] * 6 + [0.6] * 2), rtol=0, atol=5e-15)


# Several inputs and outputs.


def two_heads(kind):
  """Two separate linear regressions, with inputs and outputs as lists or dicts."""
  x, z = keras.Input((INPUTS,), name="x"), keras.Input((2,), name="z")
  first, second = layers.Dense(2, name="first")(x), layers.Dense(1, name="second")(z)
  if kind == "dict":
    return keras.Model({"x": x, "z": z}, {"first": first, "second": second})
  return keras.Model([x, z], [first, second])


def nest(kind, names, values):
  return dict(zip(names, values, strict=True)) if kind == "dict" else values


HEADS = ("first", "second")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
  "kind, arguments",
  [
    ("list", "list"),
    ("dict", "dict"),
    *(pytest.param(*p, marks=pytest.mark.slow) for p in [("list", "dict"), ("dict", "list")]),
  ],
)
def test_losses_of_several_outputs_add_with_their_weights(
  columns, relative_error, regression_hessian, kind, arguments
):
  data = batches(nest(kind, "xz", [X, Z]), nest(kind, HEADS, [Y, Y[:, :1]]))
  operator = HessianOperator(
    two_heads(kind),
    nest(arguments, HEADS, ["mse", keras.losses.MeanSquaredError()]),
    data,
    loss_weights=nest(arguments, HEADS, [0.5, 3.0]),
  )
  expected = block_diagonal(0.5 * regression_hessian(X, 2), 3 * regression_hessian(Z))
  assert relative_error(columns(operator), expected) <= FLOAT64


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", [pytest.param("list", marks=pytest.mark.slow), "dict"])
def test_sample_weights_of_each_output(columns, relative_error, regression_hessian, kind):
  first, second = np.arange(N, dtype=float), np.linspace(2, 0, N)
  data = batches(
    nest(kind, "xz", [X, Z]), nest(kind, HEADS, [Y, Y[:, :1]]), nest(kind, HEADS, [first, second])
  )
  operator = HessianOperator(two_heads(kind), "mse", data, loss_weights={"second": 2.0})
  expected = block_diagonal(regression_hessian(X, 2, first), 2 * regression_hessian(Z, 1, second))
  assert relative_error(columns(operator), expected) <= FLOAT64


@pytest.mark.usefixtures("float64")
def test_one_vector_of_sample_weights_is_for_all_outputs(
  columns, relative_error, regression_hessian
):
  weights = np.arange(N, dtype=float)
  data = batches({"x": X, "z": Z}, {"first": Y, "second": Y[:, :1]}, weights)
  operator = HessianOperator(two_heads("dict"), "mse", data)
  expected = block_diagonal(regression_hessian(X, 2, weights), regression_hessian(Z, 1, weights))
  assert relative_error(columns(operator), expected) <= FLOAT64


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", [pytest.param("list", marks=pytest.mark.slow), "dict"])
def test_a_variable_that_the_loss_does_not_reach_has_zero_rows(
  columns, relative_error, regression_hessian, kind
):
  data = batches(nest(kind, "xz", [X, Z]), nest(kind, HEADS, [Y, Y[:, :1]]))
  operator = HessianOperator(two_heads(kind), {"first": "mse"}, data)
  matrix = columns(operator)
  assert relative_error(matrix[:8, :8], regression_hessian(X, 2)) <= FLOAT64
  assert not matrix[8:].any() and not matrix[:, 8:].any()


# Embeddings and masks.


@pytest.mark.usefixtures("float64")
def test_embedding_has_the_hessian_of_counts(columns, relative_error):
  tokens = np.random.default_rng(1).integers(0, 5, (N, 4))
  inputs = keras.Input((4,), dtype="int32")
  outputs = layers.GlobalAveragePooling1D()(layers.Embedding(6, 1)(inputs))
  operator = HessianOperator(keras.Model(inputs, outputs), "mse", batches(tokens, Y[:, :1]))
  shares = (tokens[:, :, None] == np.arange(6)).mean(axis=1)  # token 5 never occurs
  assert relative_error(columns(operator), 2 * shares.T @ shares / N) <= FLOAT64


def sequence_model():
  inputs = keras.Input((4,), dtype="int32")
  embedded = layers.Embedding(5, 2, mask_zero=True, trainable=False, name="embedding")(inputs)
  return keras.Model(inputs, layers.Dense(1, name="dense")(embedded))


TOKENS = np.array([[1, 2, 0, 0], [3, 4, 1, 2], [2, 0, 0, 0], [4, 4, 4, 0], [1, 3, 2, 1]])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
  "weights", [pytest.param(None, marks=pytest.mark.slow), np.array([1.0, 0.0, 2.0, 0.5, 1.0])]
)
def test_masked_steps_do_not_count(columns, relative_error, regression_hessian, weights):
  model = sequence_model()
  features = model.get_layer("embedding").get_weights()[0][TOKENS].reshape(-1, 2)
  step_weights = (TOKENS != 0) * (np.ones(5) if weights is None else weights)[:, None]
  arrays = [TOKENS, np.zeros((5, 4, 1))] + ([] if weights is None else [weights])
  operator = HessianOperator(model, "mse", batches(*arrays, sizes=(2, 2, 1)))
  expected = regression_hessian(features, 1, step_weights.ravel())
  assert relative_error(columns(operator), expected) <= FLOAT64


def test_loss_with_masks_equals_the_models_own_evaluate():
  model = sequence_model()
  model.compile(loss="mse")
  targets = np.ones((5, 4, 1), np.float32)
  expected = model.evaluate(TOKENS, targets, batch_size=5, verbose=0)
  operator = HessianOperator(model, "mse", batches(TOKENS, targets, sizes=(5,)))
  np.testing.assert_allclose(operator.loss(), expected, rtol=1e-6)


# Kinds of models and functions.


@pytest.mark.usefixtures("float64")
def test_frozen_layers_are_left_out(columns):
  model = keras.Sequential(
    [keras.Input((INPUTS,)), layers.Dense(2, "tanh", name="one"), layers.Dense(2, name="two")]
  )
  whole = columns(HessianOperator(model, "mse", batches(X, Y)))
  model.get_layer("one").trainable = False
  operator = HessianOperator(model, "mse", batches(X, Y))
  assert [n.split("/")[-2] for n in operator.parameter_names] == ["two", "two"]
  np.testing.assert_allclose(columns(operator), whole[8:, 8:], rtol=0, atol=1e-14)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("takes_training", [True, False])
def test_a_subclassed_model(columns, relative_error, regression_hessian, takes_training):
  class Linear(keras.Model):
    def __init__(self):
      super().__init__()
      self.dense = layers.Dense(2)

    def call(self, inputs):
      return self.dense(inputs)

  class LinearWithTraining(Linear):
    def call(self, inputs, training=False):
      return self.dense(inputs, training=training)

  model = LinearWithTraining() if takes_training else Linear()
  model(X[:1])
  operator = HessianOperator(model, "mse", batches(X, Y))
  assert relative_error(columns(operator), regression_hessian(X, 2)) <= FLOAT64


@pytest.mark.usefixtures("float64")
def test_a_subclassed_model_with_a_dict_of_outputs(columns, relative_error, regression_hessian):
  class Heads(keras.Model):
    def __init__(self):
      super().__init__()
      self.first, self.second = layers.Dense(2), layers.Dense(1)

    def call(self, inputs, training=False):
      del training
      return {"first": self.first(inputs["x"]), "second": self.second(inputs["z"])}

  model = Heads()
  model({"x": X[:1], "z": Z[:1]})
  data = batches({"x": X, "z": Z}, {"first": Y, "second": Y[:, :1]})
  operator = HessianOperator(
    model, {"first": "mse", "second": "mse"}, data, loss_weights={"second": 3.0}
  )
  expected = block_diagonal(regression_hessian(X, 2), 3 * regression_hessian(Z))
  assert relative_error(columns(operator), expected) <= FLOAT64


def test_mixed_bfloat16_is_near_float32(columns, relative_error):
  def model(policy):
    random.seed(1)
    return keras.Sequential(
      [
        keras.Input((INPUTS,)),
        layers.Dense(4, "tanh", dtype=policy),
        layers.Dense(2, dtype=policy),
      ]
    )

  data = batches(X.astype(np.float32), Y.astype(np.float32))
  first, second = (
    columns(HessianOperator(model(p), "mse", data)) for p in ("mixed_bfloat16", "float32")
  )
  # bfloat16 rounds at 0.004; ten roundings.
  assert 0 < relative_error(first, second) <= 0.04


def test_float16_is_refused():
  model = keras.Sequential(
    [keras.Input((INPUTS,)), layers.Dense(2, dtype="mixed_float16", name="d")]
  )
  with pytest.raises(ValueError, match="layer 'd' computes in float16.* mixed_bfloat16"):
    HessianOperator(model, "mse", batches(X, Y))


def squares(parameters, batch):
  x, y = batch
  return (tf.linalg.matvec(x, parameters[0]) - y) ** 2


def mean_square(parameters, batch):
  return tf.reduce_mean(squares(parameters, batch))


def sum_and_weight(parameters, batch):
  return tf.reduce_sum(squares(parameters, batch)), tf.size(batch[1])


@pytest.mark.parametrize("loss", [squares, mean_square, sum_and_weight])
def test_what_a_plain_function_may_return(columns, relative_error, loss):
  operator = HessianOperator([tf.zeros(INPUTS, tf.float64)], loss, batches(X, Y[:, 0]))
  assert relative_error(columns(operator), 2 * X.T @ X / N) <= FLOAT64


def test_a_plain_functions_own_weights_count():
  def loss(parameters, batch):
    return tf.reduce_sum(batch * parameters[0] ** 2), 4.0  # weight 4 a batch

  operator = HessianOperator([tf.ones((), tf.float64)], loss, [np.ones(2), 3 * np.ones(3)])
  np.testing.assert_allclose(operator @ np.ones(1), [2 * (2 + 9) / 8], rtol=1e-15)


def random_square(parameters, batch, seed):
  noise = tf.random.stateless_uniform(tf.shape(batch), seed, dtype=tf.float64)
  return 0.5 * noise * parameters[0] ** 2


def test_a_plain_function_is_given_a_fixed_seed_for_each_batch():
  def curvature(data, seed=0):
    operator = HessianOperator([tf.ones((), tf.float64)], random_square, data, seed=seed)
    return operator @ np.ones(1), operator @ np.ones(1)

  one, again = curvature([np.ones(4)])
  two, _ = curvature([np.ones(4), np.ones(4)])
  other, _ = curvature([np.ones(4)], seed=1)
  assert one == again
  assert one != two  # the second batch has other noise
  assert one != other


# Blocks.


@pytest.fixture(scope="module")
def three_layers():
  random.seed(0)
  inputs = keras.Input((INPUTS,), dtype="float64")
  x = layers.Dense(2, "tanh", dtype="float64", name="one")(inputs)
  x = layers.Dense(2, "tanh", dtype="float64", name="two")(x)
  return keras.Model(inputs, layers.Dense(2, dtype="float64", name="three")(x))


@pytest.fixture(scope="module")
def whole(three_layers, columns):
  return columns(HessianOperator(three_layers, "mse", batches(X, Y)))


# Positions: one 0-8 (kernel 0-6, bias 6-8), two 8-14 (kernel 8-12), three 14-20 (kernel 14-18).
BLOCKS = {
  "layer": (lambda m: m.get_layer("two"), range(8, 14)),
  "layer name": (lambda _: "two", range(8, 14)),
  "name": (lambda m: m.trainable_variables[3].path, range(12, 14)),
  "pattern of variables": (lambda _: "*/kernel", [*range(6), *range(8, 12), *range(14, 18)]),
  "pattern of layers": (lambda _: "t*", range(8, 20)),
  "variable": (lambda m: m.trainable_variables[0], range(6)),
  "tensorflow variable": (lambda m: m.trainable_variables[0].value, range(6)),
  "list": (lambda m: ["three/*", m.get_layer("one").bias], [6, 7, *range(14, 20)]),
}


# Names are patterns, and variables of TensorFlow are those of Keras.
SLOW_BLOCKS = ("layer name", "name", "tensorflow variable")


@pytest.mark.parametrize(
  "how", [pytest.param(b, marks=pytest.mark.slow if b in SLOW_BLOCKS else []) for b in BLOCKS]
)
def test_a_block_equals_that_of_the_whole_matrix(three_layers, whole, columns, how):
  choose, positions = BLOCKS[how]
  operator = HessianOperator(three_layers, "mse", batches(X, Y), variables=choose(three_layers))
  expected = whole[np.ix_(positions, positions)]
  np.testing.assert_allclose(columns(operator), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("choose", [lambda p: p[1], lambda _: "b", lambda p: [p[1]]])
def test_a_block_of_a_plain_functions_variables(choose):
  point = [tf.Variable(2.0, name="a"), tf.Variable(3.0, name="b")]
  operator = HessianOperator(
    point, lambda p, batch: batch * p[0] * p[1] ** 2, [np.float32([1, 1])], variables=choose(point)
  )
  assert operator.parameter_names == ("b",)
  assert operator @ np.ones(1) == [4.0]


def test_a_pattern_that_matches_nothing_lists_the_names(three_layers):
  with pytest.raises(ValueError) as error:
    HessianOperator(three_layers, "mse", batches(X, Y), variables="four/*")
  assert "'four/*' matches no trainable variable" in str(error.value)
  assert all(v.path in str(error.value) for v in three_layers.trainable_variables)


def test_an_empty_list_of_variables_is_refused(three_layers):
  with pytest.raises(ValueError, match="expected at least one variable, got an empty list"):
    HessianOperator(three_layers, "mse", batches(X, Y), variables=[])


# Errors.


def test_an_unbuilt_model_is_refused():
  with pytest.raises(ValueError, match="is not built.* call it on a batch first"):
    HessianOperator(keras.Sequential([layers.Dense(2)]), "mse", batches(X, Y))


@pytest.mark.usefixtures("float64")
def test_a_model_without_trainable_variables_is_refused():
  model = dense_model()
  model.trainable = False
  with pytest.raises(ValueError, match="has no trainable variables: all layers are frozen"):
    HessianOperator(model, "mse", batches(X, Y))


@pytest.mark.parametrize("model", [None, "model", layers.Dense(2)])
def test_another_kind_of_model_is_refused(model):
  with pytest.raises(TypeError, match="model: expected a keras.Model, or a list of tensors"):
    HessianOperator(model, "mse", batches(X, Y))


WRONG_TARGETS = {
  "one-hot with sparse": (
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    ONE_HOT,
    "one-hot targets go with categorical_crossentropy",
  ),
  "class numbers with categorical": (
    keras.losses.CategoricalCrossentropy(from_logits=True),
    CLASS,
    "class numbers go with sparse_categorical_crossentropy",
  ),
  "(N, 1) with (N, 3) and mse": ("mse", X[:, :1], r"expected targets of shape \(\d, 3\)"),
  "(N,) with (N, 3) and mse": ("mse", X[:, 0], r"expected targets of shape \(\d, 3\)"),
  "(N, 2) with (N, 3) and mse": ("mse", Y, r"expected targets of shape \(\d, 3\)"),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", WRONG_TARGETS)
def test_targets_of_another_shape_are_refused_with_advice(case):
  loss, targets, message = WRONG_TARGETS[case]
  with pytest.raises(ValueError, match=message):
    HessianOperator(dense_model(CLASSES), loss, batches(X, targets))


@pytest.mark.usefixtures("float64")
def test_targets_with_a_last_dimension_of_1_are_the_same_as_without():
  model = dense_model(1)
  first, second = (HessianOperator(model, "mse", batches(X, y)).loss() for y in (Y[:, 0], Y[:, :1]))
  assert first == second


@pytest.mark.usefixtures("float64")
def test_string_labels_are_refused():
  labels = np.array([b"cat", b"dog", b"cat", b"dog", b"cat", b"dog", b"cat", b"cat"])
  with pytest.raises(TypeError, match="targets are strings; turn them into class numbers first"):
    HessianOperator(dense_model(CLASSES), "sparse_categorical_crossentropy", batches(X, labels))


@pytest.mark.usefixtures("float64")
def test_an_unknown_loss_name_is_refused_by_name():
  with pytest.raises(ValueError, match="^loss: Keras knows no loss 'msee'"):
    HessianOperator(dense_model(), "msee", batches(X, Y))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("loss", [3, object()])
def test_what_is_no_loss_is_refused(loss):
  with pytest.raises(TypeError, match="loss: expected a Keras loss, its name or a function"):
    HessianOperator(dense_model(), loss, batches(X, Y))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("loss", [keras.losses.MeanSquaredError, keras.losses.Huber])
def test_class_of_a_loss_is_refused_with_the_remedy(loss):
  with pytest.raises(TypeError, match=rf"^loss: .* the class {loss.__name__}; give .*\(\)$"):
    HessianOperator(dense_model(), loss, batches(X, Y))


@pytest.mark.usefixtures("float64")
def test_no_loss_is_refused():
  with pytest.raises(ValueError, match="compiled with none and its layers add none"):
    HessianOperator(dense_model(), None, batches(X, Y))


@pytest.mark.usefixtures("float64")
def test_a_list_without_a_loss_is_refused():
  with pytest.raises(ValueError, match="expected a loss for at least one output, got none"):
    HessianOperator(dense_model(), [None], batches(X, Y))


@pytest.mark.usefixtures("float64")
def test_reduction_sum_is_refused():
  with pytest.raises(ValueError, match="reduction 'sum', but the Hessian is that of the mean loss"):
    HessianOperator(dense_model(), keras.losses.MeanSquaredError("sum"), batches(X, Y))


class Tenfold(keras.losses.MeanSquaredError):
  def __call__(self, y_true, y_pred, sample_weight=None):
    return 10 * super().__call__(y_true, y_pred, sample_weight)


class OnlyCalled(keras.losses.Loss):
  def __call__(self, y_true, y_pred, sample_weight=None):  # noqa: ARG002
    return keras.ops.mean((y_true - y_pred) ** 2)


@pytest.mark.parametrize("loss", [Tenfold, OnlyCalled])
def test_a_loss_that_overrides_its_call_is_refused(loss):
  with pytest.raises(ValueError, match=f"{loss.__name__} has a __call__ of its own.*into call"):
    HessianOperator(dense_model(), loss(), batches(X, Y))


def test_the_target_of_a_single_output_may_be_in_a_list():
  model = dense_model()
  values = [HessianOperator(model, "mse", [(X, y)]).loss() for y in ([Y], Y)]
  assert values[0] == pytest.approx(values[1], rel=1e-6)


@pytest.mark.parametrize("inside", [False, True])
def test_a_stateful_layer_is_refused_by_name(inside):
  layer = keras.layers.SimpleRNN(2, stateful=True, name="memory")
  inputs = keras.Input(batch_shape=(2, 4, 3))
  part = keras.Sequential([layer]) if inside else layer
  model = keras.Model(inputs, keras.layers.Dense(1)(part(inputs)))
  data = [(np.ones((2, 4, 3), np.float32), np.ones((2, 1), np.float32))]
  with pytest.raises(ValueError, match="'memory' are stateful: .*`stateful` to False"):
    HessianOperator(model, "mse", data)
  layer.stateful = False
  HessianOperator(model, "mse", data)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("argument", ["loss", "loss_weights"])
def test_an_unknown_output_is_refused_and_the_known_ones_listed(argument):
  options = {"loss": "mse"} | {argument: {"third": 1.0 if argument == "loss_weights" else "mse"}}
  data = batches([X, Z], [Y, Y[:, :1]])
  with pytest.raises(ValueError, match=rf"{argument}: there is no output 'third'.*first.*second"):
    HessianOperator(two_heads("list"), options.pop("loss"), data, **options)


@pytest.mark.usefixtures("float64")
def test_a_list_of_losses_of_another_length_is_refused():
  with pytest.raises(ValueError, match="loss: expected one for each of 2 outputs, got 1"):
    HessianOperator(two_heads("list"), ["mse"], batches([X, Z], [Y, Y[:, :1]]))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("data", [batches(X), [X[:3], X[3:]]])
def test_missing_targets_are_refused(data):
  with pytest.raises(ValueError, match="yields inputs only; expected tuples .inputs, targets."):
    HessianOperator(dense_model(), "mse", data)


@pytest.mark.usefixtures("float64")
def test_missing_targets_of_one_output_are_refused():
  data = batches({"x": X, "z": Z}, {"first": Y})
  with pytest.raises(ValueError, match="targets: nothing for output 'second'; there are .'first'."):
    HessianOperator(two_heads("dict"), "mse", data)


@pytest.mark.usefixtures("float64")
def test_a_single_target_for_several_outputs_is_refused():
  with pytest.raises(ValueError, match="expected one for each of .*first.*got a single tensor"):
    HessianOperator(two_heads("list"), "mse", batches([X, Z], Y))


@pytest.mark.usefixtures("float64")
def test_sample_weights_of_another_shape_are_refused():
  with pytest.raises(ValueError, match="sample weights of shape .4, 2. don't fit losses of .4"):
    HessianOperator(dense_model(), "mse", batches(X, Y, Y))


@pytest.mark.usefixtures("float64")
def test_sample_weights_with_a_loss_of_a_whole_batch_are_refused():
  with pytest.raises(ValueError, match="return one loss an example"):
    HessianOperator(
      dense_model(), lambda y, z: tf.reduce_mean((y - z) ** 2), batches(X, Y, Y[:, 0])
    )


@pytest.mark.usefixtures("float64")
def test_training_must_be_a_bool():
  with pytest.raises(TypeError, match="training: expected True or False, got 'yes'"):
    HessianOperator(dense_model(), "mse", batches(X, Y), training="yes")


@pytest.mark.parametrize("option", [{"training": True}, {"loss_weights": [1.0]}])
def test_options_of_keras_models_are_refused_for_functions(option):
  with pytest.raises(ValueError, match="is for Keras models; put it into the loss function"):
    HessianOperator([tf.zeros(INPUTS, tf.float64)], squares, batches(X, Y[:, 0]), **option)


@pytest.mark.parametrize("point", [[tf.zeros(3, tf.int32)], [tf.zeros(3, tf.float16)]])
def test_parameters_of_another_dtype_are_refused(point):
  with pytest.raises(TypeError, match="'parameter_0': expected float32, float64 or bfloat16, got"):
    HessianOperator(point, squares, batches(X, Y[:, 0]))


def test_a_function_that_returns_a_matrix_is_refused():
  with pytest.raises(ValueError, match=r"expected shape \(examples,\), a scalar or a pair"):
    HessianOperator([tf.zeros((), tf.float64)], lambda p, b: p[0] * b[0], batches(X))


def test_a_function_that_returns_integers_is_refused():
  with pytest.raises(TypeError, match="expected floating-point losses, got int64"):
    HessianOperator([tf.zeros((), tf.float64)], lambda _, batch: batch[0], batches(CLASS))


# Outputs that are not told apart by name.


def shared_head():
  """A head that is called on both inputs, so that both outputs have its name."""
  head = layers.Dense(2, name="head")
  first, second = keras.Input((INPUTS,)), keras.Input((INPUTS,))
  return keras.Model([first, second], [head(first), head(second)])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("loss", ["mse", pytest.param(["mse", "mse"], marks=pytest.mark.slow)])
def test_outputs_of_the_same_name_all_count(columns, relative_error, regression_hessian, loss):
  other = X[::-1].copy()
  operator = HessianOperator(shared_head(), loss, batches([X, other], [Y, Y]))
  expected = regression_hessian(X, 2) + regression_hessian(other, 2)
  assert relative_error(columns(operator), expected) <= FLOAT64


def test_outputs_of_the_same_name_cannot_be_given_by_name():
  with pytest.raises(ValueError, match="several outputs are named 'head'; give a list"):
    HessianOperator(shared_head(), {"head": "mse"}, batches([X, X], [Y, Y]))


class TwoOutputs(keras.Model):
  """Says nothing of its outputs beforehand."""

  def __init__(self):
    super().__init__()
    self.dense = layers.Dense(2)

  def call(self, inputs):
    return self.dense(inputs), 2 * self.dense(inputs)


def test_one_loss_for_a_subclassed_model_of_several_outputs_is_refused():
  model = TwoOutputs()
  model(X.astype(np.float32))
  with pytest.raises(ValueError, match="returns 2 outputs; give a loss for each"):
    HessianOperator(model, "mse", batches(X, (Y, Y)))


@pytest.mark.usefixtures("float64")
def test_a_sequence_may_end_in_a_model_of_several_outputs(
  columns, relative_error, regression_hessian
):
  inputs = keras.Input((INPUTS,))
  head = keras.Model(inputs, [layers.Dense(2, name="a")(inputs), layers.Dense(2, name="b")(inputs)])
  model = keras.Sequential([keras.Input((INPUTS,)), head])
  operator = HessianOperator(model, {"a": "mse", "b": "mse"}, batches(X, {"a": Y, "b": Y}))
  expected = block_diagonal(*[regression_hessian(X, 2)] * 2)
  assert relative_error(columns(operator), expected) <= FLOAT64


@pytest.mark.usefixtures("float64")
def test_classes_to_ignore_do_not_count(columns, relative_error, softmax_hessian):
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=2)
  operator = HessianOperator(dense_model(CLASSES), loss, batches(X, CLASS))
  logits = operator.model(X).numpy()
  expected = softmax_hessian(X, logits, CLASS != 2)
  assert relative_error(columns(operator), expected) <= FLOAT64


# Lists of losses on dicts of outputs are in the order in which Keras flattens these.


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("names", [("y", "x"), ("x", "y")])
@pytest.mark.parametrize("loss_is_list", [True, False])
def test_lists_of_losses_and_weights_are_those_of_fit_for_dicts_of_outputs(names, loss_is_list):
  inputs = keras.Input((1,))
  zeros = {"use_bias": False, "kernel_initializer": "zeros"}
  heads = {n: layers.Dense(1, name=f"of_{n}", **zeros)(inputs) for n in names}
  model = keras.Model(inputs, heads)
  x = np.ones((2, 1))
  targets = {"y": x, "x": 3 * x}
  loss = ["mse", "mae"] if loss_is_list else {"x": "mse", "y": "mae"}
  model.compile("sgd", loss, loss_weights=[1.0, 5.0])
  operator = HessianOperator(model, None, [(x, targets)])
  expected = float(model.compute_loss(x=x, y=targets, y_pred=model(x)))
  assert operator.loss() == pytest.approx(expected, rel=1e-6)
  found = operator.unflatten(operator @ np.ones(2))  # mae has no second derivative
  assert found["of_x/kernel"] == pytest.approx(2) and found["of_y/kernel"] == 0


@pytest.mark.usefixtures("float64")
def test_list_of_targets_of_fewer_losses_is_that_of_fit():
  inputs = keras.Input((1,))
  heads = {n: layers.Dense(1, kernel_initializer="zeros", name=n)(inputs) for n in "cab"}
  model = keras.Model(inputs, heads)
  x = np.ones((2, 1))
  operator = HessianOperator(model, {"c": "mse", "a": "mse"}, [(x, (x, 2 * x))])
  assert operator.loss() == pytest.approx(1 + 4)
  g = operator.unflatten(operator.gradient())
  assert (g["a/bias"], g["c/bias"]) == (pytest.approx(-2), pytest.approx(-4))


# Scalars of plain functions are means over a batch's rows.


def scaled_squares(p, batch):
  return tf.reduce_mean(batch["scale"] * (batch["x"] * p[0][0]) ** 2)


def dicts(*counts):
  return [{"scale": np.ones(1), "x": np.full(k, float(k))} for k in counts]


def test_mean_over_rows_that_are_not_known_is_refused():
  point = [tf.Variable([1.0], dtype="float64")]
  with pytest.raises(ValueError, match=r"one row an example, got shapes \(1,\), .* pair \(sum, w"):
    HessianOperator(point, scaled_squares, dicts(4, 2))


@pytest.mark.parametrize("counts", [(4,), (4, 4)])
def test_batches_of_the_same_shapes_weigh_the_same_whatever_their_rows_are(counts):
  point = [tf.Variable([1.0], dtype="float64")]
  operator = HessianOperator(point, scaled_squares, dicts(*counts))
  assert (operator @ np.ones(1))[0] == pytest.approx(2 * 16)


def test_pair_says_what_rows_weigh_that_are_not_examples():
  point = [tf.Variable([1.0], dtype="float64")]

  def loss(p, batch):
    count = tf.size(batch["x"])
    return tf.cast(count, tf.float64) * scaled_squares(p, batch), count

  operator = HessianOperator(point, loss, dicts(4, 2))
  assert (operator @ np.ones(1))[0] == pytest.approx(2 * (4 * 16 + 2 * 4) / 6)


# Refused by name.


@pytest.mark.parametrize("nest", [lambda a, b: {"u": a, "v": {"p": b}}, lambda a, b: [a, [b]]])
def test_nested_outputs_are_refused_with_the_remedy(nest):
  inputs = keras.Input((2,))
  model = keras.Model(inputs, nest(layers.Dense(1)(inputs), layers.Dense(1)(inputs)))
  with pytest.raises(ValueError, match="outputs of model .* are nested; give a model"):
    HessianOperator(model, "mse", [(np.ones((2, 2)), np.ones((2, 1)))])


def test_a_variable_that_comes_twice_is_refused():
  v = tf.Variable([1.0, 2.0])
  with pytest.raises(ValueError, match="parameters: expected each variable once"):
    HessianOperator([v, v], lambda p, b: b * tf.reduce_sum(p[0] * p[1]), [np.ones(1, "float32")])
