"""Gauss-Newton products against matrices made of Jacobians, without the package."""

import dataclasses
import random

import keras
from keras import layers
import numpy as np
import pytest
import tensorflow as tf

import tf_hessian
from tf_hessian.curvature.gauss_newton import GaussNewtonOperator
from tf_hessian.curvature.operator import HessianOperator

# Sums of some ten thousand terms, rounded to 1e-16.
FLOAT64 = 1e-12
pytestmark = pytest.mark.usefixtures("float64")
MODES = ("forward_over_backward", "backward_over_backward")


def slowly(name, *quick):
  return () if name in quick else pytest.mark.slow


@dataclasses.dataclass
class Problem:
  """A model, and its loss once more as plain TensorFlow.

  `terms` is (outputs, batch) -> [(sum of losses, weight), ...] of logits where the loss is of them;
  `logits` takes them from the model.
  """

  model: keras.Model
  loss: object
  data: list
  terms: object
  coefficients: tuple = (1.0,)
  options: dict = dataclasses.field(default_factory=dict)
  call: object = None

  def operator(self, kind=GaussNewtonOperator, **options):
    return kind(self.model, self.loss, self.data, **(self.options | options))

  def outputs(self, batch):
    call = self.call or self.model
    return tf.nest.flatten(call(batch[0], training=self.options.get("training", False)))

  def matrix(self):
    """Returns G: J' f_zz J of each batch's terms, and the penalties' own Hessian."""
    variables = self.model.trainable_variables
    parts = [0.0] * len(self.coefficients)
    weights = np.zeros(len(self.coefficients))
    for batch in self.data:
      with tf.GradientTape(persistent=True) as tape:
        zs = self.outputs(batch)
        flat = tf.concat([tf.reshape(z, [-1]) for z in zs], 0)
      # A loop runs at once; traced for all outputs together, it would take a hundred times longer.
      found = tape.jacobian(flat, [v.value for v in variables], experimental_use_pfor=False)
      j = np.concatenate([np.reshape(g, (flat.shape[0], -1)) for g in found], axis=1)
      for t in range(len(self.coefficients)):
        inner, weight = self._loss_hessian(zs, flat, batch, t)
        parts[t] = parts[t] + j.T @ inner @ j
        weights[t] += weight
    total = sum(c * p / w for c, p, w in zip(self.coefficients, parts, weights, strict=True))
    return total + np.diag(self._penalties())

  def _loss_hessian(self, zs, flat, batch, t):
    with tf.GradientTape(persistent=True) as outer:
      outer.watch(flat)
      with tf.GradientTape() as tape:
        tape.watch(flat)
        cut = tf.split(flat, [tf.size(z) for z in zs])
        value, weight = self.terms([tf.reshape(c, z.shape) for c, z in zip(cut, zs)], batch)[t]  # noqa: B905
      gradient = tape.gradient(value, flat)
    inner = outer.jacobian(
      gradient, flat, unconnected_gradients="zero", experimental_use_pfor=False
    )
    return inner.numpy(), float(weight)

  def _penalties(self):
    of = {
      v.path: 2 * layer.kernel_regularizer.l2
      for layer in self.model.layers
      if getattr(layer, "kernel_regularizer", None)
      for v in [layer.kernel]
    }
    variables = self.model.trainable_variables
    return np.concatenate([np.full(np.prod(v.shape), of.get(v.path, 0.0)) for v in variables])


def numbers(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape)


def classes(count, size, seed=1):
  return np.random.default_rng(seed).integers(0, count, size)


def cross_entropy(zs, batch):
  values = tf.nn.sparse_softmax_cross_entropy_with_logits(batch[1], zs[0])
  weights = tf.ones_like(values) if len(batch) < 3 else tf.constant(batch[2])
  return [(tf.reduce_sum(values * weights), tf.reduce_sum(weights))]


def sigmoid_cross_entropy(zs, batch):
  values = tf.nn.sigmoid_cross_entropy_with_logits(batch[1], zs[0])
  return [(tf.reduce_sum(tf.reduce_mean(values, -1)), float(len(values)))]


