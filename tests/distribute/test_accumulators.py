"""Sums lose nothing to threads, and are float64 whatever is added."""

import threading

import numpy as np
import tensorflow as tf

from tf_hessian.distribute.accumulators import Accumulators


def test_no_addition_of_many_threads_is_lost():
  sums = Accumulators([(1000,), ()])
  add = tf.function(lambda: sums.add([tf.ones(1000), tf.constant(2.0)]))
  add()
  sums.reset()
  threads = [threading.Thread(target=lambda: [add() for _ in range(500)]) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  np.testing.assert_array_equal(sums.read(), [4000.0] * 1000 + [8000.0])


def test_float32_values_are_added_in_float64():
  sums = Accumulators([()])
  # In float32, 1 would be lost beside 2^25.
  for value in (2.0**25, 1.0, 1.0, 1.0):
    sums.add([tf.constant(value, tf.float32)])
  assert sums.read().numpy() == [2.0**25 + 3]


def test_sums_are_read_flattened_one_after_the_other():
  sums = Accumulators([(2, 2), (), (3,)])
  sums.add([tf.reshape(tf.range(4.0), (2, 2)), tf.constant(4.0), tf.range(5.0, 8.0)])
  np.testing.assert_array_equal(sums.read(), np.arange(8.0))
  assert sums.read().dtype == tf.float64


def test_size_counts_all_entries():
  assert Accumulators([(2, 2), (), (3, 0)]).size == 5


def test_reset_sets_all_to_zero():
  sums = Accumulators([(2,), ()])
  sums.add([tf.ones(2), tf.constant(1.0)])
  sums.reset()
  np.testing.assert_array_equal(sums.read(), np.zeros(3))


def test_bfloat16_values_are_added_in_float64():
  sums = Accumulators([()])
  for value in (256.0, 1.0, 1.0):
    sums.add([tf.constant(value, tf.bfloat16)])
  assert sums.read().numpy() == [258.0]
