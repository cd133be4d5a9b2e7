"""Figures that no global state knows of, and their files."""

from __future__ import annotations

import io
import os
import pathlib
import sys
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tf_hessian import files


def new_figure(width: float = 7.0, height: float = 4.2, **subplots: Any) -> tuple[Figure, Any]:
  """Returns a figure and its axes that no global state knows of.

  >>> from tf_hessian import plotting
  >>> figure, axes = plotting.new_figure(nrows=2)
  >>> len(axes)
  2

  Args:
    width: inches; by default that of a page's text.
    height: inches.
    **subplots: arguments of `Figure.subplots`, such as nrows.

  Returns:
    (figure, axes): `Axes`, or an array of them if there are several.
  """
  figure = Figure(figsize=(width, height), layout="constrained")
  FigureCanvasAgg(figure)
  return figure, figure.subplots(**subplots)


def png(figure: Figure, /) -> bytes:
  """Returns a figure of `new_figure` as a PNG file.

  >>> from tf_hessian import plotting
  >>> figure, axes = plotting.new_figure()
  >>> plotting.png(figure)[1:4]
  b'PNG'
  """
  return _bytes(figure, "png")


def _bytes(figure, suffix):
  buffer = io.BytesIO()
  figure.savefig(buffer, format=suffix, dpi=150)
  return buffer.getvalue()


def save_figure(figure: Figure, path: str | os.PathLike, /) -> None:
  """Writes a figure, whole or not at all.

  >>> import os
  >>> import tempfile
  >>> from tf_hessian import plotting
  >>> figure, axes = plotting.new_figure()
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   plotting.save_figure(figure, os.path.join(folder, "empty.png"))
  ...   os.listdir(folder)
  ['empty.png']

  Args:
    figure: a figure of `new_figure`.
    path: the picture; its suffix is the format.

  Raises:
    ValueError: for another format.
    OSError: if the picture can't be written.
  """
  suffix = pathlib.Path(path).suffix[1:].lower()
  known = figure.canvas.get_supported_filetypes()
  if suffix not in known:
    raise ValueError(
      f"{path}: unknown format; expected a suffix of {', '.join(sorted(known))}, such as .png"
    )
  content = _bytes(figure, suffix)
  with files.replacing(path) as file:
    file.write(content)


def show(figure: Figure, /) -> None:
  """Shows a figure in a notebook, if this process is one's."""
  ipython = sys.modules.get("IPython")
  if ipython is not None and ipython.get_ipython() is not None:
    ipython.display.display(ipython.display.Image(data=png(figure)))
