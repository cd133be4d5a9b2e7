"""The loss of a Keras model's batch.

It is given, compiled, added by layers, or computed by the model.

A loss object has

  names, coefficients    of its terms
  loss_weights           the coefficients of the losses of outputs, for records
  description            for records: plain values
  of_batch(model, batch, training, cut)
                         the terms [(S_tb, W_tb), ...] of a batch; called where the model's
                         variables have the values that they are to have. The loss is given
                         cut(outputs) for the model's outputs
  weighs_batches()       whether all terms, once traced, say themselves what a batch weighs
  whole                  why outputs and loss can't be told apart; empty if they can
"""

from __future__ import annotations

import inspect
from typing import Any

import keras
import tensorflow as tf

from tf_hessian.curvature import keras_internals
from tf_hessian.curvature.output_losses import OutputLosses, batch_size, check_targets
from tf_hessian.curvature.outputs import Uncut

_METHODS = ("compute_loss", "train_step")
PENALTIES = "model.losses"


def of_model(
  model: keras.Model, loss: Any, loss_weights: Any, /
) -> GivenLosses | AddedLosses | ComputedLoss | StepLoss:
  """Returns the loss object of a model.

  Args:
    model: a `keras.Model`.
    loss: one or several losses of its outputs; "compute_loss" (or that method, or `train_step`)
      for what `fit` minimises, where the model has methods of its own for it; None for what `fit`
      minimises in any case: by these methods, the losses that the model was compiled with, or
      those that its layers add.
    loss_weights: coefficients of the outputs' losses; None for those compiled, with loss=None.

  Raises:
    TypeError, ValueError: for losses that don't fit the model.
  """
  asked = _is_own_method(model, loss)
  if not asked and loss is not None:
    return GivenLosses(OutputLosses(model, loss, loss_weights))
  own = [name for name in _METHODS if _overrides(model, name)]
  if own and loss_weights is not None:
    raise ValueError(f"loss_weights: model {model.name!r} computes its loss itself ({own[-1]})")
  if "train_step" in own:
    return StepLoss()
  if own:
    return ComputedLoss()
  compiled, weights = keras_internals.compiled_loss(model)
  if compiled is None:
    if asked:
      raise ValueError(
        f"loss: model {model.name!r} has no compute_loss() of its own and no compiled loss; give a "
        "loss, or None for a model whose layers add theirs"
      )
    return AddedLosses()
  weights = weights if loss_weights is None else loss_weights
  return GivenLosses(OutputLosses(model, compiled, weights, as_fit=True))


def _is_own_method(model, loss):
  if isinstance(loss, str):
    return loss in _METHODS
  if not inspect.ismethod(loss) or loss.__name__ not in _METHODS:
    return False
  if loss.__self__ is model:
    return True
  if isinstance(loss.__self__, keras.Model):
    raise ValueError(
      f"loss: {loss.__name__} is of another model, {loss.__self__.name!r}; give this model's"
    )
  return False


def _overrides(model, name):
  return name in vars(model) or getattr(type(model), name) is not getattr(keras.Model, name)


def unpack(batch: Any, /) -> tuple[Any, Any, Any]:
  """Returns (inputs, targets, sample weights) of a batch.

  Each is None if the batch has none. A tuple is these; anything else, a list too, is inputs.
  """
  return keras.utils.unpack_x_y_sample_weight(batch if isinstance(batch, tuple) else (batch,))


class GivenLosses:
  """Losses of a model's outputs, and those that layers add.

  Those of layers are weighted like the first output's.
  """

  whole = ""

  def __init__(self, outputs: OutputLosses) -> None:
    self.loss_weights = outputs.coefficients
    self.names = [*outputs.names, PENALTIES]
    self.coefficients = [*outputs.coefficients, 1.0]
    self.description = outputs.description
    self.given = outputs.given
    self.as_fit = outputs.as_fit
    self.terms = outputs.terms
    self.weighs_batches = outputs.weighs_batches

  def of_batch(
    self, model: keras.Model, batch: Any, training: bool, cut: Uncut, /
  ) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Returns the terms [(S_tb, W_tb), ...] of a batch."""
    inputs, targets, sample_weight = unpack(batch)
    check_targets(targets, inputs)
    predictions = cut(model(inputs, training=training))
    result = self.terms(targets, predictions, sample_weight, cut.observe)
    first, weight = result[0]
    return [*result, (_total(model.losses, first.dtype) * weight, weight)]


class _SingleLoss:
  """The common part of losses of a single term."""

  coefficients = loss_weights = (1.0,)
  as_fit = False
  given = (None,)

  def weighs_batches(self) -> bool:
    """Returns False: a batch weighs as much as it has examples."""
    return False


class AddedLosses(_SingleLoss):
  """The losses that layers add, by themselves."""

  names = (PENALTIES,)
  description = {PENALTIES: "add_loss"}
  whole = "its layers add the loss"

  def of_batch(
    self, model: keras.Model, batch: Any, training: bool, cut: Uncut, /
  ) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Returns the terms [(S_tb, W_tb), ...] of a batch."""
    del cut  # there is no loss of outputs
    inputs, targets, _ = unpack(batch)
    model(inputs, training=training)
    losses = model.losses
    if not losses:
      raise ValueError(
        f"loss: expected a loss, since model {model.name!r} is compiled with none and its layers "
        "add none; give one (in a shell, --loss)"
      )
    if targets is not None and not model.compiled:
      raise ValueError(
        f"loss: expected a loss of the targets, since model {model.name!r} is not compiled; give "
        "one (in a shell, --loss), or data without targets for the losses that its layers add"
      )
    total = _total(losses, max((x.dtype for x in losses), key=lambda d: d.size))
    weight = tf.cast(batch_size(inputs), total.dtype)
    return [(total * weight, weight)]


