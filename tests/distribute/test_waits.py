"""A task of a cluster does not come: the others end, and name it."""

import contextlib
import http.server
import signal
import socket
import sys
import threading
import time

import pytest

from tests import forked as forking
from tf_hessian.distribute import local

SECONDS = 240  # far more than patience, start and end take on a busy machine
PATIENCE = 15
ANSWERED = "another program answers"


@contextlib.contextmanager
def absent(address):  # noqa: ARG001
  yield


@contextlib.contextmanager
def listening(address):
  """Another program that accepts connections and says nothing."""
  host, port = address.split(":")
  with socket.socket() as mine:
    mine.bind((host, int(port)))
    mine.listen()
    yield


@contextlib.contextmanager
def serving(address):
  """Another program that answers, but not as TensorFlow does."""
  host, port = address.split(":")
  handler = http.server.BaseHTTPRequestHandler
  with http.server.HTTPServer((host, int(port)), handler) as server:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield
    server.shutdown()
    thread.join()


class Outcome:
  """What became of a cluster in which a task is missing."""

  def __init__(self, forked, strategy, command, missing, how, folder):
    flags = [
      *("--config=configs/synthetic_quadratic.py", f"--workdir={folder}"),
      *(f"--strategy={strategy}", f"--patience={PATIENCE}", "--config.hessian.batch_size=50"),
    ]
    if command == "spectrum":
      flags.append("--initial")
    lines = []
    cluster = forking.ForkedCluster(
      forked,
      [sys.executable, "-m", f"tf_hessian.bin.{command}", *flags],
      workers=2,
      ps=int(strategy == "parameter_server"),
      output=lambda *line: lines.append(line),
    )
    job, index = missing.split()
    self.address = cluster.jobs[job][int(index)]
    with how(self.address):
      try:
        for task in cluster.tasks:
          if task != (job, int(index)) or how is not absent:
            cluster.start(*task)
        self.codes = {
          "{} {}".format(*t): p.wait(SECONDS) for t, p in list(cluster.processes.items())
        }
      finally:
        cluster.end()
    time.sleep(0.2)  # for the threads that read what was said
    self.said = {name: [line for who, line in lines if who == name] for name in self.codes}


def outcome_is_right(outcome, missing, how):
  for name, code in outcome.codes.items():
    text = "\n".join(outcome.said[name])
    assert code == 1, text
    assert "Traceback" not in text
    (error,) = [line for line in outcome.said[name] if line.startswith("error: ")]
    if name == missing:
      assert f"{name} can't serve at {outcome.address}" in error
    else:
      assert outcome.address in error
      assert (ANSWERED in error) == (how is not absent) or missing == "chief 0"
      assert "Start all tasks again" in error or "start all tasks again" in error


TABLE = [
  (strategy, command, missing, how)
  for strategy, tasks in (
    ("parameter_server", ("chief 0", "worker 1", "ps 0")),
    ("multi_worker", ("worker 0", "worker 1")),
  )
  for missing in tasks
  for how in (absent, listening, serving)
  for command in ("spectrum", "train")
]


@pytest.mark.slow
@pytest.mark.parametrize("strategy, command, missing, how", TABLE)
def test_task_that_does_not_come_is_named_by_all_others(
  forked, strategy, command, missing, how, tmp_path
):
  outcome_is_right(Outcome(forked, strategy, command, missing, how, tmp_path), missing, how)


# Ctrl-C, at any moment.


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_interrupted_workers_end(seed, tmp_path):
  import random

  rng = random.Random(seed)
  lines = []
  flags = [
    *("--config=configs/synthetic_quadratic.py", f"--workdir={tmp_path}", "--initial", "--nocheck"),
    *("--strategy=multi_worker", f"--patience={PATIENCE}", "--config.hessian.batch_size=50"),
    *("--config.lanczos.draws=20", "--config.lanczos.steps=60"),
  ]
  restore = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('tf_hessian.bin.spectrum', run_name='__main__', alter_sys=True)"
  )
  cluster = local.LocalCluster(
    [sys.executable, "-c", restore, *flags], workers=2, output=lambda *line: lines.append(line)
  )
  try:
    for task in cluster.tasks:
      cluster.start(*task)
    deadline = time.monotonic() + SECONDS
    while not any("connects to" in line for _, line in lines) and time.monotonic() < deadline:
      time.sleep(0.01)
    time.sleep(rng.uniform(0, 5))
    victims = rng.choice([[0], [1], [0, 1], [1, 0]])
    for index in victims:
      cluster.processes["worker", index].send_signal(signal.SIGINT)
    codes = [p.wait(SECONDS) for p in cluster.processes.values()]
  finally:
    cluster.end()
  # TensorFlow's connecting can't be interrupted but by the signal itself.
  assert all(code in (1, -signal.SIGINT) for code in codes), lines[-10:]
  assert not any("Traceback" in line for _, line in lines)
