"""The public layers, losses, activations and operations of Keras."""

import dataclasses
import inspect
import types

import keras

KINDS = ("layers", "losses", "activations", "ops")
# A function that takes none of these takes no tensors: it makes layers, or finds them by name.
_TENSORS = {
  "layers": {"inputs"},
  "losses": {"y_true", "y_pred"},
  "activations": {"x"},
}
_BASES = {"layers": keras.layers.Layer, "losses": keras.losses.Loss}


@dataclasses.dataclass(frozen=True)
class Item:
  """A public layer, loss, activation or operation.

  Attributes:
    kind: of KINDS.
    name: such as "ops.image.resize".
    aliases: further names of the same object.
    object: a class or a function.
  """

  kind: str
  name: str
  aliases: tuple[str, ...]
  object: object

  @property
  def short(self) -> str:
    """The last part of the name."""
    return self.name.rsplit(".", 1)[-1]


def public_items() -> list[Item]:
  """Lists all items by kind and name, each object once."""
  items = []
  for kind in KINDS:
    found = {}
    for name, thing in _members(getattr(keras, kind), kind):
      found.setdefault(id(thing), (thing, []))[1].append(name)
    for thing, names in found.values():
      # "ops.relu" rather than "ops.nn.relu", and what the object calls itself.
      own = getattr(thing, "__name__", "")
      first, *rest = sorted(names, key=lambda n: (n.count("."), n.rsplit(".", 1)[-1] != own))
      aliases = tuple(n for n in rest if n.rsplit(".", 1)[-1] != first.rsplit(".", 1)[-1])
      items.append(Item(kind, first, aliases, thing))
  return sorted(items, key=lambda item: (KINDS.index(item.kind), item.name.lower(), item.name))


def takes_no_tensors(item: Item, /) -> str:
  """Returns why an item takes no tensors, or "" if it may.

  An abstract class has no `call` of its own, or one without arguments.
  """
  if item.kind == "ops":
    return ""
  if not inspect.isclass(item.object):
    takes = _TENSORS[item.kind] <= set(inspect.signature(item.object).parameters)
    return "" if takes else "takes no tensors"
  base = _BASES[item.kind]
  if not issubclass(item.object, base):
    return "takes no tensors"
  if item.object.call is base.call:
    return "abstract"
  return "" if len(inspect.signature(item.object.call).parameters) > 1 else "takes no tensors"


def _members(module, prefix):
  for name in sorted(n for n in dir(module) if not n.startswith("_")):
    thing = getattr(module, name)
    if isinstance(thing, types.ModuleType):
      if thing.__name__.startswith(module.__name__):  # numpy, nn, linalg, image
        yield from _members(thing, f"{prefix}.{name}")
    elif callable(thing):
      yield f"{prefix}.{name}", thing
