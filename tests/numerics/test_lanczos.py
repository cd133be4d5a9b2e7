"""The Lanczos recurrence: its identities, its end, its state on disk, and Ritz pairs."""

import io

import numpy as np
import pytest

from tf_hessian.numerics.density import density_grid, l1_distance, smooth
from tf_hessian.numerics.lanczos import Lanczos, breakdown_tolerance, ritz_pairs
from tf_hessian.numerics.probes import probe
from tf_hessian.numerics.quadrature import gauss_quadrature, moments, tridiagonal_matrix
from tf_hessian.numerics.results import LanczosStatus

EPS = np.finfo(np.float64).eps
N = 100
BULK = np.linspace(-1, 3, N)
GEOMETRIC = 10.0 ** -np.arange(13)


def times(h):
  """Returns the product with a matrix, or with a diagonal one given by its diagonal."""
  return (lambda v: h @ v) if h.ndim == 2 else (lambda v: h * v)


def run(h, steps, draw=0):
  """Returns the recurrence after all steps."""
  lanczos = Lanczos.start(probe(0, draw, len(h)), steps)
  lanczos.run(times(h))
  return lanczos


def quadrature(lanczos):
  return gauss_quadrature(*lanczos.tridiagonal())


def used(lanczos):
  return lanczos.basis[: lanczos.num_steps]


def assert_same_state(first, second):
  """Asserts that everything the next step depends on is bitwise equal."""
  rows = min(first.num_steps + 1, len(first.basis))
  if first.status is LanczosStatus.INVARIANT:
    rows = first.num_steps
  np.testing.assert_array_equal(first.alphas, second.alphas)
  np.testing.assert_array_equal(first.betas, second.betas)
  np.testing.assert_array_equal(first.basis[:rows], second.basis[:rows])
  assert (first.scale, first.status) == (second.scale, second.status)


# The identities.


@pytest.mark.parametrize("steps", [1, 2, 10, 80])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_recurrence_holds_with_its_residual(symmetric, steps, scale):
  h = scale * symmetric(BULK)
  lanczos = Lanczos.start(probe(0, 0, N), steps + 1)
  for _ in range(steps):
    lanczos.step(times(h))
  q, t = used(lanczos), tridiagonal_matrix(*lanczos.tridiagonal())
  residual = h @ q.T - q.T @ t
  residual[:, -1] -= lanczos.betas[-1] * lanczos.basis[steps]
  assert np.abs(residual).max() <= N * EPS * 3 * scale


@pytest.mark.parametrize("steps", [1, 2, 10, 80, N])
def test_basis_is_orthonormal(symmetric, steps):
  q = used(run(symmetric(BULK), steps))
  np.testing.assert_allclose(q @ q.T, np.eye(len(q)), rtol=0, atol=N * EPS)


@pytest.mark.parametrize("n", [100, 300])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("spectrum", ["logspace", "multiple"])
def test_basis_is_orthonormal_over_twelve_decades(symmetric, n, dense, spectrum):
  eigenvalues = np.logspace(0, -12, n) if spectrum == "logspace" else np.resize(GEOMETRIC, n)
  q = used(run(symmetric(eigenvalues) if dense else eigenvalues, 80))
  assert np.abs(q @ q.T - np.eye(len(q))).max() <= 1e-13


@pytest.mark.parametrize("beyond", [1, 30])
def test_tridiagonal_matrix_does_not_depend_on_how_many_steps_follow(symmetric, beyond):
  h = symmetric(BULK)
  first, second = run(h, 20), run(h, 20 + beyond)
  np.testing.assert_array_equal(first.alphas, second.alphas[:20])
  np.testing.assert_array_equal(first.betas, second.betas[:20])


@pytest.mark.parametrize("draw", range(3))
def test_isolated_outlier_has_exactly_one_ritz_value(symmetric, draw):
  eigenvalues = np.append(np.linspace(0, 1, 199), 100.0)
  nodes = quadrature(run(symmetric(eigenvalues), 80, draw)).nodes
  assert np.sum(nodes > 1 + 200 * EPS * 100) == 1
  assert abs(nodes[-1] - 100) <= 200 * EPS * 100


