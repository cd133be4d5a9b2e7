"""Python processes that are forked from one that has imported TensorFlow, which takes seconds.

This file is run with the number of a Unix socket. A message is a JSON list of a Python's arguments,
folder and environment, and comes with files: standard output, standard error, and one for the exit
code. The answer is the process's number. When the other end closes, all processes are killed.
"""

import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys

import tf_hessian

LONGEST = 1 << 20  # bytes of a message; an environment has some thousand


def load():
  """Imports all that commands import, but not the commands."""
  for module in pkgutil.walk_packages(tf_hessian.__path__, "tf_hessian."):
    if not module.name.startswith(("tf_hessian.bin", "tf_hessian.third_party")):
      importlib.import_module(module.name)


def serve(connection):
  """Forks processes until the other end closes; returns in each: (arguments, folder, environment).

  Returns None in the server itself.
  """
  running = {}  # process -> the file for its exit code
  woken, waker = socket.socketpair()
  waker.setblocking(False)
  signal.signal(signal.SIGCHLD, lambda *_: None)
  signal.set_wakeup_fd(waker.fileno())
  while True:
    ready, _, _ = select.select([connection, woken], [], [])
    if woken in ready:
      woken.recv(LONGEST)
      _report(running)
    if connection in ready:
      message, files, _, _ = socket.recv_fds(connection, LONGEST, 3)
      if not message:
        break
      pid = os.fork()
      if not pid:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for i, file in enumerate(files[:2], 1):
          os.dup2(file, i)
        for file in (*files, *running.values(), *map(socket.socket.detach, (woken, waker))):
          os.close(file)
        connection.close()
        return json.loads(message)
      running[pid] = files.pop()
      for file in files:
        os.close(file)
      connection.send(str(pid).encode())
  for pid in running:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
  return None


def _report(running):
  """Says how processes ended, of those that have."""
  for pid in list(running):
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
      file = running.pop(pid)
      os.write(file, str(os.waitstatus_to_exitcode(status)).encode())
      os.close(file)


def become(arguments, folder, environment):
  """Does what `python` with these arguments does."""
  os.chdir(folder)
  os.environ.clear()
  os.environ.update(environment)
  sys.stdout = os.fdopen(1, "w", closefd=False)
  sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
  added = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p]
  first, *rest = arguments
  sys.path[0:1] = [os.getcwd() if first in ("-m", "-c") else os.path.dirname(first), *added]
  if first == "-m":
    sys.argv = rest
    runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
  elif first == "-c":
    sys.argv = ["-c", *rest[1:]]
    exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
  else:
    sys.argv = arguments
    runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
  load()
  gc.collect()
  gc.freeze()  # so that pages are shared, and not looked through again by each process
  task = serve(socket.socket(fileno=int(sys.argv[1])))
  if task is not None:
    become(*task)
