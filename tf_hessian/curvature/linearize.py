"""The derivative of a traced function along many directions.

All that does not depend on the direction is computed once.

A `Linearization` walks the graph of a function from its inputs to its outputs, and builds the
operations of the tangents in the graph that is current: perhaps the body of a loop over directions,
which reads whatever does not depend on the direction from outside. Forward accumulation computes
the function anew for each direction, and makes a function for each operation, which takes deep
networks long to start.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
import functools

import numpy as np
import tensorflow as tf

from tf_hessian.curvature import fusion, large_logits, nested, operations, second_order


class Linearization:
  """The derivative of the current graph's tensors in others of it.

  Args:
    outputs: list of tensors.
    inputs: list of tensors.
    fuse: whether elementwise operations wait for each other, to be one loop over memory (`fusion`);
      False by default, since XLA can't compile everywhere.

  Attributes:
    obstacle: type of an operation in between that it can't pass, such as a loop; None if there is
      none.
    obstacle_op: the operation itself.
  """

  def __init__(
    self, outputs: Sequence[tf.Tensor], inputs: Sequence[tf.Tensor], /, *, fuse: bool = False
  ) -> None:
    self._fuse = fuse
    self._outputs = outputs
    self._inputs = inputs
    self._between, self._needed = between(outputs, inputs)
    self.obstacle_op = next((op for op in self._between if not _passable(op)), None)
    self.obstacle = self.obstacle_op and self.obstacle_op.type

  def __call__(self, tangents: Sequence[tf.Tensor], /) -> list[tf.Tensor]:
    """Builds the derivative along a direction, in the current graph.

    Args:
      tangents: list of tensors like the inputs.

    Returns:
      list of tensors like the outputs.

    Raises:
      NoDerivativeError: if TensorFlow has no gradient for an operation in between, or drops a part.
    """
    rules = _Rules(self._fuse)
    known = {x.name: t for x, t in zip(self._inputs, tangents, strict=True)}
    for op in self._between:
      given = [known.get(x.name) for x in op.inputs]
      needed = [k for k, y in enumerate(op.outputs) if y.name in self._needed and _is_float(y)]
      for y, t in zip(op.outputs, rules.tangents(op, given, needed), strict=True):
        if t is not None and _is_float(y):
          known[y.name] = t
    return [_or_zeros(fusion.tensor(known.get(y.name)), y) for y in self._outputs]


def between(
  outputs: Sequence[tf.Tensor], inputs: Sequence[tf.Tensor], /
) -> tuple[list[tf.Operation], set[str]]:
  """Finds the operations on the ways from inputs to outputs.

  Args:
    outputs: list of tensors of a graph.
    inputs: list of tensors of it.

  Returns:
    (list of operations, each after those it needs; set of the names of tensors that are needed).
    Ways through what is constant almost everywhere, or where a gradient is stopped, are none.
  """
  found: list[tf.Operation] = []
  after = reached(outputs[0].graph, {x.name for x in inputs}, found)
  after -= {x.name for x in inputs}
  needed, ways = {y.name for y in outputs}, []
  for op in reversed(found):
    if any(y.name in needed and y.name in after for y in op.outputs):
      ways.append(op)
      needed.update(x.name for x in op.inputs)
  return ways[::-1], needed


def reached(
  graph: tf.Graph, names: Iterable[str], found: list[tf.Operation] | None = None, /
) -> set[str]:
  """Returns the names of all tensors that change with those named.

  The operations that make them are appended to `found`.
  """
  names = set(names)
  for op in graph.get_operations():
    if op.type not in second_order.CONSTANT_OPS and any(x.name in names for x in op.inputs):
      names.update(y.name for y in op.outputs if not y.dtype.is_integer and not y.dtype.is_bool)
      if found is not None:
        found.append(op)
  return names


def _passable(op):
  """Returns whether tangents can pass an operation.

  It must be of tensors of numbers, and no loop or branch, nor call one.
  """
  if op.type in nested.CALLS:
    graph = nested.body(op)
    return graph is not None and all(map(_passable, graph.get_operations()))
  return (
    op.type != "SymbolicGradient"
    and op.type not in second_order.CONTROL_FLOW_OPS
    and not any(t.dtype == tf.variant for t in (*op.inputs, *op.outputs))
  )


def _is_float(tensor):
  return tensor.dtype.is_floating or tensor.dtype.is_complex


def _derivative(outputs, inputs, tangents):
  return Linearization(outputs, inputs)(tangents)


def _or_zeros(tangent, like):
  return tf.zeros_like(like) if tangent is None else tangent


class _Rules:
  """The rules by which tangents pass an operation.

  Args:
    fuse: whether elementwise operations wait for each other, to be one loop over memory.
  """

  def __init__(self, fuse):
    self._elementwise = functools.partial(fusion.elementwise, wait=fuse)

  def tangents(self, op, given, needed):
    """Returns the tangents of an operation's outputs.

    Those of constant outputs are None.

    Args:
      op: `tf.Operation`.
      given: tangents of its inputs, None for those that are constant.
      needed: positions of the outputs whose tangents are needed.
    """
    constant = operations.CONSTANT_IN.get(op.type, ())
    given = [None if i in constant else t for i, t in enumerate(given)]
    changing = {i for i, t in enumerate(given) if t is not None}
    if not changing:
      return [None] * len(op.outputs)
    rule = getattr(self, f"_{op.type}", None)
    if rule is not None:
      result = rule(op, given)
      if result is not None:
        return result if isinstance(result, list) else [result]
    given = [fusion.tensor(t) for t in given]
    if op.type in nested.CALLS:
      return nested.tangents(op, given, needed, _derivative)
    if op.type in operations.MULTILINEAR and changing <= set(operations.MULTILINEAR[op.type]):
      return [self._total([_again(op, {i: given[i]})[0] for i in sorted(changing)])]
    positions = operations.LINEAR.get(op.type, ())
    if op.type in operations.JOINING and second_order.EXACT not in op.name:
      positions = [i for i, x in enumerate(op.inputs) if _is_float(x)]
    if changing <= set(positions):
      return _again(op, {i: _or_zeros(given[i], op.inputs[i]) for i in positions})
    return _transposed_twice(op, given, needed)

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

  def _MatMul(self, op, given):  # noqa: N802
    a, b = map(fusion.tensor, given)
    return None if a is None or b is None else large_logits.joined_product(op, a, b)

  def _BiasAdd(self, op, given):  # noqa: N802
    a, b = map(fusion.tensor, given)
    if b is None:
      return a
    return _again(op, {0: _or_zeros(a, op.inputs[0]), 1: b})[0]  # channels may come first

  def _Mul(self, op, given):  # noqa: N802
    for t, (other, u) in zip(
      given, ((given[1], op.inputs[1]), (given[0], op.inputs[0])), strict=True
    ):
      if other is None and isinstance(t, large_logits.LogitsTangent):
        result = t.times(u, op.outputs[0])
        if result is not None:
          return result
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
    # The second output is p - labels, p = softmax(logits), so dp = p t - p (p' t). The registered
    # gradient has p' t by a product of matrices for each example, and drops what labels do to it.
    loss = by_p = None
    if by_labels is None and op.type.startswith("Sparse") and large_logits.is_large(op.inputs[0]):
      return [tf.reduce_sum(op.outputs[1] * t, axis=-1), large_logits.LogitsTangent(op, t)]
    if t is not None:
      p = tf.nn.softmax(op.inputs[0])
      by_loss, by_p = op.outputs[1] * t, p * t
      total = tf.reduce_sum(by_p, axis=-1, keepdims=True)
      loss, by_p = tf.reduce_sum(by_loss, axis=-1), by_p - p * total
    if by_labels is not None:
      by_loss = -tf.reduce_sum(by_labels * tf.nn.log_softmax(op.inputs[0]), axis=-1)
      loss = by_loss if loss is None else loss + by_loss
      by_p = -by_labels if by_p is None else by_p - by_labels
    return [loss, by_p]

  _SoftmaxCrossEntropyWithLogits = _SparseSoftmaxCrossEntropyWithLogits

  def _Softsign(self, op, given):  # noqa: N802
    return tf.raw_ops.SoftsignGrad(gradients=fusion.tensor(given[0]), features=op.inputs[0])

  def _SoftsignGrad(self, op, given):  # noqa: N802
    by_gradient, by_x = map(fusion.tensor, given)
    gradient, x = op.inputs  # gradient / (1 + |x|)^2
    parts = []
    if by_gradient is not None:
      parts.append(tf.raw_ops.SoftsignGrad(gradients=by_gradient, features=x))
    if by_x is not None:
      parts.append(-2.0 * by_x * gradient * tf.sign(x) / (1.0 + tf.abs(x)) ** 3)
    return self._total(parts)

  def _LRN(self, op, given):  # noqa: N802
    t, x = fusion.tensor(given[0]), op.inputs[0]
    scale, neighbours, alpha, beta = _normalization(op, x)
    return t * scale**-beta - 2.0 * alpha * beta * x * scale ** (-beta - 1) * neighbours(x * t)

  def _LRNGrad(self, op, given):  # noqa: N802
    # Of g and x, in which the third input is a function:
    # g scale^-beta - 2 alpha beta x N(g x scale^(-beta - 1)), scale = bias + alpha N(x^2).
    by_g, t = map(fusion.tensor, given[:2])
    g, x = op.inputs[:2]
    scale, neighbours, alpha, beta = _normalization(op, x)
    low = scale ** (-beta - 1)
    parts = []
    if by_g is not None:
      parts.append(by_g * scale**-beta - 2.0 * alpha * beta * x * neighbours(by_g * x * low))
    if t is not None:
      by_scale = 2.0 * alpha * neighbours(x * t)
      inner = g * t * low - (beta + 1) * g * x * low / scale * by_scale
      outer = t * neighbours(g * x * low) + x * neighbours(inner)
      parts.append(-beta * g * low * by_scale - 2.0 * alpha * beta * outer)
    return self._total(parts) if parts else tf.zeros_like(x)

  def _MaxPool(self, op, given):  # noqa: N802
    t = fusion.tensor(given[0])
    # The CPU kernel of the second gradient overwrites its input if the output has its shape, and
    # knows no explicit padding. So the padding is done before: what is pooled is larger than that.
    if not second_order.needs_padding(op):
      return None
    sizes, strides = second_order.pooling_windows(op)
    if sizes is None:
      raise second_order.NoDerivativeError(op, "the windows are not known when it is traced")
    if set(sizes) == {1}:
      return tf.strided_slice(t, [0] * len(sizes), tf.shape(t), strides)
    x, pads = op.inputs[0], _pads(op, sizes, strides)
    x, t = tf.pad(x, pads, constant_values=x.dtype.min), tf.pad(t, pads)
    second = tf.raw_ops.MaxPool3DGradGrad if "3D" in op.type else tf.raw_ops.MaxPoolGradGrad
    return second(
      orig_input=x,
      orig_output=op.outputs[0],
      grad=t,
      ksize=sizes,
      strides=strides,
      padding="VALID",
      data_format=op.get_attr("data_format"),
    )

  _MaxPoolV2 = _MaxPool3D = _MaxPool

  def _MaxPoolWithArgmax(self, op, given):  # noqa: N802
    t, places = fusion.tensor(given[0]), op.outputs[1]
    if op.get_attr("include_batch_in_index"):
      return [tf.gather(tf.reshape(t, [-1]), places), None]
    count = tf.shape(t)[0]
    found = tf.gather(
      tf.reshape(t, [count, -1]), tf.reshape(places, [count, -1]), axis=1, batch_dims=1
    )
    return [tf.reshape(found, tf.shape(places)), None]


def _normalization(op, x):
  """Returns (scale, sum over neighbours, alpha, beta) of local response normalization."""
  radius, alpha = op.get_attr("depth_radius"), op.get_attr("alpha")
  channels = tf.shape(x)[-1]
  radius = tf.minimum(radius, channels - 1)
  band = tf.linalg.band_part(tf.ones([channels, channels], x.dtype), radius, radius)

  def neighbours(z):
    return tf.reshape(tf.matmul(tf.reshape(z, [-1, channels]), band), tf.shape(z))

  scale = op.get_attr("bias") + alpha * neighbours(x * x)
  return scale, neighbours, alpha, op.get_attr("beta")


def _pads(op, sizes, strides):
  """Returns the numbers of entries before and after, (dimensions, 2)."""
  if op.get_attr("padding") == b"EXPLICIT":
    return np.reshape(op.get_attr("explicit_paddings"), (-1, 2))
  count = tf.shape(op.inputs[0])
  total = tf.maximum((tf.shape(op.outputs[0]) - 1) * strides + sizes - count, 0)
  return tf.stack([total // 2, total - total // 2], axis=1)


def _broadcast(part, y):
  """Returns a tangent of a sum in the shape of the sum.

  One term of the sum has changed.
  """
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


def _transposed_twice(op, given, needed):
  """Does what `_Rules.tangents` does for any operation.

  The gradient of an operation is linear in the gradients of its outputs, and the transpose of that
  linear function takes tangents of the inputs to tangents of the outputs.
  """
  # Not zeros, for which gradient functions leave parts out, or divide by them.
  dummies = [tf.identity(tf.ones_like(y)) for y in op.outputs]
  parts = second_order.gradient_parts(op, dummies, [t is not None for t in given])
  pairs = [(p, t) for p, t in zip(parts, given, strict=True) if p is not None and t is not None]
  if not pairs:  # of a custom gradient
    return [None] * len(op.outputs)
  ys, tangents = zip(*pairs, strict=True)
  ys = [tf.convert_to_tensor(y) for y in ys]
  floats = [d for d in dummies if _is_float(d)]
  try:
    found = iter(tf.gradients(ys, floats, list(tangents)))
  except (LookupError, TypeError, ValueError, NotImplementedError) as e:
    raise second_order.NoDerivativeError(op, f"its gradient has none: {e}") from e
  result = [_dense(next(found)) if _is_float(d) else None for d in dummies]
  constant = operations.CONSTANT_OUT.get(op.type, ())
  for k in needed:
    if result[k] is None and k not in constant and op.type != "IdentityN":
      raise second_order.NoDerivativeError(op, f"that of output {k} is dropped")
  known = {t.name for t in (*op.inputs, *op.outputs, *tangents)}
  if depends([t for t in result if t is not None], {d.name for d in dummies}, known):
    raise second_order.NoDerivativeError(op, "its gradient is not linear in what comes in")
  return result


def _dense(tangent):
  """Returns a tensor for the sparse gradients of operations that gather."""
  return None if tangent is None else tf.convert_to_tensor(tangent)


# What depends only on the shape of its input.
_SHAPES = frozenset({"OnesLike", "Rank", "Shape", "ShapeN", "Size", "ZerosLike"})


def depends(
  tensors: Iterable[tf.Tensor], names: Container[str], known: Iterable[str] = (), /
) -> bool:
  """Returns whether values of tensors depend on those named.

  Ways through known tensors don't count.
  """
  waiting, seen = list(tensors), set(known)
  while waiting:
    tensor = waiting.pop()
    if tensor.name in names:
      return True
    if tensor.name not in seen and tensor.op.type not in _SHAPES:
      seen.add(tensor.name)
      waiting.extend(tensor.op.inputs)
  return False
