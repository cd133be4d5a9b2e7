"""The operator against closed forms and differences, and as a SciPy linear operator."""

import keras
import numpy as np
import pytest
import scipy.sparse.linalg
import tensorflow as tf

from tf_hessian.curvature import products
from tf_hessian.curvature.failures import NonFiniteError
from tf_hessian.curvature.operator import CurvatureOperator, HessianOperator
from tf_hessian.curvature.products import MODES
from tf_hessian.distribute import engines
from tf_hessian.distribute.sharing import Sharing

layers = keras.layers
N, INPUTS, CLASSES = 11, 4, 3
LOOPS = {"StatelessWhile", "While"}
# Two correct float64 computations of these small matrices differ by some roundings of 1e-16;
# 1e-12 leaves room for cancellation, and nothing that passed through float32 meets it.
FLOAT64 = 1e-12
# About 16 roundings of float32.
FLOAT32 = 2e-6


def rounded(rng, *shape):
  """Returns normal numbers that float32 has exactly, as float64."""
  return rng.standard_normal(shape).astype(np.float32).astype(np.float64)


def batches(*arrays, sizes):
  """Cuts arrays into a list of batches of the given sizes."""
  ends = np.cumsum(sizes)
  return [tuple(a[e - s : e] for a in arrays) for s, e in zip(sizes, ends, strict=True)]


RNG = np.random.default_rng(0)
X = rounded(RNG, N, INPUTS)
CLASS = RNG.integers(0, CLASSES, N)
ONE_HOT = np.eye(CLASSES)[CLASS]
KERNEL, BIAS = rounded(RNG, INPUTS, CLASSES), rounded(RNG, CLASSES)
LOGITS = X @ KERNEL + BIAS


def softmax_model(dtype, activation=None):
  model = keras.Sequential(
    [
      keras.Input((INPUTS,), dtype=dtype),
      layers.Dense(CLASSES, activation=activation, dtype=dtype, name="logits"),
    ]
  )
  model.set_weights([KERNEL, BIAS])
  return model


def softmax_operator(sizes=(N,), weights=None, dtype="float64", **options):
  arrays = (X, CLASS) if weights is None else (X, CLASS, np.asarray(weights, np.float64))
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  return HessianOperator(softmax_model(dtype), loss, batches(*arrays, sizes=sizes), **options)


# Closed forms.

