"""Densities on a grid, distances between them, and the errors that theory predicts."""

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from tf_hessian.numerics import density as density_lib
from tf_hessian.numerics.density import (
  density,
  density_grid,
  kernel_variance,
  l1_distance,
  predicted_l1,
  predicted_stderr,
  smooth,
)
from tf_hessian.numerics.probes import probe

EPS = np.finfo(np.float64).eps


def random_draws(counts=(3, 8, 5), seed=0, low=-1.0, high=3.0):
  """Returns nodes and weights of draws with these numbers of nodes."""
  rng = np.random.default_rng(seed)
  nodes = [np.sort(rng.uniform(low, high, m)) for m in counts]
  return nodes, [rng.dirichlet(np.ones(m)) for m in counts]


def gaussians(nodes, weights, grid, variance):
  """Returns the same sum of Gaussians by scipy.stats."""
  return scipy.stats.norm.pdf(grid[:, None], nodes, np.sqrt(variance)) @ weights


def rounding(grid, variance):
  """Returns the relative error of a Gaussian up to nine sigma off its mean.

  The exponent z^2 / 2, z = (t - theta) / sigma, has the error z eps |t| / sigma + 2 eps z^2.
  """
  return EPS * (9 * np.abs(grid).max() / np.sqrt(variance) + 2 * 81)


@pytest.mark.parametrize("variance", [1e-5, 1e-2, 4.0])
def test_density_integrates_to_1_on_its_own_grid(variance):
  d = density(*random_draws(), variance)
  total = scipy.integrate.trapezoid(d.values, d.grid)
  assert abs(total - 1) <= 4 * rounding(d.grid, variance)


def test_each_draw_integrates_to_1_on_the_common_grid():
  d = density(*random_draws(), 1e-3)
  totals = scipy.integrate.trapezoid(d.draws, d.grid, axis=-1)
  assert np.abs(totals - 1).max() <= 4 * rounding(d.grid, 1e-3)


@pytest.mark.parametrize("variance", [1e-4, 0.3])
def test_smooth_is_a_sum_of_normal_densities(variance):
  (nodes,), (weights,) = random_draws((8,))
  grid = np.linspace(-2, 4, 999)
  expected = gaussians(nodes, weights, grid, variance)
  peak = 1 / np.sqrt(2 * np.pi * variance)
  tolerance = 4 * rounding(grid, variance) * peak
  np.testing.assert_allclose(smooth(nodes, weights, grid, variance), expected, atol=tolerance)


def test_smooth_takes_nodes_in_any_order():
  grid = np.linspace(-1, 1, 99)
  first = smooth(np.array([0.5, -0.5]), np.array([0.25, 0.75]), grid, 0.01)
  second = smooth(np.array([-0.5, 0.5]), np.array([0.75, 0.25]), grid, 0.01)
  np.testing.assert_allclose(first, second, rtol=2 * EPS)


def test_smooth_is_zero_far_from_all_nodes():
  assert not smooth(np.array([0.0]), np.array([1.0]), np.array([-2.0, 2.0]), 1e-4).any()


def test_draws_are_smoothed_one_by_one():
  nodes, weights = random_draws()
  d = density(nodes, weights, 1e-3)
  expected = [smooth(t, w, d.grid, 1e-3) for t, w in zip(nodes, weights, strict=True)]
  np.testing.assert_array_equal(d.draws, expected)


def test_values_are_the_mean_over_draws():
  d = density(*random_draws(), 1e-3)
  np.testing.assert_array_equal(d.values, d.draws.mean(axis=0))


def test_stderr_is_the_standard_error_of_the_mean_over_draws():
  d = density(*random_draws(), 1e-3)
  np.testing.assert_allclose(d.stderr, scipy.stats.sem(d.draws), rtol=3 * EPS)


def test_stderr_of_a_single_draw_is_nan():
  d = density(*random_draws((4,)), 1e-3)
  assert d.stderr.shape == d.grid.shape and np.all(np.isnan(d.stderr))


def test_density_unpacks_as_grid_values_stderr():
  d = density(*random_draws(), 1e-3)
  assert [x is y for x, y in zip(d, (d.grid, d.values, d.stderr), strict=True)] == [True] * 3


def test_own_grid_is_kept():
  grid = np.array([-1.0, 0.0, 0.5, 7.0])
  np.testing.assert_array_equal(density(*random_draws(), 1, grid=grid[:3]).grid, grid[:3])
  with pytest.warns(UserWarning, match="grid: 1 of the density"):
    np.testing.assert_array_equal(density(*random_draws(), 1e-2, grid=grid).grid, grid)


