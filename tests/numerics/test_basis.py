"""All kinds of basis hold the same rows and do the same sums; what rounding to float32 costs."""

import io

import numpy as np
import pytest
import scipy.fft

from tf_hessian.numerics.density import density_grid, l1_distance, smooth
from tf_hessian.numerics.lanczos import Lanczos, ritz_pairs
from tf_hessian.numerics.memory_basis import MemoryBasis
from tf_hessian.numerics.probes import probe
from tf_hessian.numerics.quadrature import gauss_quadrature
from tf_hessian.numerics.results import LanczosStatus

EPS = np.finfo(np.float64).eps
HALF_ULP = 2.0**-24  # of float32
# One piece; several pieces in two blocks of a file, the last ones not full; several in memory only.
SIZES = [100, 5000, 70_001, 20_000]
STEPS = 7
FLOAT64 = ["memory", "disk", "disk resident"]
FLOAT32 = ["memory float32", "disk float32", "disk float32 resident"]
KINDS = pytest.mark.parametrize("kind", FLOAT64 + FLOAT32)


# Rows.


@KINDS
@pytest.mark.parametrize("n", SIZES)
def test_rows_are_those_that_were_stored(new, kind, n, random_rows, fill, stored):
  rows = random_rows(STEPS, n)
  basis = fill(new(kind, STEPS, n), rows)
  np.testing.assert_array_equal(stored(basis, STEPS), rows.astype(basis.dtype))


@KINDS
def test_row_is_float64_and_read_only(new, kind, random_rows, fill):
  row = fill(new(kind, STEPS, 100), random_rows(STEPS, 100)).row(3)
  assert row.dtype == np.float64
  with pytest.raises(ValueError, match="read-only"):
    row[0] = 1


@KINDS
def test_row_can_be_stored_again(new, kind, random_rows, fill):
  rows = random_rows(STEPS, 20_000)
  basis = fill(new(kind, STEPS, 20_000), rows)
  basis.store(2, rows[0])
  np.testing.assert_array_equal(basis.row(2), basis.row(0))
  np.testing.assert_array_equal(basis.row(3), rows[3].astype(basis.dtype))


@KINDS
@pytest.mark.parametrize("n", SIZES)
def test_combinations_are_those_of_the_rows(new, kind, n, random_rows, fill, stored):
  basis = fill(new(kind, STEPS, n), random_rows(STEPS, n))
  coefficients = np.random.default_rng(1).standard_normal((3, 5))
  expected = coefficients @ stored(basis, 5)
  np.testing.assert_allclose(basis.combine(coefficients), expected, rtol=0, atol=50 * EPS)


# Orthogonalization.


@KINDS
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("recent", [None, 2])
def test_what_is_left_of_a_vector_is_orthogonal_to_the_rows(
  new, kind, n, recent, random_rows, fill, stored
):
  basis = fill(new(kind, STEPS, n), random_rows(STEPS, n))
  w = np.random.default_rng(2).standard_normal(n)
  basis.orthogonalize(w, 5, 0.0, recent=recent)
  # What the only pass over all rows leaves of overlaps of about 1 is what rows in float32 lack in
  # being orthonormal; in a recurrence they are rounding errors before that pass.
  atol = 10 * np.sqrt(n) * EPS * np.linalg.norm(w)
  if basis.dtype == np.float32:
    atol += 10 * (HALF_ULP if recent else HALF_ULP**2)
  np.testing.assert_allclose(stored(basis, 5) @ w, 0, rtol=0, atol=atol)


@KINDS
@pytest.mark.parametrize("n", SIZES)
def test_vector_is_its_overlaps_and_what_is_left(new, kind, n, random_rows, fill, stored):
  basis = fill(new(kind, STEPS, n), random_rows(STEPS, n))
  before = np.random.default_rng(2).standard_normal(n)
  w = before.copy()
  overlaps, length = basis.orthogonalize(w, 5, 0.0, recent=2)
  np.testing.assert_allclose(w + overlaps @ stored(basis, 5), before, rtol=0, atol=1e-13)
  assert abs(length - np.linalg.norm(w)) <= 100 * EPS * length


@pytest.mark.parametrize("n", SIZES)
def test_overlaps_are_those_of_the_dense_product(new, n, random_rows, fill):
  rows = random_rows(STEPS, n)
  w = np.random.default_rng(2).standard_normal(n)
  expected = rows @ w
  overlaps, _ = fill(new("disk", STEPS, n), rows).orthogonalize(w, STEPS, 0.0)
  np.testing.assert_allclose(overlaps, expected, rtol=0, atol=n * EPS)


def test_vector_in_the_span_is_passed_over_until_nothing_but_rounding_is_left(
  new, random_rows, fill
):
  rows = random_rows(STEPS, 100)
  w = np.ones(STEPS) @ rows
  overlaps, length = fill(new("memory", STEPS, 100), rows).orthogonalize(w, STEPS, 1e-13, recent=2)
  assert length <= 1e-13
  np.testing.assert_allclose(overlaps, 1, rtol=0, atol=100 * EPS)


