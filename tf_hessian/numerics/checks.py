"""Checks of arguments; errors name the argument, what was expected, what came."""

from __future__ import annotations

from collections.abc import Collection
import difflib
import math
import numbers
from typing import Any

import numpy as np


def check_count(name: str, value: Any) -> None:
  """Raises TypeError or ValueError unless a value is an integer above 0."""
  if isinstance(value, bool) or not isinstance(value, numbers.Integral):
    raise TypeError(f"{name}: expected an integer of at least 1, got {value!r}")
  if value < 1:
    raise ValueError(f"{name}: expected an integer of at least 1, got {value}")


def check_integer(name: str, value: Any, low: int, high: int) -> None:
  """Raises TypeError or ValueError unless an integer is in a range."""
  if isinstance(value, bool) or not isinstance(value, numbers.Integral):
    raise TypeError(f"{name}: expected an integer from {low} to {high}, got {value!r}")
  if not low <= value <= high:  # type: ignore[operator]  # integers have an order
    raise ValueError(f"{name}: expected an integer from {low} to {high}, got {value}")


def check_number(name: str, value: Any, low: float, high: float) -> None:
  """Raises TypeError or ValueError unless a finite number is in a range."""
  expected = f"a finite number from {low:g} to {high:g}"
  if high == np.inf:
    expected = "a finite number" if low == -np.inf else f"a finite number of at least {low:g}"
  if isinstance(value, bool) or not isinstance(value, numbers.Real):
    raise TypeError(f"{name}: expected {expected}, got {value!r}")
  if not low <= value <= high or not _is_finite(value):  # type: ignore[operator]  # so have numbers
    raise ValueError(f"{name}: expected {expected}, got {value!r}")


def check_positive(name: str, value: Any) -> None:
  """Raises ValueError unless a value is a finite number above 0."""
  real = isinstance(value, numbers.Real) and not isinstance(value, bool)
  if not real or not _is_finite(value) or value <= 0:
    raise ValueError(f"{name}: expected a finite number above 0, got {value!r}")


def _is_finite(value: Any) -> bool:
  """Returns whether a number is finite as float64, as large integers aren't."""
  try:
    return math.isfinite(value)
  except OverflowError:
    return False


def check_vector(name: str, value: Any, size: int) -> None:
  """Raises ValueError unless a value has shape (size,)."""
  if np.shape(value) != (size,):
    raise ValueError(f"{name}: expected shape ({size},), got {np.shape(value)}")


def as_vector(name: str, value: Any, size: int, /, *, zero: bool = True) -> np.ndarray:
  """Returns a vector of finite numbers: (size,) float64.

  Args:
    name: what messages call it.
    value: the vector.
    size: its length.
    zero: whether it may be zero.

  Raises:
    TypeError: for what is no real numbers.
    ValueError: for another shape, or numbers that it may not have.

  >>> as_vector("b", [1, 2], 2)
  array([1., 2.])
  """
  try:
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
      raise TypeError(array.dtype)
    array = array.astype(np.float64)
  except (TypeError, ValueError) as e:
    hint = "; operator.flatten() makes a vector of it" if isinstance(value, dict) else ""
    raise TypeError(
      f"{name}: expected a vector of {size} real numbers, got {type(value).__name__} {value!r:.60}"
      f"{hint}"
    ) from e
  if array.shape != (size,):
    raise ValueError(f"{name}: expected shape ({size},), got {array.shape}")
  if not np.isfinite(array).all():
    raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
  if not zero and not array.any():
    raise ValueError(f"{name}: expected a vector that is not zero")
  return array


def check_grid(name: str, grid: Any) -> None:
  """Raises ValueError unless a grid has finite, ascending points, at least two."""
  if np.ndim(grid) != 1 or np.size(grid) < 2:
    raise ValueError(f"{name}: expected at least two points in one dimension, got {np.shape(grid)}")
  if not np.all(np.isfinite(grid)) or not np.all(np.diff(grid) > 0):
    raise ValueError(f"{name}: expected finite points in ascending order, got {grid}")


def check_choice(name: str, value: Any, choices: Collection) -> None:
  """Raises ValueError, with the nearest choice, unless a value is among choices."""
  if value not in choices:
    expected = sorted(map(str, choices))
    raise ValueError(f"{name}: expected one of {expected}, got {value!r}{nearest(value, choices)}")


def check_seed(seed: Any) -> int:
  """Returns a seed as an int.

  Raises:
    TypeError: if it is no integer.
    ValueError: if it is negative.
  """
  if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
    raise TypeError(f"seed: expected an integer, got {seed!r}")
  if seed < 0:
    raise ValueError(f"seed: expected an integer that is not negative, got {seed!r}")
  return int(seed)


def nearest(word: Any, known: Collection) -> str:
  """Returns the end of an error that offers the nearest known word.

  >>> nearest("memroy", ["memory", "disk"]), nearest("x", ["memory", "disk"])
  ("; did you mean 'memory'?", '')
  """
  near = difflib.get_close_matches(str(word), [str(k) for k in known], n=1)
  return f"; did you mean {near[0]!r}?" if near else ""
