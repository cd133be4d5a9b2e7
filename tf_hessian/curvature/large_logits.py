"""Tangents of cross-entropies over large vocabularies, without a second copy.

With 30,000 words the logits are what a product needs memory for. Of a batch's N examples, the
gradient by the logits is u (p - y), with p the probabilities, y the labels and u a factor for each
example, and its tangent is u p (t - p't). That is made here of the gradient itself, in the memory
of the logits' tangent t: the probabilities are not computed again.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import contextvars

import tensorflow as tf

from tf_hessian.curvature import fusion

_compiled = contextvars.ContextVar("compiled", default=False)
# Numbers in the logits from which on they count. The bits of smaller losses are those of before.
_LARGE = 2**22


@contextlib.contextmanager
def for_xla(compiled: bool, /) -> Iterator[None]:
  """Makes tangents inside ones that XLA can compile.

  It has none that adds in place, but gives a scattered sum its argument's memory by itself.
  """
  token = _compiled.set(compiled)
  try:
    yield
  finally:
    _compiled.reset(token)


def is_large(tensor: tf.Tensor, /) -> bool:
  """Returns whether a tensor is as large as logits that count."""
  shape = tensor.shape
  return shape.is_fully_defined() and _LARGE <= shape.num_elements() < 2**31


class LogitsTangent(fusion.Waiting):
  """The tangent of p - y, which waits for the examples' factors.

  Args:
    op: the operation `SparseSoftmaxCrossEntropyWithLogits`.
    t: (N, words) tangent of its logits.
  """

  def __init__(self, op: tf.Operation, t: tf.Tensor, /) -> None:
    super().__init__("multiply", [t], t.shape)
    self._op, self._t = op, t
    self.size = 0

  def value(self) -> tf.Tensor:
    """Returns the tangent by itself."""
    if self._value is None:
      p = tf.nn.softmax(self._op.inputs[0])
      by_p = p * self._t
      self._value = by_p - p * tf.reduce_sum(by_p, axis=-1, keepdims=True)
    return self._value

  def times(self, u: tf.Tensor, gradient: tf.Tensor, /) -> tf.Tensor | None:
    """Returns the tangent of u (p - y); None for other shapes.

    Args:
      u: the factors, which don't change.
      gradient: u (p - y).
    """
    if u.shape != [self.shape[0], 1]:
      return None
    labels = self._op.inputs[1]
    # Relative to the label's, so that y leaves the mean. Sums by a product need no memory.
    relative = self._t - tf.gather(self._t, labels, batch_dims=1)[:, None]
    total = tf.matmul(gradient[:, None, :], relative[:, :, None])[:, :, 0]
    mean = tf.math.divide_no_nan(total, u)
    result = tf.reshape((relative - mean) * gradient, [-1, 1])
    places = tf.range(self.shape[0]) * self.shape[1] + tf.cast(labels, tf.int32)
    if _compiled.get():
      result = tf.tensor_scatter_nd_add(result, places[:, None], -u * mean)
    else:  # a scattered sum is a copy, and nobody else reads what is added to
      result = tf.raw_ops.InplaceAdd(x=result, i=places, v=-u * mean)
    return tf.reshape(result, self.shape)

  def _structure(self, leaves):
    leaves.append(self.value())
    return len(leaves) - 1


def joined_product(op: tf.Operation, a: tf.Tensor, b: tf.Tensor, /) -> tf.Tensor | None:
  """Returns a' B + A b' as one product of matrices.

  Args:
    op: the operation `MatMul` of A and B.
    a: tangent of A.
    b: tangent of B.

  Returns:
    The tangent of A B; None where joining takes as much memory as it saves.
  """
  y = op.outputs[0]
  if not is_large(y) or 2 * (_size(a) + _size(b)) >= _size(y):
    return None
  turned = [op.get_attr(f"transpose_{side}") for side in "ab"]
  left = tf.concat([a, op.inputs[0]], axis=0 if turned[0] else 1)
  right = tf.concat([op.inputs[1], b], axis=1 if turned[1] else 0)
  return tf.matmul(left, right, transpose_a=turned[0], transpose_b=turned[1])


def _size(tensor):
  return tensor.shape.num_elements()
