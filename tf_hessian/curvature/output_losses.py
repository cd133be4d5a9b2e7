"""One Keras loss for each output, as sums over a batch.

Each sum carries its weight.

Keras's own loss objects cast to their dtype and divide by the number of examples of the batch; here
the losses are taken before both, and targets are refused that Keras would silently broadcast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from absl import logging
import keras
import tensorflow as tf

from tf_hessian.curvature import output_keys as keys_lib
from tf_hessian.curvature.given_losses import as_loss, loss_function_name, loss_name


class OutputLosses:
  """One loss for each of a model's outputs.

  Args:
    model: the `keras.Model`.
    loss: one or several losses.
    loss_weights: their coefficients.
    as_fit: divide by the number of losses, as `fit` does, instead of by the sum of their sample
      weights. That makes a difference if there are several outputs, or penalties.

  Attributes:
    names: of the outputs that have a loss.
    coefficients: their loss weights.
    description: name of each loss, by output.
    given: the losses.
  """

  def __init__(
    self, model: keras.Model, loss: Any, loss_weights: Any, *, as_fit: bool = False
  ) -> None:
    self.as_fit = as_fit
    self._outputs = keys_lib.output_keys(model)
    self._weigh: dict[Any, bool] = {}  # by output: whether its loss returns a pair
    self._losses = keys_lib.by_key("loss", loss, self._outputs)
    weights = keys_lib.weights_by_key(loss, loss_weights, self._outputs, as_fit=as_fit)
    if not any(fn is not None for fn in self._losses.values()):
      raise ValueError("loss: expected a loss for at least one output, got none")
    self._losses = {
      k: as_loss(fn, as_fit=as_fit) for k, fn in self._losses.items() if fn is not None
    }
    self.given = tuple(self._losses.values())
    self.names = ["loss" if k is None else keys_lib.name(k, self._outputs) for k in self._losses]
    self.coefficients = [1.0 if weights.get(k) is None else float(weights[k]) for k in self._losses]
    self.description = {
      n: loss_name(fn) for n, fn in zip(self.names, self._losses.values(), strict=True)
    }

  def weighs_batches(self) -> bool:
    """Returns whether all losses, once traced, return a pair (sum, weight)."""
    return bool(self._weigh) and all(self._weigh.values())

  def terms(
    self, targets: Any, predictions: Any, sample_weight: Any, observe: Callable | None = None, /
  ) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Returns (sum of weighted losses, sum of weights) of each loss.

    Where it is given, observe(name, loss, outputs, losses, weights) is called for each; the last
    two are tensors of one shape, or None where the loss gives one number.

    The result is a list. Losses that read variables of the model read those of the scope that this
    is called in.
    """
    check_targets(targets, None)
    if len(self._losses) > 1 and tf.is_tensor(predictions):
      raise ValueError(f"loss: the model returns one output, got {len(self._losses)} losses")
    targets = self._one_a_loss(targets)
    if not tf.is_tensor(sample_weight):  # a single tensor of weights is for all outputs
      sample_weight = self._one_a_loss(sample_weight)
    result = []
    for key, loss in self._losses.items():
      outputs = keys_lib.pick("outputs", predictions, key, self._outputs)
      y = keys_lib.pick("targets", targets, key, self._outputs)
      weights = sample_weight
      if not tf.is_tensor(weights):
        weights = keys_lib.pick("sample weights", weights, key, self._outputs)
      name = "loss" if key is None else f"loss of output {key!r}"
      term, losses, self._weigh[key] = _keras_term(name, loss, y, outputs, weights, self.as_fit)
      result.append(term)
      if observe is not None:
        observe(name, loss, outputs, *losses)
    return result

  def _one_a_loss(self, nest):
    """Returns a nest with one part for each loss as a dict.

    That is only done where there are outputs without a loss.
    """
    if nest is None or isinstance(nest, dict) or len(self._losses) >= len(self._outputs):
      return nest
    flat = tf.nest.flatten(nest)
    if len(flat) != len(self._losses):
      return nest
    return dict(zip(keys_lib.in_keras_order(list(self._losses), self._outputs), flat, strict=True))


