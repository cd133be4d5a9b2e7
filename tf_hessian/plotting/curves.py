"""Pictures of numbers: training curves, losses along directions, frequencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import os

import numpy as np

from tf_hessian.plotting.figures import new_figure, save_figure


def plot_curves(
  curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
  path: str | os.PathLike,
  /,
  *,
  label: str = "loss",
  floor: float = 0.0,
  log: bool = False,
) -> None:
  """Draws how a number changed in training, for several runs.

  >>> import os
  >>> import tempfile
  >>> import numpy as np
  >>> from tf_hessian import plotting
  >>> runs = {"run": (np.arange(3), np.array([2.0, 1.0, 0.5]))}
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   plotting.plot_curves(runs, os.path.join(folder, "loss.png"), log=True)
  ...   os.listdir(folder)
  ['loss.png']

  Args:
    curves: dict: name of the run -> (steps, values), each (rows,).
    path: where the picture goes.
    label: of the axis.
    floor: a value that none can be below, drawn as a line; 0 for none.
    log: logarithmic axis of the values.

  Raises:
    ValueError: for another format.
    OSError: if the picture can't be written.
  """
  figure, axes = new_figure()
  for name, (steps, values) in curves.items():
    axes.plot(steps, values, lw=1.2, label=name)
  if floor:
    axes.axhline(floor, color="k", lw=0.8, ls="--", label=f"lowest: {floor:.4g}")
  if log:
    axes.set_yscale("log")
  axes.set_xlabel("step")
  axes.set_ylabel(label)
  axes.legend(fontsize="small", frameon=False)
  save_figure(figure, path)


def plot_histograms(
  values: Mapping[str, np.ndarray],
  path: str | os.PathLike,
  /,
  *,
  label: str,
  title: str = "",
) -> None:
  """Draws how often numbers are found, for several sets of them.

  >>> import os
  >>> import tempfile
  >>> import numpy as np
  >>> from tf_hessian import plotting
  >>> values = {"largest": np.array([1.0, 1.5, 1.2])}
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   plotting.plot_histograms(values, os.path.join(folder, "batches.png"), label="eigenvalue")
  ...   os.listdir(folder)
  ['batches.png']

  Args:
    values: dict: name of the set -> numbers (count,).
    path: where the picture goes.
    label: of the axis of the numbers.
    title: text above.

  Raises:
    ValueError: for another format.
    OSError: if the picture can't be written.
  """
  figure, axes = new_figure(height=3.0 * len(values), nrows=len(values), squeeze=False)
  for (name, numbers), ax in zip(values.items(), axes[:, 0], strict=True):
    ax.hist(numbers, bins="auto", color="C0")
    ax.axvline(np.mean(numbers), color="k", lw=0.8, ls="--", label=f"mean {np.mean(numbers):.4g}")
    ax.set_ylabel(f"batches, by {name}")
    ax.legend(fontsize="small", frameon=False)
  axes[-1, 0].set_xlabel(label)
  axes[0, 0].set_title(title, fontsize="medium")
  save_figure(figure, path)


def plot_losses(
  distances: Sequence[np.ndarray],
  losses: np.ndarray,
  quadratic: np.ndarray,
  path: str | os.PathLike,
  /,
  *,
  title: str = "",
) -> None:
  """Draws losses along a line, or over a plane, with their quadratic.

  >>> import os
  >>> import tempfile
  >>> import numpy as np
  >>> from tf_hessian import plotting
  >>> t = np.linspace(-1.0, 1.0, 5)
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   plotting.plot_losses([t], t**4, 0 * t, os.path.join(folder, "loss.png"))
  ...   os.listdir(folder)
  ['loss.png']

  Args:
    distances: one or two arrays (m,).
    losses: (m,), or (m_1, m_2).
    quadratic: an array like it.
    path: where the picture goes.
    title: text above.

  Raises:
    ValueError: for another format.
    OSError: if the picture can't be written.
  """
  figure, axes = new_figure()
  if len(distances) == 1:
    axes.plot(distances[0], losses, "o-", ms=3, lw=1.2, label="loss")
    axes.plot(distances[0], quadratic, "k--", lw=0.8, label="by gradient and curvature")
    axes.set_ylabel("loss")
    axes.set_xlabel("distance")
    low, high = np.min(losses), np.max(losses)  # a parabola may go far beyond
    axes.set_ylim(low - 0.1 * (high - low or 1), high + 0.1 * (high - low or 1))
    axes.legend(fontsize="small", frameon=False)
  else:
    levels = np.linspace(np.min(losses), np.max(losses) + 1e-12, 16)
    filled = axes.contourf(*distances, losses.T, levels)
    axes.contour(*distances, quadratic.T, levels, colors="w", linewidths=0.6, linestyles="--")
    figure.colorbar(filled, ax=axes, label="loss (dashed: by gradient and curvature)")
    axes.set_xlabel("distance along the first direction")
    axes.set_ylabel("distance along the second direction")
  axes.set_title(title, fontsize="medium")
  save_figure(figure, path)
