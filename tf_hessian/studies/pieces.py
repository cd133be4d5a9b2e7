"""Pieces of studies, kept with their settings and seconds."""

from __future__ import annotations

from collections.abc import Callable
import json
import pathlib
import time
from typing import Any, TypeVar

from tf_hessian import files
from tf_hessian.studies import result

T = TypeVar("T")


class Costs:
  """Seconds of a study: of each piece when it was made, and of the rest."""

  def __init__(self) -> None:
    self._begin = time.monotonic()
    self._inside = 0.0
    self._pieces: dict[str, float] = {}

  def take(self, name: str, make: Callable[[], T], seconds: Callable[[T], float], /) -> T:
    """Makes or finds a piece.

    Args:
      name: tells the piece from others; its seconds count once.
      make: function () -> the piece.
      seconds: function (piece) -> seconds that its computation took, whenever that was.
    """
    begin = time.monotonic()
    made = make()
    self._inside += time.monotonic() - begin
    self._pieces[name] = seconds(made)
    return made

  def total(self) -> float:
    """Returns the seconds up to now, and those of earlier pieces."""
    return time.monotonic() - self._begin - self._inside + sum(self._pieces.values())


def numbers_of(
  path: pathlib.Path, setting: dict[str, Any], measure: Callable[[], dict], costs: Costs, /
) -> dict:
  """Measures a piece, or reads it if measured in the same setting.

  Args:
    path: JSON file of the piece.
    setting: plain values that the numbers depend on.
    measure: function () -> dict of plain values.
    costs: of the study.
  """
  setting = result.plain(setting)

  def make():
    found = _read(path, setting)
    if found is None:
      begin = time.monotonic()
      numbers = result.plain(measure())
      seconds = time.monotonic() - begin
      found = {"setting": setting, "seconds": seconds, "numbers": numbers}
      path.parent.mkdir(parents=True, exist_ok=True)
      files.write_text(path, json.dumps(found, indent=1))
    return found

  return costs.take(str(path), make, lambda found: found["seconds"])["numbers"]


def _read(path, setting):
  """Returns the content of a piece's file, or None if measured otherwise."""
  try:
    found = json.loads(path.read_text())
    return found if found["setting"] == setting and found.keys() >= {"seconds", "numbers"} else None
  except (FileNotFoundError, ValueError, KeyError, TypeError):
    return None
