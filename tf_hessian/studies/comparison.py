"""Estimated and exact densities of the small model (section B)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from tf_hessian import plotting
from tf_hessian.numerics import density, quadrature, results
from tf_hessian.studies import drawing

if TYPE_CHECKING:
  from tf_hessian.studies.small_model import SmallModel

SIGMA_SQUARED = 1e-5  # paper, as the next two
STEPS = 90
BULK = (-0.2, 0.4)


def leading_rules(small: SmallModel, steps: int, /) -> list[results.Quadrature]:
  """Returns each draw's quadrature after its first `steps` steps."""
  estimate = small.spectrum
  pairs = zip(estimate.diagonals, estimate.off_diagonals, strict=True)
  return [quadrature.gauss_quadrature(d[:steps], e[: steps - 1]) for d, e in pairs]


def smooth_all(
  rules: Iterable[results.Quadrature], grid: np.ndarray, variance: float
) -> np.ndarray:
  """Returns the density of each quadrature, (k, g) float64."""
  return np.array([density.smooth(q.nodes, q.weights, grid, variance) for q in rules])


def draw_densities(
  small: SmallModel, folder: pathlib.Path, /, *, figures: Sequence[str] = ("1", "16")
) -> list[dict]:
  """Draws estimated and exact densities: bulk (1) and outliers (16); returns the curves."""
  rules = leading_rules(small, STEPS)
  grid = density.density_grid([small.eigenvalues], SIGMA_SQUARED)
  mean = density.density(
    [q.nodes for q in rules], [q.weights for q in rules], SIGMA_SQUARED, grid=grid
  )
  curves = []
  limits = {"1": BULK, "16": (BULK[1], BULK[1] + 1.02 * (grid[-1] - BULK[1]))}
  for name in figures:
    figure, axes = plotting.new_figure()
    plotting.draw_density(axes, mean, exact=small.eigenvalues, limits=limits[name])
    inside = (grid >= limits[name][0]) & (grid <= limits[name][1])
    axes.set_ylim(top=30 * mean.values[inside].max())  # with room for the legend
    drawing.plain_log(axes, "y")
    axes.legend(frameon=False, fontsize="small", loc="upper right", ncols=3)
    axes.set_title(f"{len(rules)} draws of {STEPS} steps, $\\sigma^2$ = 1e-5", fontsize="medium")
    errors = {"estimate": mean.stderr}
    curves += drawing.save(figure, folder / f"figure_{name}.png", errors=errors)
  return curves