def _keras_term(name, loss, targets, outputs, sample_weight, as_fit):
  """Returns the term of one output, its losses, and who weighs.

  That is ((sum, weight), (losses, weights), whether the loss has said the weight). The sum is that
  of the output's losses over a batch.

  Keras's own call would cast to the loss's dtype, float32 whatever the model's, and divide by the
  number of examples of this batch; so the losses are taken before both.
  """
  if targets is None:
    raise ValueError(f"{name}: the data set has no targets for it")
  mask = getattr(outputs, "_keras_mask", None)
  outputs = tf.nest.map_structure(_at_least_float32, outputs)
  try:
    values = _losses(name, loss, targets, outputs)
  except (ValueError, TypeError) as e:
    if isinstance(e, (_TargetsError, _TargetsTypeError)):
      raise
    raise ValueError(
      f"{name}: {loss_name(loss)} takes no targets {_show(targets)} with outputs "
      f"{_show(outputs)}: {e}"
    ) from e
  if isinstance(values, (tuple, list)):
    return _pair(name, values, sample_weight, mask), (None, None), True
  ignored = getattr(values, "_keras_mask", None)  # of classes that are not to count
  values = tf.convert_to_tensor(values)
  check_loss_dtype(name, values)
  masks = [m for m in (mask, ignored) if m is not None]
  if values.shape.rank == 0:
    return _mean(name, values, masks, sample_weight, targets), (None, None), False
  weights, kept, given = _weights(name, values, masks, sample_weight)
  divisor = weights
  if as_fit:  # Keras's mean by sample weights divides by these as they are, not broadcast
    divisor = given if getattr(loss, "reduction", "") == "mean_with_sample_weight" else kept
  return (tf.reduce_sum(values * weights), tf.reduce_sum(divisor)), (values, weights), False


def _losses(name, loss, targets, outputs):
  """Returns a loss's values for targets cast as Keras does.

  Where a loss takes no such targets, it gets them as they are.
  """
  call = loss.call if isinstance(loss, keras.losses.Loss) else loss
  known = loss_function_name(loss)
  if known in _OF_CLASS_NUMBERS:
    return call(_class_numbers(name, known, targets, outputs), outputs)
  cast = tf.nest.map_structure(lambda t: _like(name, t, outputs), targets)
  if known is not None:
    _check_targets(name, loss, known, cast, outputs)
  try:
    return _aligned_call(loss, call, cast, outputs)
  except (ValueError, TypeError, tf.errors.InvalidArgumentError):
    # Keras has floating-point targets for every loss; some gather by them, or are one-hot.
    if all(t is c for t, c in zip(*map(tf.nest.flatten, (targets, cast)), strict=True)):
      raise
    return _aligned_call(loss, call, targets, outputs)


def _aligned_call(loss, call, targets, outputs):
  if not isinstance(loss, keras.losses.Loss) and tf.is_tensor(targets) and tf.is_tensor(outputs):
    targets, outputs = _align(targets, outputs)
  return call(targets, outputs)


def _pair(name, values, sample_weight, mask):
  """Returns the pair (sum, weight) that a loss gives, both scalars."""
  if len(values) != 2:
    raise ValueError(f"{name}: expected losses or a pair (sum, weight), got {len(values)} values")
  if sample_weight is not None or mask is not None:
    raise ValueError(
      f"{name}: it returns a pair (sum, weight), so sample weights or masks can't be applied: "
      "return one loss an example"
    )
  total = tf.convert_to_tensor(values[0])
  check_loss_dtype(name, total)
  weight = tf.cast(values[1], total.dtype)
  if total.shape.rank != 0 or weight.shape.rank != 0:
    raise ValueError(
      f"{name}: expected a pair of scalars (sum, weight), got shapes {total.shape}, {weight.shape}"
    )
  return total, weight


def _mean(name, value, masks, sample_weight, targets):
  if sample_weight is not None or masks:
    raise ValueError(
      f"{name}: it returns one number a batch, so sample weights or masks can't be applied: "
      "return one loss an example"
    )
  weight = tf.cast(batch_size(targets), value.dtype)
  return value * weight, weight


def _weights(name, values, masks, sample_weight):
  """Returns (weights of losses, those by masks alone, those that are given)."""
  kept = weights = tf.ones_like(values)
  given = None
  for factor, what in [*((m, "mask") for m in masks), (sample_weight, "sample weights")]:
    if factor is not None:
      whole = factor.shape.rank < values.shape.rank  # fit doesn't take these
      factor = _expand(name, what, tf.cast(factor, values.dtype), values)
      weights *= factor
      factor = factor * tf.ones_like(values) if whole else factor
      given = factor if given is None else given * factor
      kept = weights if what == "mask" else kept
  return weights, kept, weights if given is None else given


def _expand(name, what, factor, values):
  """Gives weights (examples,) or (examples, time, ...) the rank of the losses."""
  rank = values.shape.rank
  if factor.shape.rank == rank + 1 and factor.shape[-1] == 1:
    factor = tf.squeeze(factor, -1)
  while factor.shape.rank < rank:
    factor = factor[..., None]
  try:
    shape = tf.broadcast_static_shape(factor.shape, values.shape)
  except ValueError:
    shape = None
  if shape is None or not shape.is_compatible_with(values.shape):
    raise ValueError(f"{name}: {what} of shape {factor.shape} don't fit losses of {values.shape}")
  return factor


