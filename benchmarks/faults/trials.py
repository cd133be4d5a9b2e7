"""Trials of faults at random."""

import collections
import os
import pathlib
import random
import shutil
import signal

from benchmarks.faults import folders, outcomes

_LIMIT = 120.0  # seconds after which a trial hangs; one takes a few


class Trials:
  """Trials at random.

  Args:
    root: an empty folder.
    seed: of the choices.
    training: the share of trials of trainings, which take longer.
  """

  def __init__(self, root: str | os.PathLike, seed: int, /, *, training: float = 0.1):
    self._root = pathlib.Path(root)
    self._rng = random.Random(seed)
    self._training = training
    self._runs = folders.Runs(self._root / "runs")
    self._trainings = folders.Trainings(self._root / "trainings") if training else None
    self._cases = {f: outcomes.cases(f) for f in (self._runs, self._trainings) if f}
    self.count = collections.Counter()
    self.bad = []

  def one(self) -> None:
    """Makes one trial."""
    rng = self._rng
    tried = self._trainings if rng.random() < self._training else self._runs
    scratch = self._root / "trial"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    kind = rng.random()
    if kind < 0.15:
      names = rng.sample(outcomes.USERS, rng.randint(1, 5))
      what = f"user's {', '.join(names)}"
      outcome = self._limited(lambda: outcomes.users_folder(tried, names, scratch))
    elif kind < 0.35 and tried is self._runs:
      call, number = rng.choice(outcomes.CALLS), rng.randrange(40)
      what = f"killed at {call} {number}"
      outcome = self._limited(lambda: outcomes.killed(tried, call, number, scratch))
    else:
      case, seed = rng.choice(self._cases[tried]), rng.choice((1, 1, 1, 2))
      what = f"{case}, seed {seed}"
      outcome = self._limited(lambda: outcomes.damaged(tried, case, scratch, rng, seed=seed))
    self.count[outcome] += 1
    if outcome not in outcomes.GOOD:
      self.bad.append(f"{type(tried).__name__}, {what}: {outcome}")

  def _limited(self, function):
    """Returns what a function does, or "hangs"."""

    def expired(*_):
      raise outcomes.HangError

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, _LIMIT)
    try:
      return function()
    except outcomes.HangError:
      return "hangs"
    finally:
      signal.setitimer(signal.ITIMER_REAL, 0)
      signal.signal(signal.SIGALRM, before)

  def report(self) -> str:
    """Returns the numbers as text."""
    kinds = outcomes.GOOD + outcomes.BAD
    count = {"tried": sum(self.count.values())} | {name: self.count[name] for name in kinds}
    return ", ".join(f"{name} {number}" for name, number in count.items())
