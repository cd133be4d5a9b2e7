"""TensorFlow's wrong or missing second derivatives.

`tf.nn.moments`, which Keras's BatchNormalization and GroupNormalization call, stops the gradient at
the mean inside the variance, because that path contributes nothing to the *first* derivative. It
does contribute to the second: d^2 var / dx_i dx_j = 2 (delta_ij - 1/N) / N, and the -1/N is lost.
Products stay symmetric and repeatable, and are wrong (by 1% to 13% in small nets). So models are
traced with moments that are differentiable, and so are sums of exponentials that are all zero, and
two registered gradients that divide by what comes in, or take its logarithm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
import contextlib
import re

import numpy as np
import tensorflow as tf

from tf_hessian.curvature import keras_internals


class DifferentiationError(ValueError):
  """An operation of the model without a second derivative in TensorFlow.

  >>> import numpy as np
  >>> import tensorflow as tf
  >>> import tf_hessian
  >>> def loss(p, batch):
  ...   return batch * tf.reduce_sum(tf.quantization.fake_quant_with_min_max_args(p[0]))
  >>> point, data = [tf.Variable([3.0, 1.0])], [np.ones(1, "float32")]
  >>> try:
  ...   tf_hessian.HessianOperator(point, loss, data) @ np.ones(2)
  ... except tf_hessian.DifferentiationError as e:
  ...   print("FakeQuant" in str(e))
  True
  """


# In the names of operations whose custom gradients are the derivatives, and cheaper than those of
# the operations before them.
EXACT = "exact_gradient"


def _moments(x, axes, shift=None, keepdims=False, name=None):
  """Computes `tf.nn.moments` without the stopped gradient.

  The values are the same. It has a gradient of its own, since that of `tf.reduce_mean` is a tensor
  like x, made in two steps.
  """
  del shift  # not used by TensorFlow either

  @tf.custom_gradient
  def moments(y):
    mean = tf.reduce_mean(y, axes, keepdims=True)
    centered = y - mean
    variance = tf.reduce_mean(tf.square(centered), axes, keepdims=True)
    count = tf.cast(tf.size(y) // tf.size(mean), y.dtype)

    def gradient(by_mean, by_variance):
      return centered * (by_variance * (2.0 / count)) + by_mean / count

    return (mean, variance), gradient

  with tf.name_scope(name or "moments"), tf.name_scope(EXACT):
    mean, variance = moments(tf.cast(x, tf.float32) if x.dtype == tf.float16 else x)
  if not keepdims:
    mean, variance = tf.squeeze(mean, axes), tf.squeeze(variance, axes)
  return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)


def _reduce_logsumexp(input_tensor, axis=None, keepdims=False, name=None):
  """Computes `tf.reduce_logsumexp`, with derivatives of zero for empty sums.

  A sum is empty if all entries are minus infinity; the second derivative of TensorFlow's is 0 times
  infinity there. The values are the same.
  """
  with tf.name_scope(name or "ReduceLogSumExp"):
    x = tf.convert_to_tensor(input_tensor)
    largest = tf.stop_gradient(tf.reduce_max(x, axis, keepdims=True))
    largest = tf.where(tf.math.is_finite(largest), largest, tf.zeros_like(largest))
    total = tf.reduce_sum(tf.exp(x - largest), axis, keepdims=True)
    empty = total == 0
    result = tf.math.log(tf.where(empty, tf.ones_like(total), total)) + largest
    result = tf.where(empty, tf.fill(tf.shape(total), tf.cast(-np.inf, x.dtype)), result)
    return result if keepdims else tf.squeeze(result, axis)


def _cumulative_logsumexp_gradient(op, gradient):
  """Computes the registered gradient for positive entries.

  All entries are raised to positive ones before: the registered gradient takes logarithms of what
  comes in, and so loses second derivatives where that is zero. As it is linear in fact, what was
  added is taken away again.
  """
  x, axis = op.inputs
  largest = tf.reduce_max(tf.abs(gradient))
  shift = tf.stop_gradient(tf.where(largest > 0, 2 * largest, tf.ones_like(largest)))

  def of_positive(values):
    total = tf.math.cumulative_logsumexp(
      tf.math.log(values) - op.outputs[0],
      axis,
      exclusive=op.get_attr("exclusive"),
      reverse=not op.get_attr("reverse"),
    )
    return tf.exp(total + x)

  return [of_positive(gradient + shift) - of_positive(shift + tf.zeros_like(gradient)), None]


def _euclidean_norm_gradient(op, gradient):
  """Computes the registered gradient as a multiple of what comes in.

  The one that TensorFlow has registered divides by what comes in.
  """
  x, axes = op.inputs
  kept = tf.shape(tf.reduce_sum(x, axes, keepdims=True))
  return [x * tf.reshape(gradient / op.outputs[0], kept), None]


_GRADIENTS = {
  "CumulativeLogsumexp": _cumulative_logsumexp_gradient,
  "EuclideanNorm": _euclidean_norm_gradient,
}


_REPLACED = (
  (tf.nn, "moments", _moments),
  (tf, "reduce_logsumexp", _reduce_logsumexp),
  (tf.math, "reduce_logsumexp", _reduce_logsumexp),
)


@contextlib.contextmanager
def differentiable_operations() -> Iterator[None]:
  """Makes moments and gradients of functions traced inside differentiable again."""
  registry = keras_internals.gradient_registry()
  with keras_internals.replaced(*_REPLACED):
    before = {name: registry[name] for name in _GRADIENTS}
    registry.update({name: before[name] | {"type": g} for name, g in _GRADIENTS.items()})
    try:
      yield
    finally:
      registry.update(before)


# Operations that forward accumulation can't pass, while nested gradient tapes can: it fails on the
# variant tensors of control flow, and on attributes that are shapes.
BACKWARD_ONLY_OPS = frozenset(
  {
    "Case",
    "If",
    "ImageProjectiveTransformV3",
    "ScatterNd",
    "StatelessCase",
    "StatelessIf",
    "StatelessWhile",
    "While",
  }
)


# Of these, what no vectorization passes either.
CONTROL_FLOW_OPS = frozenset(
  {"Case", "If", "StatelessCase", "StatelessIf", "StatelessWhile", "While"}
)


# Those that TensorFlow vectorizes wrongly: number k of several gets the segments of another.
_WRONG_STACKED_OPS = frozenset(
  {
    "SparseSegmentMeanWithNumSegments",
    "SparseSegmentSqrtNWithNumSegments",
    "SparseSegmentSumWithNumSegments",
  }
)


def not_vectorized_op(graph_def: tf.compat.v1.GraphDef, layers: Sequence[str], /) -> str | None:
  """Returns the first operation that can't be vectorized, or None.

  As "operation of layer".
  """
  unfit = CONTROL_FLOW_OPS | _WRONG_STACKED_OPS
  for node in graph_nodes(graph_def):
    if node.op in unfit or node.op.startswith("TensorList"):
      return f"operation {node.op} of {place_of(node.name, layers)}"
  return None


def backward_only_op(graph_def: tf.compat.v1.GraphDef, layers: Sequence[str], /) -> str | None:
  """Returns "operation of layer" for the first operation of BACKWARD_ONLY_OPS, or None."""
  for node in graph_nodes(graph_def):
    if node.op in BACKWARD_ONLY_OPS:
      return f"operation {node.op} of {place_of(node.name, layers)}"
  return None


# Constant almost everywhere in all their inputs, or meant to be.
CONSTANT_OPS = frozenset(
  {
    "Ceil",
    "Floor",
    "FloorDiv",
    "OnesLike",
    "Rint",
    "Round",
    "Sign",
    "StopGradient",
    "TruncateDiv",
    "ZerosLike",
  }
)

_PYTHON = (
  "it runs Python code, of which TensorFlow gets second derivatives wrong: write it in operations "
  "of TensorFlow"
)
_ROUNDS = "it rounds, and TensorFlow passes gradients through as if it did not"
_DRAWS = "it draws from a distribution that depends on variables, and its gradient is a mean"
REFUSED = {
  **dict.fromkeys(("EagerPyFunc", "PyFunc", "PyFuncStateless"), _PYTHON),
  **dict.fromkeys(("RandomGamma", "StatelessRandomGammaV2", "StatelessRandomGammaV3"), _DRAWS),
  "StatelessParameterizedTruncatedNormal": _DRAWS,
  "MatrixDiagPartV2": "TensorFlow's gradient has the diagonals at other places: use V3",
  **{
    f"{kind}{version}": _ROUNDS
    for kind, versions in (
      ("QuantizeAndDequantize", ("", "V2", "V3", "V4")),
      ("FakeQuantWithMinMax", ("Args", "Vars", "VarsPerChannel")),
    )
    for version in versions
  },
}


class NoDerivativeError(LookupError):
  """An operation that can't be passed.

  Args:
    op: the `tf.Operation`.
    reason: why not, as the end of a sentence.
  """

  def __init__(self, op: tf.Operation, reason: str) -> None:
    super().__init__(f"operation {op.type} has no derivative: {reason}")
    self.type, self.name, self.reason = op.type, op.name, reason


def gradient_parts(
  op: tf.Operation, by_outputs: Sequence[tf.Tensor], changing: Sequence[bool], /
) -> Sequence:
  """Returns the gradients of an operation's inputs, as TensorFlow has them registered.

  Args:
    op: `tf.Operation`.
    by_outputs: list of the gradients of its outputs.
    changing: list, for each input whether its gradient is needed.

  Returns:
    Sequence of tensors, `tf.IndexedSlices`, or None for inputs without influence.

  Raises:
    NoDerivativeError: if there is none, or none of a floating-point input that is needed.
  """
  try:
    gradient = keras_internals.gradient_function(op)
    parts = None if gradient is None else gradient(op, *by_outputs)
  except (LookupError, TypeError, ValueError, NotImplementedError) as e:
    raise NoDerivativeError(op, f"TensorFlow can't differentiate it: {e}") from e
  if parts is None:
    raise NoDerivativeError(op, "TensorFlow drops it")
  parts = parts if isinstance(parts, (list, tuple)) else [parts]
  if op.type == "IdentityN":  # a custom gradient is its author's
    return parts
  for i, (part, needed) in enumerate(zip(parts, changing, strict=True)):
    if needed and part is None:
      raise NoDerivativeError(op, f"TensorFlow drops that of input {i}")
  return parts


# Max pooling ----------------------------------------------------------------------------------


def needs_padding(op: tf.Operation, /) -> bool:
  """Returns whether TensorFlow's second derivative of a pooling is wrong.

  The operation is a max pooling or the gradient of one.
  """
  pooled = op.inputs[1] if "Grad" in op.type else op.outputs[0]
  explicit = op.get_attr("padding") == b"EXPLICIT"
  return explicit or op.inputs[0].shape.is_compatible_with(pooled.shape)


def pooling_windows(op: tf.Operation, /) -> Sequence:
  """Returns (sizes, strides) of a max pooling, two lists.

  They may be None where they are not known when it is traced.
  """
  if "V2" not in op.type:
    return op.get_attr("ksize"), op.get_attr("strides")
  values = [tf.get_static_value(x) for x in op.inputs[-2:]]
  return values if any(v is None for v in values) else [v.tolist() for v in values]


# Errors ---------------------------------------------------------------------------------------


def explain(
  error: Exception, graph_defs: Sequence[tf.compat.v1.GraphDef], layers: Sequence[str], /
) -> DifferentiationError:
  """Returns a `DifferentiationError` for an error of TensorFlow, naming operation and layer.

  Args:
    error: a LookupError of a missing gradient, or another one.
    graph_defs: `GraphDef`s of what was to be differentiated, where the operation is looked for.
    layers: names of the model's layers.
  """
  remedy = "replace it, or leave the variables before it out with variables= (docs/limits.md)"
  if isinstance(error, NoDerivativeError):
    return DifferentiationError(
      f"{place_of(error.name, layers)} uses the operation {error.type}, which has no right second "
      f"derivative in TensorFlow ({error.reason}); {remedy}"
    )
  found = re.search(r"no entry for: (\w+)|op type: (\w+)", str(error))
  kind = found and (found.group(1) or found.group(2))
  if not kind:
    return DifferentiationError(
      f"the model or its loss can't be differentiated twice: {plain_text(error)}"
    )
  names = [n.name for g in graph_defs for n in graph_nodes(g) if n.op == kind]
  place = place_of(names[0], layers) if names else place_of("", layers)
  return DifferentiationError(
    f"{place} uses the operation {kind}, which TensorFlow can't differentiate again; {remedy}"
  )


def plain_text(error: Exception, /) -> str:
  """Returns the text of an error without Keras's colours for terminals."""
  return re.sub("\x1b\\[[0-9]*m", "", str(error))


