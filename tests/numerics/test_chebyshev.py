"""Densities from Chebyshev moments, against NumPy's polynomials and dense eigenvectors."""

import numpy as np
from numpy.polynomial import chebyshev as polynomials
import pytest
import scipy.integrate
import scipy.stats

from tf_hessian.numerics.chebyshev import (
  density,
  estimated_moments,
  interval,
  jackson_factors,
  kernel_coefficients,
  moments,
  quadrature,
)
from tf_hessian.numerics.density import smooth
from tf_hessian.numerics.probes import probe

EPS = np.finfo(np.float64).eps
N = 40
SPECTRUM = np.append(np.random.default_rng(0).uniform(-1, 0.5, N - 2), [-1.0, 3.0])
CENTER, HALF_WIDTH = 1.0, 2.02
INSIDE = {"center": CENTER, "half_width": HALF_WIDTH}


def kernel(x, t, variance):
  """Returns the Gaussian, from its definition."""
  return np.exp(-((x - t) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


def rounding(variance, center=0.0, half_width=1.0):
  """Returns the error of a Gaussian kernel on an interval.

  With z = (x - t) / sigma the error of its exponent is z eps (|c| + 2 r) / sigma + 2 eps z^2, and
  z exp(-z^2 / 2), z^2 exp(-z^2 / 2) are below 0.61 and 0.74.
  """
  sigma = np.sqrt(variance)
  peak = 1 / np.sqrt(2 * np.pi * variance)
  return EPS * peak * (0.61 * (abs(center) + 2 * half_width) / sigma + 2)


def relative_rounding(variance):
  """Returns the error of a kernel on INSIDE over its height."""
  return rounding(variance, **INSIDE) * np.sqrt(2 * np.pi * variance)


def series(t, variance, degree, center=0.0, half_width=1.0):
  """Returns the Chebyshev coefficients of the kernel on the interval, by NumPy."""
  # A kernel of width s has no coefficient above rounding beyond degree 9 / s, or 30.
  high = degree + 30 + int(12 * half_width / np.sqrt(variance))
  full = polynomials.chebinterpolate(lambda x: kernel(center + half_width * x, t, variance), high)
  return full[: degree + 1]


def spectral_measure(h, v):
  """Returns the nodes and weights of v' g(H) v = sum_i (v' q_i)^2 g(lambda_i)."""
  eigenvalues, q = np.linalg.eigh(h)
  return eigenvalues, (q.T @ v) ** 2


# Coefficients of the kernel.

# In the middle, at and beyond both ends.
MEANS = pytest.mark.parametrize("t", [0.0, 0.3, -0.9, 1.0, -1.2])


@MEANS
@pytest.mark.parametrize("degree", [10, 40, 100])
@pytest.mark.parametrize("variance", [1e-3, 0.04, 1.0])
def test_kernel_coefficients_are_those_of_an_interpolant_of_high_degree(t, degree, variance):
  got = kernel_coefficients(t, variance, degree)
  # A mean over the points, twice it for j > 0, of two computations; and cosines off by eps.
  tolerance = 4 * rounding(variance)
  expected = series(t, variance, degree)
  np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("degree", [0, 1, 3])
@pytest.mark.parametrize("sigma", [0.03, 0.1, 0.2])
def test_kernel_coefficients_of_low_degree_are_those_of_an_interpolant(degree, sigma):
  got = kernel_coefficients(0.3, sigma**2, degree)
  expected = series(0.3, sigma**2, degree)
  np.testing.assert_allclose(got, expected, rtol=0, atol=4 * rounding(sigma**2))


@pytest.mark.parametrize(("sigma", "degree"), [(0.5, 0), (1.0, 1), (4.5, 0), (4.5, 2)])
def test_kernel_coefficients_of_a_wide_kernel_are_those_of_an_interpolant(sigma, degree):
  got = kernel_coefficients(0.3, sigma**2, degree)
  expected = series(0.3, sigma**2, degree)
  np.testing.assert_allclose(got, expected, rtol=0, atol=4 * rounding(sigma**2))


@MEANS
@pytest.mark.parametrize("j", [0, 1, 2, 9])
def test_kernel_coefficients_are_integrals(t, j):
  variance = 0.04
  value, error = scipy.integrate.quad(
    lambda theta: kernel(np.cos(theta), t, variance) * np.cos(j * theta), 0, np.pi, epsabs=1e-13
  )
  scale = (1 if j == 0 else 2) / np.pi
  got = kernel_coefficients(t, variance, 12)[j]
  assert abs(got - scale * value) <= scale * error + 4 * rounding(variance)


@pytest.mark.parametrize("t", [-0.7, 1.0, 2.5])
def test_kernel_coefficients_on_another_interval_are_those_of_an_interpolant(t):
  got = kernel_coefficients(t, 0.04, 30, **INSIDE)
  expected = series(t, 0.04, 30, **INSIDE)
  np.testing.assert_allclose(got, expected, rtol=0, atol=4 * rounding(0.04, **INSIDE))


# Moments.


def tolerance_of_moments(degree, scale=1.0):
  """Returns the error of T_j, whose slope is at most j^2, for an argument off by 4 eps."""
  return 4 * EPS * scale * np.maximum(1, np.arange(degree + 1)) ** 2


def test_moments_are_sums_of_chebyshev_polynomials():
  weights = np.random.default_rng(1).dirichlet(np.ones(N))
  x = (SPECTRUM - CENTER) / HALF_WIDTH
  expected = polynomials.chebval(x, np.eye(51)) @ weights
  got = moments(SPECTRUM, weights, 50, **INSIDE)
  assert np.all(np.abs(got - expected) <= tolerance_of_moments(50))


def test_moments_at_the_ends_of_the_interval_are_1_and_alternate():
  got = moments([-1.0, 1.0], np.array([0.0, 1.0]), 5, center=0.0, half_width=1.0)
  np.testing.assert_array_equal(got, np.ones(6))
  got = moments([-1.0, 1.0], np.array([1.0, 0.0]), 5, center=0.0, half_width=1.0)
  np.testing.assert_array_equal(got, [1, -1, 1, -1, 1, -1])


def test_moment_of_degree_0_is_the_mass():
  assert moments([0.1, 0.2], np.array([0.25, 0.5]), 0, center=0.0, half_width=1.0) == [0.75]


@pytest.mark.parametrize("node", [-1.03, 3.03])
def test_moments_of_a_node_outside_of_the_interval_are_refused(node):
  with pytest.raises(ValueError, match="interval: it does not hold the whole spectrum"):
    moments([0.0, node], np.full(2, 0.5), 3, **INSIDE)


@pytest.mark.parametrize("products", [1, 2, 3, 20])
@pytest.mark.parametrize("draw", range(3))
def test_estimated_moments_are_those_of_the_spectral_measure(symmetric, products, draw):
  h, v = symmetric(SPECTRUM), probe(0, draw, N)
  eigenvalues, weights = spectral_measure(h, v)
  x = (eigenvalues - CENTER) / HALF_WIDTH
  expected = polynomials.chebval(x, np.eye(2 * products + 1)) @ weights
  got = estimated_moments(lambda u: h @ u, v, products, **INSIDE)
  # Sums in a product are off by sqrt(n) eps, which is an error of H.
  assert np.all(np.abs(got - expected) <= tolerance_of_moments(2 * products, 2))


@pytest.mark.parametrize("products", [1, 2, 7])
def test_estimated_moments_take_that_many_products(symmetric, products):
  h, calls = symmetric(SPECTRUM), []
  estimated_moments(lambda u: calls.append(1) or h @ u, probe(0, 0, N), products, **INSIDE)
  assert len(calls) == products


@pytest.mark.parametrize("products", [1, 2, 7])
def test_estimated_moments_are_two_a_product_and_the_mass(symmetric, products):
  h = symmetric(SPECTRUM)
  got = estimated_moments(lambda u: h @ u, probe(0, 0, N), products, **INSIDE)
  assert got.shape == (2 * products + 1,)


def test_more_products_leave_the_moments_as_they_are(symmetric):
  h, v = symmetric(SPECTRUM), probe(0, 0, N)
  few, many = (estimated_moments(lambda u: h @ u, v, p, **INSIDE) for p in (5, 9))
  np.testing.assert_array_equal(many[: few.size], few)


@pytest.mark.parametrize("outside", [-2.0, 4.0])
def test_estimated_moments_of_an_eigenvalue_outside_of_the_interval_are_refused(outside):
  # 1.5 r from the center: T_60 is cosh(60 arccosh(1.5)) = 5e24, of whatever weight.
  eigenvalues = np.append(SPECTRUM[:-1], outside)
  with pytest.raises(ValueError, match="interval: it does not hold the whole spectrum"):
    estimated_moments(lambda u: eigenvalues * u, probe(0, 0, N), 30, center=1.0, half_width=2.0)


def test_start_vector_is_not_changed(symmetric):
  h, v = symmetric(SPECTRUM), probe(0, 0, N)
  estimated_moments(lambda u: h @ u, v, 5, **INSIDE)
  np.testing.assert_array_equal(v, probe(0, 0, N))


# Densities.

GRID = np.linspace(-1.6, 3.6, 400)


def uniform_moments(degree):
  return moments(SPECTRUM, np.full(N, 1 / N), degree, **INSIDE)


@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_density_of_high_degree_is_the_exact_smoothed_density(sigma):
  # Coefficients fall like exp(-(j s)^2 / 2), s = sigma / r: at 9 / s they are 1e-18.
  degree = int(9 * HALF_WIDTH / sigma)
  got = density(uniform_moments(degree), GRID, sigma**2, **INSIDE)
  expected = smooth(SPECTRUM, np.full(N, 1 / N), GRID, sigma**2)
  np.testing.assert_allclose(got, expected, rtol=0, atol=2 * rounding(sigma**2, **INSIDE))


@pytest.mark.parametrize("degree", [10, 21, 50])
@pytest.mark.parametrize("variance", [1e-3, 0.05])
def test_density_of_degree_m_is_the_sum_of_truncated_kernels_at_the_eigenvalues(degree, variance):
  weights = np.random.default_rng(2).dirichlet(np.ones(N))
  mu = moments(SPECTRUM, weights, degree, **INSIDE)
  grid = GRID[::20]
  got = density(mu, grid, variance, **INSIDE)
  x = (SPECTRUM - CENTER) / HALF_WIDTH
  expected = [weights @ polynomials.chebval(x, series(t, variance, degree, **INSIDE)) for t in grid]
  # Interpolation magnifies the errors of two computations by (2 / pi) log(m) + 1, at most 4.
  np.testing.assert_allclose(got, expected, rtol=0, atol=8 * rounding(variance, **INSIDE))


def test_density_is_the_sum_of_coefficients_times_moments():
  # Of degree 4, where the series is far from the kernel, and noisy moments.
  mu = np.array([1.0, -0.3, 0.2, 0.1, -0.5])
  got = density(mu, GRID[::20], 0.05, **INSIDE)
  expected = [series(t, 0.05, 4, **INSIDE) @ mu for t in GRID[::20]]
  np.testing.assert_allclose(got, expected, rtol=0, atol=2 * rounding(0.05, **INSIDE))


@pytest.mark.parametrize("degree", [0, 1, 10, 80])
@pytest.mark.parametrize("jackson", [False, True])
def test_density_integrates_to_the_moment_of_degree_0(degree, jackson):
  # To 9 sigma beyond the interval, with 10 points a sigma.
  sigma = 0.05
  grid = np.arange(CENTER - HALF_WIDTH - 9 * sigma, CENTER + HALF_WIDTH + 9 * sigma, sigma / 10)
  values = density(uniform_moments(degree), grid, sigma**2, **INSIDE, jackson=jackson)
  total = scipy.integrate.trapezoid(values, grid)
  assert abs(total - 1) <= 4 * relative_rounding(sigma**2)


def test_density_of_mean_moments_is_the_mean_of_densities(symmetric):
  h = symmetric(SPECTRUM)
  draws = [estimated_moments(lambda u: h @ u, probe(0, i, N), 20, **INSIDE) for i in range(3)]
  expected = np.mean([density(mu, GRID, 0.01, **INSIDE) for mu in draws], axis=0)
  got = density(np.mean(draws, axis=0), GRID, 0.01, **INSIDE)
  np.testing.assert_allclose(got, expected, rtol=0, atol=2 * rounding(0.01, **INSIDE))


def test_moments_given_to_a_density_are_not_changed():
  mu = uniform_moments(9)
  density(mu, GRID, 0.01, **INSIDE, jackson=True)
  np.testing.assert_array_equal(mu, uniform_moments(9))


def test_nodes_of_a_quadrature_are_in_the_interval():
  nodes, _ = quadrature(uniform_moments(9), 0.01, CENTER, HALF_WIDTH)
  assert np.all(np.abs(nodes - CENTER) < HALF_WIDTH)


def test_quadrature_has_the_moments_it_was_made_of():
  mu = uniform_moments(30)
  nodes, weights = quadrature(mu, 0.01, CENTER, HALF_WIDTH)
  x = (nodes - CENTER) / HALF_WIDTH
  got = polynomials.chebval(x, np.eye(31)) @ weights
  # Weights of up to 2 x 30 terms over N.
  tolerance = tolerance_of_moments(30) * np.abs(weights).sum()
  assert np.all(np.abs(got - mu) <= tolerance)


# Jackson's kernel.


def autocorrelation(degree):
  """Returns g_j = sum_k a_k a_{k+j} with a_k = sin(pi (k + 1) / (m + 2)): Fejer's optimal a."""
  a = np.sin(np.pi * np.arange(1, degree + 2) / (degree + 2))
  return np.correlate(a, a, "full")[degree:] / (a @ a)


DEGREES = pytest.mark.parametrize("degree", [0, 1, 2, 10, 80, 500])


@DEGREES
def test_jackson_factor_of_degree_0_is_1(degree):
  # A product of m + 2 with a tangent and its inverse, over m + 2.
  assert abs(jackson_factors(degree)[0] - 1) <= 2 * EPS


@DEGREES
def test_jackson_factors_are_the_autocorrelation_of_a_half_sine(degree):
  # cot(pi / (m + 2)) is up to (m + 2) / pi, and off by as many eps.
  tolerance = (degree + 2) * EPS
  np.testing.assert_allclose(
    jackson_factors(degree), autocorrelation(degree), rtol=0, atol=tolerance
  )


def test_jackson_factors_of_degree_1_are_1_and_a_half():
  # (2 cos 60 + sin 60 cot 60) / 3.
  np.testing.assert_allclose(jackson_factors(1), [1, 0.5], rtol=4 * EPS)


@DEGREES
def test_jackson_factors_are_positive_and_falling(degree):
  factors = jackson_factors(degree)
  assert np.all(factors > 0) and np.all(np.diff(factors) < 0)


ONE_DRAW = pytest.mark.parametrize(
  "weights", [probe(0, 0, N) ** 2, np.eye(N)[0], np.eye(N)[-1]], ids=["draw", "low", "high"]
)
LOW_DEGREES = pytest.mark.parametrize("degree", [4, 10, 40])


def lowest(weights, degree, variance, jackson):
  """Returns the lowest value on the whole interval over the height of the kernel."""
  mu = moments(SPECTRUM, weights, degree, **INSIDE)
  grid = np.linspace(CENTER - HALF_WIDTH, CENTER + HALF_WIDTH, 2000)
  values = density(mu, grid, variance, **INSIDE, jackson=jackson)
  return values.min() * np.sqrt(2 * np.pi * variance)


@ONE_DRAW
@LOW_DEGREES
def test_density_of_low_degree_is_negative(weights, degree):
  assert lowest(weights, degree, 1e-3, jackson=False) < -1e-3


@ONE_DRAW
@LOW_DEGREES
def test_density_with_jackson_is_not_negative(weights, degree):
  # Each weight of the quadrature is a sum of m + 1 terms that may cancel to 0.
  assert lowest(weights, degree, 1e-3, jackson=True) >= -(degree + 1) * EPS


def test_density_with_jackson_is_that_of_damped_moments():
  mu = uniform_moments(20)
  got = density(mu, GRID, 0.01, **INSIDE, jackson=True)
  expected = density(mu * autocorrelation(20), GRID, 0.01, **INSIDE)
  np.testing.assert_allclose(got, expected, rtol=0, atol=2 * rounding(0.01, **INSIDE))


def test_jackson_adds_to_the_variance_of_an_eigenvalue_in_the_center():
  sigma = 0.2
  mu = moments([CENTER], np.ones(1), 60, **INSIDE)
  # 9 sigma beyond the interval, as the nodes are all over it.
  distances = np.linspace(-HALF_WIDTH - 9 * sigma, HALF_WIDTH + 9 * sigma, 2001)
  plain, damped = (
    scipy.integrate.trapezoid(
      distances**2 * density(mu, CENTER + distances, sigma**2, **INSIDE, jackson=jackson), distances
    )
    for jackson in (False, True)
  )
  # T_2(0) = -1, so that the mean square in units of r is (1 - g_2) / 2: with g_2 = 1, 0.
  tolerance = (HALF_WIDTH + 9 * sigma) ** 2 * relative_rounding(sigma**2)
  assert abs(plain - sigma**2) <= tolerance
  expected = sigma**2 + HALF_WIDTH**2 * (1 - autocorrelation(60)[2]) / 2
  assert abs(damped - expected) <= tolerance


# Intervals.


@pytest.mark.parametrize(
  ("margin", "half_width"), [({}, 2.02), ({"margin": 0.0}, 2.0), ({"margin": 0.5}, 3.0)]
)
def test_interval_is_wider_than_the_spectrum_by_its_margin(margin, half_width):
  center, got = interval(-1.0, 3.0, **margin)
  assert center == 1
  np.testing.assert_allclose(got, half_width, rtol=2 * EPS)


@pytest.mark.parametrize("ends", [(1.0, 1.0), (2.0, 1.0), (np.nan, 1.0), (0.0, np.nan)])
def test_interval_whose_ends_are_not_in_order_is_refused(ends):
  with pytest.raises(ValueError, match="interval: expected low below high"):
    interval(*ends)


def test_moments_of_a_spectrum_on_its_interval_without_a_margin_are_bounded():
  low, high = 0.1, 0.7  # whose half difference rounds
  center, half_width = interval(low, high, margin=0.0)
  mu = moments([low, high], np.full(2, 0.5), 100, center=center, half_width=half_width)
  assert np.abs(mu).max() <= 1 + 4 * EPS * 100**2


# Mistakes.


@pytest.mark.parametrize("bad", [0, -1e-5, np.nan, np.inf])
def test_sigma_squared_that_is_not_above_0_is_refused(bad):
  with pytest.raises(ValueError, match="^sigma_squared: expected"):
    density(np.ones(3), GRID, bad, **INSIDE)


@pytest.mark.parametrize("bad", [0, -1.0, np.nan, np.inf])
def test_half_width_that_is_not_above_0_is_refused(bad):
  with pytest.raises(ValueError, match="^half_width: expected"):
    density(np.ones(3), GRID, 0.01, center=0.0, half_width=bad)


@pytest.mark.parametrize("bad", [0, -1e-5, np.nan, np.inf])
def test_kernel_coefficients_refuse_a_sigma_squared_that_is_not_above_0(bad):
  with pytest.raises(ValueError, match="^sigma_squared: expected"):
    kernel_coefficients(0.0, bad, 3)


@pytest.mark.parametrize(("bad", "error"), [(0, ValueError), (2.0, TypeError), (True, TypeError)])
def test_products_that_are_not_an_integer_of_at_least_1_are_refused(bad, error):
  with pytest.raises(error, match="^products: expected an integer of at least 1"):
    estimated_moments(lambda u: u, probe(0, 0, N), bad, **INSIDE)


def test_products_that_are_nan_are_refused():
  with pytest.raises(ValueError):
    estimated_moments(lambda u: np.nan * u, probe(0, 0, N), 3, **INSIDE)
