"""Seeds and precision of the models."""

import contextlib

import keras
import pytest


@contextlib.contextmanager
def in_float64():
  floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
  keras.config.set_floatx("float64")
  keras.config.set_dtype_policy("float64")
  yield
  keras.config.set_floatx(floatx)
  keras.config.set_dtype_policy(policy)


@pytest.fixture(autouse=True)
def _same_weights_each_time():
  keras.utils.set_random_seed(0)


@pytest.fixture
def float64():
  """Keras layers that are made inside are float64 throughout."""
  with in_float64():
    yield


@pytest.fixture(scope="module")
def float64_throughout():
  """The same for a whole module."""
  with in_float64():
    yield
