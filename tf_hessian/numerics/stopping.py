"""When a density is good enough: its two errors, that of few draws and that of few steps."""

import dataclasses

import numpy as np

from tf_hessian.numerics import checks, density, quadrature

# The paper's numbers of draws and steps, which savings are counted from.
PAPER_DRAWS, PAPER_STEPS = 10, 90

# Steps over which the change of the density is watched.
WINDOW = 10
# Of fewer draws the standard error is not known well enough to go by.
FIRST_DRAWS = 4


@dataclasses.dataclass(frozen=True)
class Target:
  """The L1 error that a density should have.

  Attributes:
    error: integral of the standard error of the mean density; also the L1 distance between a draw's
      densities at m - 10 and m steps at which the draw has enough steps.
    sigma_squared: variance of the density's kernel.
    relative: see `density.kernel_variance`.

  Raises:
    ValueError: if error or sigma_squared is not above 0.
  """

  error: float
  sigma_squared: float = 1e-5
  relative: bool = False

  def __post_init__(self):
    checks.check_positive("target_error", self.error)
    checks.check_positive("sigma_squared", self.sigma_squared)

  def enough_steps(self, diagonal, off_diagonal, /):
    """Whether the last `WINDOW` steps have changed a draw's density by less than the target.

    Asked at multiples of `WINDOW` only; at others the answer is no.

    Args:
      diagonal: (m,) float64.
      off_diagonal: (m - 1,) float64.
    """
    m = len(diagonal)
    if m % WINDOW or m < 2 * WINDOW:
      return False
    change = last_change(diagonal, off_diagonal, self.sigma_squared, relative=self.relative)
    return change < self.error

  def stderr(self, quadratures, /):
    """Returns the integral of the standard error of the mean density; NaN for a single draw."""
    found = self._density(quadratures)
    return float(density.l1_distance(found.grid, found.stderr, 0.0))

  def change(self, rules, /):
    """Returns the mean L1 distance between draws' densities before and after their last steps.

    Args:
      rules: iterable of (diagonal, off-diagonal, whether more steps would change nothing, since the
        Krylov space is invariant).

    Returns:
      The distance; infinity if a draw has too few steps to tell.
    """
    found = []
    for diagonal, off_diagonal, invariant in rules:
      if invariant:
        found.append(0.0)
      elif len(diagonal) <= WINDOW:
        return np.inf
      else:
        change = last_change(diagonal, off_diagonal, self.sigma_squared, relative=self.relative)
        found.append(change)
    return float(np.mean(found))

  def next_draws(self, quadratures, most, /):
    """Returns how many draws there should be next: as many as there are if the error is reached.

    The standard error falls with the square root of the number of draws.

    Args:
      quadratures: sequence of the quadratures there are.
      most: the most draws there may be.
    """
    count = len(quadratures)
    if count < FIRST_DRAWS or count >= most:
      return min(max(count, FIRST_DRAWS), most)
    error = self.stderr(quadratures)
    if error <= self.error:
      return count
    return min(max(count + 1, int(np.ceil(count * (error / self.error) ** 2))), most)

  def _density(self, rules):
    return density.density(
      [q.nodes for q in rules],
      [q.weights for q in rules],
      self.sigma_squared,
      relative=self.relative,
    )


def last_change(diagonal, off_diagonal, sigma_squared, /, *, relative=False):
  """Returns the L1 distance between a draw's densities before and after its last `WINDOW` steps.

  Args:
    diagonal: (m,) float64, of more than `WINDOW` steps.
    off_diagonal: (m - 1,) float64.
    sigma_squared: variance of the density's kernel.
    relative: see `density.kernel_variance`.

  Raises:
    ValueError: if there are too few steps.
  """
  m = len(diagonal)
  if m <= WINDOW:
    raise ValueError(f"steps: expected more than {WINDOW}, got {m}")
  rules = [
    quadrature.gauss_quadrature(diagonal[:k], off_diagonal[: k - 1]) for k in (m - WINDOW, m)
  ]
  found = density.density(
    [q.nodes for q in rules], [q.weights for q in rules], sigma_squared, relative=relative
  )
  return float(density.l1_distance(found.grid, *found.draws))
