"""Deflated estimates: which eigenvalues are isolated, what weights they get, what noise is left."""

import numpy as np
import pytest
import scipy.stats

from tf_hessian.numerics.deflation import deflate, isolated, projected_quadratures
from tf_hessian.numerics.density import density_grid, l1_distance
from tf_hessian.numerics.lanczos import Lanczos
from tf_hessian.numerics.probes import probe
from tf_hessian.numerics.quadrature import gauss_quadrature, ritz_residuals
from tf_hessian.numerics.results import Quadrature

EPS = np.finfo(np.float64).eps
N = 60
BULK = np.linspace(-0.1, 0.3, N - 4)
OUTLIERS = np.array([-2.0, 1.0, 2.0, 4.0])
SPECTRUM = np.sort(np.append(BULK, OUTLIERS))
P = len(OUTLIERS)
KNOWN = np.isin(SPECTRUM, OUTLIERS)
# Error of a weight: that of products, sqrt(n) eps |H|, over the gap of the bulk.
BY_GAP = np.sqrt(N) * EPS * 4 / (0.4 / (N - 5))


def run(h, draw, steps, seed=0):
  """Returns the quadrature of one draw and its residuals."""
  lanczos = Lanczos.start(probe(seed, draw, len(h)), steps)
  lanczos.run(lambda v: h @ v if h.ndim == 2 else h * v)
  t = lanczos.tridiagonal()
  return gauss_quadrature(*t), ritz_residuals(*t, lanczos.betas[-1])


def deflated(h, draws, steps, seed=0):
  quadratures, residuals = zip(*(run(h, d, steps, seed) for d in range(draws)), strict=True)
  return deflate(quadratures, residuals, len(h))


def exact_draws(eigenvalues, vectors):
  """Returns the spectral measures of vectors in the eigenvectors' basis, a node an eigenvalue."""
  return [Quadrature(eigenvalues, v**2) for v in vectors]


def known_residuals(draws, known=KNOWN):
  """Returns residuals as if only these eigenvalues had converged."""
  return [np.where(known, 0.0, 1.0)] * draws


def complement(h, v, known):
  """Returns the measure that deflation should give, by eigenvectors."""
  n = len(h)
  eigenvalues, q = np.linalg.eigh(h)
  weights = np.where(known, 0.0, (q.T @ v) ** 2)
  weights *= (1 - known.sum() / n) / weights.sum()
  return eigenvalues, np.where(known, 1 / n, weights)


# Which nodes are isolated.


def test_node_is_isolated_if_its_residual_is_a_thousandth_of_the_gap():
  nodes = np.array([0.0, 1.0, 3.0])
  assert list(isolated(nodes, np.array([0.99e-3, 0.99e-3, 1.99e-3]))) == [0, 1, 2]


def test_node_is_not_isolated_if_its_residual_is_more_than_a_thousandth_of_the_gap():
  nodes = np.array([0.0, 1.0, 3.0])
  assert list(isolated(nodes, np.array([1.01e-3, 1.01e-3, 2.01e-3]))) == []


def test_gap_is_that_to_the_nearer_neighbour():
  # Of the middle node, 0.1 below and 5 above.
  nodes, residuals = np.array([0.0, 0.1, 5.1]), np.array([1.0, 1e-3, 1.0])
  assert list(isolated(nodes, residuals)) == []
  assert list(isolated(nodes, residuals / 11)) == [1]


def test_equal_nodes_are_not_isolated():
  assert list(isolated(np.array([0.0, 1.0, 1.0]), np.zeros(3))) == [0]


def test_single_node_is_isolated_if_its_residual_is_0():
  assert list(isolated(np.array([2.0]), np.array([0.0]))) == [0]
  assert list(isolated(np.array([2.0]), np.array([1e-9]))) == []


def test_outliers_of_a_lanczos_run_are_isolated(symmetric):
  q, residuals = run(symmetric(SPECTRUM), 0, 20)
  found = q.nodes[isolated(q.nodes, residuals)]
  # Residuals of a thousandth of the gap leave 1e-6 of it.
  assert np.all(np.abs(found[:, None] - OUTLIERS).min(axis=0) <= 2e-6)