def graph_nodes(graph_def: tf.compat.v1.GraphDef, /) -> Iterator:
  """Yields every node of a `GraphDef`, those of its functions included."""
  yield from graph_def.node
  for function in graph_def.library.function:
    yield from function.node_def


def needed_nodes(graph_def: tf.compat.v1.GraphDef, names: Iterable[str], /) -> Iterator:
  """Yields the nodes of a `GraphDef` that some of its nodes need.

  Of functions that are called it yields all nodes.

  Args:
    graph_def: the graph.
    names: of the nodes.
  """
  nodes = {n.name: n for n in graph_def.node}
  functions = {f.signature.name: f.node_def for f in graph_def.library.function}
  left, seen = list(names), set()
  while left:
    name = left.pop()
    if name in seen:
      continue
    seen.add(name)
    for node in [nodes[name]] if name in nodes else functions.get(name, ()):
      yield node
      if name in nodes:
        left += [i.lstrip("^").split(":")[0] for i in node.input]
      left += [a.func.name for a in node.attr.values() if a.HasField("func")]
      left += [f.name for a in node.attr.values() for f in a.list.func]


def place_of(
  op_name: str, layers: Sequence[str], otherwise: str = "the model or its loss", /
) -> str:
  """Returns the words for an operation's layer, or `otherwise` without one."""
  layer = layer_in(op_name, layers)
  return f"layer {layer!r}" if layer else otherwise


def layer_in(op_name: str, layers: Sequence[str], /) -> str | None:
  """Returns the layer that is the innermost scope of an op's name.

  It is one of `layers`, or None.
  """
  for part in reversed(op_name.split("/")):
    for name in (part, re.sub(r"_\d+$", "", part)):
      if name in layers:
        return name
  return None
