"""Argument errors."""

import numpy as np
import pytest

from tf_hessian.numerics import checks


@pytest.mark.parametrize("value", [1, 7, np.int64(3), np.uint8(1)])
def test_check_count_accepts_positive_integers(value):
  checks.check_count("steps", value)


@pytest.mark.parametrize("value", [0, -3, np.int64(0)])
def test_check_count_refuses_integers_below_1(value):
  with pytest.raises(ValueError, match=rf"^steps: expected an integer of at least 1, got {value}$"):
    checks.check_count("steps", value)


@pytest.mark.parametrize("value", [2.0, True, np.bool_(True), "3", None, [1]])
def test_check_count_refuses_what_is_not_an_integer(value):
  with pytest.raises(TypeError, match="^steps: expected an integer of at least 1, got "):
    checks.check_count("steps", value)


@pytest.mark.parametrize("value", [1, 1e-300, np.float32(0.5), np.int64(2)])
def test_check_positive_accepts_finite_numbers_above_0(value):
  checks.check_positive("sigma_squared", value)


@pytest.mark.parametrize("value", [0, 0.0, -1e-300, np.nan, np.inf, -np.inf, None, [1.0], "1"])
def test_check_positive_refuses_anything_else(value):
  with pytest.raises(ValueError, match="^sigma_squared: expected a finite number above 0, got "):
    checks.check_positive("sigma_squared", value)


def test_check_vector_accepts_the_shape():
  checks.check_vector("v", np.zeros(3), 3)


@pytest.mark.parametrize("shape", [(), (2,), (3, 1), (1, 3), (0,)])
def test_check_vector_names_the_expected_and_the_given_shape(shape):
  with pytest.raises(ValueError) as error:
    checks.check_vector("v", np.zeros(shape), 3)
  assert str(error.value) == f"v: expected shape (3,), got {shape}"


@pytest.mark.parametrize("grid", [[0, 1], np.array([-1.0, 0, 5]), np.linspace(0, 1, 100)])
def test_check_grid_accepts_ascending_points(grid):
  checks.check_grid("grid", grid)


@pytest.mark.parametrize("grid", [0.0, [], [1.0], [[0.0, 1.0], [2.0, 3.0]]])
def test_check_grid_refuses_fewer_than_two_points_in_one_dimension(grid):
  with pytest.raises(ValueError) as error:
    checks.check_grid("grid", grid)
  shape = np.shape(grid)
  assert str(error.value) == f"grid: expected at least two points in one dimension, got {shape}"


@pytest.mark.parametrize(
  "grid", [[1.0, 0.0], [0.0, 0.0], [0.0, np.nan], [np.nan, 0.0, 1.0], [0.0, np.inf], [-np.inf, 0.0]]
)
def test_check_grid_refuses_points_that_do_not_ascend_or_are_not_finite(grid):
  with pytest.raises(ValueError, match="^grid: expected finite points in ascending order"):
    checks.check_grid("grid", grid)


def test_check_grid_says_what_came_instead_of_ascending_points():
  with pytest.raises(ValueError, match="got "):
    checks.check_grid("grid", [0.0, 2.0, 1.0])


def test_check_choice_accepts_a_choice():
  checks.check_choice("mode", "forward", ("forward", "backward"))


def test_check_choice_suggests_the_nearest():
  with pytest.raises(ValueError) as error:
    checks.check_choice("mode", "foward", ("forward", "backward"))
  expected = "mode: expected one of ['backward', 'forward'], got 'foward'; did you mean 'forward'?"
  assert str(error.value) == expected


def test_check_choice_suggests_nothing_when_nothing_is_near():
  with pytest.raises(ValueError, match=r"got 'xyz'$"):
    checks.check_choice("mode", "xyz", ("forward", "backward"))


def test_check_choice_names_a_value_that_is_not_a_string():
  with pytest.raises(ValueError, match=r"^order: expected one of \['1', '2'\], got 3$"):
    checks.check_choice("order", 3, (1, 2))


@pytest.mark.parametrize("value", [0, 5, np.int64(3)])
def test_check_integer_accepts_its_range(value):
  checks.check_integer("n", value, 0, 5)


@pytest.mark.parametrize("value", [-1, 6, 10**400])
def test_check_integer_refuses_others(value):
  with pytest.raises(ValueError, match="^n: expected an integer from 0 to 5, got -?[0-9]+$"):
    checks.check_integer("n", value, 0, 5)


@pytest.mark.parametrize("value", [1.0, True, "1", None])
def test_check_integer_refuses_other_types(value):
  with pytest.raises(TypeError, match="^n: expected an integer from 0 to 5, got "):
    checks.check_integer("n", value, 0, 5)


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.25)])
def test_check_number_accepts_its_range(value):
  checks.check_number("x", value, 0, 1)


@pytest.mark.parametrize("value", [-1e-300, 1.1, np.nan, np.inf, 10**400])
@pytest.mark.parametrize(
  "low, high, expected",
  [
    (0, 1, "a finite number from 0 to 1"),
    (2, np.inf, "a finite number of at least 2"),
  ],
)
def test_check_number_refuses_others(value, low, high, expected):
  with pytest.raises(ValueError, match=f"^x: expected {expected}, got "):
    checks.check_number("x", value, low, high)


@pytest.mark.parametrize("value", [True, "1", None, [1.0]])
def test_check_number_refuses_other_types(value):
  with pytest.raises(TypeError, match="^x: expected a finite number, got "):
    checks.check_number("x", value, -np.inf, np.inf)


def test_check_positive_refuses_what_float64_can_not_hold():
  with pytest.raises(ValueError, match="^x: expected a finite number above 0"):
    checks.check_positive("x", 10**400)


@pytest.mark.parametrize(
  "value, error, message",
  [
    ("gradient", TypeError, "b: expected a vector of 3 real numbers, got str 'gradient'"),
    ({"w": np.ones(3)}, TypeError, r"operator.flatten\(\) makes a vector of it"),
    (None, TypeError, "b: expected a vector of 3 real numbers, got NoneType"),
    (np.ones(3) * 1j, TypeError, "real numbers"),
    ([[1, 2], [3]], TypeError, "real numbers"),
    (np.ones((3, 1)), ValueError, r"b: expected shape \(3,\), got \(3, 1\)"),
    ([1, 2, np.nan], ValueError, "b: expected finite numbers"),
    (np.zeros(3), ValueError, "b: expected a vector that is not zero"),
  ],
)
def test_bad_vectors_are_named(value, error, message):
  with pytest.raises(error, match=message):
    checks.as_vector("b", value, 3, zero=False)


def test_vectors_become_float64():
  found = checks.as_vector("b", [True, False, True], 3)
  assert found.dtype == np.float64 and found.tolist() == [1.0, 0.0, 1.0]