# Weights.

DRAWS = pytest.mark.parametrize("draws", [1, 3, 10])


@DRAWS
@pytest.mark.parametrize("steps", [8, 20, 40])
def test_weights_of_each_draw_sum_to_1(symmetric, draws, steps):
  for q in deflated(symmetric(SPECTRUM), draws, steps).quadratures:
    assert abs(q.weights.sum() - 1) <= len(q.weights) * EPS


@DRAWS
def test_outliers_weigh_exactly_1_over_n(symmetric, draws):
  result = deflated(symmetric(SPECTRUM), draws, 20)
  for q in result.quadratures:
    outliers = np.abs(q.nodes[:, None] - OUTLIERS).argmin(axis=0)
    assert np.all(q.weights[outliers] == 1 / N)


def test_nodes_are_those_of_the_draws(symmetric):
  h = symmetric(SPECTRUM)
  for draw, q in enumerate(deflated(h, 3, 20).quadratures):
    np.testing.assert_array_equal(q.nodes, run(h, draw, 20)[0].nodes)


def test_quadratures_given_are_not_changed():
  q = exact_draws(SPECTRUM, [probe(0, 0, N)])
  deflate(q, known_residuals(1), N)
  np.testing.assert_array_equal(q[0].weights, probe(0, 0, N) ** 2)


def test_eigenvalues_are_the_outliers_ascending(symmetric):
  result = deflated(symmetric(SPECTRUM), 3, 20)
  # Those of the bulk's ends converge late.
  np.testing.assert_allclose(result.eigenvalues, OUTLIERS, rtol=0, atol=N * EPS * 4)


def test_weights_before_are_those_of_the_draws():
  vectors = [probe(0, d, N) for d in range(3)]
  result = deflate(exact_draws(SPECTRUM, vectors), known_residuals(3), N)
  np.testing.assert_array_equal(result.weights_before, np.array(vectors)[:, KNOWN] ** 2)


def test_weights_before_of_a_lanczos_run_are_squared_overlaps():
  before = deflated(SPECTRUM, 3, 20).weights_before
  expected = [probe(0, d, N)[KNOWN] ** 2 for d in range(3)]
  # Residuals are 2e-14 at most, so that what is left is rounding.
  np.testing.assert_allclose(before, expected, rtol=0, atol=N * EPS)


@DRAWS
def test_deflated_draws_are_the_measures_in_the_complement(symmetric, draws):
  h = symmetric(SPECTRUM)
  quadratures = [run(h, d, N)[0] for d in range(draws)]
  for draw, q in enumerate(deflate(quadratures, known_residuals(draws), N).quadratures):
    nodes, weights = complement(h, probe(0, draw, N), KNOWN)
    np.testing.assert_allclose(q.nodes, nodes, rtol=0, atol=N * EPS * 4)
    np.testing.assert_allclose(q.weights, weights, rtol=0, atol=BY_GAP)


@DRAWS
def test_known_complete_spectrum_weighs_1_over_n_each(symmetric, draws):
  result = deflated(symmetric(SPECTRUM), draws, N)
  for q in result.quadratures:
    np.testing.assert_array_equal(q.weights, np.full(N, 1 / N))
  np.testing.assert_allclose(result.eigenvalues, SPECTRUM, rtol=0, atol=N * EPS * 4)


def test_known_complete_spectrum_of_one_eigenvalue_is_kept():
  q = [Quadrature(np.array([2.0]), np.ones(1))]
  result = deflate(q, [np.zeros(1)], 1)
  assert (list(result.eigenvalues), list(result.quadratures[0].weights)) == ([2.0], [1.0])


def test_nothing_isolated_leaves_the_draws_as_they_are():
  q = exact_draws(SPECTRUM, [probe(0, 0, N), probe(0, 1, N)])
  result = deflate(q, [np.ones(N)] * 2, N)
  assert (result.eigenvalues.shape, result.weights_before.shape) == ((0,), (2, 0))
  for before, after in zip(q, result.quadratures, strict=True):
    np.testing.assert_allclose(after.weights, before.weights, rtol=N * EPS)


