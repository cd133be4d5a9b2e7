"""BLAS's threads, which are in the way of passes over the data."""

from __future__ import annotations

import contextlib
import threading

import threadpoolctl

from tf_hessian.numerics import columns


def without_threads(n: int, /) -> contextlib.AbstractContextManager:
  """Returns a context in which steps with vectors of length n go with passes over the data.

  BLAS's threads, which small vectors are given to, go on spinning after each call. Passes of a
  small network, which need the processor, took 1.5 times as long for that.
  """
  if n > columns.SMALL:
    return contextlib.nullcontext()
  return _one_thread()


@contextlib.contextmanager
def _one_thread():
  """Leaves BLAS one thread as long as any thread of this process is inside."""
  with _Limit.lock:
    if not _Limit.inside:
      _Limit.limits = threadpoolctl.threadpool_limits(1, user_api="blas")
    _Limit.inside += 1
  try:
    yield
  finally:
    with _Limit.lock:
      _Limit.inside -= 1
      if not _Limit.inside:
        _Limit.limits.restore_original_limits()


class _Limit:
  lock = threading.Lock()
  inside = 0
  limits = None
