"""What concerns all tests: threads, signals, garbage, and processes that begin quickly."""

import gc
import os
import signal
import threading

import pytest

from tests import forked as forking

# Two processes on two cores: the threads of BLAS would only wait for each other, which takes more
# than half of the time. It is read when NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_configure():
  # Processes inherit an ignored signal, as of a background job of a shell, but no handler.
  if threading.current_thread() is threading.main_thread():
    for number in (signal.SIGINT, signal.SIGHUP):
      if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)
  # Tracing makes so many objects that collecting garbage takes a tenth of the time.
  gc.set_threshold(100_000, 50, 100)


def pytest_collection_finish():
  gc.collect()
  gc.freeze()


@pytest.fixture(scope="session")
def forked():
  """Returns a function that starts a Python process in which TensorFlow is already imported."""
  with forking.ForkServer() as server:
    yield server