@pytest.mark.parametrize("step, share", [(1.9, 0), (2.1, 0.25)])
@pytest.mark.filterwarnings("default")
def test_mass_between_points_too_far_apart_to_show_it_is_said(step, share, recwarn):
  sigma = 0.1
  # A quarter lies between coarse points, another beyond the end, a half where they are fine.
  grid = np.concatenate([-1 + np.arange(5) * step * sigma, np.linspace(0, 1, 101)])
  nodes, weights = np.array([-0.55, 0.5, 7.0]), np.array([0.25, 0.5, 0.25])
  density([nodes], [weights], sigma**2, grid=grid)
  assert [f"grid: {share:.3g} of the density" in str(w.message) for w in recwarn] == [True] * (
    share > 0
  )


@pytest.mark.parametrize("low, high", [(-1, 1), (-1e6, 1e6)])
def test_nothing_is_said_of_the_default_grid_and_of_gaps_without_mass(low, high):
  density([np.array([low, 0.0, high])], [np.full(3, 1 / 3)], 1e-4)  # or the warning is an error
  density([np.array([0.0])], [np.ones(1)], 1e-4, grid=np.append(np.linspace(-1, 1, 2001), high * 5))


def test_missing_mass_is_zero_on_the_default_grid():
  # Mass beyond nine sigma is 2e-19; what is left is the rounding of the weights' sums.
  assert density(*random_draws(), 1e-3).missing_mass <= 8 * EPS


@pytest.mark.parametrize("ends", [(-0.3, 1.1), (1.0, 9.0), (-9.0, 0.2), (5.0, 6.0)])
def test_missing_mass_is_what_lies_beyond_the_ends_of_the_grid(ends):
  nodes, weights = random_draws()
  d = density(nodes, weights, 0.09, grid=np.linspace(*ends, 50))
  outside = [
    (scipy.stats.norm.cdf(ends[0], t, 0.3) + scipy.stats.norm.sf(ends[1], t, 0.3)) @ w
    for t, w in zip(nodes, weights, strict=True)
  ]
  np.testing.assert_allclose(d.missing_mass, np.mean(outside), rtol=0, atol=16 * EPS)


def test_density_is_not_renormalised_on_a_grid_that_cuts_off_mass():
  d = density([np.array([0.0])], [np.array([1.0])], 1.0, grid=np.linspace(0, 10, 5001))
  total = scipy.integrate.trapezoid(d.values, d.grid)
  # The trapezoid rule has no error of second order: the slope is zero at both ends.
  step = d.grid[1] - d.grid[0]
  assert abs(total - 0.5) <= step**4


def test_values_on_a_cut_grid_are_those_of_the_full_density():
  nodes, weights = random_draws()
  full = density(nodes, weights, 1e-2)
  cut = density(nodes, weights, 1e-2, grid=full.grid[100:200])
  np.testing.assert_array_equal(cut.values, full.values[100:200])


@pytest.mark.parametrize("relative", [False, True])
def test_record_holds_the_variance_that_was_used(relative):
  nodes, weights = random_draws()
  d = density(nodes, weights, 1e-3, relative=relative)
  assert d.sigma_squared == kernel_variance(nodes, 1e-3, relative=relative)


def test_relative_variance_is_multiplied_by_the_mean_spread():
  nodes = [np.array([-1.0, 2.0, 5.0]), np.array([0.0, 3.0])]
  # Mean of the largest nodes 4, of the smallest -1/2.
  expected = 1e-3 * (4 + 0.5 + 0.02)
  np.testing.assert_allclose(kernel_variance(nodes, 1e-3, relative=True), expected, rtol=4 * EPS)


def test_relative_variance_of_a_narrow_spectrum_is_unchanged():
  assert kernel_variance([np.array([0.0, 0.9])], 1e-3, relative=True) == 1e-3


def test_variance_that_is_not_relative_is_unchanged():
  assert kernel_variance([np.array([-50.0, 50.0])], 1e-3) == 1e-3


@pytest.mark.parametrize("value", [0, -1e-5, np.nan, np.inf])
@pytest.mark.parametrize("relative", [False, True])
def test_sigma_squared_that_is_not_above_0_is_refused(value, relative):
  with pytest.raises(ValueError, match="sigma_squared"):
    density(*random_draws(), value, relative=relative)


@pytest.mark.parametrize("value", [0, -1e-5, np.nan, np.inf])
def test_grid_for_a_sigma_squared_that_is_not_above_0_is_refused(value):
  with pytest.raises(ValueError, match="sigma_squared"):
    density_grid([np.zeros(1)], value)


