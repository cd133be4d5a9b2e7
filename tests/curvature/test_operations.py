"""TensorFlow's operations one by one: the right product, or a refusal by name."""

import functools
import re

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import op_def_registry, ops

from tf_hessian.curvature import operations, second_order
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.curvature.second_order import DifferentiationError

# Of a variable in (0, 1), all smooth there.
ELEMENTWISE = {
  "abs": tf.abs,
  "acos": tf.acos,
  "asin": tf.asin,
  "asinh": tf.asinh,
  "atan": tf.atan,
  "atanh": tf.atanh,
  "cos": tf.cos,
  "cosh": tf.cosh,
  "digamma": tf.math.digamma,
  "elu": lambda x: tf.nn.elu(x) + tf.nn.elu(-x),
  "erf": tf.math.erf,
  "exp": tf.exp,
  "expm1": tf.math.expm1,
  "gelu": tf.nn.gelu,
  "leaky relu": tf.nn.leaky_relu,
  "lgamma": tf.math.lgamma,
  "log": tf.math.log,
  "log1p": tf.math.log1p,
  "log sigmoid": tf.math.log_sigmoid,
  "negative": tf.negative,
  "power": lambda x: x**1.5,
  "reciprocal": tf.math.reciprocal,
  "relu": tf.nn.relu,
  "rsqrt": tf.math.rsqrt,
  "selu": lambda x: tf.nn.selu(-x),
  "sigmoid": tf.sigmoid,
  "silu": tf.nn.silu,
  "sin": tf.sin,
  "sinh": tf.sinh,
  "softplus": tf.math.softplus,
  "sqrt": tf.sqrt,
  "square": tf.square,
  "tan": tf.tan,
  "tanh": tf.tanh,
}


def second_derivative(function, x, h=1e-4):
  """Central differences of the gradient of 10 f + f^2."""

  def gradient(x):
    with tf.GradientTape() as tape:
      tape.watch(x)
      y = function(x)
      loss = tf.reduce_sum(10.0 * y + y * y)
    return tape.gradient(loss, x)

  return (gradient(x + h) - gradient(x - h)) / (2 * h)


# Their gradients are of the kinds that there are: of the input, of the output, of both, in parts.
QUICK_ELEMENTWISE = ("abs", "elu", "exp", "log", "relu", "rsqrt", "sigmoid", "softplus", "sqrt")
QUICK_ELEMENTWISE += ("square", "tanh")


@pytest.fixture(
  scope="module",
  params=["forward_over_backward", pytest.param("backward_over_backward", marks=pytest.mark.slow)],
)
def bare_products(request):
  """Products of losses whose variables go straight into an elementwise operation, once each.

  A function: whether of the quick ones -> dict of products by name.
  """
  x = np.linspace(0.2, 0.8, 5)

  @functools.cache
  def products(quick):
    functions = {n: f for n, f in ELEMENTWISE.items() if (n in QUICK_ELEMENTWISE) == quick}
    variables = [tf.Variable(x, name=f"x_{i}") for i in range(len(functions))]

    def loss(params, batch):
      ys = [f(p) for f, p in zip(functions.values(), params, strict=True)]
      return tf.add_n([batch * tf.reduce_sum(10.0 * y + y * y) for y in ys])

    operator = HessianOperator(variables, loss, [tf.ones(1, tf.float64)], mode=request.param)
    found = operator @ np.ones(operator.shape[0])
    several = operator.products(np.ones((3, operator.shape[0])))
    np.testing.assert_allclose(several, [found] * 3, rtol=1e-12)
    return dict(zip(functions, found.reshape(len(functions), -1), strict=True))

  return products


@pytest.mark.parametrize(
  "name",
  [pytest.param(n, marks=[] if n in QUICK_ELEMENTWISE else pytest.mark.slow) for n in ELEMENTWISE],
)
def test_variable_that_goes_straight_into_an_operation_passes_both_modes(name, bare_products):
  products = bare_products(name in QUICK_ELEMENTWISE)
  expected = second_derivative(ELEMENTWISE[name], tf.constant(np.linspace(0.2, 0.8, 5), tf.float64))
  # The differences err by h^2 times fourth derivatives, up to 1e3 here, and by eps / h = 2e-12.
  np.testing.assert_allclose(products[name], expected, rtol=1e-5, atol=1e-8)


# All operations that have a registered gradient -------------------------------------------------


class Example:
  """A function through an operation, and what is to come of its product.

  Args:
    function: tensors -> tensors; the loss is made of those that are floating-point.
    *shapes: shapes of the arguments.
    low, high: bounds of their entries.
    dtype: of the variables.
    single: whether the operation gives float32 whatever it gets.
    outcome: "right", "other" if it is right backward over backward, or "refused" by name.
    group: examples that are measured by one operator.
  """

  def __init__(
    self,
    function,
    *shapes,
    low=0.3,
    high=0.9,
    dtype=tf.float64,
    single=False,
    outcome="right",
    group=None,
  ):
    self.function, self.shapes, self.low, self.high = function, shapes or [(2, 3)], low, high
    self.dtype, self.outcome, self.single = dtype, outcome, single or dtype == tf.float32
    self.group = group or ("float32" if self.single else "float64")

  def variables(self):
    """Variables whose tanh are spread out, in random order: away from kinks."""
    rng = np.random.default_rng(0)
    sizes = [int(np.prod(s)) for s in self.shapes]
    n = sum(sizes)
    values = rng.permutation(np.arange(n) + 0.5 + 0.3 * rng.uniform(-1, 1, n)) / n * 1.6 - 0.8
    parts = np.split(np.arctanh(values), np.cumsum(sizes)[:-1])
    return [
      tf.Variable(p.reshape(s), dtype=self.dtype) for p, s in zip(parts, self.shapes, strict=True)
    ]

  def loss(self, params):
    """A loss that is not linear in what the operation gives, nor in the parameters."""
    inputs = [self.low + (self.high - self.low) * (tf.tanh(p) + 1) / 2 for p in params]
    total = tf.zeros((), tf.float64)
    for y in tf.nest.flatten(self.function(*inputs)):
      if y.dtype.is_floating:
        y = tf.cast(tf.reshape(y, [-1]), tf.float64)
        weights = tf.sin(1.0 + tf.range(tf.cast(tf.size(y), tf.float64)))
        total += tf.reduce_sum(weights * (y + 0.5 * y * y))
    return total


def operator_of(examples, **options):
  """Returns an operator whose matrix has a block for each example."""
  counts = [len(e.shapes) for e in examples]

  def loss(params, batch):
    ends = np.cumsum(counts)
    losses = [
      e.loss(params[end - n : end]) for e, n, end in zip(examples, counts, ends, strict=True)
    ]
    return batch * tf.add_n(losses)

  variables = [v for e in examples for v in e.variables()]
  return HessianOperator(variables, loss, [tf.ones(1, tf.float64)], **options)


r = tf.raw_ops
I4, I5 = (2, 5, 5, 2), (1, 4, 4, 4, 2)
POOL = {"ksize": [1, 2, 2, 1], "strides": [1, 2, 2, 1]}
SPREAD = {"low": -3.0, "high": 4.0}  # entries far apart, away from kinks


def unary(name, **bounds):
  return Example(lambda x: getattr(r, name)(x=x), **bounds)


def binary(name, **bounds):
  return Example(lambda x, y: getattr(r, name)(x=x, y=y), (2, 3), (3,), **bounds)


def features(name, **bounds):
  return Example(lambda x: getattr(r, name)(features=x), **bounds)


UNARY = [
  "Abs",
  "Neg",
  "Inv",
  "Reciprocal",
  "Square",
  "Sqrt",
  "Rsqrt",
  "Exp",
  "Expm1",
  "Log",
  "Log1p",
  "Sinh",
  "Cosh",
  "Tanh",
  "Asinh",
  "Atanh",
  "Erf",
  "Erfc",
  "Erfinv",
  "Ndtri",
  "Lgamma",
  "Digamma",
  "Dawsn",
  "Expint",
  "FresnelCos",
  "FresnelSin",
  "Spence",
  "BesselI0",
  "BesselI0e",
  "BesselI1",
  "BesselI1e",
  "BesselK0",
  "BesselK0e",
  "BesselK1",
  "BesselK1e",
  "BesselJ0",
  "BesselJ1",
  "BesselY0",
  "BesselY1",
  "Sigmoid",
  "Sin",
  "Cos",
  "Tan",
  "Asin",
  "Acos",
  "Atan",
  "Sign",
  "Floor",
  "Ceil",
  "Round",
  "Rint",
]
BINARY = [
  "Xlogy",
  "Xlog1py",
  "Xdivy",
  "Atan2",
  "AddV2",
  "Sub",
  "Mul",
  "MulNoNan",
  "Div",
  "FloorDiv",
  "FloorMod",
  "RealDiv",
  "DivNoNan",
  "Pow",
  "SquaredDifference",
]
FEATURES = ["Softplus", "Softsign", "Elu", "Selu", "Relu", "Relu6"]
INDICES = np.array([0, 2, 1, 0])

