"""One pass at a time in a process.

No pass can run in a process that was forked from one with TensorFlow at work.

A pass uses the accumulators of its operator and settings of the whole process, so threads take
turns; side by side passes would not be faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import functools
import gc
import os
import threading
from typing import ParamSpec, TypeVar

import tensorflow as tf

from tf_hessian.curvature import keras_internals

_P = ParamSpec("_P")
_R = TypeVar("_R")
LOCK = threading.RLock()
_started_before_fork = False


def one_at_a_time(method: Callable[_P, _R], /) -> Callable[_P, _R]:
  """Decorates a method that one thread at a time may run.

  All decorated methods share one lock. They raise RuntimeError where `check_process` does.
  """

  @functools.wraps(method)
  def alone(*args, **kwargs):
    check_process()
    with LOCK:
      return method(*args, **kwargs)

  return alone


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
  """Lets Python collect no garbage inside.

  Tracing makes a great many objects that stay; to look through them again and again takes a tenth
  of its time.
  """
  enabled = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    if enabled:
      gc.enable()


def check_process() -> None:
  """Raises RuntimeError where TensorFlow can't compute.

  In a process that was forked after TensorFlow had begun to work, the threads that it waits for
  don't exist: without this, it waits for ever. In a function that is traced nothing has a value.
  """
  if not tf.executing_eagerly():
    raise RuntimeError(
      "an operator computes at once, which can't be done while a tf.function or a graph is built: "
      "call it outside, or by tf.numpy_function"
    )
  if _started_before_fork:
    raise RuntimeError(
      "this process was forked from one in which TensorFlow was already at work, whose threads it "
      "lacks, so nothing can be computed here: start it by "
      "multiprocessing.get_context('spawn'), or measure before TensorFlow is used"
    )


def _after_fork():
  global _started_before_fork, LOCK
  LOCK = threading.RLock()  # that of the parent may have been taken
  _started_before_fork = _started_before_fork or keras_internals.is_at_work()


if hasattr(os, "register_at_fork"):  # else no process can be forked
  os.register_at_fork(after_in_child=_after_fork)  # only noted: it can't be found out later