def test_weight_of_an_isolated_outlier_is_its_squared_overlap():
  eigenvalues = np.append(np.linspace(0, 1, 199), 100.0)
  weight = quadrature(run(eigenvalues, 80)).weights[-1]
  assert abs(weight - probe(0, 0, 200)[-1] ** 2) <= 200 * EPS


@pytest.mark.parametrize("draw", range(3))
def test_first_two_moments_are_those_of_the_product(symmetric, draw):
  h, v = symmetric(BULK), probe(0, draw, N)
  got = moments([quadrature(run(h, 30, draw))], 2)[0]
  np.testing.assert_allclose(got, [v @ h @ v, np.sum((h @ v) ** 2)], rtol=1e-10)


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_moments_up_to_2m_minus_1_are_those_of_the_matrix(symmetric, steps):
  h, v = symmetric(BULK), probe(0, 0, N)
  j = np.arange(1, 2 * steps)
  expected = [v @ np.linalg.matrix_power(h, k) @ v for k in j]
  got = moments([quadrature(run(h, steps))], 2 * steps - 1)[0]
  assert np.all(np.abs(got - expected) <= N * EPS * j * 3.0**j)


def test_moment_2m_falls_short_by_the_square_of_the_product_of_betas(symmetric):
  h, v, m = symmetric(BULK), probe(0, 0, N), 4
  lanczos = run(h, m)
  short = v @ np.linalg.matrix_power(h, 2 * m) @ v - moments([quadrature(lanczos)], 2 * m)[0, -1]
  assert abs(short - np.prod(lanczos.betas**2)) <= N * EPS * 2 * m * 3.0 ** (2 * m)


@pytest.mark.parametrize("n", [1, 2, 3, 40])
def test_n_steps_give_the_eigenvalues(symmetric, n):
  h = symmetric(np.linspace(-1, 3, n))
  nodes = quadrature(run(h, n)).nodes
  np.testing.assert_allclose(nodes, np.linspace(-1, 3, n), rtol=0, atol=n * EPS * 3)


def test_n_steps_give_the_squared_overlaps_as_weights():
  eigenvalues = np.linspace(-1, 3, 40)
  weights = quadrature(run(eigenvalues, 40)).weights
  # An eigenvector is as well conditioned as its eigenvalue is apart from the others.
  tolerance = 40 * EPS * 3 / (4 / 39)
  np.testing.assert_allclose(weights, probe(0, 0, 40) ** 2, rtol=0, atol=tolerance)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("steps", [1, 10, 40, 80])
def test_nodes_scale_with_the_matrix(symmetric, scale, steps):
  h = symmetric(BULK)
  nodes = quadrature(run(h, steps)).nodes
  scaled = quadrature(run(scale * h, steps)).nodes
  atol = 1e-12 * np.abs(nodes).max()
  np.testing.assert_allclose(scaled / scale, nodes, rtol=0, atol=atol)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("steps", [1, 10, 40, 80])
def test_weights_do_not_depend_on_the_scale_of_the_matrix(symmetric, scale, steps):
  h = symmetric(BULK)
  weights = quadrature(run(h, steps)).weights
  np.testing.assert_allclose(quadrature(run(scale * h, steps)).weights, weights, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [2.0**-200, 2.0**-20, 2.0**20, 2.0**200])
def test_a_power_of_2_scales_the_tridiagonal_matrix_bitwise(symmetric, scale):
  h = symmetric(BULK)
  lanczos, scaled = run(h, 40), run(scale * h, 40)
  np.testing.assert_array_equal(scaled.alphas, scale * lanczos.alphas)
  np.testing.assert_array_equal(scaled.betas, scale * lanczos.betas)


def test_negated_matrix_has_negated_nodes(symmetric):
  h = symmetric(BULK)
  nodes = quadrature(run(-h, 30)).nodes
  np.testing.assert_allclose(-nodes[::-1], quadrature(run(h, 30)).nodes, rtol=0, atol=N * EPS * 3)


def test_shifted_matrix_has_shifted_nodes(symmetric):
  h = symmetric(BULK)
  nodes = quadrature(run(h + 5 * np.eye(N), 30)).nodes
  expected = quadrature(run(h, 30)).nodes + 5
  np.testing.assert_allclose(nodes, expected, rtol=0, atol=N * EPS * 8)


