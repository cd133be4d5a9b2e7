"""Seeds and precision of the models."""

import contextlib
import random

import keras
import pytest


@pytest.fixture(autouse=True)
def _same_weights_each_time():
  # That of which Keras makes its seeds; after a change of its own, TensorFlow makes its functions
  # ready anew.
  random.seed(0)


@contextlib.contextmanager
def float64_layers():
  floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
  keras.config.set_floatx("float64")
  keras.config.set_dtype_policy("float64")
  try:
    yield
  finally:
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


@pytest.fixture(scope="session")
def in_float64():
  """Returns a context manager: Keras layers that are made inside are float64 throughout."""
  return float64_layers


@pytest.fixture
def float64(in_float64):
  """The same for a whole test."""
  with in_float64():
    yield