EXAMPLES = {
  **{name: unary(name) for name in UNARY},
  "Acosh": unary("Acosh", low=1.2, high=2.0),
  **{name: binary(name) for name in BINARY},
  "Add": Example(lambda x, y: r.Add(x=x, y=y), (2, 3), (3,)),
  "Maximum": Example(lambda x, y: r.Maximum(x=x, y=y + 0.01), (2, 3), (2, 3), **SPREAD),
  "Minimum": Example(lambda x, y: r.Minimum(x=x, y=y + 0.01), (2, 3), (2, 3), **SPREAD),
  "NextAfter": Example(lambda x, y: r.NextAfter(x1=x, x2=y), (3,), (3,)),
  "ClipByValue": Example(
    lambda x, a, b: r.ClipByValue(t=x, clip_value_min=0.1 * a - 1.0, clip_value_max=0.1 * b + 1.5),
    (4,),
    (),
    (),
    **SPREAD,
  ),
  **{name: features(name) for name in FEATURES},
  "LeakyRelu": features("LeakyRelu", low=-0.7, high=1.0),
  "Elu, negative": features("Elu", low=-0.9, high=-0.3),
  "Selu, negative": features("Selu", low=-0.9, high=-0.3),
  "EluGrad": Example(lambda g, y: r.EluGrad(gradients=g, outputs=-y), (3,), (3,)),
  "SeluGrad": Example(lambda g, y: r.SeluGrad(gradients=g, outputs=-y), (3,), (3,)),
  "SoftplusGrad": Example(lambda g, x: r.SoftplusGrad(gradients=g, features=x), (3,), (3,)),
  "ReluGrad": Example(lambda g, x: r.ReluGrad(gradients=g, features=x), (3,), (3,)),
  "Relu6Grad": Example(lambda g, x: r.Relu6Grad(gradients=g, features=x), (3,), (3,)),
  "LeakyReluGrad": Example(lambda g, x: r.LeakyReluGrad(gradients=g, features=x), (3,), (3,)),
  "TanhGrad": Example(lambda y, dy: r.TanhGrad(y=y, dy=dy), (3,), (3,)),
  "SigmoidGrad": Example(lambda y, dy: r.SigmoidGrad(y=y, dy=dy), (3,), (3,)),
  "SqrtGrad": Example(lambda y, dy: r.SqrtGrad(y=y, dy=dy), (3,), (3,)),
  "RsqrtGrad": Example(lambda y, dy: r.RsqrtGrad(y=y, dy=dy), (3,), (3,)),
  "InvGrad": Example(lambda y, dy: r.InvGrad(y=y, dy=dy), (3,), (3,)),
  "ReciprocalGrad": Example(lambda y, dy: r.ReciprocalGrad(y=y, dy=dy), (3,), (3,)),
  # Special functions of several arguments
  "Einsum, scaled": Example(lambda x: tf.einsum("ij->j", x)),
  "Igamma": Example(lambda x: r.Igamma(a=tf.ones_like(x), x=x)),
  "Igamma, both": Example(lambda a, x: r.Igamma(a=a, x=x), (3,), (3,), outcome="refused"),
  "Igammac": Example(lambda x: r.Igammac(a=tf.ones_like(x), x=x)),
  "Betainc": Example(lambda x: r.Betainc(a=tf.ones_like(x), b=2 * tf.ones_like(x), x=x)),
  "Betainc, all": Example(
    lambda a, b, x: r.Betainc(a=a, b=b, x=x), (3,), (3,), (3,), outcome="refused"
  ),
  "Zeta": Example(lambda q: r.Zeta(x=tf.constant([2.0, 3.0, 4.0], tf.float64), q=q), (3,)),
  "Zeta, both": Example(lambda x, q: r.Zeta(x=x + 2.0, q=q), (3,), (3,), outcome="refused"),
  "Polygamma": Example(
    lambda x: r.Polygamma(a=tf.constant([1.0, 2.0, 3.0], tf.float64), x=x), (3,)
  ),
  # Reductions and scans
  "Sum": Example(lambda x: tf.reduce_sum(x, 1)),
  "Mean": Example(lambda x: tf.reduce_mean(x, 1)),
  "Prod": Example(lambda x: tf.reduce_prod(x, 1)),
  "Max": Example(lambda x: tf.reduce_max(x, 1), **SPREAD),
  "Min": Example(lambda x: tf.reduce_min(x, 1), **SPREAD),
  "EuclideanNorm": Example(lambda x: tf.math.reduce_euclidean_norm(x, 1)),
  "L2Loss": Example(lambda x: tf.nn.l2_loss(x)),
  "AddN": Example(lambda x, y, z: tf.add_n([x, y, z]), (3,), (3,), (3,)),
  "Cumsum": Example(lambda x: tf.cumsum(x, 1, exclusive=True)),
  "Cumprod": Example(lambda x: tf.math.cumprod(x, 1)),
  "Cumprod, reverse": Example(lambda x: tf.math.cumprod(x, 1, exclusive=True, reverse=True)),
  "CumulativeLogsumexp": Example(lambda x: tf.math.cumulative_logsumexp(x, 1), outcome="other"),
  "CumulativeLogsumexp, reverse": Example(
    lambda x: -tf.math.cumulative_logsumexp(x, 1, reverse=True), outcome="other"
  ),
  "SegmentSum": Example(lambda x: tf.math.segment_sum(x, [0, 0, 1, 1]), (4, 2)),
  "SegmentMean": Example(lambda x: tf.math.segment_mean(x, [0, 0, 1, 1]), (4, 2)),
  "SegmentMax": Example(lambda x: tf.math.segment_max(x, [0, 0, 1, 1]), (4, 2), **SPREAD),
  "SegmentMin": Example(lambda x: tf.math.segment_min(x, [0, 0, 1, 1]), (4, 2), **SPREAD),
  "SegmentProd": Example(lambda x: tf.math.segment_prod(x, [0, 0, 1, 1]), (4, 2)),
  "UnsortedSegmentSum": Example(lambda x: tf.math.unsorted_segment_sum(x, [0, 1, 0, 1], 3), (4, 2)),
  "UnsortedSegmentMax": Example(
    lambda x: tf.math.unsorted_segment_max(x, [0, 1, 0, 1], 2), (4, 2), **SPREAD
  ),
  "UnsortedSegmentMin": Example(
    lambda x: tf.math.unsorted_segment_min(x, [0, 1, 0, 1], 2), (4, 2), **SPREAD
  ),
  "UnsortedSegmentProd": Example(
    lambda x: tf.math.unsorted_segment_prod(x, [0, 1, 0, 1], 2), (4, 2)
  ),
  "UnsortedSegmentSum, mean": Example(
    lambda x: tf.math.unsorted_segment_mean(x, [0, 1, 0, 1], 2), (4, 2)
  ),
  "SparseSegmentSum": Example(
    lambda x: tf.sparse.segment_sum(x, [0, 2, 1, 3], [0, 0, 1, 1]), (4, 2)
  ),
  "SparseSegmentMean": Example(
    lambda x: tf.sparse.segment_mean(x, [0, 2, 1, 3], [0, 0, 1, 1]), (4, 2)
  ),
  "SparseSegmentSqrtN": Example(
    lambda x: tf.sparse.segment_sqrt_n(x, [0, 2, 1, 3], [0, 0, 1, 1]), (4, 2)
  ),
  "SparseSegmentSumWithNumSegments": Example(
    lambda x: tf.sparse.segment_sum(x, [0, 2, 1, 3], [0, 0, 1, 1], 3), (4, 2)
  ),
  "SparseSegmentMeanWithNumSegments": Example(
    lambda x: tf.sparse.segment_mean(x, [0, 2, 1, 3], [0, 0, 1, 1], 3), (4, 2)
  ),
  "SparseSegmentSqrtNWithNumSegments": Example(
    lambda x: tf.sparse.segment_sqrt_n(x, [0, 2, 1, 3], [0, 0, 1, 1], 3), (4, 2)
  ),
  # Order
  "TopKV2": Example(lambda x: tf.math.top_k(x, 2)[0], (2, 4), **SPREAD),
  "TopKV2, sort": Example(lambda x: tf.sort(x, 1), (2, 4), **SPREAD),
  "ApproxTopK": Example(
    lambda x: tf.math.approx_max_k(x, 2)[0], (2, 4), dtype=tf.float32, **SPREAD
  ),
  "NthElement": Example(lambda x: r.NthElement(input=x, n=1), (2, 4), **SPREAD),
  "IsotonicRegression": Example(lambda x: tf.nn.isotonic_regression(x)[0], (2, 4), **SPREAD),
  "ArgMax": Example(lambda x: x * tf.cast(tf.argmax(x, 1), x.dtype)[:, None], **SPREAD),
  "ArgMin": Example(lambda x: x * tf.cast(tf.argmin(x, 1), x.dtype)[:, None], **SPREAD),
  # Matrix products and linear algebra
  "MatMul": Example(lambda x, y: r.MatMul(a=x, b=y, transpose_b=True), (2, 3), (2, 3)),
  "BatchMatMul": Example(lambda x, y: r.BatchMatMul(x=x, y=y, adj_x=True), (2, 3, 2), (2, 3, 2)),
  "BatchMatMulV2": Example(lambda x, y: r.BatchMatMulV2(x=x, y=y, adj_y=True), (2, 2, 3), (2, 3)),
  "BatchMatMulV3": Example(
    lambda x, y: r.BatchMatMulV3(x=x, y=y, Tout=tf.float64), (2, 2, 3), (3, 2)
  ),
  "SparseMatMul": Example(lambda x, y: r.SparseMatMul(a=x, b=y), (2, 3), (3, 2), dtype=tf.float32),
  "Einsum": Example(lambda x, y: tf.einsum("bij,bjk->bki", x, y), (2, 2, 3), (2, 3, 2)),
  "Cross": Example(lambda x, y: tf.linalg.cross(x, y), (2, 3), (2, 3)),
  "MatrixInverse": Example(lambda x: tf.linalg.inv(x + 2 * tf.eye(3, dtype=x.dtype)), (3, 3)),
  "MatrixDeterminant": Example(lambda x: tf.linalg.det(x), (3, 3)),
  "LogMatrixDeterminant": Example(
    lambda x: tf.linalg.slogdet(x + 2 * tf.eye(3, dtype=x.dtype))[1], (3, 3)
  ),
  "MatrixSquareRoot": Example(lambda x: tf.linalg.sqrtm(x + 2 * tf.eye(3, dtype=x.dtype)), (3, 3)),
  "Cholesky": Example(
    lambda x: tf.linalg.cholesky(tf.matmul(x, x, transpose_b=True) + tf.eye(3, dtype=x.dtype)),
    (3, 3),
  ),
  "Qr": Example(lambda x: tf.linalg.qr(x + tf.eye(3, dtype=x.dtype)), (3, 3)),
  "Qr, tall": Example(lambda x: tf.linalg.qr(x + tf.eye(4, 3, dtype=x.dtype)), (4, 3)),
  "MatrixSolve": Example(
    lambda x, y: tf.linalg.solve(x + 2 * tf.eye(3, dtype=x.dtype), y, adjoint=True), (3, 3), (3, 2)
  ),
  "MatrixSolveLs": Example(
    lambda x, y: r.MatrixSolveLs(
      matrix=x + tf.eye(3, 2, dtype=x.dtype), rhs=y, l2_regularizer=tf.constant(0.1, tf.float64)
    ),
    (3, 2),
    (3, 1),
  ),
  "MatrixSolveLs, wide": Example(
    lambda x, y: tf.linalg.lstsq(x + tf.eye(2, 3, dtype=x.dtype), y, 0.1), (2, 3), (2, 1)
  ),
  "MatrixTriangularSolve": Example(
    lambda x, y: tf.linalg.triangular_solve(x + 2 * tf.eye(3, dtype=x.dtype), y), (3, 3), (3, 2)
  ),
  "BandedTriangularSolve": Example(
    lambda x, y: r.BandedTriangularSolve(matrix=x + 0.2, rhs=y), (2, 3), (3, 2)
  ),
  "SelfAdjointEigV2": Example(lambda x: tf.linalg.eigvalsh(x + tf.transpose(x)), (3, 3)),
  "SelfAdjointEigV2, vectors": Example(
    lambda x: [
      tf.linalg.eigh(x + tf.transpose(x))[0],
      tf.abs(tf.linalg.eigh(x + tf.transpose(x))[1]),
    ],
    (3, 3),
  ),
  "Svd": Example(lambda x: tf.linalg.svd(x, compute_uv=False), (3, 3)),
  "Svd, vectors": Example(
    lambda x: [tf.abs(t) for t in tf.linalg.svd(x + tf.eye(3, dtype=x.dtype))], (3, 3)
  ),
  "Eig": Example(
    lambda x: tf.math.real(
      tf.linalg.eig(x + tf.linalg.diag(tf.constant([1.0, 3.0, 6.0], x.dtype)))[0]
    ),
    (3, 3),
    group="accumulated",
  ),
  "TridiagonalMatMul": Example(
    lambda a, b, c, x: r.TridiagonalMatMul(superdiag=a, maindiag=b, subdiag=c, rhs=x),
    (1, 3),
    (1, 3),
    (1, 3),
    (3, 2),
  ),
  "TridiagonalSolve": Example(
    lambda d, x: tf.linalg.tridiagonal_solve(d + [[0.0], [2.0], [0.0]], x), (3, 3), (3, 2)
  ),
  "MatrixBandPart": Example(lambda x: tf.linalg.band_part(x, 1, 0), (3, 3)),
  "Diag": Example(lambda x: r.Diag(diagonal=x), (3,)),
  "DiagPart": Example(lambda x: r.DiagPart(input=x), (3, 3)),
  "MatrixDiag": Example(lambda x: r.MatrixDiag(diagonal=x)),
  "MatrixDiagV2": Example(
    lambda x: r.MatrixDiagV2(
      diagonal=x, k=1, num_rows=-1, num_cols=-1, padding_value=tf.constant(0.0, tf.float64)
    )
  ),
  "MatrixDiagV3": Example(lambda x: tf.linalg.diag(x, k=1), (2, 3)),
  "MatrixDiagPart": Example(lambda x: r.MatrixDiagPart(input=x), (2, 3, 3)),
  "MatrixDiagPartV2": Example(
    lambda x: r.MatrixDiagPartV2(input=x, k=[0, 1], padding_value=tf.constant(0.0, tf.float64)),
    (2, 3, 3),
    outcome="refused",
  ),
  "MatrixDiagPartV3": Example(lambda x: tf.linalg.diag_part(x, k=(0, 1)), (2, 3, 3)),
  "MatrixSetDiag": Example(lambda x, d: r.MatrixSetDiag(input=x, diagonal=d), (2, 3, 3), (2, 3)),
  "MatrixSetDiagV2": Example(
    lambda x, d: r.MatrixSetDiagV2(input=x, diagonal=d, k=0), (2, 3, 3), (2, 3)
  ),
  "MatrixSetDiagV3": Example(lambda x, d: tf.linalg.set_diag(x, d, k=1), (2, 3, 3), (2, 2)),
  # Neural networks
  "Softmax": Example(lambda x: tf.nn.softmax(x)),
  "LogSoftmax": Example(lambda x: tf.nn.log_softmax(x)),
  "SoftmaxCrossEntropyWithLogits": Example(
    lambda x: r.SoftmaxCrossEntropyWithLogits(
      features=x, labels=[[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]
    )[0]
  ),
  "SoftmaxCrossEntropyWithLogits, labels": Example(
    lambda x, y: tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(y), x), (2, 3), (2, 3)
  ),
  "SparseSoftmaxCrossEntropyWithLogits": Example(
    lambda x: tf.nn.sparse_softmax_cross_entropy_with_logits([0, 2], x)
  ),
  "BiasAdd": Example(lambda x, b: tf.nn.bias_add(x, b), (2, 2, 3), (3,)),
  "BiasAddV1": Example(lambda x, b: r.BiasAddV1(value=x, bias=b), (2, 3), (3,)),
  "BiasAddGrad": Example(lambda x: r.BiasAddGrad(out_backprop=x), (2, 2, 3)),
  "Conv2D": Example(lambda x, w: tf.nn.conv2d(x, w, 2, "SAME"), I4, (3, 3, 2, 2)),
  "Conv2DBackpropInput": Example(
    lambda w, y: r.Conv2DBackpropInput(
      input_sizes=I4, filter=w, out_backprop=y, strides=[1, 2, 2, 1], padding="SAME"
    ),
    (3, 3, 2, 2),
    (2, 3, 3, 2),
  ),
  "Conv2DBackpropFilter": Example(
    lambda x, y: r.Conv2DBackpropFilter(
      input=x, filter_sizes=[3, 3, 2, 2], out_backprop=y, strides=[1, 2, 2, 1], padding="SAME"
    ),
    I4,
    (2, 3, 3, 2),
  ),
  "DepthwiseConv2dNative": Example(
    lambda x, w: tf.nn.depthwise_conv2d(x, w, [1, 1, 1, 1], "VALID"), I4, (3, 3, 2, 1)
  ),
  "DepthwiseConv2dNativeBackpropInput": Example(
    lambda w, y: r.DepthwiseConv2dNativeBackpropInput(
      input_sizes=I4, filter=w, out_backprop=y, strides=[1, 1, 1, 1], padding="SAME"
    ),
    (3, 3, 2, 1),
    I4,
  ),
  "DepthwiseConv2dNativeBackpropFilter": Example(
    lambda x, y: r.DepthwiseConv2dNativeBackpropFilter(
      input=x, filter_sizes=[3, 3, 2, 1], out_backprop=y, strides=[1, 1, 1, 1], padding="SAME"
    ),
    I4,
    I4,
  ),
  "Conv3D": Example(lambda x, w: tf.nn.conv3d(x, w, [1] * 5, "SAME"), I5, (2, 2, 2, 2, 1)),
  "Conv3DBackpropInputV2": Example(
    lambda w, y: r.Conv3DBackpropInputV2(
      input_sizes=I5, filter=w, out_backprop=y, strides=[1, 2, 2, 2, 1], padding="SAME"
    ),
    (2, 2, 2, 2, 1),
    (1, 2, 2, 2, 1),
  ),
  "Conv3DBackpropFilterV2": Example(
    lambda x, y: r.Conv3DBackpropFilterV2(
      input=x, filter_sizes=[2, 2, 2, 2, 1], out_backprop=y, strides=[1, 2, 2, 2, 1], padding="SAME"
    ),
    I5,
    (1, 2, 2, 2, 1),
  ),
  "AvgPool": Example(lambda x: tf.nn.avg_pool2d(x, 2, 2, "SAME"), I4),
  "AvgPoolGrad": Example(
    lambda g: r.AvgPoolGrad(orig_input_shape=I4, grad=g, padding="SAME", **POOL), (2, 3, 3, 2)
  ),
  "AvgPool3D": Example(lambda x: tf.nn.avg_pool3d(x, 2, 2, "SAME"), I5, dtype=tf.float32),
  "AvgPool3DGrad": Example(
    lambda g: r.AvgPool3DGrad(
      orig_input_shape=I5, grad=g, ksize=[1, 2, 2, 2, 1], strides=[1, 2, 2, 2, 1], padding="SAME"
    ),
    (1, 2, 2, 2, 2),
    dtype=tf.float32,
  ),
  "MaxPool": Example(lambda x: tf.nn.max_pool2d(x, 2, 2, "SAME"), I4, **SPREAD),
  "MaxPool, valid": Example(lambda x: tf.nn.max_pool2d(x, 3, 1, "VALID"), I4, **SPREAD),
  "MaxPool, strides 1": Example(lambda x: tf.nn.max_pool2d(x, 2, 1, "SAME"), I4, **SPREAD),
  "MaxPool, strides 1, size 3": Example(lambda x: tf.nn.max_pool2d(x, 3, 1, "SAME"), I4, **SPREAD),
  "MaxPool, explicit": Example(
    lambda x: tf.nn.max_pool2d(x, 3, 1, [[0, 0], [1, 1], [1, 1], [0, 0]]), I4, **SPREAD
  ),
  "MaxPoolV2": Example(
    lambda x: r.MaxPoolV2(input=x, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="SAME"),
    I4,
    **SPREAD,
  ),
  "MaxPoolV2, strides 1": Example(
    lambda x: r.MaxPoolV2(input=x, ksize=[1, 2, 2, 1], strides=[1, 1, 1, 1], padding="SAME"),
    I4,
    **SPREAD,
  ),
  "MaxPoolGrad": Example(
    lambda x, g: r.MaxPoolGrad(
      orig_input=x, orig_output=tf.nn.max_pool2d(x, 2, 2, "SAME"), grad=g, padding="SAME", **POOL
    ),
    I4,
    (2, 3, 3, 2),
    **SPREAD,
  ),
  "MaxPoolGradGrad": Example(
    lambda x, g: r.MaxPoolGradGrad(
      orig_input=x, orig_output=tf.nn.max_pool2d(x, 2, 2, "SAME"), grad=g, padding="SAME", **POOL
    ),
    I4,
    I4,
    **SPREAD,
  ),
  "MaxPoolGradV2": Example(
    lambda x, g: r.MaxPoolGradV2(
      orig_input=x, orig_output=tf.nn.max_pool2d(x, 2, 2, "SAME"), grad=g, padding="SAME", **POOL
    ),
    I4,
    (2, 3, 3, 2),
    **SPREAD,
    outcome="refused",
  ),
  "MaxPool3D": Example(lambda x: tf.nn.max_pool3d(x, 2, 2, "SAME"), I5, dtype=tf.float32, **SPREAD),
  "MaxPool3D, strides 1": Example(
    lambda x: tf.nn.max_pool3d(x, 2, 1, "SAME"), I5, dtype=tf.float32, **SPREAD
  ),
  "MaxPool3DGrad": Example(
    lambda x, g: r.MaxPool3DGrad(
      orig_input=x,
      orig_output=tf.nn.max_pool3d(x, 2, 2, "SAME"),
      grad=g,
      padding="SAME",
      ksize=[1, 2, 2, 2, 1],
      strides=[1, 2, 2, 2, 1],
    ),
    I5,
    (1, 2, 2, 2, 2),
    dtype=tf.float32,
    **SPREAD,
  ),
  "MaxPool3DGradGrad": Example(
    lambda x, g: r.MaxPool3DGradGrad(
      orig_input=x,
      orig_output=tf.nn.max_pool3d(x, 2, 2, "SAME"),
      grad=g,
      padding="SAME",
      ksize=[1, 2, 2, 2, 1],
      strides=[1, 2, 2, 2, 1],
    ),
    I5,
    I5,
    dtype=tf.float32,
    **SPREAD,
  ),
  "MaxPoolWithArgmax": Example(
    lambda x: tf.nn.max_pool_with_argmax(x, 2, 2, "SAME")[0], I4, **SPREAD
  ),
  "MaxPoolWithArgmax, strides 1": Example(
    lambda x: tf.nn.max_pool_with_argmax(x, 2, 1, "SAME", include_batch_in_index=True)[0],
    I4,
    **SPREAD,
  ),
  "FractionalMaxPool": Example(
    lambda x: tf.nn.fractional_max_pool(x, 1.5, seed=1)[0], I4, **SPREAD, outcome="refused"
  ),
  "FractionalAvgPool": Example(
    lambda x: tf.nn.fractional_avg_pool(x, [1.0, 1.5, 1.5, 1.0], seed=1)[0],
    I4,
    **SPREAD,
    outcome="refused",
  ),
  "PadV2, value": Example(
    lambda x: r.PadV2(
      input=tf.ones([2, 2], tf.float64), paddings=[[1, 0], [0, 2]], constant_values=x
    ),
    (),
    outcome="refused",
  ),
  "Dilation2D": Example(
    lambda x, w: tf.nn.dilation2d(x, w, [1] * 4, "SAME", "NHWC", [1] * 4),
    I4,
    (2, 2, 2),
    **SPREAD,
    outcome="refused",
  ),
  "LRN": Example(
    lambda x: tf.nn.local_response_normalization(x, 1, alpha=0.5, beta=0.6),
    (2, 2, 2, 5),
    dtype=tf.float32,
  ),
  "FusedBatchNorm": Example(
    lambda x, a, b: r.FusedBatchNorm(
      x=x, scale=a, offset=b, mean=[], variance=[], is_training=True
    )[0],
    I4,
    (2,),
    (2,),
    dtype=tf.float32,
  ),
  "FusedBatchNormV2": Example(
    lambda x, a, b: r.FusedBatchNormV2(
      x=x, scale=a, offset=b, mean=[], variance=[], is_training=True
    )[0],
    I4,
    (2,),
    (2,),
    dtype=tf.float32,
  ),
  "FusedBatchNormV3": Example(
    lambda x, a, b: r.FusedBatchNormV3(
      x=x, scale=a, offset=b, mean=[], variance=[], is_training=True
    )[0],
    I4,
    (2,),
    (2,),
    dtype=tf.float32,
  ),
  "FusedBatchNormV3, statistics": Example(
    lambda x, a, b: r.FusedBatchNormV3(
      x=x, scale=a, offset=b, mean=[], variance=[], is_training=True
    )[:3],
    I4,
    (2,),
    (2,),
    dtype=tf.float32,
    outcome="refused",
  ),
  "FusedBatchNormV3, inference": Example(
    lambda x, a, b, m, v: r.FusedBatchNormV3(
      x=x, scale=a, offset=b, mean=m, variance=v, is_training=False
    )[0],
    I4,
    (2,),
    (2,),
    (2,),
    (2,),
    dtype=tf.float32,
    outcome="refused",
  ),
  "FakeQuantWithMinMaxArgs": Example(
    lambda x: tf.quantization.fake_quant_with_min_max_args(x),
    dtype=tf.float32,
    **SPREAD,
    outcome="refused",
  ),
  "FakeQuantWithMinMaxVars": Example(
    lambda x, a, b: tf.quantization.fake_quant_with_min_max_vars(x, -a, 2 * b),
    (4,),
    (),
    (),
    dtype=tf.float32,
    **SPREAD,
    outcome="refused",
  ),
  "FakeQuantWithMinMaxVarsPerChannel": Example(
    lambda x, a, b: tf.quantization.fake_quant_with_min_max_vars_per_channel(x, -a, 2 * b),
    (4, 2),
    (2,),
    (2,),
    dtype=tf.float32,
    outcome="refused",
  ),
  "QuantizeAndDequantizeV2": Example(
    lambda x: r.QuantizeAndDequantizeV2(
      input=x, input_min=tf.constant(0.0, x.dtype), input_max=tf.constant(1.0, x.dtype)
    ),
    outcome="refused",
  ),
  "QuantizeAndDequantizeV3": Example(
    lambda x: r.QuantizeAndDequantizeV3(
      input=x, input_min=tf.constant(0.0, x.dtype), input_max=tf.constant(1.0, x.dtype), num_bits=8
    ),
    outcome="refused",
  ),
  "QuantizeAndDequantizeV4": Example(
    lambda x: tf.quantization.quantize_and_dequantize_v2(
      x, tf.constant(0.0, x.dtype), tf.constant(1.0, x.dtype), range_given=True
    ),
    outcome="refused",
  ),
  "CTCLoss": Example(
    lambda x: r.CTCLoss(
      inputs=x, labels_indices=[[0, 0], [0, 1]], labels_values=[0, 1], sequence_length=[4]
    )[0],
    (4, 1, 3),
    outcome="refused",
  ),
  "CTCLoss, dense": Example(
    lambda x: tf.nn.ctc_loss([[1, 2]], x, [2], [4], blank_index=0),
    (4, 1, 3),
    dtype=tf.float32,
    outcome="refused",
  ),
  "BlockLSTM": Example(
    lambda x, w: block_lstm(r.BlockLSTM, x, w),
    (2, 1, 2),
    (4, 8),
    dtype=tf.float32,
    outcome="refused",
  ),
  "BlockLSTMV2": Example(
    lambda x, w: block_lstm(r.BlockLSTMV2, x, w),
    (2, 1, 2),
    (4, 8),
    dtype=tf.float32,
    outcome="refused",
  ),
  "StatelessRandomGammaV2": Example(
    lambda a: r.StatelessRandomGammaV2(shape=[2, 3], seed=[1, 2], alpha=a), (3,), outcome="refused"
  ),
  "StatelessRandomGammaV3": Example(
    lambda a: tf.random.stateless_gamma([2, 3], [1, 2], a, dtype=a.dtype), (3,), outcome="refused"
  ),
  "StatelessParameterizedTruncatedNormal": Example(
    lambda m, s, a, b: tf.random.stateless_parameterized_truncated_normal(
      [3], [1, 2], m, s, a - 2.0, b + 2.0
    ),
    (3,),
    (3,),
    (3,),
    (3,),
    outcome="refused",
  ),
  # Shapes
  "Reshape": Example(lambda x: tf.reshape(x, [3, 2])),
  "ExpandDims": Example(lambda x: tf.expand_dims(x, 1)),
  "Squeeze": Example(lambda x: tf.squeeze(x, 1), (2, 1, 3)),
  "Transpose": Example(lambda x: tf.transpose(x)),
  "ConjugateTranspose": Example(lambda x: r.ConjugateTranspose(x=x, perm=[1, 0])),
  "Tile": Example(lambda x: tf.tile(x, [2, 1])),
  "Pad": Example(lambda x: tf.pad(x, [[1, 0], [0, 2]])),
  "PadV2": Example(
    lambda x: r.PadV2(
      input=x, paddings=[[1, 0], [0, 2]], constant_values=tf.constant(0.5, tf.float64)
    )
  ),
  "MirrorPad": Example(lambda x: tf.pad(x, [[1, 0], [0, 2]], "REFLECT")),
  "MirrorPadGrad": Example(
    lambda x: r.MirrorPadGrad(input=x, paddings=[[1, 0], [0, 2]], mode="SYMMETRIC"), (3, 4)
  ),
  "Pack": Example(lambda x, y: tf.stack([x, y], 1), (3,), (3,)),
  "Unpack": Example(lambda x: tf.unstack(x)),
  "Concat": Example(lambda x, y: r.Concat(concat_dim=0, values=[x, y]), (2, 3), (1, 3)),
  "ConcatV2": Example(lambda x, y: tf.concat([x, y], 0), (2, 3), (1, 3)),
  "Slice": Example(lambda x: tf.slice(x, [0, 1], [2, 2])),
  "StridedSlice": Example(lambda x: x[:, ::-2]),
  "StridedSliceGrad": Example(
    lambda x: r.StridedSliceGrad(shape=[5], begin=[0], end=[5], strides=[2], dy=x), (3,)
  ),
  "TensorStridedSliceUpdate": Example(
    lambda x, y: r.TensorStridedSliceUpdate(input=x, begin=[0], end=[4], strides=[2], value=y),
    (4,),
    (2,),
  ),
  "Split": Example(lambda x: tf.split(x, 3, 1)[:2]),
  "SplitV": Example(lambda x: tf.split(x, [1, 2], 1)[1]),
  "Reverse": Example(lambda x: r.Reverse(tensor=x, dims=[True, False])),
  "ReverseV2": Example(lambda x: tf.reverse(x, [1])),
  "ReverseSequence": Example(lambda x: tf.reverse_sequence(x, [2, 3], seq_axis=1)),
  "Roll": Example(lambda x: tf.roll(x, 1, 1)),
  "BroadcastTo": Example(lambda x: tf.broadcast_to(x, [2, 2, 3])),
  "Fill": Example(lambda x: tf.fill([3], x), ()),
  "SpaceToBatch": Example(
    lambda x: r.SpaceToBatch(input=x, paddings=[[0, 0], [0, 0]], block_size=2), (1, 2, 2, 1)
  ),
  "SpaceToBatchND": Example(lambda x: tf.space_to_batch(x, [2, 2], [[0, 0], [0, 0]]), (1, 2, 2, 1)),
  "BatchToSpace": Example(
    lambda x: r.BatchToSpace(input=x, crops=[[0, 0], [0, 0]], block_size=2), (4, 1, 1, 1)
  ),
  "BatchToSpaceND": Example(lambda x: tf.batch_to_space(x, [2, 2], [[0, 0], [0, 0]]), (4, 1, 1, 1)),
  "SpaceToDepth": Example(lambda x: tf.nn.space_to_depth(x, 2), (1, 2, 2, 1)),
  "DepthToSpace": Example(lambda x: tf.nn.depth_to_space(x, 2), (1, 1, 1, 4)),
  "ExtractImagePatches": Example(
    lambda x: tf.image.extract_patches(x, [1, 2, 2, 1], [1, 2, 2, 1], [1] * 4, "VALID"),
    (1, 4, 4, 1),
  ),
  "ExtractVolumePatches": Example(
    lambda x: tf.extract_volume_patches(x, [1, 2, 2, 2, 1], [1, 2, 2, 2, 1], "VALID"), I5
  ),
  # Indices
  "Gather": Example(lambda x: r.Gather(params=x, indices=INDICES), (3, 2)),
  "GatherV2": Example(lambda x: tf.gather(x, INDICES), (3, 2)),
  "GatherV2, axis 1": Example(lambda x: tf.gather(x, INDICES, axis=1)),
  "GatherV2, batch": Example(lambda x: tf.gather(x, [[0, 2], [1, 1]], batch_dims=1)),
  "GatherNd": Example(lambda x: tf.gather_nd(x, [[0, 1], [1, 2], [0, 1]])),
  "ScatterNd": Example(lambda x: tf.scatter_nd([[1], [3], [1]], x, [5]), (3,), outcome="other"),
  "ScatterNdNonAliasingAdd": Example(
    lambda x, y: r.ScatterNdNonAliasingAdd(input=x, indices=[[1], [3]], updates=y), (4,), (2,)
  ),
  "TensorScatterUpdate": Example(
    lambda x, y: tf.tensor_scatter_nd_update(x, [[1], [3]], y), (4,), (2,)
  ),
  "TensorScatterAdd": Example(lambda x, y: tf.tensor_scatter_nd_add(x, [[1], [3]], y), (4,), (2,)),
  "TensorScatterSub": Example(lambda x, y: tf.tensor_scatter_nd_sub(x, [[1], [3]], y), (4,), (2,)),
  "TensorScatterMax": Example(
    lambda x, y: tf.tensor_scatter_nd_max(x, [[1], [3]], y), (4,), (2,), **SPREAD
  ),
  "TensorScatterMin": Example(
    lambda x, y: tf.tensor_scatter_nd_min(x, [[1], [3]], y), (4,), (2,), **SPREAD
  ),
  "DynamicPartition": Example(lambda x: tf.dynamic_partition(x, [0, 1, 0], 2), (3, 2)),
  "DynamicStitch": Example(lambda x, y: tf.dynamic_stitch([[0, 2], [1]], [x, y]), (2, 2), (1, 2)),
  "DynamicStitch, overwritten": Example(
    lambda x, y: tf.dynamic_stitch([[0, 2], [1, 2]], [x, y]), (2, 2), (2, 2), outcome="refused"
  ),
  "ParallelDynamicStitch": Example(
    lambda x, y: r.ParallelDynamicStitch(indices=[[0, 2], [1]], data=[x, y]), (2, 2), (1, 2)
  ),
  "OneHot": Example(
    lambda a, b: tf.one_hot([0, 2], 3, a, b, dtype=a.dtype), (), (), outcome="refused"
  ),
  "Range": Example(lambda x: tf.range(x, 4.0), (), outcome="refused"),
  "LinSpace": Example(lambda x, y: r.LinSpace(start=x, stop=y, num=4), (), (), outcome="refused"),
  "Select": Example(lambda x, y: r.Select(condition=[True, False, True], x=x, y=y), (3,), (3,)),
  "SelectV2": Example(lambda x, y: tf.where([True, False, True], x, y), (3,), (2, 3)),
  # What hands on
  "Identity": Example(lambda x: r.Identity(input=x)),
  "IdentityN": Example(lambda x, y: r.IdentityN(input=[x, y]), (2,), (3,)),
  "EnsureShape": Example(lambda x: tf.ensure_shape(x, [None, 3])),
  "Print": Example(lambda x: r.Print(input=x, data=[], first_n=0)),
  "CheckNumerics": Example(lambda x: tf.debugging.check_numerics(x, "bad")),
  "CheckNumericsV2": Example(lambda x: r.CheckNumericsV2(tensor=x, message="bad")),
  "PlaceholderWithDefault": Example(lambda x: tf.compat.v1.placeholder_with_default(x, [None, 3])),
  "PreventGradient": Example(lambda x: r.PreventGradient(input=x), outcome="refused"),
  "ZerosLike": Example(lambda x: x * x + r.ZerosLike(x=x)),
  "OnesLike": Example(lambda x: x * x + r.OnesLike(x=x)),
  "StopGradient": Example(
    lambda x: x * x * tf.stop_gradient(tf.constant([1.0, 2.0, 3.0], tf.float64))
  ),
  "Cast": Example(lambda x: tf.cast(tf.cast(x, tf.complex128), tf.float64), group="accumulated"),
  # Images
  "ResizeBilinear": Example(lambda x: tf.image.resize(x, (4, 7)), I4, single=True),
  "ResizeBilinear, corners": Example(
    lambda x: tf.compat.v1.image.resize_bilinear(x, (4, 7), align_corners=True), I4, single=True
  ),
  "ResizeBicubic": Example(lambda x: tf.image.resize(x, (4, 7), "bicubic"), I4, single=True),
  "ResizeNearestNeighbor": Example(lambda x: tf.image.resize(x, (4, 7), "nearest"), I4),
  "ResizeArea": Example(lambda x: tf.image.resize(x, (4, 7), "area"), I4, outcome="refused"),
  "ScaleAndTranslate": Example(
    lambda x: tf.image.resize(x, (4, 7), "lanczos5"), I4, dtype=tf.float32
  ),
  "ScaleAndTranslate, antialias": Example(
    lambda x: tf.image.resize(x, (3, 3), antialias=True), I4, dtype=tf.float32
  ),
  "CropAndResize": Example(
    lambda x: tf.image.crop_and_resize(
      x, [[0.0, 0.1, 0.9, 1.0], [0.2, 0.2, 1.2, 0.8]], [0, 1], (3, 4)
    ),
    I4,
    single=True,
  ),
  "CropAndResize, nearest": Example(
    lambda x: tf.image.crop_and_resize(x, [[0.0, 0.1, 0.9, 1.0]], [0], (3, 4), "nearest"),
    I4,
    single=True,
  ),
  "CropAndResize, boxes": Example(
    lambda b: tf.image.crop_and_resize(
      tf.reshape(tf.range(50.0), (1, 5, 5, 2)),
      tf.cast(b, tf.float32) * [[0.1, 0.1, 1.0, 1.0]],
      [0],
      (3, 4),
    ),
    (1, 4),
    outcome="refused",
  ),
  "RGBToHSV": Example(lambda x: tf.image.rgb_to_hsv(x), (2, 2, 3)),
  "HSVToRGB": Example(lambda x: tf.image.hsv_to_rgb(x), (2, 2, 3), outcome="refused"),
  "AdjustContrastv2": Example(
    lambda x: r.AdjustContrastv2(images=x, contrast_factor=2.0),
    (1, 2, 2, 3),
    dtype=tf.float32,
    outcome="refused",
  ),
  "AdjustHue": Example(
    lambda x: r.AdjustHue(images=x, delta=0.1), (1, 2, 2, 3), dtype=tf.float32, outcome="refused"
  ),
  "ImageProjectiveTransformV2": Example(
    lambda x: r.ImageProjectiveTransformV2(
      images=x,
      transforms=[[0.9, 0.1, 0.2, -0.1, 0.9, 0.0, 0.0, 0.0]],
      output_shape=[5, 5],
      interpolation="BILINEAR",
    ),
    I4,
    outcome="refused",
  ),
  "ImageProjectiveTransformV3": Example(
    lambda x: r.ImageProjectiveTransformV3(
      images=x,
      transforms=[[0.9, 0.1, 0.2, -0.1, 0.9, 0.0, 0.0, 0.0]],
      output_shape=[5, 5],
      fill_value=0.0,
      interpolation="BILINEAR",
    ),
    I4,
    outcome="refused",
  ),
  "DrawBoundingBoxes": Example(
    lambda x: tf.image.draw_bounding_boxes(x, [[[0.1, 0.1, 0.9, 0.9]]], [[1.0, 0.0]]),
    (1, 6, 6, 3),
    dtype=tf.float32,
    outcome="refused",
  ),
  "ExtractGlimpse": Example(
    lambda x: r.ExtractGlimpse(
      input=x, size=[3, 3], offsets=[[0.0, 0.0]], uniform_noise=False, noise="zero"
    ),
    (1, 5, 5, 1),
    dtype=tf.float32,
    outcome="refused",
  ),
  # Complex numbers
  "Complex": Example(
    lambda x, y: tf.math.real(tf.complex(x, y) ** 2), (3,), (3,), group="accumulated"
  ),
  "Real": Example(lambda x: tf.math.real(tf.complex(x, x) ** 3), (3,), group="accumulated"),
  "Imag": Example(lambda x: tf.math.imag(tf.complex(x, x) ** 3), (3,), group="accumulated"),
  "Angle": Example(lambda x, y: tf.math.angle(tf.complex(x, y)), (3,), (3,), group="accumulated"),
  "Conj": Example(
    lambda x, y: tf.math.imag(tf.math.conj(tf.complex(x, y)) ** 2), (3,), (3,), group="accumulated"
  ),
  "ComplexAbs": Example(lambda x, y: tf.abs(tf.complex(x, y)), (3,), (3,), group="accumulated"),
  "FFT": Example(lambda x: tf.abs(tf.signal.fft(tf.complex(x, x))), group="accumulated"),
  "IFFT": Example(lambda x: tf.math.real(tf.signal.ifft(tf.complex(x, x))), group="accumulated"),
  "FFT2D": Example(lambda x: tf.math.real(tf.signal.fft2d(tf.complex(x, x))), group="accumulated"),
  "IFFT2D": Example(
    lambda x: tf.math.real(tf.signal.ifft2d(tf.complex(x, x))), group="accumulated"
  ),
  "FFT3D": Example(
    lambda x: tf.math.real(tf.signal.fft3d(tf.complex(x, x))), (2, 2, 3), group="accumulated"
  ),
  "IFFT3D": Example(
    lambda x: tf.math.real(tf.signal.ifft3d(tf.complex(x, x))), (2, 2, 3), group="accumulated"
  ),
  "RFFT": Example(lambda x: tf.abs(tf.signal.rfft(x)), (2, 4), group="accumulated"),
  "IRFFT": Example(lambda x: tf.signal.irfft(tf.complex(x, x * x)), (2, 3), group="accumulated"),
  "RFFT2D": Example(lambda x: tf.abs(tf.signal.rfft2d(x)), (3, 4), group="accumulated"),
  "IRFFT2D": Example(
    lambda x: tf.signal.irfft2d(tf.complex(x, x * x)), (3, 3), group="accumulated"
  ),
  "RFFT3D": Example(lambda x: tf.abs(tf.signal.rfft3d(x)), (2, 3, 4), outcome="refused"),
  # Sparse tensors
  "SparseTensorDenseMatMul": Example(
    lambda v, x: tf.sparse.sparse_dense_matmul(sparse(v), x), (3,), (4, 2)
  ),
  "SparseToDense": Example(
    lambda v, d: r.SparseToDense(
      sparse_indices=SPARSE, output_shape=[3, 4], sparse_values=v, default_value=d
    ),
    (3,),
    (),
  ),
  "SparseAdd": Example(
    lambda v, w: tf.sparse.add(sparse(v), sparse(w)).values, (3,), (3,), outcome="refused"
  ),
  "SparseTensorDenseAdd": Example(lambda v, x: tf.sparse.add(sparse(v), x), (3,), (3, 4)),
  "SparseReduceSum": Example(lambda v: tf.sparse.reduce_sum(sparse(v), 1), (3,)),
  "SparseReorder": Example(lambda v: tf.sparse.reorder(sparse(v)).values, (3,)),
  "SparseSlice": Example(lambda v: tf.sparse.slice(sparse(v), [0, 0], [2, 4]).values, (3,)),
  "SparseDenseCwiseAdd": Example(
    lambda v, x: r.SparseDenseCwiseAdd(sp_indices=SPARSE, sp_values=v, sp_shape=[3, 4], dense=x),
    (3,),
    (3, 4),
    outcome="refused",
  ),
  "SparseDenseCwiseMul": Example(lambda v, x: (sparse(v) * x).values, (3,), (3, 4)),
  "SparseDenseCwiseDiv": Example(lambda v, x: (sparse(v) / x).values, (3,), (3, 4)),
  "SparseSoftmax": Example(lambda v: tf.sparse.softmax(sparse(v)).values, (3,), outcome="refused"),
  "SparseSparseMaximum": Example(
    lambda v, w: tf.sparse.maximum(sparse(v), sparse(w)).values,
    (3,),
    (3,),
    **SPREAD,
    outcome="refused",
  ),
  "SparseSparseMinimum": Example(
    lambda v, w: tf.sparse.minimum(sparse(v), sparse(w)).values,
    (3,),
    (3,),
    **SPREAD,
    outcome="refused",
  ),
  "SparseFillEmptyRows": Example(
    lambda v: r.SparseFillEmptyRows(
      indices=SPARSE, values=v, dense_shape=[4, 4], default_value=tf.constant(0.5, tf.float64)
    )[1],
    (3,),
  ),
  "SparseConcat": Example(
    lambda v, w: tf.sparse.concat(0, [sparse(v), sparse(w)]).values, (3,), (3,), outcome="refused"
  ),
  # Ragged tensors
  "RaggedGather": Example(
    lambda v: tf.gather(tf.RaggedTensor.from_row_lengths(v, [1, 2]), [1, 0, 1]).values,
    (3,),
    outcome="other",
  ),
  "RaggedTensorToTensor": Example(
    lambda v: tf.RaggedTensor.from_row_lengths(v, [1, 2]).to_tensor(), (3,), outcome="other"
  ),
  "RaggedTensorToSparse": Example(
    lambda v: tf.RaggedTensor.from_row_lengths(v, [1, 2]).to_sparse().values, (3,), outcome="other"
  ),
  "RaggedFillEmptyRows": Example(
    lambda v: r.RaggedFillEmptyRows(
      value_rowids=tf.constant([0, 0, 2], tf.int64),
      values=v,
      nrows=tf.constant(3, tf.int64),
      default_value=tf.constant(0.5, tf.float64),
    )[1],
    (3,),
  ),
  "RaggedTensorToVariant": Example(
    lambda v: tf.map_fn(
      lambda t: tf.reduce_sum(t**2),
      tf.RaggedTensor.from_row_lengths(v, [1, 2]),
      fn_output_signature=tf.float64,
    ),
    (3,),
    outcome="refused",
  ),
  # Control flow
  "While": Example(
    lambda x: tf.while_loop(lambda _, i: i < 3, lambda x, i: (tf.sin(x) * x, i + 1), (x, 0))[0],
    outcome="other",
  ),
  "If": Example(lambda x: tf.cond(x[0, 0] > 0.1, lambda: x * x, lambda: x), outcome="other"),
  "Case": Example(
    lambda x: tf.switch_case(tf.cast(x[0, 0] > 0.1, tf.int32), [lambda: x, lambda: x**2]),
    outcome="other",
  ),
  "TensorListStack": Example(lambda x: tf.map_fn(lambda t: t**2, x), outcome="other"),
  "TensorListStack, scan": Example(lambda x: tf.scan(lambda a, t: a * t, x), outcome="other"),
  "TensorListStack, array": Example(
    lambda x: tf.TensorArray(tf.float64, 2).unstack(x).stack() ** 2, outcome="other"
  ),
  "TensorListStack, concat": Example(
    lambda x: tf.TensorArray(tf.float64, 2).unstack(x).concat() ** 2, outcome="other"
  ),
  "TensorListSplit": Example(
    lambda x: tf.TensorArray(tf.float64, 2).split(x, [1, 1]).stack() ** 2, outcome="other"
  ),
  "TensorListGather": Example(
    lambda x: tf.TensorArray(tf.float64, 2).unstack(x).gather([1, 0]) ** 2, outcome="other"
  ),
  "PartitionedCall": Example(tf.function(lambda x: tf.sin(x) * x), group="accumulated"),
  "PartitionedCall, compiled": Example(
    tf.function(lambda x: tf.sin(x) * x, jit_compile=True), group="accumulated"
  ),
  "IdentityN, recompute_grad": Example(lambda x: tf.recompute_grad(tf.sin)(x)),
  "Mul, vectorized map": Example(lambda x: tf.vectorized_map(lambda t: tf.sin(t) * t, x)),
  # No gradient at all
  "IgammaGradA": Example(lambda x: r.IgammaGradA(a=x, x=x), outcome="refused"),
  "Lu": Example(lambda x: tf.linalg.lu(x)[0], (3, 3), outcome="refused"),
  "PyFunc": Example(lambda x: tf.numpy_function(np.square, [x], tf.float64), outcome="refused"),
  "EagerPyFunc": Example(
    lambda x: tf.ensure_shape(tf.py_function(tf.square, [x], tf.float64), [2, 3]), outcome="refused"
  ),
}
SPARSE = np.array([[0, 1], [0, 3], [2, 0]], np.int64)


