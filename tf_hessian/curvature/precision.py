"""Copies of models in float64, as oracles."""

import keras


def float64_model(model, /):
  """Returns a copy of a Keras model that computes in float64, with the same weights.

  Raises:
    NotImplementedError, TypeError, ValueError: if its config doesn't describe it, or a layer can't
      be float64.
  """
  config = _with_float64(model.get_config())
  copy = type(model).from_config(config)
  if not copy.built:
    copy.build(model.input_shape)
  if len(copy.variables) != len(model.variables):
    raise ValueError("the copy has other variables")
  for new, old in zip(copy.variables, model.variables, strict=True):
    if tuple(new.shape) != tuple(old.shape):
      raise ValueError(f"variable {old.path!r} has another shape in the copy")
    new.assign(keras.ops.cast(old.value, new.dtype))
  for layer in copy._flatten_layers():
    # Models are containers here; their own dtype is not used.
    container = isinstance(layer, (keras.Model, keras.layers.InputLayer))
    if layer.compute_dtype != "float64" and not container:
      raise ValueError(
        f"layer {layer.name!r} stays {layer.compute_dtype} when float64 is asked for"
      )
  return copy


def _with_float64(config):
  """Replaces every dtype and dtype policy of a Keras config by float64."""
  low = {"float32", "bfloat16", "mixed_bfloat16"}
  if isinstance(config, dict):
    if config.get("class_name") in ("DTypePolicy", "FloatDTypePolicy"):
      return "float64"
    return {
      k: "float64" if k == "dtype" and isinstance(v, str) and v in low else _with_float64(v)
      for k, v in config.items()
    }
  if isinstance(config, (list, tuple)):
    return type(config)(_with_float64(c) for c in config)
  return config
