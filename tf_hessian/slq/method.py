"""Choices of the method, which a result depends on."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Literal

from absl import logging
import numpy as np

from tf_hessian.numerics import checks, stopping
from tf_hessian.slq import digests, run_folder


@dataclasses.dataclass(frozen=True)
class SLQ:
  """Stochastic Lanczos quadrature: k draws of m steps.

  It is Algorithm 1 of the paper.

  Attributes:
    num_draws: number k of start vectors, the most with a target (default: the paper's).
    lanczos_steps: number m of Lanczos steps of a draw, the most with a target (default: the
      paper's).
    seed: seed of the start vectors.
    start: None for random start vectors; "gradient" for the gradient of the mean loss; or the
      vector (n,) that the single draw begins at.
    target: the error at which draws and steps end, or None.

  Raises:
    TypeError, ValueError: for choices that can't be right.
  """

  num_draws: int = 10
  lanczos_steps: int = 90
  seed: int = 0
  start: None | Literal["gradient"] | np.ndarray = None
  target: stopping.Target | None = None

  def __post_init__(self) -> None:
    checks.check_count("num_draws", self.num_draws)
    checks.check_count("lanczos_steps", self.lanczos_steps)
    object.__setattr__(self, "num_draws", int(self.num_draws))
    object.__setattr__(self, "lanczos_steps", int(self.lanczos_steps))
    object.__setattr__(self, "seed", checks.check_seed(self.seed))
    if self.target is not None and self.num_draws < 2:
      raise ValueError(f"num_draws: expected at least 2 with target_error, got {self.num_draws}")
    if self.start is None:
      return
    if self.num_draws != 1:
      raise ValueError(
        f"num_draws: expected 1 with a start vector of its own, got {self.num_draws}"
      )
    if isinstance(self.start, str):
      checks.check_choice("start", self.start, ["gradient"])
      return
    if np.iscomplexobj(self.start):
      raise TypeError("start: expected real numbers, got complex ones")
    object.__setattr__(self, "start", np.asarray(self.start, np.float64))

  def of_order(self, n: int, /) -> SLQ:
    """Returns the choices for a matrix of order n.

    Its draws have n steps at most.

    Raises:
      ValueError: if the start is not a vector (n,) of finite numbers, or is zero.
    """
    if isinstance(self.start, np.ndarray):
      checks.check_vector("start", self.start, n)
      if not np.isfinite(self.start).all() or not self.start.any():
        raise ValueError("start: expected a vector of finite numbers that is not zero")
    if self.lanczos_steps <= n:
      return self
    logging.warning("lanczos_steps lowered from %d to n = %d", self.lanczos_steps, n)
    return dataclasses.replace(self, lanczos_steps=n)

  @property
  def first_draws(self) -> int:
    """Number of draws to begin with; a target may ask for more."""
    return self.num_draws if self.target is None else min(self.num_draws, stopping.FIRST_DRAWS)

  def check_folder(self, path: str | os.PathLike, /) -> None:
    """Refuses a folder with draws of other steps, seed, start or target.

    Raises:
      ValueError, OSError: for such a folder, or one that can't be used.
    """
    run_folder.check_method(path, self.description() | {"seed": self.seed})

  def description(self) -> dict[str, Any]:
    """Returns what a draw depends on, apart from the seed: plain values."""
    return {
      "lanczos_steps": self.lanczos_steps,
      "start": digests.of_array(self.start) if isinstance(self.start, np.ndarray) else self.start,
      "target": self.target and dataclasses.asdict(self.target),
    }


def make_target(
  error: float | None, sigma_squared: float, relative: bool, /
) -> stopping.Target | None:
  """Returns the target of a run; None without an error to reach.

  Args:
    error: most error in L1, or None.
    sigma_squared: variance of the density's kernel.
    relative: whether to multiply it by max(1, range of the nodes).
  """
  return None if error is None else stopping.Target(error, sigma_squared, relative)
