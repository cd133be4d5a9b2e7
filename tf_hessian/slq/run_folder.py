"""A density run on disk, which survives its process's death.

The process may be killed at any moment. In the folder are:

  run.json      what the run is of; a run of something else is refused
  draw_NNN.npz  finished draws
  basis_NNN     Lanczos basis of a draw in progress; `BasisPlan` says how it is laid out. If it is
                distributed over workers, each has its part basis_NNN_RANK_of_SIZE in such a folder
  step_NNN.npz  its coefficients, with a checksum of each basis row that counts
  lock          held while a process works here

A row of the basis is written before the coefficients that make it count, and those are renamed into
place, so that at any moment the files describe some finished step.

Draws and steps carry the digest of run.json, and are believed only beside it. A finished draw of
another run is renamed, so that it is not lost. Folders of earlier versions have no digests; what is
in them is believed beside a run.json without one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import json
import os
import pathlib
import re
import time
from typing import Any

from absl import logging
import numpy as np

from tf_hessian import files, folders, records
from tf_hessian.distribute import errors
from tf_hessian.numerics.basis import Basis
from tf_hessian.numerics.lanczos import Lanczos
from tf_hessian.numerics.results import LanczosStatus

# 1 had one draw in progress, products one by one, and no target.
FORMAT_VERSION = 2
_IN_PROGRESS_1 = ("step.npz", "basis.f64")
# A killed process loses nothing that was written; only a power failure may lose what was not forced
# to the disk, which is done at most this often.
SYNC_SECONDS = 5.0

_NUMBER = r"(\d{3}|[1-9]\d{3,})"  # of a draw
_BASIS = rf"basis_{_NUMBER}(_\d+_of_\d+)?"
_IN_PROGRESS = re.compile(rf"step_{_NUMBER}\.npz|{_BASIS}")
_EMPTY = re.compile(_BASIS)  # alone it tells nothing
_DRAW = re.compile(rf"draw_{_NUMBER}\.npz")
KIND = folders.Kind(
  "run folder",
  "run.json",
  made=re.compile(rf"{_DRAW.pattern}|{_IN_PROGRESS.pattern}|spectrum\.(npz|json)"),
)


class RunFolder(folders.OwnedFolder):
  """The folder of one density run.

  A context manager that holds the folder's lock.

  Args:
    path: the folder; made if needed.
    identity: plain values that say which run it is.

  Raises:
    ValueError: if the folder is another run's, of a newer format, in use, or not one of a run.
    OSError: if it can't be written or has not enough space, before anything is computed.
  """

  def __init__(self, path: str | os.PathLike, identity: dict[str, Any], /) -> None:
    path = pathlib.Path(path)
    identity = {k: v for k, v in identity.items() if k != "digest"}
    identity = records.as_plain({"format_version": FORMAT_VERSION, **identity})
    self.digest = folders.digest(identity)
    self._steps = identity.get("lanczos_steps")
    self._checksums: dict[int, list[int]] = {}  # draw in progress -> list
    self._synced: dict[int, float] = {}
    text = json.dumps(identity | {"digest": self.digest}, indent=2)
    super().__init__(path, KIND, text, lambda found: _compare(path, found, identity))
    try:
      found = json.loads(files.read_own(path / KIND.record))
      self._unmarked = "digest" not in found  # so are its files then, or they were
      if found["format_version"] == FORMAT_VERSION:  # numbers may be of other types there
        self.digest = found.get("digest") or folders.digest(found)
      if found["format_version"] < 2:
        files.write_text(path / KIND.record, json.dumps(identity, indent=2))
        for name in _IN_PROGRESS_1:  # its draw begins again
          (path / name).unlink(missing_ok=True)
      for draw in self.made():
        if _DRAW.fullmatch(draw.name):
          self._keep_of_others(draw)
    except BaseException:
      self.close()
      raise

  def _keep_of_others(self, path):
    """Renames a good draw that is another run's.

    It would be written over.
    """
    try:
      state = files.read_npz(path, follow=False)
      _check_coefficients(state)
    except (OSError, ValueError, KeyError):
      return  # which `load_draw` will say
    owner = str(state["run"]) if "run" in state else None
    if owner != self.digest and not (owner is None and self._unmarked):
      self.set_aside(path, owner)

  def basis_path(self, draw: int, /) -> pathlib.Path:
    """Returns the file of the basis of a draw in progress."""
    return self.path / f"basis_{draw:03d}"

  def save_step(self, draw: int, lanczos: Lanczos, wall_time: float, /) -> None:
    """Records a draw's state after a step, or before the first.

    Args:
      draw: its number.
      lanczos: its state.
      wall_time: seconds that it has taken.
    """
    basis = lanczos.vectors
    rows = min(lanczos.num_steps + 1, basis.steps)
    if lanczos.num_steps == 0:
      self._checksums[draw] = []
    checksums = self._checksums[draw]
    checksums += [basis.checksum(j) for j in range(len(checksums), rows)]
    sync = time.monotonic() - self._synced.get(draw, 0.0) > SYNC_SECONDS
    if sync:
      basis.flush()
      self._synced[draw] = time.monotonic()
    state: dict[str, Any] = {
      "run": self.digest,
      "draw": draw,
      "checksums": np.array(checksums, np.uint32),
      "wall_time": wall_time,
      **lanczos.coefficients(),
    }
    with files.replacing(self._step_path(draw), sync=sync) as file:
      np.savez(file, **state)

  def load_step(self, draw: int, basis: Basis, /) -> tuple[dict[str, np.ndarray], float] | None:
    """Returns the recorded state of a draw; None if there is none.

    Args:
      draw: its number.
      basis: its `Basis`, opened from `basis_path`.

    Returns:
      (coefficients, wall time in seconds), or None if the draw was not begun. A damaged state gives
      None too, and a warning.
    """
    path = self._step_path(draw)
    if not path.exists():
      return None
    try:
      state = files.read_npz(path, follow=False)
      self._check_owner(state, draw)
      _check_coefficients(state, self._steps)
      checksums = _checksums(state, basis.steps)
      first = basis.first_kept(len(checksums))
      if checksums[first:] != [basis.checksum(j) for j in range(first, len(checksums))]:
        raise ValueError("part of it is missing, or the basis is damaged")
      Lanczos(basis).restore(state)
    except errors.ClusterError:
      raise
    except (OSError, ValueError, KeyError) as e:
      logging.warning("%s: %s: draw %d begins again", path, _reason(path, e), draw)
      return None
    self._checksums[draw] = checksums
    return state, float(state["wall_time"])

  def save_draw(
    self, draw: int, coefficients: Mapping[str, np.ndarray], wall_time: float, /
  ) -> None:
    """Records the `Lanczos.coefficients` of a finished draw."""
    state: dict[str, Any] = {
      "run": self.digest,
      "draw": draw,
      "wall_time": wall_time,
      **coefficients,
    }
    with files.replacing(self._draw_path(draw)) as file:
      np.savez(file, **state)

  def load_draw(self, draw: int, /) -> tuple[dict[str, np.ndarray], float] | None:
    """Returns (coefficients, wall time) of a finished draw, or None."""
    path = self._draw_path(draw)
    if not path.exists():
      return None
    try:
      state = files.read_npz(path, follow=False)
      self._check_owner(state, draw)
      _check_coefficients(state, self._steps, finished=True)
    except (OSError, ValueError, KeyError) as e:
      reason = _reason(path, e)
      logging.warning("%s is damaged (%s): draw %d is computed again", path, reason, draw)
      return None
    return state, float(state["wall_time"])

  def _check_owner(self, state, draw):
    """Refuses the state of another run, or of another draw."""
    if "run" in state or not self._unmarked:
      if str(state["run"]) != self.digest:
        raise ValueError("it is of another run")
      if state["draw"].shape or state["draw"] != draw:
        raise ValueError(f"it is draw {state['draw']}")
    elif "draw" in state and state["draw"].tolist() != draw:
      raise ValueError(f"it is draw {state['draw']}")

  def clear_in_progress(self, draws: Iterable[int], /) -> None:
    """Removes the bases and steps of draws in progress.

    Those draws are finished, or are to begin again.
    """
    for draw in draws:
      for path in (self._step_path(draw), self.basis_path(draw)):
        path.unlink(missing_ok=True)

  def forget_unless_begun(self) -> None:
    """Removes a record without any step, so that another run may begin."""
    bases = [path for path in self.made() if _EMPTY.fullmatch(path.name)]
    # A folder with anything else would be taken for a user's.
    if {p.name for p in bases} | {KIND.record, folders.LOCK} >= set(os.listdir(self.path)):
      for path in [*bases, self.path / KIND.record]:
        path.unlink(missing_ok=True)

  def clear_all_in_progress(self) -> None:
    """Removes all bases, once all draws are finished."""
    for path in self.made():
      if _IN_PROGRESS.fullmatch(path.name):
        path.unlink()

  def _step_path(self, draw):
    return self.path / f"step_{draw:03d}.npz"

  def _draw_path(self, draw):
    return self.path / f"draw_{draw:03d}.npz"


def check(path: str | os.PathLike, /) -> None:
  """Refuses a folder that is neither a run's nor empty.

  It is called before anything is computed.

  Raises:
    ValueError: if it holds something else, or something else is in a file's place.
    OSError: if it is not there and can't be made, or it can't be read.
  """
  folders.look(path, KIND)


def check_method(path: str | os.PathLike, description: Mapping[str, Any], /) -> None:
  """Refuses a folder with draws that were taken otherwise.

  It is called before the matrix is known, to say so at once.

  Args:
    path: the folder.
    description: plain values of a run by name, such as `SLQ.description` gives, and the seed.

  Raises:
    ValueError, OSError: as `check`, or if they differ there.
  """
  check(path)
  record = recorded(path)
  if record.get("format_version") == FORMAT_VERSION:
    there = {k: record.get(k) for k in description}
    if words := records.described(there, records.as_plain(description)):
      raise ValueError(f"{path}: it holds a run of something else ({words}); {records.REMEDY}")


def recorded(path: str | os.PathLike, /) -> dict[str, Any]:
  """Returns the record in a folder's run.json: a dict.

  It is empty if there is no record that can be read.
  """
  found = folders.recorded(path, KIND)
  try:
    newer = int(found["format_version"]) > FORMAT_VERSION
  except (ValueError, TypeError, KeyError):
    return {}
  if newer:
    return {}  # it is refused when the folder is opened, with a remedy
  return found | {"draws_per_pass": 1} if found.get("format_version") == 1 else found


def held_bytes(path: str | os.PathLike[str] | None, /) -> int:
  """Returns the bytes of the bases in a run's folder.

  They are 0 if there is no such folder.
  """
  if path is None or not os.path.isdir(path):
    return 0
  bases = (e for e in os.scandir(path) if re.fullmatch(rf"{_BASIS}|basis\.f64", e.name))
  return sum(e.stat(follow_symlinks=False).st_size for e in bases)


def _compare(path, text, identity):
  """Refuses the record of another run than that of an identity."""
  try:
    found = json.loads(text)
    version = int(found["format_version"])
    marked = found.pop("digest", None)
    if version < 1:
      raise ValueError(f"format version {version}")
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise ValueError(f"{path / KIND.record}: damaged ({e}); {records.REMEDY}") from e
  if version > FORMAT_VERSION:
    raise ValueError(
      f"{path / KIND.record}: it has format version {version}: install a newer tf_hessian"
    )
  found["format_version"] = FORMAT_VERSION
  if version < 2:
    one_by_one = identity.get("draws_per_pass") and 1
    found |= {"basis": identity.get("basis"), "draws_per_pass": one_by_one, "target": None}
  if differences := records.described(found, identity):
    raise ValueError(f"{path}: it holds a run of something else ({differences}); {records.REMEDY}")
  if version == FORMAT_VERSION and marked not in (None, folders.digest(found)):
    raise ValueError(f"{path / KIND.record}: damaged (its digest is wrong); {records.REMEDY}")


def _check_coefficients(state, steps=None, *, finished=False):
  """Refuses what can't be the `Lanczos.coefficients` and the seconds of a draw.

  Args:
    state: dict of arrays.
    steps: number of steps of a draw that nothing ends early; None, the default, if not known.
    finished: whether the draw has to be finished; by default it may be in progress.
  """
  for name, ndim in (("alphas", 1), ("betas", 1), ("scale", 0), ("wall_time", 0)):
    array = state[name]
    if array.dtype != np.float64 or array.ndim != ndim:
      raise ValueError(f"{name} is {array.dtype} of shape {array.shape}")
    if not np.isfinite(array).all() or (name != "alphas" and (array < 0).any()):
      raise ValueError(f"{name} has numbers that can't be")
  if state["alphas"].shape != state["betas"].shape:
    raise ValueError("its arrays don't fit each other")
  size, status = state["alphas"].size, LanczosStatus.__members__.get(str(state["status"]))
  if status is None:
    raise ValueError(f"it has the status {str(state['status'])[:20]!r}")
  running = status is LanczosStatus.RUNNING
  if (finished and running) or (not running and not size):
    raise ValueError(f"it has {size} steps and is not finished")
  if steps is None:
    return
  complete = status in (LanczosStatus.COMPLETE, LanczosStatus.WITHOUT_BASIS)
  short = size < steps if complete else running and size == steps
  if short or size > steps:
    raise ValueError(f"it has {size} steps of {steps}, and the status {status.name}")


def _checksums(state, steps):
  """Returns the checksums of the rows that count, a list of int."""
  array, expected = state["checksums"], min(state["alphas"].size + 1, steps)
  if array.dtype != np.uint32 or array.shape != (expected,):
    raise ValueError(f"checksums are {array.dtype} of shape {array.shape}")
  return array.tolist()


def _reason(path, error):
  missing = isinstance(error, KeyError)
  return f"no array {error}" if missing else str(error).removeprefix(f"{path}: ")
