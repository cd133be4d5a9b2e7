"""A network of a cluster's own: strangers can't connect."""

import contextlib
import pathlib
import re
import signal
import socket
import subprocess
import sys

import pytest

# Listens on all interfaces, as TensorFlow does, and is told to end by its input.
LISTEN = """
import socket
from tf_hessian.distribute import errors, isolation
if {private}:
  try:
    isolation.enter()
  except OSError as e:
    raise SystemExit(f"none: {{e}}")
with socket.socket() as mine:
  mine.bind(("0.0.0.0", 0))
  mine.listen()
  port = mine.getsockname()[1]
  print(port, errors.silent([f"127.0.0.1:{{port}}"]), flush=True)
  input()
"""


def own_addresses():
  """Returns addresses of this machine, without sending anything."""
  addresses = ["127.0.0.1"]
  with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    probe.connect(("192.0.2.1", 9))  # of a network for documentation; chooses an interface only
    addresses.append(probe.getsockname()[0])
  return addresses


def reached(port):
  """Returns the addresses at which a stranger reaches a port."""
  found = []
  for address in own_addresses():
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=5):
      found.append(address)
  return found


@pytest.fixture
def listen():
  """Returns a function that starts a process that listens; returns (port, what it can't reach)."""
  with contextlib.ExitStack() as stack:

    def start(private):
      process = stack.enter_context(
        subprocess.Popen(
          [sys.executable, "-c", LISTEN.format(private=private)],
          stdin=subprocess.PIPE,
          stdout=subprocess.PIPE,
          stderr=subprocess.PIPE,
          text=True,
        )
      )
      stack.callback(process.kill)
      line = process.stdout.readline()
      if not line:
        said = process.stderr.read()
        assert "none: " in said, said
        pytest.skip(said)
      port, unreached = line.split()
      return int(port), unreached

    yield start


def test_stranger_reaches_a_process_that_is_not_isolated(listen):
  port, _ = listen(False)
  assert reached(port) == own_addresses()


def test_stranger_does_not_reach_a_process_in_a_network_of_its_own(listen):
  port, unreached = listen(True)
  assert unreached == "[]"  # from within
  assert reached(port) == []


@pytest.mark.slow
def test_stranger_does_not_reach_the_tasks_of_the_command(tmp_path):
  command = [
    *(sys.executable, "-m", "tf_hessian.bin.local_cluster", "--workers=2", "--ps=1", "--"),
    *("--config=configs/synthetic_quadratic.py", f"--workdir={tmp_path}", "--initial"),
    *("--nocheck", "--config.lanczos.draws=300", "--config.hessian.batch_size=50"),
  ]
  root = pathlib.Path(__file__).parents[2]
  options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": root}
  ports, said = [], []
  with subprocess.Popen(command, **options) as process:
    for line in process.stdout:
      said.append(line)
      if "has no network of its own" in line:
        process.kill()
        pytest.skip(line)
      ports += re.findall(r"serves at 127.0.0.1:(\d+)", line)
      if len(ports) == 3:
        break
    assert [reached(int(port)) for port in ports] == [[], [], []], said
    process.send_signal(signal.SIGKILL)
    process.stdout.read()  # until no process has it any more
  assert process.returncode == -signal.SIGKILL
