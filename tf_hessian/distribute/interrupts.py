"""End of an interrupted process, also while TensorFlow waits for another.

Python acts upon Ctrl-C when a call into TensorFlow returns. A call that waits for a process which
has ended, perhaps by the same Ctrl-C, may not return, and neither may the clearing up at the end.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator
import contextlib
import os
import signal
import socket
import sys
import threading
from typing import NoReturn

from tf_hessian.distribute import errors

GRACE_SECONDS = 15.0  # to say what is to be said, and tell the others
INTERRUPTED = "interrupted; the same command goes on from here"


@contextlib.contextmanager
def bounded(seconds: float = GRACE_SECONDS, /) -> Iterator[None]:
  """Ends the process soon after Ctrl-C.

  A context manager: within it, Ctrl-C ends the process after `seconds` at the latest. If the code
  within ends by Ctrl-C or a `ClusterError`, the process does not wait for TensorFlow to clear up
  when it ends. Does nothing outside of the main thread, where Python lets no signal be watched.

  Args:
    seconds: seconds that the process may take to end by itself, and to tell the others.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  writer: socket.socket | None
  reader, writer = socket.socketpair()
  writer.setblocking(False)
  before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
  threading.Thread(target=_watch, args=(reader, seconds), daemon=True).start()
  try:
    yield
  except (KeyboardInterrupt, errors.ClusterError):
    # The watch goes on until the end: whatever comes now may hang as well.
    end_at_once_at_exit(1)
    writer = None
    raise
  finally:
    if writer is not None:
      signal.set_wakeup_fd(before)
      writer.close()


def _watch(reader, seconds):
  """Ends the process some seconds after it was interrupted."""
  with reader:
    while signal.SIGINT not in (received := reader.recv(64)):
      if not received:
        return
    threading.Event().wait(seconds)
    end_at_once(1, INTERRUPTED)


def end_at_once_at_exit(code: int, /) -> None:
  """Lets the process end before TensorFlow clears up.

  Clearing up can wait for other processes for ever.
  """
  atexit.register(end_at_once, code)


def end_at_once(code: int, message: str = "", /) -> NoReturn:
  """Ends the process, with a line on standard error."""
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(Exception):
      stream.flush()
  if message:
    with contextlib.suppress(OSError):
      os.write(2, f"{message}\n".encode())
  os._exit(code)
