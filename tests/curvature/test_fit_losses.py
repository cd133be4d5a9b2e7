"""Models and losses are run as `fit` runs them, and are the same afterwards."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.curvature.fitted import (
  CLASS,
  FLOAT64,
  INPUTS,
  RNG,
  N,
  X,
  Y,
  agree_with_differences,
  slowly,
  state,
  two_outputs,
)
from tf_hessian.curvature import second_order
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.curvature.second_order import DifferentiationError

layers, ops = keras.layers, keras.ops

pytestmark = pytest.mark.usefixtures("float64")


# `training`, decorators and eager execution.


class Net(keras.Model):
  """Batch normalization and dropout, whose `training` the subclasses pass on or don't."""

  def __init__(self):
    super().__init__()
    self.first, self.norm = layers.Dense(4, "tanh"), layers.BatchNormalization()
    self.last = layers.Dense(1)

  def run(self, inputs):
    return self.last(self.norm(self.first(inputs)))


class LeavesItToKeras(Net):
  def call(self, inputs, training=None):  # noqa: ARG002
    return self.run(inputs)


class TakesNone(Net):
  def call(self, inputs):
    return self.run(inputs)


class TakesAny(Net):
  def call(self, inputs, **kwargs):  # noqa: ARG002
    return self.run(inputs)


class Decorated(Net):
  @tf.function
  def call(self, inputs, training=None):  # noqa: ARG002
    if tf.reduce_sum(inputs) > 1e9:  # what AutoGraph is for
      inputs = 2 * inputs
    return self.run(inputs)


class Undecided(Net):
  @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, INPUTS], tf.float64)])
  def call(self, inputs):
    return self.run(inputs)


@pytest.mark.parametrize(
  "kind, training",
  [
    (LeavesItToKeras, False),
    (Decorated, True),
    *slowly((kind, False) for kind in (TakesNone, TakesAny, Decorated)),
    *slowly((kind, True) for kind in (LeavesItToKeras, TakesNone, TakesAny)),
  ],
)
def test_a_subclassed_model_is_called_in_the_mode_asked_for(kind, training, difference_error):
  model = kind()
  model(X[:5])
  for v in model.norm.non_trainable_variables:
    v.assign(v + 0.5)  # so that the modes differ
  before = state(model)
  operator = HessianOperator(model, "mse", [(X, Y)], training=training)
  loss = operator.loss()
  assert agree_with_differences(operator, difference_error)
  assert state(model) == before
  expected = float(np.mean((model(X, training=training) - Y) ** 2))
  assert loss == pytest.approx(expected, rel=FLOAT64)


def test_training_without_an_argument_is_said_to_differ_from_fit(caplog):
  model = TakesNone()
  model(X)
  HessianOperator(model, "mse", [(X, Y)], training=True)
  assert "fit() does not tell them" in caplog.text


@pytest.mark.parametrize(
  "kind, first",
  [
    (Decorated, "another shape"),
    (Undecided, "the same shape"),
    *slowly([(Decorated, "the same shape"), (Undecided, "another shape")]),
    *slowly([(Undecided, "with gradients"), (Decorated, "with gradients")]),
  ],
)
def test_a_decorated_model_works_afterwards_as_before(kind, first, difference_error):
  model = kind()
  model(X[:3])
  if first == "the same shape":
    model(X)
  elif first == "with gradients":
    with tf.GradientTape() as tape:
      loss = tf.reduce_mean(model(X))
    tape.gradient(loss, [v.value for v in model.trainable_variables])
  expected = [np.array(model(x)) for x in (X, X[:3], X[:2])]
  operator = HessianOperator(model, "mse", [(X[:4], Y[:4]), (X[4:], Y[4:])])
  assert agree_with_differences(operator, difference_error)
  for x, value in zip((X, X[:3], X[:2]), expected, strict=True):
    np.testing.assert_array_equal(model(x), value)
  assert operator.loss() == pytest.approx(float(np.mean((expected[0] - Y) ** 2)), rel=FLOAT64)


class DecoratedLayer(layers.Layer):
  def build(self, shape):
    self.kernel = self.add_weight(shape=(shape[-1], 2), name="kernel")

  @tf.function
  def call(self, inputs):
    return tf.tanh(inputs @ self.kernel)


