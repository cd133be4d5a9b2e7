"""The derivative of a traced function along many directions, with all else computed once.

A `Linearization` walks the graph of a function from its inputs to its outputs, and builds the
operations of the tangents in the graph that is current: perhaps the body of a loop over directions,
which reads whatever does not depend on the direction from outside. Forward accumulation computes
the function anew for each direction, and makes a function for each operation, which takes deep
networks long to start.
"""

import functools

import tensorflow as tf
from tensorflow.python.framework import ops as _ops  # the registry of gradients is not public

from tf_hessian.curvature import fusion, second_order

# Linear in these inputs together. The others are settings, or data in which the operation is
# constant almost everywhere.
_LINEAR = {
  "AvgPool": (0,),
  "AvgPool3D": (0,),
  "AvgPool3DGrad": (1,),
  "AvgPoolGrad": (1,),
  "BiasAddGrad": (0,),
  "BroadcastTo": (0,),
  "Cast": (0,),
  "ConjugateTranspose": (0,),
  "DepthToSpace": (0,),
  "ExpandDims": (0,),
  "GatherV2": (0,),
  "Mean": (0,),
  "MirrorPad": (0,),
  "MirrorPadGrad": (0,),
  "Pad": (0,),
  "Relu6Grad": (0,),
  "Reshape": (0,),
  "ReverseV2": (0,),
  "Roll": (0,),
  "Slice": (0,),
  "SpaceToDepth": (0,),
  "Split": (1,),
  "SplitV": (0,),
  "Squeeze": (0,),
  "StridedSlice": (0,),
  "StridedSliceGrad": (4,),
  "Sum": (0,),
  "Tile": (0,),
  "Transpose": (0,),
  "Unpack": (0,),
  "UnsortedSegmentSum": (0,),
}
_CONSTANT_IN = {"ReluGrad": 1, "Relu6Grad": 1}
# Linear in each of these inputs alone.
_MULTILINEAR = {
  "BatchMatMulV2": (0, 1),
  "Conv2D": (0, 1),
  "Conv2DBackpropFilter": (0, 2),
  "Conv2DBackpropInput": (1, 2),
  "Conv3D": (0, 1),
  "DepthwiseConv2dNative": (0, 1),
  "DepthwiseConv2dNativeBackpropFilter": (0, 2),
  "DepthwiseConv2dNativeBackpropInput": (1, 2),
  "MatMul": (0, 1),
}
# Linear in all floating-point inputs together. IdentityN stands for a custom gradient, which is for
# the way back: what a function does forward is in the operations before it.
_JOINING = frozenset({"ConcatV2", "DynamicStitch", "IdentityN", "Pack", "Select", "SelectV2"})

_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall", "SymbolicGradient"})


class Linearization:
  """The derivative of tensors of the current graph in other tensors of it.

  Args:
    outputs: list of tensors.
    inputs: list of tensors.
    fuse: compute elementwise operations together; see `fusion`.

  Attributes:
    obstacle: type of an operation in between that it can't pass, such as a loop; None if there is
      none.
  """

  def __init__(self, outputs, inputs, /, *, fuse=False):
    self._fuse = fuse
    self._outputs = outputs
    self._inputs = inputs
    self._between = between(outputs, inputs)
    self.obstacle = next((op.type for op in self._between if not _passable(op)), None)

  def __call__(self, tangents, /):
    """Builds the derivative along a direction, in the current graph.

    Args:
      tangents: list of tensors like the inputs.

    Returns:
      list of tensors like the outputs.

    Raises:
      LookupError: if TensorFlow has no gradient for an operation in between.
    """
    rules = _Rules(self._fuse)
    known = {x.name: t for x, t in zip(self._inputs, tangents, strict=True)}
    for op in self._between:
      given = [known.get(x.name) for x in op.inputs]
      for y, t in zip(op.outputs, rules.tangents(op, given), strict=True):
        if t is not None and _is_float(y):
          known[y.name] = t
    return [_or_zeros(fusion.tensor(known.get(y.name)), y) for y in self._outputs]


def between(outputs, inputs, /):
  """Returns the operations on the ways from inputs to outputs, each after those it needs."""
  reached, found = {x.name for x in inputs}, []
  for op in outputs[0].graph.get_operations():
    if any(x.name in reached for x in op.inputs):
      found.append(op)
      reached.update(y.name for y in op.outputs if not y.dtype.is_integer and not y.dtype.is_bool)
  reached -= {x.name for x in inputs}
  needed, between = {y.name for y in outputs}, []
  for op in reversed(found):
    if any(y.name in needed and y.name in reached for y in op.outputs):
      between.append(op)
      needed.update(x.name for x in op.inputs)
  return between[::-1]


def _passable(op):
  """Whether an operation is of tensors of real numbers, without a graph of its own."""
  return (
    op.type not in _CALLS
    and op.type not in second_order.CONTROL_FLOW_OPS
    and not any(t.dtype.is_complex or t.dtype == tf.variant for t in (*op.inputs, *op.outputs))
  )


def _is_float(tensor):
  return tensor.dtype.is_floating


def _or_zeros(tangent, like):
  return tf.zeros_like(like) if tangent is None else tangent


