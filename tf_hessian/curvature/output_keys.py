"""Outputs of a model, and what is given for each: losses, weights, targets."""

from __future__ import annotations

from typing import Any, TypeAlias

from absl import logging
import keras
import tensorflow as tf

Outputs: TypeAlias = list[tuple[str, Any]]  # (name, key in the model's result)


def output_keys(model: keras.Model, /) -> Outputs:
  """Returns a list of (name, key in the result) of outputs.

  Keys are those of the model's result: names of a dict, numbers of a list, None for a single
  output. Names may repeat, as those of a layer that is called twice. The list is empty for a
  subclassed model, which says nothing of its outputs, and for a sequence that ends in such a one.
  """
  if isinstance(model, keras.Sequential):
    last = model.layers[-1]
    return output_keys(last) if isinstance(last, keras.Model) else [(last.name, None)]
  if not getattr(model, "outputs", None):
    return []
  parts = model.output.values() if isinstance(model.output, dict) else model.output
  if isinstance(parts, keras.KerasTensor):
    parts = [parts]
  if not all(isinstance(part, keras.KerasTensor) for part in parts):
    raise ValueError(
      f"loss: the outputs of model {model.name!r} are nested; give a model of the same outputs as "
      "one list or dict"
    )
  if isinstance(model.output, dict):
    return [(k, k) for k in model.output]
  if isinstance(model.output, (list, tuple)):
    return list(zip(model.output_names, range(len(model.output)), strict=True))
  return [(model.output_names[0], None)]


def in_keras_order(keys: list, outputs: Outputs, /) -> list:
  """Returns keys of outputs in the order of Keras's lists of losses.

  Keras sorts the names of a dict.
  """
  if not outputs or any(key != name for name, key in outputs):
    return keys
  return keras.tree.flatten({key: key for key in keys})


def name(key: Any, outputs: Outputs, /) -> str:
  """Returns the name of an output, or its key.

  The key is taken where the name doesn't tell it from the others.
  """
  found = {k: n for n, k in outputs}.get(key, key)
  return str(key) if [n for n, _ in outputs].count(found) > 1 else str(found)


def by_key(what: str, value: Any, outputs: Outputs, /) -> dict:
  """Returns a dict: output key -> what the user gave for it."""
  keys = [k for _, k in outputs] or [None]
  if isinstance(value, dict):
    if not outputs:
      return dict(value)
    return dict.fromkeys(keys) | {_key(what, k, outputs): v for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    if outputs and len(value) != len(outputs):
      raise ValueError(f"{what}: expected one for each of {len(keys)} outputs, got {len(value)}")
    if not outputs:
      return dict(enumerate(value))
    given = dict(zip(in_keras_order(keys, outputs), value, strict=True))
    return {key: given[key] for key in keys}
  return dict.fromkeys(keys, value)


def weights_by_key(loss: Any, weights: Any, outputs: Outputs, /, *, as_fit: bool) -> dict:
  """Returns a dict: output key -> loss weight, or None.

  Keras pairs weights with losses in the order of both where their structures differ, with dicts
  sorted by name. So it is for `fit`, and for models that say nothing of their outputs. Otherwise
  weights go by the names of the outputs.

  Args:
    loss: one or several losses.
    weights: their weights: one for all, a list, a dict, or None.
    outputs: of `output_keys`.
    as_fit: pair them as `fit` does.

  Raises:
    ValueError: for weights that can't be paired with losses, or outputs.
  """
  keys = by_key("loss", loss, outputs)
  if not keras.tree.is_nested(weights):
    return dict.fromkeys(keys, weights)
  if isinstance(weights, dict) and isinstance(loss, dict) and weights.keys() <= loss.keys():
    return by_key("loss_weights", weights, outputs)
  flat = keras.tree.flatten(weights)
  single = not keras.tree.is_nested(loss)
  if as_fit and single and len(flat) == 1:
    return dict.fromkeys(keys, flat[0])
  # Keras makes a list of a dict of losses where the outputs are one, by their names.
  listed = isinstance(loss, dict) and any(n != k for n, k in outputs)
  if outputs and (listed or not as_fit or single):
    return by_key("loss_weights", weights, outputs)
  if len(flat) != len(keras.tree.flatten(loss)) or (
    not as_fit and isinstance(weights, dict)  # by names that no loss has
  ):
    losses = sorted(map(str, loss)) if isinstance(loss, dict) else "a loss"
    if isinstance(loss, (list, tuple)):
      losses = _entries(len(loss))
    raise ValueError(f"loss_weights: expected them like the losses ({losses}), got {weights}")
  found = by_key("loss_weights", keras.tree.pack_sequence_as(loss, flat), outputs)
  if outputs and isinstance(weights, dict):
    named = {k: weights.get(n, weights.get(k)) for n, k in outputs}
    if any(named[k] != found[k] for k in keys):
      logging.warning(
        "loss_weights: fit takes %s in the order of their names: %s",
        weights,
        {name(k, outputs): w for k, w in found.items()},
      )
  return found


def _key(what, given, outputs):
  """Returns the key of an output given by its name or key."""
  if given in [k for _, k in outputs]:
    return given
  found = [k for n, k in outputs if n == given]
  if len(found) == 1:
    return found[0]
  names = [n for n, _ in outputs]
  if found:
    raise ValueError(f"{what}: several outputs are named {given!r}; give a list, in their order")
  raise ValueError(f"{what}: there is no output {given!r}; there are {names}")


def pick(what: str, nest: Any, key: Any, outputs: Outputs, /) -> Any:
  """Returns the part of a nest that belongs to an output.

  The nest is of targets, outputs or weights.
  """
  if what == "outputs" and key is None and isinstance(nest, (dict, list, tuple)) and len(nest) > 1:
    raise ValueError(
      f"loss: the model returns {len(nest)} outputs; give a loss for each, as a list or a dict"
    )
  if nest is None or tf.is_tensor(nest):
    if tf.is_tensor(nest) and len(outputs) > 1:
      every = [n for n, _ in outputs]
      raise ValueError(f"{what}: expected one for each of {every}, got a single tensor")
    return nest
  count = len(outputs) or (1 if key is None else 0)
  if what != "outputs" and isinstance(nest, (list, tuple)) and len(nest) > count > 0:
    raise ValueError(f"{what}: expected one for each of {count} outputs, got {len(nest)}")
  names: list[Any] = [n for n, k in outputs if k == key] + [0 if key is None else key]
  for k in names:
    if k in nest if isinstance(nest, dict) else isinstance(k, int) and k < len(nest):
      return nest[k]
  have = list(nest) if isinstance(nest, dict) else _entries(len(nest))
  raise ValueError(
    f"{what}: nothing for output {names[0]!r}; there are {have}; give a dict, by the outputs' names"
  )


def _entries(count):
  return "one entry" if count == 1 else f"{count} entries"
