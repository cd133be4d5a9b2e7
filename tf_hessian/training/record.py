"""The log of a training: a table, lines, and summaries for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
import csv
import importlib.util
import io
import os
import pathlib
from typing import Any

from absl import logging
import numpy as np

from tf_hessian import files

COLUMNS = (
  "step",
  "learning_rate",
  "loss",
  "excess",
  "accuracy",
  "test_loss",
  "test_excess",
  "test_accuracy",
  "seconds",
)


def read(workdir: str | os.PathLike, /) -> list[dict[str, Any]]:
  """Returns the rows of a training's log: dicts.

  What is empty is left out.

  Raises:
    OSError: if there is none.
    ValueError: if it is damaged.
  """
  path = pathlib.Path(workdir) / "train.csv"
  try:
    table = csv.DictReader(io.StringIO(path.read_bytes().decode()))
    rows = [{k: float(v) for k, v in row.items() if v} for row in table]
    if not all(np.isfinite([*row.values()]).all() for row in rows):
      raise ValueError("a number is not finite")
    return [row | {"step": int(row["step"])} for row in rows]
  except (KeyError, TypeError, ValueError, csv.Error) as e:
    raise ValueError(f"{path}: damaged ({type(e).__name__}: {e})") from e


def table(rows: Sequence[dict[str, Any]], /) -> str:
  """Returns rows as the text of a table.

  They are dicts of some of `COLUMNS`.
  """
  columns = [c for c in COLUMNS if any(c in row for row in rows)]
  text = io.StringIO()
  writer = csv.DictWriter(text, columns, lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue()


class Record:
  """Rows of `COLUMNS`, in workdir/train.csv and, if tensorboard is installed, workdir/tensorboard.

  Args:
    workdir: the folder.
    verbose: whether to log each row too.
  """

  def __init__(self, workdir: str | os.PathLike, /, *, verbose: bool) -> None:
    self._path = pathlib.Path(workdir) / "train.csv"
    self._verbose = verbose
    self.rows: list[dict[str, Any]] = []
    self._writer: Any = None
    if importlib.util.find_spec("tensorboard"):
      import tensorflow as tf  # which reading a log does not need

      self._writer = tf.summary.create_file_writer(str(self._path.parent / "tensorboard"))
      self._scalar = tf.summary.scalar

  def restore(self, step: int, rows: Sequence[dict[str, Any]] | None = None, /) -> None:
    """Takes over the rows of an interrupted run, up to a step.

    Args:
      step: the last that counts.
      rows: what is to be taken over; the table by default.

    Raises:
      OSError, ValueError: if there are none, or they are damaged.
    """
    rows = read(self._path.parent) if rows is None else rows
    self.rows = [row for row in rows if row["step"] <= step]

  @property
  def seconds(self) -> float:
    """Time that training has taken up to the last row."""
    return self.rows[-1]["seconds"] if self.rows else 0.0

  def add(self, row: dict[str, Any], /) -> None:
    """Adds a row: a dict of some of `COLUMNS`."""
    self.rows.append(row)
    if self._verbose:
      values = (f"{k} {v:.4g}" for k, v in row.items() if k not in ("step", "seconds"))
      logging.info("step %d: %s (%.0f s)", row["step"], ", ".join(values), row["seconds"])
    if self._writer is not None:
      with self._writer.as_default(step=row["step"]):
        for name in row.keys() - {"step", "seconds"}:
          self._scalar(name, row[name])

  def save(self) -> None:
    """Writes the table, whole or not at all."""
    files.write_text(self._path, table(self.rows))
    if self._writer is not None:
      self._writer.flush()
