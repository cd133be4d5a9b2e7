"""Where TensorFlow's second derivatives are wrong or missing.

`tf.nn.moments`, which Keras's BatchNormalization and GroupNormalization call, stops the gradient at
the mean inside the variance, because that path contributes nothing to the *first* derivative. It
does contribute to the second: d^2 var / dx_i dx_j = 2 (delta_ij - 1/N) / N, and the -1/N is lost.
Products stay symmetric and repeatable, and are wrong (by 1% to 13% in small nets). So models are
traced with moments that are differentiable.
"""

import contextlib
import re
import threading

import tensorflow as tf

_lock = threading.RLock()


_TRANSFORM = "ImageProjectiveTransformV3"


class DifferentiationError(ValueError):
  """An operation of the model has no second derivative in TensorFlow."""


# In the names of operations whose custom gradients are the derivatives, and cheaper than those of
# the operations before them.
EXACT = "exact_gradient"


def _moments(x, axes, shift=None, keepdims=False, name=None):
  """`tf.nn.moments` without the stopped gradient; the same values.

  With a gradient of its own, since that of `tf.reduce_mean` is a tensor like x, made in two steps.
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


@contextlib.contextmanager
def differentiable_moments():
  """Functions traced inside have moments that can be differentiated twice."""
  with _lock:
    before = tf.nn.moments
    tf.nn.moments = _moments
    try:
      yield
    finally:
      tf.nn.moments = before


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


def has_control_flow(graph_def, /):
  """Returns whether there are loops or branches in a `GraphDef`."""
  return any(node.op in CONTROL_FLOW_OPS for node in graph_nodes(graph_def))


def backward_only_op(graph_def, layers, /):
  """Returns "operation of layer" for the first operation of BACKWARD_ONLY_OPS, or None."""
  for node in graph_nodes(graph_def):
    if node.op in BACKWARD_ONLY_OPS:
      return f"operation {node.op} of {_place(node.name, layers)}"
  return None


def refuse_wrong_derivatives(graph_def, loss_graph_def, layers, /):
  """Raises DifferentiationError for what TensorFlow differentiates wrongly, without an error.

  - The gradient of bilinear resizing is registered as not differentiable, so its part of the second
    derivative is dropped.
  - The CPU kernel of max pooling's second gradient overwrites its input when the output has the
    shape of the input (strides 1 with padding "same").
  - The gradient of projective transforms (rotations, zooms) is the inverse transform and not the
    adjoint.

  Args:
    graph_def: `GraphDef` of a product.
    loss_graph_def: `GraphDef` of the loss.
    layers: names of the model's layers.
  """
  transforms = [n for n in graph_nodes(graph_def) if n.op == _TRANSFORM]
  if len(transforms) > sum(n.op == _TRANSFORM for n in graph_nodes(loss_graph_def)):
    raise DifferentiationError(
      f"{_place(transforms[0].name, layers)} transforms images with variables before it, and "
      "TensorFlow has a wrong gradient for that; replace it, or leave those variables out with "
      "variables= (docs/limits.md)"
    )
  for node in graph_nodes(graph_def):
    if node.op == "ResizeBilinearGrad":
      what = "resizes bilinearly, and TensorFlow drops that operation's second derivative"
    elif node.op in ("MaxPoolGrad", "MaxPool3DGrad") and _keeps_shape(node):
      what = "pools by maximum with strides 1, whose second derivative TensorFlow computes wrongly"
    else:
      continue
    raise DifferentiationError(
      f"{_place(node.name, layers)} {what}; replace it, or leave the variables before it out with "
      "variables= (docs/limits.md)"
    )


def _keeps_shape(node):
  strides, sizes = node.attr["strides"].list.i, node.attr["ksize"].list.i
  return set(strides) == {1} and (node.attr["padding"].s == b"SAME" or set(sizes) == {1})


def explain(error, graph_defs, layers, /):
  """Returns a `DifferentiationError` for TensorFlow's LookupError of a missing gradient.

  Args:
    error: the LookupError.
    graph_defs: `GraphDef`s of what was to be differentiated, where the operation is looked for.
    layers: names of the model's layers.
  """
  found = re.search(r"no entry for: (\w+)|op type: (\w+)", str(error))
  kind = found and (found.group(1) or found.group(2))
  names = [n.name for g in graph_defs for n in graph_nodes(g) if n.op == kind]
  place = _place(names[0], layers) if names else _place("", layers)
  return DifferentiationError(
    f"{place} uses the operation {kind or error}, which TensorFlow can't differentiate again; "
    "replace it, or leave the variables before it out with variables= (docs/limits.md lists such "
    "operations)"
  )


def graph_nodes(graph_def, /):
  """Yields every node of a `GraphDef`, those of its functions included."""
  yield from graph_def.node
  for function in graph_def.library.function:
    yield from function.node_def


def _place(op_name, layers):
  layer = layer_in(op_name, layers)
  return f"layer {layer!r}" if layer else "the model or its loss"


def layer_in(op_name, layers, /):
  """Returns the layer of `layers` that is the innermost scope of an op's name, or None."""
  for part in reversed(op_name.split("/")):
    for name in (part, re.sub(r"_\d+$", "", part)):
      if name in layers:
        return name
  return None
