"""Model, loss and batch as a pure function of the parameters.

All that the rest of the package knows of a model is an `Objective`: a list of terms, each a sum
over a batch that carries its weight. The loss of the data set is

  L = sum_t c_t (sum_b S_tb) / (sum_b W_tb),

with S_tb the weighted sum of the losses in batch b and W_tb the sum of their weights, so that short
batches, sample weights and masks count exactly. A Keras model has one term an output, and one for
`model.losses`, which is weighted like the first output and so enters once however many batches
there are.
"""

from collections.abc import Callable
import dataclasses
import fnmatch
import inspect

import keras
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Objective:
  """The loss of one batch as a pure function.

  Attributes:
    parameters: the tensors or variables that make up the vector, in order.
    names: their names.
    chosen: their positions among all trainable variables, or in the list of tensors.
    context: further tensors or variables that are read: fixed weights, moving statistics.
    coefficients: c_t of each term.
    term_names: names of the terms.
    terms: (parameters, context, batch, seed) -> list of (S_tb, W_tb), scalars of the loss's dtype;
      seed is an int32 tensor of shape (2,).
    layers: names of the model's layers, for error messages.
    description: what was built, for records: plain values.
  """

  parameters: tuple
  names: tuple
  chosen: tuple
  context: tuple
  coefficients: tuple
  term_names: tuple
  terms: Callable
  layers: tuple
  description: dict

  @property
  def shapes(self):
    """Tuple of the parameters' shapes, each a tuple."""
    return tuple(tuple(p.shape.as_list()) for p in self.parameters)

  @property
  def precision(self):
    """Relative rounding error of the least precise type that the products are made of."""
    return self.description["precision"]


def build_objective(model, loss, /, *, loss_weights=None, variables=None, training=False):
  """Returns the `Objective` of a Keras model, or of a list of tensors and a plain function.

  Args:
    model: a built `keras.Model`; or a list of floating-point tensors or `tf.Variable`s.
    loss: for a Keras model: a `keras.losses.Loss`, a name that Keras knows, or a function (targets,
      outputs) -> losses, whose first dimension counts examples (or which is their mean); with
      several outputs a dict or list of these like the outputs, or one for all. For a list of
      tensors: a function (parameters, batch) that returns the examples' losses (examples,), or a
      pair (sum of losses, sum of weights), or a scalar, the mean over the batch's examples; if it
      takes a third argument `seed`, that is the batch's, for `tf.random.stateless_*`.
    loss_weights: coefficient of each output's loss, structured like `loss`.
    variables: the block of the Hessian: a variable, a layer, a name or a pattern such as
      "block_1/*" (of variable paths or layer names), or a list of these; None for all.
    training: what `training` the model is called with: True normalises by batch statistics and
      drops units (by seed).

  Raises:
    TypeError, ValueError: for what can't be measured, saying what was expected.
  """
  if isinstance(model, keras.Model):
    return _keras_objective(model, loss, loss_weights, variables, training)
  if isinstance(model, (list, tuple)):
    for name, value in (("loss_weights", loss_weights), ("training", training or None)):
      if value is not None:
        raise ValueError(f"{name}: is for Keras models; put it into the loss function")
    return _function_objective(model, loss, variables)
  raise TypeError(
    f"model: expected a keras.Model, or a list of tensors or variables, got {type(model).__name__}"
  )


# Plain functions -------------------------------------------------------------------------------


def _function_objective(parameters, loss, variables):
  if not callable(loss):
    raise TypeError(f"loss: expected a function (parameters, batch), got {loss!r}")
  tensors = [p if isinstance(p, tf.Variable) else tf.convert_to_tensor(p) for p in parameters]
  if not tensors:
    raise ValueError("parameters: expected at least one tensor, got none")
  names = [
    p.name.split(":")[0] if isinstance(p, tf.Variable) else f"parameter_{i}"
    for i, p in enumerate(tensors)
  ]
  _check_dtypes(names, tensors)
  chosen = _select(variables, names, tensors)
  rest = [i for i in range(len(tensors)) if i not in chosen]
  takes_seed = "seed" in inspect.signature(loss).parameters

  def terms(params, context, batch, seed):
    values = dict(zip(chosen + rest, [*params, *context], strict=True))
    args = [[values[i] for i in range(len(values))], batch] + ([seed] if takes_seed else [])
    return [_function_term(loss(*args), batch)]

  return Objective(
    parameters=tuple(tensors[i] for i in chosen),
    names=tuple(names[i] for i in chosen),
    chosen=tuple(chosen),
    context=tuple(tensors[i] for i in rest),
    coefficients=(1.0,),
    term_names=("loss",),
    terms=terms,
    layers=(),
    description={
      "model": "function",
      "loss": getattr(loss, "__name__", type(loss).__name__),
      "training": False,
      "precision": _precision([t.dtype for t in tensors]),
    },
  )


