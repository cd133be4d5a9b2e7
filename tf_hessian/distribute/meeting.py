"""Beginning of a cluster: tasks wait for each other, and say which is missing.

TensorFlow would wait as well, but for ever, with Python's lock held, and without a name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

from absl import logging
import tensorflow as tf

from tf_hessian.distribute import errors

if TYPE_CHECKING:
  from tf_hessian.distribute.cluster import Task


_POLL_SECONDS = 0.2
_LOG_SECONDS = 30.0
_ANSWER_SECONDS = 2.0


def wait_for(here: Task, patience: float, /) -> None:
  """Waits until all other tasks have answered once.

  Args:
    here: this `cluster.Task`.
    patience: seconds that they are waited for.

  Raises:
    ClusterError: if a task does not answer; says which.
  """
  begin = logged = time.monotonic()
  missing = here.peers
  while missing := silent(missing):
    now = time.monotonic()
    if now - begin > patience:
      raise errors.ClusterError(
        f"{here.name}: no answer for {now - begin:.0f} s from {listed(missing)}: a cluster begins "
        "when all its tasks are there. Start all tasks again with the same commands, each at its "
        "address in TF_CONFIG"
      )
    if now - logged > min(_LOG_SECONDS, patience / 4):
      logged = now
      logging.warning("%s waits for %s", here.name, listed(missing))
    time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def point(here: Task, /, *, answers: bool = True) -> Iterator[None]:
  """Holds this task's port before TensorFlow takes it; a context manager.

  Args:
    here: this `cluster.Task`.
    answers: whether to answer others that look for it there, as by default.

  Raises:
    OSError: if another program holds the port.
  """
  with socket.socket() as mine:
    try:
      mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # after an earlier one of ours
      mine.bind(("", int(here.address.rpartition(":")[2])))
      if answers:
        mine.listen(128)
    except OSError as e:
      raise port_error(here, e.strerror) from e
    if not answers:
      yield
      return
    mine.settimeout(_POLL_SECONDS)
    over = threading.Event()
    thread = threading.Thread(target=_answer, args=(mine, over), daemon=True)
    thread.start()
    try:
      yield
    finally:
      over.set()
      thread.join()


def _answer(mine, over):
  while not over.is_set():
    with contextlib.suppress(OSError):  # as when nobody has come
      connection, _ = mine.accept()
      with connection:
        connection.settimeout(_ANSWER_SECONDS)
        connection.recv(64)  # unread, it would undo the answer
        connection.sendall(errors.SETTINGS)


@contextlib.contextmanager
def limited(seconds: float, /) -> Iterator[None]:
  """Ends the process if the code within takes longer than `seconds`.

  A context manager, in which Ctrl-C ends the process too. It is for calls that hold Python's lock,
  so that neither another thread nor a handler can do anything. Leaves SIGTERM, which TensorFlow
  takes over, as it was.
  """
  main = threading.current_thread() is threading.main_thread()
  if not main or not hasattr(signal, "setitimer"):
    yield
    return
  before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGALRM, signal.SIGTERM)}
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  signal.signal(signal.SIGALRM, signal.SIG_DFL)
  logging.info("connects to the other tasks, or ends after %.0f s", seconds)
  signal.setitimer(signal.ITIMER_REAL, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
      if handler is not None:  # it was not Python's
        signal.signal(number, handler)


def silent(tasks: Mapping[str, str], /) -> dict[str, str]:
  """Returns the tasks that don't answer as TensorFlow does: name -> address."""
  gone = errors.silent(list(tasks.values()), seconds=_ANSWER_SECONDS, served=True)
  return {name: address for name, address in tasks.items() if address in gone}


def listed(tasks: Mapping[str, str], /) -> str:
  """Returns tasks and their addresses as text, and where something else answers."""
  closed = errors.silent(list(tasks.values()))
  return ", ".join(
    f"{name} ({address}{'' if address in closed else ', where another program answers, or hangs'})"
    for name, address in tasks.items()
  )


def first_line(error: tf.errors.OpError, /) -> str:
  """Returns the first line of a `tf.errors.OpError`."""
  return error.message.split("\n")[0].rstrip(".")[:300]


def port_error(here: Task, why: str | None, /) -> OSError:
  """Returns the OSError of a task that can't have its port."""
  return OSError(
    f"{here.name} can't serve at {here.address}: {why}; end the program that holds the port, or "
    "give this task another one in the TF_CONFIG of all tasks"
  )
