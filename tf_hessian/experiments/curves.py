"""Training curves of several runs in one picture."""

import pathlib

import numpy as np

from tf_hessian import plotting
from tf_hessian.training import record


def draw(runs, path, /, *, column="loss"):
  """Draws a column of the logs of runs.

  Args:
    runs: list of folders of training, each a path or name=path.
    path: where the picture goes.
    column: one of `training.record.COLUMNS`.

  Returns:
    Text: the first, last and smallest value of each run.

  Raises:
    ValueError: if there are no runs, or one has no such column.
    OSError: if a log is missing, or the picture can't be written.
  """
  if not runs:
    raise ValueError("expected at least one folder of a training")
  curves, lowest = {}, set()
  for run in runs:
    name, _, folder = run.rpartition("=")
    rows = record.read(pathlib.Path(folder))
    if not any(column in row for row in rows):
      known = sorted({c for row in rows for c in row} - {"step"})
      raise ValueError(f"{folder}: its log has no column {column!r}; there are {', '.join(known)}")
    points = [(row["step"], row[column]) for row in rows if column in row]
    curves[name or pathlib.Path(folder).name] = np.array(points).T
    lowest |= {row["loss"] - row["excess"] for row in rows if "excess" in row}
  # The same for all, or none is drawn.
  floor = min(lowest, default=0.0)
  one = column == "loss" and np.ptp(list(lowest) or [1.0, 0.0]) < 1e-6
  plotting.plot_curves(curves, path, label=column.replace("_", " "), floor=floor if one else 0.0)
  lines = [
    f"{name}: step {steps[0]:.0f} {values[0]:.4g}, step {steps[-1]:.0f} {values[-1]:.4g}, smallest "
    f"{values.min():.4g} at step {steps[values.argmin()]:.0f}"
    for name, (steps, values) in curves.items()
  ]
  return "\n".join([*lines, f"the picture is {path}"])
