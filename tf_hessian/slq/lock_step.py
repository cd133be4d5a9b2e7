"""Draws that advance in lock step.

So one pass over the data gives the products of several draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent import futures
import time

from absl import logging
import numpy as np

from tf_hessian.numerics import columns
from tf_hessian.numerics.basis import Basis
from tf_hessian.numerics.lanczos import Lanczos, breakdown_tolerance
from tf_hessian.numerics.results import LanczosStatus
from tf_hessian.numerics.stopping import Target
from tf_hessian.slq.layout import Layout
from tf_hessian.slq.matrix import Matrix
from tf_hessian.slq.progress import Progress
from tf_hessian.slq.run_folder import RunFolder
from tf_hessian.slq.shared_products import SharedProducts


class LockStep:
  """Lanczos steps of several draws at a time.

  Args:
    matrix: the matrix.
    layout: where their bases are, and how many share a pass.
    folder: keeps the state after each step; None keeps none.
    first: function (draw) -> start vector (n,) float64 of length 1.
    target: ends a draw's steps early; None never does.
    progress: shows the steps.
    choose: whether to find out if products that share a pass take longer than alone, and to make
      them alone then (`SharedProducts`). By default they go on sharing.
  """

  def __init__(
    self,
    matrix: Matrix,
    layout: Layout,
    /,
    *,
    folder: RunFolder | None,
    first: Callable[[int], np.ndarray],
    target: Target | None,
    progress: Progress,
    choose: bool = False,
  ):
    self._matrix = matrix
    self._layout = layout
    self._folder = folder
    self._first = first
    self._target = target
    self._progress = progress
    self._products = SharedProducts(
      matrix, layout, distributed=layout.basis.distributed, choose=choose
    )

  def run(
    self, draws: Sequence[int], bases: Sequence[Basis], /
  ) -> list[tuple[dict[str, np.ndarray], float]]:
    """Takes all steps of a group of draws.

    Args:
      draws: numbers of the draws.
      bases: the `Basis` of each.

    Returns:
      List of (`Lanczos.coefficients`, seconds).
    """
    states, seconds = {}, {}
    # Threads share the columns of long vectors. Short ones are a piece each, so they share draws;
    # but workers go through the sums of distributed ones together, one after the other.
    apart = self._matrix.n <= columns.SMALL and not self._layout.basis.distributed
    threads = min(columns.num_threads(), len(draws)) if apart else 1
    with self._matrix.passes(), futures.ThreadPoolExecutor(threads) as pool:
      for draw, basis in zip(draws, bases, strict=True):
        states[draw], seconds[draw] = self._begin(draw, basis)
      while running := [d for d, s in states.items() if s.status is LanczosStatus.RUNNING]:
        begin = time.monotonic()
        self._step({d: states[d] for d in running}, pool.map if threads > 1 else map)
        spent = (time.monotonic() - begin) / len(running)
        for draw in running:
          seconds[draw] += spent
          if self._folder:
            self._folder.save_step(draw, states[draw], seconds[draw])
        self._show(running, states)
    for draw, state in states.items():
      if state.status is LanczosStatus.INVARIANT:
        logging.info("draw %d: %s (%d nodes)", draw, state.status.value, state.num_steps)
    return [(states[d].coefficients(), seconds[d]) for d in draws]

  def _step(self, states, mapped):
    """Takes one step of each draw in draw -> `Lanczos`."""
    products = self._products({d: self._vector(state) for d, state in states.items()})
    list(mapped(self._update, states.values(), products))

  def _update(self, state, product):
    status = state.update(product)
    if (
      self._target
      and status is LanczosStatus.RUNNING
      and self._target.enough_steps(*state.tridiagonal())
    ):
      state.end()

  def _begin(self, draw, basis):
    """Returns a draw's `Lanczos`, and the seconds that it has taken.

    An earlier start of the run may have begun it.
    """
    resumed = self._folder and self._folder.load_step(draw, basis)
    if not resumed:
      basis.store(0, self._first(draw))
    # With rounded rows, a residual of rounding error is as large as that.
    precision = float(np.finfo(basis.dtype).eps)
    state = Lanczos(basis, tolerance=breakdown_tolerance(basis.n, precision))
    if resumed:
      coefficients, seconds = resumed
      state.restore(coefficients)
      self._progress.resume(basis.steps if state.status in _EARLY else state.num_steps)
      return state, seconds
    if self._folder:
      self._folder.save_step(draw, state, 0.0)
    return state, 0.0

  def _vector(self, state):
    """Returns the vector (n,) that a draw multiplies next.

    If it is distributed, returns its place: (basis, number of the row).
    """
    distributed = self._layout.basis.distributed
    return (state.vectors, state.num_steps) if distributed else state.vector

  def _show(self, running, states):
    ended = [d for d in running if states[d].status in _EARLY]
    skipped = sum(self._layout.basis.steps - states[d].num_steps for d in ended)
    steps = sorted({states[d].num_steps for d in running})
    draws = f"draw {running[0]}" if len(running) == 1 else f"draws {running[0]}-{running[-1]}"
    self._progress.advance(f"{draws}, step {steps[-1]}", products=len(running), skipped=skipped)


_EARLY = (LanczosStatus.INVARIANT, LanczosStatus.CONVERGED)