# The end.

ENDINGS = pytest.mark.parametrize(
  ("eigenvalues", "expected"),
  [
    (np.zeros(N), [0.0]),
    (np.ones(N), [1.0]),
    (np.full(N, -0.3), [-0.3]),
    (np.full(N, 7e9), [7e9]),
    (np.full(N, 7e-9), [7e-9]),
    (np.repeat([-1.1, 0.3], [30, 70]), [-1.1, 0.3]),
    (np.repeat([0.0, 2e-7], [99, 1]), [0.0, 2e-7]),
    (np.repeat([-1.0, 0.0, 3.0], [1, 98, 1]), [-1.0, 0.0, 3.0]),
  ],
  ids=["zero", "identity", "-0.3 I", "7e9 I", "7e-9 I", "two-valued", "rank 1", "rank 2"],
)
DRAWS = pytest.mark.parametrize("draw", range(5))


@ENDINGS
@DRAWS
def test_few_distinct_eigenvalues_end_early(eigenvalues, expected, draw):
  lanczos = run(eigenvalues, 50, draw)
  assert (lanczos.status, lanczos.num_steps) == (LanczosStatus.INVARIANT, len(expected))


@ENDINGS
@DRAWS
def test_few_distinct_eigenvalues_are_the_nodes(eigenvalues, expected, draw):
  nodes = quadrature(run(eigenvalues, 50, draw)).nodes
  np.testing.assert_allclose(nodes, expected, rtol=0, atol=N * EPS * np.abs(expected).max())


@ENDINGS
@DRAWS
def test_weights_after_an_early_end_are_the_squared_overlaps(eigenvalues, expected, draw):
  v = probe(0, draw, N)
  overlaps = [np.sum(v[eigenvalues == value] ** 2) for value in expected]
  weights = quadrature(run(eigenvalues, 50, draw)).weights
  np.testing.assert_allclose(weights, overlaps, rtol=0, atol=N * EPS)


@ENDINGS
@DRAWS
def test_weights_after_an_early_end_sum_to_1(symmetric, eigenvalues, expected, draw):
  del expected
  weights = quadrature(run(symmetric(eigenvalues), 50, draw)).weights
  assert abs(weights.sum() - 1) <= 1e-12


@pytest.mark.parametrize(
  "eigenvalues", [np.full(N, -0.3), np.repeat([-1.1, 0.3], [30, 70])], ids=["c I", "two-valued"]
)
@DRAWS
def test_dense_matrix_of_few_distinct_eigenvalues_ends_early(symmetric, eigenvalues, draw):
  lanczos = run(symmetric(eigenvalues, draw), 50, draw)
  assert lanczos.status is LanczosStatus.INVARIANT
  assert lanczos.num_steps == np.unique(eigenvalues).size


@DRAWS
def test_dense_matrix_of_rank_2_ends_early_with_three_nodes(symmetric, draw):
  lanczos = run(symmetric(np.append([0.9, 1.0], np.zeros(N - 2)), draw), 50, draw)
  assert (lanczos.status, lanczos.num_steps) == (LanczosStatus.INVARIANT, 3)


RANK_2 = pytest.mark.parametrize("pair", [(-1.0, 3.0), (0.9, 1.0), (1e-3, 1.0)], ids=str)


@RANK_2
@DRAWS
def test_dense_matrix_of_rank_2_ends_early(symmetric, pair, draw):
  lanczos = run(symmetric(np.append(pair, np.zeros(N - 2)), draw), 50, draw)
  assert lanczos.status is LanczosStatus.INVARIANT


@RANK_2
@DRAWS
def test_nodes_of_a_dense_matrix_of_rank_2_are_its_eigenvalues(symmetric, pair, draw):
  nodes = quadrature(run(symmetric(np.append(pair, np.zeros(N - 2)), draw), 50, draw)).nodes
  distances = np.abs(nodes[:, None] - np.append(pair, 0.0))
  tolerance = N * EPS * max(pair)
  assert distances.min(axis=1).max() <= tolerance and distances.min(axis=0).max() <= tolerance


