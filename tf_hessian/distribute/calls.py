"""Blocking calls in threads of their own.

So whoever waits for them can do something else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent import futures
import threading
import time
from typing import TypeVar

from tf_hessian.distribute import errors

_POLL_SECONDS = 1.0

_Value = TypeVar("_Value")


def start(function: Callable[[], _Value], /) -> futures.Future[_Value]:
  """Starts a blocking call in a thread that may outlast the program.

  The interpreter waits for the threads of an executor when it ends, and not for this one.

  Args:
    function: function () -> value.
  """
  call: futures.Future[_Value] = futures.Future()

  def run():
    try:
      call.set_result(function())
    except BaseException as e:
      call.set_exception(e)

  threading.Thread(target=run, daemon=True).start()
  return call


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
  call = start(function)
  begin = time.monotonic()
  while futures.wait([call], min(_POLL_SECONDS, patience)).not_done:
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
