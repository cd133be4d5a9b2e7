"""Threads that share operators, and processes that were forked."""

import multiprocessing
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
import threadpoolctl

import tf_hessian
from tf_hessian.curvature.operator import HessianOperator

layers = keras.layers
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((64, 8)).astype(np.float32), RNG.integers(3, size=64)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SECONDS = 600  # of what hangs


def data():
  return [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 64, 16)]


def operator_of(width=16):
  parts = [layers.Dense(width, "tanh"), layers.Dense(3)]
  return HessianOperator(keras.Sequential([keras.Input((8,)), *parts]), LOSS, data())


def side_by_side(*functions):
  """Runs functions in threads that begin together; returns their results in order."""
  results = [None] * len(functions)
  barrier = threading.Barrier(len(functions))

  def run(i):
    barrier.wait()
    results[i] = functions[i]()

  threads = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return results


def test_threads_share_an_operator():
  operator = operator_of()
  vectors = RNG.standard_normal((8, operator.shape[0]))
  calls = [lambda v=v: operator @ v for v in vectors]
  first = side_by_side(*calls)  # which trace the product too
  expected = [operator @ v for v in vectors]
  np.testing.assert_array_equal(first, expected)
  for _ in range(3):
    np.testing.assert_array_equal(side_by_side(*calls), expected)
  assert operator.program.product.tracing_count == 1


def test_threads_call_what_they_like_of_an_operator():
  operator = operator_of()
  v = RNG.standard_normal((3, operator.shape[0]))
  calls = [
    operator.loss,
    operator.gradient,
    lambda: operator @ v[0],
    lambda: operator.products(v),
    lambda: operator @ v.T,
  ]
  expected = [call() for call in calls]
  for found, right in zip(side_by_side(*calls), expected, strict=True):
    np.testing.assert_array_equal(found, right)


def test_operators_of_threads_do_not_disturb_each_other_or_the_settings():
  name = "arithmetic_optimization"
  before = tf.config.optimizer.get_experimental_options().get(name)
  operators = [operator_of(), operator_of(5)]
  vectors = [RNG.standard_normal((10, o.shape[0])) for o in operators]
  calls = [lambda o=o, vs=vs: [o @ v for v in vs] for o, vs in zip(operators, vectors, strict=True)]
  expected = [call() for call in calls]
  for found, right in zip(side_by_side(*calls), expected, strict=True):
    np.testing.assert_array_equal(found, right)
  assert tf.config.optimizer.get_experimental_options().get(name) == before


def blas_threads():
  return [p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"]


@pytest.fixture
def two_blas_threads():
  with threadpoolctl.threadpool_limits(2, user_api="blas"):
    yield


@pytest.mark.slow
@pytest.mark.usefixtures("two_blas_threads")
def test_densities_in_threads_are_those_of_one_after_the_other():
  before = blas_threads()
  assert 2 in before
  operators = [operator_of(), operator_of(5)]
  calls = [
    lambda o=o: tf_hessian.spectral_density(o, num_draws=2, lanczos_steps=6, progress=False)
    for o in operators
  ]
  expected = [call() for call in calls]
  for found, right in zip(side_by_side(*calls), expected, strict=True):
    np.testing.assert_array_equal(found.diagonals, right.diagonals)
    np.testing.assert_array_equal(found.off_diagonals, right.off_diagonals)
  assert blas_threads() == before


def in_child(pipe, call):
  try:
    pipe.send(repr(call()))
  except RuntimeError as e:
    pipe.send(f"RuntimeError: {e}")


@pytest.mark.parametrize("made", ["before", "after"])
def test_a_forked_process_is_told_that_nothing_can_be_computed_there(made):
  operator = operator_of()
  operator @ np.ones(operator.shape[0])
  calls = {
    "before": lambda: operator @ np.ones(operator.shape[0]),
    "after": lambda: HessianOperator(operator.model, LOSS, data()),
  }
  ours, theirs = multiprocessing.Pipe()
  child = multiprocessing.get_context("fork").Process(target=in_child, args=(theirs, calls[made]))
  child.start()
  try:
    assert ours.poll(SECONDS), "the forked process hangs"
    assert "forked from one in which TensorFlow was already at work" in ours.recv()
  finally:
    child.kill()
    child.join()


def test_products_are_refused_while_a_function_is_traced():
  operator = operator_of()
  v = np.ones(operator.shape[0])

  @tf.function
  def step():
    return operator @ v

  with pytest.raises(RuntimeError, match="call it outside"):
    step()
  with tf.Graph().as_default(), pytest.raises(RuntimeError, match="call it outside"):
    operator.loss()
  assert np.isfinite(operator @ v).all()
