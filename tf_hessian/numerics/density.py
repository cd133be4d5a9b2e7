"""Densities on a grid from nodes and weights, and distances between them.

The density of one draw is phi_v(t) = sum_i w_i N(t; theta_i, sigma^2); the estimate is the mean
over draws (Algorithm 1). It is never renormalised: each draw's weights sum to 1, and mass that a
grid leaves out is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
import warnings

import numpy as np
from numpy.typing import ArrayLike
import scipy.integrate
import scipy.special

from tf_hessian.numerics import checks, quadrature
from tf_hessian.numerics.results import Density

# Beyond 39 sigma a float64 Gaussian is below the smallest normal number.
_CUTOFF_SIGMAS = 39.0
# Mass outside 9 sigma is 2e-19. Twelve points a sigma keep the trapezoid's error for |f - g|, which
# has kinks, below 1% of the distance itself (tuned); for the density it is below rounding.
_MARGIN_SIGMAS = 9.0
_POINTS_PER_SIGMA = 12
_MAX_POINTS = 2_000_000
_WIDE_SIGMAS = 2.0  # between points: there the trapezoid rule is off by 1.4 % of a peak's mass
_UNSEEN = 0.01  # of the mass, in such gaps
_FARTHEST = 2.0**52  # points of the lattice, whose numbers are exact up to there


def kernel_variance(
  nodes: Sequence[np.ndarray], sigma_squared: float, /, *, relative: bool = False
) -> float:
  """Returns the variance of the kernel.

  Args:
    nodes: sequence of k vectors of nodes.
    sigma_squared: the variance, as in the paper.
    relative: multiply it by max(1, R), where R is the mean over draws of the largest node less that
      of the smallest, plus 0.02: what the original code does under the same name.

  Raises:
    ValueError: if sigma_squared is not above 0.

  >>> kernel_variance([[0.0, 3.98]], 0.5), kernel_variance([[0.0, 3.98]], 0.5, relative=True)
  (0.5, 2.0)
  """
  checks.check_positive("sigma_squared", sigma_squared)
  if not relative:
    return float(sigma_squared)
  spread = np.mean([np.max(t) for t in nodes]) - np.mean([np.min(t) for t in nodes]) + 0.02
  return float(sigma_squared) * max(1.0, float(spread))


def density_grid(nodes: Sequence[np.ndarray], sigma_squared: float, /) -> np.ndarray:
  """Returns a grid that is fine wherever there are nodes.

  It has 12 points a sigma wherever a node is within 9 sigma. The points lie on one equidistant
  lattice. Gaps between nodes, where the density is below 1e-17 of a kernel's, are left out, so that
  wide spectra with outliers need no more points than others.

  Args:
    nodes: sequence of vectors of nodes.
    sigma_squared: variance of the kernel.

  Raises:
    ValueError: if more than 2 million points would be needed.

  >>> grid = density_grid([[0.0]], 1.0)
  >>> grid.size, float(grid[0]), float(grid[-1])
  (217, -9.0, 9.0)
  """
  checks.check_positive("sigma_squared", sigma_squared)
  step = np.sqrt(sigma_squared) / _POINTS_PER_SIGMA
  places = np.unique(np.concatenate([np.ravel(t) for t in nodes]))
  margin = _MARGIN_SIGMAS * _POINTS_PER_SIGMA
  origin = places[0]
  # Windows of lattice numbers around the nodes, merged where they overlap.
  center = (places - origin) / step
  if not max(center[-1], np.abs(places[[0, -1]]).max() / step) < _FARTHEST:
    raise ValueError(
      f"grid: eigenvalues from {origin:.3g} to {places[-1]:.3g} are too far apart, or "
      f"from 0, for sigma_squared = {sigma_squared:.3g}; give a larger one"
    )
  first, last = (
    np.floor(center).astype(np.int64) - margin,
    np.ceil(center).astype(np.int64) + margin,
  )
  begins = np.flatnonzero(np.append(True, first[1:] > last[:-1] + 1))
  first, last = first[begins], last[np.append(begins[1:] - 1, last.size - 1)]
  points = int(np.sum(last - first + 1))
  if points > _MAX_POINTS:
    raise ValueError(
      f"grid: eigenvalues from {places[0]:.3g} to {places[-1]:.3g} with sigma_squared = "
      f"{sigma_squared:.3g} need {points} points; give a larger sigma_squared, relative=True or a "
      "grid of your own"
    )
  return origin + step * np.concatenate(
    [np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]
  )


def smooth(
  nodes: np.ndarray, weights: np.ndarray, grid: np.ndarray, sigma_squared: float, /
) -> np.ndarray:
  """Returns a sum of Gaussian kernels on a grid.

  Args:
    nodes: (m,) means of the kernels.
    weights: (m,) factors of them.
    grid: (g,), ascending.
    sigma_squared: variance of the kernel.

  Returns:
    sum_i weights[i] N(grid; nodes[i], sigma_squared), (g,) float64.

  >>> smooth(np.array([0.0]), np.array([2.0]), np.array([0.0, 1.0]), 1.0).round(6).tolist()
  [0.797885, 0.483941]
  """
  sigma = np.sqrt(sigma_squared)
  first = np.searchsorted(grid, nodes - _CUTOFF_SIGMAS * sigma)
  last = np.searchsorted(grid, nodes + _CUTOFF_SIGMAS * sigma, side="right")
  values = np.zeros(len(grid))
  for node, weight, i, j in zip(nodes, weights, first, last, strict=True):
    values[i:j] += weight * np.exp(-0.5 * ((grid[i:j] - node) / sigma) ** 2)
  return values / (sigma * np.sqrt(2 * np.pi))


def density(
  nodes: Sequence[np.ndarray],
  weights: Sequence[np.ndarray],
  sigma_squared: float,
  /,
  *,
  grid: np.ndarray | None = None,
  relative: bool = False,
) -> Density:
  """Returns the density of each draw, their mean and its standard error.

  Args:
    nodes: sequence of k vectors; their lengths may differ.
    weights: sequence of k vectors like `nodes`.
    sigma_squared: variance of the Gaussian kernel (paper: 1e-5).
    grid: (g,) ascending points; by default `density_grid`.
    relative: multiply sigma_squared by max(1, range of the nodes), as `kernel_variance` does.

  Returns:
    A `Density`.

  Warns of points so far apart that peaks lie between them.

  Raises:
    ValueError: for no draws, nodes that are not finite, a bad grid or sigma_squared.

  >>> grid, values, stderr = density([[0.0], [0.0]], [[1.0], [1.0]], 1.0)
  >>> round(float(values.max()), 6), float(stderr.max())  # 1 / sqrt(2 pi); equal draws
  (0.398942, 0.0)
  """
  if not len(nodes):
    raise ValueError("density: expected at least one draw, got none")
  if not all(np.all(np.isfinite(t)) for t in nodes):
    raise ValueError("density: expected finite nodes, got NaN or infinity")
  variance = kernel_variance(nodes, sigma_squared, relative=relative)
  if grid is None:
    grid = density_grid(nodes, variance)
  grid = np.asarray(grid, np.float64)
  checks.check_grid("grid", grid)
  _tell_unseen(nodes, weights, grid, np.sqrt(variance))
  draws = np.array([smooth(t, w, grid, variance) for t, w in zip(nodes, weights, strict=True)])
  inside = [_mass(t, w, grid, variance) for t, w in zip(nodes, weights, strict=True)]
  missing = max(0.0, 1.0 - float(np.mean(inside)))
  mean, stderr = quadrature.mean_and_stderr(draws)
  return Density(grid, mean, stderr, draws, variance, missing)


def _tell_unseen(nodes, weights, grid, sigma):
  """Warns of mass between points too far apart to show it."""
  wide = np.concatenate([[False], np.diff(grid) > _WIDE_SIGMAS * sigma, [False]])
  if not wide.any():
    return
  shares = [
    np.sum(np.asarray(w)[wide[np.searchsorted(grid, t)]])
    for t, w in zip(nodes, weights, strict=True)
  ]
  if np.mean(shares) > _UNSEEN:
    warnings.warn(
      f"grid: {np.mean(shares):.3g} of the density is of eigenvalues between points more than "
      f"{_WIDE_SIGMAS:g} sigma apart (sigma = {sigma:.3g}): its peaks can be missed, and integrals "
      "over the grid are wrong. Give points nearer together, a larger sigma_squared, or no grid",
      stacklevel=4,  # of `Spectrum.density`
    )


def _mass(nodes, weights, grid, variance):
  """Returns a draw's exact mass between the ends of the grid."""
  ends = (np.array([[grid[0]], [grid[-1]]]) - nodes) / np.sqrt(variance)
  low, high = scipy.special.ndtr(ends)
  return float(weights @ (high - low))


