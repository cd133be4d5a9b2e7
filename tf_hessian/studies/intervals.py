"""Means over seeds with t-intervals, and differences with their p."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math

import numpy as np
import scipy.special

from tf_hessian.studies.chapter import number

CONFIDENCE = 0.95
CLAIM_SEEDS = 5  # at least, of a claim about training
CURVE_SEEDS = 3  # of a curve


@dataclasses.dataclass(frozen=True)
class Interval:
  """A mean, or a difference of means, with Student's interval.

  Attributes:
    mean: the estimate.
    low: lower end of the 95 % interval; NaN where one value is all there is.
    high: upper end.
    dof: degrees of freedom.
    p: two-sided probability of a mean as far from 0, if it were 0.
  """

  mean: float
  low: float
  high: float
  dof: float
  p: float

  @property
  def above(self) -> bool:
    """Whether the whole interval is above 0."""
    return self.low > 0

  @property
  def below(self) -> bool:
    """Whether the whole interval is below 0."""
    return self.high < 0

  def text(self, digits: int = 3, scale: float = 1.0) -> str:
    """Returns "mean (low to high)", all times a scale."""
    mean, low, high = (
      number(scale * x, digits, zeros=True) for x in (self.mean, self.low, self.high)
    )
    return mean if math.isnan(self.low) else f"{mean} ({low} to {high})"

  def change(self, digits: int = 3, scale: float = 1.0) -> str:
    """Returns "higher by mean (low to high)", or "lower by"."""
    if self.mean >= 0:
      return f"higher by {self.text(digits, scale)}"
    turned = dataclasses.replace(self, mean=-self.mean, low=-self.high, high=-self.low)
    return f"lower by {turned.text(digits, scale)}"


def mean(values: Sequence[float] | np.ndarray, /) -> Interval:
  """Returns the mean of independent values."""
  values = np.asarray(values, np.float64)
  if values.size < 2:
    return Interval(float(values.mean()), math.nan, math.nan, 0, math.nan)
  return _interval(values.mean(), _variance(values), values.size - 1)


def of_error(mean: float, stderr: float, count: int, /) -> Interval:
  """Returns the mean of so many values with this standard error."""
  return _interval(mean, stderr**2, count - 1)


def paired(first: Sequence[float], second: Sequence[float], /) -> Interval:
  """Returns the mean difference of values of the same seeds.

  It is first - second.

  Raises:
    ValueError: if they are not as many.
  """
  if len(first) != len(second):
    raise ValueError(f"paired: expected as many values, got {len(first)} and {len(second)}")
  return mean(np.asarray(first) - np.asarray(second))


def factor(first: Sequence[float], second: Sequence[float], /) -> Interval:
  """Returns the geometric mean of first / second, of the same seeds.

  Its p is of a factor of 1.
  """
  log = paired(np.log(first).tolist(), np.log(second).tolist())
  mean, low, high = np.exp([log.mean, log.low, log.high]).tolist()
  return dataclasses.replace(log, mean=mean, low=low, high=high)


def _variance(values):
  """Returns the squared standard error of a mean."""
  return float(np.var(values, ddof=1)) / len(values)


def _interval(mean, variance, dof):
  """Returns the `Interval` of an estimate with this variance."""
  half = scipy.special.stdtrit(dof, (1 + CONFIDENCE) / 2) * math.sqrt(variance)
  if variance:
    p = 2 * scipy.special.stdtr(dof, -abs(mean) / math.sqrt(variance))
  else:
    p = float(mean == 0)
  return Interval(float(mean), float(mean - half), float(mean + half), float(dof), float(p))


def p_text(p: float, /) -> str:
  """Returns "p = 0.012", or "p < 0.001"."""
  return "p < 0.001" if p < 1e-3 else f"p = {number(p, 2)}"
