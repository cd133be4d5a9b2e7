"""The numbers that a study has measured, as a JSON file.

Format 2 holds numbers, and what made them. Format 1 held sentences, tables and captions too: these
are left, and the numbers are described in today's words. Two studies describe what format 1 had in
its sentences and tables alone; `_MISSING_IN_FORMAT_1` adds it to their numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
import math
import os
import pathlib

from tf_hessian import files

FORMAT = "tf_hessian.study"
FORMAT_VERSION = 2


@dataclasses.dataclass(frozen=True)
class Result:
  """Numbers of a study, and what made them.

  Attributes:
    figure: what --figure calls the study, such as "15".
    numbers: dict of plain values; `plain` makes them so.
    command: what made it.
    seconds: that the command took, with what earlier ones had left for it.
    versions: of the packages that made it.
    device: what it ran on.
  """

  figure: str
  numbers: dict
  command: str = ""
  seconds: float = 0.0
  versions: dict[str, str] = dataclasses.field(default_factory=dict)
  device: str = ""

  def save(self, folder: str | os.PathLike) -> None:
    """Writes `figure_<id>.json` into a folder, whole or not at all."""
    content = dataclasses.asdict(self) | {"format": FORMAT, "format_version": FORMAT_VERSION}
    text = json.dumps(_without_nan(content), indent=1, allow_nan=False)
    files.write_text(path(folder, self.figure), text)


def path(folder: str | os.PathLike, figure: str, /) -> pathlib.Path:
  """Returns the path of a figure's JSON file in a folder."""
  return pathlib.Path(folder) / f"figure_{figure}.json"


def plain(numbers: Mapping, /) -> dict:
  """Returns numbers as they are after a way through JSON.

  Keys are text, tuples are lists, and what is not finite is None.

  Raises:
    TypeError: for what JSON does not have.
  """
  return json.loads(json.dumps(_without_nan(numbers), allow_nan=False))


def _without_nan(value):
  """Returns plain values with None for NaN and infinity."""
  if isinstance(value, dict):
    return {k: _without_nan(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_without_nan(v) for v in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value


def load(file: str | os.PathLike, /) -> Result:
  """Reads what `Result.save` wrote, in this format or an earlier one.

  Raises:
    OSError: if there is no such file.
    ValueError: if it is damaged, of another kind, or of a newer format.
  """
  file = pathlib.Path(file)
  try:
    content = dict(json.loads(file.read_text()))
  except (ValueError, TypeError) as e:
    raise ValueError(f"{file}: damaged ({e}); make the figure again") from e
  if content.pop("format", None) != FORMAT:
    raise ValueError(f"{file}: expected format {FORMAT!r}; it is another kind of file")
  version = content.pop("format_version", None)
  if not isinstance(version, int):
    raise ValueError(f"{file}: damaged: format_version {version!r}; make the figure again")
  if version > FORMAT_VERSION:
    raise ValueError(f"{file}: it has format version {version}: install a newer tf_hessian")
  try:
    result = Result(**(content if version > 1 else _from_format_1(content)))
    if not isinstance(result.numbers, dict):
      raise TypeError(f"numbers: {result.numbers!r} is no table of them")
    return result
  except (LookupError, TypeError, ValueError, AttributeError) as e:
    raise ValueError(f"{file}: damaged: {e}; make the figure again") from e


def _from_format_1(content):
  """Returns today's fields of a file of format 1."""
  sentences = ("title", "section", "claim", "found", "verdict", "reason", "pictures", "tables")
  left = {name: content.pop(name) for name in sentences}
  complete = _MISSING_IN_FORMAT_1.get(content["figure"], lambda _: {})
  return content | {"numbers": content["numbers"] | complete(left)}


_MISSING_IN_FORMAT_1 = {
  "16": lambda _: {"draws": 10},  # no command of that time made another number
  # The table had four decimals of the eigenvalues, which are those that are shown.
  "gradient": lambda left: {"eigenvalues": [float(row[0]) for row in left["tables"][0]["rows"]]},
}
