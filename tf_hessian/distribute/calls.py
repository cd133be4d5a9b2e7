"""Blocking calls in threads of their own.

So whoever waits for them can do something else.
"""

from collections.abc import Callable, Sequence
import threading
import time
from typing import Any, TypeVar

from tf_hessian.distribute import errors

_POLL_SECONDS = 1.0

_Value = TypeVar("_Value")


class Call:
  """A blocking call in a thread of its own.

  Args:
    function: function () -> value.
    changed: a `threading.Event` that is set at the end; None for one of its own.

  Attributes:
    done: whether it has ended.
    error: the exception that it ended with, or None.
  """

  def __init__(self, function: Callable[[], Any], changed: threading.Event | None = None) -> None:
    self.done = False
    self.error: BaseException | None = None
    self._value: Any = None
    self._function = function
    self._changed = changed or threading.Event()
    threading.Thread(target=self._run, daemon=True).start()

  def _run(self):
    try:
      self._value = self._function()
    except BaseException as e:
      self.error = e
    self.done = True
    self._changed.set()

  def wait(self, seconds: float, /) -> bool:
    """Waits `seconds` at most for its end; returns whether it ended."""
    deadline = time.monotonic() + seconds
    while not self.done and time.monotonic() < deadline:
      self._changed.wait(max(0.0, deadline - time.monotonic()))
    return self.done

  def result(self) -> Any:
    """Returns the value, or raises the error, once it is done."""
    if self.error is not None:
      raise self.error
    return self._value


def attended(
  function: Callable[[], _Value], servers: Sequence[str], patience: float, remedy: str, /
) -> _Value:
  """Returns the value of a blocking call to parameter servers.

  Args:
    function: function () -> value.
    servers: addresses of the parameter servers.
    patience: seconds after which the call is given up if a server doesn't answer.
    remedy: remedy for the message.

  Raises:
    ClusterError: if the call is given up.
  """
  call = Call(function)
  begin = time.monotonic()
  while not call.wait(min(_POLL_SECONDS, patience)):
    check_answers(servers, time.monotonic() - begin, patience, remedy)
  return call.result()


def check_answers(servers: Sequence[str], waited: float, patience: float, remedy: str, /) -> None:
  """Raises ClusterError if a parameter server is silent for too long.

  Args:
    servers: addresses of the parameter servers.
    waited: seconds that they were waited for.
    patience: seconds that are too long.
    remedy: remedy for the message.
  """
  if waited > patience and (gone := errors.silent(servers, served=True)):
    raise errors.ClusterError(
      f"no answer for {waited:.0f} s from parameter server {', '.join(gone)}: {remedy}"
    )
