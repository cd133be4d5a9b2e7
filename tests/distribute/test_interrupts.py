"""Ctrl-C where it changes nothing by itself."""

import signal
import subprocess
import sys

import pytest

from tf_hessian.distribute import interrupts

# A call into a library that goes on when it was interrupted, as those of TensorFlow do.
DEAF = """
import signal, time
from tf_hessian.distribute import interrupts
received = []
with interrupts.bounded(0.1):
  signal.signal(signal.SIGINT, lambda *_: None)
  signal.signal(signal.SIGUSR1, lambda *_: received.append(1))
  print("here", flush=True)
  while not received:
    time.sleep(0.05)
"""


def start():
  process = subprocess.Popen(
    [sys.executable, "-c", DEAF],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "here\n"
  return process


def finish(process):
  try:
    return process.communicate(timeout=60)[1]
  finally:
    process.kill()


def test_process_that_does_not_end_is_ended_with_a_line():
  process = start()
  process.send_signal(signal.SIGINT)
  assert finish(process) == f"{interrupts.INTERRUPTED}\n"
  assert process.returncode == 1


def test_process_that_other_signals_reach_ends_by_itself():
  process = start()
  process.send_signal(signal.SIGUSR1)
  assert finish(process) == ""
  assert process.returncode == 0


@pytest.mark.parametrize("error, code", [("KeyboardInterrupt", 1), ("ValueError", 1)])
def test_clearing_up_after_an_interruption_is_not_waited_for(error, code):
  script = f"""
import atexit, threading
from tf_hessian.distribute import interrupts
atexit.register(print, "cleared up", flush=True)
try:
  with interrupts.bounded():
    raise {error}
except {error}:
  raise SystemExit({code})
"""
  done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
  assert done.returncode == code
  assert ("cleared up" in done.stdout) == (error == "ValueError")


def test_signals_are_as_before_afterwards():
  before = signal.set_wakeup_fd(-1)
  with interrupts.bounded():
    assert signal.set_wakeup_fd(-1) >= 0
  assert signal.set_wakeup_fd(before) == before