# Eigenvalues that keep their weights.

ZEROS = 30
MULTIPLE = np.append(np.zeros(ZEROS), np.append(np.linspace(0.1, 0.3, N - ZEROS - 3), [1, 2, 4.0]))


def sole(eigenvalues, v):
  """Returns the measure of a vector with one node for each distinct eigenvalue."""
  nodes, place = np.unique(eigenvalues, return_inverse=True)
  return Quadrature(nodes, np.bincount(place, v**2))


@DRAWS
def test_eigenvalue_of_high_multiplicity_keeps_its_weight_relative_to_the_rest(draws):
  quadratures = [sole(MULTIPLE, probe(0, d, N)) for d in range(draws)]
  residuals = [np.where((q.nodes < 0.05) | (q.nodes > 0.5), 0.0, 1.0) for q in quadratures]
  result = deflate(quadratures, residuals, N)
  np.testing.assert_array_equal(result.eigenvalues, [1, 2, 4])
  for before, after in zip(quadratures, result.quadratures, strict=True):
    rest = before.weights[:-3].sum()
    expected = before.weights[:-3] * (1 - 3 / N) / rest
    np.testing.assert_allclose(after.weights[:-3], expected, rtol=N * EPS)


def test_many_zeros_of_a_lanczos_run_are_not_taken_for_one(symmetric):
  result = deflated(symmetric(MULTIPLE), 3, 25)
  np.testing.assert_allclose(result.eigenvalues[-3:], [1, 2, 4], rtol=0, atol=N * EPS * 4)
  assert np.abs(result.eigenvalues).min() > 0.05
  mass = [q.weights[np.abs(q.nodes) < 0.05].sum() for q in result.quadratures]
  # Beta-distributed: mean 1/2, standard deviation 0.06; four of those.
  assert np.all(np.abs(np.array(mass) - ZEROS / N) <= 4 * 0.065)


@pytest.mark.parametrize("draws", [1, 5, 40])
@pytest.mark.parametrize(("side", "taken"), [(0.99, True), (1.01, False)], ids=["below", "above"])
def test_weights_beyond_the_chi_square_quantile_are_taken_for_several(draws, side, taken):
  # A mean weight that one eigenvalue exceeds with a probability of 1e-4.
  mean = side * scipy.stats.chi2.isf(1e-4, draws) / (draws * 1000)
  q = [Quadrature(np.array([0.0, 1.0]), np.array([1 - mean, mean]))] * draws
  result = deflate(q, [np.array([1.0, 0.0])] * draws, 1000)
  assert list(result.eigenvalues) == ([1.0] if taken else [])


@pytest.mark.parametrize(
  "eigenvalues",
  [
    [3.0, 0, 0, 0],
    [1.0, 1, 2, 3, 4, 5, 6, 7],
    [7.0, 6, 5, 4, 3, 2, 1, 0, 0, 0],
    [1.0, 1],
  ],
  ids=str,
)
@pytest.mark.parametrize("draws", [1, 10])
def test_nodes_that_leave_nothing_for_the_others_keep_their_weights(eigenvalues, draws):
  n, order = len(eigenvalues), len(np.unique(eigenvalues))
  quadratures = [sole(np.sort(eigenvalues), probe(0, d, n)) for d in range(draws)]
  residuals = [np.zeros(order)] * draws
  result = deflate(quadratures, residuals, n)
  assert result.eigenvalues.size == 0
  for before, after in zip(quadratures, result.quadratures, strict=True):
    assert before.weights.size == order
    np.testing.assert_allclose(after.weights, before.weights, rtol=n * EPS)


@pytest.mark.parametrize("draws", [1, 10])
def test_all_single_eigenvalues_weigh_the_same(draws):
  quadratures = [sole(np.arange(6.0), probe(0, d, 6)) for d in range(draws)]
  result = deflate(quadratures, [np.zeros(6)] * draws, 6)
  assert [q.weights.tolist() for q in result.quadratures] == [[1 / 6] * 6] * draws