def test_a_layer_that_only_a_decorated_call_has_run_is_differentiated(difference_error):
  model = keras.Sequential([keras.Input((INPUTS,)), DecoratedLayer(), layers.Dense(1)])
  operator = HessianOperator(model, tf.function(lambda t, p: (t - p)[:, 0] ** 4), [(X, Y)])
  assert agree_with_differences(operator, difference_error)
  assert model(X[:2]).shape == (2, 1)


def test_functions_that_are_to_run_eagerly_run_as_graphs_here(difference_error):
  model = keras.Sequential([keras.Input((INPUTS,)), DecoratedLayer(), layers.Dense(1)])
  tf.config.run_functions_eagerly(True)
  try:
    operator = HessianOperator(model, "mse", [(X, Y)])
    assert agree_with_differences(operator, difference_error)
    assert tf.config.functions_run_eagerly()
  finally:
    tf.config.run_functions_eagerly(False)


def test_data_are_cast_to_the_type_of_a_subclassed_model():
  keras.config.set_dtype_policy("float32")
  model = TakesNone()
  model(X.astype(np.float32))
  wide, narrow = (HessianOperator(model, "mse", [(X.astype(t), Y)]) for t in ("f8", "f4"))
  v = np.ones(wide.shape[0])
  np.testing.assert_array_equal(wide @ v, narrow @ v)


# Losses that read variables.


class LossScale(layers.Layer):
  def build(self, shape):
    del shape
    self.log_variance = self.add_weight(shape=(), initializer="ones", name="log_variance")

  def call(self, inputs):
    return inputs


def test_a_loss_that_reads_a_variable_of_the_model_is_differentiated_in_it(difference_error):
  scale = LossScale()
  model = keras.Sequential([keras.Input((INPUTS,)), layers.Dense(1), scale])

  def loss(targets, outputs):
    s = scale.log_variance
    return ops.exp(-s) * ops.square(targets - outputs)[:, 0] + s

  operator = HessianOperator(model, loss, [(X, Y)])
  assert agree_with_differences(operator, difference_error)
  model.compile("sgd", loss)
  # Keras adds losses up in float32.
  assert operator.loss() == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-6)
  # d^2/ds^2 of exp(-s) q + s is exp(-s) q.
  squares = np.mean((model(X) - Y) ** 2)
  last = np.eye(operator.shape[0])[-1]
  np.testing.assert_allclose((operator @ last)[-1], np.exp(-1) * squares, rtol=FLOAT64)


def test_a_plain_function_may_call_the_model_whose_variables_it_is_given(difference_error):
  model = keras.Sequential([keras.Input((INPUTS,)), layers.Dense(2, "tanh"), layers.Dense(1)])

  def loss(parameters, batch):
    del parameters
    return ops.square(model(batch[0]) - batch[1])[:, 0]

  operator = HessianOperator(model.trainable_variables, loss, [(X, Y)])
  assert agree_with_differences(operator, difference_error)
  assert operator.parameter_names == tuple(v.path for v in model.trainable_variables)


# What a loss may be.


class Endpoint(layers.Layer):
  def call(self, targets, outputs):
    self.add_loss(ops.mean(ops.square(targets - outputs)))
    return outputs


def endpoint_model():
  inputs, targets = keras.Input((INPUTS,)), keras.Input((1,))
  hidden = layers.Dense(2, "tanh")(inputs)
  return keras.Model([inputs, targets], Endpoint()(targets, layers.Dense(1)(hidden)))


def test_losses_that_layers_add_are_enough(difference_error):
  model = endpoint_model()
  operator = HessianOperator(model, None, [((X[:5], Y[:5]),), ((X[5:], Y[5:]),)])
  assert agree_with_differences(operator, difference_error)
  expected = float(np.mean((model([X, Y]) - Y) ** 2))
  assert operator.loss() == pytest.approx(expected, rel=FLOAT64)


def test_losses_that_layers_add_are_those_of_the_call_that_is_measured():
  model = endpoint_model()
  loss = [HessianOperator(model, None, [((X, Y),)]).loss() for _ in range(3)]
  assert len(set(loss)) == 1
  model([X, Y])  # Keras keeps the losses of eager calls
  assert HessianOperator(model, None, [((X, Y),)]).loss() == loss[0]


