"""A model's outputs, as the loss takes them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
  from collections.abc import Sequence

  from tf_hessian.curvature.objective import Objective


def check_split(objective: Objective, what: str, blocks: int | None, /) -> None:
  """Refuses what the products of `pullback` can't be made of.

  Args:
    objective: the `Objective`.
    what: the matrix that needs it.
    blocks: number of blocks whose activations are recomputed, or None.

  Raises:
    TypeError: if the loss can't be told apart from the outputs.
    ValueError: if blocks are to be recomputed.
  """
  if blocks is not None:
    raise ValueError(
      f"recompute_blocks: is for the Hessian; a product of the {what} takes one forward and one "
      "backward pass of each vector already"
    )
  if not objective.whole:
    return
  if objective.layers:
    remedy = "give the loss of the model's outputs as loss="
  else:
    remedy = "give loss=tf_hessian.SplitLoss(outputs=..., loss=...)"
  raise TypeError(
    f"loss: the {what} needs the outputs and their loss apart, and {objective.whole}; {remedy}"
  )


class OutputsError(ValueError):
  """A loss that has no such matrix of outputs."""


@dataclasses.dataclass(frozen=True)
class Losses:
  """The single losses of a batch's output.

  Attributes:
    name: of the output's loss, for messages.
    loss: the loss itself.
    outputs: the tensors that it is given.
    values: the losses; None where there is one number for the batch.
    weights: those of the losses in their sum, a tensor like `values`; None like them.
  """

  name: str
  loss: Any
  outputs: Any
  values: tf.Tensor | None
  weights: tf.Tensor | None


class Uncut:
  """Lets a loss have a model's outputs as they are."""

  def __call__(self, nest: Any, /) -> Any:
    """Returns what the loss is given for a nest of outputs."""
    return nest

  def observe(self, *losses: Any) -> None:
    """Is told of the single losses of each output: the fields of `Losses`."""


class Cut(Uncut):
  """Cuts a batch's loss from the outputs that it is of.

  It is called on the outputs, and returns what the loss is given for them: the same values, through
  which no gradient passes. Where a softmax or sigmoid of Keras comes last, its logits are cut
  too, since Keras takes losses of these.

  Attributes:
    watch: tapes that are to watch what the loss is given.
    outputs: list of the outputs.
    places: list of what the loss is given for them.
    losses: list of the single losses of each output, `Losses`.
  """

  def __init__(self) -> None:
    self.watch: Sequence[tf.GradientTape] = ()
    self.outputs: list[tf.Tensor] = []
    self.places: list[tf.Tensor] = []
    self.losses: list[Losses] = []

  def __call__(self, nest: Any, /) -> Any:
    return tf.nest.map_structure(self._one, nest)

  def observe(self, *losses: Any) -> None:
    self.losses.append(Losses(*losses))

  def _one(self, x):
    if not tf.is_tensor(x) or not x.dtype.is_floating:
      return x
    place = self._cut(x)
    # Keras's own mark; of other softmaxes it isn't known whether the loss looks behind them.
    logits = getattr(x, "_keras_logits", None)
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
    self.places.append(place)
    return place
