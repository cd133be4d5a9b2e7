"""A data set as a fixed sequence of batches.

It is read from inside a graph. H is defined by its batches: batch b has fixed examples, however
often and wherever it is read. The data set is read once at the start, to count and to fingerprint
it. A small one is then kept in memory, stacked by shape, so that a pass has no input pipeline at
all; a large one is streamed.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
import dataclasses
import functools
import hashlib
import itertools
from typing import Any

import numpy as np
import tensorflow as tf

from tf_hessian.curvature import pipeline
from tf_hessian.distribute import checksums


@dataclasses.dataclass(frozen=True)
class Segment:
  """A run of batches of one shape.

  It is read in one graph loop.

  Attributes:
    signature: number of the batches' entry in `Batches.signatures`.
    feed: what the graph function is called with: (number of the first batch in the data set, its
      position in the stack, number of batches, stacked batches or iterator). Only its values differ
      between segments of one signature, so nothing is traced anew.
  """

  signature: int
  feed: tuple


class Batches:
  """The batches of a data set in fixed order; made by `loading.load_batches`.

  Attributes:
    num_batches: number of batches.
    num_examples: sum of their leading dimensions.
    signatures: tuple of batch signatures (nested `tf.TensorSpec`), one for each different shape.
    fingerprint: hex digest of the contents of all batches in order.
    cached: whether the batches are kept in memory.
    negative_weights: number of the first batch with a negative sample weight; None without one.
    weighs: whether there are sample weights other than 1.
    stacks: if so, the stacked batches of each signature, else None.
    seconds: time that reading them for the first time took.
    idle: if set, passes read none of them, which shows what a pass costs beside its batches.
  """

  def __init__(
    self,
    dataset: tf.data.Dataset | list,
    digests: list[bytes],
    shapes: list[int],
    specs: tuple,
    num_examples: int,
    cache: list | None,
    seconds: float = 0.0,
    cut: bool = False,
    checksums: Sequence[int] = (),
    negative_weights: int | None = None,
    weighs: bool = False,
  ) -> None:
    self._dataset: Any = dataset
    self._checksums = np.array(checksums, np.int64)  # of the batches that passes stream
    self._digests = digests
    self._cut = cut  # by num_batches, which may leave examples out
    self._shapes = shapes  # signature number of each batch
    self.signatures = specs
    self.num_batches = len(digests)
    self.num_examples = num_examples
    self.fingerprint = hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()
    self.cached = cache is not None
    self.stacks: Any = None if cache is None else self._stack(cache)
    self._positions = self._count_positions()
    self._places: dict[
      tuple[int, int], list
    ] = {}  # by bounds: a pass of a cached data set makes no tensor
    self._none = _scalar(0)
    self.negative_weights = negative_weights
    self.weighs = weighs
    self.seconds = seconds
    self.idle = False

  def _count_positions(self):
    """Returns, for each batch, how many of its signature come before it."""
    filled = collections.Counter()
    positions = []
    for signature in self._shapes:
      positions.append(filled[signature])
      filled[signature] += 1
    return positions

  def _stack(self, cache):
    """Returns the stacked batches of each signature; empties the cache."""
    stacks = []
    for signature in range(len(self.signatures)):
      chosen = [b for b, s in enumerate(self._shapes) if s == signature]
      # The stack stays on the host; a batch moves to the accelerator when it is read.
      with tf.device("CPU:0"):
        parts = [cache[b] for b in chosen]
        stacks.append(tf.nest.map_structure(lambda *p: tf.stack(p), *parts))
      for b in chosen:
        cache[b] = None
    return stacks

  def table(self, low: int, high: int) -> np.ndarray:
    """Returns the places of batches low to high - 1.

    Each is an int64 row (batch, signature, position in its stack).
    """
    rows = [(b, self._shapes[b], self._positions[b]) for b in range(low, high)]
    return np.array(rows, np.int64).reshape(-1, 3)

  def segments(self, low: int = 0, high: int | None = None) -> list[Segment]:
    """Returns the `Segment`s of batches low to high - 1, in order.

    By default those of all batches.
    """
    high = self.num_batches if high is None else high
    if (low, high) not in self._places:
      self._places[low, high] = list(self._runs(low, high))
    iterator = None if self.cached else iter(self._range(low, high))
    segments = []
    for signature, (first, position, count) in self._places[low, high]:
      source = self.stacks[signature] if self.cached else iterator
      feed = (first, position, self._none if self.idle else count, source)
      segments.append(Segment(signature, feed))
    return segments

  def since(self, low: int = 0) -> Iterator[tuple[int, Any]]:
    """Yields (number, batch) of the batches from number `low` on, eagerly."""
    batches = (
      itertools.islice(self, low, None) if self.cached else self._range(low, self.num_batches)
    )
    return enumerate(batches, low)

  def held(self, b: int, batch: Any) -> list[Segment]:
    """Returns the `Segment` of a single batch, which is there already.

    Args:
      b: its number.
      batch: the batch.
    """
    if (b, b + 1) not in self._places:
      self._places[b, b + 1] = list(self._runs(b, b + 1))
    [(signature, place)] = self._places[b, b + 1]
    source = self.stacks[signature] if self.cached else iter(tf.data.Dataset.from_tensors(batch))
    return [Segment(signature, (*place, source))]

  def _runs(self, low, high):
    """Yields (signature, (first batch, its position in the stack, number of batches))."""
    for signature, run in itertools.groupby(range(low, high), key=lambda b: self._shapes[b]):
      run = list(run)
      place = (run[0], self._positions[run[0]], len(run))
      yield signature, tf.nest.map_structure(_scalar, place)

  def _range(self, low, high):
    if (low, high) == (0, self.num_batches) or low == high:
      return self._dataset
    return self._dataset.skip(low).take(high - low)

  @property
  def sizes(self) -> np.ndarray:
    """Number of entries of all tensors of each batch: (num_batches,) int64."""
    entries = [sum(s.shape.num_elements() for s in tf.nest.flatten(g)) for g in self.signatures]
    return np.array(entries)[self._shapes]

  def largest(self, count: int) -> list:
    """Returns a list of `count` batches in a row, with most data.

    Of several such runs it is the first.
    """
    count = min(count, self.num_batches)
    low = int(np.argmax(np.convolve(self.sizes, np.ones(count, np.int64), mode="valid")))
    if self.cached:
      return list(itertools.islice(self, low, low + count))
    return list(self._range(low, low + count))

  def serialized(self) -> bytes:
    """Returns the bytes of a graph of the data set.

    Other processes can run that graph.

    Raises:
      ValueError: if it runs Python code, which can't be sent.
    """
    variant = tf.data.experimental.to_variant(self._dataset)
    try:
      graph = tf.raw_ops.DatasetToGraphV2(
        input_dataset=variant, external_state_policy=2, strip_device_assignment=True
      )
    except tf.errors.OpError as e:
      raise ValueError(
        "data set: it can't be sent to the workers, since it runs Python code (from_generator, "
        "py_function) or has a state; make it small enough for cache_bytes, so that its batches "
        f"are sent, or of TensorFlow operations only ({e.message})"
      ) from e
    return graph.numpy()

  def read(self, feed: tuple, signature: int, i: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Reads batch number i of a segment; for use inside a graph.

    Args:
      feed: the segment's values, `Segment.feed`.
      signature: number of the batches' entry in `signatures`, `Segment.signature`.
      i: number of the batch in the segment, a scalar integer tensor.

    Returns:
      (index of the batch in the data set, batch), the batch with static shapes.
    """
    first, position, _, source = feed
    i = tf.cast(i, tf.int64)
    if self.cached:
      begin = tf.reshape(position + i, [1])
      # As s[position + i], which would make these numbers for each s.
      one = functools.partial(
        tf.strided_slice, begin=begin, end=begin + 1, strides=[1], shrink_axis_mask=1
      )
      batch = tf.nest.map_structure(one, source)
    else:
      batch = next(source)
    return first + i, self.shaped(batch, signature)

  def shaped(self, batch: Any, signature: int) -> Any:
    """Returns a batch with the static shapes of its signature."""
    specs = self.signatures[signature]
    return tf.nest.map_structure(lambda t, s: tf.ensure_shape(t, s.shape), batch, specs)

  def stream(self, graph: tf.Tensor, low: tf.Tensor, count: tf.Tensor) -> Iterator:
    """Returns an iterator over batches of a `serialized` data set.

    Args:
      graph: the `serialized` data set.
      low: number of the first batch, a scalar integer tensor.
      count: number of batches, a scalar integer tensor.
    """
    variant = tf.raw_ops.DatasetFromGraph(graph_def=graph)
    dataset = tf.data.experimental.from_variant(variant, self._dataset.element_spec)
    return iter(dataset.skip(low).take(count))

  def checksum(self, low: int, high: int) -> np.int64:
    """Returns the sum of the checksums of streamed batches, int64.

    Args:
      low: number of the first batch.
      high: number of the last one plus 1.
    """
    return self._checksums[low:high].sum()

  def changed(self, b: tf.Tensor, batch: Any) -> tf.Tensor:
    """Returns whether a streamed batch has other values than at first.

    For use inside a graph.

    Args:
      b: number of the batch, a scalar integer tensor.
      batch: the batch.
    """
    with tf.device("CPU:0"):
      return checksums.checksum(batch)[0] != tf.gather(tf.constant(self._checksums), b)

  @staticmethod
  def add_checksum(total: tf.Tensor, batch: Any) -> tf.Tensor:
    """Adds a batch's checksum to an int64 scalar.

    For use inside a graph and outside.
    """
    return total + checksums.checksum(batch)[0]

  def __iter__(self) -> Iterator:
    """Yields the batches eagerly, in order.

    So the one that is at fault can be found.
    """
    if not self.cached:
      yield from self._dataset
      return
    for signature, i in zip(self._shapes, self._positions, strict=True):
      yield tf.nest.map_structure(lambda s, i=i: s[i], self.stacks[signature])

  def changes(self) -> str | None:
    """Reads the data set again and compares it with the first time.

    Returns:
      None if every batch is the same, else a sentence that names the cause and the remedy.
    """
    digests = [digest(tf.nest.flatten(batch)) for batch in self._dataset]
    if digests == self._digests:
      return None
    count = ""
    if len(digests) != len(self._digests):
      count = (
        f"the number of batches changes between passes over the data set: {len(self._digests)}, "
        f"then {len(digests)}; "
      )
    return count + pipeline.explain_changes(
      self._dataset, lambda: self._difference(digests), cut=self._cut
    )

  def _difference(self, digests):
    """Returns how a pass with such digests differs from the first.

    Reads the data again.
    """
    if digests == [digest(tf.nest.flatten(batch)) for batch in self._dataset]:
      return "once"
    first = self if self.cached else self._dataset  # the very first is gone
    return "order" if _examples(first) == _examples(self._dataset) else "examples"


