"""Gauss quadrature against the rules of classical orthogonal polynomials."""

import warnings

import numpy as np
import pytest
import scipy.stats

from tf_hessian.numerics.quadrature import (
  gauss_quadrature,
  mean_and_stderr,
  moments,
  tridiagonal_matrix,
)
from tf_hessian.numerics.results import Quadrature

EPS = np.finfo(np.float64).eps


def legendre(m):
  k = np.arange(1, m)
  return np.zeros(m), k / np.sqrt(4 * k**2 - 1), np.polynomial.legendre.leggauss(m)


def hermite(m):
  return np.zeros(m), np.sqrt(np.arange(1, m) / 2), np.polynomial.hermite.hermgauss(m)


def laguerre(m):
  k = np.arange(m)
  return 2.0 * k + 1, 1.0 * k[1:], np.polynomial.laguerre.laggauss(m)


def chebyshev(m):
  off_diagonal = np.full(m - 1, 0.5)
  off_diagonal[:1] = np.sqrt(0.5)
  nodes = np.cos((2 * np.arange(m, 0, -1) - 1) * np.pi / (2 * m))
  return np.zeros(m), off_diagonal, (nodes, np.full(m, np.pi / m))


FAMILIES = pytest.mark.parametrize("family", [legendre, hermite, laguerre, chebyshev])
SIZES = pytest.mark.parametrize("m", [1, 2, 3, 10, 40])


def random_tridiagonal(m, seed=0):
  rng = np.random.default_rng(seed)
  return rng.standard_normal(m), rng.uniform(0.1, 1, m - 1)


@FAMILIES
@SIZES
def test_nodes_are_those_of_the_classical_rule(family, m):
  diagonal, off_diagonal, (nodes, _) = family(m)
  got = gauss_quadrature(diagonal, off_diagonal).nodes
  np.testing.assert_allclose(got, nodes, rtol=0, atol=4 * m * EPS * max(1, np.abs(nodes).max()))


@FAMILIES
@SIZES
def test_weights_are_those_of_the_classical_rule_over_their_sum(family, m):
  diagonal, off_diagonal, (nodes, weights) = family(m)
  got = gauss_quadrature(diagonal, off_diagonal).weights
  # An eigenvector is as well conditioned as its eigenvalue is apart from the others.
  gap = np.diff(nodes).min() if m > 1 else 1.0
  condition = max(1.0, np.abs(nodes).max() / gap)
  np.testing.assert_allclose(got, weights / weights.sum(), rtol=0, atol=4 * m * EPS * condition)


@pytest.mark.parametrize("m", [1, 2, 10, 90, 300])
def test_weights_sum_to_1(m):
  weights = gauss_quadrature(*random_tridiagonal(m)).weights
  assert abs(weights.sum() - 1) <= 4 * np.sqrt(m) * EPS


def test_weights_are_not_negative():
  assert np.all(gauss_quadrature(*random_tridiagonal(90)).weights >= 0)


def test_nodes_ascend():
  assert np.all(np.diff(gauss_quadrature(*random_tridiagonal(90)).nodes) > 0)


def test_a_single_node_has_all_the_weight():
  q = gauss_quadrature(np.array([2.5]), np.empty(0))
  assert (q.nodes.tolist(), q.weights.tolist()) == ([2.5], [1.0])


def test_off_diagonal_of_zeros_gives_all_the_weight_to_the_first_entry():
  q = gauss_quadrature(np.array([2.0, -1.0, 3.0]), np.zeros(2))
  assert (q.nodes.tolist(), q.weights.tolist()) == ([-1.0, 2.0, 3.0], [0.0, 1.0, 0.0])


def test_all_zero_matrix_has_nodes_0_and_weights_that_sum_to_1():
  q = gauss_quadrature(np.zeros(3), np.zeros(2))
  assert (q.nodes.tolist(), q.weights.sum()) == ([0.0, 0.0, 0.0], 1.0)