@pytest.mark.parametrize("multiplicity", [2, 10])
@DRAWS
def test_thirteen_eigenvalues_over_twelve_decades_have_weights_that_sum_to_1(multiplicity, draw):
  eigenvalues = np.repeat(GEOMETRIC, multiplicity)
  weights = quadrature(run(eigenvalues, min(80, eigenvalues.size), draw)).weights
  assert abs(weights.sum() - 1) <= 1e-12


@pytest.mark.parametrize("multiplicity", [2, 10])
@DRAWS
def test_thirteen_eigenvalues_over_twelve_decades_have_the_density_of_the_draw(multiplicity, draw):
  eigenvalues, variance = np.repeat(GEOMETRIC, multiplicity), 1e-5
  n = eigenvalues.size
  q = quadrature(run(eigenvalues, min(80, n), draw))
  grid = density_grid([eigenvalues], variance)
  exact = smooth(eigenvalues, probe(0, draw, n) ** 2, grid, variance)
  got = smooth(q.nodes, q.weights, grid, variance)
  # Nodes off by n eps move a Gaussian by that over sigma.
  assert l1_distance(grid, got, exact) <= n * EPS * (1 + 2 / np.sqrt(variance))


def test_all_steps_taken_is_complete(symmetric):
  assert run(symmetric(BULK), 5).status is LanczosStatus.COMPLETE


def test_recurrence_is_running_until_its_last_step(symmetric):
  h = symmetric(BULK)
  lanczos = Lanczos.start(probe(0, 0, N), 3)
  statuses = [lanczos.status] + [lanczos.step(times(h)) for _ in range(3)]
  assert statuses == [LanczosStatus.RUNNING] * 3 + [LanczosStatus.COMPLETE]


def test_tolerance_ends_a_recurrence_at_a_residual_below_it():
  eigenvalues = np.append(np.full(N - 1, 1.0), 1.0 + 1e-6)
  lanczos = Lanczos.start(probe(0, 0, N), 5, tolerance=1e-5)
  assert lanczos.run(times(eigenvalues)) is LanczosStatus.INVARIANT
  assert lanczos.num_steps == 1


def test_breakdown_tolerance_is_at_least_the_precision_of_the_products():
  assert breakdown_tolerance(100, 1e-7) == 1e-7


@pytest.mark.parametrize(("n", "factor"), [(1, 10), (100, 10), (10**6, 1000)])
def test_breakdown_tolerance_grows_as_the_root_of_the_length(n, factor):
  np.testing.assert_allclose(breakdown_tolerance(n), factor * EPS, rtol=EPS)


@pytest.mark.parametrize("eigenvalues", [BULK, np.ones(N)], ids=["complete", "invariant"])
def test_step_after_the_end_is_refused(eigenvalues):
  lanczos = run(eigenvalues, 4)
  with pytest.raises(ValueError, match=f"ended after {lanczos.num_steps} steps"):
    lanczos.step(times(eigenvalues))


@pytest.mark.parametrize("eigenvalues", [BULK, np.ones(N)], ids=["complete", "invariant"])
def test_run_after_the_end_takes_no_step(eigenvalues):
  lanczos = run(eigenvalues, 4)
  steps, status = lanczos.num_steps, lanczos.status
  assert (lanczos.run(None), lanczos.num_steps) == (status, steps)


# Mistakes.


@pytest.mark.parametrize("steps", [0, -1])
def test_fewer_than_one_step_is_refused(steps):
  with pytest.raises(ValueError, match="steps: expected"):
    Lanczos.start(probe(0, 0, 5), steps)


def test_more_steps_than_the_length_are_refused():
  with pytest.raises(ValueError, match="steps: expected at most n = 5, got 6"):
    Lanczos.start(probe(0, 0, 5), 6)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1 + 1e-9, np.nan, np.inf])
def test_start_vector_that_has_not_length_1_is_refused(factor):
  with pytest.raises(ValueError, match="start vector: expected length 1"):
    Lanczos.start(np.array([factor, 0.0, 0.0]), 2)


