"""Targets of a density: errors of few draws and few steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from tf_hessian.numerics import checks, density, quadrature, results

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
    relative: multiply that by max(1, range of the nodes), as `density.kernel_variance` does.

  Raises:
    ValueError: if error or sigma_squared is not above 0.

  >>> rule = np.zeros(1), np.zeros(0), True  # of a draw of the matrix 0
  >>> found = Target(0.1, 1.0).judge([rule, rule])
  >>> found.reached, found.to_dict()["saved"]
  (True, 898)
  """

  error: float
  sigma_squared: float = 1e-5
  relative: bool = False

  def __post_init__(self) -> None:
    checks.check_positive("target_error", self.error)
    checks.check_positive("sigma_squared", self.sigma_squared)

  def enough_steps(self, diagonal: np.ndarray, off_diagonal: np.ndarray, /) -> bool:
    """Returns whether the last steps have changed a density little enough.

    The last `WINDOW` steps are to change it by less than the target. Asked at multiples of `WINDOW`
    only; at others the answer is no.

    Args:
      diagonal: (m,) float64.
      off_diagonal: (m - 1,) float64.
    """
    m = len(diagonal)
    if m % WINDOW or m < 2 * WINDOW:
      return False
    change = last_change(diagonal, off_diagonal, self.sigma_squared, relative=self.relative)
    return change < self.error

  def stderr(self, quadratures: Sequence[results.Quadrature], /) -> float:
    """Returns the integral of the mean density's standard error.

    It is NaN for a single draw.
    """
    found = _density(quadratures, self.sigma_squared, self.relative)
    return float(density.l1_distance(found.grid, found.stderr, 0.0))

  def change(self, rules: Iterable[tuple[np.ndarray, np.ndarray, bool]], /) -> float:
    """Returns how much the last steps have changed densities, on average.

    Args:
      rules: iterable of (diagonal, off-diagonal, whether more steps would change nothing, since the
        Krylov space is invariant).

    Returns:
      The mean L1 distance; infinity if a draw has too few steps to tell.
    """
    found = []
    for d, e, invariant in rules:
      if invariant:
        found.append(0.0)
      elif len(d) <= WINDOW:
        return np.inf
      else:
        found.append(last_change(d, e, self.sigma_squared, relative=self.relative))
    return float(np.mean(found))

  def next_draws(self, quadratures: Sequence[results.Quadrature], most: int, /) -> int:
    """Returns how many draws there should be next.

    As many as there are if the error is reached. The standard error falls with the square root of
    the number of draws.

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

  def judge(self, rules: Iterable[tuple[np.ndarray, np.ndarray, bool]], /) -> Reached:
    """Judges whether finished draws have reached the target.

    Args:
      rules: iterable of (diagonal, off-diagonal, whether more steps would change nothing) of each
        draw, as for `change`.

    Raises:
      ValueError: if there is no draw.
    """
    rules = list(rules)
    quadratures = [quadrature.gauss_quadrature(d, e) for d, e, _ in rules]
    return Reached(
      error=self.error,
      stderr=self.stderr(quadratures),
      change=self.change(rules),
      draws=len(rules),
      products=sum(len(diagonal) for diagonal, _, _ in rules),
    )


@dataclasses.dataclass(frozen=True)
class Reached:
  """The judgement of a target: its two errors, and what they took.

  Attributes:
    error: the target's.
    stderr: integral of the standard error of the mean density; NaN for a single draw.
    change: mean L1 distance that the last `WINDOW` steps have changed a draw's density by; infinity
      if there were too few steps to tell.
    draws: number of draws.
    products: number of Lanczos steps of all of them.
  """

  error: float
  stderr: float
  change: float
  draws: int
  products: int

  @property
  def missing(self) -> tuple[str, ...]:
    """The names of too few things: of "draws" and "steps"."""
    errors = {"draws": self.stderr, "steps": self.change}
    return tuple(what for what, error in errors.items() if not error <= self.error)

  @property
  def reached(self) -> bool:
    """True if both errors are at most the target's."""
    return not self.missing

  @property
  def saved(self) -> int:
    """Products fewer than the paper's; below 0 if more."""
    return PAPER_DRAWS * PAPER_STEPS - self.products

  def to_dict(self) -> dict[str, Any]:
    """Returns the values for records, beside those of the target itself.

    JSON has no infinity: the change of draws with too few steps is None.
    """
    return {
      "stderr": self.stderr,
      "change": self.change if math.isfinite(self.change) else None,
      "reached": self.reached,
      "products": self.products,
      "saved": self.saved,
    }

  @classmethod
  def from_dict(cls, record: Mapping[str, Any], draws: int, /) -> Reached:
    """Returns the judgement that is on record.

    Args:
      record: the fields of the target and those of `to_dict`, as in `Spectrum.config["target"]`.
      draws: number of draws.

    Raises:
      KeyError: if a field is missing.
    """
    change = np.inf if record["change"] is None else record["change"]
    return cls(record["error"], record["stderr"], change, draws, record["products"])

  def __str__(self) -> str:
    usual = PAPER_DRAWS * PAPER_STEPS
    verdict = "reached" if self.reached else f"NOT reached: allow more {' and '.join(self.missing)}"
    draws = "1 draw" if self.draws == 1 else f"{self.draws} draws"
    return (
      f"{self.error:g} {verdict}: L1 standard error {self.stderr:.3g} of {draws}, change "
      f"{self.change:.3g} by the last {WINDOW} steps; {self.products} products, {abs(self.saved)} "
      f"({100 * abs(self.saved) / usual:.0f} %) {'fewer' if self.saved >= 0 else 'more'} than "
      f"{PAPER_DRAWS} draws of {PAPER_STEPS} steps"
    )


def last_change(
  diagonal: np.ndarray,
  off_diagonal: np.ndarray,
  sigma_squared: float,
  /,
  *,
  relative: bool = False,
) -> float:
  """Returns how much a draw's last `WINDOW` steps have changed its density.

  Args:
    diagonal: (m,) float64, of more than `WINDOW` steps.
    off_diagonal: (m - 1,) float64.
    sigma_squared: variance of the density's kernel.
    relative: multiply that by max(1, range of the nodes), as `density.kernel_variance` does.

  Returns:
    The L1 distance between the densities before and after them.

  Raises:
    ValueError: if there are too few steps.
  """
  m = len(diagonal)
  if m <= WINDOW:
    raise ValueError(f"steps: expected more than {WINDOW}, got {m}")
  rules = [
    quadrature.gauss_quadrature(diagonal[:k], off_diagonal[: k - 1]) for k in (m - WINDOW, m)
  ]
  found = _density(rules, sigma_squared, relative)
  return float(density.l1_distance(found.grid, *found.draws))


def _density(rules, sigma_squared, relative):
  return density.density(
    [q.nodes for q in rules], [q.weights for q in rules], sigma_squared, relative=relative
  )
