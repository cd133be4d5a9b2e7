"""Losses that are not convex in the outputs, or not of single examples, are named."""

import keras
from keras import layers
import numpy as np
import pytest
import tensorflow as tf

import tf_hessian
from tf_hessian.curvature.fisher import FisherOperator
from tf_hessian.curvature.gauss_newton import GaussNewtonOperator
from tf_hessian.curvature.gradient_covariance import GradientCovarianceOperator

CONVEX = "is not convex in the outputs"


def model(activation=None, **options):
  keras.utils.set_random_seed(0)
  inputs = keras.Input((4,))
  hidden = layers.Dense(5, "tanh")(inputs)
  return keras.Model(inputs, layers.Dense(3, activation, name="last", **options)(hidden))


def data(targets=None):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((6, 4)).astype(np.float32)
  y = rng.standard_normal((6, 3)).astype(np.float32) if targets is None else targets
  return [(x, y)]


CLASSES = np.arange(6) % 3


def sines(y, z):
  return tf.reduce_sum(tf.sin(z - y), axis=-1)


def fourth_powers(y, z):
  return tf.reduce_mean((z - y) ** 4, axis=-1)


def distances(y, z):
  return tf.reduce_sum(tf.abs(z - y), axis=-1)


def contrast(_, z):
  """Losses of examples that depend on the outputs of all others."""
  return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.range(z.shape[0]), z @ tf.transpose(z))


def centred(y, z):
  return tf.reduce_sum((z - tf.reduce_mean(z, axis=0) - y) ** 2, axis=-1)


def slightly_negative(y, z):
  """Convex along all but one direction, of a curvature of -0.01 against 2."""
  return tf.reduce_sum((z - y) ** 2, axis=-1) - 1.005 * (z - y)[:, 0] ** 2


def of_some_rows(y, z):
  """Losses of outputs that are taken by number, so that their gradient is sparse."""
  rows = tf.range(z.shape[0])
  return tf.sin(tf.gather(z, rows)[:, 0] - y[:, 0])


@pytest.mark.parametrize("loss", [sines, slightly_negative, of_some_rows])
def test_loss_that_is_not_convex_is_warned_of(loss, caplog):
  GaussNewtonOperator(model(), loss, data())
  assert caplog.text.count(CONVEX) == 1
  assert "loss: it is" in caplog.text


@pytest.mark.slow
def test_it_is_warned_of_once_however_often_it_is_used(caplog):
  operator = GaussNewtonOperator(model(), sines, data())
  operator @ np.ones(operator.shape[0])
  tf_hessian.check_operator(operator)
  assert caplog.text.count(CONVEX) == 1


@pytest.mark.parametrize("loss", [fourth_powers, distances, centred])
def test_convex_loss_is_not_warned_of(loss, caplog):
  GaussNewtonOperator(model(), loss, data())
  assert CONVEX not in caplog.text


def test_the_warning_names_the_output(caplog):
  inputs = keras.Input((4,))
  both = keras.Model(inputs, [layers.Dense(3, name="a")(inputs), layers.Dense(3, name="b")(inputs)])
  x, y = data()[0]
  GaussNewtonOperator(both, ["mean_squared_error", sines], [(x, (y, y))])
  assert f"b: it {CONVEX}" in caplog.text.replace("'", "") and caplog.text.count(CONVEX) == 1


def test_split_loss_is_looked_at(caplog):
  loss = tf_hessian.SplitLoss(
    outputs=lambda parameters, batch: batch @ parameters[0],
    loss=lambda z, _: tf.reduce_sum(tf.sin(z), axis=-1),
  )
  point = [tf.Variable(np.random.default_rng(0).standard_normal((4, 3)))]
  GaussNewtonOperator(point, loss, [np.random.default_rng(1).standard_normal((5, 4))])
  assert CONVEX in caplog.text


def test_known_losses_are_not_run_for_it(monkeypatch):
  from tf_hessian.curvature import output_checks

  monkeypatch.setattr(output_checks, "_Eager", None)
  GaussNewtonOperator(model(), "mean_squared_error", data())
  FisherOperator(model(), "mean_squared_error", data(), kind="empirical")


OF_EXAMPLES = {
  "empirical Fisher": lambda *a: FisherOperator(*a, kind="empirical"),
  "covariance": GradientCovarianceOperator,
}


@pytest.mark.parametrize("loss", [contrast, centred])
@pytest.mark.parametrize("name", OF_EXAMPLES)
def test_loss_that_couples_examples_is_refused_by_name(name, loss):
  with pytest.raises(ValueError, match=f"loss: {loss.__name__} of an example depends on the outp"):
    OF_EXAMPLES[name](model(), loss, data())


def test_the_largest_batch_is_looked_at():
  x, y = data()[0]
  with pytest.raises(ValueError, match="depends on the outputs"):
    GradientCovarianceOperator(model(), centred, [(x[:1], y[:1]), (x, y)])


@pytest.mark.parametrize("name", OF_EXAMPLES)
def test_loss_of_single_examples_is_taken(name):
  OF_EXAMPLES[name](model(), sines, data())


