"""Number of draws that share a pass, and room for their bases."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from typing import Any

from tf_hessian.slq import run_folder, storage
from tf_hessian.slq.matrix import Matrix
from tf_hessian.slq.method import SLQ

_RESULTS_BYTES = 2**32  # that the results of all draws may take


@dataclasses.dataclass(frozen=True)
class Layout:
  """Number of draws that share a pass, and place of their bases."""

  vectors_per_pass: int
  basis: storage.BasisPlan
  vectorized: bool  # products of a pass are computed together, so rounding depends on how many
  chosen: bool  # by `plan_layout`, not by the user

  @property
  def unsure(self) -> bool:
    """Whether products might take less time alone, and may be made so.

    They may not if the user chose how many share a pass.
    """
    return self.chosen and not self.vectorized and self.vectors_per_pass > 1

  @property
  def description(self) -> dict[str, Any]:
    """Plain values for records, on which the bits of a result depend.

    They also say what lies in a run's folder.
    """
    count = self.vectors_per_pass if self.vectorized else None
    return {"basis": self.basis.kind, "draws_per_pass": count}

  def groups(self, draws: list[int], /) -> list[list[int]]:
    """Returns lists of the draws that are in lock step.

    Each draw has its place in a pass.
    """
    numbers = sorted({d // self.vectors_per_pass for d in draws})
    return [[d for d in draws if d // self.vectors_per_pass == g] for g in numbers]


def plan_layout(
  matrix: Matrix,
  method: SLQ,
  chosen: storage.Storage,
  /,
  *,
  folder: str | os.PathLike | None = None,
  workers: storage.Workers | None = None,
) -> Layout:
  """Chooses how many draws share a pass, within a budget of memory.

  As many as possible, in passes of about equal size, whose bases fit into memory in float64. If not
  even one fits, a basis lives where `storage.plan_basis` says. A run that is in the folder already
  keeps to its choices.

  Args:
    matrix: the matrix, of order n.
    method: numbers of draws and steps.
    chosen: the user's choices.
    folder: the run's folder; None, the default, if it has none.
    workers: the `Workers` over which bases can be distributed; None, the default, if there are no
      others.

  Raises:
    TypeError, ValueError: if there is no room; says what would help.
  """
  n, num_draws, vectorized = matrix.n, method.num_draws, matrix.vectorized
  _check_results(num_draws, method.lanczos_steps)
  recorded = {} if folder is None else run_folder.recorded(folder)
  memory = storage.default_memory() if chosen.memory is None else chosen.memory
  count = chosen.vectors_per_pass
  unsaid = count is None
  if unsaid and vectorized and _is_count(recorded.get("draws_per_pass")):
    count = recorded["draws_per_pass"]
  disk = storage.free_disk(folder or tempfile.gettempdir()) + run_folder.held_bytes(folder)

  def plan(count, kinds):
    passes = storage.pass_bytes(n, count)
    return storage.plan_basis(
      n,
      method.lanczos_steps,
      min(count, num_draws),
      kinds=kinds,
      memory=max(0, memory - passes),
      disk=disk,
      precision=matrix.precision,
      in_files=folder is not None,
      workers=workers and dataclasses.replace(workers, memory=max(0, workers.memory - passes)),
    )

  kinds = _kinds(chosen, recorded.get("basis"), workers)
  if count is not None:
    count = count if vectorized else min(count, num_draws)
    try:
      return Layout(count, plan(count, kinds), vectorized, unsaid)
    except storage.NoRoomError as e:
      if not unsaid:
        raise
      raise storage.NoRoomError(
        f"{folder}: its run has {count} vectors to a pass, which it keeps to, and there is not as "
        f"much memory as then: give it that, or use another folder ({e})"
      ) from e
  if vectorized:
    num_draws = method.first_draws  # places that are not used cost as much as others
  one = plan(1, kinds)
  if not one.on_disk:
    of_one = (one.kind,) if one.kept else kinds  # whose reason tells of the others
    most = matrix.most_vectors(num_draws)
    for count in _sizes(num_draws):
      if count <= most:
        try:
          return Layout(count, plan(count, of_one), vectorized, unsaid)
        except storage.NoRoomError:
          continue
  return Layout(1, one, vectorized, unsaid)


def _is_count(value):
  """Returns whether a value of a record can be a count.

  A damaged record is refused when its folder is opened.
  """
  return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _kinds(chosen, recorded, workers):
  """Returns the kinds of bases that may be taken.

  A run that goes on keeps to the one in its record.
  """
  kept = chosen.place == "auto" and recorded in chosen.kinds
  return (recorded,) if kept and (workers or recorded != "workers") else chosen.kinds


def _sizes(num_draws):
  """Returns numbers of draws in passes of about equal size, largest first."""
  return sorted({-(-num_draws // groups) for groups in range(1, num_draws + 1)}, reverse=True)


def _check_results(num_draws, steps):
  """Refuses draws whose results alone are too large.

  The result of a draw takes 1 kB and a few numbers a step.
  """
  each = 1000 + 64 * steps
  if num_draws * each > _RESULTS_BYTES:
    raise ValueError(
      f"num_draws: expected at most {_RESULTS_BYTES // each:,} draws of {steps} steps, whose "
      f"results take {_RESULTS_BYTES / 1e9:.2g} GB, got {num_draws}"
    )
