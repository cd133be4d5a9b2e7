"""Threads, signals, garbage, quick processes; operators that count, fail, or are tiny.

Fixtures import what they need, since the process that hands out tests to others runs none, and all
wait until it has loaded this file.
"""

import gc
from importlib import metadata
import os
import pathlib
import signal
import threading

import pytest

# Two processes on two cores: the threads of BLAS would only wait for each other, which takes more
# than half of the time. It is read when NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# What Keras has is compared with the table of the version that it was made with.
_KERAS = tuple(map(int, metadata.version("keras").split(".")[:2]))
collect_ignore = [] if _KERAS >= (3, 15) else ["benchmarks/test_coverage.py"]

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
N = 24


def pytest_configure():
  # Processes inherit an ignored signal, as of a background job of a shell, but no handler.
  if threading.current_thread() is threading.main_thread():
    for number in (signal.SIGINT, signal.SIGHUP):
      if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)
  # Tracing makes so many objects that collecting garbage takes a tenth of the time, and to look
  # through all of them once near the end takes most of a minute.
  gc.set_threshold(100_000, 50, 1_000_000)


def pytest_collection_finish():
  gc.collect()
  gc.freeze()


def pytest_sessionfinish():
  gc.freeze()  # else pytest looks five times through all that the tests have left


@pytest.fixture
def closed():
  """Lets a file that a test has left open count against that test."""
  gc.freeze()  # so that only what is new is looked through
  yield
  gc.collect()
  gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def short_timings():
  """Lets plans time each pass as often as they must, and no more."""
  from tf_hessian.planning import timing

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(timing, "_MOST", timing._LEAST)
    yield


@pytest.fixture(scope="session")
def forked():
  """Returns a function that starts a Python process in which TensorFlow is already imported."""
  from tests import forked as forking

  with forking.ForkServer() as server:
    yield server


@pytest.fixture(scope="session")
def matrix():
  """A symmetric matrix (24, 24)."""
  import numpy as np

  a = np.random.default_rng(0).standard_normal((N, N))
  return (a + a.T) / 2


@pytest.fixture
def counting_of():
  """Returns a function that makes a new `Counting` of a matrix."""
  from tests.operators import Counting

  return Counting


@pytest.fixture
def counting(matrix, counting_of):
  """Returns a function that makes a new `Counting` of the matrix."""
  return lambda *args, **kwargs: counting_of(matrix, *args, **kwargs)


@pytest.fixture(scope="session")
def new_operator():
  """Returns a function: (seed of the data, options) -> `HessianOperator`, n = 26."""
  from tests.operators import make_operator

  return make_operator


@pytest.fixture(scope="session")
def hessian(new_operator):
  """A `HessianOperator` that no test changes."""
  return new_operator()


@pytest.fixture(scope="session")
def read_config():
  """Returns a function: name -> a new config of configs/."""
  from tf_hessian.experiments.configs import load_config

  def read(name):
    return load_config(CONFIGS / f"{name}.py").unlock()

  return read


@pytest.fixture
def config(read_config):
  """A small config that a test may change."""
  config = read_config("synthetic_quadratic")
  config.model.input_shape = (6,)
  config.data.num_examples = 20
  config.data.num_parameters = 6
  config.train.batch_size = 10
  return config.unlock()
