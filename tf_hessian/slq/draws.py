"""Draws of a run, loaded from its folder or computed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from absl import logging
import numpy as np

from tf_hessian import notices
from tf_hessian.numerics import probes, quadrature
from tf_hessian.numerics.results import LanczosStatus
from tf_hessian.numerics.scaling import scales_of
from tf_hessian.slq import provenance
from tf_hessian.slq.bases import Bases
from tf_hessian.slq.lock_step import LockStep
from tf_hessian.slq.progress import Progress
from tf_hessian.spectrum import Spectrum

if TYPE_CHECKING:
  from tf_hessian.slq.layout import Layout
  from tf_hessian.slq.matrix import Matrix
  from tf_hessian.slq.method import SLQ
  from tf_hessian.slq.run_folder import RunFolder


@dataclasses.dataclass
class Draws:
  """The draws of one run.

  Attributes:
    matrix: the matrix.
    method: numbers of draws and steps, start vectors and target.
    check: whether to check the matrix first.
    show: whether to show progress.
    loss: mean loss at the point, known once draws are taken; None if there is none.
  """

  matrix: Matrix
  method: SLQ
  check: bool
  show: bool
  loss: float | None = None

  def take(
    self, layout: Layout, folder: RunFolder | None
  ) -> list[tuple[dict[str, np.ndarray], float]]:
    """Returns the draws; computes those that the folder does not have.

    Returns:
      List of (`Lanczos.coefficients`, wall time in seconds), in the order of the draws.
    """
    finished = {}
    if folder:
      for draw in range(self.method.num_draws):
        state = folder.load_draw(draw)
        if state:
          finished[draw] = state
    groups = layout.groups(self._missing(finished))
    distributed = self.matrix.distributed_basis
    with Bases(layout.basis, folder, distributed=distributed) as bases:
      if groups:  # first, since there may be no room
        bases.open(groups[0])
      try:
        self._prepare(groups)
      except (TypeError, ValueError):  # what mends that may make it another run
        if folder:
          folder.forget_unless_begun()
        raise
      if groups:
        self._take(groups, finished, layout, folder, bases)
      else:
        notices.show("all %d draws were finished before", self._wanted(finished))
    return [finished[draw] for draw in range(self._wanted(finished))]

  def _prepare(self, groups):
    """Looks at the matrix before anything is computed with it."""
    if self.show and self.matrix.traced:
      notices.show("building the functions of a batch; a minute or more for deep networks")
    self.loss = self.matrix.loss()
    if groups and self.check:
      self.matrix.check()

  def _take(self, groups, finished, layout, folder, bases):
    """Takes the steps of groups of draws, and of those needed later.

    With a target, the finished draws tell whether more are needed.
    """
    state = self.matrix.state()
    steps = self.method.lanczos_steps
    total, done = self.method.num_draws * steps, len(finished) * steps
    with Progress(total, done=done, enabled=self.show) as progress:
      lock_step = LockStep(
        self.matrix,
        layout,
        folder=folder,
        first=self._first,
        target=self.method.target,
        progress=progress,
        choose=True,
      )
      while groups:
        for group in groups:
          results = lock_step.run(group, bases.open(group))
          if self.matrix.state() != state:
            if folder:
              folder.clear_in_progress(group)
            raise ValueError("the model's variables changed during the run; the draw is not kept")
          for draw, (coefficients, seconds) in zip(group, results, strict=True):
            if folder:
              folder.save_draw(draw, coefficients, seconds)
            finished[draw] = coefficients, seconds
          bases.release(group)
        groups = layout.groups(self._missing(finished))

  def _wanted(self, finished):
    """Returns the number of draws that there should be.

    The first draws tell it, as far as they are finished.
    """
    if self.method.target is None:
      return self.method.num_draws
    count = 0
    while all(draw in finished for draw in range(count)):
      rules = [_rule(finished[draw][0]) for draw in range(count)]
      wanted = self.method.target.next_draws(rules, self.method.num_draws)
      if wanted == count:
        break
      count = wanted
    return count

  def _missing(self, finished):
    return [draw for draw in range(self._wanted(finished)) if draw not in finished]

  def _first(self, draw):
    """Returns the start vector of a draw, of length 1."""
    if self.method.start is None:
      return probes.probe(self.method.seed, draw, self.matrix.n)
    v = self.matrix.gradient() if isinstance(self.method.start, str) else self.method.start
    if not np.any(v):
      raise ValueError("start: the gradient is exactly zero, so no direction is given")
    (scale,) = scales_of(np.reshape(v, (1, -1)))  # or squares would be too small, or too large
    v = v if scale == 1 else v / scale
    return v / np.linalg.norm(v)

  def result(
    self, draws: list[tuple[dict[str, np.ndarray], float]], about: dict[str, Any]
  ) -> Spectrum:
    """Returns the `Spectrum` of finished draws."""
    matrix = self.matrix
    if self.method.target is not None:
      about = about | {"target": about["target"] | self._judged(draws)}
    return Spectrum(
      diagonals=tuple(c["alphas"] for c, _ in draws),
      off_diagonals=tuple(c["betas"][:-1] for c, _ in draws),
      residuals=np.array([c["betas"][-1] for c, _ in draws]),
      statuses=tuple(str(c["status"]) for c, _ in draws),
      num_parameters=matrix.n,
      seed=self.method.seed if self.method.start is None else None,
      parameter_names=matrix.parameter_names,
      parameter_shapes=matrix.parameter_shapes,
      loss=self.loss,
      config=about,
      versions=provenance.versions(),
      device=provenance.device(),
      wall_times=np.array([seconds for _, seconds in draws]),
    )

  def _judged(self, draws):
    """Returns whether the target was reached, as plain values; logs it."""
    n = self.matrix.n
    judged = self.method.target.judge(
      (
        c["alphas"],
        c["betas"][:-1],
        str(c["status"]) == LanczosStatus.INVARIANT.name or len(c["alphas"]) == n,
      )
      for c, _ in draws
    )
    logging.log(logging.INFO if judged.reached else logging.WARNING, "target_error %s", judged)
    return judged.to_dict()


def _rule(coefficients):
  return quadrature.gauss_quadrature(coefficients["alphas"], coefficients["betas"][:-1])