def l1_distance(
  grid: np.ndarray, first: ArrayLike, second: ArrayLike, /
) -> np.ndarray | np.floating:
  """Returns the L1 distance of densities: 0 (equal) to 2 (disjoint).

  It is the integral of |first - second| by the trapezoid rule.

  Args:
    grid: (g,) ascending points.
    first: (..., g) density on the grid.
    second: (..., g) density on the same grid.

  Returns:
    (...,) float64.

  >>> float(l1_distance([0.0, 1.0, 2.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]))
  1.0
  """
  return scipy.integrate.trapezoid(np.abs(np.subtract(first, second)), grid, axis=-1)


def predicted_stderr(
  eigenvalues: np.ndarray,
  grid: np.ndarray,
  sigma_squared: float,
  num_draws: int,
  /,
  *,
  weights: np.ndarray | None = None,
  n: int | None = None,
) -> np.ndarray:
  """Returns the standard error of the mean of exact draws.

  For v uniform on the sphere and f_i = N(t; lambda_i, sigma^2), the variance of v' f(H) v is
  2 (mean(f^2) - mean(f)^2) / (n + 2): the fourth moments of v give it (compare Claim 2.3, which
  bounds what is exact here).

  Args:
    eigenvalues: (n,) all eigenvalues; or, with weights, the nodes of a quadrature.
    grid: (g,) ascending points.
    sigma_squared: variance of the kernel.
    num_draws: number of independent draws.
    weights: the shares of the nodes in the spectrum, of sum 1; equal ones by default.
    n: order of the matrix; by default the number of eigenvalues.

  Returns:
    (g,) float64, at each grid point.

  >>> grid = np.array([0.0])
  >>> predicted_stderr(np.zeros(5), grid, 1.0, 3).round(6).tolist()  # all draws of 0 are alike
  [0.0]
  """
  n = len(eigenvalues) if n is None else n
  if weights is None:
    weights = np.full(len(eigenvalues), 1 / len(eigenvalues))
  mean = smooth(eigenvalues, weights, grid, sigma_squared)
  # The square of a Gaussian kernel is one of half the variance, over 2 sigma sqrt(pi).
  squares = smooth(eigenvalues, weights, grid, sigma_squared / 2)
  squares = squares / (2 * np.sqrt(sigma_squared * np.pi))
  variance = 2 * np.maximum(squares - mean**2, 0) / (n + 2)
  return np.sqrt(variance / num_draws)


