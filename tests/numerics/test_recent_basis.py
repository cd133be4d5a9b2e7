"""Recurrences that keep their last vectors alone."""

import numpy as np
import pytest
import scipy.linalg

from tf_hessian.numerics.density import l1_distance, smooth
from tf_hessian.numerics.lanczos import Lanczos, ritz_pairs
from tf_hessian.numerics.memory_basis import MemoryBasis
from tf_hessian.numerics.probes import probe
from tf_hessian.numerics.quadrature import distinct, gauss_quadrature
from tf_hessian.numerics.recent_basis import RecentBasis
from tf_hessian.numerics.results import LanczosStatus

EPS = np.finfo(np.float64).eps
N, OUTLIERS = 1000, np.array([50.0, 30.0, 29.0, 17.0, 8.0, 3.0, -4.0])


@pytest.fixture(scope="module")
def eigenvalues():
  values = 0.05 * np.random.default_rng(0).standard_normal(N)
  values[: OUTLIERS.size] = OUTLIERS
  return values


def recurrence(basis, matvec, draw=0):
  basis.store(0, probe(0, draw, basis.n))
  lanczos = Lanczos(basis)
  lanczos.run(matvec)
  return lanczos


def recent(steps, n=N):
  return RecentBasis(np.empty((3, n)), steps)


def test_last_two_rows_are_those_stored():
  basis = recent(9, 4)
  for j in range(9):
    basis.store(j, np.full(4, float(j)))
    for k in range(basis.first_kept(j + 1), j + 1):
      np.testing.assert_array_equal(basis.row(k), k)
  assert (basis.first_kept(1), basis.first_kept(9), basis.nbytes) == (0, 7, 3 * 4 * 8)


@pytest.mark.parametrize("n", [50, 40_000])
@pytest.mark.parametrize("last", range(6))
def test_what_is_left_is_orthogonal_to_the_last_two_rows(n, last):
  q = np.linalg.qr(np.random.default_rng(last).standard_normal((n, 6)))[0].T
  basis = recent(6, n)
  for row in range(last + 1):
    basis.store(row, q[row])
  w = 1e6 * q[last] + probe(1, 0, n)
  expected = q[: last + 1] @ w
  overlaps, length = basis.orthogonalize(w, last + 1, 0.0)
  np.testing.assert_allclose(overlaps[-2:], expected[-2:], rtol=1e-12, atol=1e-9)
  assert not overlaps[:-2].any() and np.linalg.norm(w) == pytest.approx(length, rel=1e-14)
  assert np.abs(q[max(last - 1, 0) : last + 1] @ w).max() <= 10 * EPS * length


@pytest.mark.parametrize("n", [N, 20_000])
def test_first_steps_are_those_of_a_basis(n):
  values = np.linspace(-1.0, 1.0, n)  # of which none converges soon
  full = recurrence(MemoryBasis(np.empty((12, n))), lambda v: values * v)
  none = recurrence(recent(12, n), lambda v: values * v)
  np.testing.assert_allclose(none.alphas, full.alphas, atol=1e-13)
  np.testing.assert_allclose(none.betas, full.betas, atol=1e-13)
  assert (full.status, none.status) == (LanczosStatus.COMPLETE, LanczosStatus.WITHOUT_BASIS)


def test_density_is_that_of_a_basis_though_eigenvalues_have_copies(eigenvalues):
  rules = []
  for basis in (MemoryBasis(np.empty((90, N))), recent(90)):
    rules.append(gauss_quadrature(*recurrence(basis, lambda v: eigenvalues * v).tridiagonal()))
  grid = np.linspace(-6, 52, 20_000)
  full, none = (smooth(q.nodes, q.weights, grid, 1e-2) for q in rules)
  assert np.sum(rules[1].nodes > 1) > 2 * np.sum(rules[0].nodes > 1)
  assert l1_distance(grid, full, none) < 1e-10


@pytest.fixture(scope="module", params=[np.float64, np.float32])
def decomposed(request, eigenvalues, symmetric):
  """(matrix, its eigenvalues, its eigenvectors)."""
  matrix = symmetric(eigenvalues).astype(request.param)
  return matrix, *scipy.linalg.eigh(matrix.astype(np.float64))


@pytest.mark.parametrize("draw", range(3))
@pytest.mark.parametrize("steps", [60, 130, 300])
def test_eigenvalue_that_has_copies_is_counted_once_with_their_weight(decomposed, steps, draw):
  matrix, exact, vectors = decomposed
  dtype = matrix.dtype
  precision = np.finfo(dtype).eps / 2
  lanczos = recurrence(recent(steps), lambda v: matrix @ v.astype(dtype), draw)
  found = distinct(gauss_quadrature(*lanczos.tridiagonal()), precision)
  far, outliers = np.abs(found.nodes) > 1, np.sort(OUTLIERS)
  # The products are those of a matrix that is off by sums of N roundings, each of them random.
  error = 50 * np.sqrt(N) * precision
  np.testing.assert_allclose(found.nodes[far], outliers, atol=error)
  weights = (vectors.T @ probe(0, draw, N))[np.abs(exact) > 1] ** 2
  np.testing.assert_allclose(found.weights[far], weights, atol=10 * error * np.sqrt(weights.max()))
  assert found.weights.sum() == pytest.approx(1.0, abs=1e-12)


def test_eigenvalues_apart_by_more_than_rounding_are_no_copies():
  values = np.array([1.0, 1.0 + 1e-11, -2.0, 0.5])
  rule = gauss_quadrature(*recurrence(MemoryBasis(np.empty((4, 4))), values.__mul__).tridiagonal())
  assert len(distinct(rule, EPS).nodes) == 4


def test_recurrence_ends_where_the_space_is_invariant():
  values = np.repeat([3.0, -1.0, 0.0], 100)
  lanczos = recurrence(recent(20, 300), lambda v: values * v)
  assert lanczos.status is LanczosStatus.INVARIANT and lanczos.num_steps == 3


def test_what_needs_all_rows_is_refused(tmp_path):
  lanczos = recurrence(recent(5, 20), np.linspace(0.0, 1.0, 20).__mul__)
  with pytest.raises(ValueError, match="basis: none is kept, so there are no Ritz vectors"):
    ritz_pairs(lanczos)
  with pytest.raises(ValueError, match="recurrence: its basis is not kept"):
    lanczos.save(tmp_path / "state.npz")


@pytest.mark.parametrize("array", [np.empty((2, 5)), np.empty((3, 5), np.float32)])
def test_array_of_another_shape_is_refused(array):
  with pytest.raises(ValueError, match=r"basis: expected float64 of shape \(3, n\)"):
    RecentBasis(array, 5)
