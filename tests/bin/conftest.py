"""The real commands, run as a user does, on the synthetic config."""

import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = "--config=configs/synthetic_quadratic.py"
SECONDS = 900  # of what hangs; nothing takes that long, however busy the machine is
NUM_KILLS = 3
# Long enough to be killed in the middle, each time.
LONG = (
  *("--initial", "--nocheck", "--vectors_per_pass=3"),
  *("--config.lanczos.draws=18", "--config.lanczos.steps=80"),
  "--config.hessian.batch_size=100",  # of one shape, as each start traces all of them
)


@pytest.fixture(scope="session")
def start(forked):
  """Returns a function that starts a command and returns its process.

  Processes are forked, unless `really` is given: each command has a test that does.
  """

  def start(command, *arguments, really=False):
    return (subprocess.Popen if really else forked)(
      [sys.executable, "-m", f"tf_hessian.bin.{command}", *map(str, arguments)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      cwd=ROOT,
      env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )

  return start


def finish(process):
  """Waits for a process; returns it as a `CompletedProcess`."""
  try:
    out, err = process.communicate(timeout=SECONDS)
  except subprocess.TimeoutExpired:
    process.kill()
    process.communicate()
    raise
  return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture(scope="session")
def run(start):
  """Returns a function that runs a command to its end."""
  return lambda *command, really=False: finish(start(*command, really=really))


@pytest.fixture(scope="session")
def run_all(start):
  """Returns a function that runs several independent commands, two at a time."""

  def run(commands):
    results, running = {}, {}
    for name, arguments in commands.items():
      if len(running) == 2:
        first = next(iter(running))
        results[first] = finish(running.pop(first))
      running[name] = start(*arguments)
    return results | {name: finish(process) for name, process in running.items()}

  return run


# Interruptions.


def steps_on_disk(folder):
  """Returns how many Lanczos steps of all draws are on disk."""
  steps = {}
  for path in [*folder.glob("step_*.npz"), *folder.glob("draw_*.npz")]:
    with contextlib.suppress(FileNotFoundError), np.load(path) as file:
      steps[path.stem[-3:]] = len(file["alphas"])
  return sum(steps.values())


@pytest.fixture(scope="session")
def start_long(start):
  """Returns a function that starts a long measurement and returns when it has recorded a step."""

  def start_long(workdir):
    folder = workdir / "spectrum_initial"
    before, deadline = steps_on_disk(folder), time.monotonic() + SECONDS
    process = start("spectrum", CONFIG, f"--workdir={workdir}", *LONG)
    while steps_on_disk(folder) <= before and process.poll() is None:
      assert time.monotonic() < deadline
      time.sleep(0.01)
    return process

  return start_long


@pytest.fixture(name="finish")
def give_finish():
  """Returns `finish`."""
  return finish


@pytest.fixture
def long():
  """Returns a function: workdir -> arguments of the long measurement."""
  return lambda workdir: (CONFIG, f"--workdir={workdir}", *LONG)


def state(folder):
  """Returns how many steps are on disk, or None when the run is finished."""
  return None if (folder / "spectrum.npz").exists() else steps_on_disk(folder)


def kill_and_start_again(start_long, run, folder, whole, third):
  """Kills a long measurement several times, then lets it finish; runs one undisturbed as well.

  Args:
    start_long: starts a long measurement in a workdir.
    run: runs a command.
    folder: workdir of the one that is killed.
    whole: workdir of the undisturbed one.
    third: workdir of one that is interrupted as by Ctrl-C.

  Returns:
    The folders of the first two, the state at each kill that hit a run in progress, and what the
    interrupted one said.
  """
  rng, states = random.Random(0), []
  for _ in range(NUM_KILLS):
    process = start_long(folder)
    time.sleep(rng.uniform(0, 0.25))
    process.kill()
    finish(process)
    if process.returncode == -signal.SIGKILL and state(folder / "spectrum_initial"):
      states.append(state(folder / "spectrum_initial"))
  process = start_long(third)
  process.send_signal(signal.SIGINT)
  interrupted = finish(process)
  for path in (folder, whole):
    last = run("spectrum", CONFIG, f"--workdir={path}", *LONG)
    assert last.returncode == 0, last.stderr
  return folder / "spectrum_initial", whole / "spectrum_initial", states, interrupted


@pytest.fixture(scope="session")
def killed(tmp_path_factory, start_long, run):
  """The result of `kill_and_start_again`."""
  folders = [tmp_path_factory.mktemp(name) for name in ("killed", "whole", "interrupted")]
  return kill_and_start_again(start_long, run, *folders)
