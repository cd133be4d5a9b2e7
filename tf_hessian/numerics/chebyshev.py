"""Densities from Chebyshev polynomials, which section D of the paper compares with.

On an interval [c - r, c + r] that holds the spectrum, with T_j the Chebyshev polynomials and
X = (H - c) / r, the moments of a draw are mu_j = v' T_j(X) v. The Gaussian kernel is replaced by
its expansion f(x; t) = sum_j c_j(t) T_j((x - c) / r) of degree m, so that the density of the draw
is sum_j c_j(t) mu_j (Eq. 13 and 14, whose monomials would be ill-conditioned).

The coefficients c_j(t) are integrals of f, which Gauss-Chebyshev quadrature in N points gives:
c_j(t) = (2 - [j = 0]) / N sum_k f(x_k; t) cos(j theta_k). Exchanging the sums, the density is
sum_k W_k f(x_k; t) with W_k = 1 / N sum_j (2 - [j = 0]) mu_j cos(j theta_k): a density of N nodes
whose weights may be negative, which `density.smooth` evaluates.
"""

from __future__ import annotations

from collections.abc import Callable
import math

import numpy as np
import scipy.fft

from tf_hessian.numerics import checks
from tf_hessian.numerics.density import smooth

# The coefficients of a kernel of width s on [-1, 1] fall like exp(-(j s)^2 / 2): at 9 / s they are
# below rounding, and the quadrature in N points mixes those of j and 2 N - j.
_WIDTHS = 4.5
_LEAST = 16  # for kernels as wide as the interval, whose coefficients fall more slowly than that


def interval(low: float, high: float, /, *, margin: float = 0.01) -> tuple[float, float]:
  """Returns the center and half width of an interval around a spectrum.

  Args:
    low: smallest eigenvalue.
    high: largest eigenvalue.
    margin: added to the half width, relative to it. Outside of [-1, 1] polynomials explode.

  Raises:
    ValueError: if the ends are not in order, or the margin is negative.

  >>> interval(-1.0, 3.0, margin=0.5)
  (1.0, 3.0)
  """
  if not margin >= 0:
    raise ValueError(f"margin: expected a number that is not negative, got {margin!r}")
  if not (low < high and np.isfinite(high - low)):
    raise ValueError(f"interval: expected low below high, both finite, got {low!r} and {high!r}")
  return (low + high) / 2, (high - low) / 2 * (1 + margin)


def kernel_coefficients(
  t: float, sigma_squared: float, degree: int, /, *, center: float = 0.0, half_width: float = 1.0
) -> np.ndarray:
  """Returns the Chebyshev coefficients of a Gaussian kernel on an interval.

  Args:
    t: mean of the kernel.
    sigma_squared: its variance.
    degree: m.
    center: of the interval.
    half_width: of the interval.

  Returns:
    c_0 .. c_m of N(x; t, sigma^2), (m + 1,) float64.

  >>> c = kernel_coefficients(0.2, 0.04, 60)
  >>> value = np.polynomial.chebyshev.chebval(0.5, c)  # at 1.5 sigma: exp(-1.125) / sqrt(0.08 pi)
  >>> round(float(value), 9)
  0.647587978
  """
  _check_degree(degree)
  points = _quadrature_points(degree, sigma_squared, half_width)
  nodes = center + half_width * np.cos(_angles(points))
  values = np.exp(-((nodes - t) ** 2) / (2 * sigma_squared)) / math.sqrt(
    2 * math.pi * sigma_squared
  )
  coefficients = scipy.fft.dct(values, type=2)[: degree + 1] / points
  coefficients[0] /= 2
  return coefficients


def moments(
  nodes: np.ndarray, weights: np.ndarray, degree: int, /, *, center: float, half_width: float
) -> np.ndarray:
  """Returns the exact Chebyshev moments of a measure.

  Args:
    nodes: (r,) within the interval, such as all eigenvalues.
    weights: (r,), such as 1/n each, or (v' q_i)^2 for one draw.
    degree: m.
    center: of the interval.
    half_width: of the interval.

  Returns:
    mu_0 .. mu_m, (m + 1,) float64.

  Raises:
    ValueError: if a node is outside of the interval.

  >>> moments([0.5], np.array([1.0]), 3, center=0.0, half_width=1.0).tolist()  # cos(j pi / 3)
  [1.0, 0.5, -0.5, -1.0]
  """
  x = (np.asarray(nodes, np.float64) - center) / half_width
  _check_inside(np.abs(x).max())
  previous, current = np.ones_like(x), x.copy()
  result = np.empty(degree + 1)
  result[0] = np.sum(weights)
  for j in range(1, degree + 1):
    result[j] = weights @ current
    previous, current = current, 2 * x * current - previous
  return result


