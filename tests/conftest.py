"""Threads, signals, garbage, quick processes; operators that count, fail, or are tiny."""

# ruff: noqa: E402 - a variable of the environment comes before the imports that read it

import gc
import os
import pathlib
import random
import signal
import threading

# Two processes on two cores: the threads of BLAS would only wait for each other, which takes more
# than half of the time. It is read when NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import keras
import numpy as np
import pytest
import scipy.sparse.linalg
import tensorflow as tf

from tests import forked as forking
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.experiments.configs import load_config
from tf_hessian.models.mlp import mlp
from tf_hessian.numerics import probes
from tf_hessian.planning import timing

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
N = 24


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
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(timing, "_MOST", timing._LEAST)
    yield


@pytest.fixture(scope="session")
def forked():
  """Returns a function that starts a Python process in which TensorFlow is already imported."""
  with forking.ForkServer() as server:
    yield server


class Counting(scipy.sparse.linalg.LinearOperator):
  """A symmetric matrix that counts products and fails at one of them.

  The product that a run tells matrices apart by, that of `Stream.KNOWN_VECTOR`, is not counted.
  """

  def __init__(self, matrix, fail_at=None, error=RuntimeError):
    super().__init__(np.dtype(np.float64), matrix.shape)
    self.matrix = matrix
    self.count = 0
    self._fail_at = fail_at
    self._error = error
    self._mark = probes.probe(0, probes.Stream.KNOWN_VECTOR, len(matrix))

  def _matvec(self, x):
    if not np.array_equal(np.ravel(x), self._mark):
      self.count += 1
      if self.count == self._fail_at:
        raise self._error("failed on purpose")
    return self.matrix @ x


@pytest.fixture(scope="session")
def matrix():
  """A symmetric matrix (24, 24)."""
  a = np.random.default_rng(0).standard_normal((N, N))
  return (a + a.T) / 2


@pytest.fixture
def counting_of():
  """Returns a function that makes a new `Counting` of a matrix."""
  return Counting


@pytest.fixture
def counting(matrix):
  """Returns a function that makes a new `Counting` of the matrix."""
  return lambda *args, **kwargs: Counting(matrix, *args, **kwargs)


def make_operator(seed=0, **options):
  random.seed(0)  # for the weights; with TensorFlow's own, its functions are made ready anew
  model = mlp(input_shape=(3,), hidden_units=(4,), num_classes=2, activation="tanh")
  rng = np.random.default_rng(seed)
  # Batches of one shape: each shape is traced, which is most of what the operator takes.
  x = rng.standard_normal((12, 3)).astype(np.float32)
  y = np.eye(2, dtype=np.float32)[rng.integers(2, size=12)]
  data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
  loss = keras.losses.CategoricalCrossentropy(from_logits=True)
  return HessianOperator(model, loss, data, **options)


@pytest.fixture(scope="session")
def new_operator():
  """Returns a function: (seed of the data, options) -> `HessianOperator`, n = 26."""
  return make_operator


@pytest.fixture(scope="session")
def hessian():
  """A `HessianOperator` that no test changes."""
  return make_operator()


@pytest.fixture(scope="session")
def read_config():
  """Returns a function: name -> a new config of configs/."""

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