def sparse(values):
  return tf.sparse.SparseTensor(SPARSE, values, [3, 4])


def block_lstm(op, x, w):
  def zeros(*shape):
    return tf.zeros(shape, x.dtype)

  return op(
    seq_len_max=tf.constant(2, tf.int64),
    x=x,
    cs_prev=zeros(1, 2),
    h_prev=zeros(1, 2),
    w=w,
    wci=zeros(2),
    wcf=zeros(2),
    wco=zeros(2),
    b=zeros(8),
  )[6]


# Registered operations of floating-point tensors without an example, and why.
WITHOUT_EXAMPLE = {
  "no kernel for CPU": """
    AccumulateNV2 AllToAll CTCLossV2 CollectivePermute CrossReplicaSum CudnnRNN CudnnRNNV2
    CudnnRNNV3 NcclAllReduce NcclBroadcast NcclReduce TPUEmbeddingActivations TPUReplicatedInput
    XlaClusterOutput XlaEinsum XlaSharding XlaSpmdFullToShardShape XlaSpmdShardToFullShape
    XlaVariadicReduce""",
  "of distributed tensors": "CopyToMesh CopyToMeshGrad Relayout RelayoutLike",
  "removed, or not in functions of TensorFlow 2": """
    Assign AssignAdd AssignSub BatchNormWithGlobalNormalization DebugGradientIdentity
    DebugGradientRefIdentity DebugIdentityV2 Enter Exit Merge NextIteration QuantizeAndDequantize
    Queue RefEnter RefExit RefIdentity RefMerge RefNextIteration RefSwitch ScatterAdd ScatterDiv
    ScatterMul ScatterNdAdd ScatterNdDiv ScatterNdMul ScatterNdSub ScatterNdUpdate ScatterSub
    StackPush Switch TensorArrayConcat TensorArrayConcatV2 TensorArrayConcatV3 TensorArrayGather
    TensorArrayGatherV2 TensorArrayGatherV3 TensorArrayGradV3 TensorArrayGradWithShape
    TensorArrayRead TensorArrayReadV2 TensorArrayReadV3 TensorArrayScatter TensorArrayScatterV2
    TensorArrayScatterV3 TensorArraySplit TensorArraySplitV2 TensorArraySplitV3 TensorArrayWrite
    TensorArrayWriteV2 TensorArrayWriteV3 TopK _EagerConst""",
  "refused for its state, before it is differentiated": """
    ParameterizedTruncatedNormal PyFuncStateless RandomCrop RandomGamma RandomShuffle""",
  "for gradients of others, which have examples": """
    FakeQuantWithMinMaxArgsGradient FakeQuantWithMinMaxVarsGradient
    FakeQuantWithMinMaxVarsPerChannelGradient FusedBatchNormGrad FusedBatchNormGradV2
    FusedBatchNormGradV3 QuantizeAndDequantizeV4Grad ResizeBilinearGrad SparseAddGrad""",
  "like one that has an example": "SparseMatrixMatMul StatelessCase StatelessIf StatelessWhile",
  "registered as not differentiable, and refused for that like LinSpace": """
    CTCBeamSearchDecoder CTCGreedyDecoder EditDistance GenerateBoundingBoxProposals
    LoadAndRemapMatrix LookupTableFind LookupTableFindV2 RaggedRange ReduceDataset
    SampleDistortedBoundingBox SampleDistortedBoundingBoxV2 SdcaOptimizer SdcaOptimizerV2
    StatelessRandomBinomial StatelessRandomPoisson StatelessRandomShuffle""",
  "of whole numbers here": "TruncateDiv",
}


