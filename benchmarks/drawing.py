"""Draws the rooms of the package, each above those that it may import: python -m benchmarks.drawing

Writes docs/images/architecture.png. Arrows that follow from others are left out.
"""

from __future__ import annotations

import functools
import pathlib

from matplotlib import patches
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks import rooms

OUTPUT = pathlib.Path(__file__).parents[1] / "docs" / "images" / "architecture.png"
# From left to right, so that few arrows cross.
_ORDER = (
  *("numerics", "distribute", "curvature", "plotting", "spectrum", "files", "folders", "training"),
  *(
    "bin",
    "studies",
    "experiments",
    "planning",
    "landscape",
    "evolution",
    "parts",
    "callback",
    "slq",
    "models",
    "data",
  ),
)
# Small, and known to few or to nearly all.
_LEFT_OUT = {
  *("", "__main__", "spectrum_file", "records", "reading"),
  *("installed", "keras_inputs", "machine_memory", "notices", "portable", "quiet"),
}


def below(room: str) -> set[str]:
  """Returns the rooms that one may import, without those left out of the drawing."""
  return rooms.MAY_IMPORT[room] - _LEFT_OUT - {room}


@functools.cache
def level(room: str) -> int:
  """Returns how high a room is drawn: by the longest way down, or just below its only user."""
  users = [other for other in rooms.MAY_IMPORT if room in rooms.MAY_IMPORT[other]]
  if not below(room) and len(users) == 1:
    return level(users[0]) - 1
  return _way_down(room)


@functools.cache
def _way_down(room):
  return 1 + max((_way_down(other) for other in below(room)), default=-1)


def arrows(room: str) -> set[str]:
  """Returns the rooms below that are not below another one of these."""
  others = below(room)
  return others - {far for near in others for far in _reached(near)}


def _reached(room):
  return below(room) | {far for near in below(room) for far in _reached(near)}


def draw() -> Figure:
  """Returns the drawing."""
  rows = {}
  for name in sorted(set(rooms.MAY_IMPORT) - _LEFT_OUT, key=_ORDER.index):
    rows.setdefault(level(name), []).append(name)
  figure = Figure((7.5, 6.0), layout="constrained")
  FigureCanvasAgg(figure)
  axes = figure.add_subplot()
  axes.set(xlim=(0, 1), ylim=(-0.6, len(rows) - 0.4))
  axes.axis("off")
  places = {
    name: ((i + 1) / (len(row) + 1), height)
    for height, row in rows.items()
    for i, name in enumerate(row)
  }
  for name, (x, y) in places.items():
    for other in arrows(name):
      arrow = patches.FancyArrowPatch(
        (x, y - 0.18), (places[other][0], places[other][1] + 0.18), arrowstyle="-|>", color="0.6"
      )
      arrow.set_mutation_scale(10)
      axes.add_patch(arrow)
    box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "0.3"}
    axes.text(x, y, name, ha="center", va="center", bbox=box, family="monospace")
  return figure


if __name__ == "__main__":
  draw().savefig(OUTPUT, dpi=130)
  print(OUTPUT)
