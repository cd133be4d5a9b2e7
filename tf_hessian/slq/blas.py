"""BLAS's threads, which are in the way of passes over the data."""

from __future__ import annotations

import contextlib
import threading

import threadpoolctl

from tf_hessian.numerics import columns


def without_threads(n: int, /) -> contextlib.AbstractContextManager:
  """Returns a context for steps, with one BLAS thread for short vectors.

  BLAS gives short vectors to several threads too, which go on spinning after each call. Passes of a
  small network need the processor, and took 1.5 times as long for that. For long vectors the
  context does nothing.

  Args:
    n: length of the vectors.
  """
  return contextlib.nullcontext() if n > columns.SMALL else _one_thread()


@contextlib.contextmanager
def _one_thread():
  """Leaves BLAS one thread.

  That lasts as long as any thread of this process is inside.
  """
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