def test_nan_is_refused():
  with pytest.raises(ValueError):
    gauss_quadrature(np.array([0.0, np.nan]), np.ones(1))


def test_quadrature_is_exact_up_to_degree_2m_minus_1():
  m = 8
  diagonal, off_diagonal, _ = legendre(m)
  j = np.arange(1, 2 * m)
  got = moments([gauss_quadrature(diagonal, off_diagonal)], 2 * m - 1)[0]
  np.testing.assert_allclose(got, np.where(j % 2, 0, 1 / (j + 1)), rtol=0, atol=4 * m * EPS)


def test_quadrature_is_not_exact_at_degree_2m():
  m = 4
  diagonal, off_diagonal, _ = legendre(m)
  got = moments([gauss_quadrature(diagonal, off_diagonal)], 2 * m)[0, -1]
  # The error is the integral of the square of the monic polynomial: the product of the betas^2.
  np.testing.assert_allclose(1 / (2 * m + 1) - got, np.prod(off_diagonal**2) * 16 / 63, rtol=1e-12)


def test_tridiagonal_matrix_has_its_entries_in_place():
  t = tridiagonal_matrix(np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0]))
  np.testing.assert_array_equal(t, [[1, 4, 0], [4, 2, 5], [0, 5, 3]])


def test_tridiagonal_matrix_of_one_entry():
  np.testing.assert_array_equal(tridiagonal_matrix(np.array([3.0]), np.empty(0)), [[3.0]])


def test_nodes_are_the_eigenvalues_of_the_tridiagonal_matrix():
  coefficients = random_tridiagonal(30)
  t = tridiagonal_matrix(*coefficients)
  tolerance = 30 * EPS * np.linalg.norm(t, 2)
  nodes = gauss_quadrature(*coefficients).nodes
  np.testing.assert_allclose(nodes, np.linalg.eigvalsh(t), rtol=0, atol=tolerance)


def test_moments_are_first_entries_of_the_matrix_powers():
  coefficients = random_tridiagonal(6)
  t = tridiagonal_matrix(*coefficients)
  expected = [np.linalg.matrix_power(t, j)[0, 0] for j in range(1, 12)]
  tolerance = 12 * 6 * EPS * np.maximum(1, np.linalg.norm(t, 2)) ** np.arange(1, 12)
  got = moments([gauss_quadrature(*coefficients)], 11)[0]
  assert np.all(np.abs(got - expected) <= tolerance)


def test_moments_have_one_row_a_draw_although_node_counts_differ():
  first = Quadrature(np.array([2.0]), np.array([1.0]))
  second = Quadrature(np.array([-1.0, 1.0, 3.0]), np.array([0.25, 0.5, 0.25]))
  np.testing.assert_array_equal(moments([first, second], 3), [[2, 4, 8], [1, 3, 7]])


def test_mean_and_stderr_are_those_of_scipy():
  samples = np.random.default_rng(0).standard_normal((7, 5))
  mean, stderr = mean_and_stderr(samples)
  np.testing.assert_allclose(mean, samples.mean(axis=0), rtol=7 * EPS)
  np.testing.assert_allclose(stderr, scipy.stats.sem(samples), rtol=7 * EPS)


def test_mean_and_stderr_of_scalars():
  mean, stderr = mean_and_stderr([1.0, 2.0, 3.0])
  assert (mean, stderr) == (2.0, 1 / np.sqrt(3))


def test_stderr_of_equal_samples_is_0():
  assert not mean_and_stderr(np.ones((4, 3)))[1].any()


def test_mean_of_a_single_sample_is_the_sample():
  np.testing.assert_array_equal(mean_and_stderr([[1.0, 2.0]])[0], [1.0, 2.0])


def test_stderr_of_a_single_sample_is_nan_without_a_warning():
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    stderr = mean_and_stderr([[1.0, 2.0]])[1]
  assert stderr.shape == (2,) and np.all(np.isnan(stderr))
