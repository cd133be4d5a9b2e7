"""Processes forked from one that has imported TensorFlow, instead of started; see fork_server."""

import json
import os
import pathlib
import select
import socket
import subprocess
import sys
import threading

from tf_hessian.distribute import local

_SERVER = pathlib.Path(__file__).with_name("fork_server.py")


class ForkServer:
  """Starts Python processes at a tenth of what their start would take; a context manager.

  They are like others, but have what is read at imports from the environment of the first one.
  """

  def __init__(self):
    self._lock = threading.Lock()
    self._connection, theirs = socket.socketpair()
    root = _SERVER.parents[1]
    with theirs:
      self._server = subprocess.Popen(
        [sys.executable, str(_SERVER), str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env=os.environ | {"PYTHONPATH": str(root), "TF_CPP_MIN_LOG_LEVEL": "3"},
      )

  def __call__(self, command, *, env=None, cwd=None, stderr=subprocess.PIPE, **_):
    """Starts a command, whose first word is this Python; returns its `Forked`."""
    assert command[0] == sys.executable
    task = [str(x) for x in command[1:]], str(cwd or os.getcwd()), dict(env or os.environ)
    out, err, code = os.pipe(), os.pipe(), os.pipe()
    theirs = [out[1], err[1] if stderr == subprocess.PIPE else out[1], code[1]]
    with self._lock:
      socket.send_fds(self._connection, [json.dumps(task).encode()], theirs)
      pid = int(self._connection.recv(20))
    for file in (out[1], err[1], code[1]):
      os.close(file)
    return Forked(command, pid, open(out[0]), open(err[0]), code[0])

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._connection.close()
    self._server.wait()


class Forked:
  """What `subprocess.Popen` is, of a process that another has forked."""

  def __init__(self, args, pid, stdout, stderr, code):
    self.args, self.pid, self.stdout, self.stderr = args, pid, stdout, stderr
    self.returncode = None
    self._code = code
    self._lock = threading.Lock()

  def poll(self):
    """Returns the exit code, or None while it runs."""
    return self._ended(0)

  def wait(self, timeout=None):
    """Waits for the end; returns the exit code."""
    if self._ended(timeout) is None:
      raise subprocess.TimeoutExpired(self.args, timeout)
    return self.returncode

  def _ended(self, timeout):
    with self._lock:
      if self.returncode is None and select.select([self._code], [], [], timeout)[0]:
        self.returncode = int(os.read(self._code, 20))
        os.close(self._code)
      return self.returncode

  def send_signal(self, number):
    """Sends a signal to it, if it still runs."""
    if self.poll() is None:
      os.kill(self.pid, number)

  def kill(self):
    """Kills it, if it still runs."""
    self.send_signal(9)

  def communicate(self, timeout=None):
    """Waits for the end; returns what it wrote to standard output and standard error."""
    texts = {}
    threads = [
      threading.Thread(target=lambda n=n, f=f: texts.update({n: f.read()}))
      for n, f in (("out", self.stdout), ("err", self.stderr))
    ]
    for thread in threads:
      thread.start()
    self.wait(timeout)
    for thread in threads:
      thread.join()
    self.stdout.close()
    self.stderr.close()
    return texts["out"], texts["err"]


class ForkedCluster(local.LocalCluster):
  """A `LocalCluster` whose processes are forked."""

  def __init__(self, forked, command, /, **options):
    super().__init__(command, **options)
    self._forked = forked

  def start(self, job, index, /, *, command=None):
    """Starts a task; one whose command is no Python is not forked."""
    command = command or self._command
    if command[0] != sys.executable:
      super().start(job, index, command=command)
      return
    config = {"cluster": self.jobs, "task": {"type": job, "index": index}}
    process = self._forked(
      command, env=os.environ | {"TF_CONFIG": json.dumps(config)}, stderr=subprocess.STDOUT
    )
    process.stderr.close()
    self.processes[job, index] = process
    arguments = f"{job} {index}", process.stdout
    threading.Thread(target=self._forward, args=arguments, daemon=True).start()