def test_a_model_without_any_loss_is_refused():
  model = two_outputs()
  with pytest.raises(ValueError, match="compiled with none and its layers add none"):
    HessianOperator(model, None, [(X, (Y, Y))])


@pytest.mark.parametrize(
  "targets", [Y, (Y,), [Y], {"a": Y}], ids=["tensor", "tuple", "list", "dict"]
)
def test_targets_may_be_left_out_for_outputs_without_a_loss(targets):
  model = two_outputs()
  operator = HessianOperator(model, ["mse", None], [(X, targets)])
  assert operator.loss() == pytest.approx(float(np.mean((model(X)[0] - Y) ** 2)), rel=FLOAT64)


def test_the_loss_is_the_compiled_one_when_it_is_left_out():
  model = two_outputs()
  model.compile("sgd", {"a": "mse", "b": "mae"}, loss_weights={"a": 2.0, "b": 0.25})
  w = np.abs(RNG.standard_normal(N))
  operator = HessianOperator(model, dataset=[(X, (Y, Y), (w, w))])
  a, b = (np.array(p)[:, 0] - Y[:, 0] for p in model(X))
  expected = (2 * np.sum(w * a**2) + 0.25 * np.sum(w * np.abs(b))) / N  # not by the sum of weights
  assert operator.loss() == pytest.approx(float(expected), rel=FLOAT64)
  given = HessianOperator(model, ["mse", "mae"], [(X, (Y, Y))], loss_weights=[2.0, 0.25])
  assert operator.objective.description == given.objective.description


@pytest.mark.parametrize(
  "reduction", ["mean_with_sample_weight", *slowly([("sum_over_batch_size",)])]
)
def test_weights_masks_and_penalties_are_those_of_fit_when_the_loss_is_left_out(
  reduction, difference_error
):
  inputs = keras.Input((5,))
  hidden = layers.Embedding(7, 3, mask_zero=True)(inputs)
  hidden = layers.Dense(2, "tanh", kernel_regularizer=keras.regularizers.L2(0.25))(hidden)
  model = keras.Model(inputs, layers.Dense(1)(hidden))
  model.compile("sgd", keras.losses.MeanSquaredError(reduction))
  tokens, y, w = RNG.integers(0, 7, (N, 5)), RNG.standard_normal((N, 5, 1)), np.linspace(0, 5, N)
  operator = HessianOperator(model, None, [(tokens, y, w)])
  # Keras adds losses up in float32.
  assert operator.loss() == pytest.approx(
    float(model.compute_loss(y=y, y_pred=model(tokens), sample_weight=w[:, None])), rel=1e-6
  )
  assert agree_with_differences(operator, difference_error)


@pytest.mark.parametrize("shape", [(N, 1), (N, 4), (N, 4, 1)])
@pytest.mark.parametrize("reduction", ["mean_with_sample_weight", "sum_over_batch_size"])
def test_a_mean_by_sample_weights_divides_by_these_as_fit_does(reduction, shape):
  model = keras.Sequential([keras.Input((4, INPUTS)), layers.Dense(2)])
  model.compile("sgd", keras.losses.MeanSquaredError(reduction))
  rng = np.random.default_rng(0)
  x, y = rng.standard_normal((N, 4, INPUTS)), rng.standard_normal((N, 4, 2))
  w = rng.uniform(0.5, 2, shape)
  expected = float(model.compute_loss(y=y, y_pred=model(x), sample_weight=w))
  found = HessianOperator(model, None, [(x, y, w)]).loss()
  assert found == pytest.approx(expected, rel=1e-6)  # Keras adds losses up in float32


