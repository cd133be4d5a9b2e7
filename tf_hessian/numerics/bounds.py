"""Bounds of a density estimate's error (Claim 2.3 of the paper).

Eq. 11: with probability of at least 1 - 2 exp(-x), k draws are within

  epsilon(x) = 2 a sqrt(x) / (n sqrt(k)) + 2 b x / (k n)

of the density at one point t, where a = |f(H; t, sigma^2)|_F, b = |f(H; t, sigma^2)|_2 and f is the
Gaussian kernel. Eq. 12 puts in the worst case b = 1 / (sqrt(2 pi) sigma), a = sqrt(n) b. The proof
takes start vectors of independent normal entries of variance 1 / n; on the unit sphere, where
Algorithm 1 draws them, v' f v varies less.
"""

from __future__ import annotations

import math

import numpy as np

from tf_hessian.numerics import checks, density


def kernel_norms(
  eigenvalues: np.ndarray, grid: np.ndarray, sigma_squared: float, /
) -> tuple[np.ndarray, np.ndarray]:
  """Returns a and b of Eq. 11 at each point.

  They are the Frobenius and the spectral norm of the kernel of H.

  Args:
    eigenvalues: (n,) all eigenvalues of H.
    grid: (g,) ascending points t.
    sigma_squared: variance of the kernel.

  Returns:
    Two arrays (g,) float64, per unit of eigenvalue.

  >>> a, b = kernel_norms([0.0, 0.0], [0.0], 1.0)
  >>> round(float(a[0] / b[0]), 12)  # sqrt(2), of two eigenvalues at the point
  1.414213562373
  """
  checks.check_positive("sigma_squared", sigma_squared)
  eigenvalues, grid = np.sort(np.asarray(eigenvalues, np.float64)), np.asarray(grid, np.float64)
  # The square of a Gaussian kernel is one of half the variance, over 2 sigma sqrt(pi).
  squares = density.smooth(eigenvalues, np.ones(eigenvalues.size), grid, sigma_squared / 2)
  squares /= 2 * math.sqrt(sigma_squared * math.pi)
  after = np.clip(np.searchsorted(eigenvalues, grid), 1, eigenvalues.size - 1)
  nearest = np.minimum(
    np.abs(grid - eigenvalues[after - 1]), np.abs(grid - eigenvalues[after % eigenvalues.size])
  )
  return np.sqrt(squares), worst_spectral_norm(sigma_squared) * np.exp(
    -(nearest**2) / (2 * sigma_squared)
  )


def worst_spectral_norm(sigma_squared: float, /) -> float:
  """Returns the largest b there can be, the height of the kernel.

  >>> round(worst_spectral_norm(1.0), 6)  # 1 / sqrt(2 pi)
  0.398942
  """
  checks.check_positive("sigma_squared", sigma_squared)
  return 1 / math.sqrt(2 * math.pi * sigma_squared)


def epsilon(
  a: float | np.ndarray, b: float | np.ndarray, /, *, n: int, draws: int, probability: float
) -> float | np.ndarray:
  """Returns the epsilon of Eq. 11 that is exceeded with a probability.

  Args:
    a: |f(H; t, sigma^2)|_F, a number or an array.
    b: |f(H; t, sigma^2)|_2, likewise.
    n: order of the matrix.
    draws: number k of draws.
    probability: 2 exp(-x), above 0 and below 1; it is exceeded with at most that.

  Raises:
    TypeError, ValueError: for arguments that are no such numbers.

  >>> epsilon(1.0, 0.0, n=2, draws=4, probability=2 * math.exp(-1))  # 2 a sqrt(x) / (n sqrt(k))
  0.5
  """
  _check_norms(a, b)
  checks.check_count("n", n)
  checks.check_count("draws", draws)
  return _distance(a, b, n, draws, _exponent(probability))