class _Rules:
  """How tangents pass an operation.

  Args:
    fuse: let elementwise operations wait for each other.
  """

  def __init__(self, fuse):
    self._elementwise = functools.partial(fusion.elementwise, wait=fuse)

  def tangents(self, op, given):
    """Returns the tangents of an operation's outputs, or None for those that are constant.

    Args:
      op: `tf.Operation`.
      given: tangents of its inputs, None for those that are constant.
    """
    given = [None if i == _CONSTANT_IN.get(op.type) else t for i, t in enumerate(given)]
    changing = {i for i, t in enumerate(given) if t is not None}
    if not changing:
      return [None] * len(op.outputs)
    rule = getattr(self, f"_{op.type}", None)
    if rule is not None:
      result = rule(op, given)
      if result is not None:
        return result if isinstance(result, list) else [result]
    given = [fusion.tensor(t) for t in given]
    if op.type in _MULTILINEAR and changing <= set(_MULTILINEAR[op.type]):
      return [self._total([_again(op, {i: given[i]})[0] for i in sorted(changing)])]
    positions = _LINEAR.get(op.type, ())
    if op.type in _JOINING and second_order.EXACT not in op.name:
      positions = [i for i, x in enumerate(op.inputs) if _is_float(x)]
    if changing <= set(positions):
      return _again(op, {i: _or_zeros(given[i], op.inputs[i]) for i in positions})
    return _transposed_twice(op, given)

  def _total(self, parts):
    """Adds in order, unlike AddN."""
    return functools.reduce(lambda a, b: self._elementwise("add", a, b), parts)

  # Of operations by name; of several outputs, a list; None where the general rule is to be taken.

  def _AddN(self, _, given):  # noqa: N802
    return self._total([t for t in given if t is not None])

  def _AddV2(self, op, given):  # noqa: N802
    a, b = given
    if a is not None and b is not None:
      return self._elementwise("add", a, b)
    return _broadcast(b if a is None else a, op.outputs[0])

  _Add = _AddV2

  def _Sub(self, op, given):  # noqa: N802
    a, b = given
    if a is not None and b is not None:
      return self._elementwise("subtract", a, b)
    return _broadcast(self._elementwise("negative", b) if a is None else a, op.outputs[0])

  def _BiasAdd(self, op, given):  # noqa: N802
    a, b = map(fusion.tensor, given)
    if b is None:
      return a
    return _again(op, {0: _or_zeros(a, op.inputs[0]), 1: b})[0]  # channels may come first

  def _Mul(self, op, given):  # noqa: N802
    parts = [
      self._elementwise("multiply", t, other)
      for t, other in zip(given, (op.inputs[1], op.inputs[0]), strict=True)
      if t is not None
    ]
    return self._total(parts)

  def _RealDiv(self, op, given):  # noqa: N802
    a, b = given
    return self._elementwise("divide", a, op.inputs[1]) if b is None else None

  def _Neg(self, _, given):  # noqa: N802
    return self._elementwise("negative", given[0])

  def _ReluGrad(self, op, given):  # noqa: N802
    return self._elementwise("relu_grad", given[0], op.inputs[1])

  def _Relu(self, op, given):  # noqa: N802
    return self._elementwise("relu_grad", given[0], op.outputs[0])

  def _Square(self, op, given):  # noqa: N802
    twice = self._elementwise("add", op.inputs[0], op.inputs[0])
    return self._elementwise("multiply", given[0], twice)

  def _Identity(self, _, given):  # noqa: N802
    return given[0]

  def _SparseSoftmaxCrossEntropyWithLogits(self, op, given):  # noqa: N802
    t, by_labels = map(fusion.tensor, given)
    if by_labels is not None:
      return None
    # The second output is p - labels, p = softmax(logits), so dp = p t - p (p' t). The registered
    # gradient has p' t by a product of matrices for each example.
    p = tf.nn.softmax(op.inputs[0])
    by_loss, by_p = op.outputs[1] * t, p * t
    total = tf.reduce_sum(by_p, axis=-1, keepdims=True)
    return [tf.reduce_sum(by_loss, axis=-1), by_p - p * total]

  _SoftmaxCrossEntropyWithLogits = _SparseSoftmaxCrossEntropyWithLogits


def _broadcast(part, y):
  """Returns a tangent of a sum, one term of which has changed, in the shape of the sum."""
  if y.shape.is_fully_defined() and part.shape == y.shape:
    return part
  return tf.broadcast_to(fusion.tensor(part), tf.shape(y))


def _again(op, replaced):
  """Builds an operation again, with other values of some inputs."""
  again = tf.compat.v1.get_default_graph().create_op(
    op.type,
    [replaced.get(i, x) for i, x in enumerate(op.inputs)],
    [y.dtype for y in op.outputs],
    name="tangent",
    attrs={k: v for k, v in op.node_def.attr.items() if not k.startswith("_")},
    op_def=op.op_def,
  )
  for new, old in zip(again.outputs, op.outputs, strict=True):
    new.set_shape(old.shape)
  return again.outputs


def _transposed_twice(op, given):
  """Does what `_tangents` does for any operation.

  The gradient of an operation is linear in the gradients of its outputs, and the transpose of that
  linear function takes tangents of the inputs to tangents of the outputs.
  """
  none = [None] * len(op.outputs)
  gradient = _ops.get_gradient_function(op)
  if gradient is None:  # declared to be not differentiable
    return none
  # Not plain zeros, for which gradient functions leave parts out.
  dummies = [tf.identity(tf.zeros_like(y)) for y in op.outputs]
  parts = gradient(op, *dummies)
  parts = parts if isinstance(parts, (list, tuple)) else [parts]
  pairs = [(p, t) for p, t in zip(parts, given, strict=True) if p is not None and t is not None]
  if not pairs:
    return none
  ys, tangents = zip(*pairs, strict=True)
  floats = [d for d in dummies if _is_float(d)]
  found = iter(tf.gradients([tf.convert_to_tensor(y) for y in ys], floats, list(tangents)))
  return [next(found) if _is_float(d) else None for d in dummies]