@pytest.mark.parametrize("name", OF_EXAMPLES)
def test_number_a_batch_is_refused_when_the_operator_is_made(name):
  with pytest.raises(ValueError, match="one number a batch"):
    OF_EXAMPLES[name](model(), lambda y, z: tf.reduce_mean((y - z) ** 2), data())


@pytest.mark.parametrize("kind", ["exact", "sampled"])
@pytest.mark.parametrize("loss", ["huber", sines])
def test_unknown_distribution_is_refused_when_the_operator_is_made(kind, loss):
  with pytest.raises(ValueError, match="isn't known how it distributes targets"):
    FisherOperator(model(), loss, data(), kind=kind)


CLIPPED = "is taken of probabilities"


def test_probabilities_are_warned_of_with_their_layer(caplog):
  raw = model(activation=lambda z: tf.nn.softmax(z))
  operator = GaussNewtonOperator(raw, "sparse_categorical_crossentropy", data(CLASSES))
  v = np.ones(operator.shape[0])
  operator @ v
  operator.products(np.stack([v, v]), vectors_per_pass=2)
  assert caplog.text.count(CLIPPED) == 1 and "of layer 'last'" in caplog.text


@pytest.mark.parametrize(
  "activation, loss",
  [
    ("softmax", "sparse_categorical_crossentropy"),
    (None, keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
  ],
)
def test_logits_are_not_warned_of(activation, loss, caplog):
  operator = GaussNewtonOperator(model(activation), loss, data(CLASSES))
  operator @ np.ones(operator.shape[0])
  assert CLIPPED not in caplog.text


def test_logits_that_mixed_precision_hides_are_warned_of(caplog):
  # Keras casts such outputs to float32, and takes their loss as that of probabilities.
  policy = keras.config.dtype_policy()
  keras.config.set_dtype_policy("mixed_bfloat16")
  try:
    operator = GaussNewtonOperator(
      model("softmax"), "sparse_categorical_crossentropy", data(CLASSES)
    )
    operator @ np.ones(operator.shape[0])
    fisher = FisherOperator(model("softmax"), "sparse_categorical_crossentropy", data(CLASSES))
    assert np.isfinite(fisher @ np.ones(fisher.shape[0])).all()  # which takes logits alone
  finally:
    keras.config.set_dtype_policy(policy)
  assert CLIPPED in caplog.text


# Sample weights.

SEMIDEFINITE = {
  "Gauss-Newton": GaussNewtonOperator,
  "exact Fisher": FisherOperator,
  "empirical Fisher": OF_EXAMPLES["empirical Fisher"],
  "covariance": GradientCovarianceOperator,
}
OF_WEIGHTS = "sample_weight: batch 1 has negative ones, so the "


def weighted(second, dtype=np.float32):
  """Returns two batches whose second has this weight of its last example."""
  x, y = data()[0]
  return [(x, y, np.array([1] * 5 + [last]).astype(dtype)) for last in (1, second)]


@pytest.mark.parametrize("dtype", ["float32", "int32", tf.bfloat16.as_numpy_dtype])
@pytest.mark.parametrize("name", SEMIDEFINITE)
def test_negative_weights_are_warned_of(name, dtype, caplog):
  SEMIDEFINITE[name](model(), "mean_squared_error", weighted(-2, dtype))
  assert caplog.text.count(OF_WEIGHTS) == 1


@pytest.mark.slow
def test_negative_weights_make_a_matrix_indefinite_and_are_warned_of_once(caplog):
  operator = GaussNewtonOperator(model(), "mean_squared_error", weighted(-2))
  tf_hessian.check_operator(operator)
  assert caplog.text.count(OF_WEIGHTS) == 1
  assert tf_hessian.exact_spectrum(operator, progress=False).eigenvalues.min() < -1e-3


def test_negative_weight_of_one_output_is_found_in_streamed_data(caplog):
  inputs = keras.Input((4,))
  both = keras.Model(inputs, [layers.Dense(3, name="a")(inputs), layers.Dense(3, name="b")(inputs)])
  x, y = data()[0]
  batches = [(x, (y, y), (np.ones(6, "f"), np.full(6, w, "f"))) for w in (0.0, -0.5)]
  dataset = tf.data.Dataset.from_generator(
    lambda: batches,
    output_signature=tf.nest.map_structure(tf.type_spec_from_value, batches[0]),
  )
  GaussNewtonOperator(both, ["mean_squared_error"] * 2, dataset, cache_bytes=0, num_batches=2)
  assert caplog.text.count(OF_WEIGHTS) == 1


def test_other_data_of_an_operator_are_looked_at_too(caplog):
  operator = GaussNewtonOperator(model(), "mean_squared_error", weighted(1))
  assert OF_WEIGHTS not in caplog.text
  operator.like(dataset=weighted(-1))
  assert caplog.text.count(OF_WEIGHTS) == 1


@pytest.mark.parametrize("last", [0, 2])
def test_other_weights_are_not_warned_of(last, caplog):
  GaussNewtonOperator(model(), "mean_squared_error", weighted(last))
  assert OF_WEIGHTS not in caplog.text


def test_hessian_may_have_negative_weights(caplog):
  tf_hessian.HessianOperator(model(), "mean_squared_error", weighted(-2))
  assert OF_WEIGHTS not in caplog.text