def draws_needed(a: float, b: float, /, *, n: int, epsilon: float, probability: float) -> int:
  """Returns the smallest number of draws for which Eq. 11 promises epsilon.

  Args:
    a: |f(H; t, sigma^2)|_F, a number.
    b: |f(H; t, sigma^2)|_2, a number.
    n: order of the matrix.
    epsilon: the distance that may be exceeded with at most this probability.
    probability: above 0 and below 1.

  Raises:
    TypeError, ValueError: for arguments that are no such numbers.

  >>> draws_needed(1.0, 0.0, n=2, epsilon=0.5, probability=2 * math.exp(-1))
  4
  """
  _check_norms(a, b)
  checks.check_count("n", n)
  checks.check_positive("epsilon", epsilon)
  x = _exponent(probability)
  linear, quadratic = 2 * a * math.sqrt(x) / n, 2 * b * x / n
  # epsilon = linear s + quadratic s^2 with s = 1 / sqrt(k), solved for 1 / s without cancelling.
  root = (linear + math.sqrt(linear**2 + 4 * quadratic * epsilon)) / (2 * epsilon)
  draws = max(1, math.ceil(root**2))
  # Rounding may be on either side of a whole number.
  near = range(max(1, draws - 1), draws + 2)
  return next((k for k in near if _distance(a, b, n, k, x) <= epsilon), draws)


def failure_probability(a: float, b: float, /, *, n: int, draws: int, epsilon: float) -> float:
  """Returns the probability with which Eq. 11 lets epsilon be exceeded.

  It is 2 exp(-x), and at most 1.

  Args:
    a: |f(H; t, sigma^2)|_F, a number.
    b: |f(H; t, sigma^2)|_2, a number.
    n: order of the matrix.
    draws: number k of draws.
    epsilon: the distance.

  Raises:
    TypeError, ValueError: for arguments that are no such numbers.

  >>> round(failure_probability(1.0, 0.0, n=2, draws=4, epsilon=0.5), 12)  # 2 exp(-1)
  0.735758882343
  """
  _check_norms(a, b)
  checks.check_count("n", n)
  checks.check_count("draws", draws)
  checks.check_positive("epsilon", epsilon)
  linear, quadratic = 2 * a / (n * math.sqrt(draws)), 2 * b / (draws * n)
  if not linear and not quadratic:  # far from all eigenvalues
    return 0.0
  # epsilon = linear s + quadratic s^2 with s = sqrt(x), in the form that does not cancel.
  s = 2 * epsilon / (linear + math.sqrt(linear**2 + 4 * quadratic * epsilon))
  return min(1.0, 2 * math.exp(-(s**2)))


def worst_case_epsilon(*, n: int, draws: int, sigma_squared: float, probability: float) -> float:
  """Returns the epsilon of Eq. 12, for the worst matrix.

  Args:
    n: order of the matrix.
    draws: number k of draws.
    sigma_squared: variance of the kernel.
    probability: with which it is exceeded at most.

  Raises:
    TypeError, ValueError: for arguments that are no such numbers.

  >>> round(worst_case_epsilon(n=100, draws=10, sigma_squared=1.0, probability=0.01), 6)
  0.062305
  """
  norms = _worst_norms(n, sigma_squared)
  return float(epsilon(*norms, n=n, draws=draws, probability=probability))


def worst_case_draws(*, n: int, sigma_squared: float, epsilon: float, probability: float) -> int:
  """Returns the number of draws for which Eq. 12 promises epsilon.

  Args:
    n: order of the matrix.
    sigma_squared: variance of the kernel.
    epsilon: the distance that may be exceeded with at most this probability.
    probability: above 0 and below 1.

  Raises:
    TypeError, ValueError: for arguments that are no such numbers.

  >>> worst_case_draws(n=100, sigma_squared=1.0, epsilon=0.0625, probability=0.01)
  10
  """
  a, b = _worst_norms(n, sigma_squared)
  return draws_needed(a, b, n=n, epsilon=epsilon, probability=probability)


def _worst_norms(n, sigma_squared):
  checks.check_count("n", n)
  b = worst_spectral_norm(sigma_squared)
  return math.sqrt(n) * b, b


def _distance(a, b, n, draws, x):
  """Returns epsilon(x) of Eq. 11."""
  return 2 * a * math.sqrt(x) / (n * math.sqrt(draws)) + 2 * b * x / (draws * n)


def _check_norms(a, b):
  for name, value in (("a", a), ("b", b)):
    if not np.all(np.isfinite(value)) or np.any(np.less(value, 0)):
      raise ValueError(f"{name}: expected a finite norm that is not negative, got {value!r}")


def _exponent(probability):
  """Returns x of 2 exp(-x) = probability."""
  checks.check_positive("probability", probability)
  if probability >= 1:
    raise ValueError(f"probability: expected a number below 1, got {probability!r}")
  return math.log(2 / probability)
