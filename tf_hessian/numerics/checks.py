"""The vocabulary of argument errors: each names the argument, what was expected, what came."""

import difflib
import math
import numbers

import numpy as np


def check_count(name, value):
  """Raises TypeError or ValueError unless `value` is an integer of at least 1."""
  if isinstance(value, bool) or not isinstance(value, numbers.Integral):
    raise TypeError(f"{name}: expected an integer of at least 1, got {value!r}")
  if value < 1:
    raise ValueError(f"{name}: expected an integer of at least 1, got {value}")


def check_integer(name, value, low, high):
  """Raises TypeError or ValueError unless `value` is an integer from `low` to `high`."""
  if isinstance(value, bool) or not isinstance(value, numbers.Integral):
    raise TypeError(f"{name}: expected an integer from {low} to {high}, got {value!r}")
  if not low <= value <= high:
    raise ValueError(f"{name}: expected an integer from {low} to {high}, got {value}")


def check_number(name, value, low, high):
  """Raises TypeError or ValueError unless `value` is a finite number from `low` to `high`."""
  expected = f"a finite number from {low:g} to {high:g}"
  if high == np.inf:
    expected = "a finite number" if low == -np.inf else f"a finite number of at least {low:g}"
  if isinstance(value, bool) or not isinstance(value, numbers.Real):
    raise TypeError(f"{name}: expected {expected}, got {value!r}")
  if not low <= value <= high or not _is_finite(value):
    raise ValueError(f"{name}: expected {expected}, got {value!r}")


def check_type(name, value, expected):
  """Raises TypeError unless `value` is an instance of a class."""
  if not isinstance(value, expected):
    raise TypeError(f"{name}: expected a {expected.__name__}, got {type(value).__name__}")


def check_positive(name, value):
  """Raises ValueError unless `value` is a finite number above 0."""
  real = isinstance(value, numbers.Real) and not isinstance(value, bool)
  if not real or not _is_finite(value) or value <= 0:
    raise ValueError(f"{name}: expected a finite number above 0, got {value!r}")


def _is_finite(value):
  """Whether a number is finite, also as float64: integers may be too large for that."""
  try:
    return math.isfinite(value)
  except OverflowError:
    return False


def check_vector(name, value, size):
  """Raises ValueError unless `value` has shape (size,)."""
  if np.shape(value) != (size,):
    raise ValueError(f"{name}: expected shape ({size},), got {np.shape(value)}")


def check_grid(name, grid):
  """Raises ValueError unless `grid` has at least two points that are finite and ascending."""
  if np.ndim(grid) != 1 or np.size(grid) < 2:
    raise ValueError(f"{name}: expected at least two points in one dimension, got {np.shape(grid)}")
  if not np.all(np.isfinite(grid)) or not np.all(np.diff(grid) > 0):
    raise ValueError(f"{name}: expected finite points in ascending order, got {grid}")


def check_choice(name, value, choices):
  """Raises ValueError, with the nearest choice, unless `value` is one of `choices`."""
  if value not in choices:
    expected = sorted(map(str, choices))
    raise ValueError(f"{name}: expected one of {expected}, got {value!r}{nearest(value, choices)}")


def check_seed(seed):
  """Returns a seed as an int; raises TypeError or ValueError unless it is an integer >= 0."""
  if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
    raise TypeError(f"seed: expected an integer, got {seed!r}")
  if seed < 0:
    raise ValueError(f"seed: expected an integer that is not negative, got {seed!r}")
  return int(seed)


def nearest(word, known):
  """Returns "; did you mean 'x'?" for the nearest of `known`, or "" if none is near."""
  near = difflib.get_close_matches(str(word), [str(k) for k in known], n=1)
  return f"; did you mean {near[0]!r}?" if near else ""