@pytest.mark.parametrize("outputs, targets", [((), (1,)), ((1,), ()), ((), ()), ((1,), (1,))])
@pytest.mark.parametrize("weighted", [False, True])
def test_targets_and_outputs_of_one_number_are_aligned_as_in_fit(outputs, targets, weighted):
  model = keras.Sequential([keras.Input((INPUTS,)), layers.Dense(1), layers.Reshape(outputs)])

  def loss(y_true, y_pred):
    return tf.sqrt(tf.reduce_sum((y_true - y_pred) ** 2, axis=-1) + 1)

  model.compile("sgd", loss)
  y, w = Y.reshape(N, *targets), np.linspace(0.5, 2, N) if weighted else None
  expected = float(model.compute_loss(y=y, y_pred=model(X), sample_weight=w))
  data = [(X, y) if w is None else (X, y, w)]
  if weighted and outputs == targets == ():  # of one number, which can't be weighed
    with pytest.raises(ValueError, match="one number a batch"):
      HessianOperator(model, None, data)
    return
  assert HessianOperator(model, None, data).loss() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("batch", [(X, (Y, Y)), (X, [Y, Y]), (X, Y, (np.ones(N), np.ones(N)))])
@pytest.mark.parametrize("kind", ["tensor", "list", "dict"])
def test_more_targets_or_weights_than_outputs_are_refused(batch, kind):
  inputs = keras.Input((INPUTS,))
  output = layers.Dense(1)(inputs)
  kinds = {"tensor": output, "list": [output], "dict": {"a": output}}
  model = keras.Model(inputs, kinds[kind])
  with pytest.raises(ValueError, match="expected one for each of 1 outputs, got 2"):
    HessianOperator(model, "mse", [batch])


@pytest.mark.parametrize("reduction", [None, "none"])
def test_a_loss_of_which_fit_takes_the_sum_is_refused_or_given_as_a_mean(reduction):
  model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
  loss = keras.losses.MeanSquaredError(reduction)
  model.compile("sgd", loss)
  x, y = RNG.standard_normal((N, 3)), RNG.standard_normal((N, 2))
  with pytest.raises(
    ValueError, match="reduction .*[Nn]one.* fit.. takes the sum, but .* mean loss"
  ):
    HessianOperator(model, None, [(x, y)])
  value = HessianOperator(model, loss, [(x, y)]).loss()
  assert value == pytest.approx(float(np.mean((model(x) - y) ** 2)), rel=1e-6)


def test_loss_weights_given_go_before_compiled_ones():
  model = two_outputs()
  model.compile("sgd", "mse", loss_weights=[2.0, 0.25])
  operator = HessianOperator(model, None, [(X, (Y, Y))], loss_weights=[1.0, 1.0])
  expected = sum(float(np.mean((p - Y) ** 2)) for p in model(X))
  assert operator.loss() == pytest.approx(expected, rel=FLOAT64)


class OfPython(keras.Model):
  """A model that only runs eagerly."""

  def __init__(self, value):
    super().__init__()
    self.dense, self.value = layers.Dense(1), value

  def call(self, inputs):
    hidden = self.dense(inputs)
    return hidden * self.value(hidden)


@pytest.mark.parametrize(
  "value",
  [
    lambda x: x.numpy().mean(),
    lambda x: float(ops.mean(x)),
    lambda x: np.asarray(x).mean(),
    lambda x: 1.0 if ops.mean(x) > 0 else 2.0,
  ],
)
def test_a_model_that_only_runs_eagerly_is_refused_with_the_remedy(value):
  model = OfPython(value)
  model(X)
  model.compile("sgd", "mse", run_eagerly=True)
  with pytest.raises(ValueError, match="needs values of tensors in Python.*keras.ops") as caught:
    HessianOperator(model, None, [(X, Y)])
  assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
  "batch, found", [({"image": X, "label": Y}, " .a dict of 'image', 'label'."), ([X, Y], "")]
)
def test_batches_that_are_no_tuples_are_refused_before_the_model_is_called(batch, found):
  model = keras.Sequential([keras.Input((INPUTS,)), layers.Dense(1)])
  with pytest.raises(ValueError, match=f"yields inputs only{found}; expected tuples"):
    HessianOperator(model, "mse", [batch])


def test_one_loss_for_several_outputs_of_a_subclassed_model_is_refused_by_its_name():
  class Two(keras.Model):
    def __init__(self):
      super().__init__()
      self.dense = layers.Dense(1)

    def call(self, inputs):
      return {"u": self.dense(inputs), "v": self.dense(inputs)}

  model = Two()
  model(X)
  with pytest.raises(ValueError, match="returns 2 outputs; give a loss for each"):
    HessianOperator(model, "mse", [(X, {"u": Y, "v": Y})])


