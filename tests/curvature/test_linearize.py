"""Tangents of graphs against TensorFlow's forward accumulation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.curvature import second_order
from tf_hessian.curvature.linearize import Linearization

RNG = np.random.default_rng(0)


def array(*shape):
  return RNG.uniform(0.3, 1.7, shape)


IMAGES, KERNEL = array(2, 6, 6, 2), array(3, 3, 2, 4)
LABELS = np.array([1, 0, 3])
PROBABILITIES = RNG.dirichlet(np.ones(4), 3)


def gradient_of(function):
  """The gradient of a function's sum: what products are the derivative of."""

  def gradient(*arguments):
    with tf.GradientTape() as tape:
      tape.watch(arguments)
      value = tf.reduce_sum(function(*arguments) ** 2)
    return [tf.convert_to_tensor(g) for g in tape.gradient(value, list(arguments))]

  return gradient


@tf.custom_gradient
def doubled_below(x):
  return tf.sin(x), lambda g: 2.0 * g * tf.cos(x)


def complex_of(real, imaginary):
  return tf.complex(real, imaginary)


CASES = {
  "add with broadcast": (lambda a, b: a + b, [array(3, 4), array(4)]),
  "subtract with broadcast": (lambda a, b: a - b, [array(4), array(3, 4)]),
  "multiply with broadcast": (lambda a, b: a * b, [array(3, 4), array(3, 1)]),
  "divide": (lambda a, b: a / b, [array(3, 4), array(4)]),
  "squared difference": (tf.math.squared_difference, [array(3, 4), array(4)]),
  "power": (lambda a, b: a**b, [array(3), array(3)]),
  "sum of several": (lambda a, b: tf.add_n([a, b, a * b]), [array(3), array(3)]),
  "matrix product": (lambda a, b: tf.matmul(a, b, transpose_a=True), [array(4, 3), array(4, 2)]),
  "batched matrix product": (tf.matmul, [array(2, 3, 4), array(2, 4, 5)]),
  "einsum": (lambda a, b: tf.einsum("bij,bkj->bik", a, b), [array(2, 3, 4), array(2, 5, 4)]),
  "bias": (tf.nn.bias_add, [array(3, 4), array(4)]),
  "constant plus bias": (lambda b: tf.nn.bias_add(tf.ones([3, 4], b.dtype), b), [array(4)]),
  "convolution": (lambda x, w: tf.nn.conv2d(x, w, 2, "SAME"), [IMAGES, KERNEL]),
  "depthwise": (lambda x, w: tf.nn.depthwise_conv2d(x, w, [1, 1, 1, 1], "VALID"), [IMAGES, KERNEL]),
  "transposed convolution": (
    lambda x, w: tf.nn.conv2d_transpose(x, w, [2, 12, 12, 4], 2),
    [IMAGES, array(3, 3, 4, 2)],
  ),
  "average pooling": (lambda x: tf.nn.avg_pool2d(x, 2, 2, "SAME"), [IMAGES]),
  "max pooling": (lambda x: tf.nn.max_pool2d(x, 2, 2, "SAME"), [IMAGES]),
  "relu": (lambda x: tf.nn.relu(x - 1.0) * x, [array(3, 4)]),
  "relu6": (lambda x: tf.nn.relu6(4.0 * x) * x, [array(3, 4)]),
  "gelu": (tf.nn.gelu, [array(3, 4)]),
  "softmax": (tf.nn.softmax, [array(3, 4)]),
  "log softmax": (tf.nn.log_softmax, [array(3, 4)]),
  "tanh, sigmoid, exp, log": (
    lambda x: tf.tanh(x) * tf.sigmoid(x) + tf.exp(tf.math.log(x) * x),
    [array(5)],
  ),
  "cross-entropy": (
    lambda x: tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, x),
    [array(3, 4)],
  ),
  "cross-entropy of probabilities": (
    lambda x: tf.nn.softmax_cross_entropy_with_logits(PROBABILITIES, x),
    [array(3, 4)],
  ),
  "mean, variance": (lambda x: tf.stack(tf.nn.moments(x * x, [0])), [array(5, 4)]),
  "fused batch norm": (
    lambda x, a, b: tf.compat.v1.nn.fused_batch_norm(x, a, b, is_training=True)[0],
    [IMAGES.astype(np.float32), array(2).astype(np.float32), array(2).astype(np.float32)],
  ),
  "reduce max": (lambda x: tf.reduce_max(x, 1) * x[:, 0], [array(3, 4)]),
  "product": (lambda x: tf.reduce_prod(x, 1), [array(3, 4)]),
  "select": (lambda x: tf.where(x > 1.0, x**3, x**2), [array(3, 4)]),
  "maximum": (lambda x, y: tf.maximum(x, y) ** 2, [array(3, 4), array(3, 4)]),
  "gather": (lambda x: tf.gather(1.0 * x, [0, 2, 0]) ** 2, [array(3, 4)]),
  "concatenate, split": (
    lambda x, y: tf.split(tf.concat([x, y, tf.ones_like(x)], 1), 2, 1)[0] * x[:, :1],
    [array(3, 2), array(3, 2)],
  ),
  "stack, unstack": (lambda x, y: tf.multiply(*tf.unstack(tf.stack([x, y]))), [array(3), array(3)]),
  "shapes": (
    lambda x: tf.transpose(tf.reshape(tf.tile(tf.pad(x, [[1, 0], [0, 2]]), [1, 2]), [-1, 6])),
    [array(2, 4)],
  ),
  "slices": (lambda x: x[1:, ::2] * x[:-1, 1::2], [array(4, 4)]),
  "reverse, roll": (lambda x: tf.roll(tf.reverse(x, [0]), 1, 0) * x, [array(4)]),
  "cast": (lambda x: tf.cast(tf.cast(x, tf.float32), tf.float64) * x, [array(4)]),
  "stopped gradient": (lambda x: x * tf.stop_gradient(x), [array(4)]),
  "custom gradient": (lambda x: doubled_below(x) * x, [array(4)]),
  "rounding": (lambda x: tf.round(x) * x, [array(4)]),
  "indices": (lambda x: tf.cast(tf.argmax(x), x.dtype) * x, [array(4)]),
  "attention": (
    lambda q, k: tf.matmul(tf.nn.softmax(tf.matmul(q, k, transpose_b=True)), k),
    [array(2, 3, 4), array(2, 3, 4)],
  ),
  "swish": (keras.ops.silu, [array(3, 4)]),
  "Fourier transform": (lambda x: tf.math.real(tf.signal.fft2d(complex_of(x, x))), [array(4, 3)]),
  "real Fourier transform": (
    lambda x, w: tf.signal.irfft(tf.signal.rfft(x) * tf.signal.rfft(w), [6]),
    [array(2, 6), array(6)],
  ),
  "complex numbers": (
    lambda a, b: (
      tf.abs(complex_of(a, b) ** 2 / (complex_of(b, a) + 1.0))
      + tf.math.angle(tf.exp(0.3 * complex_of(a, -b)) * tf.math.conj(complex_of(b, b)))
    ),
    [array(3), array(3)],
  ),
  "call": (tf.function(lambda x, y: (x * tf.sin(x * y), y)[0]), [array(4), array(4)]),
  "call of a call": (tf.function(lambda x: tf.function(tf.sin)(x) * x), [array(4)]),
  "compiled call": (tf.function(lambda x, y: x * tf.exp(x * y), jit_compile=True), [array(4)] * 2),
  "grouped convolution": (
    tf.function(lambda x, w: tf.nn.conv2d(x, w, 1, "SAME"), jit_compile=True),
    [IMAGES, array(3, 3, 1, 4)],
  ),
  "determinant, inverse": (lambda x: tf.linalg.det(x) * tf.linalg.inv(x), [array(3, 3)]),
}


