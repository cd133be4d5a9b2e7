"""Kills processes of a cluster at random while it measures: python -m benchmarks.chaos

Workers and the chief of a parameter-server cluster on this machine are killed (SIGKILL) at random
moments and started again. The tridiagonal matrices must be bitwise those of an undisturbed run with
one worker. Prints kills, restarts and the time lost.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import random
import sys
import tempfile
import time

import numpy as np

from tf_hessian.distribute.local import LocalCluster

_LIMIT = 600.0  # seconds of a run
_CONFIG = (
  "--config=configs/synthetic_quadratic.py",
  "--initial",
  "--strategy=parameter_server",
  "--config.hessian.batch_size=16",
)


@dataclasses.dataclass
class Outcome:
  """Result and history of a run."""

  tridiagonals: list  # (diagonal, off-diagonal) of each draw
  seconds: float
  worker_kills: int = 0
  chief_kills: int = 0
  killed_at: tuple = ()  # finished steps at each kill


class _Run:
  """One run on a cluster; `disturb` kills."""

  def __init__(self, folder, workers, draws, steps, output):
    self._folder = pathlib.Path(folder) / "spectrum_initial"
    arguments = [
      f"--workdir={folder}",
      f"--config.lanczos.draws={draws}",
      f"--config.lanczos.steps={steps}",
      "--config.data.num_examples=256",
    ]
    command = [sys.executable, "-m", "tf_hessian.bin.spectrum", *_CONFIG, *arguments]
    self.cluster = LocalCluster(command, workers=workers, ps=1, output=output)

  def finished_steps(self):
    """Returns how many Lanczos steps are on disk."""
    steps = {}
    for path in [*self._folder.glob("step_*.npz"), *self._folder.glob("draw_*.npz")]:
      with contextlib.suppress(FileNotFoundError), np.load(path) as file:
        steps[path.stem[-3:]] = len(file["alphas"])
    return sum(steps.values())

  def wait_for(self, steps, deadline):
    """Waits until so many steps are finished; False if the run is over."""
    while self.finished_steps() < steps:
      if self.cluster.processes["chief", 0].poll() is not None:
        return False
      if time.monotonic() > deadline:
        raise TimeoutError(f"{self.finished_steps()} steps after {_LIMIT:.0f} s")
      time.sleep(0.005)
    return True

  def tridiagonals(self):
    result = []
    for path in sorted(self._folder.glob("draw_*.npz")):
      with np.load(path) as draw:
        result.append((draw["alphas"], draw["betas"]))
    return result


def undisturbed(folder, *, draws, steps, output=None):
  """Returns the `Outcome` of a run with one worker."""
  return disturbed(
    folder, draws=draws, steps=steps, workers=1, worker_kills=0, chief_kills=0, output=output
  )


def disturbed(folder, *, draws, steps, workers, worker_kills, chief_kills, seed=0, output=None):
  """Returns the `Outcome` of a run whose processes are killed and started again.

  Args:
    folder: its workdir.
    draws: number of draws.
    steps: Lanczos steps of each.
    workers: number of workers.
    worker_kills: how often one of them is killed.
    chief_kills: how often the chief is killed.
    seed: of the moments.
    output: see `LocalCluster`.
  """
  rng = random.Random(seed)
  victims = ["worker"] * worker_kills + ["chief"] * chief_kills
  rng.shuffle(victims)
  # Each at a step of its own, so that every kill hits another moment of the run.
  moments = sorted(rng.sample(range(1, draws * steps - 1), len(victims)))
  run = _Run(folder, workers, draws, steps, output or _quiet)
  begin = time.monotonic()
  deadline = begin + _LIMIT
  killed_at = []
  with run.cluster as cluster:
    for victim, moment in zip(victims, moments, strict=True):
      if not run.wait_for(moment, deadline):
        break
      time.sleep(rng.uniform(0, 0.1))
      index = rng.randrange(workers) if victim == "worker" else 0
      cluster.kill(victim, index)
      killed_at.append((victim, run.finished_steps()))
      cluster.start(victim, index)
    code = cluster.wait(deadline - time.monotonic())
  if code:
    raise RuntimeError(f"the chief ended with code {code}")
  kills = [victim for victim, _ in killed_at]
  return Outcome(
    run.tridiagonals(),
    time.monotonic() - begin,
    kills.count("worker"),
    kills.count("chief"),
    tuple(killed_at),
  )


def equal(a, b, /):
  """Tells if two runs' tridiagonal matrices are bitwise equal."""
  pairs = zip(a.tridiagonals, b.tridiagonals, strict=True)
  return all(np.array_equal(x, y) for p, q in pairs for x, y in zip(p, q, strict=True))


def _quiet(name, line):
  """Shows errors only."""
  if "error:" in line:
    print(f"[{name}] {line}", flush=True)


def _show(name, line):
  print(f"[{name}] {line}", flush=True)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--draws", type=int, default=3)
  parser.add_argument("--steps", type=int, default=20)
  parser.add_argument("--workers", type=int, default=3)
  parser.add_argument("--worker_kills", type=int, default=12)
  parser.add_argument("--chief_kills", type=int, default=3)
  parser.add_argument("--seed", type=int, default=None, help="of the moments; default: by the time")
  parser.add_argument("--verbose", action="store_true")
  options = parser.parse_args()
  seed = int(time.time()) if options.seed is None else options.seed
  output = _show if options.verbose else None
  size = {"draws": options.draws, "steps": options.steps, "output": output}
  with tempfile.TemporaryDirectory() as folder:
    calm = undisturbed(f"{folder}/calm", **size)
    wild = disturbed(
      f"{folder}/wild",
      workers=options.workers,
      worker_kills=options.worker_kills,
      chief_kills=options.chief_kills,
      seed=seed,
      **size,
    )
  same = equal(calm, wild)
  print(f"{options.draws} draws of {options.steps} steps, {options.workers} workers, seed {seed}")
  print(f"killed and restarted   workers {wild.worker_kills} times, chief {wild.chief_kills} times")
  print(f"finished steps at kill {', '.join(f'{v} {n}' for v, n in wild.killed_at)}")
  print(f"seconds                undisturbed {calm.seconds:.1f}, disturbed {wild.seconds:.1f}")
  print(f"time lost              {wild.seconds - calm.seconds:.1f} s")
  print(f"tridiagonal matrices   {'bitwise equal' if same else 'DIFFERENT'}")
  if not same or (wild.worker_kills, wild.chief_kills) != (
    options.worker_kills,
    options.chief_kills,
  ):
    sys.exit(1)


if __name__ == "__main__":
  main()
