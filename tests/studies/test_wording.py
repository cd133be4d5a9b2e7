"""Numbers and prose as text."""

import numpy as np
import pytest

from tf_hessian.studies.chapter import number, prose, with_error


@pytest.mark.parametrize(
  "x, digits, text",
  [
    (0, 3, "0"),
    (0.5, 3, "0.5"),
    (3.14159, 3, "3.14"),
    (-3.14159, 2, "-3.1"),
    (0.001234, 3, "0.00123"),
    (0.0001, 3, "1e-4"),
    (-2.54e-7, 2, "-2.5e-7"),
    (100, 3, "100"),
    (2345.6, 3, "2,346"),
    (2345.6, 2, "2,346"),
    (12.4, 2, "12"),
    (15910, 3, "15,910"),
    (1.0e6, 3, "1e6"),
    (1.234e10, 3, "1.23e10"),
    (2e-5, 1, "2e-5"),
  ],
)
def test_number_is_written_briefly(x, digits, text):
  assert number(x, digits) == text


@pytest.mark.parametrize(
  "x, text",
  [(2.3, "2.30"), (0.5, "0.500"), (-0.05, "-0.0500"), (99.96, "100"), (1e-4, "1.00e-4"), (0, "0")],
)
def test_zeros_at_the_end_can_be_kept(x, text):
  assert number(x, zeros=True) == text


@pytest.mark.parametrize("digits", [1, 2, 3, 5])
def test_number_is_right_to_its_digits(digits):
  rng = np.random.default_rng(0)
  x = rng.choice([-1, 1], 2000) * 10 ** rng.uniform(-12, 12, 2000)
  read = np.array([float(number(v, digits).replace(",", "")) for v in x])
  # Half a unit of the last digit is at most so much of the number.
  assert (np.abs(read / x - 1) <= 0.5 * 10.0 ** (1 - digits) + 1e-12).all()


@pytest.mark.parametrize("x", [np.nan, np.inf, -np.inf])
def test_number_that_is_not_finite_is_written(x):
  assert number(x)


def test_error_has_two_digits():
  assert with_error(0.123456, 0.0123456) == "0.123 ± 0.012"


def test_error_that_is_not_known_is_left_out():
  assert with_error(0.123456, np.nan) == "0.123"


def test_prose_is_one_line():
  assert prose("  one\n    two three\n\nfour ") == "one two three four"
