"""Solutions of damped systems against those of dense matrices."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg

import tf_hessian
from tf_hessian.slq import solve as solve_lib
from tf_hessian.slq.solve import _from_bytes, _to_bytes, solve

N = 40


@pytest.fixture(scope="module")
def positive():
  """A matrix (40, 40) with eigenvalues from 1e-4 to 100."""
  q = scipy.linalg.qr(np.random.default_rng(0).standard_normal((N, N)))[0]
  return (q * np.logspace(-4, 2, N)) @ q.T


@pytest.fixture(scope="module")
def b():
  return np.random.default_rng(1).standard_normal(N)


@pytest.mark.parametrize("method", ["minres", "cg"])
@pytest.mark.parametrize("damping", [0.0, 0.01, 1.0])
def test_solution_is_that_of_the_dense_matrix(positive, b, method, damping):
  found = solve(positive, b, damping=damping, method=method, tolerance=1e-12, progress=False)
  a = positive + damping * np.eye(N)
  assert found.residual == pytest.approx(np.linalg.norm(a @ found.x - b) / np.linalg.norm(b))
  # The error is at most the residual times the condition number.
  error = np.linalg.norm(found.x - np.linalg.solve(a, b)) / np.linalg.norm(found.x)
  assert error <= 10 * found.residual * np.linalg.cond(a) + 1e-9


@pytest.mark.parametrize("exponent", [-1000, -600, 100, 600, 1000])
@pytest.mark.parametrize("method", ["minres", "cg"])
def test_solution_is_in_proportion_to_b(positive, b, method, exponent):
  options = {"damping": 0.1, "method": method, "progress": False}
  one, other = (solve(positive, v, **options) for v in (b, np.ldexp(b, exponent)))
  np.testing.assert_array_equal(other.x, np.ldexp(one.x, exponent))
  assert other[1:] == one[1:] and one.converged


def test_indefinite_ones_are_solved_by_minres(matrix):
  b = np.ones(len(matrix))
  found = solve(matrix, b, damping=0.1, tolerance=1e-10, progress=False)
  assert found.converged
  expected = np.linalg.solve(matrix + 0.1 * np.eye(len(b)), b)
  np.testing.assert_allclose(found.x, expected, rtol=1e-6)


@pytest.mark.parametrize("method", ["minres", "cg"])
def test_known_eigenpairs_save_iterations(positive, b, method):
  pairs = tf_hessian.top_eigenpairs(positive, 12, progress=False)
  options = {"damping": 0.01, "method": method, "progress": False}
  plain = solve(positive, b, **options)
  helped = solve(positive, b, eigenpairs=pairs, **options)
  assert plain.converged and helped.converged
  assert helped.iterations < 0.7 * plain.iterations
  np.testing.assert_allclose(helped.x, plain.x, rtol=1e-3, atol=1e-3)


def test_step_of_a_model_is_the_dense_one(new_operator):
  hessian = new_operator()
  g = hessian.gradient()
  found = tf_hessian.solve(hessian, g, damping=2.0, tolerance=1e-5, progress=False)
  dense = tf_hessian.dense_hessian(hessian) + 2.0 * np.eye(len(g))
  np.testing.assert_allclose(found.x, np.linalg.solve(dense, g), rtol=1e-3, atol=1e-4)


def test_solution_that_has_not_converged_is_said(positive, b, caplog):
  found = solve(positive, b, damping=0.0, max_iterations=3, progress=False)
  assert (found.iterations, found.converged) == (3, False)
  assert "after 3 iterations the residual is" in caplog.text


def test_of_nothing_the_solution_is_nothing(positive):
  found = solve(positive, np.zeros(N), damping=1.0, progress=False)
  assert not found.x.any() and found.converged and found.residual == 0.0


def test_it_goes_through_bytes(positive, b):
  found = solve(positive, b, damping=1.0, progress=False)
  again = _from_bytes(_to_bytes(found))
  np.testing.assert_array_equal(again.x, found.x)
  assert again[1:] == found[1:]


def test_bad_arguments_are_refused(positive, b):
  pairs = tf_hessian.top_eigenpairs(positive - 1.0 * np.eye(N), 2, 2, progress=False)
  for change, message in [
    ({"damping": -1.0}, "damping"),
    ({"damping": np.nan}, "damping"),
    ({"method": "cgs"}, "method: expected"),
    ({"tolerance": 0.0}, "tolerance"),
    ({"max_iterations": 0}, "max_iterations"),
    ({"eigenpairs": pairs, "damping": 0.0}, "expected positive eigenvalues with the damping"),
  ]:
    with pytest.raises(ValueError, match=message):
      solve(positive, b, **({"damping": 1.0, "progress": False} | change))
  for other, message in (
    (b[1:], r"b: expected shape \(40,\), got \(39,\)"),
    (b * np.nan, "b: expected finite numbers"),
  ):
    with pytest.raises(ValueError, match=message):
      solve(positive, other, damping=1.0)


@pytest.mark.parametrize("scale", [2.0**-120, 1e-13, 1e-20, 1e20])
def test_solution_is_in_inverse_proportion_to_the_matrix(positive, b, scale):
  usual = solve(positive, b, damping=0.0, progress=False, tolerance=1e-9)
  found = solve(scale * positive, b, damping=0.0, progress=False, tolerance=1e-9)
  assert found.converged and usual.converged
  # The condition is 1e6, so both errors are at most 1e-3 of x.
  np.testing.assert_allclose(found.x * scale, usual.x, atol=2e-3 * np.linalg.norm(usual.x))


def test_minres_goes_on_where_its_own_estimates_end_it():
  rng = np.random.default_rng(0)
  q, _ = np.linalg.qr(rng.standard_normal((40, 40)))
  matrix = (q * np.logspace(0, -8, 40)) @ q.T
  b = matrix @ rng.standard_normal(40)
  found = solve((matrix + matrix.T) / 2, b, damping=0.0, tolerance=1e-9, progress=False)
  assert found.converged and found.residual <= 1e-9


def test_first_product_of_minres_is_taken_once(positive, b):
  made = []

  def product(v):
    made.append(np.array(np.ravel(v)))
    return positive @ made[-1] + made[-1]

  operator = scipy.sparse.linalg.LinearOperator((N, N), matvec=product, dtype=np.float64)
  assert solve(operator, b, damping=0.0, tolerance=1e-2, progress=False).converged
  direction = b / np.linalg.norm(b)
  assert sum(np.allclose(v, direction, rtol=1e-12, atol=0) for v in made) == 1


@pytest.mark.parametrize("values", [[1.0, -1.0], [2.0, 0.0], [3.0, 1.0, -0.1]])
def test_cg_ends_at_a_direction_without_positive_curvature_and_says_so(values, caplog):
  b = np.ones(len(values))
  found = solve(np.diag(values), b, damping=0.0, method="cg", progress=False)
  assert not found.converged and found.iterations < 10 and np.isfinite(found.x).all()
  assert "not positive definite" in caplog.text


def test_cg_keeps_what_it_has_found_before_a_direction_without_positive_curvature(monkeypatch):
  monkeypatch.setattr(solve_lib, "_FIRST_LOOK", 100)
  b = np.array([1.0, 1.0, 1.0, 1e-3])
  found = solve(np.diag([3.0, 2.0, 1.0, -0.1]), b, damping=0.0, method="cg", progress=False)
  assert not found.converged and found.residual < 0.1
  np.testing.assert_allclose(found.x[:3], [1 / 3, 1 / 2, 1], rtol=0.1)


@pytest.mark.parametrize("method", ["minres", "cg"])
@pytest.mark.parametrize("first", [1, 4])
def test_products_that_are_not_finite_are_refused(method, first):
  count = 0

  def product(v):
    nonlocal count
    count += 1
    return np.arange(9.0) * np.ravel(v) if count < first else np.full(9, np.nan)

  operator = scipy.sparse.linalg.LinearOperator((9, 9), matvec=product, dtype=float)
  with pytest.raises(ValueError, match="expected finite numbers, got NaN or infinity"):
    tf_hessian.solve(operator, np.ones(9), damping=1.0, method=method, progress=False)
  assert count == first


@pytest.mark.parametrize("scale", [2.0**-900, 2.0**700])
def test_matrices_of_any_scale_are_solved(scale):
  a = np.diag(np.arange(1.0, 10.0))
  usual = tf_hessian.solve(a, np.ones(9), damping=1.0, progress=False)
  extreme = tf_hessian.solve(a * scale, np.ones(9), damping=scale, progress=False)
  assert usual.converged and extreme.converged
  np.testing.assert_allclose(extreme.x * scale, usual.x, rtol=1e-5)