def estimated_moments(
  matvec: Callable[[np.ndarray], np.ndarray],
  v: np.ndarray,
  products: int,
  /,
  *,
  center: float,
  half_width: float,
) -> np.ndarray:
  """Returns the Chebyshev moments of one draw.

  T_i T_j = (T_{i+j} + T_{|i-j|}) / 2 gives two moments a product. The paper counts one a
  product: the first p + 1 of these.

  Args:
    matvec: product with H, (n,) float64 -> (n,) float64.
    v: (n,) start vector of length 1.
    products: p, at least 1.
    center: of the interval.
    half_width: of the interval.

  Returns:
    mu_0 .. mu_2p, (2 p + 1,) float64.

  Raises:
    ValueError: if the moments show an eigenvalue outside of the interval.

  >>> v = np.array([1.0])
  >>> estimated_moments(lambda x: 0.5 * x, v, 1, center=0.0, half_width=1.0).tolist()
  [1.0, 0.5, -0.5]
  """
  checks.check_count("products", products)
  result = np.empty(2 * products + 1)
  previous, current = np.asarray(v, np.float64), (matvec(v) - center * v) / half_width
  result[0], result[1] = previous @ previous, previous @ current
  for j in range(1, products + 1):
    result[2 * j] = 2 * (current @ current) - result[0]
    if j < products:
      following = 2 * (matvec(current) - center * current) / half_width - previous
      result[2 * j + 1] = 2 * (following @ current) - result[1]
      previous, current = current, following
  _check_inside(np.abs(result).max() / result[0])
  return result


def density(
  moments: np.ndarray,
  grid: np.ndarray,
  sigma_squared: float,
  /,
  *,
  center: float,
  half_width: float,
  jackson: bool = False,
) -> np.ndarray:
  """Returns the density that Chebyshev moments give; it may be negative.

  Args:
    moments: (m + 1,) moments of a draw, or means over draws.
    grid: (g,) ascending points.
    sigma_squared: variance of the kernel.
    center: of the interval.
    half_width: of the interval.
    jackson: multiply the moments by `jackson_factors`, which keeps the density from being negative
      and makes it wider.

  Returns:
    (g,) float64.

  >>> mu = moments([0.2], np.array([1.0]), 60, center=0.0, half_width=1.0)
  >>> density(mu, np.array([0.5]), 0.04, center=0.0, half_width=1.0).round(9).tolist()
  [0.647587978]
  """
  nodes, weights = quadrature(moments, sigma_squared, center, half_width, jackson=jackson)
  return smooth(nodes, weights, grid, sigma_squared)


def quadrature(
  moments: np.ndarray,
  sigma_squared: float,
  center: float,
  half_width: float,
  /,
  *,
  jackson: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns nodes and weights whose smoothed density is that of moments.

  Args:
    moments: (m + 1,) moments of a draw, or means over draws.
    sigma_squared: variance of the kernel that they will be smoothed by.
    center: of the interval.
    half_width: of the interval.
    jackson: multiply the moments by `jackson_factors`.

  Returns:
    (nodes (N,), weights (N,)), float64; weights may be negative.

  >>> nodes, weights = quadrature(np.array([1.0, 0.0]), 0.04, 0.0, 1.0)
  >>> round(float(weights.sum()), 12)
  1.0
  """
  mu = np.array(moments, np.float64)
  if jackson:
    mu *= jackson_factors(mu.size - 1)
  points = _quadrature_points(mu.size - 1, sigma_squared, half_width)
  padded = np.zeros(points)
  padded[: mu.size] = mu
  # dct of type 3: y_k = x_0 + 2 sum_{j >= 1} x_j cos(j theta_k).
  return center + half_width * np.cos(_angles(points)), scipy.fft.dct(padded, type=3) / points


def jackson_factors(degree: int, /) -> np.ndarray:
  """Returns the factors of Jackson's kernel: (m + 1,) float64.

  Weisse et al., The kernel polynomial method (2006), Eq. 71, with N = m + 1.

  Args:
    degree: m.

  >>> jackson_factors(1).round(12).tolist()  # 1 and cos(pi / 3)
  [1.0, 0.5]
  """
  _check_degree(degree)
  size = degree + 2
  j = np.arange(degree + 1)
  angle = np.pi * j / size
  return ((size - j) * np.cos(angle) + np.sin(angle) / np.tan(np.pi / size)) / size


def _quadrature_points(degree, sigma_squared, half_width):
  checks.check_positive("sigma_squared", sigma_squared)
  checks.check_positive("half_width", half_width)
  return degree + _LEAST + math.ceil(_WIDTHS * half_width / math.sqrt(sigma_squared))


def _check_degree(degree):
  if degree != 0:
    checks.check_count("degree", degree)


def _angles(points):
  return np.pi * (np.arange(points) + 0.5) / points


def _check_inside(largest):
  if np.isnan(largest):
    raise ValueError("moments: expected finite numbers, got NaN")
  if largest > 1 + 1e-8:
    raise ValueError(
      "interval: it does not hold the whole spectrum, and polynomials explode outside of it: give "
      "a wider one"
    )