def is_of_floats(name):
  """Whether an operation has floating-point inputs and outputs."""
  definition = op_def_registry.get(name)

  def may_be(argument):
    if argument.type or argument.type_list_attr:
      return not argument.type or tf.as_dtype(argument.type).is_floating
    attr = next(a for a in definition.attr if a.name == argument.type_attr)
    allowed = attr.allowed_values.list.type
    return not allowed or any(tf.as_dtype(t).is_floating for t in allowed)

  return definition is not None and all(
    any(may_be(a) for a in arguments) for arguments in (definition.input_arg, definition.output_arg)
  )


def types(examples):
  return {name.split(",")[0] for name in examples}


def test_every_registered_operation_has_an_example_or_a_reason():
  registered = {name for name in ops.gradient_registry.list() if is_of_floats(name)}
  reasons = {name for names in WITHOUT_EXAMPLE.values() for name in names.split()}
  # Custom gradients are registered under names of their own.
  assert {n for n in registered if op_def_registry.get(n)} - types(EXAMPLES) - reasons == set()


def test_operations_that_are_taken_as_sound_have_examples_that_are_right():
  right = types(n for n, e in EXAMPLES.items() if e.outcome == "right")
  assert operations.SOUND_OPS - right == set()
  assert second_order.CONSTANT_OPS - right == {"TruncateDiv"}


