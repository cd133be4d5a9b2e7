"""How far a density estimate is from the density at most (Claim 2.3, Eq. 11 and 12 of the paper).

Eq. 11: with probability of at least 1 - 2 exp(-x), k draws are within

  epsilon(x) = 2 a sqrt(x) / (n sqrt(k)) + 2 b x / (k n)

of the density at one point t, where a = |f(H; t, sigma^2)|_F, b = |f(H; t, sigma^2)|_2 and f is the
Gaussian kernel. Eq. 12 puts in the worst case b = 1 / (sqrt(2 pi) sigma), a = sqrt(n) b. The proof
takes start vectors of independent normal entries of variance 1 / n; on the unit sphere, where
Algorithm 1 draws them, v' f v varies less.
"""

import math

import numpy as np

from tf_hessian.numerics import checks
from tf_hessian.numerics.density import smooth


def kernel_norms(eigenvalues, grid, sigma_squared, /):
  """Returns (a, b) of Eq. 11 at each point: Frobenius and spectral norms of the kernel of H.

  Args:
    eigenvalues: (n,) all eigenvalues of H.
    grid: (g,) ascending points t.
    sigma_squared: variance of the kernel.

  Returns:
    Two arrays (g,) float64, per unit of eigenvalue.
  """
  checks.check_positive("sigma_squared", sigma_squared)
  eigenvalues, grid = np.sort(np.asarray(eigenvalues, np.float64)), np.asarray(grid, np.float64)
  # The square of a Gaussian kernel is one of half the variance, over 2 sigma sqrt(pi).
  squares = smooth(eigenvalues, np.ones(eigenvalues.size), grid, sigma_squared / 2)
  squares /= 2 * math.sqrt(sigma_squared * math.pi)
  after = np.clip(np.searchsorted(eigenvalues, grid), 1, eigenvalues.size - 1)
  nearest = np.minimum(
    np.abs(grid - eigenvalues[after - 1]), np.abs(grid - eigenvalues[after % eigenvalues.size])
  )
  return np.sqrt(squares), worst_spectral_norm(sigma_squared) * np.exp(
    -(nearest**2) / (2 * sigma_squared)
  )


def worst_spectral_norm(sigma_squared, /):
  """Returns the largest b there can be, the height of the kernel."""
  checks.check_positive("sigma_squared", sigma_squared)
  return 1 / math.sqrt(2 * math.pi * sigma_squared)


def epsilon(a, b, /, *, n, draws, probability):
  """Returns the epsilon of Eq. 11 that is exceeded with at most this probability.

  Args:
    a: |f(H; t, sigma^2)|_F, a number or an array.
    b: |f(H; t, sigma^2)|_2, likewise.
    n: order of the matrix.
    draws: number k of draws.
    probability: 2 exp(-x), above 0 and below 1.

  Raises:
    TypeError, ValueError: for arguments that are no such numbers.
  """
  _check_norms(a, b)
  checks.check_count("n", n)
  checks.check_count("draws", draws)
  return _distance(a, b, n, draws, _exponent(probability))


def draws_needed(a, b, /, *, n, epsilon, probability):
  """Returns the smallest number of draws for which Eq. 11 promises epsilon; see `epsilon`.

  Args:
    a: |f(H; t, sigma^2)|_F, a number.
    b: |f(H; t, sigma^2)|_2, a number.
    n: order of the matrix.
    epsilon: the distance that may be exceeded with at most this probability.
    probability: above 0 and below 1.

  Raises:
    TypeError, ValueError: for arguments that are no such numbers.
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


def failure_probability(a, b, /, *, n, draws, epsilon):
  """Returns the probability 2 exp(-x) with which Eq. 11 lets epsilon be exceeded; at most 1.

  Args:
    a: |f(H; t, sigma^2)|_F, a number.
    b: |f(H; t, sigma^2)|_2, a number.
    n: order of the matrix.
    draws: number k of draws.
    epsilon: the distance.

  Raises:
    TypeError, ValueError: for arguments that are no such numbers.
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


def worst_case_epsilon(*, n, draws, sigma_squared, probability):
  """Returns the epsilon of Eq. 12, for the worst matrix of order n; see `epsilon`."""
  return epsilon(*_worst_norms(n, sigma_squared), n=n, draws=draws, probability=probability)


def worst_case_draws(*, n, sigma_squared, epsilon, probability):
  """Returns the number of draws for which Eq. 12 promises epsilon; see `draws_needed`."""
  a, b = _worst_norms(n, sigma_squared)
  return draws_needed(a, b, n=n, epsilon=epsilon, probability=probability)


def _worst_norms(n, sigma_squared):
  checks.check_count("n", n)
  b = worst_spectral_norm(sigma_squared)
  return math.sqrt(n) * b, b


def _distance(a, b, n, draws, x):
  """The epsilon(x) of Eq. 11."""
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