def test_start_vector_is_copied():
  v = probe(0, 0, 5)
  lanczos = Lanczos.start(v, 2)
  v[:] = 0
  np.testing.assert_array_equal(lanczos.basis[0], probe(0, 0, 5))


BAD_PRODUCTS = pytest.mark.parametrize(
  "bad",
  [
    lambda v: np.zeros(len(v) + 1),
    lambda v: v[:, None],
    lambda _: 0.0,
    lambda v: np.full(len(v), np.nan),
    lambda v: np.where(np.arange(len(v)) == 3, np.inf, v),
  ],
  ids=["longer", "column", "scalar", "nan", "inf"],
)


@BAD_PRODUCTS
@pytest.mark.parametrize("before", [0, 3])
def test_bad_product_is_refused(symmetric, bad, before):
  h = symmetric(BULK)
  lanczos = Lanczos.start(probe(0, 0, N), 6)
  for _ in range(before):
    lanczos.step(times(h))
  with pytest.raises(ValueError, match="product"):
    lanczos.step(bad)


@BAD_PRODUCTS
@pytest.mark.parametrize("before", [0, 3])
def test_step_can_be_taken_again_after_a_bad_product(symmetric, bad, before):
  h = symmetric(BULK)
  lanczos = Lanczos.start(probe(0, 0, N), 6)
  for _ in range(before):
    lanczos.step(times(h))
  with pytest.raises(ValueError):
    lanczos.step(bad)
  lanczos.run(times(h))
  assert_same_state(lanczos, run(h, 6))


