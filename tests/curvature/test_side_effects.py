"""What a model changes when it is called: nothing, or it is refused by the variable's name."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.curvature.operator import HessianOperator

layers = keras.layers
X, Y = np.random.default_rng(0).standard_normal((2, 8, 3)).astype(np.float32)


def in_a_loop(variable):
  return tf.while_loop(lambda i: i < 2, lambda i: (i + variable.assign_add(0.5),), [0.0])


CHANGES = {
  "assign": lambda v: v.assign(2.0),
  "assign_add": lambda v: v.assign_add(1.0),
  "assign_sub": lambda v: v.assign_sub(1.0),
  "in a branch": lambda v: tf.cond(v > 0, lambda: v.assign_add(1.0), lambda: v.assign_sub(1.0)),
  "in a loop": in_a_loop,
  "in a function": lambda v: tf.function(lambda: v.assign_add(1.0))(),
}


class Counting(layers.Layer):
  def __init__(self, change):
    super().__init__(name="counting")
    self.change = change
    self.counter = tf.Variable(0.0, trainable=False, name="my_counter")

  def call(self, inputs):
    self.change(self.counter)
    return inputs


@pytest.mark.parametrize("name", CHANGES)
def test_a_model_that_changes_a_variable_is_refused_by_its_name(name):
  layer = Counting(CHANGES[name])
  model = keras.Sequential([keras.Input((3,)), layers.Dense(3, "tanh"), layer])
  layer.counter.assign(0.0)
  with pytest.raises(ValueError, match="layer 'counting' changes .*my_counter.*add_weight"):
    HessianOperator(model, "mse", [(X, Y)])
  assert layer.counter.numpy() == 0.0


def test_a_row_of_a_table_that_is_written_is_named():
  table = tf.Variable(tf.zeros((4, 3)), trainable=False, name="memory_bank")

  def loss(parameters, batch):
    table.scatter_update(tf.IndexedSlices(batch[:1], [0]))
    return tf.reduce_sum((batch * parameters[0]) ** 2, axis=1)

  with pytest.raises(ValueError, match="changes variable 'memory_bank'"):
    HessianOperator([tf.ones(3)], loss, [X])


def test_an_insertion_into_a_lookup_table_is_refused():
  table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)

  def loss(parameters, batch):
    table.insert(tf.constant([1], tf.int64), [2.0])
    return tf.reduce_sum((batch * parameters[0]) ** 2, axis=1)

  with pytest.raises(ValueError, match="changes a table or queue"):
    HessianOperator([tf.ones(3)], loss, [X])
  assert table.size() == 0


class CountingKeras(layers.Layer):
  def build(self, shape):
    del shape
    self.counter = self.add_weight(shape=(), trainable=False, name="counter")

  def call(self, inputs):
    self.counter.assign_add(1.0)
    return inputs


def test_a_keras_variable_that_is_counted_up_stays_as_it_is():
  layer = CountingKeras()
  model = keras.Sequential([keras.Input((3,)), layers.Dense(3, "tanh"), layer])
  before = layer.counter.numpy()
  operator = HessianOperator(model, "mse", [(X, Y)])
  operator @ np.ones(operator.shape[0])
  assert layer.counter.numpy() == before


def test_tables_and_variables_that_are_only_read_are_allowed():
  table = tf.lookup.StaticHashTable(
    tf.lookup.KeyValueTensorInitializer(tf.constant([0], tf.int64), tf.constant([3.0])), 1.0
  )
  rows = tf.Variable(tf.ones((2, 3)), trainable=False)

  def loss(parameters, batch):
    factor = table.lookup(tf.constant([0], tf.int64)) * tf.gather(rows, 1)
    return tf.reduce_sum((batch * parameters[0] * factor) ** 2, axis=1)

  operator = HessianOperator([tf.ones(3)], loss, [X])
  # Sums of eight float32 products each.
  np.testing.assert_allclose(operator @ np.ones(3), 18 * np.mean(X**2, axis=0), rtol=1e-5)
