"""Copies of models in float64, as oracles."""

from __future__ import annotations

import tempfile

import keras

from tf_hessian.curvature import keras_internals, scopes

_LOW = frozenset({"float32", "bfloat16", "mixed_bfloat16"})


def float64_model(model: keras.Model, /) -> keras.Model:
  """Returns a copy of a Keras model that computes in float64.

  It has the same weights, and is compiled with the same loss if that is Keras's own. Layers of
  integers or strings keep their types. Classes of the model's layers need not be registered.

  >>> import keras
  >>> import tf_hessian
  >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
  >>> tf_hessian.float64_model(model).layers[0].kernel.dtype
  'float64'

  Raises:
    NotImplementedError, TypeError, ValueError: if its config doesn't describe it, or a layer can't
      be float64.
  """
  for variable in _among_arguments(model):
    raise ValueError(
      f"variable {variable.path!r} is an argument of an operation, which a copy would hold fixed: "
      "make it the variable of a layer that does the operation"
    )
  classes = {type(x).__name__: type(x) for x in keras_internals.layers_of(model)}
  with keras.saving.CustomObjectScope(classes), scopes.python_random_kept():
    try:
      copy = type(model).from_config(_with_float64(model.get_config()))
      if not copy.built:
        copy.build(model.input_shape)
    except AttributeError as e:  # of layers whose config says less than they need
      raise ValueError(f"the config of model {model.name!r} does not describe it: {e}") from e
  _check_layers(copy, model)
  for new, old in zip(copy.variables, model.variables, strict=True):
    new.assign(keras.ops.cast(old.value, new.dtype))
    new.trainable = old.trainable
  for layer in keras_internals.normalizations(keras_internals.layers_of(copy)):
    layer.finalize_state()
  _copy_tables(copy, model)
  loss, weights = keras_internals.compiled_loss(model)
  if model.compiled and type(model).compile is keras.Model.compile and _is_of_keras(loss):
    copy.compile(loss=loss, loss_weights=weights)
  return copy


def _among_arguments(model):
  """Returns variables that calls of functional models take as arguments."""
  models = [x for x in keras_internals.layers_of(model) if isinstance(x, keras.Model)]
  graphs = [keras_internals.graph_of(x) for x in models]
  graphs = [x for x in graphs if isinstance(x, keras.Function)]
  given = [node.arguments for graph in graphs for node in keras_internals.calls_of(graph)]
  flat = keras.tree.flatten([(x.args, x.kwargs) for x in given])
  return [x for x in flat if isinstance(x, keras.Variable)]


def _is_of_keras(loss):
  """Returns whether losses are Keras's own, which read no variables."""

  def of_keras(x):
    function = getattr(x, "fn", x if callable(x) else None)
    return all(getattr(f, "__module__", "keras.").startswith("keras.") for f in (type(x), function))

  return all(x is None or isinstance(x, str) or of_keras(x) for x in keras.tree.flatten(loss))


def _copy_tables(copy, model):
  """Gives a copy's layers the vocabularies of adapted ones."""
  pairs = zip(keras_internals.layers_of(copy), keras_internals.layers_of(model), strict=True)
  for new, old in pairs:
    if hasattr(old, "save_assets") and hasattr(new, "load_assets"):
      with tempfile.TemporaryDirectory() as folder:
        old.save_assets(folder)
        new.load_assets(folder)


def _check_layers(copy, model):
  """Refuses a copy that is of another kind, or not in float64."""
  if len(copy.variables) != len(model.variables):
    raise ValueError("the copy has other variables")
  for new, old in zip(copy.variables, model.variables, strict=True):
    if tuple(new.shape) != tuple(old.shape):
      raise ValueError(f"variable {old.path!r} has another shape in the copy")
    if old.dtype in _LOW and new.dtype != "float64":
      raise ValueError(f"variable {old.path!r} stays {new.dtype} when float64 is asked for")
  for new, old in zip(
    keras_internals.layers_of(copy), keras_internals.layers_of(model), strict=True
  ):
    if type(new) is not type(old):
      raise ValueError(f"layer {old.name!r} is a {type(new).__name__} in the copy")
    # Models are containers here; their own dtype is not used.
    container = isinstance(new, (keras.Model, keras.layers.InputLayer))
    if new.compute_dtype in _LOW and not container:
      raise ValueError(f"layer {new.name!r} stays {new.compute_dtype} when float64 is asked for")


def _with_float64(config):
  """Replaces low-precision types of a Keras config by float64.

  It does so for every dtype and dtype policy.
  """
  if isinstance(config, dict):
    if config.get("class_name") in ("DTypePolicy", "FloatDTypePolicy"):
      return "float64" if config["config"]["name"] in _LOW else config
    return {
      k: "float64" if k == "dtype" and isinstance(v, str) and v in _LOW else _with_float64(v)
      for k, v in config.items()
    }
  if isinstance(config, (list, tuple)):
    return type(config)(_with_float64(c) for c in config)
  return config
