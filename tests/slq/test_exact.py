"""The dense matrix and its spectrum."""

import random
import tracemalloc

import keras
import numpy as np
import pytest
import scipy.sparse.linalg

import tf_hessian
from tf_hessian import machine_memory
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.slq import exact
from tf_hessian.slq.exact import dense_hessian, exact_spectrum, upper_triangle

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


@pytest.mark.slow
def test_dense_hessian_equals_the_column_products(net, matrix):
  products = np.stack([net.matvec(e) for e in np.eye(net.shape[0])], axis=1)
  # The same sums, vectorized over columns: some roundings of the largest entry.
  np.testing.assert_allclose(matrix, products, rtol=0, atol=1e-14)


def test_dense_hessian_is_bitwise_of_products_that_share_passes(net, matrix):
  eye = np.eye(net.shape[0])
  width = net.vectors_per_pass
  passes = [net @ eye[:, i : i + width] for i in range(0, len(eye), width)]
  products = np.concatenate(passes, axis=1).T  # a column a row
  upper = np.triu(products)
  np.testing.assert_array_equal(matrix, upper + np.triu(products, 1).T)
  np.testing.assert_array_equal(matrix, matrix.T)


def test_products_are_symmetric_to_rounding(net, matrix):
  triangle = upper_triangle(net, np.arange(net.shape[0]), progress=False)
  assert 0 < triangle.asymmetry <= 1e-14
  np.testing.assert_array_equal(np.triu(triangle.matrix), np.triu(matrix))


@pytest.mark.parametrize("compute", [dense_hessian, exact_spectrum])
def test_function_is_told_how_many_columns_are_finished(compute):
  done = []
  compute(np.eye(150), progress=done.append)
  assert done == [64, 128, 150]


@pytest.mark.parametrize("compute", [dense_hessian, exact_spectrum])
def test_columns_are_shown_unless_they_are_not_to_be(compute, caplog, capsys):
  caplog.set_level("INFO")
  for silent in (False, None, lambda _: None):
    compute(np.eye(70), progress=silent)
  assert not caplog.records and not capsys.readouterr().err
  compute(np.eye(70))
  (record,) = caplog.records
  assert record.getMessage().startswith("dense matrix: 70 of 70 columns, ")


@pytest.mark.parametrize("compute", [dense_hessian, exact_spectrum])
def test_matrix_that_is_not_symmetric_is_refused(compute):
  a = np.eye(70)
  a[3, 69] = 0.5
  with pytest.raises(ValueError, match="expected a symmetric matrix, and it is off by 0.5 of"):
    compute(a, progress=False)


@pytest.mark.parametrize("compute", [dense_hessian, exact_spectrum])
def test_column_that_is_not_finite_is_named_before_the_rest_is_computed(compute):
  def product(x):
    y = x.copy()
    y[7] = np.inf if x[5] else 0.0
    return y

  operator = scipy.sparse.linalg.LinearOperator((150, 150), product, dtype=np.float64)
  done = []
  with pytest.raises(ValueError, match="NaN or infinity in column 5"):
    compute(operator, progress=done.append)
  assert done == [64]


@pytest.mark.parametrize("rows", [[0, 70], [-71], [0.5], [[0, 1]], np.ones(70, bool)])
def test_rows_that_are_no_indices_are_refused(rows):
  with pytest.raises(ValueError, match="rows: expected indices of rows, below 70"):
    dense_hessian(np.eye(70), rows=rows, progress=False)


def test_rows_may_be_counted_from_the_end_or_be_none():
  a = np.diag(np.arange(70.0))
  assert dense_hessian(a, rows=[-1, 2], progress=False).tolist() == [[69.0, 0.0], [0.0, 2.0]]
  assert dense_hessian(a, rows=[], progress=False).shape == (0, 0)


def test_dense_hessian_of_another_linear_operator():
  a = np.diag(np.arange(70.0))
  a[0, 69] = a[69, 0] = 5
  found = dense_hessian(scipy.sparse.linalg.aslinearoperator(a))
  np.testing.assert_array_equal(found, a)


def test_exact_spectrum_of_linear_regression_equals_eigvalsh(regression):
  inputs = np.hstack([X, np.ones((9, 1))])  # the last one is the bias's
  expected = np.linalg.eigvalsh(2 * inputs.T @ inputs / 9)
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
    (exact_spectrum, 975),
    (lambda operator: exact_spectrum(operator, eigenvectors=True), 694),
  ],
)
def test_matrix_that_does_not_fit_is_refused_before_the_first_product(monkeypatch, compute, most):
  monkeypatch.setattr(machine_memory, "available_memory", lambda: 8 * 1000**2)
  with pytest.raises(ValueError, match=f"GB: at most {most:,} rows fit"):
    compute(Refusing(1100))


@pytest.mark.parametrize("compute, each", [(dense_hessian, 12), (exact_spectrum, 4)])
def test_folder_without_room_is_refused_before_the_first_product(
  monkeypatch, tmp_path, compute, each
):
  monkeypatch.setattr(exact, "free_disk", lambda _: each * 1000**2)
  with pytest.raises(ValueError, match="GB: at most 1,000 rows fit; take a larger disk"):
    compute(Refusing(1100), workdir=tmp_path / "new")
  assert not (tmp_path / "new").exists()


def test_matrix_in_a_folder_needs_no_memory(monkeypatch, tmp_path):
  monkeypatch.setattr(machine_memory, "available_memory", lambda: 1000)
  a = np.diag(np.arange(70.0))
  np.testing.assert_array_equal(dense_hessian(a, workdir=tmp_path, progress=False), a)


@pytest.mark.parametrize("eigenvectors, most", [(False, 1.4), (True, 2.4)])
def test_memory_is_that_of_the_matrix_and_of_eigenvectors(eigenvectors, most):
  n = 600
  factor = np.random.default_rng(0).standard_normal((n, 3))
  low_rank = scipy.sparse.linalg.aslinearoperator(factor)
  operator = low_rank @ low_rank.T
  exact_spectrum(operator, progress=False)  # what is imported and kept
  tracemalloc.start()
  try:
    exact_spectrum(operator, eigenvectors=eigenvectors, progress=False)
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  # Blocks of 64 columns take up to 0.1 of the matrix each at this size.
  assert peak <= most * 8 * n**2


def test_chosen_rows_need_only_room_for_themselves(monkeypatch):
  monkeypatch.setattr(machine_memory, "available_memory", lambda: 8 * 4**2)
  diagonal = scipy.sparse.linalg.aslinearoperator(np.diag(np.arange(50.0)))
  assert dense_hessian(diagonal, rows=[1, 4, 9]).diagonal().tolist() == [1.0, 4.0, 9.0]
  with pytest.raises(ValueError, match="of 5 rows"):
    dense_hessian(diagonal, rows=range(5))
