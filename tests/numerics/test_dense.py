"""Exact spectra of dense matrices."""

import numpy as np
import pytest

from tf_hessian.numerics import dense
from tf_hessian.numerics.dense import ExactSpectrum, Triangle, symmetric_spectrum
from tf_hessian.numerics.density import smooth
from tf_hessian.numerics.probes import probe

EPS = np.finfo(np.float64).eps
N = 30
DEAD = [0, 7, 8, 29]


@pytest.fixture
def matrix(symmetric):
  """Symmetric, 30 x 30, with four rows and columns of zeros and both signs of eigenvalues."""
  h = np.zeros((N, N))
  alive = np.setdiff1d(np.arange(N), DEAD)
  h[np.ix_(alive, alive)] = symmetric(np.linspace(-2, 5, alive.size))
  return h


def test_rows_of_zeros_are_counted(matrix):
  assert symmetric_spectrum(matrix).num_zero_rows == len(DEAD)


def test_rows_that_are_not_zero_are_named(matrix):
  rows = symmetric_spectrum(matrix).nonzero_rows
  np.testing.assert_array_equal(rows, np.setdiff1d(np.arange(N), DEAD))


def test_eigenvalues_of_the_rest_are_kept_apart(matrix):
  values = symmetric_spectrum(matrix).nonzero_eigenvalues
  np.testing.assert_allclose(values, np.linspace(-2, 5, N - len(DEAD)), rtol=0, atol=N * EPS * 5)


@pytest.mark.parametrize("eigenvectors", [False, True])
def test_eigenvalues_are_those_of_the_full_matrix(matrix, eigenvectors):
  values = symmetric_spectrum(matrix, eigenvectors=eigenvectors).eigenvalues
  np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix), rtol=0, atol=N * EPS * 5)


def test_eigenvalues_of_a_matrix_without_rows_of_zeros(symmetric):
  h = symmetric(np.linspace(-1, 1, 12))
  values = symmetric_spectrum(h).eigenvalues
  np.testing.assert_allclose(values, np.linspace(-1, 1, 12), rtol=0, atol=12 * EPS)


def test_eigenvalues_ascend(matrix):
  assert np.all(np.diff(symmetric_spectrum(matrix).eigenvalues) >= 0)


def test_weights_are_equal_shares(matrix):
  np.testing.assert_array_equal(symmetric_spectrum(matrix).weights, np.full(N, 1 / N))


def test_matrix_is_left_as_it_was(matrix):
  before = matrix.copy()
  symmetric_spectrum(matrix, eigenvectors=True)
  np.testing.assert_array_equal(matrix, before)


def test_matrix_without_rows_of_zeros_is_left_as_it_was(symmetric):
  h = np.asfortranarray(symmetric(np.linspace(-1, 1, 12)))
  before = h.copy()
  symmetric_spectrum(h, eigenvectors=True)
  np.testing.assert_array_equal(h, before)


def test_eigenvectors_diagonalize_the_rest(matrix):
  s = symmetric_spectrum(matrix, eigenvectors=True)
  block = matrix[np.ix_(s.nonzero_rows, s.nonzero_rows)]
  residual = block @ s.eigenvectors - s.eigenvectors * s.nonzero_eigenvalues
  assert np.abs(residual).max() <= N * EPS * 5


def test_all_zero_matrix_has_only_zero_eigenvalues():
  s = symmetric_spectrum(np.zeros((4, 4)))
  assert (s.eigenvalues.tolist(), s.num_zero_rows) == ([0.0] * 4, 4)


def test_draw_of_an_all_zero_matrix_has_all_its_weight_at_0():
  s = symmetric_spectrum(np.zeros((4, 4)), eigenvectors=True)
  nodes, weights = s.draw(probe(0, 0, 4))
  assert not nodes.any() and abs(weights.sum() - 1) <= 4 * EPS


def test_one_by_one_matrix():
  assert symmetric_spectrum(np.array([[3.0]])).eigenvalues.tolist() == [3.0]


def test_float32_is_computed_in_float64(symmetric):
  h = symmetric(np.linspace(-1, 1, 12)).astype(np.float32)
  values = symmetric_spectrum(h).eigenvalues
  expected = np.linalg.eigvalsh(h.astype(np.float64))
  np.testing.assert_allclose(values, expected, rtol=0, atol=12 * EPS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_number_that_is_not_finite_is_refused(matrix, value):
  matrix[3, 4] = matrix[4, 3] = value
  with pytest.raises(ValueError, match="finite"):
    symmetric_spectrum(matrix)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_number_that_is_not_finite_in_a_column_of_a_row_of_zeros_is_refused(matrix, value):
  matrix[3, DEAD[1]] = value
  with pytest.raises(ValueError, match="finite"):
    symmetric_spectrum(matrix)


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (4,), (2, 2, 2), ()])
def test_matrix_that_is_not_square_is_refused(shape):
  with pytest.raises(ValueError) as error:
    symmetric_spectrum(np.ones(shape))
  assert str(error.value) == f"matrix: expected a square matrix, got shape {shape}"


def test_draw_weights_sum_to_1(matrix):
  _, weights = symmetric_spectrum(matrix, eigenvectors=True).draw(probe(0, 0, N))
  assert abs(weights.sum() - 1) <= N * EPS


def test_draw_weights_are_not_negative(symmetric):
  s = symmetric_spectrum(symmetric(np.linspace(-1, 1, 12)), eigenvectors=True)
  assert np.all(s.draw(probe(0, 0, 12))[1] >= 0)