def test_recent_pass_alone_is_never_trusted(new, random_rows, fill):
  # Nothing of the last two rows is in w, so the first pass removes nothing.
  rows = random_rows(STEPS, 100)
  w = probe(0, 0, 100)
  w -= (rows[-2:] @ w) @ rows[-2:]
  w += 0.1 * rows[0]
  fill(new("memory", STEPS, 100), rows).orthogonalize(w, STEPS, 0.0, recent=2)
  assert np.abs(rows @ w).max() <= 100 * EPS


def test_pass_that_removes_most_of_a_vector_is_not_trusted(new, random_rows, fill):
  # What is left after it has the rounding errors of the whole, and is 1e-9 of it.
  rows = random_rows(STEPS + 1, 100)
  basis, w = fill(new("memory", STEPS, 100), rows[:-1]), rows[0] + 1e-9 * rows[-1]
  _, length = basis.orthogonalize(w, STEPS, 0.0, recent=2)
  assert abs(length - 1e-9) <= 100 * EPS
  assert np.abs(rows[:-1] @ w).max() <= 100 * EPS * length


@pytest.mark.parametrize("kind", ["memory", "disk float32"])
def test_no_rows_leave_the_vector(new, kind):
  w = np.ones(70_001)
  overlaps, length = new(kind, STEPS, w.size).orthogonalize(w, 0, 0.0)
  assert overlaps.size == 0
  assert length == pytest.approx(np.sqrt(w.size), rel=1e-14)
  np.testing.assert_array_equal(w, 1.0)


# Recurrences.


@pytest.mark.parametrize("kinds", [FLOAT64, FLOAT32], ids=["float64", "float32"])
@pytest.mark.parametrize("n", SIZES)
def test_kinds_of_one_dtype_give_bitwise_the_same_recurrence(
  new, kinds, n, stored, run, assert_same_tridiagonal
):
  h = np.linspace(-1, 3, n)
  expected, *others = (run(new(k, STEPS, n, k), lambda v: h * v) for k in kinds)
  for lanczos in others:
    assert_same_tridiagonal(lanczos, expected)
    np.testing.assert_array_equal(stored(lanczos.vectors, STEPS), stored(expected.vectors, STEPS))


@KINDS
def test_recurrence_repeats_bitwise(new, kind, run, assert_same_tridiagonal):
  h = np.linspace(-1, 3, 70_001)
  first, second = (run(new(kind, STEPS, h.size, path), lambda v: h * v) for path in "ab")
  assert_same_tridiagonal(first, second)


@pytest.mark.parametrize("kind", FLOAT64)
def test_basis_of_a_long_recurrence_is_orthonormal(new, kind, stored, run):
  n, steps = 20_000, 60
  h = np.append(np.linspace(0, 1, n - 3), [10, 30, 100])  # which converge and would come back
  q = stored(run(new(kind, steps, n), lambda v: h * v).vectors, steps)
  assert np.abs(q @ q.T - np.eye(steps)).max() <= np.sqrt(n) * EPS


@pytest.mark.parametrize("kind", FLOAT64 + FLOAT32)
def test_n_steps_give_the_eigenvalues_of_a_dense_matrix(symmetric, new, kind, run):
  h = symmetric(np.linspace(-1, 3, 40))
  nodes = gauss_quadrature(*run(new(kind, 40, 40), lambda v: h @ v).tridiagonal()).nodes
  atol = 40 * 3 * (HALF_ULP if "float32" in kind else EPS)
  np.testing.assert_allclose(nodes, np.linspace(-1, 3, 40), rtol=0, atol=atol)


def test_products_that_are_not_quite_symmetric_leave_the_basis_orthonormal(symmetric, stored, run):
  # Their overlaps with all rows, not the last two alone, have to be removed.
  h = symmetric(np.linspace(-1, 3, 200)) + 1e-6 * np.random.default_rng(0).standard_normal(
    (200,) * 2
  )
  q = stored(run(MemoryBasis(np.empty((100, 200))), lambda v: h @ v).vectors, 100)
  assert np.abs(q @ q.T - np.eye(100)).max() <= 200 * EPS


@KINDS
def test_ritz_pairs_are_the_same_from_each_kind(new, kind, run):
  n = 20_000
  h = np.append(np.linspace(0, 1, n - 1), 5.0)
  pairs = ritz_pairs(run(new(kind, 20, n), lambda v: h * v), -1)
  tolerance = 1e-7 if "float32" in kind else 1e-13
  assert abs(pairs.values[0] - 5) <= tolerance
  assert np.linalg.norm(h * pairs.vectors[0] - 5 * pairs.vectors[0]) <= 10 * tolerance


# The cost of float32.


def spread(eigenvalues):
  """Returns the product with a matrix whose eigenvectors are spread over all entries."""

  def matvec(v):
    return scipy.fft.idct(eigenvalues * scipy.fft.dct(v, norm="ortho"), norm="ortho")

  return matvec


