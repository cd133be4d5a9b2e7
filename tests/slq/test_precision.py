"""The rounding of products and rows is known wherever a number depends on it."""

import keras
import numpy as np
import pytest
import scipy.sparse.linalg

import tf_hessian
from tf_hessian.numerics.results import EigenpairStatus
from tf_hessian.slq.matrix import as_matrix

N, RANK = 80, 24
FLOAT32 = float(np.finfo(np.float32).eps)
FLOAT64 = float(np.finfo(np.float64).eps)


def semidefinite():
  """A matrix of rank 24 with eigenvalues 0.05 to 1."""
  rng = np.random.default_rng(0)
  q, _ = np.linalg.qr(rng.standard_normal((N, RANK)))
  return (q * np.linspace(0.05, 1.0, RANK)) @ q.T


def in_float32(dtype=np.float32):
  """Products that are rounded to float32, whether their dtype says so or SciPy finds it."""
  a = semidefinite().astype(np.float32)
  a = (a + a.T) / 2
  return scipy.sparse.linalg.LinearOperator(
    (N, N), matvec=lambda v: a @ v.ravel().astype(np.float32), dtype=dtype
  )


@pytest.fixture(scope="module")
def curvatures():
  """(H, G) of a float32 network, n = 83, G of rank 24."""
  keras.utils.set_random_seed(1)
  layers = [keras.layers.Dense(8, "tanh"), keras.layers.Dense(3)]
  model = keras.Sequential([keras.Input((6,)), *layers])
  rng = np.random.default_rng(0)
  data = [(rng.standard_normal((12, 6), np.float32), rng.integers(0, 3, 12))]
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  kinds = (tf_hessian.HessianOperator, tf_hessian.GaussNewtonOperator)
  return [kind(model, loss, data) for kind in kinds]


COMPOSED = {
  "itself": lambda a: a,
  "multiple": lambda a: 2.0 * a,
  "negative": lambda a: -a,
  "sum": lambda a: a + a,
  "difference": lambda a: a - 0.5 * a,
  "product": lambda a: a @ a,
  "power": lambda a: a**2,
  "transposed": lambda a: a.T,
  "transposed multiple": lambda a: (2.0 * a).T,
  "adjoint": lambda a: a.H,
  "with an array": lambda a: a + scipy.sparse.linalg.aslinearoperator(np.eye(a.shape[0])),
}


@pytest.mark.parametrize("name", COMPOSED)
@pytest.mark.parametrize("dtype", [np.float32, None])
def test_precision_of_what_scipy_makes_of_operators_is_theirs(name, dtype):
  assert as_matrix(COMPOSED[name](in_float32(dtype))).precision == FLOAT32


@pytest.mark.parametrize("name", COMPOSED)
def test_precision_of_what_scipy_makes_of_curvatures_is_theirs(name, curvatures):
  for curvature in curvatures:
    assert as_matrix(COMPOSED[name](curvature)).precision == curvature.precision == FLOAT32


@pytest.mark.parametrize("name", COMPOSED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_of_arrays_are_those_of_float64(name, dtype):
  operator = scipy.sparse.linalg.aslinearoperator(np.eye(3, dtype=dtype))
  assert as_matrix(COMPOSED[name](operator)).precision == FLOAT64


def test_what_scipy_makes_of_varying_products_varies():
  operator = scipy.sparse.linalg.aslinearoperator(np.eye(3))
  operator.deterministic = False
  assert not as_matrix(2.0 * operator).deterministic


def spectrum(operator, **options):
  return tf_hessian.spectral_density(
    operator,
    **{"num_draws": 3, "lanczos_steps": 60, "progress": False, "check": False} | options,
  )


@pytest.mark.parametrize("make", [semidefinite, in_float32, lambda: 1.0 * in_float32()])
@pytest.mark.parametrize("place, dtype", [("memory", "float64"), ("memory", "float32")])
def test_mass_of_a_semidefinite_matrix_is_not_below_zero(make, place, dtype, tmp_path):
  found = spectrum(make(), storage=tf_hessian.Storage(place, dtype=dtype))
  assert found.mass(0.0)[0] == pytest.approx(1.0, abs=1e-12)
  assert found.mass(high=float(found.largest(1)[0]))[0] == pytest.approx(1.0, abs=1e-12)
  found.save(tmp_path / "found.npz")
  assert tf_hessian.Spectrum.load(tmp_path / "found.npz").mass(0.0) == found.mass(0.0)


def test_mass_of_a_run_with_float32_rows_on_disk_is_not_below_zero(tmp_path):
  storage = tf_hessian.Storage("disk", dtype="float32")
  found = spectrum(semidefinite(), storage=storage, workdir=tmp_path)
  assert found.mass(0.0)[0] == pytest.approx(1.0, abs=1e-12)


def test_each_eigenvalue_counts_once_without_a_basis():
  storage = tf_hessian.Storage("none")
  found = spectrum(1.0 * in_float32(), lanczos_steps=80, num_draws=2, storage=storage)
  np.testing.assert_allclose(found.largest(5), np.linspace(0.05, 1.0, RANK)[::-1][:5], atol=1e-5)


def test_original_layout_has_the_precision_that_is_said(tmp_path):
  found = spectrum(in_float32())
  found.save_original(tmp_path / "tridiag_3")
  load = tf_hessian.Spectrum.load_original
  assert load(tmp_path / "tridiag_3").mass(0.0) == found.mass(0.0)
  exact = load(tmp_path / "tridiag_3", precision=0.0)
  assert exact.mass(0.0)[0] < 0.9  # nodes of -1e-9 are negative then


def test_matrix_of_a_difference_is_the_difference_of_matrices(curvatures):
  full, part = (tf_hessian.dense_hessian(c, progress=False) for c in curvatures)
  found = tf_hessian.dense_hessian(curvatures[0] - curvatures[1], progress=False)
  np.testing.assert_allclose(found, full - part, atol=4 * FLOAT32 * abs(full).max())


def test_eigenpairs_of_a_difference_are_found_to_its_rounding(curvatures):
  found = tf_hessian.top_eigenpairs(curvatures[0] - curvatures[1], 2, 2, progress=False)
  full, part = (tf_hessian.dense_hessian(c, progress=False) for c in curvatures)
  values = np.linalg.eigvalsh(full - part)
  np.testing.assert_allclose(found.values, values[[-1, -2, 1, 0]][[0, 1, 3, 2]], atol=1e-5)
  assert found.status is EigenpairStatus.CONVERGED


def test_matrix_that_is_not_symmetric_says_how_right_products_are(curvatures):
  n = curvatures[0].shape[0]
  one = np.zeros((n, n))
  one[0, 1] = 1.0
  other = curvatures[0] + scipy.sparse.linalg.aslinearoperator(one)
  with pytest.raises(ValueError, match=r"right to 1\.2e-07"):
    tf_hessian.dense_hessian(other, progress=False)