def check_examples(batches: Batches, /) -> None:
  """Raises ValueError unless a batch's tensors have equally many examples."""
  for spec in batches.signatures:
    counts = {t.shape[0] if t.shape.rank else None for t in tf.nest.flatten(spec)}
    if len(counts) > 1:
      shapes = ", ".join(str(t.shape) for t in tf.nest.flatten(spec))
      raise ValueError(
        f"data set: expected batches whose tensors have one row an example, got shapes {shapes}; "
        "if it yields single examples, add .batch(128)"
      )


def count_examples(tensors: Sequence[tf.Tensor], /) -> int:
  """Returns the number of examples of a batch.

  Args:
    tensors: list of the batch's tensors, of which the first counts.
  """
  return int(tensors[0].shape[0]) if tensors[0].shape.rank else 1


def _scalar(value):
  with tf.device("CPU:0"):
    return tf.constant(value, tf.int64)


def digest(tensors: Sequence[tf.Tensor], arrays: Sequence[np.ndarray] | None = None, /) -> bytes:
  """Returns a digest of the contents of a batch.

  Args:
    tensors: list of its tensors.
    arrays: the same as arrays; None to make them, if they are not there already.
  """
  result = hashlib.blake2b(digest_size=16)
  for t, array in zip(tensors, arrays or [np.asarray(t.numpy()) for t in tensors], strict=True):
    result.update(f"{t.dtype.name}{tuple(t.shape)}".encode())
    if t.dtype == tf.string:
      for item in np.ravel(array):
        result.update(b"%d:" % len(item) + item)
    else:
      result.update(np.ravel(array).view(np.uint8).data)
  return result.digest()


def _examples(dataset):
  """Returns how often each example occurs, by digest."""
  counts = collections.Counter()
  for batch in dataset:
    tensors = [t for t in tf.nest.flatten(batch) if t.shape.rank]
    for i in range(count_examples(tensors)):
      counts[digest([t[i] for t in tensors])] += 1
  return counts