def test_double_eigenvalue_is_seen_in_many_draws():
  # The sum of 200 chi-square variables of mean 2 is 400 with a deviation of 28; the quantile, 280.
  eigenvalues = np.append(BULK, [1.0, 2.0, 4.0, 4.0])
  quadratures = [sole(eigenvalues, probe(0, d, N)) for d in range(100)]
  residuals = [np.where(quadratures[0].nodes > 0.5, 0.0, 1.0)] * 100
  np.testing.assert_array_equal(deflate(quadratures, residuals, N).eigenvalues, [1, 2])


@pytest.mark.parametrize("draw", [0, 1, 2])
def test_eigenvalue_that_has_not_converged_in_one_draw_keeps_its_weight(draw):
  quadratures = exact_draws(SPECTRUM, [probe(0, d, N) for d in range(3)])
  residuals = known_residuals(3)
  residuals[draw] = np.where(SPECTRUM == 2, 0.5, residuals[draw])
  result = deflate(quadratures, residuals, N)
  np.testing.assert_array_equal(result.eigenvalues, [-2, 1, 4])
  for before, after in zip(quadratures, result.quadratures, strict=True):
    kept = SPECTRUM == 2
    rest = before.weights[~KNOWN | kept].sum()
    expected = before.weights[kept] * (1 - 3 / N) / rest
    np.testing.assert_allclose(after.weights[kept], expected, rtol=N * EPS)


def test_eigenvalue_that_one_draw_does_not_see_keeps_its_weight():
  full, part = exact_draws(SPECTRUM, [probe(0, 0, N), probe(0, 1, N)])
  seen = SPECTRUM != 2
  part = Quadrature(part.nodes[seen], part.weights[seen] / part.weights[seen].sum())
  residuals = [known_residuals(1)[0], known_residuals(1)[0][seen]]
  np.testing.assert_array_equal(deflate([full, part], residuals, N).eigenvalues, [-2, 1, 4])


def test_draw_in_which_nothing_has_converged_leaves_all_weights_as_they_are():
  quadratures = exact_draws(SPECTRUM, [probe(0, d, N) for d in range(2)])
  result = deflate(quadratures, [known_residuals(1)[0], np.ones(N)], N)
  assert result.eigenvalues.size == 0


def test_node_that_two_of_another_draw_match_leaves_weights_that_sum_to_1():
  # The second draw has not told 1 and 1.001 apart.
  first = Quadrature(np.array([0.0, 1.0, 1.001]), np.array([0.8, 0.1, 0.1]))
  second = Quadrature(np.array([0.0, 1.0005]), np.array([0.8, 0.2]))
  result = deflate([first, second], [np.full(3, 1e-9), np.array([1e-9, 5e-4])], 10)
  assert abs(result.quadratures[1].weights.sum() - 1) <= 3 * EPS


def test_outliers_of_products_rounded_to_float32_are_deflated(symmetric):
  h = symmetric(SPECTRUM)
  quadratures, residuals = [], []
  for draw in range(3):
    lanczos = Lanczos.start(probe(0, draw, N), 40, tolerance=2.0**-24)
    lanczos.run(lambda v: (h @ v).astype(np.float32))
    quadratures.append(gauss_quadrature(*lanczos.tridiagonal()))
    residuals.append(ritz_residuals(*lanczos.tridiagonal(), lanczos.betas[-1]))
  result = deflate(quadratures, residuals, N)
  distances = np.abs(result.eigenvalues - OUTLIERS[:, None]).min(axis=1, initial=np.inf)
  assert distances.max() <= 4 * 2.0**-24


# The noise that is left.


def mass_of_outliers(q):
  return q.weights[(q.nodes < -0.5) | (q.nodes > 0.5)].sum()


def test_mass_of_outliers_has_no_error_after_deflation():
  for seed in range(200):
    q, residuals = run(SPECTRUM, 0, 12, seed)
    after = deflate([q], [residuals], N).quadratures[0]
    assert abs(mass_of_outliers(after) - P / N) <= P * EPS