# Pairs (sum, weight).


def pair_loss(targets, outputs):
  return ops.sum(ops.square(outputs)) * ops.sum(targets), ops.cast(ops.shape(targets)[0], "float64")


def test_a_pair_weighs_batches_whose_rows_are_not_examples():
  model = keras.Sequential([keras.Input((INPUTS,)), layers.Dense(1, use_bias=False)])
  counts = [(X[:5], np.array([1.0, 2.0])), (X[5:], np.array([0.5, 0.25, 3.0]))]
  operator = HessianOperator(model, pair_loss, counts)
  expected = sum(2 * x.T @ x * t.sum() for x, t in counts) / 5
  dense = operator @ np.eye(INPUTS)
  np.testing.assert_allclose(dense, expected, rtol=FLOAT64, atol=FLOAT64)


def test_rows_that_are_not_examples_are_refused_with_the_way_to_weigh_them():
  model = keras.Sequential([keras.Input((INPUTS,)), layers.Dense(1)])
  with pytest.raises(ValueError, match=r"one row an example.* pair \(sum, weight\)"):
    HessianOperator(model, lambda t, p: ops.mean(p) * ops.mean(t), [(X, Y[:2])])


@pytest.mark.parametrize(
  "loss, message",
  [
    (lambda t, p: (ops.sum(p), ops.sum(t), 1.0), "got 3 values"),
    (lambda t, p: (p - t, 1.0), "pair of scalars"),
  ],
)
def test_wrong_pairs_are_refused(loss, message):
  model = keras.Sequential([keras.Input((INPUTS,)), layers.Dense(1)])
  with pytest.raises(ValueError, match=message):
    HessianOperator(model, loss, [(X, Y)])


def test_a_pair_and_sample_weights_are_refused():
  model = keras.Sequential([keras.Input((INPUTS,)), layers.Dense(1)])
  with pytest.raises(ValueError, match="sample weights or masks can't be applied"):
    HessianOperator(model, pair_loss, [(X, Y, np.ones(N))])


# Targets.


@pytest.mark.parametrize(
  "loss, targets",
  [
    ("categorical_generalized_cross_entropy", CLASS[:, None]),
    *slowly(
      [
        ("circle", CLASS),
        ("circle", CLASS[:, None]),
        ("categorical_generalized_cross_entropy", CLASS),
      ]
    ),
  ],
)
def test_losses_of_class_numbers_take_them(loss, targets, difference_error):
  name = "Circle" if loss == "circle" else "CategoricalGeneralizedCrossEntropy"
  if not hasattr(keras.losses, name):
    pytest.skip("an earlier Keras")
  loss = getattr(keras.losses, name)()
  model = keras.Sequential([keras.Input((INPUTS,)), layers.Dense(3, "softmax")])
  operator = HessianOperator(model, loss, [(X, targets)])
  assert agree_with_differences(operator, difference_error)
  expected = np.mean(loss.call(tf.constant(CLASS), model(X)))
  assert operator.loss() == pytest.approx(float(expected), rel=FLOAT64)


@pytest.mark.slow
@pytest.mark.parametrize(
  "labels", [[0, 1, 2, 0, 1, 2, 0, 3], *slowly([([0, 1, 2, 0, 1, 2, 3, 3],)])]
)
def test_circle_loss_has_products_for_classes_of_one_example_too(labels, difference_error):
  model = keras.Sequential([keras.Input((INPUTS,)), layers.Dense(3, "tanh")])
  operator = HessianOperator(model, keras.losses.Circle(gamma=2.0), [(X, np.array(labels))])
  assert agree_with_differences(operator, difference_error)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1, -1, [0, 1]])
def test_sums_of_exponentials_have_the_values_of_tensorflow_while_they_are_traced(axis, keepdims):
  x = RNG.standard_normal((3, 4))
  x[1] = -np.inf
  x[0, 0] = -np.inf
  expected = tf.reduce_logsumexp(x, axis, keepdims)
  with second_order.differentiable_operations():
    found = tf.reduce_logsumexp(x, axis, keepdims)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