def tangents_by_graph(function, primals, directions, fuse=True):
  """Returns the derivative along each direction, made in the body of a loop."""
  primals = [tf.constant(p) for p in primals]
  stacks = [tf.constant(np.stack(d)) for d in zip(*directions, strict=True)]

  @tf.function(autograph=False)
  def derivative(primals, stacks):
    outputs = function(*primals)
    linear = Linearization(outputs, primals, fuse=fuse)
    assert linear.obstacle is None
    return tf.map_fn(linear, stacks, fn_output_signature=[y.dtype for y in outputs])

  return derivative(primals, stacks)


def tangents_by_accumulator(function, primals, direction):
  primals, direction = [tf.constant(p) for p in primals], [tf.constant(d) for d in direction]
  with tf.autodiff.ForwardAccumulator(primals, direction) as accumulator:
    outputs = function(*primals)
  return accumulator.jvp(outputs, unconnected_gradients=tf.UnconnectedGradients.ZERO)


# Those of which the gradient is linearized by `make test` as well: one of each kind.
QUICK = (
  "multiply with broadcast",
  "power",
  "matrix product",
  "convolution",
  "max pooling",
  "relu",
  "softmax",
  "cross-entropy",
  "mean, variance",
  "reduce max",
  "select",
  "gather",
  "slices",
  "cast",
  "stopped gradient",
  "custom gradient",
)


