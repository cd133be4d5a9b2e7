"""Model, loss and batch as a pure function of the parameters.

All that the rest of the package knows of a model is an `Objective`: a list of terms, each a sum
over a batch that carries its weight. The loss of the data set is

  L = sum_t c_t (sum_b S_tb) / (sum_b W_tb),

with S_tb the weighted sum of the losses in batch b and W_tb the sum of their weights, so that short
batches, sample weights and masks count exactly. A Keras model has one term an output, and one for
`model.losses`, which is weighted like the first output and so enters once however many batches
there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import fnmatch
import functools
import inspect
from typing import Any

from absl import logging
import keras
import tensorflow as tf

from tf_hessian.curvature import blocks, fit_losses, keras_internals, output_losses, scopes
from tf_hessian.curvature.outputs import Uncut
from tf_hessian.curvature.split_loss import SplitLoss

_UNCUT = Uncut()


@dataclasses.dataclass(frozen=True)
class Objective:
  """The loss of one batch as a pure function.

  Attributes:
    parameters: the tensors or variables that make up the vector, in order.
    names: their names.
    chosen: their positions among all trainable variables, or in the list of tensors.
    context: further tensors or variables that are read: fixed weights, moving statistics.
    context_names: their names.
    coefficients: c_t of each term.
    term_names: names of the terms.
    terms: (parameters, context, batch, seed, cut=Uncut()) -> list of (S_tb, W_tb), scalars of the
      loss's dtype; seed is an int32 tensor of shape (2,). The loss is given cut(outputs) for the
      model's outputs, a nest of tensors, and cut is told of the single losses (`outputs.Uncut`).
    layers: names of the model's layers, for error messages.
    description: what was built, for records: plain values.
    pieces: (number of blocks) -> `blocks.Pieces`, or None for a plain function.
    weighs_batches: () -> whether all losses, once traced, say themselves what a batch weighs, so
      that the rows of its tensors need not be examples.
    compute_dtypes: names of the types that the layers say they compute in.
    changes: () -> how what Python knows of the model has changed since, in words; or "".
    whole: why the loss can't be told apart from the outputs that it is of; empty if it can.
    losses: the losses of the outputs as they were given; None for one that the model computes.
    as_fit: whether sums are divided by the number of losses, whatever their sample weights.
  """

  parameters: tuple
  names: tuple
  chosen: tuple
  context: tuple
  context_names: tuple
  coefficients: tuple
  term_names: tuple
  terms: Callable
  layers: tuple
  description: dict
  pieces: Callable | None = None
  weighs_batches: Callable = lambda: True
  compute_dtypes: frozenset = frozenset()
  changes: Callable[[], str] = lambda: ""
  whole: str = ""
  losses: tuple = ()
  as_fit: bool = False

  @property
  def shapes(self) -> tuple[tuple[int, ...], ...]:
    """Tuple of the parameters' shapes, each a tuple."""
    return tuple(tuple(p.shape.as_list()) for p in self.parameters)


