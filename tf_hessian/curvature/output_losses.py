"""One Keras loss for each of a model's outputs, as sums over a batch that carry their weights.

Keras's own loss objects cast to their dtype and divide by the number of examples of the batch; here
the losses are taken before both, and targets are refused that Keras would silently broadcast.
"""

import keras
import tensorflow as tf


class OutputLosses:
  """One loss for each of a model's outputs.

  Attributes:
    names: of the outputs that have a loss.
    coefficients: their loss weights.
    description: name of each loss, by output.
  """

  def __init__(self, model, loss, loss_weights):
    self._outputs = _output_keys(model)
    self._losses = _by_key("loss", loss, self._outputs)
    weights = _by_key("loss_weights", loss_weights, self._outputs)
    if not any(fn is not None for fn in self._losses.values()):
      raise ValueError("loss: expected a loss for at least one output, got none")
    self._losses = {k: _as_loss(fn) for k, fn in self._losses.items() if fn is not None}
    self.names = ["loss" if k is None else _name(k, self._outputs) for k in self._losses]
    self.coefficients = [1.0 if weights.get(k) is None else float(weights[k]) for k in self._losses]
    self.description = {
      n: _loss_name(fn) for n, fn in zip(self.names, self._losses.values(), strict=True)
    }

  def terms(self, targets, predictions, sample_weight, /):
    """Returns a list of (sum of the weighted losses, sum of the weights), one a loss."""
    if targets is None:
      raise ValueError(
        "data set: it yields inputs only; expected (inputs, targets) or (inputs, targets, "
        "sample_weight)"
      )
    result = []
    for key, loss in self._losses.items():
      y = _pick("targets", targets, key, self._outputs)
      outputs = _pick("outputs", predictions, key, self._outputs)
      weights = sample_weight  # a single tensor of weights is for all outputs
      if not tf.is_tensor(weights):
        weights = _pick("sample weights", weights, key, self._outputs)
      name = "loss" if key is None else f"loss of output {key!r}"
      result.append(_keras_term(name, loss, y, outputs, weights))
    return result


def _output_keys(model):
  """Returns a list of (name, key in the model's result) of the outputs.

  Keys are the names of a dict, the numbers of a list, None for a single output. Names may repeat,
  as those of a layer that is called twice. The list is empty for a subclassed model, which says
  nothing of its outputs, and for a sequence that ends in such a one.
  """
  if isinstance(model, keras.Sequential):
    last = model.layers[-1]
    return _output_keys(last) if isinstance(last, keras.Model) else [(last.name, None)]
  if not getattr(model, "outputs", None):
    return []
  if isinstance(model.output, dict):
    return [(k, k) for k in model.output]
  if isinstance(model.output, (list, tuple)):
    return list(zip(model.output_names, range(len(model.output)), strict=True))
  return [(model.output_names[0], None)]


def _name(key, outputs):
  """Returns the name of an output, or its number where that doesn't tell it from the others."""
  name = {k: n for n, k in outputs}.get(key, key)
  return str(key) if [n for n, _ in outputs].count(name) > 1 else str(name)