@pytest.mark.parametrize(
  "grid", [[0.0], [1.0, 0.0], [0.0, 0.0, 1.0], [0.0, np.nan], [0.0, np.inf], [[0.0, 1.0]], 1.0]
)
def test_bad_grid_is_refused(grid):
  with pytest.raises(ValueError, match="grid"):
    density(*random_draws(), 1e-3, grid=grid)


def test_different_numbers_of_nodes_and_weights_are_refused():
  with pytest.raises(ValueError):
    density([np.zeros(2)], [np.ones(1)], 1e-3)


def test_different_numbers_of_draws_are_refused():
  with pytest.raises(ValueError):
    density([np.zeros(1), np.zeros(1)], [np.ones(1)], 1e-3)


def test_grid_covers_every_draws_extreme_node_and_several_sigma():
  nodes = [np.array([-7.0, 0.0]), np.array([0.0, 1.0]), np.array([0.5, 11.0])]
  grid = density_grid(nodes, 0.04)
  assert grid[0] <= -7 - 6 * 0.2 and grid[-1] >= 11 + 6 * 0.2


@pytest.mark.parametrize("variance", [1e-5, 0.04, 9.0])
def test_grid_has_twelve_points_a_sigma_wherever_a_node_is_near(variance):
  nodes = random_draws()[0]
  grid = density_grid(nodes, variance)
  sigma = np.sqrt(variance)
  steps = np.diff(grid)
  fine = steps <= sigma / 12 + 4 * EPS * np.abs(grid).max()
  near = np.abs(np.concatenate(nodes)[:, None] - (grid[:-1] + grid[1:]) / 2).min(axis=0)
  assert np.all(near[~fine] > 9 * sigma)
  # One lattice, whatever is left out of it.
  np.testing.assert_allclose(steps * 12 / sigma, np.round(steps * 12 / sigma), atol=1e-9 / sigma)


def test_wide_spectrum_with_outliers_needs_few_points():
  grid = density_grid([np.append(np.linspace(0, 0.01, 80), [100.0, 3000.0])], 1e-5)
  assert grid.size < 1000
  weights = np.full(82, 1 / 82)
  values = smooth(np.append(np.linspace(0, 0.01, 80), [100.0, 3000.0]), weights, grid, 1e-5)
  # What a straight line over a gap of 3,000 adds to the tails at 9 sigma: 3000 / 2 * 2e-16.
  assert abs(scipy.integrate.trapezoid(values, grid) - 1) <= 1e-12


def test_too_many_points_are_refused_with_what_to_do():
  with pytest.raises(ValueError, match="sigma_squared = 1e-14 need .* points; give a larger sigma"):
    density_grid([np.linspace(0, 1, 20_000)], 1e-14)


@pytest.mark.parametrize("variance", [1e-5, 1e-18, 1e-20])
def test_spectrum_1e_8_wide_has_a_finite_density_of_mass_1(variance):
  nodes = [np.array([-1e-8, 0.0, 1e-8])]
  d = density(nodes, [np.array([0.25, 0.5, 0.25])], variance)
  total = scipy.integrate.trapezoid(d.values, d.grid)
  assert np.all(np.isfinite(d.values)) and abs(total - 1) <= 4 * rounding(d.grid, variance)


def test_density_of_a_zero_hessian_is_one_gaussian():
  d = density([np.zeros(1)] * 3, [np.ones(1)] * 3, 1e-5)
  expected = scipy.stats.norm.pdf(d.grid, 0, np.sqrt(1e-5))
  np.testing.assert_allclose(d.values, expected, rtol=2 * rounding(d.grid, 1e-5))


def test_density_of_a_zero_hessian_has_no_standard_error():
  d = density([np.zeros(1)] * 3, [np.ones(1)] * 3, 1e-5)
  # The mean of three equal numbers is rounded, which leaves each off by at most that.
  assert np.all(d.stderr <= EPS * d.values)


@pytest.mark.parametrize("factor", [2.0**-20, 2.0**20])
def test_scaled_eigenvalues_and_sigma_give_the_scaled_density(factor):
  nodes, weights = random_draws()
  d = density(nodes, weights, 1e-3)
  scaled = density([factor * t for t in nodes], weights, factor**2 * 1e-3)
  # Powers of 2 scale without rounding.
  np.testing.assert_array_equal(scaled.grid, factor * d.grid)
  np.testing.assert_array_equal(scaled.values, d.values / factor)


@pytest.mark.parametrize("nodes", [np.array([np.nan]), np.array([0.0, np.nan])])
def test_nodes_that_are_nan_are_refused(nodes):
  weights = [np.full(nodes.size, 1 / nodes.size)]
  with pytest.raises(ValueError):
    density([nodes], weights, 1e-3, grid=np.linspace(-1, 1, 9))