def build_objective(
  model: keras.Model | Objective | Sequence,
  loss: Any,
  /,
  *,
  loss_weights: Any = None,
  variables: Any = None,
  training: bool = False,
) -> Objective:
  """Returns the `Objective` of a Keras model or a plain function.

  A plain function comes with a list of tensors.

  Args:
    model: a built `keras.Model`; a list of floating-point tensors or variables; or an `Objective`,
      which is returned as it is.
    loss: for a Keras model: a `keras.losses.Loss`, a name that Keras knows, or a function (targets,
      outputs) -> losses, whose first dimension counts examples (or which is their mean, or a pair
      (sum of losses, sum of weights)); with several outputs a dict or list of these like the
      outputs, or one for all. None for what `fit` minimises: the loss that the model was compiled
      with, computes itself, or has from its layers (`fit_losses.of_model`). For a list of tensors:
      a function (parameters, batch) that returns the examples' losses (examples,), or a pair (sum
      of losses, sum of weights), or a scalar, the mean over the batch's examples; if it takes a
      third argument `seed`, that is the batch's, for `tf.random.stateless_*`.
    loss_weights: coefficient of each output's loss, structured like `loss`; None for 1 each, or for
      those compiled if `loss` is None.
    variables: the block of the Hessian: a variable, a layer, a name or a pattern such as
      "block_1/*" (of variable paths or layer names), or a list of these; None for all.
    training: what `training` the model is called with: True normalises by batch statistics and
      drops units (by seed); False by default, for a loss that does neither.

  Raises:
    TypeError, ValueError: for what can't be measured, saying what was expected.
  """
  if isinstance(model, Objective):
    return model
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
  if not parameters:
    raise ValueError("parameters: expected at least one tensor, got none")
  tensors = [_as_tensor(p) for p in parameters]
  if len({id(t) for t in tensors}) < len(tensors):
    raise ValueError("parameters: expected each variable once, got one twice")
  names = [
    getattr(p, "path", p.name).split(":")[0]
    if isinstance(p, (tf.Variable, keras.Variable))
    else f"parameter_{i}"
    for i, p in enumerate(parameters)
  ]
  _check_dtypes(names, tensors)
  chosen = _select(variables, names, tensors)
  rest = [i for i in range(len(tensors)) if i not in chosen]
  takes_seed = "seed" in inspect.signature(loss).parameters
  by_rows = set()  # whether losses, once traced, were the mean over a batch's rows

  def terms(params, context, batch, seed, cut=_UNCUT):
    values = dict(zip(chosen + rest, [*params, *context], strict=True))
    values = [values[i] for i in range(len(values))]
    args = [values, batch] + ([seed] if takes_seed else [])
    # A loss may also read Keras variables where they are, as by calling a model.
    pairs = zip(parameters, values, strict=True)
    pairs = [(p, x) for p, x in pairs if isinstance(p, keras.Variable)]
    with scopes.with_values(pairs, seed):
      value = loss.of_cut(cut, *args) if isinstance(loss, SplitLoss) else loss(*args)
      value = value if isinstance(value, (tuple, list)) else tf.convert_to_tensor(value)
      term, losses = _function_term(value, batch)
      by_rows.add(not isinstance(value, (tuple, list)) and value.shape.rank == 0)
      cut.observe("loss", loss, None, *losses)
      return [term]

  return Objective(
    parameters=tuple(tensors[i] for i in chosen),
    names=tuple(names[i] for i in chosen),
    chosen=tuple(chosen),
    context=tuple(tensors[i] for i in rest),
    context_names=tuple(names[i] for i in rest),
    coefficients=(1.0,),
    term_names=("loss",),
    terms=terms,
    layers=(),
    description={
      "model": "function",
      "loss": getattr(loss, "__name__", type(loss).__name__),
      "training": False,
    },
    whole="" if isinstance(loss, SplitLoss) else "it is one function",
    losses=(loss,),
    weighs_batches=lambda: not any(by_rows),
  )


def _as_tensor(parameter):
  if isinstance(parameter, keras.Variable):
    return parameter.value
  return parameter if isinstance(parameter, tf.Variable) else tf.convert_to_tensor(parameter)


def _function_term(value, batch):
  if isinstance(value, (tuple, list)):
    if len(value) != 2:
      raise ValueError(f"loss: expected a pair (sum, weight), got {len(value)} values")
    total, weight = value
    total = tf.convert_to_tensor(total)
    return (total, tf.cast(weight, total.dtype)), (None, None)
  output_losses.check_loss_dtype("loss", value)
  if value.shape.rank == 0:
    weight = tf.cast(output_losses.batch_size(batch), value.dtype)
    return (value * weight, weight), (None, None)
  if value.shape.rank != 1:
    raise ValueError(
      f"loss: expected shape (examples,), a scalar or a pair (sum, weight), got {value.shape}"
    )
  term = tf.reduce_sum(value), tf.cast(tf.size(value), value.dtype)
  return term, (value, tf.ones_like(value))


# Keras models ----------------------------------------------------------------------------------


def _keras_objective(model, loss, loss_weights, variables, training):
  _check_model(model, training)
  trainable, fixed = model.trainable_variables, model.non_trainable_variables
  paths = [v.path for v in trainable]
  chosen = _select(variables, paths, trainable, model)
  rest = [i for i in range(len(trainable)) if i not in chosen]
  seeds = [i for i, v in enumerate(fixed) if scopes.is_seed(v)]
  others = [i for i in range(len(fixed)) if i not in seeds]
  losses = fit_losses.of_model(model, loss, loss_weights)
  if not isinstance(losses, fit_losses.StepLoss):
    _check_training(model, training)
  if training:
    _refuse_power_iterations(model)

  def mapping(params, context, seed):
    """Returns a list of (variable, value) of all variables."""
    values = dict(zip(chosen + rest, [*params, *context[: len(rest)]], strict=True))
    state = dict(zip(others, context[len(rest) :], strict=True))
    for j, i in enumerate(seeds):
      state[i] = scopes.seed_state(seed, j, fixed[i])
    pairs = [(v, values[i]) for i, v in enumerate(trainable)]
    return pairs + [(v, state[i]) for i, v in enumerate(fixed)]

  def terms(params, context, batch, seed, cut=_UNCUT):
    with keras_internals.stateless(model, mapping(params, context, seed), seed):
      return losses.of_batch(model, batch, training, cut)

  pieces = None
  if isinstance(losses, fit_losses.GivenLosses):
    pieces = functools.cache(  # products and the gradient share what is traced
      functools.partial(
        blocks.build_pieces,
        model,
        losses,
        mapping,
        chosen=[trainable[i] for i in chosen],
        drawn=[fixed[i] for i in seeds],
        training=training,
      )
    )
  return Objective(
    parameters=tuple(trainable[i].value for i in chosen),
    names=tuple(paths[i] for i in chosen),
    chosen=tuple(chosen),
    context=tuple([trainable[i].value for i in rest] + [fixed[i].value for i in others]),
    context_names=tuple([paths[i] for i in rest] + [fixed[i].path for i in others]),
    coefficients=tuple(losses.coefficients),
    term_names=tuple(losses.names),
    terms=terms,
    layers=tuple(layer.name for layer in keras_internals.layers_of(model, include_self=False)),
    description=_describe(model, losses, training, len(seeds)),
    pieces=pieces,
    weighs_batches=losses.weighs_batches,
    compute_dtypes=_compute_dtypes(model),
    changes=functools.partial(
      _changes, model, loss, loss_weights, variables, losses, [trainable[i] for i in chosen]
    ),
    whole=losses.whole,
    losses=losses.given,
    as_fit=losses.as_fit,
  )