def by_block(examples, vector):
  """Splits a vector (n,) into the examples' parts."""
  sizes = [sum(int(np.prod(s)) for s in e.shapes) for e in examples]
  return np.split(vector, np.cumsum(sizes)[:-1])


def measure(names, h, several=True):
  """Returns (operator, types of operations in its loss, for each name what is compared)."""
  examples = [EXAMPLES[name] for name in names]
  operator = operator_of(examples)
  rng = np.random.default_rng(1)
  v = rng.standard_normal(operator.shape[0])
  product = operator @ v
  rows = []
  for stacked in {operator.vectorized, False} if several else ():
    operator.vectorized = stacked
    rows.extend(operator.products(np.stack([v, -2 * v])))
  variables = operator.objective.parameters
  counts = np.cumsum([len(e.shapes) for e in examples])[:-1]

  @tf.function(autograph=False)
  def losses():
    parts = np.split(np.arange(len(variables)), counts)
    values = [tf.convert_to_tensor(p) for p in variables]
    return [e.loss([values[i] for i in p]) for e, p in zip(examples, parts, strict=True)]

  point, ends = operator.parameters(), []
  for sign in (1, -1):
    start = 0
    for p in variables:
      size = p.shape.num_elements()
      p.assign((point + sign * h * v)[start : start + size].reshape(p.shape))
      start += size
    ends.append((operator.gradient(), np.array(losses())))
  gradients, values = zip(*ends, strict=True)
  graphs = [outputs[0].graph.as_graph_def() for outputs, _ in operator.program.loss.ways()]
  seen = {n.op for g in graphs for n in second_order.graph_nodes(g)}
  found = {}
  parts = [product, (gradients[0] - gradients[1]) / (2 * h), sum(gradients) / 2 * v]
  blocks = zip(*(by_block(examples, x) for x in parts), strict=True)
  for i, (name, block) in enumerate(zip(names, blocks, strict=True)):
    others = [by_block(examples, row)[i] for row in rows]
    found[name] = (*block, (values[0] - values[1])[i] / (2 * h), others)
  return operator, seen, found


