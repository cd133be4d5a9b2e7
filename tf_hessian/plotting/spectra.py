"""Pictures of spectra, in the manner of the paper's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import os
from typing import Any, Protocol

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
import numpy as np

from tf_hessian.numerics import checks
from tf_hessian.numerics import density as density_lib
from tf_hessian.numerics.dense import ExactSpectrum
from tf_hessian.numerics.results import Density
from tf_hessian.plotting.figures import new_figure, save_figure, show

# What the paper's figures show; a smoothed density has far smaller values between outliers.
_FLOOR = 1e-10


class _Drawn(Protocol):
  """The parts of a `Spectrum` that are drawn."""

  @property
  def nodes(self) -> tuple: ...

  @property
  def diagonals(self) -> tuple: ...

  @property
  def num_parameters(self) -> int | None: ...

  @property
  def num_draws(self) -> int: ...

  @property
  def start(self) -> str | None: ...

  def density(
    self,
    sigma_squared: float,
    *,
    grid: np.ndarray | None = None,
    relative: bool = False,
    deflate: bool = False,
  ) -> Density: ...


def plot_spectrum(
  spectrum: _Drawn,
  path: str | os.PathLike | None = None,
  /,
  *,
  ax: Axes | None = None,
  **options: Any,
) -> Axes:
  """Draws a density, into a file, axes, or a notebook.

  >>> import numpy as np
  >>> import tf_hessian
  >>> from tf_hessian import plotting
  >>> spectrum = tf_hessian.spectral_density(np.diag([3.0, 0.0, 0.0]), progress=False)
  >>> figure, axes = plotting.new_figure()
  >>> plotting.plot_spectrum(spectrum, ax=axes, sigma_squared=1e-3) is axes
  True

  Args:
    spectrum: a `Spectrum`.
    path: where the picture goes, such as "spectrum.png"; None for none. In a notebook it is shown
      then, unless there is `ax`.
    ax: Matplotlib axes to draw into; None for a figure of its own.
    **options: keyword arguments of `draw_spectrum`.

  Returns:
    The axes.

  Raises:
    ValueError: for bad arguments.
    OSError: if the picture can't be written.
  """
  axes = new_figure()[1] if ax is None else ax
  draw_spectrum(axes, spectrum, **options)
  figure: Any = axes.figure
  if path is not None:
    save_figure(figure, path)
  elif ax is None:
    show(figure)
  return axes


def draw_spectrum(
  axes: Axes,
  spectrum: _Drawn,
  /,
  *,
  sigma_squared: float = 1e-5,
  relative: bool = False,
  deflate: bool = False,
  exact: np.ndarray | ExactSpectrum | None = None,
  limits: tuple[float, float] | None = None,
  log: bool = True,
  floor: float = _FLOOR,
  title: str | None = None,
) -> None:
  """Draws the density of a spectrum into axes.

  A band shows one standard error.

  >>> import numpy as np
  >>> import tf_hessian
  >>> from tf_hessian import plotting
  >>> spectrum = tf_hessian.spectral_density(np.diag([3.0, 0.0, 0.0]), progress=False)
  >>> figure, axes = plotting.new_figure()
  >>> plotting.draw_spectrum(axes, spectrum, sigma_squared=1e-3, title="of a diagonal matrix")
  >>> axes.get_title()
  'of a diagonal matrix'

  Args:
    axes: where it is drawn.
    spectrum: a `Spectrum`.
    sigma_squared: variance of the kernel (default: the paper's).
    relative: multiply it by max(1, range of the nodes), as the original code did.
    deflate: give isolated eigenvalues that have converged the weight 1 / n.
    exact: (n,) exact eigenvalues to overlay, or an `ExactSpectrum`, or None.
    limits: (low, high) of the eigenvalue axis; all of the density by default.
    log: logarithmic density axis, as in the paper.
    floor: lowest density shown on a logarithmic axis.
    title: text above; by default the number of parameters, draws and steps.

  Raises:
    ValueError: for bad arguments.
  """
  estimate = spectrum.density(sigma_squared, relative=relative, deflate=deflate)
  if exact is not None:
    exact = np.asarray(getattr(exact, "eigenvalues", exact), np.float64)
    expected = (spectrum.num_parameters or exact.size,)
    if exact.shape != expected or not np.isfinite(exact).all():
      raise ValueError(f"exact: expected {expected[0]} finite eigenvalues, got {exact.shape}")
    nodes = [*spectrum.nodes, exact]
    grid = density_lib.density_grid(nodes, estimate.sigma_squared)
    estimate = spectrum.density(estimate.sigma_squared, grid=grid, deflate=deflate)
  low, high = estimate.grid[0], estimate.grid[-1]
  if limits is not None and (limits[0] > high or limits[1] < low):
    raise ValueError(
      f"limits: there is no density from {limits[0]:g} to {limits[1]:g}; it reaches from {low:.3g} "
      f"to {high:.3g}"
    )
  draw_density(axes, estimate, exact=exact, log=log, floor=floor, limits=limits)
  if title is None:
    steps = max(len(d) for d in spectrum.diagonals)
    n = "" if spectrum.num_parameters is None else f"n = {spectrum.num_parameters:,}, "
    draws = "1 draw" if spectrum.num_draws == 1 else f"{spectrum.num_draws} draws"
    deflated = ", deflated" if deflate else ""
    title = f"{n}{draws} of {steps} steps, $\\sigma^2$ = {estimate.sigma_squared:.3g}{deflated}"
  axes.set_ylabel(_quantity(spectrum))
  axes.set_title(title, fontsize="medium")


def plot_spectra(
  spectra: Mapping[Any, _Drawn],
  path: str | os.PathLike,
  /,
  *,
  sigma_squared: float = 1e-5,
  relative: bool = False,
  deflate: bool = False,
  limits: tuple[float, float] | None = None,
  log: bool = True,
  floor: float = _FLOOR,
) -> None:
  """Draws the densities of several spectra on one eigenvalue axis.

  They are one below the other.

  >>> import os
  >>> import tempfile
  >>> import numpy as np
  >>> import tf_hessian
  >>> from tf_hessian import plotting
  >>> found = {
  ...   step: tf_hessian.spectral_density(np.diag([step, 0.0, 0.0]), progress=False)
  ...   for step in (1.0, 2.0)
  ... }
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   plotting.plot_spectra(found, os.path.join(folder, "steps.png"), sigma_squared=1e-3)
  ...   os.listdir(folder)
  ['steps.png']

  Args:
    spectra: dict: name, such as the step of a training -> `Spectrum`.
    path: where the picture goes.
    sigma_squared: variance of the kernel (default: the paper's).
    relative: multiply it by max(1, range of the nodes), as the original code did.
    deflate: give isolated eigenvalues that have converged the weight 1 / n.
    limits: (low, high) of the eigenvalue axis; all densities by default.
    log: logarithmic density axes.
    floor: lowest density shown on a logarithmic axis.

  Raises:
    ValueError: for bad arguments.
    OSError: if the picture can't be written.
  """
  _check_some(spectra)
  figure, axes = new_figure(
    height=1.0 + 1.6 * len(spectra), nrows=len(spectra), sharex=True, squeeze=False
  )
  for (name, spectrum), ax in zip(spectra.items(), axes[:, 0], strict=True):
    estimate = spectrum.density(sigma_squared, relative=relative, deflate=deflate)
    draw_density(ax, estimate, log=log, floor=floor, limits=limits)
    ax.get_legend().remove()
    ax.set_ylabel(str(name))
    ax.label_outer()
  kinds = sorted({_quantity(s) for s in spectra.values()})
  figure.suptitle(", ".join(kinds) + (", deflated" if deflate else ""), fontsize="medium")
  save_figure(figure, path)


def plot_by_depth(
  spectra: Mapping[str, _Drawn],
  path: str | os.PathLike,
  /,
  *,
  sigma_squared: float = 1e-5,
  limits: tuple[float, float] | None = None,
  floor: float = 1e-6,
) -> None:
  """Draws densities as rows of colours, the first one on top.

  >>> import os
  >>> import tempfile
  >>> import numpy as np
  >>> import tf_hessian
  >>> from tf_hessian import plotting
  >>> layers = {
  ...   name: tf_hessian.spectral_density(np.diag([top, 0.0, 0.0]), progress=False)
  ...   for name, top in {"first": 1.0, "second": 2.0}.items()
  ... }
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   plotting.plot_by_depth(layers, os.path.join(folder, "layers.png"), sigma_squared=1e-3)
  ...   os.listdir(folder)
  ['layers.png']

  Args:
    spectra: dict: name, such as that of a layer -> `Spectrum`.
    path: where the picture goes.
    sigma_squared: variance of the kernel (default: the paper's).
    limits: (low, high) of the eigenvalue axis; all densities by default.
    floor: lowest density that is told from none.

  Raises:
    ValueError: for bad arguments.
    OSError: if the picture can't be written.
  """
  _check_some(spectra)
  nodes = [n for s in spectra.values() for n in s.nodes]
  margin = 4 * np.sqrt(sigma_squared)
  low, high = limits or (min(map(np.min, nodes)) - margin, max(map(np.max, nodes)) + margin)
  grid = np.linspace(low, high, 1000)
  # A pixel is wider than the kernel where eigenvalues are far apart, and would miss it.
  wide = max(sigma_squared, float(grid[1] - grid[0]) ** 2)
  rows = np.stack([s.density(wide, grid=grid).values for s in spectra.values()])
  figure, axes = new_figure(height=1.2 + 0.22 * len(spectra))
  colors = LogNorm(floor, max(float(rows.max()), 10 * floor))
  edges = np.arange(len(spectra) + 1) - 0.5
  step = (grid[1] - grid[0]) / 2
  across = np.concatenate([grid - step, [grid[-1] + step]])
  drawn = axes.pcolormesh(across, edges, np.maximum(rows, floor), norm=colors)
  axes.set_yticks(range(len(spectra)), list(spectra), fontsize="small")
  axes.invert_yaxis()
  axes.set_xlabel("eigenvalue")
  figure.colorbar(drawn, ax=axes, label=", ".join(sorted({_quantity(s) for s in spectra.values()})))
  axes.set_title(f"$\\sigma^2$ = {wide:.3g}", fontsize="medium")
  save_figure(figure, path)


def _quantity(spectrum):
  """Returns what the density of a spectrum is of, as a label."""
  if spectrum.start is None:
    return "density"
  what = "the gradient" if spectrum.start == "gradient" else "a vector"
  return f"density of the energy of {what}"


def plot_evolution(
  spectra: Mapping[Any, _Drawn],
  path: str | os.PathLike,
  /,
  *,
  steps: Sequence[float] | None = None,
  largest: int = 3,
  smallest: int = 1,
  learning_rate: float | None = None,
) -> None:
  """Draws eigenvalues at the ends of several spectra, over the steps.

  >>> import os
  >>> import tempfile
  >>> import numpy as np
  >>> import tf_hessian
  >>> from tf_hessian import plotting
  >>> found = {
  ...   step: tf_hessian.spectral_density(np.diag([step, 0.0, -1.0]), progress=False)
  ...   for step in (1.0, 2.0)
  ... }
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   path = os.path.join(folder, "evolution.png")
  ...   plotting.plot_evolution(found, path, steps=[100, 200], largest=1, learning_rate=0.5)
  ...   os.listdir(folder)
  ['evolution.png']

  Args:
    spectra: dict: name -> `Spectrum`, in the order of training.
    path: where the picture goes.
    steps: their places on the axis; None for one after the other, by their names.
    largest: how many of the largest Ritz values.
    smallest: how many of the smallest.
    learning_rate: draws the line 2 / learning_rate, above which gradient descent leaves a
      direction; None for no line.

  Raises:
    ValueError: for bad arguments.
    OSError: if the picture can't be written.
  """
  if not spectra:
    raise ValueError("spectra: expected at least one")
  if learning_rate is not None:
    checks.check_positive("learning_rate", learning_rate)
  most = min(max(map(len, s.nodes)) for s in spectra.values())
  if max(largest, smallest) > most:
    raise ValueError(f"largest, smallest: expected at most {most}, the number of steps")
  places = range(len(spectra)) if steps is None else list(steps)
  if len(places) != len(spectra):
    raise ValueError(f"steps: expected {len(spectra)}, one for each spectrum, got {len(places)}")
  figure, axes = new_figure()
  for count, way, color, label in (
    (largest, "largest", "C0", "largest"),
    (smallest, "smallest", "C3", "smallest"),
  ):
    values = np.array([getattr(s, way)(count) for s in spectra.values()]) if count else np.empty(0)
    for i in range(count):
      style = {"color": color, "alpha": 1 / (1 + i), "label": label if not i else None}
      axes.plot(places, values[:, i], "o-", ms=3, lw=1.2, **style)
  if learning_rate is not None:
    axes.axhline(2 / learning_rate, color="k", lw=0.8, ls="--", label="2 / learning rate")
  if steps is None:
    axes.set_xticks(range(len(spectra)), [str(n) for n in spectra], rotation=30, ha="right")
  else:
    axes.set_xlabel("step")
  axes.set_ylabel("eigenvalue")
  axes.legend(fontsize="small", frameon=False)
  save_figure(figure, path)


def draw_density(
  axes: Axes,
  estimate: Density,
  /,
  *,
  exact: np.ndarray | None = None,
  log: bool = True,
  floor: float = _FLOOR,
  limits: tuple[float, float] | None = None,
) -> None:
  """Draws a density into axes, and the exact one over it.

  >>> import numpy as np
  >>> import tf_hessian
  >>> from tf_hessian import plotting
  >>> spectrum = tf_hessian.spectral_density(np.diag([3.0, 0.0, 0.0]), progress=False)
  >>> figure, axes = plotting.new_figure()
  >>> plotting.draw_density(axes, spectrum.density(1e-3), log=False)
  >>> axes.get_yscale()
  'linear'

  Args:
    axes: where it is drawn.
    estimate: the density.
    exact: (n,) exact eigenvalues to overlay, or None.
    log: logarithmic density axis, as in the paper.
    floor: lowest density shown on a logarithmic axis.
    limits: (low, high) of the eigenvalue axis; all of the density by default.
  """
  grid, values, stderr = estimate
  color = "C0"
  axes.plot(grid, values, color=color, lw=1.2, label="estimate")
  if not np.isnan(stderr).any():
    low = np.maximum(values - stderr, floor if log else 0)
    axes.fill_between(
      grid, low, values + stderr, color=color, alpha=0.25, lw=0, label="± 1 standard error"
    )
  if exact is not None:
    weights = np.full(len(exact), 1 / len(exact))
    truth = density_lib.smooth(np.asarray(exact), weights, grid, estimate.sigma_squared)
    axes.plot(grid, truth, color="k", lw=0.9, ls="--", label="exact")
  if log:
    axes.set_yscale("log")
    axes.set_ylim(floor, 3 * max(values.max(), floor * 10))
  if limits is not None:
    axes.set_xlim(*limits)
  axes.set_xlabel("eigenvalue")
  axes.set_ylabel("density")
  axes.legend(fontsize="small", frameon=False)


def _check_some(spectra):
  if not spectra:
    raise ValueError("spectra: expected at least one, got none")
