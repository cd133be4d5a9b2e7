"""A loss of tensors, apart from the outputs that it is of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import inspect
from typing import Any

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class SplitLoss:
  """A loss of a list of tensors, by way of outputs.

  It is given to an operator as any other loss. The Gauss-Newton matrix and the Fisher matrix need
  it, since they differentiate the network and the loss by themselves.

  >>> import numpy as np
  >>> import tensorflow as tf
  >>> import tf_hessian
  >>> loss = tf_hessian.SplitLoss(
  ...   outputs=lambda parameters, batch: tf.linalg.matvec(batch[0], parameters[0]),
  ...   loss=lambda outputs, batch: (outputs - batch[1]) ** 2,
  ... )
  >>> data = [(np.eye(2), np.ones(2))]
  >>> point = [tf.Variable([1.0, 2.0], dtype="float64")]
  >>> tf_hessian.GaussNewtonOperator(point, loss, data) @ np.array([3.0, 4.0])
  array([3., 4.])

  Attributes:
    outputs: function (parameters, batch) -> outputs, a nest of tensors; if it takes a third
      argument `seed`, that is the batch's, for `tf.random.stateless_*`.
    loss: function (outputs, batch) -> losses, as a loss of (parameters, batch) returns them.

  Raises:
    TypeError: for what is no function.
  """

  outputs: Callable[..., Any]
  loss: Callable[[Any, Any], Any]

  def __post_init__(self) -> None:
    for name in ("outputs", "loss"):
      if not callable(getattr(self, name)):
        raise TypeError(f"{name}: expected a function, got {getattr(self, name)!r}")

  @property
  def __name__(self) -> str:  # noqa: PLW3201 - what a function is called in records
    return getattr(self.loss, "__name__", type(self.loss).__name__)

  def __call__(
    self, parameters: Sequence[tf.Tensor], batch: Any, seed: tf.Tensor | None = None
  ) -> Any:
    """Returns the losses of a batch."""
    return self.of_cut(lambda outputs: outputs, parameters, batch, seed)

  def of_cut(
    self,
    cut: Callable[[Any], Any],
    parameters: Sequence[tf.Tensor],
    batch: Any,
    seed: tf.Tensor | None = None,
  ) -> Any:
    """Returns the losses of a batch, of cut(outputs) instead of the outputs."""
    seeds = [seed] if "seed" in inspect.signature(self.outputs).parameters else []
    return self.loss(cut(self.outputs(parameters, batch, *seeds)), batch)