def check(name, found):
  """Compares one example's product and gradient with differences."""
  product, differences, slopes, slope, others = found
  # Differences err by h^2 times higher derivatives, and eps / h: 1e-10 and 2e-11 for h = 1e-5; in
  # float32, 1e-5 and 4e-5 for h = 3e-3; all times up to 100 for the functions here.
  rtol = 3e-3 if EXAMPLES[name].single else 1e-7
  size = max(np.linalg.norm(differences), 1e-3)
  assert np.linalg.norm(product - differences) <= rtol * size
  assert abs(slopes.sum() - slope) <= rtol * max(np.abs(slopes).max(), 1e-2)
  for i, other in enumerate(others):
    assert np.linalg.norm(other - (1, -2)[i % 2] * product) <= rtol * size


STEP = {"float64": 1e-5, "float32": 3e-3, "accumulated": 1e-5}
# One of each kind of what is not in all models and yet in many; the others take a minute.
QUICK = [
  "BatchMatMulV3",
  "Cholesky",
  "ClipByValue",
  "DynamicPartition",
  "EuclideanNorm",
  "GatherNd",
  "LogSoftmax",
  "MatrixSetDiagV3",
  "MaxPool, strides 1",
  "ResizeNearestNeighbor",
  "SegmentMax",
  "SparseSegmentMean",
  "TopKV2, sort",
]


