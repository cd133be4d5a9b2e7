"""Calls with collectives, which return only once all workers have made them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
import threading
import time
from typing import Any, TypeVar
import weakref

from absl import logging
import tensorflow as tf
from tensorflow.python.eager import context

from tf_hessian.distribute import errors

# What TensorFlow raises when a peer is gone; a model's own fault raises InvalidArgumentError etc.
LOST = (
  tf.errors.UnavailableError,
  tf.errors.AbortedError,
  tf.errors.CancelledError,
  tf.errors.DeadlineExceededError,
)
_LOG_SECONDS = 30.0
_LOOK_SECONDS = 1.0

_Result = TypeVar("_Result")


class Guard:
  """Calls that wait for other workers, but not for ever.

  Args:
    addresses: addresses of the other workers.
    patience: seconds that a worker which doesn't answer is waited for.
    goes_on: point after which the run goes on when it is started again, for messages.

  Attributes:
    broken: whether a call has ended by an error or by Ctrl-C, after which no other can be made.
  """

  def __init__(self, addresses: Iterable[str], patience: float, goes_on: str, /) -> None:
    self.broken = False
    self._addresses = list(addresses)
    self._patience = patience
    self._goes_on = goes_on
    self._since: float | None = None
    self._seen: float | None = None
    self._looked = time.monotonic()
    if self._addresses:
      threading.Thread(target=_watch, args=(weakref.ref(self),), daemon=True).start()

  def call(self, function: Callable[..., _Result], /, *arguments: Any) -> _Result:
    """Calls a function with collectives.

    Raises:
      ClusterError: if a worker is gone, or has not answered for too long.
    """
    if not self._addresses:
      return function(*arguments)
    self._since = time.monotonic()
    try:
      return function(*arguments)
    except LOST as e:
      self.broken = True
      gone = errors.silent(self._addresses, served=True)
      who = f"no answer from {', '.join(gone)}" if gone else "a worker has ended or was cut off"
      raise errors.ClusterError(
        f"{who}: this run can't go on without it. Start all workers again with the same command: "
        f"it goes on after {self._goes_on}"
      ) from e
    except (tf.errors.OpError, KeyboardInterrupt):
      self.broken = True  # the others may be in the middle of it
      raise
    finally:
      self._since = None

  def look(self) -> None:
    """Ends a call in which a worker has not answered for `patience`."""
    since, now = self._since, time.monotonic()
    if since is None or now - max(since, self._looked) < min(_LOG_SECONDS, self._patience / 4):
      return
    self._looked = now
    gone = errors.silent(self._addresses, served=True)
    if self._since != since or not gone:
      self._seen = now
      return
    waited = now - max(since, self._seen or since)
    logging.warning("no answer from %s for %.0f s", ", ".join(gone), waited)
    if waited >= self._patience:
      message = f"no answer from {', '.join(gone)}"
      context.context().abort_collective_ops(tf.errors.UNAVAILABLE, message)


def _watch(reference):
  while True:
    time.sleep(_LOOK_SECONDS)
    guard = reference()
    if guard is None:
      return
    guard.look()
    del guard