def _changes(model, loss, loss_weights, variables, losses, chosen):
  """Returns what `fit` would train otherwise by now, in words, or ""."""
  trained = {id(v) for v in model.trainable_variables}
  if any(id(v) not in trained for v in chosen) or variables is None and len(trained) != len(chosen):
    return "other variables are trained"
  if loss is None:
    now = fit_losses.of_model(model, None, loss_weights)
    if now.description != losses.description or list(now.coefficients) != list(losses.coefficients):
      return f"the model is compiled with the loss {now.description}, and was with others"
  return ""


def _describe(model, losses, training, random_layers):
  return {
    "model": model.name,
    "loss": losses.description,
    "loss_weights": [float(c) for c in losses.loss_weights],
    "training": training,
    "random_layers": random_layers,
  }


def _compute_dtypes(model):
  # Models and inputs have a policy of their own that nothing computes in.
  containers = (keras.Model, keras.layers.InputLayer)
  layers = (x for x in keras_internals.layers_of(model) if not isinstance(x, containers))
  return frozenset(x.compute_dtype for x in layers)


def _check_model(model, training):
  """Refuses a model that can't be measured, whatever its loss."""
  if keras.backend.backend() != "tensorflow":
    raise ValueError(
      f"Keras runs on {keras.backend.backend()}; set KERAS_BACKEND=tensorflow before importing it"
    )
  if not isinstance(training, bool):
    raise TypeError(f"training: expected True or False, got {training!r}")
  # A model with a step of its own may have no call, and so never be built itself.
  layers = keras_internals.layers_of(model, include_self=False)
  if not model.variables or not (model.built or all(x.built for x in layers)):
    raise ValueError(
      f"model {model.name!r} is not built, so it has no variables yet: call it on a batch first, "
      "or model.build(input_shape), or fit it for a step"
    )
  _check_policies(model)
  _refuse_carried_states(model)
  trainable = model.trainable_variables
  if not trainable:
    raise ValueError(f"model {model.name!r} has no trainable variables: all layers are frozen")
  _check_dtypes([v.path for v in trainable], [v.value for v in trainable])


def _check_training(model, training):
  parameters = inspect.signature(model.call).parameters.values()
  told = any(p.name == "training" or p.kind is p.VAR_KEYWORD for p in parameters)
  if training and not told:
    logging.warning(
      "training=True: the call() of model %r takes no argument `training`. Its layers are told, as "
      "by model(inputs, training=True); fit() does not tell them",
      model.name,
    )


def _refuse_power_iterations(model):
  """Refuses layers that hold a power iteration fixed in training mode.

  Their second derivative is known to be another one then.
  """
  for layer in keras_internals.layers_of(model):
    if isinstance(layer, keras.layers.SpectralNormalization):
      raise ValueError(
        f"layer {layer.name!r} (SpectralNormalization) holds the vectors of its power iteration "
        "fixed in training mode (tf.stop_gradient), which gives the right gradient but no second "
        "derivative of the norm: use training=False, or a layer that differentiates them"
      )


def _refuse_carried_states(model):
  """Refuses layers that carry a state from batch to batch."""
  kinds = keras.layers.RNN, keras.layers.Bidirectional
  names = [
    repr(layer.name)
    for layer in keras_internals.layers_of(model)
    if isinstance(layer, kinds) and layer.stateful
  ]
  if names:
    raise ValueError(
      f"layers {', '.join(names)} are stateful: a batch goes on from the state that the one before "
      "has left, so the loss of a data set depends on what ran before; set their attribute "
      "`stateful` to False, so that each batch begins at zero"
    )


def _check_policies(model):
  for layer in keras_internals.layers_of(model):
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
      for layer in keras_internals.layers_of(model, include_self=False):
        if fnmatch.fnmatchcase(layer.name, item):
          found += _matching(layer, names, tensors, model)
    return found
  owned = item.trainable_variables if isinstance(item, keras.layers.Layer) else [item]
  return [i for i, t in enumerate(tensors) if any(t is o or _value(t) is _value(o) for o in owned)]


def _value(variable):
  return variable.value if isinstance(variable, keras.Variable) else variable
