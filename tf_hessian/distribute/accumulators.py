"""Sums in float64 variables, added to under a lock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

from tf_hessian.distribute.protocols import Batches, Work

NONE = 2**62  # stands for no batch


class Accumulators:
  """One float64 sum a tensor.

  `add` may be called from several threads and replicas at once: the kernel that adds to a resource
  variable holds its lock, so no addition is lost; a test adds from eight threads. `use_locking` of
  `assign_add`, which the paper's TensorFlow needed, is ignored for such variables. The order of
  additions is the callers' business.

  Attributes:
    shapes: tuple of shapes, whose first dimension may be open: the number of vectors of a pass.
    changed: int64 variable: the first batch whose data have changed, NONE if there is no such.
  """

  def __init__(self, shapes: Iterable[tf.TensorShape], /) -> None:
    self.changed = tf.Variable(NONE, dtype=tf.int64, trainable=False, name="changed")
    self.shapes = tuple(tf.TensorShape(s) for s in shapes)
    self._sums = [
      tf.Variable(_zeros(s, 0), shape=s, trainable=False, name="accumulator") for s in self.shapes
    ]

  @property
  def size(self) -> int:
    """Number of entries of all sums, of which no dimension is open."""
    return sum(s.num_elements() for s in self.shapes)

  def reset(self, count: tf.Tensor | None = None, /) -> None:
    """Sets all sums to zero, and forgets what has changed.

    Args:
      count: the open dimension, a scalar; None if there is none.
    """
    self.changed.assign(NONE)
    for total, shape in zip(self._sums, self.shapes, strict=True):
      total.assign(_zeros(shape, count))

  def add(self, values: Iterable[tf.Tensor], /) -> None:
    """Casts each value to float64 and adds it to its sum."""
    for total, value in zip(self._sums, values, strict=True):
      total.assign_add(tf.cast(value, tf.float64), read_value=False)

  def read(self) -> tf.Tensor:
    """Returns the sums, each flattened, one after the other: (size,) float64."""
    return tf.concat([tf.reshape(total, [-1]) for total in self._sums], 0)


def _zeros(shape, count):
  return tf.zeros([count if d is None else d for d in shape], tf.float64)


def bounds(count: int, parts: int, part: int, /) -> tuple[int, int]:
  """Returns the bounds (low, high) of a part of the batches.

  Part number `part` of `count` batches has those from low to high - 1. The parts are equal but for
  one batch; there may be more of them than batches.
  """
  return count * part // parts, count * (part + 1) // parts


def add_batches(
  work: Work,
  batches: Batches,
  sums: Accumulators,
  signature: int,
  feed: tuple,
  state: Any,
  prepared: Any,
) -> None:
  """Adds the values of a segment to `Accumulators`, in a graph loop.

  Args:
    work: the computation of a batch's values.
    batches: the batches.
    sums: the sums that are added to.
    signature: number of the segment's signature.
    feed: the segment's `Segment.feed`.
    state: tensors of `Work.state`.
    prepared: tensors of `Work.prepare`.
  """

  def body(i):
    b, batch = batches.read(feed, signature, i)
    if not batches.cached:
      found = tf.where(batches.changed(b, batch), b, NONE)
      sums.changed.assign(tf.minimum(sums.changed, found), read_value=False)
    sums.add(work.values(signature, b, batch, state, prepared))
    return i + 1

  # One batch at a time: overlapping ones would need more memory and add up in varying order.
  count = feed[2]
  tf.while_loop(lambda i: i < count, body, [tf.zeros((), tf.int64)], parallel_iterations=1)


class Parts:
  """Equal parts of the batches, one for each replica.

  Each part has `Accumulators` on its replica's device. Sums are read and added in the replicas'
  order. Variables that a strategy sums on reading are added by AddN, in varying order where there
  are three or more. Making them in several processes would need all of them at once.

  Args:
    work: the computation whose values are summed.
    batches: the batches that they are summed over.
    strategy: a `tf.distribute.Strategy`.
    ids: numbers of this process's replicas among all.
  """

  def __init__(
    self, work: Work, batches: Batches, strategy: tf.distribute.Strategy, ids: Sequence[int], /
  ) -> None:
    self._work = work
    self._batches = batches
    count = strategy.num_replicas_in_sync
    self._bounds = [bounds(batches.num_batches, count, r) for r in ids]
    self._first = ids[0]
    self._layout = [[s.signature for s in batches.segments(*b)] for b in self._bounds]
    self._sums = []
    for device in strategy.extended.worker_devices:
      with tf.device(device):
        self._sums.append(Accumulators(work.shapes))

  def first_changed(self) -> int | None:
    """Returns the first batch of these parts whose data had changed.

    It is that of the last pass; None if there is none.
    """
    return first_changed(s.changed.numpy() for s in self._sums)

  def feeds(self) -> list[list[tuple]]:
    """Returns the feeds of one pass.

    For each part, a list of `Segment.feed`s, from which it is read.
    """
    return [[s.feed for s in self._batches.segments(*b)] for b in self._bounds]

  def add_up(
    self, feeds: Sequence[Sequence[tuple]], arguments: Sequence[tf.Tensor], /
  ) -> tf.Tensor:
    """Returns the flattened sums of this replica's part; in a graph.

    Args:
      feeds: those of `feeds`.
      arguments: tensors for `Work.prepare`.
    """
    part = this_replica() - self._first
    sums = self._sums[part]
    sums.reset(self._work.count(*arguments))
    state, prepared = self._work.state(), self._work.prepare(*arguments)
    for signature, feed in zip(self._layout[part], feeds[part], strict=True):
      add_batches(self._work, self._batches, sums, signature, feed, state, prepared)
    return sums.read()

  def changed_here(self) -> tf.Tensor:
    """Returns this replica's first batch whose data had changed, or NONE.

    In a graph.
    """
    return self._sums[this_replica() - self._first].changed.read_value()


def first_changed(numbers: Iterable[int], /) -> int | None:
  """Returns the first of several batches whose data had changed.

  None if there is none, that is if all numbers are NONE.
  """
  first = int(min(numbers))
  return None if first == NONE else first


def this_replica() -> int:
  """Returns the number of this replica among all.

  An int, also in a graph.
  """
  return int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group))