def test_mass_of_outliers_varies_like_a_chi_square_before_deflation():
  count = 8000
  draws = exact_draws(SPECTRUM, [probe(0, d, N) for d in range(count)])
  masses = np.array([mass_of_outliers(q) for q in draws])
  # sqrt(2 p) / n of independent weights, times what the sphere makes less of it.
  expected = np.sqrt(2 * P) / N * np.sqrt((N - P) / (N + 2))
  kurtosis = scipy.stats.kurtosis(masses, fisher=False)
  # Four standard errors of a standard deviation: 4%, where the sphere makes 5%.
  tolerance = 4 * expected * np.sqrt((kurtosis - 1) / (4 * count))
  assert abs(masses.std(ddof=1) - expected) <= tolerance


VARIANCE = 1e-3


def kernels(grid):
  """Returns the kernel of each eigenvalue of SPECTRUM, (n, g)."""
  return scipy.stats.norm.pdf(grid, SPECTRUM[:, None], np.sqrt(VARIANCE))


def test_mean_of_deflated_draws_is_the_density():
  grid, count = np.linspace(-0.3, 0.5, 81), 2000
  vectors = [probe(0, d, N) for d in range(count)]
  draws = [
    deflate([q], known_residuals(1), N).quadratures[0] for q in exact_draws(SPECTRUM, vectors)
  ]
  samples = np.array([q.weights for q in draws]) @ kernels(grid)
  exact = kernels(grid).mean(axis=0)
  # Four and a half standard errors, of 81 points that are not independent.
  z = (samples.mean(axis=0) - exact) / scipy.stats.sem(samples)
  assert np.abs(z).max() <= 4.5


def distances(count, draws, steps):
  """Returns the L1 distance to the density before and after deflation, of many runs."""
  grid = density_grid([SPECTRUM], VARIANCE)
  exact = kernels(grid).mean(axis=0)

  def distance(quadratures):
    values = [
      q.weights @ scipy.stats.norm.pdf(grid, q.nodes[:, None], np.sqrt(VARIANCE))
      for q in quadratures
    ]
    return l1_distance(grid, np.mean(values, axis=0), exact)

  result = []
  for seed in range(count):
    quadratures, residuals = zip(
      *(run(SPECTRUM, d, steps, seed) for d in range(draws)), strict=True
    )
    after = deflate(quadratures, residuals, N).quadratures
    result.append((distance(quadratures), distance(after)))
  return np.array(result).T


@pytest.mark.parametrize("draws", [1, 4])
def test_mean_l1_distance_falls(draws):
  before, after = distances(30, draws, 30)
  # Measured 0.312 -> 0.247 with one draw, 0.161 -> 0.125 with four: 9.5 and 10.9 standard errors.
  assert np.mean(before - after) >= 5 * scipy.stats.sem(before - after)


# Draws in the complement.


@pytest.fixture(scope="module")
def dense(symmetric):
  """Returns a dense matrix, and the eigenvectors of its outliers in rows."""
  h = symmetric(SPECTRUM)
  return h, np.linalg.eigh(h)[1].T[KNOWN]


@pytest.mark.parametrize("steps", [N - P, N, 2 * N])
def test_projected_quadratures_of_all_steps_are_the_measures_in_the_complement(dense, steps):
  h, vectors = dense
  got = projected_quadratures(lambda v: h @ v, vectors, OUTLIERS, steps=steps, draws=3)
  for draw, q in enumerate(got):
    nodes, weights = complement(h, probe(0, draw, N), KNOWN)
    np.testing.assert_allclose(q.nodes, nodes, rtol=0, atol=N * EPS * 4)
    np.testing.assert_allclose(q.weights, weights, rtol=0, atol=BY_GAP)


def test_projected_quadratures_have_as_many_nodes_as_steps_and_known_eigenvalues(dense):
  h, vectors = dense
  (q,) = projected_quadratures(lambda v: h @ v, vectors, OUTLIERS, steps=9, draws=1)
  assert q.nodes.size == 9 + P


def test_projected_quadratures_are_ascending(dense):
  h, vectors = dense
  for q in projected_quadratures(lambda v: h @ v, vectors, OUTLIERS, steps=9, draws=3):
    assert np.all(np.diff(q.nodes) > 0)


