"""Axes of the studies' pictures, and the curves that are drawn."""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
import numpy as np

from tf_hessian import plotting
from tf_hessian.studies.chapter import number

POINTS = 300  # of a curve that is kept, at most
_NONE: Mapping[str, np.ndarray] = {}
_FEW_DECADES = 2.5  # 1, 2 and 5 have ticks on so many


def plain_log(axes: Axes, which: str, /) -> None:
  """Makes an axis logarithmic, with ticks such as 0.5, 1 and 2,000.

  To be called when all is drawn.

  Args:
    axes: what is drawn into.
    which: "x" or "y".
  """
  axes.set(**{f"{which}scale": "log"})
  axis: Axis = getattr(axes, f"{which}axis")
  low, high = axis.get_view_interval()
  subs = (1.0, 2.0, 5.0) if high / low < 10**_FEW_DECADES else (1.0,)
  axis.set_major_locator(LogLocator(subs=subs))
  axis.set_major_formatter(FuncFormatter(lambda x, _: number(x)))
  axis.set_minor_formatter(NullFormatter())


def band(axes: Axes, x: np.ndarray, curves: np.ndarray, color: str, label: str, /) -> None:
  """Draws the mean of curves in the band that they fill.

  Args:
    axes: what is drawn into.
    x: (points,).
    curves: (curves, points); NaN is left out, and no point is NaN in all.
    color: of both.
    label: of the mean.
  """
  axes.fill_between(x, np.nanmin(curves, 0), np.nanmax(curves, 0), color=color, alpha=0.2, lw=0)
  axes.plot(x, np.nanmean(curves, 0), color=color, lw=1.4, label=label)


def save(
  figure: Figure, path: str | os.PathLike, /, *, errors: Mapping[str, np.ndarray] = _NONE
) -> list[dict[str, Any]]:
  """Writes a picture; returns its curves, for the numbers of the study.

  Args:
    figure: the picture.
    path: of its file.
    errors: label of a line -> error of each of its points, whose band is drawn.

  Returns:
    Of each line with a label a dict: panel, label, x, y and, if it has one, error, as far as the
    axes show it, at most `POINTS` points of five digits: of more, the lowest and the highest of
    those between, so that no peak is lost.
  """
  plotting.save_figure(figure, path)
  curves = []
  for panel, axes in enumerate(figure.axes):
    low, high = axes.get_xlim()
    for line in axes.get_lines():
      label = str(line.get_label())
      if not label.startswith("_"):  # by which Matplotlib says that there is none
        x, y = (np.asarray(values, np.float64) for values in line.get_data())
        shown = np.flatnonzero((x >= low) & (x <= high))
        chosen = shown[_kept(y[shown])]
        values = {"x": x, "y": y}
        if label in errors:
          values["error"] = errors[label]
        points = {name: _rounded(of[chosen]) for name, of in values.items()}
        curves.append({"panel": panel, "label": label, **points})
  return curves


def _kept(y):
  """Returns the positions of the points that are kept, ascending."""
  if len(y) <= POINTS:
    return np.arange(len(y))
  parts = np.array_split(np.arange(len(y)), POINTS // 2)
  return np.unique([part[at(y[part])] for part in parts for at in (np.argmin, np.argmax)])


def _rounded(values):
  return [float(f"{v:.5g}") for v in values]
