"""Operations whose derivative in TensorFlow is not that of their values.

Gradients that are registered as none are dropped without a word: the product is then that of
another matrix, and symmetric and repeatable all the same. So the operations between variables and
loss, or gradient, are looked at one by one, those in the bodies of functions, loops and branches
included.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_hessian.curvature import keras_internals, linearize, operations, second_order

_LOOPS = frozenset({"StatelessWhile", "While"})
_BRANCHES = frozenset({"Case", "If", "StatelessCase", "StatelessIf"})


def loss_problem(
  outputs: Sequence[tf.Tensor], inputs: Sequence[tf.Tensor], /
) -> second_order.NoDerivativeError | None:
  """Returns a `NoDerivativeError` for the first wrong gradient, or None.

  The error is of the operation that has this gradient.

  Args:
    outputs: list of tensors of the graph of a loss.
    inputs: list of tensors of it.
  """
  return next(_problems(outputs, inputs, _once(_unproved_problem)), None)


def gradient_problem(
  outputs: Sequence[tf.Tensor], inputs: Sequence[tf.Tensor], /
) -> second_order.NoDerivativeError | None:
  """Does what `loss_problem` does for a gradient, which TensorFlow is to differentiate."""
  return next(_problems(outputs, inputs, _once(_second_problem)), None)


def transform_problem(
  outputs: Sequence[tf.Tensor], inputs: Sequence[tf.Tensor], /
) -> second_order.NoDerivativeError | None:
  """Does what `loss_problem` does for transforms of images alone."""
  return next(_problems(outputs, inputs, _transform_problem), None)


def is_proved(outputs: Sequence[tf.Tensor], inputs: Sequence[tf.Tensor], /) -> bool:
  """Returns whether all operations between are proved right.

  Those are in `SOUND_OPS`, or part of batch normalization.
  """
  ways, _ = linearize.between(outputs, inputs)
  return all(op.type in operations.SOUND_OPS or op.type == "FusedBatchNormV3" for op in ways)


def _problems(outputs, inputs, problem):
  ways, needed = linearize.between(outputs, inputs)
  changing = {x.name for x in inputs} | {y.name for op in ways for y in op.outputs}
  for op in ways:
    mine = [x.name in changing for x in op.inputs]
    wanted = [y.name in needed for y in op.outputs]
    bodies = list(_bodies(op, mine, wanted))
    found = None if bodies else problem(op, mine, wanted)
    if found:
      yield found
    for body in bodies:
      for inner in _problems(*body, problem):
        inner.name = f"{op.name}/{inner.name}"  # where the function is called
        yield inner


def _once(problem):
  """Returns a function like `problem` that skips repeated kinds of operations.

  Of operations that are alike, it looks at one only.
  """
  fine = set()

  def found(op, changing, needed):
    kind = (op.type, *changing, *needed)
    if kind in fine:
      return None
    result = problem(op, changing, needed)
    if result is None and not op.type.startswith("MaxPool"):  # wrong of some shapes
      fine.add(kind)
    return result

  return found


def _unproved_problem(op, changing, needed):
  return None if op.type in operations.SOUND_OPS else _problem(op, changing, needed)


def _second_problem(op, changing, needed):
  if op.type in ("MaxPool3DGrad", "MaxPoolGrad") and second_order.needs_padding(op):
    reason = "TensorFlow computes that of max pooling wrongly if the shape stays"
  elif op.type == "SoftmaxCrossEntropyWithLogits" and changing[1]:
    reason = "TensorFlow drops what depends on the labels"
  else:
    return _problem(op, changing, needed)
  return second_order.NoDerivativeError(op, reason)


def _transform_problem(op, *_):
  if not op.type.startswith("ImageProjectiveTransform"):
    return None
  return second_order.NoDerivativeError(
    op, "TensorFlow has a wrong gradient for transforms of images with variables before them"
  )


def _problem(op, changing, needed):
  """Returns the `NoDerivativeError` of one operation, or None."""
  if op.type in second_order.REFUSED:
    return second_order.NoDerivativeError(op, second_order.REFUSED[op.type])
  if op.type in ("DynamicStitch", "ParallelDynamicStitch") and _overwrites(op):
    return second_order.NoDerivativeError(op, "TensorFlow passes gradients to what is overwritten")
  if keras_internals.is_function(op):
    return second_order.NoDerivativeError(op, "it is a function as TensorFlow 1 had them")
  tensors = (*op.inputs, *op.outputs)
  if op.type == "IdentityN" or any(t.dtype in (tf.variant, tf.resource) for t in tensors):
    return None  # a custom gradient is its author's; lists of tensors are TensorFlow's own
  constant = operations.CONSTANT_IN.get(op.type, ())
  changing = [
    c and i not in constant and _is_differentiable(x)
    for i, (c, x) in enumerate(zip(changing, op.inputs, strict=True))
  ]
  with keras_internals.scratch_graph(op.graph).as_default():
    dummies = [tf.identity(tf.ones_like(y)) for y in op.outputs]
    try:
      parts = second_order.gradient_parts(op, dummies, changing)
    except second_order.NoDerivativeError as e:
      return e
    parts = [tf.convert_to_tensor(p) for p, c in zip(parts, changing, strict=True) if c]
    constant = operations.CONSTANT_OUT.get(op.type, ())
    for k, (y, dummy) in enumerate(zip(op.outputs, dummies, strict=True)):
      missing = needed[k] and k not in constant and _is_differentiable(y)
      if missing and not linearize.depends(parts, {dummy.name}):
        return second_order.NoDerivativeError(op, f"TensorFlow drops that of output {k}")
  return None


def _overwrites(op):
  """Returns whether data are known to be stitched to equal places.

  Only indices that are constants are known.
  """
  indices = [tf.get_static_value(x) for x in op.inputs if x.dtype == tf.int32]
  places = np.concatenate([np.ravel(x) for x in indices if x is not None] or [[]])
  return len(np.unique(places)) < len(places)


def _is_differentiable(tensor):
  return tensor.dtype.is_floating or tensor.dtype.is_complex


def _bodies(op, changing, needed):
  """Yields (outputs, inputs) of the functions that an operation runs.

  They are those inputs that change, and those outputs that count.
  """
  names = [
    name
    for key, value in op.node_def.attr.items()
    if not key.startswith("_")
    for name in ([value.func.name] if value.HasField("func") else [f.name for f in value.list.func])
    if name
  ]
  for name in names:
    graph = keras_internals.function_graph(op.graph, name)
    inputs, outputs = list(graph.inputs), list(graph.outputs)
    given = changing[1:] if op.type in _BRANCHES else changing
    if op.type in _LOOPS:
      given = _fixed_point(graph, inputs, given) if len(outputs) == len(inputs) else given
    elif len(given) != len(inputs):
      given = [True] * len(inputs)
    if op.type not in _LOOPS and len(needed) == len(outputs):
      outputs = [y for y, n in zip(outputs, needed, strict=True) if n]
    chosen = [x for x, c in zip(inputs, given, strict=True) if c]
    if chosen and outputs:
      yield outputs, chosen


def _fixed_point(graph, inputs, given):
  """Returns which loop variables change at last.

  Those given change at first.
  """
  while True:
    chosen = {x.name for x, c in zip(inputs, given, strict=True) if c}
    reached = linearize.reached(graph, chosen)
    after = [c or y.name in reached for c, y in zip(given, graph.outputs, strict=True)]
    if after == given:
      return given
    given = after
