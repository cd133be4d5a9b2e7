"""Whatever is given as an operator is one kind of thing behind the door."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

import tf_hessian
from tf_hessian.slq.matrix import as_matrix, known_vector

A = np.array([[2.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 4.0]])


class Shared(scipy.sparse.linalg.LinearOperator):
  """A, by an operator with shared passes."""

  vectorized, vectors_per_pass, precision, deterministic = False, 5, 0.25, False

  def __init__(self):
    super().__init__(np.dtype(np.float64), A.shape)

  def _matvec(self, x):
    return A @ x

  def products(self, vectors, *, vectors_per_pass):
    assert len(vectors) <= vectors_per_pass
    return vectors @ A


GIVEN = {
  "array": A,
  "sparse": scipy.sparse.csr_array(A),
  "linear operator": scipy.sparse.linalg.aslinearoperator(A),
  "shared": Shared(),
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_products_are_those_of_the_matrix(given):
  matrix = as_matrix(given)
  v = np.arange(6.0).reshape(2, 3)
  np.testing.assert_array_equal(matrix.product(v[0]), A @ v[0])
  np.testing.assert_array_equal(matrix.products(v, vectors_per_pass=2), v @ A)
  assert matrix.n == 3


@pytest.mark.parametrize("given", [A, GIVEN["sparse"], GIVEN["linear operator"]])
def test_of_other_matrices_nothing_is_assumed(given):
  matrix = as_matrix(given)
  assert (matrix.most_vectors(10), matrix.vectorized) == (1, True)
  assert (matrix.loss(), matrix.point(), matrix.workers(None)) == (None, None, None)
  assert matrix.precision == np.finfo(np.float64).eps
  assert matrix.state() == matrix.product_digest() is not None


def test_operator_with_shared_passes_is_asked():
  matrix = as_matrix(GIVEN["shared"])
  assert (matrix.most_vectors(10), matrix.vectorized) == (10, False)
  assert (matrix.precision, matrix.product_digest()) == (0.25, None)  # it doesn't repeat
  matrix._operator.vectorized = True
  assert matrix.vectorized and matrix.most_vectors(10) == 5


def test_model_is_asked_through_its_operator(hessian):
  matrix = as_matrix(hessian)
  assert (matrix.n, matrix.traced) == (26, True)
  np.testing.assert_array_equal(matrix.gradient(), hessian.gradient())
  assert matrix.loss() == hessian.loss()
  assert matrix.state() == matrix.point() is not None
  assert matrix.description()["data_fingerprint"] == hessian.batches.fingerprint


def test_matrix_is_taken_as_it_is():
  matrix = as_matrix(A)
  assert as_matrix(matrix) is matrix


def test_other_matrices_have_no_gradient_to_begin_at():
  matrix = as_matrix(A)
  matrix.check_start(None)
  with pytest.raises(ValueError, match='start: "gradient" is for a HessianOperator'):
    matrix.check_start("gradient")


@pytest.mark.parametrize(
  "given, error, message",
  [
    (np.ones((2, 3)), ValueError, r"expected a square matrix, got shape \(2, 3\)"),
    ("run", TypeError, "expected a HessianOperator, a linear operator or a matrix, got str"),
    (None, TypeError, "of a model, tf_hessian.HessianOperator"),
  ],
)
def test_what_is_no_square_matrix_is_refused(given, error, message):
  with pytest.raises(error, match=f"operator: .*{message}"):
    as_matrix(given)


def test_vector_that_matrices_are_known_by_is_fixed():
  assert known_vector(3).tobytes() == known_vector(3).tobytes()
  assert np.linalg.norm(known_vector(3)) == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize(
  "use",
  [
    lambda a: tf_hessian.solve(a, np.ones(6), damping=1.0, progress=False),
    lambda a: tf_hessian.top_eigenpairs(a, 1, progress=False),
    lambda a: tf_hessian.exact_spectrum(a),
    lambda a: tf_hessian.spectral_density(a, progress=False),
  ],
  ids=["solve", "top_eigenpairs", "exact_spectrum", "spectral_density"],
)
@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_array])
def test_array_that_is_not_symmetric_is_refused(use, kind):
  a = np.triu(np.random.default_rng(0).standard_normal((6, 6)))
  with pytest.raises(ValueError, match="expected a symmetric matrix"):
    use(kind(a))


NAMES = ("spectral_density", "exact_spectrum", "dense_hessian", "top_eigenpairs")


@pytest.mark.parametrize("name", NAMES)
def test_complex_matrices_are_refused(name):
  with pytest.raises(TypeError, match="expected a matrix of real numbers, got complex128"):
    getattr(tf_hessian, name)(np.array([[1, 1j], [-1j, 1]]), progress=False)


def test_array_with_nan_is_named():
  with pytest.raises(ValueError, match="NaN or infinity in the array"):
    tf_hessian.spectral_density(np.diag([1.0, np.nan]), progress=False)


def test_array_that_is_symmetric_to_its_rounding_has_a_spectrum():
  rng = np.random.default_rng(0)
  q, _ = np.linalg.qr(rng.standard_normal((60, 20)).astype(np.float32))
  matrix = (q * np.linspace(1, 2, 20, dtype=np.float32)) @ q.T
  assert not np.array_equal(matrix, matrix.T)
  found = tf_hessian.exact_spectrum(matrix, progress=False).eigenvalues
  # Entries are off by a few roundings of float32 each.
  np.testing.assert_allclose(found[-20:], np.linspace(1, 2, 20), atol=60 * 2.0**-23)


def test_arrays_of_pythons_numbers_are_arrays():
  found = tf_hessian.top_eigenpairs(np.diag([3, 2, 1]).astype(object), 1, progress=False)
  assert found.values[0] == pytest.approx(3)
  with pytest.raises(TypeError, match="^operator: expected a matrix of real numbers, got objects"):
    tf_hessian.top_eigenpairs(np.full((2, 2), "a", object), 1, progress=False)


def test_masked_arrays_are_refused():
  masked = np.ma.masked_equal(np.diag([3.0, 2.0, 1.0]), 2)
  with pytest.raises(ValueError, match="^operator: it is a masked array"):
    tf_hessian.trace(masked, progress=False)