def _at_least_float32(x):
  return tf.cast(x, tf.float32) if x.dtype in (tf.bfloat16, tf.float16) else x


def _like(name, target, outputs):
  """Casts numbers to the outputs' dtype, as Keras does.

  Unlike in Keras, float64 stays float64.
  """
  if target.dtype == tf.string:
    raise _TargetsTypeError(f"{name}: targets are strings; turn them into class numbers first")
  if tf.is_tensor(outputs) and outputs.dtype.is_floating and not target.dtype.is_complex:
    return target if target.dtype == outputs.dtype else tf.cast(target, outputs.dtype)
  return target


def _align(targets, outputs):
  """Removes a last dimension of 1 that one of two has.

  It is added to the other one where that has a single dimension, as in Keras's loss classes.
  """
  if targets.shape.rank == outputs.shape.rank + 1:
    outputs, targets = _align(outputs, targets)
  elif outputs.shape.rank == targets.shape.rank + 1 and outputs.shape[-1] == 1:
    if targets.shape.rank == 1:
      targets = targets[:, None]
    else:
      outputs = tf.squeeze(outputs, -1)
  return targets, outputs


class _TargetsError(ValueError):
  """Targets that don't fit the outputs, as the message says by itself."""


class _TargetsTypeError(TypeError):
  """Targets of a wrong type, as the message says by itself."""


def _class_numbers(name, known, targets, outputs):
  """Returns class numbers, one for each prediction; refuses other shapes."""
  if not (tf.is_tensor(targets) and tf.is_tensor(outputs)):
    return targets
  if targets.dtype == tf.string:
    raise _TargetsTypeError(f"{name}: targets are strings; turn them into class numbers first")
  aligned = targets
  if targets.shape.rank == outputs.shape.rank and targets.shape[-1] == 1:
    aligned = tf.squeeze(targets, -1)
  if not outputs.shape[:-1].is_compatible_with(aligned.shape):
    raise _TargetsError(
      f"{name}: expected class numbers of shape {outputs.shape[:-1]} for {outputs.shape[-1]} "
      f"classes, got {_show(targets)}; one-hot targets go with categorical_crossentropy"
    )
  if known not in _OF_ONE_NUMBER:
    return targets
  if aligned is not targets:
    logging.log_first_n(
      logging.WARNING,
      "%s: class numbers of shape %s are taken as one for each example; fit() broadcasts them "
      "against all examples",
      1,
      name,
      targets.shape,
    )
  return aligned


def _check_targets(name, loss, known, targets, outputs):
  """Refuses shapes that Keras's own losses would silently broadcast."""
  if known in _OF_ANY_TARGETS or not (tf.is_tensor(targets) and tf.is_tensor(outputs)):
    return
  first, second = _align(targets, outputs)
  if not first.shape.is_compatible_with(second.shape):
    hint = ""
    if "crossentropy" in known and targets.shape.rank == outputs.shape.rank - 1:
      hint = "; class numbers go with sparse_categorical_crossentropy"
    raise _TargetsError(
      f"{name}: expected targets of shape {outputs.shape} for {loss_name(loss)}, got "
      f"{_show(targets)}{hint}"
    )


# Of Keras's own losses, those whose targets are class numbers. Of the second kind some broadcast
# numbers of shape (examples, 1) against all examples.
_OF_ONE_NUMBER = frozenset({"categorical_generalized_cross_entropy", "circle"})
_OF_CLASS_NUMBERS = _OF_ONE_NUMBER | {"sparse_categorical_crossentropy"}
_OF_ANY_TARGETS = frozenset({"ctc"})


def _show(tensors):
  return ", ".join(f"{t.dtype.name}{t.shape}" for t in tf.nest.flatten(tensors))


def check_targets(targets: Any, inputs: Any, /) -> None:
  """Raises ValueError unless a batch has targets.

  Args:
    targets: of the batch.
    inputs: that the message may name, where they are a dict.
  """
  if targets is None:
    found = f" (a dict of {', '.join(map(repr, inputs))})" if isinstance(inputs, dict) else ""
    raise ValueError(
      f"data set: it yields inputs only{found}; expected tuples (inputs, targets) or (inputs, "
      "targets, sample_weight)"
    )


def check_loss_dtype(name: str, value: tf.Tensor, /) -> None:
  """Raises TypeError unless a tensor of losses is floating-point."""
  if not value.dtype.is_floating:
    raise TypeError(f"{name}: expected floating-point losses, got {value.dtype.name}")


def batch_size(batch: Any, /) -> tf.Tensor | int:
  """Returns the number of examples of a nest of tensors.

  That is the first dimension of the first tensor; 1 if that is a scalar.
  """
  first = tf.nest.flatten(batch)[0]
  return tf.shape(first)[0] if first.shape.rank else 1
