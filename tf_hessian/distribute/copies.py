"""Variables that have a copy on each replica of a strategy."""

from __future__ import annotations

import tensorflow as tf


def copies_of(variable: tf.Variable | tf.Tensor, /) -> tuple[tf.Variable, ...]:
  """Returns a variable's copies on the replicas; empty without copies."""
  return tuple(variable.values) if isinstance(variable, tf.distribute.DistributedValues) else ()


def first_copy(variable: tf.Variable | tf.Tensor, /) -> tf.Variable | tf.Tensor:
  """Returns the first replica's copy of a variable; others as they are.

  Copies of moving statistics differ, each made of its replica's batches. The first is what Keras
  reads outside of the replicas, and saves.
  """
  return (copies_of(variable) or (variable,))[0]


def differ(variable: tf.Variable | tf.Tensor, /) -> bool:
  """Returns whether a variable's copies have other values."""
  first, *others = [tf.convert_to_tensor(c) for c in copies_of(variable)] or [None]
  return any(bool(tf.reduce_any(tf.identity(c) != first)) for c in others)
