"""The derivative of a traced function along many directions, with all else computed once.

A `Linearization` walks the graph of a function from its inputs to its outputs, and builds the
operations of the tangents in the graph that is current: perhaps the body of a loop over directions,
which reads whatever does not depend on the direction from outside. Forward accumulation computes
the function anew for each direction, and makes a function for each operation, which takes deep
networks long to start.
"""

import tensorflow as tf
from tensorflow.python.framework import ops as _ops  # the registry of gradients is not public

from tf_hessian.curvature import second_order

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
  "Identity": (0,),
  "Mean": (0,),
  "MirrorPad": (0,),
  "MirrorPadGrad": (0,),
  "Neg": (0,),
  "Pad": (0,),
  "Relu6Grad": (0,),
  "ReluGrad": (0,),
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
  "Mul": (0, 1),
}
# Linear in all floating-point inputs together. IdentityN stands for a custom gradient, which is for
# the way back: what a function does forward is in the operations before it.
_JOINING = frozenset({"ConcatV2", "DynamicStitch", "IdentityN", "Pack", "Select", "SelectV2"})
_SIGNS = {"Add": 1, "AddV2": 1, "BiasAdd": 1, "Sub": -1}

_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall", "SymbolicGradient"})


class Linearization:
  """The derivative of tensors of the current graph in other tensors of it.

  Args:
    outputs: list of tensors.
    inputs: list of tensors.

  Attributes:
    obstacle: type of an operation in between that it can't pass, such as a loop; None if there is
      none.
  """

  def __init__(self, outputs, inputs, /):
    self._outputs = outputs
    self._inputs = inputs
    self._between = _between(outputs, inputs)
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
    known = {x.name: t for x, t in zip(self._inputs, tangents, strict=True)}
    for op in self._between:
      given = [known.get(x.name) for x in op.inputs]
      for y, t in zip(op.outputs, _tangents(op, given), strict=True):
        if t is not None and _is_float(y):
          known[y.name] = t
    return [_or_zeros(known.get(y.name), y) for y in self._outputs]


def _between(outputs, inputs):
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


def _tangents(op, given):
  """Returns the tangents of an operation's outputs, or None for those that are constant.

  Args:
    op: `tf.Operation`.
    given: tangents of its inputs, None for those that are constant.
  """
  given = [None if i == _CONSTANT_IN.get(op.type) else t for i, t in enumerate(given)]
  changing = {i for i, t in enumerate(given) if t is not None}
  if not changing:
    return [None] * len(op.outputs)
  if op.type == "AddN":
    return [_total([given[i] for i in sorted(changing)])]
  if op.type in _SIGNS:
    return [_signed_sum(op, *given)]
  if op.type in _MULTILINEAR and changing <= set(_MULTILINEAR[op.type]):
    return [_total([_again(op, {i: given[i]})[0] for i in sorted(changing)])]
  positions = _LINEAR.get(op.type, ())
  if op.type in _JOINING:
    positions = [i for i, x in enumerate(op.inputs) if _is_float(x)]
  if changing <= set(positions):
    return _again(op, {i: _or_zeros(given[i], op.inputs[i]) for i in positions})
  return _transposed_twice(op, given)


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


def _total(parts):
  """Adds in order, unlike AddN."""
  total = parts[0]
  for part in parts[1:]:
    total = tf.add(total, part)
  return total


def _signed_sum(op, a, b):
  y = op.outputs[0]
  if a is not None and b is not None:
    return _again(op, {0: a, 1: b})[0]
  if op.type == "BiasAdd" and a is None:  # it may be for channels that come first
    return _again(op, {0: tf.zeros_like(op.inputs[0]), 1: b})[0]
  part = a if a is not None else b if _SIGNS[op.type] > 0 else tf.negative(b)
  if y.shape.is_fully_defined() and part.shape == y.shape:
    return part
  return tf.broadcast_to(part, tf.shape(y))


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