def test_draw_weight_at_0_is_that_of_the_rows_of_zeros():
  s = symmetric_spectrum(np.diag([2.0, 0.0, 3.0, 0.0]), eigenvectors=True)
  nodes, weights = s.draw(np.array([0.1, 0.5, 0.5, 0.7]))
  np.testing.assert_array_equal(nodes, [2.0, 3.0, 0.0])
  np.testing.assert_allclose(weights, [0.01, 0.25, 0.74], rtol=4 * EPS)


def test_density_of_a_draw_has_the_squared_overlaps_as_weights(matrix):
  v = probe(0, 1, N)
  values, vectors = np.linalg.eigh(matrix)
  grid, variance = np.linspace(-4, 7, 400), 0.04
  expected = smooth(values, (v @ vectors) ** 2, grid, variance)
  got = smooth(*symmetric_spectrum(matrix, eigenvectors=True).draw(v), grid, variance)
  # Eigenvalues are off by N eps |H|, which moves a Gaussian by that over sigma; overlaps by N eps
  # |H| over the gap, 0.28.
  peak = 1 / np.sqrt(2 * np.pi * variance)
  tolerance = peak * N * EPS * 5 * (1 / np.sqrt(variance) + 1 / 0.28)
  np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


def test_moments_of_a_draw_are_those_of_the_matrix(matrix):
  v = probe(0, 2, N)
  nodes, weights = symmetric_spectrum(matrix, eigenvectors=True).draw(v)
  power = v
  for j in range(1, 9):
    power = matrix @ power
    assert abs(weights @ nodes**j - v @ power) <= N * EPS * j * 5.0**j


def test_draw_needs_the_eigenvectors(matrix):
  with pytest.raises(ValueError, match="eigenvectors"):
    symmetric_spectrum(matrix).draw(probe(0, 0, N))


def test_draw_of_another_length_is_refused(matrix):
  with pytest.raises(ValueError, match=r"^v: expected shape \(30,\), got \(29,\)$"):
    symmetric_spectrum(matrix, eigenvectors=True).draw(probe(0, 0, N - 1))


@pytest.mark.parametrize("eigenvectors", [False, True])
def test_spectrum_survives_the_way_to_other_processes(matrix, eigenvectors):
  spectrum = symmetric_spectrum(matrix, eigenvectors=eigenvectors)
  found = ExactSpectrum.from_bytes(spectrum.to_bytes())
  assert vars(found).keys() == vars(spectrum).keys()
  for name, value in vars(spectrum).items():
    np.testing.assert_array_equal(getattr(found, name), value)


def test_lower_triangle_is_read(matrix):
  h = np.tril(matrix)
  h[1] += np.triu(np.full((N, N), 7.0), 1)[1]
  found = symmetric_spectrum(h).eigenvalues
  np.testing.assert_array_equal(found, symmetric_spectrum(matrix).eigenvalues)


# One triangle, by its columns.


def triangle(matrix, width):
  """Returns the `Triangle` of a matrix, filled by blocks of columns."""
  matrix = np.array(matrix, np.float64)
  found = Triangle(np.full(matrix.shape, np.nan))
  for start in range(0, len(matrix), width):
    columns = np.ascontiguousarray(matrix.T[start : start + width])
    found.keep(start, columns[:, start:], found.judge(start, columns))
  return found


@pytest.mark.parametrize("width", [1, 7, N])
def test_triangle_is_that_of_the_matrix(matrix, width):
  found = triangle(matrix, width)
  np.testing.assert_array_equal(np.triu(found.matrix), np.triu(matrix))
  found.mirror()
  np.testing.assert_array_equal(found.matrix, matrix)


def test_entry_of_the_earlier_column_stands_for_both():
  found = triangle([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]], 1)
  found.mirror()
  assert found.matrix.tolist() == [[1.0, 4.0, 7.0], [4.0, 5.0, 8.0], [7.0, 8.0, 9.0]]


def test_large_matrix_is_mirrored_by_tiles(monkeypatch, matrix):
  monkeypatch.setattr(dense, "_TILE", 7)
  found = triangle(matrix, 4)
  found.mirror()
  assert found.matrix.tobytes() == matrix.tobytes()


@pytest.mark.parametrize("width", [1, 7, N])
def test_asymmetry_of_a_symmetric_matrix_is_0(matrix, width):
  assert triangle(matrix, width).asymmetry == 0.0


def test_asymmetry_of_a_zero_matrix_is_0():
  assert triangle(np.zeros((3, 3)), 2).asymmetry == 0.0


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize(
  ("matrix", "expected"),
  [
    ([[0.0, 1.0], [-1.0, 0.0]], 2.0),
    ([[0.0, 1.0], [0.0, 0.0]], 1.0),
    ([[0.0, 0.0], [1.0, 0.0]], 1.0),
    ([[-4.0, 1.0], [2.0, 3.0]], 0.25),
    ([[8.0, 1.0, 0.0], [1.0, 1.0, 5.0], [2.0, 4.0, 1.0]], 0.25),
  ],
)
def test_asymmetry_of_known_matrices(matrix, expected, width):
  assert triangle(matrix, width).asymmetry == expected


@pytest.mark.parametrize("width", [1, 4, 30])
def test_asymmetry_is_the_largest_difference_over_the_largest_entry(width):
  h = np.random.default_rng(0).standard_normal((N, N))
  expected = np.abs(h - h.T).max() / np.abs(h).max()
  assert triangle(h, width).asymmetry == expected


def test_asymmetry_does_not_depend_on_scale(matrix):
  matrix[3, 4] += 0.1
  assert triangle(2.0**-40 * matrix, 7).asymmetry == triangle(matrix, 7).asymmetry