@pytest.mark.parametrize("shift", [1e-3, 0.1, 1.0, 5.0, 40.0])
def test_l1_distance_of_two_gaussians(shift):
  sigma = 0.3
  d = shift * sigma
  nodes = [np.array([0.0]), np.array([d])]
  grid = density_grid(nodes, sigma**2)
  first, second = (smooth(t, np.ones(1), grid, sigma**2) for t in nodes)
  # The difference changes sign half-way, with this slope; a kink inside a step costs at most a
  # quarter of its square times the slope.
  slope = d / sigma**3 * scipy.stats.norm.pdf(shift / 2)
  tolerance = slope * (grid[1] - grid[0]) ** 2 / 4 + 4 * rounding(grid, sigma**2)
  expected = 2 * (2 * scipy.stats.norm.cdf(shift / 2) - 1)
  assert abs(l1_distance(grid, first, second) - expected) <= tolerance


def test_l1_distance_of_equal_densities_is_0():
  grid = np.linspace(-1, 1, 9)
  assert l1_distance(grid, grid**2, grid**2) == 0


def test_l1_distance_is_symmetric():
  d = density(*random_draws((3, 4)), 1e-2)
  assert l1_distance(d.grid, d.draws[0], d.draws[1]) == l1_distance(d.grid, d.draws[1], d.draws[0])


def test_l1_distance_of_several_draws_to_one_density():
  d = density(*random_draws(), 1e-2)
  expected = [l1_distance(d.grid, draw, d.values) for draw in d.draws]
  np.testing.assert_allclose(l1_distance(d.grid, d.draws, d.values), expected, rtol=8 * EPS)


def quadratic_forms(eigenvalues, grid, variance, draws):
  """Returns v' f_t(H) v at each grid point t, of many draws, in the eigenvectors' basis."""
  n = len(eigenvalues)
  v = np.array([probe(0, i, n) for i in range(draws)])
  return v**2 @ scipy.stats.norm.pdf(grid, eigenvalues[:, None], np.sqrt(variance))


SPECTRA = pytest.mark.parametrize(
  "eigenvalues",
  [
    np.linspace(-1, 1, 50),
    np.append(np.random.default_rng(0).exponential(0.2, 48), [2.0, 3.0]),
    np.repeat([0.0, 1.0], [40, 10]),
  ],
  ids=["uniform", "outliers", "two-valued"],
)


@SPECTRA
@pytest.mark.parametrize("num_draws", [1, 10])
def test_predicted_stderr_is_that_of_many_draws(eigenvalues, num_draws):
  grid, variance, draws = np.linspace(-1.5, 3.5, 41), 0.05, 4000
  samples = quadratic_forms(eigenvalues, grid, variance, draws)
  predicted = predicted_stderr(eigenvalues, grid, variance, num_draws) * np.sqrt(num_draws)
  deviation = samples.std(axis=0, ddof=1)
  # Relative standard error of a standard deviation; a normal variable would have kurtosis 3 and
  # 1 / sqrt(2 N), but these forms are heavier.
  kurtosis = scipy.stats.kurtosis(samples, axis=0, fisher=False)
  tolerance = 5 * deviation * np.sqrt((kurtosis - 1) / (4 * draws))
  # Where all kernels are equal the prediction is the root of the rounding of mean(f^2) - mean(f)^2.
  square = smooth(eigenvalues, np.full(50, 1 / 50), grid, variance) ** 2
  tolerance += np.sqrt(2 * square * 2 * rounding(grid, variance) / 52)
  assert np.all(np.abs(deviation - predicted) <= tolerance)


@SPECTRA
def test_mean_of_many_draws_is_the_density_of_all_eigenvalues(eigenvalues):
  grid, variance, draws = np.linspace(-1.5, 3.5, 41), 0.05, 4000
  samples = quadratic_forms(eigenvalues, grid, variance, draws)
  exact = smooth(eigenvalues, np.full(50, 1 / 50), grid, variance)
  stderr = predicted_stderr(eigenvalues, grid, variance, draws)
  assert np.all(np.abs(samples.mean(axis=0) - exact) <= 5 * stderr)


def test_predicted_stderr_falls_as_the_root_of_the_number_of_draws():
  eigenvalues, grid = np.linspace(0, 1, 20), np.linspace(-1, 2, 9)
  one, four = (predicted_stderr(eigenvalues, grid, 0.1, k) for k in (1, 4))
  np.testing.assert_allclose(one, 2 * four, rtol=2 * EPS)


