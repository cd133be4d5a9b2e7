"""Checksums of tensors, in graphs and outside."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def checksum(tensors: Any, /) -> tf.Tensor:
  """Returns a 64-bit hash of a nest of tensors: int64 (1,).

  It is of all their values, in order.
  """
  flat = [t for t in tf.nest.flatten(tensors) if t.shape.num_elements() != 0]
  if not flat:
    return tf.zeros(1, tf.int64)
  hashes = tf.concat([_hash(t) for t in flat], 0)
  return hashes if len(flat) == 1 else _hash(hashes)


def _hash(tensor):
  found = tf.raw_ops.Fingerprint(data=_bytes(tensor), method="farmhash64")
  return tf.bitcast(found, tf.int64)


def _bytes(tensor):
  """Returns a tensor's values as one row of bytes, or of strings."""
  if tensor.dtype == tf.bool:
    tensor = tf.cast(tensor, tf.uint8)
  if tensor.dtype != tf.string:
    tensor = tf.bitcast(tf.reshape(tensor, [-1]), tf.uint8)
  return tf.reshape(tensor, [1, -1])