def test_step_can_be_taken_again_after_a_product_that_raised(symmetric):
  h = symmetric(BULK)
  lanczos = Lanczos.start(probe(0, 0, N), 6)
  lanczos.step(times(h))
  with pytest.raises(ZeroDivisionError):
    lanczos.step(lambda _: 1 // 0)
  lanczos.run(times(h))
  assert_same_state(lanczos, run(h, 6))


def test_product_that_is_kept_by_its_maker_is_not_written_to():
  product = np.arange(5.0)
  Lanczos.start(probe(0, 0, 5), 2).step(lambda _: product)
  np.testing.assert_array_equal(product, np.arange(5.0))


# Products from elsewhere.


@pytest.mark.parametrize("eigenvalues", [BULK, np.repeat([1.0, 2.0], 50)], ids=["bulk", "ends"])
def test_update_with_the_product_is_bitwise_a_step(symmetric, eigenvalues):
  h = symmetric(eigenvalues)
  lanczos = Lanczos.start(probe(0, 0, N), 12)
  while lanczos.status is LanczosStatus.RUNNING:
    lanczos.update(h @ lanczos.vector)
  assert_same_state(lanczos, run(h, 12))


def test_recurrences_in_lock_step_are_bitwise_those_one_by_one(symmetric):
  h = symmetric(BULK)
  together = [Lanczos.start(probe(0, draw, N), 6) for draw in range(3)]
  for _ in range(6):
    products = [h @ lanczos.vector for lanczos in together]
    for lanczos, product in zip(together, products, strict=True):
      lanczos.update(product)
  for draw, lanczos in enumerate(together):
    assert_same_state(lanczos, run(h, 6, draw))


def test_vector_is_the_start_vector_and_then_the_newest():
  lanczos = Lanczos.start(probe(0, 0, N), 6)
  np.testing.assert_array_equal(lanczos.vector, probe(0, 0, N))
  lanczos.step(times(BULK))
  np.testing.assert_array_equal(lanczos.vector, lanczos.basis[1])


def test_vector_is_read_only():
  with pytest.raises(ValueError, match="read-only"):
    Lanczos.start(probe(0, 0, N), 6).vector[0] = 1


def test_update_does_not_write_to_the_product():
  product = np.arange(5.0)
  Lanczos.start(probe(0, 0, 5), 2).update(product)
  np.testing.assert_array_equal(product, np.arange(5.0))


def test_update_can_be_repeated_after_a_bad_product(symmetric):
  h = symmetric(BULK)
  lanczos = Lanczos.start(probe(0, 0, N), 6)
  lanczos.step(times(h))
  for bad in (np.zeros(N + 1), np.full(N, np.nan)):
    with pytest.raises(ValueError, match="product"):
      lanczos.update(bad)
  lanczos.run(times(h))
  assert_same_state(lanczos, run(h, 6))


@pytest.mark.parametrize("eigenvalues", [BULK, np.ones(N)], ids=["complete", "invariant"])
def test_neither_vector_nor_update_after_the_end(eigenvalues):
  lanczos = run(eigenvalues, 4)
  with pytest.raises(ValueError, match=f"ended after {lanczos.num_steps} steps"):
    _ = lanczos.vector
  with pytest.raises(ValueError, match=f"ended after {lanczos.num_steps} steps"):
    lanczos.update(np.zeros(N))


# State on disk.


@pytest.mark.parametrize("eigenvalues", [BULK, np.repeat([1.0, 2.0], 50)], ids=["bulk", "ends"])
def test_saved_and_loaded_after_each_step_is_bitwise_the_same(symmetric, tmp_path, eigenvalues):
  h = symmetric(eigenvalues)
  uninterrupted = Lanczos.start(probe(0, 0, N), 12)
  lanczos = Lanczos.start(probe(0, 0, N), 12)
  while uninterrupted.status is LanczosStatus.RUNNING:
    lanczos.save(tmp_path / "state.npz")
    lanczos = Lanczos.load(tmp_path / "state.npz")
    uninterrupted.step(times(h))
    lanczos.step(times(h))
    assert_same_state(lanczos, uninterrupted)


@pytest.mark.parametrize("saved_after", range(7))
def test_state_loaded_once_runs_to_the_same_end(symmetric, saved_after):
  h = symmetric(BULK)
  lanczos = Lanczos.start(probe(0, 0, N), 6)
  for _ in range(saved_after):
    lanczos.step(times(h))
  file = io.BytesIO()
  lanczos.save(file)
  file.seek(0)
  loaded = Lanczos.load(file)
  loaded.run(times(h))
  assert_same_state(loaded, run(h, 6))


@pytest.mark.parametrize("eigenvalues", [BULK, np.ones(N)], ids=["complete", "invariant"])
def test_ended_recurrence_is_loaded_as_ended(eigenvalues):
  lanczos, file = run(eigenvalues, 4), io.BytesIO()
  lanczos.save(file)
  file.seek(0)
  assert_same_state(Lanczos.load(file), lanczos)


def test_loaded_state_steps_as_the_saved_one_whatever_its_tolerance():
  # The residual of the second step, 1e-6, lies between the default tolerance and the one given.
  eigenvalues = np.append(np.full(N - 1, 1.0), 1.0 + 1e-6)
  lanczos, file = Lanczos.start(probe(0, 0, N), 5, tolerance=1e-5), io.BytesIO()
  lanczos.save(file)
  file.seek(0)
  loaded = Lanczos.load(file)
  lanczos.step(times(eigenvalues))
  loaded.step(times(eigenvalues))
  assert loaded.status is lanczos.status


def test_basis_in_a_file_is_resumed_after_each_step_bitwise(symmetric, tmp_path):
  h, steps = symmetric(BULK), 12
  uninterrupted = Lanczos.start(probe(0, 0, N), steps)
  basis = np.memmap(tmp_path / "basis", np.float64, "w+", shape=(steps, N))
  basis[0] = probe(0, 0, N)
  lanczos = Lanczos(basis)
  while uninterrupted.status is LanczosStatus.RUNNING:
    lanczos.basis.flush()
    np.savez(tmp_path / "coefficients.npz", **lanczos.coefficients())
    lanczos = Lanczos(np.memmap(tmp_path / "basis", np.float64, "r+", shape=(steps, N)))
    with np.load(tmp_path / "coefficients.npz") as coefficients:
      lanczos.restore(coefficients)
    uninterrupted.step(times(h))
    lanczos.step(times(h))
    assert_same_state(lanczos, uninterrupted)


def test_step_that_was_cut_off_after_writing_the_basis_is_taken_again(symmetric):
  h = symmetric(BULK)
  lanczos = Lanczos.start(probe(0, 0, N), 6)
  lanczos.step(times(h))
  before = lanczos.coefficients()
  lanczos.step(times(h))  # writes a row of the basis, but its coefficients are lost
  resumed = Lanczos(lanczos.basis)
  resumed.restore(before)
  resumed.run(times(h))
  assert_same_state(resumed, run(h, 6))


@pytest.mark.parametrize(
  ("alphas", "betas"),
  [(np.ones(2), np.ones(1)), (np.ones(4), np.ones(4)), (np.ones((1, 1)), np.ones((1, 1)))],
)
def test_coefficients_that_do_not_fit_are_refused(alphas, betas):
  lanczos = Lanczos.start(probe(0, 0, 5), 3)
  coefficients = lanczos.coefficients() | {"alphas": alphas, "betas": betas}
  with pytest.raises(ValueError, match="coefficients: expected two vectors of at most 3 entries"):
    lanczos.restore(coefficients)


def test_running_state_without_room_for_a_step_is_refused():
  lanczos = Lanczos.start(probe(0, 0, 5), 3)
  coefficients = lanczos.coefficients() | {"alphas": np.ones(3), "betas": np.ones(3)}
  with pytest.raises(ValueError, match="coefficients"):
    lanczos.restore(coefficients)


# Ritz pairs.


@pytest.mark.parametrize("steps", [1, 2, 10, 80])
def test_residual_of_a_ritz_pair_equals_its_bound(symmetric, steps):
  h = symmetric(BULK)
  pairs = ritz_pairs(run(h, steps))
  residuals = np.linalg.norm(pairs.vectors @ h - pairs.values[:, None] * pairs.vectors, axis=1)
  np.testing.assert_allclose(residuals, pairs.residual_bounds, rtol=0, atol=N * EPS * 3)


@pytest.mark.parametrize("steps", [1, 2, 10, 80])
def test_an_eigenvalue_lies_within_the_bound_of_each_ritz_value(symmetric, steps):
  pairs = ritz_pairs(run(symmetric(BULK), steps))
  distances = np.abs(pairs.values[:, None] - BULK).min(axis=1)
  assert np.all(distances <= pairs.residual_bounds + N * EPS * 3)


def test_ritz_values_are_the_nodes(symmetric):
  lanczos = run(symmetric(BULK), 20)
  np.testing.assert_array_equal(ritz_pairs(lanczos).values, quadrature(lanczos).nodes)


def test_ritz_vectors_are_orthonormal(symmetric):
  y = ritz_pairs(run(symmetric(BULK), 80)).vectors
  np.testing.assert_allclose(y @ y.T, np.eye(80), rtol=0, atol=N * EPS)


@pytest.mark.parametrize("eigenvalues", [BULK[:20], np.repeat([1.0, 2.0], 10)], ids=["all", "two"])
def test_ritz_pairs_of_an_invariant_space_are_exact(symmetric, eigenvalues):
  h = symmetric(eigenvalues)
  lanczos = run(h, 20)
  pairs = ritz_pairs(lanczos)
  tolerance = 20 * EPS * np.abs(eigenvalues).max()
  assert lanczos.status is LanczosStatus.INVARIANT
  np.testing.assert_allclose(pairs.values, np.unique(eigenvalues), rtol=0, atol=tolerance)
  np.testing.assert_allclose(
    pairs.vectors @ h, pairs.values[:, None] * pairs.vectors, rtol=0, atol=tolerance
  )
  assert pairs.residual_bounds.max() <= tolerance


@pytest.mark.parametrize("which", [slice(-3, None), slice(0, 2), [0, 9], 4, -1], ids=str)
def test_chosen_ritz_pairs_are_those_of_all(symmetric, which):
  lanczos = run(symmetric(BULK), 10)
  everything, chosen = ritz_pairs(lanczos), ritz_pairs(lanczos, which)
  expected = np.atleast_2d(everything.vectors[which])
  np.testing.assert_array_equal(chosen.values, np.atleast_1d(everything.values[which]))
  np.testing.assert_allclose(chosen.vectors, expected, rtol=0, atol=N * EPS)


def test_ritz_pairs_before_the_first_step_are_refused():
  with pytest.raises(ValueError, match="at least one Lanczos step"):
    ritz_pairs(Lanczos.start(probe(0, 0, 5), 3))
