"""Records of runs: plain values in nested dicts, compared field by field."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
import json
import os
from typing import Any, NamedTuple

REMEDY = "use another folder, or delete this folder with all that is in it"
OTHER_NAMES = (
  "names or shapes of the variables are others than there; Keras numbers models and layers without "
  "a name= on and on, until keras.utils.clear_session(): call that before the model is built, or "
  "give names"
)
# Where one of these differs, products do too.
_OF_PRODUCTS = ("point", "data_fingerprint", "variables", "loss", "loss_weights", "matrix")
# What it means that digests differ.
_DIGESTS = {
  "point": "the weights are others than there",
  "data_fingerprint": "the data are others than there",
  "variables": OTHER_NAMES,
  "product": "that of a fixed vector is another one than there: the kernels differ (other machine, "
  "instruction set, TF_ENABLE_ONEDNN_OPTS or version of TensorFlow), or the matrix does",
}
_OTHERS = {"draws_per_pass": "vectors_per_pass"}  # where a record has another name
_NOT_LOOKED = (
  "repeated: that search has not looked for copies of eigenvalues; repeated=False, --norepeated in "
  "a shell, goes on with it"
)


def described(there: Mapping[str, Any], now: Mapping[str, Any], /) -> str:
  """Returns the differences of two records in words, empty without any.

  >>> described({"seed": 1, "point": "a", "product": "b"}, {"seed": 2, "point": "c"})
  'point: the weights are others than there; seed: 1 there, 2 now'
  """
  found = {d.name: _words(*d[:3]) for d in differences(there, now, depth=0)}
  if not found.keys().isdisjoint(_OF_PRODUCTS):
    found.pop("product", None)  # it tells nothing more
  return "; ".join(found.values())


def _words(name, there, now):
  if name == "repeated" and there is None:
    return _NOT_LOOKED
  if name in _DIGESTS and isinstance(there, str) and isinstance(now, str):
    return f"{name}: {_DIGESTS[name]}"
  return f"{_OTHERS.get(name, name)}: {_short(there)} there, {_short(now)} now"


def _short(value):
  text = json.dumps(value)
  return text if len(text) <= 80 else f"{text[:77]}..."


def check_same(
  folder: str | os.PathLike,
  record: str,
  text: str,
  identity: Mapping[str, Any],
  /,
  *,
  free: Collection[str] = (),
) -> None:
  """Refuses the record of another run than that of an identity.

  Args:
    folder: where it lies.
    record: name of the file.
    text: what is in it.
    identity: nested dict of plain values.
    free: names of fields that may differ.

  Raises:
    ValueError: if they differ, or it is damaged; it names the fields and the remedy.
  """
  try:
    found, now = (
      {k: v for k, v in x.items() if k not in free} for x in (json.loads(text), identity)
    )
    names = [d.name for d in differences(found, now, depth=0)]
  except (ValueError, AttributeError) as e:
    raise ValueError(f"{folder}/{record}: damaged ({e}); {REMEDY}") from e
  if names:
    which = f"it holds another run ({', '.join(names)} differ): {described(found, now)}"
    raise ValueError(f"{folder}: {which}; {REMEDY}")


def as_plain(values: Mapping[str, Any], /) -> dict[str, Any]:
  """Returns a dict as JSON gives it back, NumPy's numbers too.

  >>> import numpy as np
  >>> as_plain({"steps": np.int64(3), "shape": (1, 2)})
  {'steps': 3, 'shape': [1, 2]}

  Raises:
    TypeError: for values that JSON does not have.
  """
  return json.loads(json.dumps(values, default=_number))


def _number(value):
  if hasattr(value, "item") and getattr(value, "shape", None) == ():
    return value.item()
  raise TypeError(f"expected plain values, got {value!r}")


class Difference(NamedTuple):
  """A field in which two records differ."""

  name: str  # of the field, with those of the dicts around it: "train.seed"
  first: Any  # its value in the first record; None if it has no such field
  second: Any  # its value in the second
  is_new: bool  # the first record has no such field


def differences(
  first: Mapping[str, Any], second: Mapping[str, Any], /, *, depth: int | None = None
) -> Iterator[Difference]:
  """Yields the fields in which two records differ, by their names.

  A field that only one of them has counts as None in the other.

  Args:
    first: nested dict of plain values.
    second: likewise.
    depth: levels of dicts that are entered below the first; dicts below them are compared as a
      whole. All by default, so that each difference is named as narrowly as can be.

  Yields:
    A `Difference` of each field, in the order of the names at each level.

  >>> list(differences({"seed": 1, "data": {"size": 3}}, {"seed": 1, "data": {"size": 4}}))
  [Difference(name='data.size', first=3, second=4, is_new=False)]
  """
  for key in sorted(first.keys() | second.keys()):
    a, b = first.get(key), second.get(key)
    if depth != 0 and isinstance(a, dict) and isinstance(b, dict):
      for found in differences(a, b, depth=None if depth is None else depth - 1):
        yield found._replace(name=f"{key}.{found.name}")
    elif a != b:
      yield Difference(key, a, b, key not in first)
