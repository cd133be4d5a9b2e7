"""Flags of a user's own model, data and loss, without a config."""

from __future__ import annotations

import ast
from typing import Any

from absl import flags
import ml_collections

from tf_hessian.bin import kinds
from tf_hessian.bin.flags import CONFIG
from tf_hessian.experiments import configs

MODEL = kinds.define_path("model", None, "Your own model, a .keras file; needs no --config.")
DATA = flags.DEFINE_string(
  "data", None, "Your own data: a function, as module:name or path/to/file.py:name."
)
LOSS = flags.DEFINE_string(
  "loss",
  None,
  "Its loss: a class of keras.losses, as 'Name' or 'Name(from_logits=True)'; your own, as "
  "module:name; default: compiled, which is what the model was compiled with.",
)
BATCHED = flags.DEFINE_bool(
  "batched", None, "Whether the data come in batches; default: as their shapes tell."
)
BATCH_SIZE = flags.DEFINE_integer(
  "batch_size", None, "Number of examples in a batch; default: the config's, or 128.", 1, 10**9
)

_NEEDED = "--config is needed, or --model and --data"


def config(**lanczos: int | None) -> ml_collections.ConfigDict:
  """Returns the config of --config, with what these flags say instead.

  Args:
    **lanczos: fields of its section `lanczos` that other flags say; None where they don't.

  Raises:
    ValueError: if there is neither a config nor a model and data, or --loss can't be read.
  """
  own = MODEL.value or DATA.value or LOSS.value
  found = CONFIG.value
  if found is None:
    if not (MODEL.value and DATA.value):
      raise ValueError(_NEEDED)
    found = configs.load_config("own_model")
  said = {name: value for name, value in lanczos.items() if value is not None}
  if own or said or BATCH_SIZE.value or BATCHED.value is not None:
    found = ml_collections.ConfigDict(found.to_dict())  # another section may have other fields
  if MODEL.value:
    found.model = {"name": "keras_file", "path": MODEL.value}
  if DATA.value:
    found.data = {"name": "function", "function": DATA.value}
  if BATCHED.value is not None:
    found.data.batched = BATCHED.value
  if LOSS.value or (MODEL.value and CONFIG.value is None):
    found.loss = loss_section(LOSS.value or "compiled")
  if BATCH_SIZE.value:
    found.hessian.batch_size = BATCH_SIZE.value
  if said:
    section = found.get("lanczos", ml_collections.ConfigDict())
    found.lanczos = section.to_dict() | said
  return found


def loss_section(text: str, /) -> dict[str, Any]:
  """Returns the section of a config that a loss's text stands for.

  >>> loss_section("CategoricalCrossentropy(from_logits=True)")
  {'name': 'CategoricalCrossentropy', 'from_logits': True}

  Raises:
    ValueError: if it is no such text.
  """
  if ":" in text:
    return {"name": text}
  try:
    node = ast.parse(text, mode="eval").body
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    if isinstance(call.func, ast.Name) and not call.args:
      return {"name": call.func.id} | {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
  except (SyntaxError, ValueError):
    pass
  raise ValueError(
    f"flag --loss: expected 'Name', 'Name(field=value)' or module:name, got {text!r}"
  )