def _by_key(what, value, outputs):
  """Returns a dict: output key -> what the user gave for it."""
  keys = [k for _, k in outputs] or [None]
  if isinstance(value, dict):
    if not outputs:
      return dict(value)
    return dict.fromkeys(keys) | {_key(what, k, outputs): v for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    if outputs and len(value) != len(outputs):
      raise ValueError(f"{what}: expected one for each of {len(keys)} outputs, got {len(value)}")
    return dict(zip(keys if outputs else range(len(value)), value, strict=True))
  return dict.fromkeys(keys, value)


def _key(what, given, outputs):
  """Returns the key of the output that is given by its name or key."""
  if given in [k for _, k in outputs]:
    return given
  found = [k for n, k in outputs if n == given]
  if len(found) == 1:
    return found[0]
  names = [n for n, _ in outputs]
  if found:
    raise ValueError(f"{what}: several outputs are named {given!r}; give a list, in their order")
  raise ValueError(f"{what}: there is no output {given!r}; there are {names}")


def _pick(what, nest, key, outputs):
  """Returns the part of a nest of targets, outputs or weights that belongs to an output."""
  if what == "outputs" and key is None and isinstance(nest, (dict, list, tuple)) and len(nest) > 1:
    raise ValueError(
      f"loss: the model returns {len(nest)} outputs; give a loss for each, as a list or a dict"
    )
  if nest is None or tf.is_tensor(nest):
    if tf.is_tensor(nest) and len(outputs) > 1:
      names = [n for n, _ in outputs]
      raise ValueError(f"{what}: expected one for each of {names}, got a single tensor")
    return nest
  names = [k for k in [key, *(n for n, k in outputs if k == key)] if k is not None]
  for k in names or [0]:
    if k in nest if isinstance(nest, dict) else isinstance(k, int) and k < len(nest):
      return nest[k]
  have = list(nest) if isinstance(nest, dict) else f"{len(nest)} entries"
  raise ValueError(f"{what}: nothing for output {key!r}; there are {have}")


def _as_loss(loss):
  if isinstance(loss, str):
    try:
      return keras.losses.get(loss)
    except ValueError as e:
      raise ValueError(f"loss: Keras knows no loss {loss!r}") from e
  if isinstance(loss, keras.losses.Loss):
    if loss.reduction == "sum":
      raise ValueError(
        f"loss {loss.name!r} has reduction 'sum', but the Hessian is that of the mean loss: use "
        "'sum_over_batch_size' and multiply the result by the number of examples"
      )
    return loss
  if callable(loss):
    return loss
  raise TypeError(f"loss: expected a Keras loss, its name or a function, got {loss!r}")


def _loss_name(loss):
  if isinstance(loss, keras.losses.Loss):
    config = {k: v for k, v in loss.get_config().items() if isinstance(v, (str, int, float, bool))}
    return f"{type(loss).__name__}({', '.join(f'{k}={v!r}' for k, v in sorted(config.items()))})"
  return getattr(loss, "__name__", type(loss).__name__)


def _keras_term(name, loss, targets, outputs, sample_weight):
  """Returns (sum, weight) of one output's losses over a batch.

  Keras's own call would cast to the loss's dtype, float32 whatever the model's, and divide by the
  number of examples of this batch; so the losses are taken before both.
  """
  if targets is None:
    raise ValueError(f"{name}: the data set has no targets for it")
  mask = getattr(outputs, "_keras_mask", None)
  outputs = tf.nest.map_structure(_at_least_float32, outputs)
  targets = tf.nest.map_structure(lambda t, o=outputs: _like(name, t, o), targets)
  _check_targets(name, loss, targets, outputs)
  call = loss.call if isinstance(loss, keras.losses.Loss) else loss
  if not isinstance(loss, keras.losses.Loss) and tf.is_tensor(targets) and tf.is_tensor(outputs):
    targets, outputs = _align(targets, outputs)
  try:
    values = call(targets, outputs)
    ignored = getattr(values, "_keras_mask", None)  # of classes that are not to count
    values = tf.convert_to_tensor(values)
  except (ValueError, TypeError) as e:
    raise ValueError(
      f"{name}: {_loss_name(loss)} takes no targets {_show(targets)} with outputs "
      f"{_show(outputs)}: {e}"
    ) from e
  check_loss_dtype(name, values)
  masks = [m for m in (mask, ignored) if m is not None]
  return _weighted_sum(name, values, masks, sample_weight, targets)


def _weighted_sum(name, values, masks, sample_weight, targets):
  if values.shape.rank == 0:
    if sample_weight is not None or masks:
      raise ValueError(
        f"{name}: it returns one number a batch, so sample weights or masks can't be applied: "
        "return one loss an example"
      )
    weight = tf.cast(batch_size(targets), values.dtype)
    return values * weight, weight
  weights = tf.ones_like(values)
  for factor, what in [(sample_weight, "sample weights"), *((m, "mask") for m in masks)]:
    if factor is not None:
      weights *= _expand(name, what, tf.cast(factor, values.dtype), values)
  return tf.reduce_sum(values * weights), tf.reduce_sum(weights)


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
  """Casts floating targets to the outputs' dtype, so that a float64 model has a float64 loss."""
  if target.dtype == tf.string:
    raise TypeError(f"{name}: targets are strings; turn them into class numbers first")
  if target.dtype.is_floating and tf.is_tensor(outputs) and outputs.dtype.is_floating:
    return tf.cast(target, outputs.dtype)
  return target


def _align(targets, outputs):
  """Removes a last dimension of 1 that only one of the two has, as Keras's loss classes do."""
  if targets.shape.rank == outputs.shape.rank + 1 and targets.shape[-1] == 1:
    targets = tf.squeeze(targets, -1)
  elif outputs.shape.rank == targets.shape.rank + 1 and outputs.shape[-1] == 1:
    if targets.shape.rank == 1:
      targets = targets[:, None]
    else:
      outputs = tf.squeeze(outputs, -1)
  return targets, outputs


def _check_targets(name, loss, targets, outputs):
  """Refuses shapes that Keras's own losses would silently broadcast."""
  if not (tf.is_tensor(targets) and tf.is_tensor(outputs)):
    return
  known = _loss_function_name(loss)
  if known is None:
    return
  if "sparse" in known:
    classes = outputs.shape[-1]
    aligned = targets
    if targets.shape.rank == outputs.shape.rank and targets.shape[-1] == 1:
      aligned = tf.squeeze(targets, -1)
    if not outputs.shape[:-1].is_compatible_with(aligned.shape):
      raise ValueError(
        f"{name}: expected class numbers of shape {outputs.shape[:-1]} for {classes} classes, got "
        f"{_show(targets)}; one-hot targets go with categorical_crossentropy"
      )
    return
  first, second = _align(targets, outputs)
  if not first.shape.is_compatible_with(second.shape):
    hint = ""
    if "crossentropy" in known and targets.shape.rank == outputs.shape.rank - 1:
      hint = "; class numbers go with sparse_categorical_crossentropy"
    raise ValueError(
      f"{name}: expected targets of shape {outputs.shape} for {_loss_name(loss)}, got "
      f"{_show(targets)}{hint}"
    )


def _loss_function_name(loss):
  """Returns the name of one of Keras's own losses with targets like the outputs, else None."""
  fn = loss if not isinstance(loss, keras.losses.Loss) else getattr(loss, "fn", None)
  if fn is None or not getattr(fn, "__module__", "").startswith("keras."):
    return None
  return None if fn.__name__ == "ctc" else fn.__name__


def _show(tensors):
  return ", ".join(f"{t.dtype.name}{t.shape}" for t in tf.nest.flatten(tensors))


def check_loss_dtype(name, value, /):
  """Raises TypeError unless a tensor of losses is floating-point."""
  if not value.dtype.is_floating:
    raise TypeError(f"{name}: expected floating-point losses, got {value.dtype.name}")


def batch_size(batch, /):
  """Returns the number of examples: the first dimension of the first tensor of a nest."""
  first = tf.nest.flatten(batch)[0]
  return tf.shape(first)[0] if first.shape.rank else 1