def groups():
  """Returns dict: name of a group -> names of examples; small ones, as large graphs take long."""
  result = {"quick": QUICK}
  for group in STEP:
    names = [n for n, e in EXAMPLES.items() if e.outcome == "right" and e.group == group]
    for i in range(0, len(names), 12):
      result[f"{group} {i}"] = names[i : i + 12]
  return result


GROUPS = groups()


@pytest.fixture(scope="module")
def measured():
  """Returns a function: name of a group -> what `measure` returns, once."""
  known = {}

  def of(group):
    if group not in known:
      known[group] = None  # one that fails is not tried again
      step = STEP.get(group.split()[0], 1e-5)
      known[group] = measure(GROUPS[group], step, several=group != "quick")
    assert known[group], "could not be measured: see the first of its tests"
    return known[group]

  return of


@pytest.mark.parametrize(
  "group, name",
  [
    pytest.param(g, n, marks=[] if g == "quick" else pytest.mark.slow)
    for g, names in GROUPS.items()
    for n in names
  ],
)
def test_product_through_an_operation_is_right(group, name, measured):
  operator, seen, found = measured(group)
  assert operator.mode == "forward_over_backward"
  assert name.split(",")[0] in seen
  check(name, found[name])


def named(outcome, fast):
  return [
    pytest.param(n, marks=[] if n in fast else pytest.mark.slow)
    for n, e in EXAMPLES.items()
    if e.outcome == outcome
  ]