def predicted_l1(
  eigenvalues: np.ndarray,
  grid: np.ndarray,
  sigma_squared: float,
  num_draws: int,
  /,
  *,
  weights: np.ndarray | None = None,
  n: int | None = None,
) -> float:
  """Returns the L1 error to expect from exact draws.

  The error at each point is taken as normal, whose mean absolute value is sqrt(2 / pi) standard
  deviations. At an isolated eigenvalue it is a chi-square variable, for which that is 1.7% too much
  with ten draws and 17% with one.

  Args:
    eigenvalues: (n,) all eigenvalues; or, with weights, the nodes of a quadrature.
    grid: (g,) ascending points.
    sigma_squared: variance of the kernel.
    num_draws: number of independent draws.
    weights: the shares of the nodes in the spectrum, of sum 1; equal ones by default.
    n: order of the matrix; by default the number of eigenvalues.

  >>> grid = np.linspace(-9, 9, 217)
  >>> round(predicted_l1(np.zeros(5), grid, 1.0, 3), 6)  # all draws of 0 are alike
  0.0
  """
  stderr = predicted_stderr(eigenvalues, grid, sigma_squared, num_draws, weights=weights, n=n)
  return float(np.sqrt(2 / np.pi) * scipy.integrate.trapezoid(stderr, grid))
