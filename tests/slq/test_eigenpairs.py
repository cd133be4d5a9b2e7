"""Extreme eigenpairs of operators: what the numerics find, with defaults for models."""

import keras
import numpy as np
import pytest
import scipy.sparse.linalg
import tensorflow as tf

import tf_hessian
from tf_hessian.curvature.precision import float64_model
from tf_hessian.models.mlp import mlp
from tf_hessian.numerics.results import EigenpairStatus

EPS = np.finfo(np.float64).eps


@pytest.fixture(scope="module")
def network():
  """A model of 83 parameters, its loss and data."""
  keras.utils.set_random_seed(1)
  model = mlp(input_shape=(5,), hidden_units=(8,), num_classes=3, activation="tanh")
  rng = np.random.default_rng(0)
  x = rng.standard_normal((40, 5)).astype(np.float32)
  y = np.eye(3, dtype=np.float32)[rng.integers(3, size=40)]
  return model, keras.losses.CategoricalCrossentropy(from_logits=True), x, y


@pytest.fixture(scope="module")
def single(network):
  model, loss, x, y = network
  return tf_hessian.HessianOperator(model, loss, [(x, y)])


@pytest.fixture(scope="module")
def double(network):
  model, loss, x, y = network
  data = [(x.astype(np.float64), y.astype(np.float64))]
  return tf_hessian.HessianOperator(float64_model(model), loss, data)


@pytest.fixture(scope="module")
def exact(double):
  """Ascending eigenvalues of the dense float64 matrix."""
  return np.linalg.eigvalsh(double @ np.eye(double.shape[0]))


@pytest.mark.parametrize("largest, smallest", [(6, 0), (0, 3), (4, 2)])
def test_eigenvalues_are_those_of_eigsh_and_of_the_dense_matrix(double, exact, largest, smallest):
  pairs = tf_hessian.top_eigenpairs(double, largest, smallest, progress=False)
  assert pairs.status is EigenpairStatus.CONVERGED
  top = scipy.sparse.linalg.eigsh(double, max(largest, 1), which="LA", return_eigenvectors=False)
  low = scipy.sparse.linalg.eigsh(double, max(smallest, 1), which="SA", return_eigenvectors=False)
  expected = np.concatenate([np.sort(top)[::-1][:largest], np.sort(low)[:smallest]])
  truth = np.concatenate([exact[::-1][:largest], exact[:smallest]])
  # An eigenvalue is off by the square of the residual over the gap; residuals are below 1e-8.
  np.testing.assert_allclose(pairs.values, truth, rtol=0, atol=1e-13)
  np.testing.assert_allclose(pairs.values, expected, rtol=0, atol=1e-13)


def test_residuals_are_those_of_products(double):
  pairs = tf_hessian.top_eigenpairs(double, 4, progress=False)
  expected = [
    np.linalg.norm(double @ y - t * y) for t, y in zip(pairs.values, pairs.vectors, strict=True)
  ]
  np.testing.assert_allclose(pairs.residuals, expected, rtol=0, atol=100 * EPS)
  assert pairs.residuals.max() <= 1e-8 * np.abs(pairs.values).max()


def test_float32_model_converges_to_its_own_precision(single, exact):
  pairs = tf_hessian.top_eigenpairs(single, 5, progress=False)
  assert pairs.status is EigenpairStatus.CONVERGED
  assert pairs.residuals.max() <= 20 * single.precision * pairs.values[0]
  # Weights are float32 numbers in both; products are right to a few roundings of sums of 40 terms.
  np.testing.assert_allclose(pairs.values, exact[:-6:-1], rtol=0, atol=40 * single.precision)


def test_float32_model_with_a_tolerance_below_its_precision_says_so(single):
  pairs = tf_hessian.top_eigenpairs(single, 3, tolerance=1e-12, max_products=120, progress=False)
  assert pairs.status is EigenpairStatus.ROUNDING
  assert "float64" in pairs.status.value