SPECTRUM = np.append(
  0.01 * np.random.default_rng(0).standard_normal(19_990), np.geomspace(1, 9, 10)
)


@pytest.mark.parametrize(
  "matvec, most",
  [(lambda v: SPECTRUM * v, HALF_ULP), (spread(SPECTRUM), 5 * HALF_ULP / np.sqrt(20_000))],
  ids=["concentrated", "spread"],
)
def test_rows_in_float32_are_orthonormal_to_its_rounding(new, matvec, most, stored, run):
  q = stored(run(new("memory float32", 60, 20_000), matvec).vectors, 60)
  assert np.abs(q @ q.T - np.eye(60)).max() <= 2 * most


def test_rounding_of_rows_to_float32_does_not_add_up(new, run):
  # Copies of converged eigenvalues would appear if it did.
  nodes = gauss_quadrature(
    *run(new("memory float32", 80, 20_000), spread(SPECTRUM)).tridiagonal()
  ).nodes
  np.testing.assert_allclose(nodes[-10:], np.geomspace(1, 9, 10), rtol=0, atol=9 * 2 * HALF_ULP)
  assert nodes[-11] < 0.05


def test_density_from_float32_rows_is_that_of_float64_up_to_rounding(new, run):
  exact, rounded = (
    gauss_quadrature(*run(new(kind, 60, 20_000), spread(SPECTRUM)).tridiagonal())
    for kind in ("memory", "memory float32")
  )
  variance = 1e-3**2 * 9**2
  grid = density_grid([exact.nodes], variance)
  a, b = (smooth(q.nodes, q.weights, grid, variance) for q in (exact, rounded))
  assert l1_distance(grid, a, b) <= 1e-6


@pytest.mark.parametrize(
  "eigenvalues", [np.ones(100), np.repeat([-1.1, 0.3], 50)], ids=["I", "two"]
)
def test_invariant_space_is_harmless_in_float32(new, eigenvalues, run):
  # Rounding leads out of the space, to further vectors of the same eigenspaces.
  q = gauss_quadrature(
    *run(new("memory float32", 20, 100), lambda v: eigenvalues * v).tridiagonal()
  )
  distances = np.abs(q.nodes[:, None] - np.unique(eigenvalues))
  assert distances.min(axis=1)[q.weights > 1e-12].max() <= 4 * HALF_ULP
  for value in np.unique(eigenvalues):
    near = np.abs(q.nodes - value) < 1e-6
    expected = np.sum(probe(0, 0, 100)[eigenvalues == value] ** 2)
    assert abs(q.weights[near].sum() - expected) <= 4 * HALF_ULP


@pytest.mark.parametrize(
  "eigenvalues", [np.ones(100), np.repeat([-1.1, 0.3], 50)], ids=["I", "two"]
)
def test_tolerance_of_float32_ends_an_invariant_space_in_float32(new, eigenvalues):
  basis = new("memory float32", 20, 100)
  basis.store(0, probe(0, 0, 100))
  lanczos = Lanczos(basis, tolerance=2.0**-23)
  assert lanczos.run(lambda v: eigenvalues * v) is LanczosStatus.INVARIANT
  assert lanczos.num_steps == np.unique(eigenvalues).size


# Saved.


@pytest.mark.parametrize("kind", ["memory", "memory float32"])
def test_recurrence_saved_from_any_dtype_goes_on_bitwise(new, kind, run, assert_same_tridiagonal):
  h = np.linspace(-1, 3, 100)
  expected = run(new(kind, STEPS, 100), lambda v: h * v)
  basis = new(kind, STEPS, 100)
  basis.store(0, probe(0, 0, 100))
  lanczos, file = Lanczos(basis), io.BytesIO()
  for _ in range(3):
    lanczos.step(lambda v: h * v)
  lanczos.save(file)
  file.seek(0)
  loaded = Lanczos.load(file)
  assert loaded.vectors.dtype == basis.dtype
  loaded.run(lambda v: h * v)
  assert_same_tridiagonal(loaded, expected)


# Mistakes.


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.complex128])
def test_other_dtypes_are_refused(dtype):
  with pytest.raises(ValueError, match="dtype: expected one of"):
    MemoryBasis(np.empty((2, 3), dtype))


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_more_steps_than_the_length_are_refused_by_the_recurrence(new, kind):
  with pytest.raises(ValueError, match="steps: expected at most n = 5, got 6"):
    Lanczos(new(kind, 6, 5))


@pytest.mark.parametrize("kind", ["memory float32", "disk float32"])
def test_start_vector_in_float32_has_length_1_to_its_rounding(new, kind):
  basis = new(kind, 3, 100)
  basis.store(0, probe(0, 0, 100))
  Lanczos(basis)
  basis.store(0, probe(0, 0, 100) * (1 + 1e-6))
  with pytest.raises(ValueError, match="start vector: expected length 1"):
    Lanczos(basis)
