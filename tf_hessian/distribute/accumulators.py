"""Sums in float64 variables, added to under a lock."""

import tensorflow as tf


class Accumulators:
  """One float64 sum a tensor.

  `add` may be called from several threads and replicas at once: a resource variable adds under its
  lock, so no addition is lost. The order of additions is the callers' business.

  Attributes:
    shapes: tuple of shapes.
    size: number of entries of all sums together.
  """

  def __init__(self, shapes, /):
    self.shapes = tuple(tf.TensorShape(s) for s in shapes)
    self.size = sum(s.num_elements() for s in self.shapes)
    self._sums = [
      tf.Variable(tf.zeros(s, tf.float64), trainable=False, name="accumulator") for s in self.shapes
    ]

  def reset(self):
    """Sets all sums to zero."""
    for total in self._sums:
      total.assign(tf.zeros_like(total))

  def add(self, values, /):
    """Casts each value to float64 and adds it to its sum."""
    for total, value in zip(self._sums, values, strict=True):
      total.assign_add(tf.cast(value, tf.float64), use_locking=True, read_value=False)

  def read(self):
    """Returns the sums, each flattened, one after the other: (size,) float64."""
    return tf.concat([tf.reshape(total, [-1]) for total in self._sums], 0)


def for_replicas(shapes, strategy, /):
  """Returns `Accumulators` for each replica of this process, on its device.

  They are read and added in the replicas' order. Variables that a strategy sums on reading are
  added by AddN, in varying order where there are three or more, and making them in several
  processes would need all of them at once.
  """
  result = []
  for device in strategy.extended.worker_devices:
    with tf.device(device):
      result.append(Accumulators(shapes))
  return result


def bounds(count, parts, part, /):
  """Returns (low, high): part number `part` of `count` batches has those from low to high - 1.

  The parts are equal but for one batch; there may be more of them than batches.
  """
  return count * part // parts, count * (part + 1) // parts


def parts(batches, count, chosen, /):
  """Returns a list of the segments of each chosen one of `count` equal parts of the batches."""
  return [batches.segments(*bounds(batches.num_batches, count, part)) for part in chosen]


def add_batches(work, batches, sums, signature, feed, state, prepared):
  """Adds the values of a run of batches to `Accumulators`, in a graph loop; see `engines`."""

  def body(i):
    b, batch = batches.read(feed, signature, i)
    sums.add(work.values(signature, b, batch, state, prepared))
    return i + 1

  # One batch at a time: overlapping ones would need more memory and add up in varying order.
  count = feed[2]
  tf.while_loop(lambda i: i < count, body, [tf.zeros((), tf.int64)], parallel_iterations=1)


def sum_part(work, batches, sums, signatures, feeds, arguments):
  """Returns the sums of a part's segments, flattened, computed with `Accumulators` in a graph."""
  sums.reset()
  state, prepared = work.state(), work.prepare(*arguments)
  for signature, feed in zip(signatures, feeds, strict=True):
    add_batches(work, batches, sums, signature, feed, state, prepared)
  return sums.read()