def test_projected_quadratures_give_the_known_eigenvalues_1_over_n(dense):
  h, vectors = dense
  for q in projected_quadratures(lambda v: h @ v, vectors, OUTLIERS, steps=9, draws=3):
    assert list(q.weights[np.isin(q.nodes, OUTLIERS)]) == [1 / N] * P


@pytest.mark.parametrize("steps", [1, 9, N])
def test_weights_of_projected_quadratures_sum_to_1(dense, steps):
  h, vectors = dense
  for q in projected_quadratures(lambda v: h @ v, vectors, OUTLIERS, steps=steps, draws=3):
    assert abs(q.weights.sum() - 1) <= N * EPS


@pytest.mark.parametrize("steps", [1, 4, 9])
def test_projected_quadratures_have_the_moments_of_the_complement(dense, steps):
  h, vectors = dense
  for draw, q in enumerate(
    projected_quadratures(lambda v: h @ v, vectors, OUTLIERS, steps=steps, draws=3)
  ):
    nodes, weights = complement(h, probe(0, draw, N), KNOWN)
    # Gauss quadrature of m steps is exact up to the power 2 m - 1; powers of 4 are off by j n eps.
    for j in range(2 * steps):
      error = q.weights @ q.nodes**j - weights @ nodes**j
      assert abs(error) <= (j + 1) * N * EPS * 4.0**j * P / N


def test_projected_quadratures_of_no_vectors_are_those_of_the_draws(dense):
  h, _ = dense
  (got,) = projected_quadratures(
    lambda v: h @ v, np.empty((0, N)), np.empty(0), steps=9, draws=1, seed=3
  )
  expected = run(h, 0, 9, seed=3)[0]
  np.testing.assert_allclose(got.nodes, expected.nodes, rtol=0, atol=N * EPS * 4)
  np.testing.assert_allclose(got.weights, expected.weights, rtol=0, atol=N * EPS)


def test_projected_quadratures_depend_on_the_seed(dense):
  h, vectors = dense
  first, second = (
    projected_quadratures(lambda v: h @ v, vectors, OUTLIERS, steps=9, draws=1, seed=s)[0]
    for s in (0, 1)
  )
  assert np.abs(first.nodes - second.nodes).max() > 1e-4


def test_projected_quadratures_of_a_known_complete_spectrum_are_that_spectrum():
  (q,) = projected_quadratures(
    lambda v: np.arange(3.0) * v, np.eye(3), np.arange(3.0), steps=2, draws=1
  )
  assert (list(q.nodes), list(q.weights)) == ([0, 1, 2], [1 / 3] * 3)


# Mistakes.


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("draw", [0, 1])
def test_residuals_that_are_not_known_are_refused(bad, draw):
  residuals = known_residuals(2)
  residuals[draw] = np.full(N, bad)
  with pytest.raises(ValueError, match="needs the residual of each draw's last step"):
    deflate(exact_draws(SPECTRUM, [probe(0, d, N) for d in range(2)]), residuals, N)


def test_different_numbers_of_draws_and_residuals_are_refused():
  with pytest.raises(ValueError):
    deflate(exact_draws(SPECTRUM, [probe(0, d, N) for d in range(2)]), known_residuals(1), N)


BAD_COUNTS = pytest.mark.parametrize(
  ("bad", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)]
)


@BAD_COUNTS
def test_order_that_is_not_an_integer_of_at_least_1_is_refused(bad, error):
  with pytest.raises(error, match="^n: expected an integer of at least 1"):
    deflate(exact_draws(SPECTRUM, [probe(0, 0, N)]), known_residuals(1), bad)


@pytest.mark.parametrize("name", ["steps", "draws"])
@BAD_COUNTS
def test_steps_and_draws_that_are_not_integers_of_at_least_1_are_refused(dense, name, bad, error):
  h, vectors = dense
  with pytest.raises(error, match=f"^{name}: expected an integer of at least 1"):
    projected_quadratures(
      lambda v: h @ v, vectors, OUTLIERS, **{"steps": 3, "draws": 1} | {name: bad}
    )