def test_eigenvalue_of_each_of_several_alike_outputs_is_found():
  keras.utils.set_random_seed(1)
  rng = np.random.default_rng(0)
  x, y = (rng.standard_normal((70, k)).astype(np.float32) for k in (5, 3))
  model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
  operator = tf_hessian.HessianOperator(model, "mse", [(x, y)])
  found = tf_hessian.top_eigenpairs(operator, 5, progress=False)
  inputs = np.append(x, np.ones((70, 1)), axis=1)
  block = np.linalg.eigvalsh(2 / 3 * inputs.T @ inputs / 70)[::-1]
  assert found.status is EigenpairStatus.CONVERGED
  np.testing.assert_allclose(found.values, np.repeat(block, 3)[:5], rtol=2e-6)


def test_same_seed_gives_bitwise_the_same(double):
  first, second = (tf_hessian.top_eigenpairs(double, 3, seed=4, progress=False) for _ in range(2))
  assert first.vectors.tobytes() == second.vectors.tobytes()


def test_matrices_are_operators_too(matrix):
  pairs = tf_hessian.top_eigenpairs(matrix, 2, 1, progress=False)
  values = np.linalg.eigvalsh(matrix)
  np.testing.assert_allclose(pairs.values, values[[-1, -2, 0]], rtol=0, atol=1e-12)


def test_pairs_for_other_workers_survive_the_way(matrix):
  pairs = tf_hessian.top_eigenpairs(matrix, 2, progress=False)
  found = type(pairs).from_bytes(pairs.to_bytes())
  for name in ("values", "vectors", "residuals"):
    np.testing.assert_array_equal(getattr(found, name), getattr(pairs, name))
  assert (found.status, found.num_products) == (pairs.status, pairs.num_products)


def test_progress_is_logged_without_a_terminal(matrix, monkeypatch):
  monkeypatch.setattr("tf_hessian.slq.progress._LOG_SECONDS", 0.0)
  lines = []
  monkeypatch.setattr(
    "tf_hessian.slq.progress.notices.show", lambda text, *args: lines.append(text % args)
  )
  tf_hessian.top_eigenpairs(matrix, 2)
  assert any("of 2 pairs" in line and "products" in line for line in lines)


@pytest.mark.parametrize(
  "arguments, options, message",
  [
    ((0,), {}, "largest, smallest: expected 1 to n = 24"),
    ((20, 20), {}, "largest, smallest: expected 1 to n = 24"),
    ((2,), {"tolerance": 0.0}, "tolerance"),
    ((2,), {"basis_size": 3}, "basis_size: expected at least 4"),
    ((2,), {"max_products": 2}, "max_products: expected at least 4"),
    ((2,), {"seed": -1}, "seed"),
  ],
)
def test_bad_arguments_are_refused_by_name(matrix, arguments, options, message):
  with pytest.raises(ValueError, match=message):
    tf_hessian.top_eigenpairs(matrix, *arguments, progress=False, **options)


def test_operator_that_is_not_square_is_refused():
  with pytest.raises(ValueError, match="square"):
    tf_hessian.top_eigenpairs(np.ones((2, 3)), 1, progress=False)


def test_products_that_are_not_finite_are_refused():
  w = tf.Variable(np.full(4, np.nan))
  operator = tf_hessian.HessianOperator(
    [w], lambda p, batch: tf.reduce_sum(p[0] ** 3 * batch[0]), [(np.ones((1, 4)),)]
  )
  with pytest.raises(ValueError, match="variable 'Variable' has NaN or infinity in 4 of 4"):
    tf_hessian.top_eigenpairs(operator, 1, progress=False)


def test_numbers_of_numpy_are_numbers_in_a_folder_too(tmp_path):
  options = {"workdir": tmp_path / "run", "progress": False, "tolerance": np.float32(1e-6)}
  found = tf_hessian.top_eigenpairs(np.diag(np.arange(9.0)), np.int64(2), np.int32(0), **options)
  np.testing.assert_allclose(found.values, [8, 7])
  again = tf_hessian.top_eigenpairs(np.diag(np.arange(9.0)), 2, 0, **options)
  np.testing.assert_array_equal(again.values, found.values)


@pytest.mark.parametrize("scale", [1e-160, 1e-300])
def test_matrix_whose_squares_are_no_numbers_is_refused(scale):
  with pytest.raises(ValueError, match="too small for its square to be a float64: scale"):
    tf_hessian.top_eigenpairs(scale * np.diag(np.arange(1.0, 40.0)), 2, progress=False)