def _function_term(value, batch):
  if isinstance(value, (tuple, list)):
    if len(value) != 2:
      raise ValueError(f"loss: expected a pair (sum, weight), got {len(value)} values")
    total, weight = value
    total = tf.convert_to_tensor(total)
    return total, tf.cast(weight, total.dtype)
  value = tf.convert_to_tensor(value)
  _check_loss_dtype("loss", value)
  if value.shape.rank == 0:
    weight = tf.cast(_batch_size(batch), value.dtype)
    return value * weight, weight
  if value.shape.rank != 1:
    raise ValueError(
      f"loss: expected shape (examples,), a scalar or a pair (sum, weight), got {value.shape}"
    )
  return tf.reduce_sum(value), tf.cast(tf.size(value), value.dtype)


def _batch_size(batch):
  first = tf.nest.flatten(batch)[0]
  return tf.shape(first)[0] if first.shape.rank else 1


# Keras models ----------------------------------------------------------------------------------


def _keras_objective(model, loss, loss_weights, variables, training):
  if keras.backend.backend() != "tensorflow":
    raise ValueError(
      f"Keras runs on {keras.backend.backend()}; set KERAS_BACKEND=tensorflow before importing it"
    )
  if not isinstance(training, bool):
    raise TypeError(f"training: expected True or False, got {training!r}")
  if not model.built or not model.variables:
    raise ValueError(
      f"model {model.name!r} is not built, so it has no variables yet: call it on a batch first, "
      "or model.build(input_shape)"
    )
  _check_policies(model)
  trainable, fixed = model.trainable_variables, model.non_trainable_variables
  paths = [v.path for v in trainable]
  if not trainable:
    raise ValueError(f"model {model.name!r} has no trainable variables: all layers are frozen")
  _check_dtypes(paths, [v.value for v in trainable])
  chosen = _select(variables, paths, trainable, model)
  rest = [i for i in range(len(trainable)) if i not in chosen]
  seeds = [i for i, v in enumerate(fixed) if _is_seed(v)]
  others = [i for i in range(len(fixed)) if i not in seeds]
  outputs = _Outputs(model, loss, loss_weights)
  call_arguments = _training_argument(model, training)

  def terms(params, context, batch, seed):
    inputs, targets, sample_weight = keras.utils.unpack_x_y_sample_weight(_as_tuple(batch))
    weights = dict(zip(chosen + rest, [*params, *context[: len(rest)]], strict=True))
    state = dict(zip(others, context[len(rest) :], strict=True))
    for j, i in enumerate(seeds):
      folded = tf.random.experimental.stateless_fold_in(seed, j)
      state[i] = tf.cast(tf.bitwise.bitwise_and(folded, 0x7FFFFFFF), fixed[i].dtype)
    predictions, _, extra = model.stateless_call(
      [weights[i] for i in range(len(weights))],
      [state[i] for i in range(len(state))],
      inputs,
      return_losses=True,
      **call_arguments,
    )
    result = outputs.terms(targets, predictions, sample_weight)
    first, weight = result[0]
    penalty = sum((tf.cast(tf.reduce_sum(e), first.dtype) for e in extra), tf.zeros_like(first))
    return [*result, (penalty * weight, weight)]

  return Objective(
    parameters=tuple(trainable[i].value for i in chosen),
    names=tuple(paths[i] for i in chosen),
    chosen=tuple(chosen),
    context=tuple([trainable[i].value for i in rest] + [fixed[i].value for i in others]),
    coefficients=(*outputs.coefficients, 1.0),
    term_names=(*outputs.names, "model.losses"),
    terms=terms,
    layers=tuple(layer.name for layer in model._flatten_layers(include_self=False)),
    description={
      "model": model.name,
      "loss": outputs.description,
      "loss_weights": [float(c) for c in outputs.coefficients],
      "training": training,
      "random_layers": len(seeds),
      "precision": _precision(
        [v.value.dtype for v in trainable]
        + [tf.as_dtype(x.compute_dtype) for x in model._flatten_layers() if not _is_container(x)]
      ),
    },
  )


def _training_argument(model, training):
  """Returns the keyword arguments that put a model into or out of training mode."""
  accepted = inspect.signature(model.call).parameters
  if "training" in accepted or any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
    return {"training": training}
  if training:
    raise ValueError(
      f"training=True: the call() of model {model.name!r} takes no argument `training`, so its "
      "layers can't be told; add it and pass it on"
    )
  return {}


def _as_tuple(batch):
  """Keras's batch convention: a list is several inputs, a tuple is (inputs, targets, weights)."""
  return batch if isinstance(batch, tuple) else (batch,)


def _is_seed(variable):
  return variable.path.endswith("seed_generator_state") and tuple(variable.shape) == (2,)


def _is_container(layer):
  """Models and inputs have a dtype policy of their own that nothing computes in."""
  return isinstance(layer, (keras.Model, keras.layers.InputLayer))


def _check_policies(model):
  for layer in model._flatten_layers():
    if layer.dtype_policy.quantization_mode is not None:
      raise ValueError(
        f"layer {layer.name!r} is quantized: its loss has no useful second derivative"
      )
    if layer.compute_dtype == "float16":
      raise ValueError(
        f"layer {layer.name!r} computes in float16, whose range is too small for second "
        "derivatives; use float32, or mixed_bfloat16"
      )