@pytest.mark.parametrize("name", named("other", ("If",)))
def test_product_through_an_operation_is_right_in_the_mode_that_is_chosen(name, caplog):
  with caplog.at_level("INFO", logger="absl"):
    operator, _, found = measure([name], STEP["float64"])
  assert operator.mode == operator.description()["mode"] == "backward_over_backward"
  lines = [
    r.getMessage() for r in caplog.records if "mode backward_over_backward" in r.getMessage()
  ]
  assert len(lines) == 1 and "operation" in lines[0]
  check(name, found[name])
  with pytest.raises(DifferentiationError):
    explicit = operator_of([EXAMPLES[name]], mode="forward_over_backward")
    explicit @ np.ones(explicit.shape[0])


FAST = ("Betainc, all", "FakeQuantWithMinMaxVars", "OneHot", "Range", "HSVToRGB", "Lu")
FAST += ("PyFunc", "EagerPyFunc", "CTCLoss", "FusedBatchNormV3, inference", "SparseConcat")


@pytest.mark.parametrize("name", named("refused", FAST))
def test_operation_whose_derivative_would_be_wrong_is_refused_by_name(name):
  # That of a dense CTC is a function with a name of its own.
  kind = "body" if "dense" in name else re.match("[A-Za-z]+", name).group()[:8]
  with pytest.raises(DifferentiationError, match=f"operation {kind}"):
    operator = operator_of([EXAMPLES[name]])
    operator @ np.ones(operator.shape[0])


# Where it stands --------------------------------------------------------------------------------


def python(x):
  return tf.ensure_shape(tf.numpy_function(np.square, [x], tf.float64), x.shape)


INSIDE = {
  "function": lambda x: tf.function(python, autograph=False)(x),
  "loop": lambda x: tf.map_fn(python, x),
  "branch": lambda x: tf.cond(tf.reduce_sum(x) > 0.0, lambda: python(x), lambda: x),
  "loop in a function": tf.function(lambda x: tf.map_fn(python, x), autograph=False),
}


@pytest.mark.parametrize("where", INSIDE)
def test_python_function_of_parameters_is_refused_when_it_is_made_wherever_it_stands(where):
  with pytest.raises(DifferentiationError, match="operation PyFunc.*write it in operations"):
    operator_of([Example(INSIDE[where])])


@pytest.mark.parametrize("where", INSIDE)
def test_python_function_of_data_alone_is_allowed(where):
  def loss(params, batch):
    return tf.reduce_sum(INSIDE[where](batch)) * tf.reduce_sum(params[0] ** 2)

  operator = HessianOperator(
    [tf.Variable([1.0, 2.0], dtype=tf.float64)], loss, [tf.ones((1, 2), tf.float64)]
  )
  np.testing.assert_array_equal(operator @ [1.0, 0.0], [4.0, 0.0])


def test_python_function_of_what_is_stopped_is_allowed():
  example = Example(lambda x: x * x * tf.stop_gradient(python(x)), (2,))
  operator = operator_of([example])
  assert np.isfinite(operator @ np.ones(2)).all()


def test_second_derivative_of_a_cumulative_logsumexp_stays_where_its_gradient_is_zero():
  x = np.linspace(-1.0, 1.0, 5)
  y = np.log(np.cumsum(np.exp(x)))

  def loss(params, batch):
    return batch * tf.reduce_sum((tf.math.cumulative_logsumexp(params[0]) - y) ** 2)

  operator = HessianOperator([tf.Variable(x)], loss, [tf.ones(1, tf.float64)])
  jacobian = np.tril(np.exp(x[None, :] - y[:, None]))
  # Of residuals that are zero, H = 2 J' J; some roundings.
  found = operator @ np.eye(5)
  np.testing.assert_allclose(found, 2 * jacobian.T @ jacobian, rtol=1e-12, atol=1e-14)
