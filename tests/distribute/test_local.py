"""Processes of a cluster on this machine."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tf_hessian.distribute import errors, local

SHOW = "import os; print(os.environ['TF_CONFIG'])"
SLEEP = "import time; print('here', flush=True); time.sleep(100)"


def lines_of(code, **options):
  lines = []
  command = [sys.executable, "-c", code]
  cluster = local.LocalCluster(command, output=lambda *line: lines.append(line), **options)
  return cluster, lines


def test_each_task_is_told_its_place():
  cluster, lines = lines_of(SHOW, workers=2, ps=1)
  with cluster:
    for process in cluster.processes.values():
      assert process.wait(30) == 0
    time.sleep(0.2)
  found = {name: json.loads(line) for name, line in lines}
  assert set(found) == {"chief 0", "worker 0", "worker 1", "ps 0"}
  assert found["worker 1"]["task"] == {"type": "worker", "index": 1}
  addresses = [a for job in found["ps 0"]["cluster"].values() for a in job]
  assert len(set(addresses)) == 4
  assert all(a.startswith("127.0.0.1:") for a in addresses)


def test_without_servers_there_is_no_chief():
  cluster, _ = lines_of(SHOW, workers=3)
  assert cluster.tasks == [("worker", 0), ("worker", 1), ("worker", 2)]


def test_no_process_is_left_after_an_error():
  cluster, lines = lines_of(SLEEP, workers=2)
  with pytest.raises(KeyError), cluster:
    while len(lines) < 2:
      time.sleep(0.05)
    raise KeyError
  # Ended, not waited for: they would have ended with 0 by themselves.
  assert all(process.poll() not in (None, 0) for process in cluster.processes.values())


def test_killed_task_can_be_started_again():
  cluster, lines = lines_of(SLEEP, workers=1)
  with pytest.raises(KeyError), cluster:
    cluster.kill("worker", 0)
    first = cluster.processes["worker", 0]
    assert first.poll() == -9
    cluster.start("worker", 0)
    assert cluster.processes["worker", 0].poll() is None
    raise KeyError


def test_exit_code_is_the_chiefs():
  cluster, _ = lines_of("import sys; sys.exit(7)", workers=2)
  with cluster:
    assert cluster.wait(30) == 7


@pytest.mark.parametrize(
  "command, ps, strategy", [("spectrum", 1, "parameter_server"), ("train", 0, "multi_worker")]
)
def test_command_runs_in_all_roles_with_its_strategy(monkeypatch, command, ps, strategy):
  made = []

  class Cluster:
    def __init__(self, command, **size):
      made.append((command, size))

    def __enter__(self):
      return self

    def __exit__(self, *_):
      pass

    def wait(self):
      return 7

  monkeypatch.setattr(local, "LocalCluster", Cluster)
  assert local.run(["--a=1"], workers=2, ps=ps, command=command) == 7
  whole = [sys.executable, "-m", f"tf_hessian.bin.{command}", "--a=1", f"--strategy={strategy}"]
  assert made == [(whole, {"workers": 2, "ps": ps})]


def test_silent_addresses_are_found():
  import socket

  with socket.socket() as one:
    one.bind(("127.0.0.1", 0))
    one.listen()
    open_ = f"127.0.0.1:{one.getsockname()[1]}"
    closed = "127.0.0.1:1"
    assert errors.silent([open_, closed, "no.such.host.invalid:5"]) == [
      closed,
      "no.such.host.invalid:5",
    ]


def test_differences_name_fields_at_any_depth():
  chief = {"config": {"a": 1, "b": {"c": 2}}, "only": 1, "same": [1]}
  other = {"config": {"a": 1, "b": {"c": 3, "d": 4}}, "mine": 2, "same": [1]}
  assert list(errors.differences(chief, other)) == [
    "config.b.c: the chief has 2, this has 3",
    "config.b.d: the chief has None, this has 4",
  ]


def test_each_line_is_written_in_one_piece(monkeypatch):
  class Pieces(io.StringIO):
    def write(self, text):
      pieces.append(text)
      return len(text)

  pieces = []
  monkeypatch.setattr(sys, "stdout", Pieces())
  code = "for i in range(3): print('line', i)"
  with local.LocalCluster([sys.executable, "-c", code], workers=2) as cluster:
    for process in cluster.processes.values():
      process.wait(30)
    time.sleep(0.2)
  # Other threads write between two calls.
  assert sorted(pieces) == [f"[worker {t}] line {i}\n" for t in range(2) for i in range(3)]


# A cluster whose first lines are its processes' numbers, in a thread that ends before they do.
PARENT = """
import sys, threading, time
from tf_hessian.distribute import local
code = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(300)"
cluster = local.LocalCluster([sys.executable, "-c", code], workers=2)
def start():
  for task in cluster.tasks:
    cluster.start(*task)
thread = threading.Thread(target=start)
thread.start()
thread.join()
time.sleep(300)
"""


def runs(pid):
  """Whether a process is there and no zombie."""
  with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
    return file.read().rpartition(")")[2].split()[0] != "Z"
  return False


@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends children with their parent")
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_the_one_that_started_them(end):
  # SIGINT may be ignored here, as in a background job of a shell.
  restore = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
  parent = subprocess.Popen(
    [sys.executable, "-c", restore + PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
  )
  pids = []
  with parent:
    try:
      pids += [int(parent.stdout.readline().split()[-1]) for _ in range(2)]
      assert all(runs(pid) for pid in pids)
      parent.send_signal(end)
      parent.wait(60)
      deadline = time.monotonic() + 60
      while any(runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
      assert not any(runs(pid) for pid in pids)
    finally:
      parent.kill()
      for pid in pids:
        with contextlib.suppress(ProcessLookupError):
          os.kill(pid, signal.SIGKILL)
