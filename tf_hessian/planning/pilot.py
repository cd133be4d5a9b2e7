"""The error to expect of a density, by a pilot.

The pilot takes a few draws on a few batches.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.numerics import density, lanczos, probes, quadrature, results, stopping
from tf_hessian.numerics.recent_basis import ROWS, RecentBasis
from tf_hessian.slq.method import SLQ

_DRAWS = 2
_BYTES = 2**30  # of the bases of all its draws
_FEWEST = 10  # steps, of fewer of which a density has not much of a shape


@dataclasses.dataclass(frozen=True)
class ExpectedError:
  """L1 errors to expect of a density, by a pilot.

  They follow from the spectrum of the pilot's batches. What is not known is None, and `reason` says
  why.
  """

  num_batches: int  # that the pilot's spectrum is of
  pilot_draws: int
  pilot_steps: int  # of each
  draws: float | None = None  # expected distance to the density of infinitely many draws
  stderr: float | None = None  # integral of the standard error: what a target_error bounds
  steps: float | None = None  # change of a draw's density in its last `stopping.WINDOW` steps
  target: float | None = None  # the target_error
  draws_for_target: int | None = None  # that it suggests, if the steps are enough for it
  reason: str = ""


def expect_error(
  operator: HessianOperator,
  method: SLQ,
  /,
  *,
  sigma_squared: float,
  relative: bool,
  seconds: float,
  kept: bool = True,
) -> ExpectedError:
  """Returns the `ExpectedError` of a run, by a pilot.

  The pilot takes the steps of two draws in lock step.

  The error of few draws is that of the mean quadrature's nodes and weights by
  `density.predicted_stderr`; that of few steps is the mean change in the last of them.

  Args:
    operator: the operator of the pilot's batches.
    method: the run's choices, whose steps the pilot takes too if it can.
    sigma_squared: variance of the density's kernel.
    relative: whether to multiply it by max(1, range of the nodes) (`density.kernel_variance`).
    seconds: most seconds for the pilot; 0 leaves it out.
    kept: whether the run keeps a basis; by default it does.
  """
  number, num_draws, steps = operator.batches.num_batches, method.num_draws, method.lanczos_steps
  target_error = None if method.target is None else method.target.error
  if not seconds:
    return ExpectedError(number, 0, 0, reason="there was no pilot: give pilot_seconds")
  states = _draw(operator, steps, method.seed, seconds, kept)
  reached = min(s.num_steps for s in states)
  ended = all(s.status is results.LanczosStatus.INVARIANT for s in states)
  if reached < min(steps, _FEWEST) and not ended:
    return ExpectedError(number, len(states), reached, reason=_short(reached, steps))
  rules = [quadrature.gauss_quadrature(*s.tridiagonal()) for s in states]
  once = _stderr_once(operator.shape[0], rules, sigma_squared, relative)
  change, reason = _last_change(states, steps, sigma_squared, relative)
  wanted = None
  # Draws that more steps would change differ for that reason too, by how much is not known.
  if target_error is not None and not (change is not None and change > target_error):
    wanted = max(stopping.FIRST_DRAWS, int(np.ceil((once / target_error) ** 2)))
    num_draws = min(wanted, num_draws)
  stderr = once / np.sqrt(num_draws)
  distance = np.sqrt(2 / np.pi) * stderr
  return ExpectedError(
    num_batches=number,
    pilot_draws=len(states),
    pilot_steps=reached,
    draws=float(distance),
    stderr=float(stderr),
    steps=change,
    target=target_error,
    draws_for_target=wanted,
    reason=reason,
  )


def _short(reached, steps):
  return (
    f"the pilot had time or memory for {reached} of {steps} steps; a run of a single draw would "
    "tell, or a longer pilot (pilot_seconds of tf_hessian.plan)"
  )


def _draw(operator, steps, seed, seconds, kept):
  """Returns the `Lanczos` of the pilot's draws.

  They have taken as many steps as there is time for.
  """
  n = operator.shape[0]
  rows = int(np.clip(_BYTES // (8 * n * _DRAWS), 1, steps))
  states = [
    _start(probes.probe(seed, draw, n), rows if kept else steps, kept) for draw in range(_DRAWS)
  ]
  end = time.monotonic() + seconds
  while any(s.status is results.LanczosStatus.RUNNING for s in states):
    for state in states:
      if state.status is results.LanczosStatus.RUNNING:
        state.step(operator.matvec)
    if time.monotonic() > end:
      break
  return states


def _start(vector, steps, kept):
  if kept:
    return lanczos.Lanczos.start(vector, steps)
  basis = RecentBasis(np.empty((ROWS, vector.size)), steps)
  basis.store(0, vector)
  return lanczos.Lanczos(basis)


def _stderr_once(n, rules, sigma_squared, relative):
  """Returns the integral of the standard error of a single draw's density."""
  nodes = np.concatenate([r.nodes for r in rules])
  weights = np.concatenate([r.weights for r in rules]) / len(rules)
  order = np.argsort(nodes)
  nodes, weights = nodes[order], weights[order]
  variance = density.kernel_variance([r.nodes for r in rules], sigma_squared, relative=relative)
  grid = density.density_grid([nodes], variance)
  stderr = density.predicted_stderr(nodes, grid, variance, 1, weights=weights, n=n)
  return density.l1_distance(grid, stderr, 0.0)


def _last_change(states, steps, sigma_squared, relative):
  """Returns (mean change, "") of the densities, or (None, reason).

  The change is that by the last steps of the run.
  """
  found = []
  for state in states:
    if state.status is results.LanczosStatus.INVARIANT:
      found.append(0.0)
    elif state.num_steps < steps:
      return None, f"that of {steps} steps: {_short(state.num_steps, steps)}"
    elif steps <= stopping.WINDOW:
      return None, f"that of {steps} steps, of which more than {stopping.WINDOW} would tell"
    else:
      found.append(stopping.last_change(*state.tridiagonal(), sigma_squared, relative=relative))
  return float(np.mean(found)), ""
