"""Seconds of the parts of a density run: its passes, and its Lanczos steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import time

import numpy as np

from tf_hessian import folders
from tf_hessian.curvature.batches import Batches
from tf_hessian.distribute import accumulators
from tf_hessian.numerics import lanczos, probes, results
from tf_hessian.slq import blas, run_folder
from tf_hessian.slq.bases import Bases
from tf_hessian.slq.storage import BasisPlan

# Seconds for which a timing is repeated, and how often at least and at most.
_SECONDS, _LEAST, _MOST = 1.0, 3, 15
_LONG = 20.0  # seconds of a pass that is not repeated so often
# Of the small bases on which Lanczos steps are timed. In memory, more than what was used a moment
# ago is wanted, which systems give at once, while they take long for what is new.
_ROWS_BYTES, _ROWS_BYTES_ON_DISK = 2**30, 2**29
_MOST_BASES = 4
_FEWEST_ROWS = 4


@dataclasses.dataclass(frozen=True)
class TimedPass:
  """Seconds of a pass over a sample of the batches."""

  build: float  # extra seconds of the first pass, for tracing
  once: float  # a pass without batches
  batches: float  # extra seconds of the sample's batches

  def seconds(self, scale: float) -> float:
    """Returns the seconds of a pass over `scale` times as much data."""
    return self.once + scale * self.batches


def time_pass(function: Callable[[], object], batches: Batches | None = None, /) -> TimedPass:
  """Times a pass that was not run before.

  It runs once as it is, then with and without its batches.

  Args:
    function: runs the pass.
    batches: the `Batches` that it reads. None, the default, for a pass that can't do without; its
      time then counts as that of its batches.

  Returns:
    A `TimedPass`, of medians.
  """
  first = _seconds(function)
  with_batches: list[float] = []
  without = [0.0] if batches is None else []
  begin = time.monotonic()
  while len(with_batches) < _LEAST or (
    time.monotonic() - begin < _SECONDS and len(with_batches) < _MOST
  ):
    with_batches.append(_seconds(function))
    if batches is not None:
      without.append(_without(function, batches))
    if with_batches[-1] > _LONG:
      break
  usual, once = np.median(with_batches), np.median(without)
  once = min(once, usual)
  return TimedPass(float(max(0.0, first - usual)), float(once), float(usual - once))


def largest_part(sizes: Sequence[int] | np.ndarray, parts: int, /) -> int:
  """Returns the size of the largest of equal parts of the batches.

  Args:
    sizes: number of entries of each batch.
    parts: number of parts.
  """
  if parts >= len(sizes):  # one batch each, or none
    return int(max(sizes))
  ends = [accumulators.bounds(len(sizes), parts, p) for p in range(parts)]
  return max(int(np.sum(sizes[low:high])) for low, high in ends)


@dataclasses.dataclass(frozen=True)
class TimedLanczos:
  """Seconds of the steps of one draw, without its products."""

  steps: float  # all steps
  sync: float  # forcing a step to the disk, which is done at most every few seconds

  def seconds(self, num_steps: int, lasting: float) -> float:
    """Returns the seconds of all steps of a draw.

    Args:
      num_steps: number of its steps.
      lasting: seconds that it lasts, with its products.
    """
    return self.steps + self.sync * min(num_steps, lasting / run_folder.SYNC_SECONDS)


def time_lanczos(basis: BasisPlan, /, *, recorded: bool) -> TimedLanczos:
  """Times the steps of a draw; returns a `TimedLanczos`.

  A few draws take steps in lock step with a diagonal matrix. Their bases are like the run's but of
  fewer rows. Seconds grow with the number of rows.

  Args:
    basis: place and size of the run's bases.
    recorded: whether each step is recorded in a folder, here a temporary one.
  """
  most = (_ROWS_BYTES_ON_DISK if basis.on_disk else _ROWS_BYTES) // (8 * basis.n)
  rows = int(np.clip(most, min(_FEWEST_ROWS, basis.steps), basis.steps))
  draws = int(np.clip(most // rows, 1, min(_MOST_BASES, basis.draws)))
  small = dataclasses.replace(
    basis, steps=rows, draws=draws, resident_bytes=basis.resident_bytes * rows // basis.steps
  )
  diagonal = np.linspace(-1.0, 1.0, basis.n)
  if not recorded:
    return _time_steps(small, None, diagonal, basis.steps)
  with folders.scratch() as scratch, run_folder.RunFolder(scratch, {}) as folder:
    return _time_steps(small, folder, diagonal, basis.steps)


def _time_steps(small, folder, diagonal, steps):
  """Returns the `TimedLanczos` of `steps` steps, by those on small bases."""
  numbers = range(small.draws)
  seconds, sync, written = [], 0.0, 0.0
  with blas.without_threads(small.n), Bases(small, folder) as bases:
    opened = bases.open(numbers)
    states = []
    for draw, basis in zip(numbers, opened, strict=True):
      basis.store(0, probes.probe(0, draw, small.n))
      states.append(lanczos.Lanczos(basis))
      if folder:  # forced to the disk, as the first always is
        begin = time.monotonic()
        folder.save_step(draw, states[-1], 0.0)
        sync += (time.monotonic() - begin) / small.draws
    while all(s.status is results.LanczosStatus.RUNNING for s in states):
      spent = []
      for draw, state in zip(numbers, states, strict=True):
        product = diagonal * state.vector
        begin = time.monotonic()
        state.update(product)
        if folder:
          folder.save_step(draw, state, 0.0)
        spent.append(time.monotonic() - begin)
      seconds.append(np.median(spent))  # other programs may interrupt one of them for long
    if folder:
      written = sum(_seconds(basis.flush) for basis in opened) / small.draws
  total = _all_steps(np.array(seconds), steps) + written * steps / small.steps
  return TimedLanczos(total, sync)


def _all_steps(seconds, steps):
  """Returns the seconds of all steps, by the first few.

  A line through the seconds of these goes on to the others.
  """
  known = len(seconds)
  if known >= steps:
    return float(np.sum(seconds[:steps]))
  # Not by the first, in which threads are started.
  slope, intercept = np.polyfit(np.arange(1, known), seconds[1:], 1)
  slope, later = max(slope, 0.0), np.arange(known, steps)
  at_least = np.mean(seconds[1:])
  return float(np.sum(seconds) + np.sum(np.maximum(intercept + slope * later, at_least)))


def _without(function, batches):
  batches.idle = True
  try:
    return _seconds(function)
  finally:
    batches.idle = False


def _seconds(function):
  begin = time.monotonic()
  function()
  return time.monotonic() - begin