def _check_dtypes(names, tensors):
  for name, tensor in zip(names, tensors, strict=True):
    if tensor.dtype not in (tf.float32, tf.float64, tf.bfloat16):
      raise TypeError(
        f"variable {name!r}: expected float32, float64 or bfloat16, got {tensor.dtype}"
      )


def _precision(dtypes):
  eps = {tf.bfloat16: 2.0**-7, tf.float16: 2.0**-10, tf.float32: 2.0**-23, tf.float64: 2.0**-52}
  return max(eps[d] for d in dtypes if d.is_floating)


def _check_loss_dtype(name, value):
  if not value.dtype.is_floating:
    raise TypeError(f"{name}: expected floating-point losses, got {value.dtype.name}")


# Which variables -------------------------------------------------------------------------------


def _select(variables, names, tensors, model=None):
  """Returns the sorted indices of the variables that `variables=` names."""
  if variables is None:
    return list(range(len(names)))
  wanted = variables if isinstance(variables, (list, tuple, set)) else [variables]
  chosen = set()
  for item in wanted:
    found = _matching(item, names, tensors, model)
    if not found:
      raise ValueError(
        f"variables: {getattr(item, 'path', getattr(item, 'name', item))!r} matches no trainable "
        f"variable; there are {', '.join(names)}"
      )
    chosen.update(found)
  if not chosen:
    raise ValueError("variables: expected at least one variable, got an empty list")
  return sorted(chosen)


def _matching(item, names, tensors, model):
  if isinstance(item, str):
    found = [i for i, name in enumerate(names) if fnmatch.fnmatchcase(name, item)]
    if not found and model is not None:
      for layer in model._flatten_layers(include_self=False):
        if fnmatch.fnmatchcase(layer.name, item):
          found += _matching(layer, names, tensors, model)
    return found
  owned = item.trainable_variables if isinstance(item, keras.layers.Layer) else [item]
  return [i for i, t in enumerate(tensors) if any(t is o or _value(t) is _value(o) for o in owned)]


def _value(variable):
  return variable.value if isinstance(variable, keras.Variable) else variable


# Losses of the outputs --------------------------------------------------------------------------


class _Outputs:
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
    self.names = ["loss" if k is None else str(k) for k in self._losses]
    self.coefficients = [1.0 if weights.get(k) is None else float(weights[k]) for k in self._losses]
    self.description = {
      n: _loss_name(fn) for n, fn in zip(self.names, self._losses.values(), strict=True)
    }

  def terms(self, targets, predictions, sample_weight):
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
  """Returns a dict: name of each output -> its key in the model's result.

  Keys are the names of a dict, the numbers of a list, None for a single output; the dict is empty
  for a subclassed model, which says nothing of its outputs.
  """
  if not getattr(model, "outputs", None):
    return {}
  if isinstance(model, keras.Sequential):
    return {model.layers[-1].name: None}
  if isinstance(model.output, dict):
    return {k: k for k in model.output}
  if isinstance(model.output, (list, tuple)):
    return dict(zip(model.output_names, range(len(model.output)), strict=True))
  return {model.output_names[0]: None}


def _by_key(what, value, outputs):
  """Returns a dict: output key -> what the user gave for it."""
  keys = list(outputs.values()) or [None]
  if isinstance(value, dict):
    if not outputs:
      return dict(value)
    for k in value:
      if k not in outputs and k not in keys:
        raise ValueError(f"{what}: there is no output {k!r}; there are {list(outputs)}")
    return dict.fromkeys(keys) | {outputs.get(k, k): v for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    if outputs and len(value) != len(keys):
      raise ValueError(f"{what}: expected one for each of {len(keys)} outputs, got {len(value)}")
    return dict(zip(keys if outputs else range(len(value)), value, strict=True))
  return dict.fromkeys(keys, value)


def _pick(what, nest, key, outputs):
  """Returns the part of a nest of targets, outputs or weights that belongs to an output."""
  if nest is None or tf.is_tensor(nest):
    if tf.is_tensor(nest) and len(outputs) > 1:
      raise ValueError(f"{what}: expected one for each of {list(outputs)}, got a single tensor")
    return nest
  names = [k for k in [key, *(n for n, k in outputs.items() if k == key)] if k is not None]
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
    values = tf.convert_to_tensor(call(targets, outputs))
  except (ValueError, TypeError) as e:
    raise ValueError(
      f"{name}: {_loss_name(loss)} takes no targets {_show(targets)} with outputs "
      f"{_show(outputs)}: {e}"
    ) from e
  _check_loss_dtype(name, values)
  return _weighted_sum(name, values, mask, sample_weight, targets)


def _weighted_sum(name, values, mask, sample_weight, targets):
  if values.shape.rank == 0:
    if sample_weight is not None or mask is not None:
      raise ValueError(
        f"{name}: it returns one number a batch, so sample weights or masks can't be applied: "
        "return one loss an example"
      )
    weight = tf.cast(_batch_size(targets), values.dtype)
    return values * weight, weight
  weights = tf.ones_like(values)
  for factor, what in ((sample_weight, "sample weights"), (mask, "mask")):
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
