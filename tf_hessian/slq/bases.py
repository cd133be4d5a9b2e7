"""Bases of the draws in progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import pathlib

from tf_hessian.numerics.basis import Basis
from tf_hessian.slq.run_folder import RunFolder
from tf_hessian.slq.storage import BasisPlan


class Bases:
  """Bases of draws in progress.

  A context manager, which closes them at its end.

  Args:
    plan: place and size of the bases.
    folder: the run's folder, which holds them; None for memory or temporary files.
    distributed: makes a basis that is distributed over workers: function (steps, path or None) ->
      `Basis`. None, the default, if there are no workers.
  """

  def __init__(
    self,
    plan: BasisPlan,
    folder: RunFolder | None,
    /,
    *,
    distributed: Callable[[int, pathlib.Path | None], Basis] | None = None,
  ) -> None:
    self._plan = plan
    self._folder = folder
    self._distributed = distributed
    self._open: dict[int, Basis] = {}
    self._spare: list[Basis] = []

  def open(self, draws: Sequence[int], /) -> list[Basis]:
    """Returns the bases of some draws; makes the missing ones.

    Raises:
      OSError: if a basis has no room.
    """
    missing = [draw for draw in draws if draw not in self._open]
    if not (self._folder or self._plan.on_disk or self._plan.distributed):
      self._spare += self._plan.open_in_memory(max(0, len(missing) - len(self._spare)))
    for draw in missing:
      self._open[draw] = self._spare.pop() if self._spare else self._new(draw)
    return [self._open[draw] for draw in draws]

  def release(self, draws: Sequence[int], /) -> None:
    """Gives back the bases of finished draws.

    Those in a run's folder are deleted; others are used again.
    """
    for draw in draws:
      basis = self._open.pop(draw)
      if self._folder:
        basis.discard()
      else:
        self._spare.append(basis)
    if self._folder:
      self._folder.clear_in_progress(draws)

  def _new(self, draw):
    path = self._folder.basis_path(draw) if self._folder else None
    if self._plan.distributed:
      return self._distributed(self._plan.steps, path)
    return self._plan.open(path)

  def __enter__(self) -> Bases:
    return self

  def __exit__(self, *unused: object) -> None:
    for basis in (*self._open.values(), *self._spare):
      basis.close()