# Models are in float32 too.
OF_FUNCTIONS = [
  ("float64", FLOAT64),
  pytest.param("float32", FLOAT32, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("kind, mode", zip([tf.constant, tf.Variable], MODES, strict=True))
def test_a_quadratic_function_has_its_matrix(symmetric_matrix, columns, kind, mode):
  a = tf.constant(symmetric_matrix(7))

  def loss(parameters, batch):
    del batch
    x = tf.concat([tf.reshape(p, [-1]) for p in parameters], 0)
    return 0.5 * tf.tensordot(x, tf.linalg.matvec(a, x), 1)

  point = [kind(np.arange(3.0)), kind(np.ones((2, 2)))]
  operator = HessianOperator(point, loss, [np.zeros(5)] * 2, mode=mode)
  np.testing.assert_allclose(columns(operator), a.numpy(), rtol=0, atol=1e-14)


@pytest.fixture(scope="module")
def symmetric_matrix():
  def make(n):
    a = np.random.default_rng(1).standard_normal((n, n))
    return a + a.T

  return make


@pytest.mark.parametrize("dtype, tolerance", [("float64", FLOAT64), ("float32", FLOAT32)])
def test_linear_regression_by_a_model(
  columns, relative_error, regression_hessian, dtype, tolerance
):
  outputs = 2
  model = keras.Sequential(
    [keras.Input((INPUTS,), dtype=dtype), layers.Dense(outputs, dtype=dtype)]
  )
  targets = rounded(np.random.default_rng(1), N, outputs)
  operator = HessianOperator(
    model, keras.losses.MeanSquaredError(), batches(X, targets, sizes=(4, 4, 3))
  )
  assert relative_error(columns(operator), regression_hessian(X, outputs)) <= tolerance


@pytest.mark.parametrize("dtype, tolerance", OF_FUNCTIONS)
def test_linear_regression_by_a_function(columns, relative_error, dtype, tolerance):
  def loss(parameters, batch):
    x, y = batch
    return (tf.linalg.matvec(x, parameters[0]) - y) ** 2

  data = batches(X.astype(dtype), X[:, 0].astype(dtype), sizes=(4, 4, 3))
  operator = HessianOperator([tf.zeros(INPUTS, dtype)], loss, data)
  assert relative_error(columns(operator), 2 * X.T @ X / N) <= tolerance


WAYS = {
  "categorical from logits": (None, keras.losses.CategoricalCrossentropy, True, ONE_HOT),
  "categorical": ("softmax", keras.losses.CategoricalCrossentropy, False, ONE_HOT),
  "sparse from logits": (None, keras.losses.SparseCategoricalCrossentropy, True, CLASS),
  "sparse": ("softmax", keras.losses.SparseCategoricalCrossentropy, False, CLASS),
}


@pytest.mark.parametrize(
  "way, dtype, tolerance",
  [
    *((way, "float64", FLOAT64) for way in WAYS),
    ("sparse from logits", "float32", FLOAT32),
    *(
      pytest.param(way, "float32", FLOAT32, marks=pytest.mark.slow)
      for way in WAYS
      if way != "sparse from logits"
    ),
  ],
)
def test_softmax_regression_by_a_model(
  columns, relative_error, softmax_hessian, way, dtype, tolerance
):
  activation, loss, from_logits, targets = WAYS[way]
  operator = HessianOperator(
    softmax_model(dtype, activation),
    loss(from_logits=from_logits),
    batches(X, targets, sizes=(N,)),
  )
  assert relative_error(columns(operator), softmax_hessian(X, LOGITS)) <= tolerance


@pytest.mark.parametrize("dtype, tolerance", OF_FUNCTIONS)
def test_softmax_regression_by_a_function(
  columns, relative_error, softmax_hessian, dtype, tolerance
):
  def loss(parameters, batch):
    x, y = batch
    return tf.nn.softmax_cross_entropy_with_logits(y, x @ parameters[0] + parameters[1])

  data = batches(X.astype(dtype), ONE_HOT.astype(dtype), sizes=(N,))
  point = [tf.constant(KERNEL, dtype), tf.constant(BIAS, dtype)]
  operator = HessianOperator(point, loss, data)
  assert relative_error(columns(operator), softmax_hessian(X, LOGITS)) <= tolerance


# A small convolutional net.


def conv_net(dtype, dropout):
  """Convolution, batch norm, both poolings, dropout; smooth but for the maxima."""
  model = keras.Sequential(
    [
      keras.Input((6, 6, 2), dtype=dtype),
      layers.Conv2D(2, 3, padding="same", activation="tanh", dtype=dtype),
      layers.BatchNormalization(dtype=dtype),
      layers.AveragePooling2D(2, dtype=dtype),
      layers.MaxPooling2D(2, strides=1, dtype=dtype),
      layers.Flatten(dtype=dtype),
      layers.Dropout(dropout, seed=1, dtype=dtype),
      layers.Dense(3, dtype=dtype),
    ]
  )
  rng = np.random.default_rng(2)
  for v in model.trainable_variables:
    v.assign(0.5 * rounded(rng, *v.shape) + ("gamma" in v.path))
  for v in model.non_trainable_variables:
    if "moving" in v.path:
      v.assign(np.abs(rounded(rng, *v.shape)) + 0.5)
  return model


@pytest.fixture(scope="module")
def conv_operator():
  """Returns a function: (dtype, training, mode, dropout) -> operator, each made once."""
  rng = np.random.default_rng(3)
  data = batches(rounded(rng, 8, 6, 6, 2), rng.integers(0, 3, 8), sizes=(4, 4))
  made = {}

  def make(dtype, training, mode=MODES[0], dropout=0.3):
    key = dtype, training, mode, dropout
    if key not in made:
      loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
      made[key] = HessianOperator(
        conv_net(dtype, dropout), loss, data, training=training, mode=mode
      )
    return made[key]

  return make


@pytest.fixture(scope="module")
def conv_matrix(conv_operator, columns):
  made = {}

  def make(*key):
    if key not in made:
      made[key] = columns(conv_operator(*key))
    return made[key]

  return make


@pytest.mark.parametrize("training", [pytest.param(False, marks=pytest.mark.slow), True])
def test_conv_net_modes_of_differentiation_agree(conv_matrix, relative_error, training):
  first, second = (conv_matrix("float64", training, mode) for mode in MODES)
  assert relative_error(first, second) <= FLOAT64


@pytest.mark.parametrize("training", [False, True])
def test_conv_net_equals_central_differences(
  conv_operator, conv_matrix, difference_error, training
):
  operator = conv_operator("float64", training, MODES[0])
  matrix = conv_matrix("float64", training, MODES[0])
  # These steps give some 1e-10; third derivatives are larger than second ones.
  steps = (1e-4, 3e-5)
  assert difference_error(operator, np.eye(len(matrix)), matrix, steps=steps) <= 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("training", [pytest.param(False, marks=pytest.mark.slow), True])
def test_conv_net_in_float32_agrees_with_float64(conv_matrix, relative_error, training):
  # Without dropout: Keras draws other random numbers in another type, so other units are dropped.
  first, second = (
    conv_matrix(d, training, MODES[0], 0.0 if training else 0.3) for d in ("float32", "float64")
  )
  assert relative_error(first, second) <= FLOAT32


@pytest.mark.parametrize("training", [False, True])
def test_conv_net_is_symmetric(conv_matrix, relative_error, training):
  matrix = conv_matrix("float64", training, MODES[0])
  assert relative_error(matrix.T, matrix) <= FLOAT64


# Batches.


def test_a_short_last_batch_counts_by_its_examples(columns, relative_error):
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

  def matrix(sizes):
    data = batches(X[:3], CLASS[:3], sizes=sizes)
    return columns(HessianOperator(softmax_model("float64"), loss, data))

  assert relative_error(matrix((2, 1)), matrix((3,))) <= 1e-15 * 10


@pytest.mark.parametrize(
  "sizes", [(1, 4, 2, 4), *(pytest.param(s, marks=pytest.mark.slow) for s in [(5, 1, 5), (1,) * N])]
)
def test_batches_of_any_sizes_give_the_hessian_of_the_whole(
  columns, relative_error, softmax_hessian, sizes
):
  assert relative_error(columns(softmax_operator(sizes)), softmax_hessian(X, LOGITS)) <= FLOAT64


WEIGHTS = {
  "positive": np.linspace(0.5, 3, N),
  "some zero": np.array([0, 1, 2, 0, 0, 1, 3, 1, 0, 1, 0.5]),
  "a whole batch zero": np.array([0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7]),
}


@pytest.mark.parametrize(
  "which", [pytest.param(w, marks=pytest.mark.slow if w == "positive" else []) for w in WEIGHTS]
)
def test_sample_weights_enter_sum_and_divisor(columns, relative_error, softmax_hessian, which):
  weights = WEIGHTS[which]
  expected = softmax_hessian(X, LOGITS, weights)
  assert relative_error(columns(softmax_operator((4, 4, 3), weights)), expected) <= FLOAT64


def as_dataset(data):
  specs = tf.nest.map_structure(
    lambda a: tf.TensorSpec((None, *a.shape[1:]), a.dtype), tuple(data[0])
  )
  return tf.data.Dataset.from_generator(lambda: iter(data), output_signature=specs)


@pytest.mark.parametrize("sizes", [pytest.param((4, 4, 3), marks=pytest.mark.slow), (4, 3, 4)])
def test_cached_and_streamed_data_give_bitwise_the_same(sizes):
  data = as_dataset(batches(X, CLASS, sizes=sizes))
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  cached, streamed = (
    HessianOperator(softmax_model("float64"), loss, data, cache_bytes=size) for size in (2**30, 0)
  )
  assert (cached.batches.cached, streamed.batches.cached) == (True, False)
  for v in np.random.default_rng(0).standard_normal((10, cached.shape[0])):
    np.testing.assert_array_equal(cached @ v, streamed @ v)


def test_a_list_of_batches_is_cached_whatever_its_size(operator):
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  data = batches(X, CLASS, sizes=(4, 4, 3))
  small = HessianOperator(softmax_model("float64"), loss, data, cache_bytes=0)
  v = np.random.default_rng(0).standard_normal(small.shape[0])
  assert small.batches.cached
  np.testing.assert_array_equal(operator @ v, small @ v)


def test_num_batches_uses_only_the_first(columns, relative_error, softmax_hessian):
  operator = softmax_operator((4, 4, 3), num_batches=2)
  assert relative_error(columns(operator), softmax_hessian(X[:8], LOGITS[:8])) <= FLOAT64


def test_a_tf_data_set_and_a_list_give_bitwise_the_same(operator):
  data = tf.data.Dataset.from_tensor_slices((X, CLASS)).batch(4)
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  first = HessianOperator(softmax_model("float64"), loss, data)
  v = np.arange(first.shape[0], dtype=float)
  np.testing.assert_array_equal(first @ v, operator @ v)


# A SciPy linear operator.


@pytest.fixture(scope="module")
def operator():
  return softmax_operator((4, 4, 3))


@pytest.fixture(scope="module")
def matrix(operator, columns):
  return columns(operator)


def test_shape_and_dtype(operator):
  n = (INPUTS + 1) * CLASSES
  assert isinstance(operator, scipy.sparse.linalg.LinearOperator)
  assert (operator.shape, operator.dtype) == ((n, n), np.float64)


def test_eigsh_finds_the_extreme_eigenvalues(operator, softmax_hessian):
  expected = np.linalg.eigvalsh(softmax_hessian(X, LOGITS))
  found = scipy.sparse.linalg.eigsh(
    operator, k=3, which="LA", return_eigenvectors=False, v0=X.flat[:15]
  )
  np.testing.assert_allclose(np.sort(found), expected[-3:], rtol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 70])
def test_matmat_equals_columns_of_matvec(operator, matrix, count):
  x = np.random.default_rng(count).standard_normal((operator.shape[0], count))
  # The same sums in another order: some roundings of the largest entries.
  np.testing.assert_allclose(operator @ x, matrix @ x, rtol=0, atol=1e-13)


def test_matmat_does_not_depend_on_columns_per_pass(matrix):
  x = np.random.default_rng(0).standard_normal((len(matrix), 5))
  operator = softmax_operator()
  operator.vectors_per_pass = 2
  np.testing.assert_allclose(operator @ x, matrix @ x, rtol=0, atol=1e-13)


@pytest.mark.parametrize("view", ["H", "T"])
def test_adjoint_and_transpose_give_the_same_products(operator, view):
  v = np.arange(operator.shape[0], dtype=float)
  np.testing.assert_array_equal(getattr(operator, view) @ v, operator @ v)


def test_rmatvec_equals_matvec(operator):
  v = np.arange(operator.shape[0], dtype=float)
  np.testing.assert_array_equal(operator.rmatvec(v), operator.matvec(v))


def test_products_accept_float32_and_strided_vectors(operator):
  v = np.arange(2 * operator.shape[0], dtype=np.float32)[::2]
  np.testing.assert_array_equal(operator @ v, operator @ v.astype(np.float64))


def test_operator_follows_the_model(softmax_hessian, columns, relative_error):
  operator = softmax_operator()
  columns(operator)
  operator.model.set_weights([KERNEL / 2, BIAS])
  expected = softmax_hessian(X, X @ KERNEL / 2 + BIAS)
  assert relative_error(columns(operator), expected) <= FLOAT64


def test_parameter_names_and_shapes_are_in_the_order_of_trainable_variables(operator):
  variables = operator.model.trainable_variables
  assert list(operator.parameter_names) == [v.path for v in variables]
  assert list(operator.parameter_shapes) == [tuple(v.shape) for v in variables]


def test_parameters_returns_the_point(operator):
  np.testing.assert_array_equal(operator.parameters(), np.append(KERNEL.ravel(), BIAS))


def test_description_tells_what_defines_the_matrix(operator):
  described = operator.description()
  assert described["num_examples"] == N
  assert described["data_fingerprint"] == operator.batches.fingerprint
  assert described["training"] is False


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_precision_is_that_of_the_arithmetic(dtype):
  assert softmax_operator(dtype=dtype).precision == np.finfo(dtype).eps


# Loss and gradient.


def test_gradient_equals_differences_of_the_loss(operator, difference_error):
  gradient = operator.gradient()
  identity = np.eye(operator.shape[0])
  # Differences of the loss itself lose eps / h = 1e-11 at h = 1e-5.
  assert difference_error(operator, identity, gradient, operator.loss) <= 1e-8


@pytest.mark.parametrize("sizes", [(N,), (4, 4, 3)])
def test_loss_equals_the_models_own_evaluate(sizes):
  operator = softmax_operator(sizes, dtype="float32")
  operator.model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
  expected = operator.model.evaluate(X, CLASS, batch_size=4, verbose=0)
  np.testing.assert_allclose(operator.loss(), expected, rtol=1e-6)  # evaluate is float32


def test_loss_equals_the_models_own_evaluate_with_regularization():
  model = keras.Sequential(
    [keras.Input((INPUTS,)), layers.Dense(2, kernel_regularizer=keras.regularizers.L2(0.1))]
  )
  model.compile(loss="mse")
  targets = X[:, :2]
  expected = model.evaluate(X, targets, batch_size=4, verbose=0)
  operator = HessianOperator(model, "mse", batches(X, targets, sizes=(4, 4, 3)))
  np.testing.assert_allclose(operator.loss(), expected, rtol=1e-6)


def test_gradient_is_the_closed_form(operator, relative_error):
  p = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
  x1 = np.concatenate([X, np.ones((N, 1))], axis=1)
  expected = (x1.T @ (p - ONE_HOT) / N).ravel()
  assert relative_error(operator.gradient(), expected) <= FLOAT64


# Errors.


def test_unknown_mode_is_refused_with_the_nearest():
  with pytest.raises(ValueError, match="did you mean 'forward_over_backward'"):
    softmax_operator(mode="forward_over_backwards")


def test_a_vector_of_another_length_is_refused(operator):
  with pytest.raises(ValueError):
    operator @ np.zeros(3)


@pytest.mark.parametrize("what", ["loss", "gradient", "product"])
def test_data_that_make_nan_name_the_batch(what):
  x = X.copy()
  x[5, 0] = 1e308
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  operator = HessianOperator(softmax_model("float64"), loss, batches(x, CLASS, sizes=(4, 4)))
  operator.model.layers[-1].kernel.assign(np.full((INPUTS, CLASSES), 10.0))  # logits are infinite
  call = {"loss": operator.loss, "gradient": operator.gradient}
  with pytest.raises(NonFiniteError, match="batch 1 "):
    call.get(what, lambda: operator @ np.ones(operator.shape[0]))()


def test_nan_of_a_product_names_the_batch_and_the_variable():
  # At 0, x^1.5 has a finite value and gradient, and an infinite second derivative.
  def loss(parameters, batch):
    a, b = parameters
    return a**2 * batch + tf.pow(b + 7 - batch, 1.5)

  point = [tf.Variable(1.0, name="a"), tf.Variable(0.0, name="b")]
  operator = HessianOperator(point, loss, [np.float32([1, 2]), np.float32([5, 7])])
  with pytest.raises(NonFiniteError, match="product: in batch 1 .*variable 'b'"):
    operator @ np.ones(2)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_nan_in_a_variable_names_it(what):
  operator = softmax_operator()
  operator.model.layers[-1].bias.assign([0, np.nan, 0])
  with pytest.raises(NonFiniteError, match="variable '[^']*bias' has NaN or infinity in 1 of 3"):
    getattr(operator, what)()


QUICK_BAD = [("kernel", np.nan), ("bias", np.inf), ("gamma", np.nan)]
QUICK_BAD += [("moving_mean", -np.inf), ("moving_variance", np.nan)]
ALL_BAD = [(name, bad) for name, _ in QUICK_BAD for bad in (np.nan, np.inf, -np.inf)]


@pytest.mark.parametrize(
  "name, bad",
  [pytest.param(*case, marks=[] if case in QUICK_BAD else pytest.mark.slow) for case in ALL_BAD],
)
def test_a_variable_before_a_relu_is_looked_at_before_the_first_pass(name, bad):
  # Fused kernels clip NaN to numbers: the loss was finite.
  model = keras.Sequential(
    [keras.Input((INPUTS,)), layers.Dense(5), layers.BatchNormalization(), layers.ReLU()]
  )
  (variable,) = (v for v in model.variables if v.path.endswith(f"/{name}"))
  value = variable.numpy()
  value[..., 1] = bad
  variable.assign(value)
  operator = HessianOperator(model, "mse", batches(X, np.ones((N, 5)), sizes=(N,)))
  with pytest.raises(NonFiniteError, match=f"variable '.*/{name}' has NaN or infinity in .*first"):
    operator @ np.ones(operator.shape[0])


def test_nan_in_a_variable_after_good_products_names_it():
  operator = softmax_operator()
  v = np.ones(operator.shape[0])
  operator @ v
  operator.model.layers[-1].bias.assign([0, np.nan, 0])
  with pytest.raises(NonFiniteError, match="product: .*variable '[^']*bias' itself is not finite"):
    operator @ v


def test_nan_in_a_block_of_products_names_the_batch():
  operator = softmax_operator()
  n = operator.shape[0]
  operator @ np.eye(n)
  operator.model.layers[-1].kernel.assign(np.full((INPUTS, CLASSES), np.nan))
  with pytest.raises(NonFiniteError, match="product: in batch 0 "):
    operator @ np.eye(n)


@pytest.mark.parametrize("bad", [CLASSES, -1])
def test_a_class_number_out_of_range_names_the_batch(bad):
  y = CLASS.copy()
  y[6] = bad
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  operator = HessianOperator(softmax_model("float32"), loss, batches(X, y, sizes=(4, 4)))
  with pytest.raises(ValueError, match="batch 1 "):
    operator @ np.ones(operator.shape[0])


def test_weights_that_are_all_zero_are_refused():
  operator = softmax_operator((4, 4, 3), np.zeros(N))
  with pytest.raises(ValueError, match="expected a positive sum of the examples' weights, got 0"):
    operator @ np.ones(operator.shape[0])


@pytest.mark.parametrize("value, error", [(0, ValueError), (1.5, TypeError)])
def test_columns_per_pass_must_be_a_count(value, error):
  operator = softmax_operator()
  with pytest.raises(error, match="vectors_per_pass: expected an integer of at least 1"):
    operator.vectors_per_pass = value
  assert operator.vectors_per_pass == 32


def test_a_vector_that_is_not_finite_is_refused():
  operator = softmax_operator()
  v = np.ones(operator.shape[0])
  v[1] = np.nan
  with pytest.raises(ValueError, match="vector: expected finite numbers"):
    operator @ v


@pytest.mark.parametrize(
  "size", [*(pytest.param(s, marks=pytest.mark.slow) for s in (1e-300, 1e-30, 1e300)), 1e-42, 1e39]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_of_vectors_of_extreme_size_are_scaled(size, dtype):
  x = tf.Variable(np.linspace(1, 2, 6), dtype=dtype)
  data = [np.ones(1, dtype)]
  operator = HessianOperator([x], lambda p, b: b * tf.reduce_sum(p[0] ** 4), data)
  v = np.linspace(-1, 1, 6)
  for vectorized in (True, False):
    operator.vectorized = vectorized
    expected, found = operator @ v, operator @ (size * v)
    # The factor is no power of two: entries are rounded anew.
    np.testing.assert_allclose(found / size, expected, rtol=4 * np.finfo(dtype).eps)
    both = operator.products(np.stack([v, size * v]))
    np.testing.assert_allclose(both[1] / size, expected, rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(operator @ (2.0**-100 * v), 2.0**-100 * expected)


@pytest.mark.parametrize("count", [0, 1, 2, 16, 17])
@pytest.mark.parametrize("vectorized", [True, False])
def test_a_variable_without_entries_adds_none(count, vectorized):
  point = [tf.Variable(np.zeros((0, 3))), tf.Variable(np.linspace(1, 2, 20))]
  data = [np.ones(1)]
  operator = HessianOperator(point, lambda p, b: b * tf.reduce_sum(p[1] ** 4), data)
  operator.vectorized = vectorized
  vectors = np.random.default_rng(0).standard_normal((20, count))
  expected = 12 * np.linspace(1, 2, 20)[:, None] ** 2 * vectors
  np.testing.assert_allclose(operator @ vectors, expected, rtol=1e-13)


def test_a_complex_vector_is_refused():
  operator = softmax_operator()
  with pytest.raises(TypeError, match="vector: expected real numbers"):
    operator @ (1j * np.ones(operator.shape[0]))


def test_a_large_model_takes_fewer_columns_at_once():
  # 4.2 million parameters, of which a column takes 151 MB.
  model = keras.Sequential([keras.Input((2048,)), layers.Dense(2048)])
  x = np.ones((8, 2048), np.float32)
  assert HessianOperator(model, "mse", [(x, x)]).vectors_per_pass == 7
  assert softmax_operator().vectors_per_pass == 32


@pytest.mark.parametrize("elements, stacked", [(1_000, True), (1_000_000, False)])
def test_only_small_tensors_are_stacked(elements, stacked):
  model = keras.Sequential([keras.Input((elements,)), layers.Rescaling(2), layers.Dense(1)])
  x = np.ones((8, elements), np.float32)
  assert HessianOperator(model, "mse", [(x, np.ones((8, 1)))]).vectorized == stacked


@pytest.fixture(scope="module")
def one_by_one():
  operator = softmax_operator()
  operator.vectors_per_pass = 4
  operator.vectorized = False
  return operator


@pytest.mark.parametrize("count", [1, 3, 4, 5])
def test_products_one_by_one_are_bitwise_those_of_single_vectors(one_by_one, count):
  operator = one_by_one
  vectors = np.random.default_rng(count).standard_normal((count, operator.shape[0]))
  expected = [operator @ v for v in vectors]
  np.testing.assert_array_equal(operator.products(vectors), expected)


def test_a_stacked_product_does_not_depend_on_the_others_in_its_pass():
  operator = softmax_operator()
  vectors = np.random.default_rng(0).standard_normal((6, operator.shape[0]))
  together = operator.products(vectors, vectors_per_pass=6)
  vectors[[0, 1, 3, 5]] = 0.0
  np.testing.assert_array_equal(
    operator.products(vectors, vectors_per_pass=6)[[2, 4]], together[[2, 4]]
  )


def test_several_vectors_are_traced_once():
  operator = softmax_operator()
  operator.vectorized = False
  for count in (4, 2, 1):
    operator.products(np.ones((count, operator.shape[0])), vectors_per_pass=4)
  assert operator.program.columns(4).tracing_count == 1


def test_what_can_not_be_vectorized_is_refused_by_name():
  inputs = keras.Input((3, 2))
  model = keras.Model(inputs, keras.layers.SimpleRNN(2, name="memory")(inputs))
  data = [(np.zeros((2, 3, 2), np.float32), np.zeros((2, 2), np.float32))]
  operator = HessianOperator(model, "mean_squared_error", data)
  with pytest.raises(ValueError, match="expected False, since operation .* of layer 'memory'"):
    operator.vectorized = True
  operator.vectorized = False


def test_products_are_stacked_or_not_as_was_said_last():
  operator = softmax_operator()
  vectors = np.random.default_rng(0).standard_normal((3, operator.shape[0]))
  found = []
  for stacked in (True, False, True):
    operator.vectorized = stacked
    found.append(operator.products(vectors, vectors_per_pass=3))
    loops = {n.op for g in operator.program.columns(3).graphs for n in g.node} & LOOPS
    assert bool(loops) != stacked
  np.testing.assert_array_equal(found[1], [operator @ v for v in vectors])
  np.testing.assert_array_equal(found[2], found[0])


@pytest.mark.parametrize("shape", [(9,), (2, 9)])
def test_vectors_of_another_length_are_refused(shape):
  with pytest.raises(ValueError, match=r"vectors: expected shape \(k, \d+\), got"):
    softmax_operator().products(np.ones(shape))


@pytest.mark.parametrize("seed", [None, 1.5, -1])
def test_a_seed_that_is_no_natural_number_is_refused(seed):
  with pytest.raises((TypeError, ValueError), match="seed: expected an integer"):
    softmax_operator(seed=seed)


def random_conv_net(rate):
  return keras.Sequential(
    [
      keras.Input((6, 6, 2)),
      layers.Conv2D(2, 3, activation="tanh"),
      layers.BatchNormalization(),
      layers.Flatten(),
      layers.Dropout(rate, name="drop"),
      layers.Dense(CLASSES),
    ]
  )


def conv_net_operator(rate, **options):
  data = batches(RNG.standard_normal((N, 6, 6, 2)), CLASS, sizes=(4, 4))
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  return HessianOperator(random_conv_net(rate), loss, data, training=True, **options)


@pytest.mark.usefixtures("float64")
def test_compiled_random_layer_is_no_obstacle_where_it_draws_nothing():
  data = batches(RNG.standard_normal((N, 3)), CLASS, sizes=(4, 4))
  model = keras.Sequential(
    [keras.Input((3,)), layers.GaussianNoise(0.1), layers.Dropout(0.5), layers.Dense(CLASSES)]
  )
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  plain, compiled = (HessianOperator(model, loss, data, jit_compile=j) for j in (False, True))
  v = RNG.standard_normal(plain.shape[0])
  product = plain @ v
  assert np.linalg.norm(product - compiled @ v) <= FLOAT64 * np.linalg.norm(product)


@pytest.mark.usefixtures("float64")
def test_compiled_tables_of_embeddings_are_read_as_others_are():
  x = np.arange(12).reshape(4, 3) % 5
  table = layers.ReversibleEmbedding(5, 2)  # whose gradient is sparse at one place
  inputs = keras.Input((3,), dtype="int32")
  model = keras.Model(inputs, table(table(inputs), reverse=True))
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  plain, compiled = (HessianOperator(model, loss, [(x, x)], jit_compile=j) for j in (False, True))
  v = RNG.standard_normal(plain.shape[0])
  product = plain @ v
  assert np.linalg.norm(product - compiled @ v) <= FLOAT64 * np.linalg.norm(product)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_compiled_products_are_those_of_the_same_matrix():
  compiled = conv_net_operator(0.0, jit_compile=True)
  plain = HessianOperator(
    compiled.model,
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    list(compiled.batches),
    training=True,
  )
  v = RNG.standard_normal(plain.shape[0])
  product = compiled @ v
  assert np.linalg.norm(product - plain @ v) <= FLOAT64 * np.linalg.norm(product)
  assert np.array_equal(product, compiled @ v)
  assert plain.loss() == pytest.approx(compiled.loss(), rel=FLOAT64)


@pytest.mark.usefixtures("float64")
def test_compiled_random_layer_is_refused_since_it_would_be_another_matrix():
  with pytest.raises(ValueError, match="jit_compile: layer 'drop' draws random numbers"):
    conv_net_operator(0.3, jit_compile=True)


# A sample of the batches, as a plan takes it.


def test_a_sample_is_the_operator_of_the_largest_batches_in_a_row():
  operator = softmax_operator((2, 4, 4))
  sample = operator.sample(2)
  alone = operator.like(dataset=list(operator.batches)[1:])
  v = np.random.default_rng(0).standard_normal(operator.shape[0])
  np.testing.assert_array_equal(sample @ v, alone @ v)
  assert (sample.mode, sample.vectorized) == (operator.mode, operator.vectorized)
  assert sample.vectors_per_pass == operator.vectors_per_pass


def test_products_of_idle_batches_are_zero():
  operator = softmax_operator((4, 4))
  v = np.ones(operator.shape[0])
  product = operator @ v
  operator.batches.idle = True
  assert not np.any(operator @ v)
  operator.batches.idle = False
  np.testing.assert_array_equal(operator @ v, product)


# Operators like another one.


@pytest.fixture
def engines_made(monkeypatch):
  """The arguments that engines were made with: a list of (strategy, options)."""
  made, make = [], engines.make_engine

  def noting(strategy, /, **options):
    made.append((strategy, options))
    return make(strategy, **options)

  monkeypatch.setattr(engines, "make_engine", noting)
  return made


def test_an_operator_like_another_has_its_strategy(engines_made):
  strategy = tf.distribute.OneDeviceStrategy("CPU:0")
  model, loss = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), "mse"
  batch = (np.ones((3, 2), np.float32), np.ones((3, 1), np.float32))
  sharing = Sharing(strategy, num_shards=3, patience=7.0)
  operator = HessianOperator(model, loss, [batch], strategy=sharing)
  for other in (operator.like(dataset=[batch, batch]), operator.sample(1)):
    np.testing.assert_allclose(other @ np.ones(3), operator @ np.ones(3), rtol=1e-6)
  assert engines_made == [(Sharing(strategy, 3, 7.0), {"deterministic": True})] * 3


def test_an_operator_like_another_may_have_other_options(engines_made):
  operator = softmax_operator((4, 4))
  sharing = Sharing(tf.distribute.OneDeviceStrategy("CPU:0"), num_shards=2)
  other = operator.like(dataset=list(operator.batches), strategy=sharing)
  assert [s for s, _ in engines_made] == [Sharing(), sharing]
  v = np.ones(operator.shape[0])
  np.testing.assert_array_equal(other @ v, operator @ v)


# Another matrix of curvature.


class SquaredGradients(CurvatureOperator):
  """The sum of g_b g_b' over batches, g_b the gradient of the batch's sum, by the whole weight."""

  @staticmethod
  def batch_product(objective, mode, *, blocks, connected):
    del mode, blocks
    gradient = products.batch_gradient(objective, connected)

    def prepare(*batch):
      g = gradient(*batch)

      def product(v):
        along = sum(tf.reduce_sum(a * b) for a, b in zip(g, v, strict=True))
        return [a * along for a in g]

      return product

    return prepare


@pytest.fixture(scope="module")
def squared_gradients():
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  return SquaredGradients(softmax_model("float64"), loss, batches(X, CLASS, sizes=(4, 4)))


@pytest.mark.parametrize("vectorized", [True, False])
def test_a_matrix_is_one_function_of_a_batch(
  squared_gradients, columns, relative_error, vectorized
):
  operator = squared_gradients
  operator.vectorized = vectorized
  sums = 4 * np.array(list(operator.batch_gradients()))
  expected = sums.T @ sums / 8
  assert relative_error(columns(operator), expected) <= FLOAT64
  assert relative_error(operator @ np.eye(len(expected)), expected) <= FLOAT64


def test_an_operator_like_another_is_of_the_same_matrix(squared_gradients):
  v = np.ones(squared_gradients.shape[0])
  for other in (
    squared_gradients.like(dataset=list(squared_gradients.batches)),
    squared_gradients.sample(2),
  ):
    np.testing.assert_array_equal(other @ v, squared_gradients @ v)


def test_a_matrix_without_a_function_of_a_batch_is_none():
  with pytest.raises(TypeError, match="abstract .*batch_product"):
    CurvatureOperator([tf.ones(3)], lambda p, b: p[0] * b, [np.ones(3)])