def test_predicted_stderr_of_equal_eigenvalues_is_0():
  # v' f(c I) v = f(c) for every v of length 1; the difference of two equal squares is rounding.
  grid, variance = np.linspace(-1, 3, 99), 0.1
  stderr = predicted_stderr(np.ones(20), grid, variance, 1)
  peak = 1 / np.sqrt(2 * np.pi * variance)
  assert stderr.max() <= peak * np.sqrt(2 * 20 * rounding(grid, variance) / 22)


@SPECTRA
def test_predicted_l1_is_the_mean_distance_of_many_runs(eigenvalues):
  variance, runs, num_draws = 0.05, 400, 10
  grid = density_grid([eigenvalues], variance)[::4]
  samples = quadratic_forms(eigenvalues, grid, variance, runs * num_draws)
  means = samples.reshape(runs, num_draws, -1).mean(axis=1)
  exact = smooth(eigenvalues, np.full(50, 1 / 50), grid, variance)
  distances = l1_distance(grid, means, exact)
  stderr = scipy.stats.sem(distances)
  predicted = predicted_l1(eigenvalues, grid, variance, num_draws)
  # A normal error is the worst case; a chi-square one of ten draws is 1.7% less.
  mean = distances.mean()
  assert mean - 5 * stderr <= predicted <= 1.017 * (mean + 5 * stderr)


def test_predicted_l1_integrates_the_mean_absolute_value_of_a_normal_error():
  eigenvalues, grid = np.linspace(0, 1, 20), np.linspace(-1, 2, 999)
  stderr = predicted_stderr(eigenvalues, grid, 0.01, 10)
  expected = scipy.stats.halfnorm.mean() * scipy.integrate.trapezoid(stderr, grid)
  np.testing.assert_allclose(predicted_l1(eigenvalues, grid, 0.01, 10), expected, rtol=8 * EPS)


@pytest.mark.parametrize(("num_draws", "percent"), [(1, 17), (10, 1.7)])
def test_excess_over_a_chi_square_error_is_what_theory_says(num_draws, percent):
  # Mean absolute deviation of a gamma variable of shape a is 2 a^a e^-a / Gamma(a); a chi-square
  # one of k degrees is twice a gamma variable of shape k / 2, with variance 2 k.
  a = num_draws / 2
  deviation = 4 * np.exp(a * np.log(a) - a - scipy.special.gammaln(a))
  excess = 100 * (np.sqrt(2 / np.pi) * np.sqrt(2 * num_draws) / deviation - 1)
  assert abs(excess - percent) <= 0.5 * 10 ** np.floor(np.log10(percent) - 1)


@pytest.mark.parametrize("node", [1e13, -4e12])
def test_single_node_whose_kernel_float64_can_not_resolve_is_refused(node):
  with pytest.raises(ValueError, match="too far apart, or from 0"):
    density([np.array([node])], [np.ones(1)], 1e-5)
  assert density([np.array([node])], [np.ones(1)], 1.0).values.max() == pytest.approx(0.398942)


def test_margin_keeps_less_than_rounding_outside():
  assert 2 * scipy.stats.norm.sf(density_lib._MARGIN_SIGMAS) < EPS


def test_predicted_stderr_of_weighted_nodes_is_that_of_repeated_eigenvalues():
  nodes, counts, grid = np.array([-0.5, 0.0, 1.0]), np.array([5, 30, 1]), np.linspace(-2, 2, 81)
  repeated = predicted_stderr(np.repeat(nodes, counts), grid, 0.05, 3)
  weighted = predicted_stderr(nodes, grid, 0.05, 3, weights=counts / 36, n=36)
  # Both are roots of mean(f^2) - mean(f)^2, whose terms are sums of up to 36 numbers.
  scale = smooth(nodes, counts / 36, grid, 0.05).max()
  assert np.abs(repeated**2 - weighted**2).max() <= 2 * 36 * EPS * scale**2
  distances = (
    predicted_l1(np.repeat(nodes, counts), grid, 0.05, 3),
    predicted_l1(nodes, grid, 0.05, 3, weights=counts / 36, n=36),
  )
  assert distances[0] == pytest.approx(distances[1], rel=1e-6)


@pytest.mark.parametrize("sigma_squared", [1e-300, 1e-320])
def test_grid_of_nodes_too_far_apart_for_the_kernel_is_refused(sigma_squared):
  with pytest.raises(ValueError, match="grid: eigenvalues from .* give a larger"):
    density_grid([np.array([-1.0, 0.0, 5.0])], sigma_squared)