def squares(zs, batch):
  return [(tf.reduce_sum(tf.reduce_mean((zs[0] - batch[1]) ** 2, -1)), float(len(batch[1])))]


def batches(make, sizes=(4, 4)):
  """Returns batches; most are of one shape, since each shape is traced, which takes the time."""
  return [make(size, seed) for seed, size in enumerate(sizes)]


def dense():
  model = keras.Sequential([keras.Input((4,)), layers.Dense(5, "tanh"), layers.Dense(3)])
  data = batches(lambda k, s: (numbers(k, 4, seed=s), classes(3, k, s), np.abs(numbers(k, seed=s))))
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  return Problem(model, loss, data, cross_entropy)


def of_probabilities(activation, loss, terms, targets, sizes):
  """Keras takes the logits of these losses, though they say that they are of probabilities."""

  def make():
    inputs = keras.Input((4,))
    logits = layers.Dense(3)(layers.Dense(5, "tanh")(inputs))
    model = keras.Model(inputs, layers.Activation(activation)(logits))
    data = batches(lambda k, s: (numbers(k, 4, seed=s), targets(k, s)), sizes)
    return Problem(model, loss, data, terms, call=keras.Model(inputs, logits))

  return make


def convolutional(training):
  def make():
    model = keras.Sequential(
      [
        keras.Input((5, 5, 2)),
        layers.Conv2D(3, 3, use_bias=False, kernel_regularizer=keras.regularizers.L2(2**-7)),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(2, kernel_regularizer=keras.regularizers.L2(2**-6)),
      ]
    )
    for v in model.non_trainable_variables:
      v.assign(np.abs(numbers(*v.shape)) + 0.5)
    data = batches(lambda k, s: (numbers(k, 5, 5, 2, seed=s), classes(2, k, s)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return Problem(model, loss, data, cross_entropy, options={"training": training})

  return make


def two_outputs():
  inputs = keras.Input((4, 2))
  hidden = layers.TimeDistributed(layers.Dense(3, "tanh"))(layers.Masking()(inputs))
  first = layers.TimeDistributed(layers.Dense(2), name="first")(hidden)
  second = layers.Dense(1, name="second")(layers.GlobalAveragePooling1D()(hidden))
  model = keras.Model(inputs, {"first": first, "second": second})

  def make(k, s):
    x = numbers(k, 4, 2, seed=s)
    x[:, 3] = 0  # masked
    y = {"first": numbers(k, 4, 2, seed=s + 5), "second": numbers(k, 1, seed=s + 7)}
    return x, y, np.abs(numbers(k, seed=s))

  def terms(zs, batch):
    of_first = tf.reduce_mean((zs[0] - batch[1]["first"]) ** 2, -1)
    weights = batch[2][:, None] * np.array([1.0, 1.0, 1.0, 0.0])
    of_second = tf.reduce_mean(tf.math.log(tf.cosh(zs[1] - batch[1]["second"])), -1)
    return [
      (tf.reduce_sum(of_first * weights), np.sum(weights)),
      (tf.reduce_sum(of_second * batch[2]), np.sum(batch[2])),
    ]

  loss = {"first": "mean_squared_error", "second": "log_cosh"}
  weights = {"first": 0.5, "second": 2.0}
  return Problem(model, loss, batches(make), terms, (0.5, 2.0), {"loss_weights": weights})


def recurrent():
  model = keras.Sequential([keras.Input((3, 2)), layers.SimpleRNN(3), layers.Dense(2)])
  data = batches(lambda k, s: (numbers(k, 3, 2, seed=s), classes(2, k, s)))
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  return Problem(model, loss, data, cross_entropy)


class OwnLoss(keras.Model):
  """A model that computes its loss, and adds a penalty of its own."""

  def __init__(self):
    super().__init__()
    self.first, self.last = layers.Dense(3, "tanh"), layers.Dense(2)
    self.build((None, 4))

  def build(self, shape):
    self.first.build(shape)
    self.last.build((None, 3))
    self.built = True

  def call(self, x):
    return self.last(self.first(x))

  def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
    del x, sample_weight, training
    return keras.ops.mean((y - y_pred) ** 2)


def computed():
  data = batches(lambda k, s: (numbers(k, 4, seed=s), numbers(k, 2, seed=s + 3)), (4, 3))
  return Problem(OwnLoss(), None, data, squares)


SOFTMAX = of_probabilities(
  "softmax",
  "sparse_categorical_crossentropy",
  cross_entropy,
  lambda k, s: classes(3, k, s),
  sizes=(4, 3),
)
SIGMOID = of_probabilities(
  "sigmoid",
  "binary_crossentropy",
  sigmoid_cross_entropy,
  lambda k, s: classes(2, (k, 3), s).astype(np.float64),
  sizes=(4, 4),
)
PROBLEMS = {
  "dense, weighted": dense,
  "softmax": SOFTMAX,
  "sigmoid": SIGMOID,
  "moving statistics": convolutional(False),
  "batch statistics": convolutional(True),
  "two outputs, masks, weights": two_outputs,
  "recurrent": recurrent,
  "compute_loss": computed,
}


@pytest.fixture
def problem():
  """Returns a function: name -> `Problem` with the same weights each time."""

  def make(name):
    random.seed(0)
    return PROBLEMS[name]()

  return make


@pytest.fixture(scope="module")
def made():
  return {}


@pytest.fixture
def weighted(made, problem):
  """The operator of the dense problem, traced once: no test changes its matrix."""
  if not made:
    made["operator"] = problem("dense, weighted").operator()
  return made["operator"]


@pytest.mark.parametrize(
  "name, mode",
  [
    *((n, MODES[0]) for n in PROBLEMS if n not in ("recurrent", "compute_loss")),
    pytest.param("compute_loss", MODES[0], marks=pytest.mark.slow),
    pytest.param("recurrent", None, marks=pytest.mark.slow),
    *(
      pytest.param(n, MODES[1], marks=() if n == "batch statistics" else pytest.mark.slow)
      for n in PROBLEMS
    ),
  ],
)
def test_products_are_those_of_the_matrix_of_jacobians(
  problem, relative_error, columns, name, mode
):
  p = problem(name)
  operator = p.operator(mode=mode)
  assert relative_error(columns(operator), p.matrix()) <= FLOAT64


@pytest.mark.parametrize(
  "name, vectorized",
  [
    ("dense, weighted", True),
    ("dense, weighted", False),
    pytest.param("batch statistics", True, marks=pytest.mark.slow),
    pytest.param("recurrent", False, marks=pytest.mark.slow),
    pytest.param("recurrent", None, marks=pytest.mark.slow),
  ],
)
def test_products_that_share_a_pass_are_the_same(problem, weighted, monkeypatch, name, vectorized):
  operator = weighted if name == "dense, weighted" else problem(name).operator()
  if vectorized is None:
    vectorized = operator.vectorized
  v = numbers(3, operator.shape[0])
  single = np.stack([operator @ x for x in v])
  monkeypatch.setattr(operator, "vectorized", vectorized)
  np.testing.assert_allclose(operator.products(v), single, rtol=0, atol=1e-13)


def test_penalties_and_activity_have_their_own_hessian(columns, relative_error):
  model = keras.Sequential(
    [
      keras.Input((3,)),
      layers.Dense(2, activity_regularizer=keras.regularizers.L2(0.1)),
      layers.Dense(2, kernel_regularizer=keras.regularizers.L2(0.3)),
    ]
  )
  data = batches(lambda k, s: (numbers(k, 3, seed=s), numbers(k, 2, seed=s + 3)))
  of_loss = columns(GaussNewtonOperator(model, "mean_squared_error", data))
  of_zero = columns(HessianOperator(model, lambda _, z: 0 * z[..., 0], data))
  clean = keras.Sequential([keras.Input((3,)), layers.Dense(2), layers.Dense(2)])
  clean.set_weights(model.get_weights())
  without = columns(GaussNewtonOperator(clean, "mean_squared_error", data))
  assert relative_error(of_loss, without + of_zero) <= FLOAT64


@pytest.mark.parametrize(
  "loss",
  ["log_cosh", *(pytest.param(x, marks=pytest.mark.slow) for x in ("huber", "mean_squared_error"))],
)
def test_of_a_linear_model_it_is_the_hessian(columns, relative_error, loss):
  model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
  data = batches(lambda k, s: (numbers(k, 4, seed=s), numbers(k, 3, seed=s + 2)))
  found = columns(GaussNewtonOperator(model, loss, data))
  assert relative_error(found, columns(HessianOperator(model, loss, data))) <= FLOAT64


def test_without_residuals_it_is_the_hessian(columns, relative_error):
  model = keras.Sequential([keras.Input((4,)), layers.Dense(3, "tanh"), layers.Dense(2)])
  data = [(x, model(x).numpy()) for x in (numbers(4, 4), numbers(3, 4, seed=1))]
  found = columns(GaussNewtonOperator(model, "mean_squared_error", data))
  expected = columns(HessianOperator(model, "mean_squared_error", data))
  assert relative_error(found, expected) <= FLOAT64


@pytest.mark.slow
def test_what_it_lacks_of_the_hessian_is_residuals_times_second_derivatives(columns):
  # z = (sum_j w_j x_j)^2, so that z'' = 2 x x'.
  weights = tf.Variable(numbers(3), dtype=tf.float64)
  loss = tf_hessian.SplitLoss(
    outputs=lambda parameters, batch: tf.linalg.matvec(batch[0], parameters[0]) ** 2,
    loss=lambda outputs, batch: (outputs - batch[1]) ** 2,
  )
  x, y = numbers(5, 3), numbers(5)
  data = [(x[:3], y[:3]), (x[3:], y[3:])]
  h, g = (columns(kind([weights], loss, data)) for kind in (HessianOperator, GaussNewtonOperator))
  residuals = (x @ weights.numpy()) ** 2 - y
  expected = np.einsum("i,ia,ib->ab", 4 * residuals, x, x) / 5
  np.testing.assert_allclose(h - g, expected, rtol=0, atol=1e-13)
  assert np.trace(h - g) == pytest.approx(np.trace(expected), abs=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(
  "name",
  [pytest.param(n, marks=slowly(n, "sigmoid", "batch statistics")) for n in PROBLEMS],
)
def test_field_has_the_matrix_for_derivative(problem, assign, name):
  operator = problem(name).operator()
  point = operator.parameters()
  v = numbers(operator.shape[0]) / np.sqrt(operator.shape[0])
  errors = []
  for h in (1e-4, 1e-5, 1e-6):
    found = []
    for sign in (1, -1):
      assign(operator, point + sign * h * v)
      found.append(operator.field(point))
    difference = (found[0] - found[1]) / (2 * h)
    assign(operator, point)
    errors.append(np.linalg.norm(difference - operator @ v) / np.linalg.norm(operator @ v))
  assert min(errors) <= 1e-8  # eps^(2/3) = 4e-11, times the size of third derivatives


def test_check_compares_it_with_differences(weighted):
  report = tf_hessian.check_operator(weighted)
  assert report.passed and report.difference_error <= 1e-8


def test_description_tells_it_from_the_hessian(problem):
  p = problem("dense, weighted")
  assert p.operator().description()["matrix"] == "gauss_newton"
  assert "matrix" not in p.operator(HessianOperator).description()


def test_density_and_eigenpairs_are_those_of_the_matrix(problem, weighted):
  operator, values = weighted, np.linalg.eigvalsh(problem("dense, weighted").matrix())
  spectrum = tf_hessian.spectral_density(
    operator, num_draws=2, lanczos_steps=operator.shape[0], progress=False
  )
  assert spectrum.nodes[0].max() == pytest.approx(values[-1], rel=1e-10)
  assert spectrum.nodes[0].min() >= -1e-12
  found = tf_hessian.top_eigenpairs(operator, 2, progress=False)
  np.testing.assert_allclose(np.sort(found.values), values[-2:], rtol=1e-8)
  exact = tf_hessian.exact_spectrum(operator)
  np.testing.assert_allclose(np.sort(exact.eigenvalues), values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("vectors_per_pass", [1, 2])
def test_interrupted_run_goes_on_bitwise(weighted, tmp_path, monkeypatch, vectors_per_pass):
  operator = weighted
  options = {
    "num_draws": 2,
    "lanczos_steps": 8,
    "storage": tf_hessian.Storage(vectors_per_pass=vectors_per_pass),
    "progress": False,
  }
  whole = tf_hessian.spectral_density(operator, **options)
  calls, run = [], operator.runner.run

  def failing(*arguments, **named):
    calls.append(1)
    if len(calls) == 9:
      raise KeyboardInterrupt
    return run(*arguments, **named)

  with monkeypatch.context() as patch:
    patch.setattr(operator.runner, "run", failing)
    with pytest.raises(KeyboardInterrupt):
      tf_hessian.spectral_density(operator, workdir=tmp_path / "run", **options)
  again = tf_hessian.spectral_density(operator, workdir=tmp_path / "run", **options)
  for a, b in zip(again.tridiagonals, whole.tridiagonals, strict=True):
    np.testing.assert_array_equal(a, b)


def test_folder_of_the_hessian_is_refused(problem, weighted, tmp_path):
  p = problem("dense, weighted")
  options = {"num_draws": 1, "lanczos_steps": 3, "workdir": tmp_path / "run", "progress": False}
  tf_hessian.spectral_density(p.operator(HessianOperator), **options)
  with pytest.raises(ValueError, match="it holds a run of something else"):
    tf_hessian.spectral_density(weighted, **options)


def test_plan_counts_its_products(weighted):
  plan = tf_hessian.plan(weighted, num_draws=2, lanczos_steps=5, pilot_seconds=0)
  assert plan.num_products == 2 * 5 + 5  # with the check


# Bad input.


def test_function_of_parameters_is_refused_with_the_remedy():
  with pytest.raises(TypeError, match=r"SplitLoss\(outputs=\.\.\., loss=\.\.\.\)"):
    GaussNewtonOperator([tf.zeros(2)], lambda p, batch: p[0][0] * batch, [np.ones(3)])


def test_losses_of_layers_are_refused():
  inputs = keras.Input((2,))
  model = keras.Model(inputs, layers.ActivityRegularization(l2=0.1)(layers.Dense(2)(inputs)))
  model.compile("sgd")
  with pytest.raises(TypeError, match="its layers add the loss; give the loss"):
    GaussNewtonOperator(model, None, [np.ones((3, 2), np.float32)])


def test_loss_that_reads_no_outputs_is_refused():
  model = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
  loss = lambda y, _: tf.reduce_sum(model.layers[0].kernel ** 2) * tf.ones_like(y[:, 0])  # noqa: E731
  data = [(np.ones((3, 2), np.float32), np.ones((3, 2), np.float32))]
  with pytest.raises(ValueError, match="does not depend on the model's outputs"):
    GaussNewtonOperator(model, loss, data) @ np.ones(6)


def test_blocks_are_refused(problem):
  with pytest.raises(ValueError, match="recompute_blocks: is for the Hessian"):
    problem("dense, weighted").operator(recompute_blocks=2)


def test_refusals_come_before_the_data_are_read():
  def data():
    raise AssertionError
    yield

  spec = tf.TensorSpec((None,), tf.float32)
  data = tf.data.Dataset.from_generator(data, output_signature=spec)
  with pytest.raises(TypeError, match="SplitLoss"):
    GaussNewtonOperator([tf.zeros(2)], lambda p, batch: p[0][0] * batch, data)


@pytest.mark.parametrize("name", ["outputs", "loss"])
def test_split_loss_takes_functions(name):
  functions = {"outputs": len, "loss": len, name: 3}
  with pytest.raises(TypeError, match=f"{name}: expected a function, got 3"):
    tf_hessian.SplitLoss(**functions)
