"""Extreme eigenpairs: against dense solvers, with restarts, multiple eigenvalues, all ends."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse.linalg

from tf_hessian.numerics.eigenpairs import limits, top_eigenpairs
from tf_hessian.numerics.results import EigenpairStatus

EPS = np.finfo(np.float64).eps
N = 100
BULK = np.linspace(-1, 3, N)  # no gap anywhere
OUTLIERS = np.append(np.linspace(-0.1, 0.3, 296), [-2.0, 1.0, 2.0, 4.0])


class Product:
  """Product with a matrix, or a diagonal one, that counts its calls."""

  def __init__(self, h, dtype=np.float64):
    self.h, self.dtype, self.calls = h, dtype, 0

  def __call__(self, v):
    self.calls += 1
    return (self.h @ v if self.h.ndim == 2 else self.h * v).astype(self.dtype)


def find(h, largest, smallest=0, **options):
  return top_eigenpairs(Product(h), len(h), largest, smallest, **options)


def ends(eigenvalues, largest, smallest):
  """Returns the largest, descending, then the smallest, ascending."""
  ascending = np.sort(eigenvalues)
  return np.append(ascending[::-1][:largest], ascending[:smallest])


def true_residuals(h, pairs):
  """Returns |H y - theta y| in extended precision."""
  h, y = h.astype(np.longdouble), pairs.vectors.astype(np.longdouble)
  return np.sqrt(np.sum((y @ h - pairs.values[:, None] * y) ** 2, axis=1)).astype(np.float64)


def sums(h):
  """Returns the error of products with H, |H| max 4: sums of n terms."""
  return len(h) * EPS * 4


# Against other solvers.

COUNTS = pytest.mark.parametrize(
  ("largest", "smallest"), [(1, 0), (0, 1), (3, 2), (5, 0), (0, 5)], ids=str
)


@COUNTS
def test_eigenvalues_are_those_of_a_dense_solver(symmetric, largest, smallest):
  h = symmetric(BULK)
  pairs = find(h, largest, smallest)
  expected = ends(np.linalg.eigvalsh(h), largest, smallest)
  # An eigenvalue is within r^2 / gap, the gap being at least half of 4 / 99.
  tolerance = pairs.residuals.max() ** 2 / (2 / 99) + sums(h)
  assert pairs.status is EigenpairStatus.CONVERGED
  np.testing.assert_allclose(pairs.values, expected, rtol=0, atol=tolerance)


def test_eigenvalues_of_both_ends_are_those_of_arpack(symmetric):
  h = symmetric(OUTLIERS)
  high = scipy.sparse.linalg.eigsh(h, 3, which="LA", return_eigenvectors=False)
  low = scipy.sparse.linalg.eigsh(h, 1, which="SA", return_eigenvectors=False)
  # Residuals of 4e-8 at gaps of 0.7 and more leave 2e-15.
  expected = np.append(np.sort(high)[::-1], low)
  np.testing.assert_allclose(find(h, 3, 1).values, expected, rtol=0, atol=sums(h))


def test_eigenvectors_are_those_of_a_dense_solver(symmetric):
  h = symmetric(OUTLIERS)
  pairs = find(h, 3, 1)
  q = np.linalg.eigh(h)[1][:, [-1, -2, -3, 0]]
  sines = np.linalg.norm(pairs.vectors.T - q * np.sum(pairs.vectors.T * q, axis=0), axis=0)
  # At most the residual over the gap to what is not found, 0.7 or more.
  assert np.all(sines <= pairs.residuals / 0.7 + sums(h))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_eigenvalues_do_not_depend_on_the_seed(symmetric, seed):
  h = symmetric(OUTLIERS)
  expected = [4, 2, 1, -2]
  np.testing.assert_allclose(find(h, 3, 1, seed=seed).values, expected, rtol=0, atol=sums(h))


def test_same_seed_gives_the_same_bits(symmetric):
  h = symmetric(OUTLIERS)
  first, second = (find(h, 3, 1, seed=5) for _ in range(2))
  np.testing.assert_array_equal(first.values, second.values)
  np.testing.assert_array_equal(first.vectors, second.vectors)


def test_another_seed_gives_other_bits(symmetric):
  h = symmetric(OUTLIERS)
  first, second = (find(h, 3, 1, seed=s).vectors for s in (5, 6))
  assert not np.array_equal(np.abs(first), np.abs(second))


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**100])
def test_a_power_of_2_scales_the_eigenvalues_bitwise(symmetric, scale):
  h = symmetric(OUTLIERS)
  np.testing.assert_array_equal(find(scale * h, 3, 1).values, scale * find(h, 3, 1).values)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_all_n_eigenvalues_are_found(symmetric, n, share):
  h = symmetric(np.linspace(-1, 3, n))
  largest = int(n * share)
  pairs = find(h, largest, n - largest)
  assert pairs.status is EigenpairStatus.CONVERGED
  expected = ends(np.linalg.eigvalsh(h), largest, n - largest)
  # Either solver's error.
  np.testing.assert_allclose(pairs.values, expected, rtol=0, atol=2 * sums(h))


# What the pairs are.

CASES = pytest.mark.parametrize(
  ("eigenvalues", "options"),
  [
    (BULK, {}),
    (BULK, {"basis_size": 7, "max_products": 1000}),
    (BULK, {"tolerance": 1e-13}),
    (BULK, {"max_products": 20}),
    (OUTLIERS, {}),
    (OUTLIERS, {"basis_size": 7}),
    (np.repeat([-1.1, 0.3], [30, 70]), {}),
  ],
  ids=["bulk", "restarts", "tight", "not converged", "outliers", "7 vectors", "two-valued"],
)


@CASES
def test_residuals_are_the_true_ones(symmetric, eigenvalues, options):
  h = symmetric(eigenvalues)
  pairs = find(h, 3, 2, **options)
  np.testing.assert_allclose(pairs.residuals, true_residuals(h, pairs), rtol=0, atol=sums(h))


@CASES
def test_vectors_are_orthonormal(symmetric, eigenvalues, options):
  vectors = find(symmetric(eigenvalues), 3, 2, **options).vectors
  # The basis is, to rounding; LAPACK lets eigenvectors of m rows be off by 30 m eps.
  np.testing.assert_allclose(vectors @ vectors.T, np.eye(5), rtol=0, atol=30 * 40 * EPS)


@CASES
def test_values_are_the_largest_descending_then_the_smallest_ascending(
  symmetric, eigenvalues, options
):
  values = find(symmetric(eigenvalues), 3, 2, **options).values
  # Copies of one eigenvalue differ by rounding.
  assert np.all(np.diff(values[:3]) <= 0) and np.all(np.diff(values[3:]) >= 0)
  assert values[2] >= values[4]


@CASES
def test_status_says_whether_all_residuals_are_within_the_tolerance(
  symmetric, eigenvalues, options
):
  pairs = find(symmetric(eigenvalues), 3, 2, **options)
  limit = options.get("tolerance", 1e-8) * np.abs(pairs.values).max()
  assert (pairs.status is EigenpairStatus.CONVERGED) == (pairs.residuals.max() <= limit)


@CASES
def test_every_product_is_counted(symmetric, eigenvalues, options):
  product = Product(symmetric(eigenvalues))
  pairs = top_eigenpairs(product, len(eigenvalues), 3, 2, **options)
  assert pairs.num_products == product.calls


@CASES
def test_check_takes_one_product_a_pair(symmetric, eigenvalues, options):
  counts = []
  pairs = find(
    symmetric(eigenvalues), 3, 2, progress=lambda products, _: counts.append(products), **options
  )
  assert pairs.num_products == counts[-1] + 5


def test_smaller_tolerance_takes_more_products(symmetric):
  h = symmetric(BULK)
  counts = [find(h, 3, 2, tolerance=t).num_products for t in (1e-2, 1e-5, 1e-8, 1e-12)]
  assert np.all(np.diff(counts) > 0)


def test_progress_ends_with_all_pairs_within_the_tolerance(symmetric):
  reports = []
  find(symmetric(BULK), 3, 2, progress=lambda *report: reports.append(report))
  assert reports[-1][1] == 5 and reports[0][1] < 5


def test_progress_counts_product_by_product(symmetric):
  reports = []
  find(symmetric(BULK), 3, 2, progress=lambda *report: reports.append(report))
  assert np.all(np.diff([products for products, _ in reports]) == 1)


# Restarts.


@pytest.mark.parametrize("basis_size", [6, 7, 10])
def test_small_basis_converges_with_restarts(symmetric, basis_size):
  h = symmetric(OUTLIERS)
  pairs = find(h, 3, 1, basis_size=basis_size)
  assert pairs.status is EigenpairStatus.CONVERGED
  assert pairs.num_products - 4 > basis_size
  np.testing.assert_allclose(pairs.values, [4, 2, 1, -2], rtol=0, atol=sums(h))


def test_spectrum_without_a_gap_converges_with_many_restarts(symmetric):
  h = symmetric(BULK)
  pairs = find(h, 3, 2, basis_size=7, max_products=1000)
  assert pairs.status is EigenpairStatus.CONVERGED and pairs.num_products > 200
  # A restart each two products, whose eigenvectors LAPACK lets be off by 30 m eps.
  restarts = 30 * 7 * EPS * 3 * pairs.num_products / 2
  tolerance = pairs.residuals.max() ** 2 / (2 / 99) + sums(h) + restarts
  np.testing.assert_allclose(pairs.values, ends(BULK, 3, 2), rtol=0, atol=tolerance)


def test_memory_is_that_of_the_basis_and_the_pairs():
  # Vectors long beside the blocks in which the basis is rotated.
  n = 2**18
  eigenvalues = np.append(np.linspace(-0.1, 0.3, n - 4), [-2.0, 1.0, 2.0, 4.0])
  tracemalloc.start()
  try:
    pairs = find(eigenvalues, 3, 1, basis_size=12)
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert pairs.num_products - 4 > 12
  # Measured 19.0: besides, a product, the residual and a difference.
  assert peak / (8 * n) <= 12 + 4 + 4


def test_basis_larger_than_the_matrix_is_cut(symmetric):
  h = symmetric(np.linspace(-1, 3, 6))
  tracemalloc.start()
  try:
    find(h, 2, 1, basis_size=10**5)
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert peak < 10**5 * 8


# Multiple eigenvalues.

MULTIPLE = pytest.mark.parametrize(
  ("eigenvalues", "largest", "smallest"),
  [
    (np.ones(50), 5, 3),
    (np.full(50, -0.3), 2, 0),
    (np.zeros(50), 5, 3),
    (np.append([5.0, 2.0], np.zeros(N - 2)), 4, 1),
    (np.append([5.0, 5.0, 2.0], np.zeros(N - 3)), 4, 1),
    (np.repeat([-1.0, 0.0, 3.0], [1, 98, 1]), 2, 2),
    (np.repeat([-1.1, 0.3], [30, 70]), 4, 3),
  ],
  ids=["identity", "-0.3 I", "zero", "rank 2", "rank 3", "indefinite", "two-valued"],
)


@MULTIPLE
@pytest.mark.parametrize("dense", [False, True])
def test_multiple_eigenvalues_are_found_as_often_as_they_are_wanted(
  symmetric, eigenvalues, largest, smallest, dense
):
  h = symmetric(eigenvalues) if dense else eigenvalues
  pairs = find(h, largest, smallest)
  expected = ends(eigenvalues, largest, smallest)
  assert pairs.status is EigenpairStatus.CONVERGED
  tolerance = len(h) * EPS * np.abs(eigenvalues).max()
  np.testing.assert_allclose(pairs.values, expected, rtol=0, atol=tolerance)


@MULTIPLE
def test_vectors_of_multiple_eigenvalues_are_orthonormal(symmetric, eigenvalues, largest, smallest):
  vectors = find(symmetric(eigenvalues), largest, smallest).vectors
  tolerance = 30 * 50 * EPS
  np.testing.assert_allclose(vectors @ vectors.T, np.eye(len(vectors)), rtol=0, atol=tolerance)


def test_small_basis_finds_multiple_eigenvalues(symmetric):
  h = symmetric(np.append([5.0, 2.0], np.zeros(N - 2)))
  pairs = find(h, 4, 1, basis_size=7)
  np.testing.assert_allclose(pairs.values, [5, 2, 0, 0, 0], rtol=0, atol=N * EPS * 5)


def test_four_distinct_eigenvalues_of_a_diagonal_matrix_are_found_with_all_copies():
  pairs = find(np.repeat([-2.0, 0.0, 1.0, 3.0], 25), 5)
  np.testing.assert_allclose(pairs.values, np.full(5, 3.0), rtol=0, atol=N * EPS * 3)


def test_four_distinct_eigenvalues_of_a_dense_matrix_are_found_with_all_copies(symmetric):
  pairs = find(symmetric(np.repeat([-2.0, 0.0, 1.0, 3.0], 25)), 5)
  np.testing.assert_allclose(pairs.values, np.full(5, 3.0), rtol=0, atol=N * EPS * 3)


def test_two_eigenvalues_1e_7_apart_are_told_apart(symmetric):
  h = symmetric(np.append(np.linspace(0, 1, 98), [2.0, 2 + 1e-7]))
  pairs = find(h, 2, tolerance=1e-11)
  np.testing.assert_allclose(pairs.values, [2 + 1e-7, 2], rtol=0, atol=sums(h))


# Ends that are not convergence.


def test_search_without_enough_products_says_so(symmetric):
  assert find(symmetric(BULK), 3, 2, max_products=20).status is EigenpairStatus.OUT_OF_PRODUCTS


def test_search_ends_at_max_products_and_then_checks(symmetric):
  assert find(symmetric(BULK), 3, 2, max_products=20).num_products == 20 + 5


def test_search_ends_by_default_after_20_times_the_basis(symmetric):
  # A gap of 4 / 99 is too small for ten vectors and 200 products.
  pairs = find(symmetric(BULK), 3, 2, basis_size=10)
  assert (pairs.status, pairs.num_products) == (EigenpairStatus.OUT_OF_PRODUCTS, 205)


@pytest.mark.parametrize("basis_size", [None, 7])
def test_values_of_a_search_without_enough_products_are_within_the_spectrum(symmetric, basis_size):
  pairs = find(symmetric(BULK), 3, 2, max_products=20, basis_size=basis_size)
  assert pairs.values.max() <= 3 + sums(BULK) and pairs.values.min() >= -1 - sums(BULK)
  # They are still far: by more than any rounding.
  assert np.abs(pairs.values - ends(BULK, 3, 2)).max() > 1e-3


def single(h, tolerance, seed=0):
  """Searches with products rounded to float32."""
  return top_eigenpairs(Product(h, np.float32), len(h), 3, 1, tolerance=tolerance, seed=seed)


@pytest.mark.parametrize("seed", range(5))
def test_float32_products_with_a_tolerance_below_their_rounding_end_as_rounding(symmetric, seed):
  # Residuals are 2e-8 of the norm at best.
  pairs = single(symmetric(OUTLIERS), 1e-9, seed)
  assert pairs.status is EigenpairStatus.ROUNDING
  assert pairs.residuals.max() > 1e-9 * 4


def test_float32_products_with_the_whole_space_as_basis_end_as_rounding(symmetric):
  pairs = single(symmetric(np.linspace(-1, 3, 30)), 1e-12)
  assert (pairs.status, pairs.num_products) == (EigenpairStatus.ROUNDING, 30 + 4)


def test_float32_products_with_a_tolerance_far_below_their_rounding_end_as_rounding(symmetric):
  assert single(symmetric(OUTLIERS), 1e-13).status is EigenpairStatus.ROUNDING


def test_float64_products_with_a_tolerance_below_their_rounding_end_as_rounding(symmetric):
  assert find(symmetric(OUTLIERS), 3, 1, tolerance=1e-16).status is EigenpairStatus.ROUNDING


@pytest.mark.parametrize("seed", range(5))
def test_float32_products_with_a_tolerance_above_their_rounding_converge(symmetric, seed):
  pairs = single(symmetric(OUTLIERS), 1e-6, seed)
  assert pairs.status is EigenpairStatus.CONVERGED
  # A relative error 2^-24 of each entry of a product is one of |H| 2^-24 at most.
  tolerance = 4 * 2.0**-24 + pairs.residuals.max() ** 2 / 0.7
  np.testing.assert_allclose(pairs.values, [4, 2, 1, -2], rtol=0, atol=tolerance)


def test_float32_products_of_stated_precision_find_multiple_eigenvalues(symmetric):
  # Without it the invariant space is left in a direction that is rounding error.
  product = Product(symmetric(np.append([5.0, 5.0, 5.0, 2.0], np.zeros(N - 4))), np.float32)
  pairs = top_eigenpairs(product, N, 3, tolerance=1e-5, precision=2.0**-24)
  assert pairs.status is EigenpairStatus.CONVERGED
  np.testing.assert_allclose(pairs.values, [5, 5, 5], rtol=0, atol=5 * 2.0**-24)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
  ("values", "largest", "smallest"),
  [
    (np.repeat([5.0, 4.0, 3.0], [3, 1, 2]), 6, 0),
    (np.repeat([5.0, 4.0], [1, 4]), 3, 0),
    (np.repeat([-5.0, 4.0], [3, 2]), 2, 3),
    (np.array([5.0, 4.0, 3.0]), 3, 1),
  ],
  ids=["triple", "fourfold", "both ends", "single"],
)
def test_copies_that_a_loose_tolerance_misses_are_found(symmetric, values, largest, smallest, seed):
  eigenvalues = np.append(values, np.linspace(-1, 1, N - len(values)))
  options = {"tolerance": 1e-5, "precision": 2.0**-24, "seed": seed}
  h = symmetric(eigenvalues)
  pairs = top_eigenpairs(Product(h, np.float32), N, largest, smallest, max_products=2000, **options)
  assert pairs.status is EigenpairStatus.CONVERGED
  right = ends(eigenvalues, largest, smallest)
  # A residual r of a pair at a gap of 1 or more is an error of about r^2; products round by 2^-24.
  np.testing.assert_allclose(pairs.values[:-1], right[:-1], rtol=0, atol=20 * 5 * 2.0**-24)
  vectors = pairs.vectors
  np.testing.assert_allclose(vectors @ vectors.T, np.eye(len(vectors)), rtol=0, atol=N**2 * EPS)


def test_search_that_could_not_look_for_copies_is_not_called_converged(symmetric):
  h = symmetric(np.append([5.0, 4.0, 3.0], np.linspace(-1, 1, N - 3)))
  alone = find(h, 2, tolerance=1e-5, repeated=False)
  assert alone.status is EigenpairStatus.CONVERGED
  pairs = find(h, 2, tolerance=1e-5, max_products=alone.num_products + 2)
  assert pairs.status is EigenpairStatus.COPIES_UNKNOWN
  np.testing.assert_allclose(pairs.values, [5, 4], rtol=0, atol=1e-9)


@pytest.mark.parametrize("top", [[5, 5, 3], [5, 5, 4.7], [3, 2.8, 2.8, 2.6], [5, 5, 5, 3, 3, 3, 2]])
def test_hardly_a_start_vector_misses_a_copy_or_says_that_it_has_not_converged(top):
  rng = np.random.default_rng(0)
  for seed in range(30):
    v = np.append(rng.uniform(-1, 1, 1000), top)
    pairs = top_eigenpairs(
      lambda x, v=v: v * x, v.size, len(set(top)), tolerance=1e-4, precision=1e-9, seed=seed
    )
    assert pairs.status is EigenpairStatus.CONVERGED
    # A residual r at a gap g is an error of r^2 / g: (5e-4)^2 / 0.2 at most.
    np.testing.assert_allclose(pairs.values, np.sort(v)[: -1 - len(set(top)) : -1], atol=1.3e-6)


def test_nothing_is_spent_on_copies_where_one_of_each_end_is_wanted(symmetric):
  h = symmetric(OUTLIERS)
  counts = {find(h, 1, 1, repeated=x).num_products for x in (True, False)}
  assert len(counts) == 1
  assert find(h, 2, 1).num_products > find(h, 2, 1, repeated=False).num_products


# Mistakes.


@pytest.mark.parametrize("call", [0, 1, -1], ids=["first", "second", "check"])
def test_product_that_writes_to_its_argument_is_refused(symmetric, call):
  h = symmetric(OUTLIERS)
  product = Product(h)
  last = find(h, 3, 1).num_products

  def writing(v):
    if product.calls == call % last:
      v[0] = 0
    return product(v)

  with pytest.raises(ValueError, match="read-only"):
    top_eigenpairs(writing, len(h), 3, 1)
  assert product.calls == call % last


def test_product_that_is_kept_by_its_maker_is_not_written_to():
  kept = []

  def product(v):
    kept.append((OUTLIERS * v, OUTLIERS * v))
    return kept[-1][0]

  top_eigenpairs(product, len(OUTLIERS), 3, 1)
  assert all(np.array_equal(*pair) for pair in kept)


@pytest.mark.parametrize(
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
@pytest.mark.parametrize("call", [0, 3, -1], ids=["first", "fourth", "check"])
def test_bad_product_is_refused(bad, call):
  product = Product(OUTLIERS)
  last = find(OUTLIERS, 3, 1).num_products
  with pytest.raises(ValueError, match="product"):
    top_eigenpairs(
      lambda v: bad(v) if product.calls == call % last else product(v), len(OUTLIERS), 3, 1
    )


def test_product_that_is_nan_is_named_by_its_number():
  product = Product(OUTLIERS)
  with pytest.raises(ValueError, match="product 3: expected finite numbers, got NaN or infinity"):
    top_eigenpairs(lambda v: v * np.nan if product.calls == 3 else product(v), len(OUTLIERS), 3, 1)


@pytest.mark.parametrize("name", ["largest", "smallest"])
@pytest.mark.parametrize(
  ("bad", "error"), [(-1, ValueError), (1.5, TypeError), (True, TypeError), ("1", TypeError)]
)
def test_number_of_eigenvalues_that_is_not_a_count_is_refused(name, bad, error):
  with pytest.raises(error, match=f"^{name}: expected an integer"):
    top_eigenpairs(Product(BULK), N, **{"largest": 2, "smallest": 2} | {name: bad})


@pytest.mark.parametrize("counts", [(0, 0), (4, 2), (6, 0), (0, 6)], ids=str)
def test_fewer_than_1_or_more_than_n_eigenvalues_are_refused(counts):
  expected = "largest, smallest: expected 1 to n = 5 eigenvalues together, got {} \\+ {}"
  with pytest.raises(ValueError, match=expected.format(*counts)):
    top_eigenpairs(Product(np.arange(5.0)), 5, *counts)


@pytest.mark.parametrize("bad", [0, -1e-8, np.nan, np.inf])
def test_tolerance_that_is_not_above_0_is_refused(bad):
  with pytest.raises(ValueError, match="^tolerance: expected a finite number above 0"):
    find(BULK, 2, tolerance=bad)


@pytest.mark.parametrize("name", ["basis_size", "max_products"])
@pytest.mark.parametrize(
  ("bad", "error"),
  [(0, ValueError), (-1, ValueError), (4, ValueError), (7.0, TypeError), (True, TypeError)],
)
def test_basis_size_and_max_products_that_are_too_few_are_refused(name, bad, error):
  # Two more than the eigenvalues, or n.
  with pytest.raises(error, match=f"^{name}: expected"):
    find(BULK, 2, 1, **{name: bad})


@pytest.mark.parametrize("name", ["basis_size", "max_products"])
@pytest.mark.parametrize(
  ("n", "largest", "least"), [(N, 3, 5), (5, 4, 5), (5, 5, 5), (1, 1, 1)], ids=str
)
def test_least_basis_size_and_max_products_are_accepted(name, n, largest, least):
  assert find(np.arange(float(n)), largest, **{name: least}).values.shape == (largest,)


@pytest.mark.parametrize(
  ("arguments", "expected"),
  [
    ((1000, 3, 2), (40, 800)),
    ((20, 3, 2), (20, 400)),
    ((1000, 3, 2, 10), (10, 200)),
    ((1000, 3, 2, None, 50), (40, 50)),
    ((6, 3, 2, 100, 50), (6, 50)),
  ],
  ids=str,
)
def test_limits_are_those_asked_for_or_the_defaults_within_the_matrix(arguments, expected):
  assert limits(*arguments) == expected


# Begun elsewhere than at a random vector.


def test_search_that_begins_at_old_eigenvectors_takes_fewer_products():
  bulk = np.linspace(0, 1, 1000)
  old = find(np.append(bulk, [1.2, 1.3]), 2, tolerance=1e-4)
  moved = np.append(bulk, [1.21, 1.29])
  cold = find(moved, 2, tolerance=1e-4)
  warm = find(moved, 2, tolerance=1e-4, start=old.vectors.sum(axis=0))
  assert warm.num_products < cold.num_products
  np.testing.assert_allclose(warm.values, cold.values, rtol=0, atol=1e-4 * 1.29)


def test_search_that_begins_half_at_random_finds_a_new_largest_eigenvalue():
  h = np.append(np.linspace(0, 1, 400), [1.5, 2.0])
  old = np.eye(402)[400]
  start = old + np.random.default_rng(0).standard_normal(402) / 402**0.5
  assert find(h, 1, tolerance=1e-3, start=start).values == pytest.approx([2.0])


@pytest.mark.parametrize(
  "start, message",
  [
    (np.ones(N - 1), "start: expected shape"),
    (np.zeros(N), "not zero"),
    (np.full(N, np.inf), "finite"),
  ],
)
def test_bad_start_is_refused(start, message):
  with pytest.raises(ValueError, match=message):
    find(BULK, 1, start=start)
