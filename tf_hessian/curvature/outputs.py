"""A model's outputs, as the loss takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
  from collections.abc import Sequence

  from tf_hessian.curvature.objective import Objective


def check_split(objective: Objective, what: str, /) -> None:
  """Raises TypeError unless outputs and loss can be told apart.

  Args:
    objective: the `Objective`.
    what: the matrix that needs it.
  """
  if not objective.whole:
    return
  if objective.layers:
    remedy = "give the loss of the model's outputs as loss="
  else:
    remedy = "give loss=tf_hessian.SplitLoss(outputs=..., loss=...)"
  raise TypeError(
    f"loss: the {what} needs the outputs and their loss apart, and {objective.whole}; {remedy}"
  )


class Cut:
  """Cuts a batch's loss from the outputs that it is of.

  It is called on the outputs, and returns what the loss is given for them: the same values, through
  which no gradient passes. Where a softmax or sigmoid comes last, its logits are cut too, since
  Keras takes losses of these.

  Attributes:
    watch: tapes that are to watch what the loss is given.
    outputs: list of the outputs.
    chosen: positions of the outputs that the loss depends on, once `gradient` has been called.
  """

  def __init__(self) -> None:
    self.watch: Sequence[tf.GradientTape] = ()
    self.outputs: list[tf.Tensor] = []
    self.chosen: list[int] = []
    self._places: list[tf.Tensor] = []

  def __call__(self, nest: Any, /) -> Any:
    return tf.nest.map_structure(self._one, nest)

  @property
  def used(self) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Outputs that the loss reads, and what it is given."""
    return [self.outputs[i] for i in self.chosen], [self._places[i] for i in self.chosen]

  def gradient(
    self, tape: tf.GradientTape, loss: tf.Tensor, params: Sequence[tf.Tensor], /
  ) -> tuple[list[tf.Tensor], list[int]]:
    """Returns the gradient of the loss.

    It is that in the outputs, and in the parameters with the outputs held fixed.

    Args:
      tape: has recorded the loss, and is persistent.
      loss: scalar.
      params: list of tensors.

    Returns:
      (list of tensors that are not constantly zero, positions of what they are the gradients in:
      the outputs that are used and then all parameters).

    Raises:
      ValueError: if the loss depends on no output.
    """
    found = tape.gradient(loss, [*self._places, *params])
    count = len(self._places)
    self.chosen = [i for i in range(count) if found[i] is not None]
    if not self.chosen:
      raise ValueError(
        "loss: it does not depend on the model's outputs, so it has no Gauss-Newton matrix; a "
        "compute_loss() must be of its argument y_pred"
      )
    parts = [found[i] for i in self.chosen] + found[count:]
    kept = [i for i, g in enumerate(parts) if g is not None]
    return [tf.convert_to_tensor(parts[i]) for i in kept], kept

  def _one(self, x):
    if not tf.is_tensor(x) or not x.dtype.is_floating:
      return x
    place = self._cut(x)
    logits = _logits(x)
    if logits is not None:
      place._keras_logits = self._cut(logits)
    return place

  def _cut(self, x):
    place = tf.stop_gradient(x)
    if getattr(x, "_keras_mask", None) is not None:
      place._keras_mask = x._keras_mask
    for tape in self.watch:
      tape.watch(place)
    self.outputs.append(x)
    self._places.append(place)
    return place


def _logits(x):
  """Returns the logits of an output, or None.

  Keras takes cross entropies of them.
  """
  known = getattr(x, "_keras_logits", None)
  if known is None and not isinstance(x, tf.__internal__.EagerTensor):
    known = x.op.inputs[0] if x.op.type in ("Sigmoid", "Softmax") else None
  return known
