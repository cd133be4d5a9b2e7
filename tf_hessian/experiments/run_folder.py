"""A density run on disk: what is there survives the death of the process at any moment.

  run.json      what the run is of; a run of something else is refused
  draw_NNN.npz  finished draws
  basis_NNN     Lanczos basis of a draw in progress; `BasisPlan` says how it is laid out. If it is
                spread over workers, each has its part, basis_NNN_RANK_of_SIZE, in such a folder
  step_NNN.npz  its coefficients, with a checksum of each basis row that counts
  lock          held while a process works here

A row of the basis is written before the coefficients that make it count, and those are renamed into
place, so that at any moment the files describe some finished step.
"""

import fcntl
import json
import os
import pathlib
import time

from absl import logging
import numpy as np

from tf_hessian import files
from tf_hessian.distribute import errors
from tf_hessian.numerics.lanczos import Lanczos

# 1 had one draw in progress, products one by one, and no target.
FORMAT_VERSION = 2
_IN_PROGRESS_1 = ("step.npz", "basis.f64")
# A killed process loses nothing that was written; only a power failure may lose what was not forced
# to the disk, which is done at most this often.
SYNC_SECONDS = 5.0


class RunFolder:
  """The folder of one density run; a context manager that holds its lock.

  Args:
    path: the folder; made if needed.
    identity: dict of plain values that say which run it is.

  Raises:
    ValueError: if the folder is another run's, of a newer format, or in use.
    OSError: if it can't be written or has not enough space, before anything is computed.
  """

  def __init__(self, path, identity, /):
    self.path = pathlib.Path(path)
    self._checksums = {}  # draw in progress -> list
    self._synced = {}
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      self._lock = open(self.path / "lock", "w")  # noqa: SIM115 - held until __exit__
    except OSError as e:
      raise OSError(e.errno, f"can't write to the run folder {path}: {os.strerror(e.errno)}") from e
    try:
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
      self._lock.close()
      raise ValueError(f"{path}: another process is working in this folder") from e
    for leftover in self.path.glob(".*.npz.*"):
      leftover.unlink()  # of a process that was killed while it wrote
    try:
      self._claim(identity)
    except BaseException:
      self._lock.close()
      raise

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self._lock.close()

  def _claim(self, identity):
    path = self.path / "run.json"
    identity = json.loads(json.dumps({"format_version": FORMAT_VERSION, **identity}))
    if not path.exists():
      files.write_text(path, json.dumps(identity, indent=2))
      return
    try:
      found = json.loads(path.read_text())
      version = int(found["format_version"])
    except (ValueError, KeyError, TypeError) as e:
      raise ValueError(f"{path}: damaged ({e}); use another folder, or delete this one") from e
    if version > FORMAT_VERSION:
      raise ValueError(f"{path}: it has format version {version}: install a newer tf_hessian")
    found["format_version"] = FORMAT_VERSION
    if version < 2:
      one_by_one = identity.get("draws_per_pass") and 1
      found |= {"basis": identity.get("basis"), "draws_per_pass": one_by_one, "target": None}
    differences = [
      _difference(key, found.get(key), identity.get(key))
      for key in sorted(found.keys() | identity.keys())
      if found.get(key) != identity.get(key)
    ]
    if differences:
      raise ValueError(
        f"{self.path}: it holds a run of something else ({'; '.join(differences)}); use another "
        "folder, or delete this one"
      )
    if version < 2:
      files.write_text(path, json.dumps(identity, indent=2))
      for name in _IN_PROGRESS_1:  # its draw begins again
        (self.path / name).unlink(missing_ok=True)

  def basis_path(self, draw, /):
    """Returns the file of the basis of a draw in progress."""
    return self.path / f"basis_{draw:03d}"

  def save_step(self, draw, lanczos, wall_time, /):
    """Records the state of draw number `draw` after a step, or before the first."""
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
    with files.replacing(self._step_path(draw), sync=sync) as file:
      np.savez(
        file,
        draw=draw,
        checksums=np.array(checksums, np.uint32),
        wall_time=wall_time,
        **lanczos.coefficients(),
      )

  def load_step(self, draw, basis, /):
    """Returns (coefficients, wall time) of draw number `draw` if it was begun, else None.

    Args:
      draw: its number.
      basis: its `Basis`, opened from `basis_path`.
    """
    path = self._step_path(draw)
    if not path.exists():
      return None
    try:
      state = files.read_npz(path)
      if int(state["draw"]) != draw:
        return None
      checksums = state["checksums"].tolist()
      if checksums != [basis.checksum(j) for j in range(len(checksums))]:
        raise ValueError("part of it is missing, or the basis is damaged")
      wall_time = float(state["wall_time"])
      Lanczos(basis).restore(state)
    except errors.ClusterError:
      raise
    except (OSError, ValueError, KeyError, TypeError) as e:
      logging.warning("%s: %s: draw %d begins again", path, e, draw)
      return None
    self._checksums[draw] = checksums
    return state, wall_time

  def save_draw(self, draw, coefficients, wall_time, /):
    """Records the `Lanczos.coefficients` of a finished draw."""
    with files.replacing(self._draw_path(draw)) as file:
      np.savez(file, wall_time=wall_time, **coefficients)

  def load_draw(self, draw, /):
    """Returns (coefficients, wall time) of a finished draw, or None."""
    path = self._draw_path(draw)
    if not path.exists():
      return None
    try:
      state = files.read_npz(path)
      if state["alphas"].shape != state["betas"].shape or not str(state["status"]):
        raise ValueError("its arrays don't fit each other")
      return state, float(state["wall_time"])
    except (OSError, ValueError, KeyError, TypeError) as e:
      reason = f"no array {e}" if isinstance(e, KeyError) else str(e).removeprefix(f"{path}: ")
      logging.warning("%s is damaged (%s): draw %d is computed again", path, reason, draw)
      return None

  def clear_in_progress(self, draws, /):
    """Removes the bases of draws that are finished, or are to begin again."""
    for draw in draws:
      for path in (self._step_path(draw), self.basis_path(draw)):
        path.unlink(missing_ok=True)

  def clear_all_in_progress(self):
    """Removes all bases, once all draws are finished."""
    for pattern in ("step*.npz", "basis*"):
      for path in self.path.glob(pattern):
        path.unlink()

  def _step_path(self, draw):
    return self.path / f"step_{draw:03d}.npz"

  def _draw_path(self, draw):
    return self.path / f"draw_{draw:03d}.npz"


def recorded(path, /):
  """Returns what run.json of a folder says: a dict, empty if there is none that can be read."""
  try:
    found = dict(json.loads((pathlib.Path(path) / "run.json").read_text()))
    newer = int(found["format_version"]) > FORMAT_VERSION
  except (OSError, ValueError, TypeError, KeyError):
    return {}
  if newer:
    return {}  # it is refused when the folder is opened, with a remedy
  return found | {"draws_per_pass": 1} if found.get("format_version") == 1 else found


_DIGESTS = {
  "product": "that of a fixed vector is another one than there: the kernels differ (other machine, "
  "instruction set, TF_ENABLE_ONEDNN_OPTS or version of TensorFlow), or the matrix does",
  "point": "the weights are others than there",
  "data_fingerprint": "the data are others than there",
}


def _difference(key, there, now):
  """Returns how two records differ; of digests, what that means."""
  both = isinstance(there, str) and isinstance(now, str)
  if key in _DIGESTS and both:
    return f"{key}: {_DIGESTS[key]}"
  return f"{key}: {_short(there)} there, {_short(now)} now"


def _short(value):
  text = json.dumps(value)
  return text if len(text) <= 80 else f"{text[:77]}..."
