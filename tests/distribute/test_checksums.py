"""Checksums of tensors."""

import pytest
import tensorflow as tf

from tf_hessian.distribute.checksums import checksum

TENSORS = {
  "float64": tf.constant([[1.0, -0.0], [2.0, 3.0]], tf.float64),
  "float32": tf.constant([1.0, 2.0]),
  "bfloat16": tf.constant([1.0, 2.0], tf.bfloat16),
  "int64": tf.constant([1, 2], tf.int64),
  "uint8": tf.constant([1, 2], tf.uint8),
  "bool": tf.constant([True, False]),
  "string": tf.constant(["a", "bc"]),
  "scalar": tf.constant(3.0),
}


@pytest.mark.parametrize("name", TENSORS)
def test_is_the_same_in_a_graph(name):
  graph = tf.function(checksum)
  assert graph(TENSORS[name]).numpy() == checksum(TENSORS[name]).numpy()


def test_differ_for_different_values():
  found = {int(checksum(t).numpy()[0]) for t in TENSORS.values()}
  assert len(found) == len(TENSORS)
  assert checksum(tf.constant([1.0, 2.0])).numpy() != checksum(tf.constant([2.0, 1.0])).numpy()


def test_every_tensor_of_a_nest_counts():
  a, b = TENSORS["float64"], TENSORS["bool"]
  assert checksum([a, {"x": b}]).numpy() != checksum([a]).numpy()
  assert checksum([a, b]).numpy() != checksum([b, a]).numpy()


@pytest.mark.parametrize("nothing", [[], [tf.zeros((0, 3))]])
def test_nothing_has_one_too(nothing):
  assert checksum(nothing).numpy() == 0