def test_integer_targets_are_numbers_for_a_function_as_in_fit():
  model = keras.Sequential([keras.Input((INPUTS,)), layers.Dense(1)])
  operator = HessianOperator(model, lambda t, p: (t - p)[:, 0] ** 2, [(X, CLASS[:, None])])
  expected = float(np.mean((model(X) - CLASS[:, None]) ** 2))
  assert operator.loss() == pytest.approx(expected, rel=FLOAT64)


def test_integer_targets_that_a_function_gathers_by_stay_integers():
  model = keras.Sequential([keras.Input((INPUTS,)), layers.Dense(3, "softmax")])

  def loss(targets, outputs):
    return -tf.math.log(tf.gather(outputs, targets, batch_dims=1))

  operator = HessianOperator(model, loss, [(X, CLASS)])
  expected = -np.log(np.array(model(X))[np.arange(N), CLASS]).mean()
  assert operator.loss() == pytest.approx(float(expected), rel=FLOAT64)


@pytest.mark.slow  # test_ctc has another model
def test_ctc_is_measured_backward_over_backward(difference_error):
  frames, labels = RNG.standard_normal((2, 6, 4)), np.array([[1, 2, 0], [3, 3, 1]])
  model = keras.Sequential([keras.Input((6, 4)), layers.Dense(5)])
  operator = HessianOperator(model, keras.losses.CTC(), [(frames, labels)])
  assert operator.mode == "backward_over_backward"
  assert agree_with_differences(operator, difference_error)


# Influence.


class Cut(layers.Layer):
  def __init__(self, cut):
    super().__init__()
    self.cut, self.unused = cut, layers.Dense(2, name="unused")

  def build(self, shape):
    self.unused.build(shape)

  def call(self, inputs):
    return self.cut(inputs)


CUTS = {
  "stop_gradient": tf.stop_gradient,
  "integers": lambda x: ops.cast(ops.cast(x, "int32"), "float64"),
  "argmax": lambda x: ops.cast(ops.argmax(x, axis=-1), "float64")[:, None],
  "constant": lambda x: ops.ones((ops.shape(x)[0], 1), "float64"),
}


IN_BLOCKS = [
  *((cut, None) for cut in ("stop_gradient", "argmax")),
  ("stop_gradient", 2),
  *slowly((cut, None) for cut in ("integers", "constant")),
  *slowly((cut, 2) for cut in CUTS if cut != "stop_gradient"),
]


@pytest.mark.parametrize("cut, blocks", IN_BLOCKS)
def test_variables_without_influence_are_named(cut, blocks, caplog):
  inputs = keras.Input((INPUTS,))
  hidden = layers.Dense(1, name="connected")(inputs)
  outputs = layers.Add()([Cut(CUTS[cut])(layers.Dense(1, name="behind")(inputs)), hidden])
  operator = HessianOperator(keras.Model(inputs, outputs), "mse", [(X, Y)], recompute_blocks=blocks)
  product = operator @ np.ones(operator.shape[0])
  (line,) = (r.getMessage() for r in caplog.records if "without influence" in r.getMessage())
  named = [n for n in operator.parameter_names if n in line]
  assert named == [n for n in operator.parameter_names if "connected" not in n]
  assert np.count_nonzero(product) == INPUTS + 1


@pytest.mark.parametrize(
  "call, cut, blocks",
  [
    *(("product", cut, None) for cut in CUTS),
    *((call, "stop_gradient", None) for call in ("gradient", "products")),
    ("products", "stop_gradient", 2),
    *slowly(
      (call, cut, blocks)
      for call in ("gradient", "product", "products")
      for cut in CUTS
      for blocks in (None, 2)
      if (call, blocks) != ("product", None)
      and (cut != "stop_gradient" or (call, blocks) in (("gradient", 2), ("product", 2)))
    ),
  ],
)
def test_no_influence_at_all_is_an_error(cut, blocks, call):
  model = keras.Sequential([keras.Input((INPUTS,)), layers.Dense(1), Cut(CUTS[cut])])
  operator = HessianOperator(model, "mse", [(X, Y)], recompute_blocks=blocks)
  v = np.ones(operator.shape[0])
  calls = {"gradient": operator.gradient, "product": lambda: operator @ v}
  with pytest.raises(DifferentiationError, match="no variable has influence .*dense"):
    calls.get(call, lambda: operator.products(np.stack([v, v])))()
