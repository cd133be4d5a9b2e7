"""Data sets: examples to measure on, batches to train on, test sets."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import numpy as np
import tensorflow as tf

ENDLESS = 2**62  # steps or epochs
_ORDER, _CHANGES = 1, 2  # streams of random numbers
_BLOCK = 1000  # examples that are made at once


@dataclasses.dataclass(frozen=True)
class Source:
  """A data set, made by the functions of this package.

  Attributes:
    examples: finite `tf.data.Dataset` of single examples (input, target), always the same in the
      same order.
    batches: function (seed, first step, batch size) -> endless `tf.data.Dataset` of the batches of
      the steps from the first on, shuffled and augmented. With a seed, a batch depends on the seed
      and its step alone. Without (None), each iterator draws others: for workers that train
      independently.
    num_examples: how many examples there are.
    test: finite data set of single examples that are not trained on, or None.
    augmented: function (seed) -> what `examples` is, each augmented in a way that the seed and its
      number fix; None where there is no augmentation.
  """

  examples: tf.data.Dataset
  batches: Callable[[int | None, int, int], tf.data.Dataset]
  num_examples: int
  test: tf.data.Dataset | None = None
  augmented: Callable[[int], tf.data.Dataset] | None = None


def in_memory(
  inputs: np.ndarray,
  targets: np.ndarray,
  /,
  *,
  test: tuple[np.ndarray, np.ndarray] | None = None,
  augment: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
  finish: Callable[[tf.Tensor], tf.Tensor] = lambda x: x,
) -> Source:
  """Returns a `Source` of arrays.

  A batch is gathered, so any step can be the first.

  Args:
    inputs: (N, ...) array.
    targets: (N, ...) array.
    test: pair of such arrays, or None.
    augment: function (inputs of a batch, key (2,) int64) -> inputs, or None.
    finish: function of the inputs of a batch, after that, such as a standardization.
  """
  count = len(inputs)
  # On the host: they may be large, and batches move to accelerators one at a time.
  with tf.device("CPU:0"):
    arrays = tf.constant(inputs), tf.constant(targets)
    test = None if test is None else (tf.constant(test[0]), tf.constant(test[1]))

  def singly(pair, change=lambda x, number: x):  # noqa: ARG005
    def block(indices):
      x, y = (tf.gather(a, indices) for a in pair)
      return finish(change(x, indices[0])), y

    size = len(pair[0])
    blocks = tf.data.Dataset.range(size).batch(_BLOCK).map(block, tf.data.AUTOTUNE)
    return blocks.unbatch().apply(tf.data.experimental.assert_cardinality(size))

  def augmented(seed):
    return singly(arrays, lambda x, number: augment(x, key(seed, number)))

  def batches(seed, first, size):
    check_batch_size(size, count)
    per_epoch = count // size

    def order(epoch):
      """Returns the batches of an epoch, without the rest at its end."""
      chosen = permutation(count, key(seed or 0, epoch, _ORDER))[: per_epoch * size]
      return tf.data.Dataset.from_tensor_slices(tf.reshape(chosen, [per_epoch, size]))

    def gather(chosen, change):
      x, y = (tf.gather(a, chosen) for a in arrays)
      return finish(x if augment is None else augment(x, key(seed or 0, change))), y

    if seed is None:
      steps = tf.data.Dataset.zip(draws().flat_map(order), draws())
    else:
      epochs = tf.data.Dataset.range(first // per_epoch, ENDLESS)
      chosen = epochs.flat_map(order).skip(first % per_epoch)
      steps = tf.data.Dataset.zip(chosen, tf.data.Dataset.range(first, ENDLESS))
    return steps.map(gather, tf.data.AUTOTUNE)

  return Source(
    singly(arrays),
    batches,
    count,
    test=None if test is None else singly(test),
    augmented=None if augment is None else augmented,
  )


def stream(
  epoch: Callable[[tf.Tensor], tf.data.Dataset],
  count: int,
  seed: int | None,
  first: int,
  buffer: int,
  /,
) -> tf.data.Dataset:
  """Returns an endless data set of shuffled (example, key).

  It is for data that don't fit into memory.

  Args:
    epoch: function (key) -> data set of all examples, whose files may be in an order by the key.
    count: number of examples.
    seed: of the order and the keys; None draws others in each iterator.
    first: number of the example to begin with, counted from the beginning of training.
    buffer: number of examples that a random one is taken from.
  """

  def shuffled(number):
    tf.random.set_seed(1)  # of this function's graph only; shuffle() would mix in the global one
    order = key(seed or 0, number, _ORDER)
    number = tf.random.stateless_uniform([], order, None, None, tf.int64)
    return epoch(order).shuffle(buffer, seed=number)

  if seed is None:
    return tf.data.Dataset.zip(draws().flat_map(shuffled), draws().map(lambda d: key(0, d)))
  epochs = tf.data.Dataset.range(first // count, ENDLESS)
  examples = epochs.flat_map(shuffled).skip(first % count)
  numbers = tf.data.Dataset.range(first, ENDLESS)
  return tf.data.Dataset.zip(examples, numbers.map(lambda i: key(seed, i)))


def draws() -> tf.data.Dataset:
  """Returns an endless data set of numbers that no seed fixes.

  Not even TensorFlow's global one does.
  """

  def draw(_):
    low, high = tf.constant(0, tf.int64), tf.constant(tf.int64.max, tf.int64)
    return tf.raw_ops.RandomUniformInt(
      shape=tf.constant([], tf.int32), minval=low, maxval=high, seed=0, seed2=0
    )

  return tf.data.Dataset.range(ENDLESS).map(draw)


def permutation(count: int, key: tf.Tensor, /) -> tf.Tensor:
  """Returns the numbers below `count` in an order by the key: int64."""
  return tf.random.experimental.stateless_shuffle(tf.range(count, dtype=tf.int64), key)


def key(seed: int | tf.Tensor, number: int | tf.Tensor, stream: int = _CHANGES, /) -> tf.Tensor:
  """Returns a key (2,) int64 of stateless random functions.

  Args:
    seed: of the order and the changes.
    number: of what the key is for, such as an example.
    stream: of random numbers; by default that of changes of examples.
  """
  pair = tf.stack([tf.cast(seed, tf.int64), tf.constant(stream, tf.int64)])
  return tf.random.fold_in(pair, tf.cast(number, tf.int64))


def check_batch_size(size: int, count: int, /) -> None:
  """Raises ValueError if there are not enough examples for one batch."""
  if size > count:
    raise ValueError(f"batch size: expected at most the number of examples, {count}, got {size}")
