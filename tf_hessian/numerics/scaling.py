"""Powers of two that bring vectors to a usual size."""

from __future__ import annotations

import numpy as np

_USUAL = 40  # the exponent of 2 up to which a vector's entries are taken as they are


def scales_of(vectors: np.ndarray, /) -> np.ndarray:
  """Returns powers of two by which vectors of extreme size are divided.

  A model's dtype, or a norm, would lose them. They are 1 for others, so that these are not copied.

  >>> scales_of(np.array([[1.0, -3.0], [0.0, 2.0**-100], [0.0, 0.0]])).tolist()
  [1.0, 1.5777218104420236e-30, 1.0]

  Args:
    vectors: (k, n).

  Returns:
    (k,) float64.
  """
  sizes = [max(float(v.max(initial=0)), -float(v.min(initial=0))) for v in vectors]
  exponents = np.frexp(sizes)[1]
  return np.ldexp(1.0, np.where(np.abs(exponents) > _USUAL, exponents, 0))
