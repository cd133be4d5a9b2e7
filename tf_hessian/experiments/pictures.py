"""Pictures of what is on disk: spectra, and training curves."""

from __future__ import annotations

from collections.abc import Sequence
import os
import pathlib
from typing import Any

import numpy as np

from tf_hessian import plotting, spectrum
from tf_hessian.training import record


def draw_spectra(
  inputs: Sequence[str],
  path: str | os.PathLike,
  /,
  *,
  exact: np.ndarray | None = None,
  num_parameters: int | None = None,
  limits: Sequence[float | str] | None = None,
  **options: Any,
) -> None:
  """Draws one spectrum, or several one below the other.

  Args:
    inputs: list of files that `spectrum.load` reads; of several, each is name=path.
    path: where the picture goes.
    exact: (n,) exact eigenvalues to overlay on a single one, or None.
    num_parameters: see `spectrum.load`.
    limits: the two ends of the eigenvalue axis, numbers or text; None for all.
    **options: further arguments of `plotting.plot_spectrum`.

  Raises:
    ValueError: for bad arguments, or damaged files.
    OSError: if a file is missing, or the picture can't be written.
  """
  try:
    limits = None if limits is None else tuple(float(x) for x in limits)
  except ValueError as e:
    raise ValueError(f"limits: expected two numbers low,high: {e}") from e
  if limits is not None and len(limits) != 2:
    raise ValueError(f"limits: expected two numbers low,high, got {len(limits)}")
  if limits is not None and not -np.inf < limits[0] < limits[1] < np.inf:
    raise ValueError(f"limits: expected finite numbers low,high in this order, got {limits}")
  options["limits"] = limits
  if len(inputs) == 1:
    found = spectrum.load(inputs[0], num_parameters=num_parameters)
    found.plot(path, exact=exact, **options)
    return
  if exact is not None:
    raise ValueError("exact: is for a single spectrum")
  named = [_name_and_path(item) for item in inputs]
  if not all(name and file for name, file in named):
    raise ValueError(f"input: expected name=path for each of several, got {', '.join(inputs)}")
  _check_names([name for name, _ in named])
  spectra = {n: spectrum.load(f, num_parameters=num_parameters) for n, f in named}
  plotting.plot_spectra(spectra, path, **options)


def _name_and_path(item):
  """Returns (name, path) of name=path, or ("", path) of what is there."""
  name, equals, path = item.partition("=")
  return (name, path) if equals and not pathlib.Path(item).exists() else ("", item)


def _check_names(names):
  twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
  if twice is not None:
    raise ValueError(f"expected another name for each, got {twice!r} twice: give name=path")


def read_eigenvalues(path: str | os.PathLike, /) -> np.ndarray:
  """Returns the exact eigenvalues in a file that `np.save` wrote: (n,) float64.

  Raises:
    ValueError: if it is another file, or damaged.
    OSError: if there is no such file.
  """
  try:
    with open(path, "rb") as file:
      values = np.load(file, allow_pickle=False)
  except OSError as e:
    raise OSError(e.errno, f"exact: {path}: it can't be read ({e.strerror})") from e
  except Exception as e:  # damaged files fail in many ways inside zipfile and NumPy
    raise ValueError(f"exact: {path}: expected an array of np.save, or it is damaged ({e})") from e
  if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf" or values.ndim != 1:
    raise ValueError(f"exact: {path}: expected one row of real eigenvalues (n,)")
  if not values.size or not np.isfinite(values).all():
    raise ValueError(f"exact: {path}: expected finite eigenvalues, at least one")
  return values.astype(np.float64)


def draw_curves(
  runs: Sequence[str], path: str | os.PathLike, /, *, column: str = "loss", log: bool = False
) -> str:
  """Draws a column of the logs of runs.

  Args:
    runs: list of folders of training, each a path or name=path.
    path: where the picture goes.
    column: one of `training.record.COLUMNS`.
    log: logarithmic axis.

  Returns:
    Text: the first, last and smallest value of each run.

  Raises:
    ValueError: if there are no runs, or one has no such column.
    OSError: if a log is missing, or the picture can't be written.
  """
  if not runs:
    raise ValueError("expected at least one folder of a training")
  curves, lowest = {}, set()
  named = [_name_and_path(run) for run in runs]
  named = [(name or pathlib.Path(folder).name, folder) for name, folder in named]
  _check_names([name for name, _ in named])
  for name, folder in named:
    rows = record.read(pathlib.Path(folder))
    if not any(column in row for row in rows):
      known = sorted({c for row in rows for c in row} - {"step"})
      raise ValueError(f"{folder}: its log has no column {column!r}; there are {', '.join(known)}")
    points = [(row["step"], row[column]) for row in rows if column in row]
    curves[name] = np.array(points).T
    lowest |= {row["loss"] - row["excess"] for row in rows if "excess" in row}
  # The same for all, or none is drawn.
  floor = min(lowest, default=0.0)
  one = column == "loss" and np.ptp(list(lowest) or [1.0, 0.0]) < 1e-6
  label = column.replace("_", " ")
  plotting.plot_curves(curves, path, label=label, floor=floor if one else 0.0, log=log)
  lines = [
    f"{name}: step {steps[0]:.0f} {values[0]:.4g}, step {steps[-1]:.0f} {values[-1]:.4g}, smallest "
    f"{values.min():.4g} at step {steps[values.argmin()]:.0f}"
    for name, (steps, values) in curves.items()
  ]
  return "\n".join([*lines, f"the picture is {path}"])
