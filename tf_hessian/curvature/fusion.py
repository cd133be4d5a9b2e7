"""Elementwise operations that wait until their value is needed.

They are then one loop over memory. TensorFlow runs each elementwise operation by itself, reading
and writing whole tensors: half of the time of a residual network's tangents, whose convolutions
have few channels. XLA compiles several of them to one loop. Convolutions, matrix products and
reductions are better left to TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools
from typing import Any

from absl import logging
import tensorflow as tf

_OPERATIONS = {
  "add": tf.add,
  "subtract": tf.subtract,
  "multiply": tf.multiply,
  "divide": tf.divide,
  "negative": tf.negative,
  "relu_grad": lambda t, x: tf.raw_ops.ReluGrad(gradients=t, features=x),
}
# Tensors with fewer entries are not worth the call of a compiled function.
_SMALL = 2**14
# Of more operations, the loop would be read from too many tensors at once.
_MOST = 16


class Waiting:
  """The value of an elementwise operation on tensors and other waiting values.

  Attributes:
    shape: its shape, fully defined.
    dtype: its dtype.
  """

  def __init__(
    self, name: str, arguments: Sequence[tf.Tensor | Waiting], shape: tf.TensorShape
  ) -> None:
    self._name = name
    self._arguments = arguments
    self._value: Any = None
    self.shape = shape
    self.dtype: tf.DType = arguments[0].dtype
    self.size: int = 1 + sum(a.size for a in arguments if _waits(a))

  def value(self) -> tf.Tensor:
    """Returns the tensor, computing it the first time, in the current graph."""
    if self._value is None:
      leaves: list[tf.Tensor] = []
      structure = self._structure(leaves)
      if self.size == 1:
        self._value = _evaluated(structure, leaves)
      else:
        self._value = _compiled(structure)(*leaves)
      self._value.set_shape(self.shape)
    return self._value

  def _structure(self, leaves):
    """Returns a nested tuple of names and positions among the leaves.

    New leaves are appended to the list.
    """
    parts = [self._name]
    for a in self._arguments:
      if _waits(a):
        parts.append(a._structure(leaves))
        continue
      a = tensor(a)
      names = [leaf.name for leaf in leaves]
      if a.name not in names:
        leaves.append(a)
        names.append(a.name)
      parts.append(names.index(a.name))
    return tuple(parts)


def _waits(x):
  return isinstance(x, Waiting) and x._value is None


def tensor(x: tf.Tensor | Waiting | None, /) -> tf.Tensor | None:
  """Returns the tensor of a waiting value.

  Tensors and None are returned as they are.
  """
  return x.value() if isinstance(x, Waiting) else x


def elementwise(name: str, /, *arguments: tf.Tensor | Waiting, wait: bool) -> tf.Tensor | Waiting:
  """Returns the value of an elementwise operation.

  It waits if that is wanted and worth it; otherwise it is a tensor.

  Args:
    name: "add", "subtract", "multiply", "divide", "negative" or "relu_grad".
    *arguments: tensors and waiting values, which are broadcast.
    wait: whether it may wait.
  """
  shape = functools.reduce(tf.broadcast_static_shape, (a.shape for a in arguments))
  if not (wait and shape.is_fully_defined() and shape.num_elements() >= _SMALL):
    return _OPERATIONS[name](*map(tensor, arguments))
  result = Waiting(name, arguments, shape)
  if result.size > _MOST:
    result.value()
  return result


def _evaluated(structure, leaves):
  if isinstance(structure, int):
    return leaves[structure]
  name, *arguments = structure
  return _OPERATIONS[name](*(_evaluated(a, leaves) for a in arguments))


@functools.cache
def _compiled(structure):
  """Returns the function of the leaves, compiled by XLA.

  There is one for each structure, so that XLA compiles it once.
  """
  return tf.function(
    lambda *leaves: _evaluated(structure, leaves), autograph=False, jit_compile=True
  )


@functools.cache
def available() -> bool:
  """Returns whether XLA can compile for functions' default device.

  Logs a warning if it can't.
  """
  try:
    with tf.init_scope():
      _compiled(("add", ("add", 0, 1), 1))(tf.ones([2]), tf.ones([2]))
  except tf.errors.OpError as e:
    logging.warning("elementwise operations run one by one, since XLA can't compile here: %s", e)
    return False
  return True