class ComputedLoss(_SingleLoss):
  """The result of a model's own `compute_loss`.

  It is the mean over a batch, or a pair (sum, weight).
  """

  names = ("compute_loss",)
  description = {"compute_loss": "compute_loss"}
  whole = ""

  def __init__(self) -> None:
    self._weighs = False

  def weighs_batches(self) -> bool:
    """Returns whether `compute_loss` has returned a pair (sum, weight)."""
    return self._weighs

  def of_batch(
    self, model: keras.Model, batch: Any, training: bool, cut: Uncut, /
  ) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Returns the terms [(S_tb, W_tb), ...] of a batch."""
    inputs, targets, sample_weight = unpack(batch)
    _refuse_scaling(model)
    options = {"training": training} if _takes_training(model.compute_loss) else {}
    loss = model.compute_loss(
      x=inputs,
      y=targets,
      y_pred=cut(model(inputs, training=training)),
      sample_weight=sample_weight,
      **options,
    )
    self._weighs = isinstance(loss, (tuple, list)) and len(loss) == 2
    if self._weighs:
      total = tf.convert_to_tensor(loss[0])
      return [(total, tf.cast(loss[1], total.dtype))]
    return [_mean_of_batch("compute_loss", loss, inputs)]


class StepLoss(_SingleLoss):
  """The loss whose gradient a model's own `train_step` takes.

  It is the mean over a batch.
  """

  names = ("train_step",)
  description = {"train_step": "train_step"}
  whole = "its train_step() computes the loss"

  def of_batch(
    self, model: keras.Model, batch: Any, training: bool, cut: Uncut, /
  ) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Returns the terms [(S_tb, W_tb), ...] of a batch."""
    del cut
    if not training:
      raise ValueError(
        f"loss: the train_step() of model {model.name!r} runs it in training mode: give "
        "training=True, or a loss of your own"
      )
    if not model.compiled:
      raise ValueError(
        f"loss: compile model {model.name!r} first, since its train_step() uses its optimizer"
      )
    _refuse_scaling(model)
    inputs, _, _ = unpack(batch)
    with keras_internals.recorded_gradients(model) as losses:
      model.train_step(batch)
    if len(losses) != 1:
      raise ValueError(
        f"loss: the train_step() of model {model.name!r} takes {len(losses)} gradients in its "
        "variables, so there is not one loss to measure: give the loss whose Hessian is wanted, as "
        "a function (parameters, batch) of a list of variables, such as "
        "HessianOperator(model.generator.trainable_variables, loss, dataset)"
      )
    return [_mean_of_batch("train_step", tf.reduce_sum(losses[0]), inputs)]


def _total(losses, dtype):
  return sum((tf.cast(tf.reduce_sum(x), dtype) for x in losses), tf.zeros((), dtype))


def _takes_training(method):
  parameters = inspect.signature(method).parameters.values()
  return any(p.name == "training" or p.kind is p.VAR_KEYWORD for p in parameters)


def _mean_of_batch(name, loss, inputs):
  """Returns the term of a mean over a batch's examples."""
  if loss is None:
    raise ValueError(f"loss: {name}() of the model returned None")
  loss = tf.convert_to_tensor(loss)
  if loss.shape.rank != 0 or not loss.dtype.is_floating:
    raise ValueError(
      f"loss: expected {name}() of the model to give a floating-point scalar, got "
      f"{loss.dtype.name}{loss.shape}"
    )
  weight = tf.cast(batch_size(inputs), loss.dtype)
  return loss * weight, weight


def _refuse_scaling(model):
  """Refuses scopes in which Keras divides losses by the replicas.

  Those are scopes of strategies; the divisor is the number of replicas.
  """
  if tf.distribute.get_strategy().num_replicas_in_sync > 1:
    raise ValueError(
      f"loss: make the operator of model {model.name!r} outside of strategy.scope(): inside, Keras "
      "divides its loss by the number of replicas"
    )
