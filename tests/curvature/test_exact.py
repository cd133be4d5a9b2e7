"""The dense matrix and its spectrum."""

import random

import keras
import numpy as np
import pytest
import scipy.sparse.linalg

import tf_hessian
from tf_hessian import machine_memory
from tf_hessian.curvature.exact import dense_hessian, exact_spectrum
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.numerics.dense import asymmetry

layers = keras.layers
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((9, 4)), RNG.standard_normal((9, 1))
X[:, 2] = 0  # an input that is never on


@pytest.fixture(scope="module")
def net():
  """41 parameters, four of them behind the input that is always 0."""
  random.seed(0)
  inputs = keras.Input((4,), dtype="float64")
  x = layers.Dense(4, "tanh", dtype="float64")(inputs)
  x = layers.Dense(3, "tanh", dtype="float64")(x)
  model = keras.Model(inputs, layers.Dense(1, dtype="float64", use_bias=False)(x))
  return HessianOperator(model, "mse", [(X[:5], Y[:5]), (X[5:], Y[5:])])


@pytest.fixture(scope="module")
def matrix(net):
  return dense_hessian(net)


@pytest.fixture(scope="module")
def regression():
  """The exact spectrum of linear regression."""
  inputs = keras.Input((4,), dtype="float64")
  model = keras.Model(inputs, layers.Dense(1, dtype="float64")(inputs))
  return exact_spectrum(HessianOperator(model, "mse", [(X[:5], Y[:5]), (X[5:], Y[5:])]))


@pytest.mark.parametrize("ask", [tf_hessian.exact_spectrum, tf_hessian.dense_hessian])
def test_model_in_the_place_of_an_operator_is_refused_with_the_remedy(ask):
  with pytest.raises(TypeError, match="operator: expected .* got list.*HessianOperator.model"):
    ask([])


def test_dense_hessian_equals_the_column_products(net, matrix, columns):
  # The same sums, vectorized over columns: some roundings of the largest entry.
  np.testing.assert_allclose(matrix, columns(net), rtol=0, atol=1e-14)


def test_dense_hessian_is_symmetric_to_rounding(matrix):
  assert asymmetry(matrix) <= 1e-14


def test_dense_hessian_reports_its_progress(net):
  done = []
  dense_hessian(net, progress=done.append)
  assert done[-1] == net.shape[0]
  assert done == sorted(done)


def test_dense_hessian_of_another_linear_operator():
  a = np.diag(np.arange(70.0))
  a[0, 69] = a[69, 0] = 5
  found = dense_hessian(scipy.sparse.linalg.aslinearoperator(a))
  np.testing.assert_array_equal(found, a)


def test_exact_spectrum_of_linear_regression_equals_eigvalsh(regression, regression_hessian):
  expected = np.linalg.eigvalsh(regression_hessian(X))
  np.testing.assert_allclose(regression.eigenvalues, expected, atol=1e-14)


def test_zero_rows_are_counted(regression):
  assert regression.num_zero_rows == 1
  np.testing.assert_array_equal(regression.nonzero_rows, [0, 1, 3, 4])


def test_zero_rows_of_a_net_are_counted(net):
  spectrum = exact_spectrum(net)
  assert spectrum.num_zero_rows == 4
  assert set(range(8, 12)).isdisjoint(spectrum.nonzero_rows)


def test_exact_spectrum_has_an_eigenvalue_for_each_parameter(net, matrix):
  expected = np.linalg.eigvalsh((matrix + matrix.T) / 2)
  np.testing.assert_allclose(exact_spectrum(net).eigenvalues, expected, rtol=0, atol=1e-14)


def test_eigenvectors_are_kept_when_asked_for(net, matrix):
  spectrum = exact_spectrum(net, eigenvectors=True)
  v = np.random.default_rng(1).standard_normal(net.shape[0])
  v /= np.linalg.norm(v)
  nodes, weights = spectrum.draw(v)
  np.testing.assert_allclose(nodes @ weights, v @ matrix @ v, rtol=0, atol=1e-14)


# Room.


class Refusing(scipy.sparse.linalg.LinearOperator):
  """A matrix of which no product may be asked for."""

  def __init__(self, n):
    super().__init__(np.dtype(np.float64), (n, n))

  def _matvec(self, x):  # noqa: ARG002 - of the interface
    raise AssertionError("a product was asked for")


@pytest.mark.parametrize(
  "compute, most",
  [
    (dense_hessian, 1000),
    (exact_spectrum, 645),
    (lambda operator: exact_spectrum(operator, eigenvectors=True), 487),
  ],
)
def test_matrix_that_does_not_fit_is_refused_before_the_first_product(monkeypatch, compute, most):
  monkeypatch.setattr(machine_memory, "available_memory", lambda: 8 * 1000**2)
  with pytest.raises(ValueError, match=f"GB: at most {most:,} rows fit"):
    compute(Refusing(1100))


def test_chosen_rows_need_only_room_for_themselves(monkeypatch):
  monkeypatch.setattr(machine_memory, "available_memory", lambda: 8 * 4**2)
  diagonal = scipy.sparse.linalg.aslinearoperator(np.diag(np.arange(50.0)))
  assert dense_hessian(diagonal, rows=[1, 4, 9]).diagonal().tolist() == [1.0, 4.0, 9.0]
  with pytest.raises(ValueError, match="of 5 rows"):
    dense_hessian(diagonal, rows=range(5))
