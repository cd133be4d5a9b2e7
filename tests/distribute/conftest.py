"""Clusters of processes, on 127.0.0.1."""

import concurrent.futures
import json
import os
import pathlib
import sys
import threading

import numpy as np
import pytest

from tests import forked as forking

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
SECONDS = 120
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(HERE)])


class Runs:
  """Runs of member.py; each configuration's results are kept for all tests.

  The servers of the parameter-server clusters are started once; each run has a chief of its own,
  and as many of the workers as it asks for.
  """

  def __init__(self, forked, folder):
    self._forked = forked
    self._folder = folder
    self._results = {}
    self._servers = None
    self._one_chief = threading.Lock()
    # Most of a run is one process that uses one core.
    self._pool = concurrent.futures.ThreadPoolExecutor(2)

  def __call__(self, strategy, count=1, repeat=0, **options):
    """Returns a dict: process -> what it computed."""
    return self.start(strategy, count, repeat, **options).result()

  def start(self, strategy, count=1, repeat=0, **options):
    """Begins a run; returns its future."""
    key = strategy, count, repeat, repr(sorted(options.items()))
    if key not in self._results:
      folder = self._folder / f"{len(self._results)}"
      folder.mkdir()
      self._results[key] = self._pool.submit(self._run, strategy, count, folder, options)
    return self._results[key]

  def _run(self, strategy, count, folder, options):
    devices = count if strategy == "mirrored" else 0
    command = [sys.executable, str(HERE / "member.py"), strategy, str(devices), str(folder)]
    command += [f"{k}={v}" for k, v in options.items()]
    if strategy == "multi_worker":
      self._run_workers(command, count)
    elif strategy == "parameter_server":
      with self._one_chief:
        self._run_chief(command, count)
    else:
      self._run_alone(command, os.environ)
    return {p.stem: dict(np.load(p)) for p in folder.glob("*.npz")}

  def _run_chief(self, command, count):
    jobs = self._start_servers(command, count).jobs
    jobs = jobs | {"worker": jobs["worker"][:count]}
    config = {"cluster": jobs, "task": {"type": "chief", "index": 0}}
    self._run_alone(command, os.environ | {"TF_CONFIG": json.dumps(config)})

  def _start_servers(self, command, count):
    """Starts the servers that the first `count` workers need and that do not run yet."""
    if self._servers is None:
      self._servers = forking.ForkedCluster(
        self._forked, command, workers=3, ps=1, output=lambda *_: None
      )
    for task in [("ps", 0), *(("worker", i) for i in range(count))]:
      if task not in self._servers.processes:
        self._servers.start(*task)
    return self._servers

  def close(self):
    """Ends the servers."""
    self._pool.shutdown(cancel_futures=True)
    if self._servers is not None:
      self._servers.end()

  def _run_alone(self, command, environment):
    process = self._forked(command, env=environment)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said[-3000:]

  def _run_workers(self, command, count):
    lines = []
    with forking.ForkedCluster(
      self._forked, command, workers=count, output=lambda *line: lines.append(line)
    ) as cluster:
      assert cluster.wait(SECONDS) == 0, text(lines)
      for process in cluster.processes.values():
        assert process.wait(20) == 0, text(lines)


def text(lines):
  """Returns the end of what processes said."""
  return "\n".join(f"[{name}] {line}" for name, line in lines)[-5000:]


@pytest.fixture(scope="session")
def runs(forked, tmp_path_factory):
  runs = Runs(forked, tmp_path_factory.mktemp("clusters"))
  yield runs
  runs.close()