@pytest.mark.parametrize(
  "order, case",
  [
    *((1, case) for case in CASES),
    *(pytest.param(2, c, marks=[] if c in QUICK else pytest.mark.slow) for c in CASES),
  ],
)
def test_tangents_are_those_of_forward_accumulation(case, order):
  function, primals = CASES[case]
  function = gradient_of(function) if order == 2 else (lambda f: lambda *a: [f(*a)])(function)
  rng = np.random.default_rng(1)
  directions = [[rng.standard_normal(p.shape).astype(p.dtype) for p in primals] for _ in range(3)]
  found = tangents_by_graph(function, primals, directions)
  for i, direction in enumerate(directions):
    for x, y in zip(found, tangents_by_accumulator(function, primals, direction), strict=True):
      size = np.abs(y).max()
      # Some roundings; the cast case has them in float32.
      eps = np.finfo(np.float32 if case in ("cast", "fused batch norm") else np.float64).eps
      np.testing.assert_allclose(x[i], y, rtol=0, atol=100 * eps * max(size, 1.0))


def test_an_output_that_does_not_depend_on_the_inputs_has_zero_tangents():
  found = tangents_by_graph(lambda x: [x * x, tf.ones([2, 3])], [array(4)], [[array(4)]])
  np.testing.assert_array_equal(found[1], np.zeros((1, 2, 3)))


def test_an_input_that_is_an_output_has_its_own_tangent():
  direction = array(4)
  found = tangents_by_graph(lambda x: [x, x * x], [array(4)], [[direction]])
  np.testing.assert_array_equal(found[0], [direction])


@pytest.mark.parametrize(
  "function, name",
  [
    (lambda x: tf.while_loop(lambda _, i: i < 2, lambda x, i: (x * x, i + 1), (x, 0))[0], "While"),
    (lambda x: tf.cond(x[0] > 0, lambda: x * x, lambda: x), "If"),
    (tf.function(lambda x: x * tf.random.uniform([], dtype=x.dtype)), "StatefulPartitionedCall"),
    (tf.function(lambda x: tf.cond(x[0] > 0, lambda: x * x, lambda: x)), "PartitionedCall"),
  ],
)
def test_what_can_not_be_passed_is_named(function, name):
  @tf.function(autograph=False)
  def traced(x):
    return tf.constant(Linearization([function(x)], [x]).obstacle)

  assert name in traced(tf.constant(array(4))).numpy().decode()


def test_an_operation_without_gradient_is_named():
  @tf.function(autograph=False)
  def traced(x):
    return Linearization([tf.raw_ops.IgammaGradA(a=x, x=x)], [x])([x])

  with pytest.raises(LookupError, match="no entry for: IgammaGradA"):
    traced(tf.constant(array(3)))


@pytest.mark.parametrize(
  "function, message",
  [
    (lambda x: tf.raw_ops.LinSpace(start=x, stop=1.0, num=3), "LinSpace .* drops it"),
    (lambda x: tf.math.betainc(x, x, x), "Betainc .* drops that of input 0"),
    (lambda x: tf.math.cumulative_logsumexp(x[None]), "CumulativeLogsumexp .* not linear"),
  ],
)
def test_derivative_that_would_be_wrong_is_named(function, message):
  @tf.function(autograph=False)
  def traced(x):
    return Linearization([function(x)], [x])([x])

  with second_order.differentiable_operations(), pytest.raises(LookupError, match=message):
    traced(tf.constant(0.5))


def test_cross_entropy_of_labels_that_change_is_that_of_its_parts():
  # TensorFlow's gradient of the gradient drops what the labels do to it.
  def by_operation(x, y):
    return tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(y), x * y)

  def by_parts(x, y):
    return -tf.reduce_sum(tf.nn.softmax(y) * tf.nn.log_softmax(x * y), axis=-1)

  primals, directions = [array(3, 4), array(3, 4)], [[array(3, 4), array(3, 4)]]
  found, expected = (
    tangents_by_graph(gradient_of(f), primals, directions) for f in (by_operation, by_parts)
  )
  for x, y in zip(found, expected, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12)  # some roundings
