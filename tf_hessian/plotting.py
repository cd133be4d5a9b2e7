"""Pictures of spectra, in the manner of the paper's figures."""

import io
import pathlib

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np

from tf_hessian import files
from tf_hessian.numerics import density as density_lib

# What the paper's figures show; a smoothed density has far smaller values between outliers.
_FLOOR = 1e-10


def new_figure(width=7.0, height=4.2, **subplots):
  """Returns (figure, axes) that no global state knows of."""
  figure = Figure(figsize=(width, height), layout="constrained")
  FigureCanvasAgg(figure)
  return figure, figure.subplots(**subplots)


def save_figure(figure, path, /):
  """Writes a figure, whole or not at all; the suffix is the format."""
  suffix = pathlib.Path(path).suffix[1:].lower()
  known = figure.canvas.get_supported_filetypes()
  if suffix not in known:
    raise ValueError(
      f"{path}: unknown format; expected a suffix of {', '.join(sorted(known))}, such as .png"
    )
  buffer = io.BytesIO()
  figure.savefig(buffer, format=suffix, dpi=150)
  with files.replacing(path) as file:
    file.write(buffer.getvalue())


def plot_spectrum(
  spectrum,
  path,
  /,
  *,
  sigma_squared=1e-5,
  relative=False,
  deflate=False,
  exact=None,
  limits=None,
  log=True,
  floor=_FLOOR,
  title=None,
):
  """Draws the density over the eigenvalue axis, with a band of one standard error.

  Args:
    spectrum: a `Spectrum`.
    path: where the picture goes, such as "spectrum.png".
    sigma_squared: variance of the kernel.
    relative: see `Spectrum.density`.
    deflate: see `Spectrum.density`.
    exact: (n,) exact eigenvalues to overlay, or an `ExactSpectrum`, or None.
    limits: (low, high) of the eigenvalue axis; all of the density by default.
    log: logarithmic density axis, as in the paper.
    floor: lowest density shown on a logarithmic axis.
    title: text above; by default the number of parameters, draws and steps.

  Raises:
    ValueError: for bad arguments.
    OSError: if the picture can't be written.
  """
  estimate = spectrum.density(sigma_squared, relative=relative, deflate=deflate)
  if exact is not None:
    exact = np.asarray(getattr(exact, "eigenvalues", exact), np.float64)
    nodes = [*spectrum.nodes, exact]
    grid = density_lib.density_grid(nodes, estimate.sigma_squared)
    estimate = spectrum.density(estimate.sigma_squared, grid=grid, deflate=deflate)
  figure, axes = new_figure()
  draw_density(axes, estimate, exact=exact, log=log, floor=floor, limits=limits)
  if title is None:
    steps = max(len(d) for d in spectrum.diagonals)
    n = "" if spectrum.num_parameters is None else f"n = {spectrum.num_parameters:,}, "
    draws = "1 draw" if spectrum.num_draws == 1 else f"{spectrum.num_draws} draws"
    deflated = ", deflated" if deflate else ""
    title = f"{n}{draws} of {steps} steps, $\\sigma^2$ = {estimate.sigma_squared:.3g}{deflated}"
  axes.set_ylabel(_quantity(spectrum))
  axes.set_title(title, fontsize="medium")
  save_figure(figure, path)


def plot_spectra(
  spectra,
  path,
  /,
  *,
  sigma_squared=1e-5,
  relative=False,
  deflate=False,
  limits=None,
  log=True,
  floor=_FLOOR,
):
  """Draws the densities of several spectra, one below the other, on one eigenvalue axis.

  Args:
    spectra: dict: name, such as the step of a training -> `Spectrum`.
    path: where the picture goes.
    sigma_squared: variance of the kernel.
    relative: see `Spectrum.density`.
    deflate: see `Spectrum.density`.
    limits: (low, high) of the eigenvalue axis; all densities by default.
    log: logarithmic density axes.
    floor: lowest density shown on a logarithmic axis.

  Raises:
    ValueError: for bad arguments.
    OSError: if the picture can't be written.
  """
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


def _quantity(spectrum):
  """Returns what the density of a spectrum is of, as a label."""
  if spectrum.start is None:
    return "density"
  what = "the gradient" if spectrum.start == "gradient" else "a vector"
  return f"density of the energy of {what}"


def plot_curves(curves, path, /, *, label="loss", floor=0.0, log=False):
  """Draws how a number changed in training, for several runs.

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


def draw_density(axes, estimate, /, *, exact=None, log=True, floor=_FLOOR, limits=None):
  """Draws a `Density` into axes, and the exact density over it."""
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
