"""Results as tables of HTML, as notebooks show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import html


def table(rows: Iterable[Sequence[object]], header: Sequence[object] = (), /) -> str:
  """Returns a table as HTML.

  Args:
    rows: the cells of each row, in text or numbers, which get six digits.
    header: names of the columns; none by default.

  >>> table([("n", 3)], ("name", "value"))
  '<table><tr><th>name</th><th>value</th></tr><tr><td>n</td><td>3</td></tr></table>'
  """
  lines = [_row(header, "th")] if header else []
  lines += [_row(row, "td") for row in rows]
  return f"<table>{''.join(lines)}</table>"


def _row(cells, tag):
  return f"<tr>{''.join(f'<{tag}>{html.escape(_text(c))}</{tag}>' for c in cells)}</tr>"


def _text(cell):
  return f"{cell:.6g}" if isinstance(cell, float) else str(cell)
