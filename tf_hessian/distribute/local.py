"""A cluster of processes on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import concurrent.futures
import functools
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

from tf_hessian import notices

_GRACE_SECONDS = 10.0
_TETHER = pathlib.Path(__file__).with_name("tether.py")


class LocalCluster:
  """Processes of one command, one a task, on 127.0.0.1.

  A context manager that ends them all. They also end, on Linux, when this process does, in whatever
  way.

  Args:
    command: words of the command of every task; a task's role is in `TF_CONFIG`.
    workers: number of workers.
    ps: number of parameter servers, by default none; if there are any, there is a chief too.
    output: is called with (task's name, line) for lines of the processes; None prints them.
  """

  def __init__(
    self,
    command: Sequence[str],
    /,
    *,
    workers: int,
    ps: int = 0,
    output: Callable[[str, str], None] | None = None,
  ) -> None:
    self._command = command
    self._output = output or _print
    names = {"chief": 1 if ps else 0, "worker": workers, "ps": ps}
    ports = iter(_free_ports(sum(names.values())))
    self.jobs = {
      job: [f"127.0.0.1:{next(ports)}" for _ in range(count)]
      for job, count in names.items()
      if count
    }
    self.processes: dict[tuple[str, int], subprocess.Popen] = {}

  @property
  def tasks(self) -> list[tuple[str, int]]:
    """List of (job, index), the chief first."""
    return [(job, i) for job, addresses in self.jobs.items() for i in range(len(addresses))]

  def start(self, job: str, index: int, /, *, command: Sequence[str] | None = None) -> None:
    """Starts a task, for the first time or again.

    Args:
      job: its job.
      index: its number in the job.
      command: words of another command; None for that of every task.
    """
    config = {"cluster": self.jobs, "task": {"type": job, "index": index}}
    process = _launch(
      command or self._command,
      env=os.environ | {"TF_CONFIG": json.dumps(config)},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    self.processes[job, index] = process
    name = f"{job} {index}"
    threading.Thread(target=self._forward, args=(name, process.stdout), daemon=True).start()

  def kill(self, job: str, index: int, /) -> None:
    """Kills a task with SIGKILL and waits for its end."""
    process = self.processes[job, index]
    process.kill()
    process.wait()

  def wait(self, timeout: float | None = None, /) -> int:
    """Waits for the chief to end; returns its exit code."""
    return self.processes[self.tasks[0]].wait(timeout)

  def __enter__(self) -> LocalCluster:
    for job, index in self.tasks:
      self.start(job, index)
    return self

  def __exit__(self, *unused: object) -> None:
    self.end(_GRACE_SECONDS if unused[0] is None else 0.0)

  def end(self, grace: float = 0.0, /) -> None:
    """Gives the processes some seconds to end by themselves, then ends them."""
    deadline = time.monotonic() + grace
    for process in self.processes.values():
      try:
        process.wait(max(0.0, deadline - time.monotonic()))
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

  def _forward(self, name, stream):
    with stream:
      for line in stream:
        self._output(name, line.rstrip("\n"))


def _launch(command, /, **options):
  """Starts a process that ends with this one; returns it."""
  # Isolated and without site packages, which takes a few hundredths of a second.
  tether = [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid())]
  popen = functools.partial(subprocess.Popen, [*tether, *command], **options)
  return _launcher().submit(popen).result()


@functools.cache
def _launcher():
  """Returns the thread that starts processes.

  Linux ends them with the thread that started them, and this one lives as long as the process.
  """
  return concurrent.futures.ThreadPoolExecutor(1)


def run(arguments: Sequence[str], /, *, workers: int, ps: int, command: str = "spectrum") -> int:
  """Runs a command of tf_hessian.bin in all roles.

  Args:
    arguments: its arguments, without --strategy.
    workers: number of workers.
    ps: number of parameter servers; 0 for equal workers.
    command: "spectrum" or "train".

  Returns:
    The chief's exit code.
  """
  strategy = "parameter_server" if ps else "multi_worker"
  whole = [sys.executable, "-m", f"tf_hessian.bin.{command}", *arguments, f"--strategy={strategy}"]
  with LocalCluster(whole, workers=workers, ps=ps) as cluster:
    return cluster.wait()


def _print(name, line):
  notices.write_line(f"[{name}] {line}", sys.stdout)


def _free_ports(count):
  sockets = [socket.socket() for _ in range(count)]
  try:
    for s in sockets:
      s.bind(("127.0.0.1", 0))
    return [s.getsockname()[1] for s in sockets]
  finally:
    for s in sockets:
      s.close()
