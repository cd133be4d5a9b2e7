"""A data set as a fixed sequence of batches, read from inside a graph.

H is defined by its batches: batch b has fixed examples, however often and wherever it is read. The
data set is read once at the start, to count and to fingerprint it. A small one is then kept in
memory, stacked by shape, so that a pass has no input pipeline at all; a large one is streamed.
"""

import collections
import collections.abc
import dataclasses
import hashlib
import itertools
import time

import numpy as np
import tensorflow as tf

from tf_hessian.curvature import failures, pipeline
from tf_hessian.distribute import checksums
from tf_hessian.numerics import checks
from tf_hessian.reading import Reading


@dataclasses.dataclass(frozen=True)
class Segment:
  """A run of batches of one shape, to be read in one graph loop.

  Attributes:
    signature: number of the batches' entry in `Batches.signatures`.
    feed: what the graph function is called with: (number of the first batch in the data set, its
      position in the stack, number of batches, stacked batches or iterator). Only its values differ
      between segments of one signature, so nothing is traced anew.
  """

  signature: int
  feed: tuple


class Batches:
  """The batches of a data set in fixed order; made by `load_batches`.

  Attributes:
    num_batches: number of batches.
    num_examples: sum of their leading dimensions.
    signatures: tuple of batch signatures (nested `tf.TensorSpec`), one for each different shape.
    fingerprint: hex digest of the contents of all batches in order.
    cached: whether the batches are kept in memory.
    stacks: if so, the stacked batches of each signature, else None.
    seconds: what reading them for the first time took.
    idle: if set, passes read none of them, which shows what a pass costs beside its batches.
  """

  def __init__(
    self,
    dataset,
    digests,
    shapes,
    specs,
    num_examples,
    cache,
    seconds=0.0,
    cut=False,
    checksums=(),
  ):
    self._dataset = dataset
    self._checksums = np.array(checksums, np.int64)  # of the batches that passes stream
    self._digests = digests
    self._cut = cut  # by num_batches, which may leave examples out
    self._shapes = shapes  # signature number of each batch
    self.signatures = specs
    self.num_batches = len(digests)
    self.num_examples = num_examples
    self.fingerprint = hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()
    self.cached = cache is not None
    self.stacks = None if cache is None else self._stack(cache)
    self._positions = self._count_positions()
    self._places = {}  # by bounds: a pass of a cached data set makes no tensor
    self._none = _scalar(0)
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

  def table(self, low, high):
    """Returns (batch, signature, position in its stack) of batches low to high - 1: int64 rows."""
    chosen = range(low, high)
    rows = [(b, self._shapes[b], self._positions[b]) for b in chosen]
    return np.array(rows, np.int64).reshape(-1, 3)

  def segments(self, low=0, high=None):
    """Returns the `Segment`s of batches low to high - 1, by default all, in order."""
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
  def sizes(self):
    """Number of entries of all tensors of each batch: (num_batches,) int64."""
    entries = [sum(s.shape.num_elements() for s in tf.nest.flatten(g)) for g in self.signatures]
    return np.array(entries)[self._shapes]

  def largest(self, count):
    """Returns those `count` batches in a row that have the most data, the first such: a list."""
    count = min(count, self.num_batches)
    totals = np.convolve(self.sizes, np.ones(count, np.int64), mode="valid")
    low = int(np.argmax(totals))
    if self.cached:
      return list(itertools.islice(self, low, low + count))
    return list(self._range(low, low + count))

  def serialized(self):
    """Returns the data set as a graph that other processes can run: bytes.

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

  def read(self, feed, signature, i):
    """Reads batch number i of a segment; for use inside a graph.

    Args:
      feed: `Segment.feed`.
      signature: `Segment.signature`.
      i: scalar integer tensor.

    Returns:
      (index of the batch in the data set, batch), the batch with static shapes.
    """
    first, position, _, source = feed
    i = tf.cast(i, tf.int64)
    if self.cached:
      batch = tf.nest.map_structure(lambda s: s[position + i], source)
    else:
      batch = next(source)
    return first + i, self.shaped(batch, signature)

  def shaped(self, batch, signature):
    """Returns a batch with the static shapes of its signature."""
    specs = self.signatures[signature]
    return tf.nest.map_structure(lambda t, s: tf.ensure_shape(t, s.shape), batch, specs)

  def stream(self, graph, low, count):
    """Returns an iterator over `count` batches from batch `low` on, of a `serialized` data set."""
    variant = tf.raw_ops.DatasetFromGraph(graph_def=graph)
    dataset = tf.data.experimental.from_variant(variant, self._dataset.element_spec)
    return iter(dataset.skip(low).take(count))

  def checksum(self, low, high):
    """Returns the sum of the checksums of batches low to high - 1 of streamed data: int64."""
    return self._checksums[low:high].sum()

  def changed(self, b, batch):
    """Returns whether streamed batch number b has other values than at first; in a graph."""
    with tf.device("CPU:0"):
      return checksums.checksum(batch)[0] != tf.gather(tf.constant(self._checksums), b)

  @staticmethod
  def add_checksum(total, batch):
    """Adds a batch's checksum to an int64 scalar; for use inside a graph and outside."""
    return total + checksums.checksum(batch)[0]

  def __iter__(self):
    """Yields the batches eagerly, in order; for looking for the one that is at fault."""
    if not self.cached:
      yield from self._dataset
      return
    for signature, i in zip(self._shapes, self._positions, strict=True):
      yield tf.nest.map_structure(lambda s, i=i: s[i], self.stacks[signature])

  def changes(self):
    """Reads the data set again and says how it differs from the first time.

    Returns:
      None if every batch is the same, else a sentence that names the cause and the remedy.
    """
    digests = [_digest(tf.nest.flatten(batch)) for batch in self._dataset]
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
    """Returns how a pass with such digests differs from the first; reads the data again."""
    if digests == [_digest(tf.nest.flatten(batch)) for batch in self._dataset]:
      return "once"
    first = self if self.cached else self._dataset  # the very first is gone
    return "order" if _examples(first) == _examples(self._dataset) else "examples"


def load_batches(dataset, /, *, num_batches=None, cache_bytes=2**30, clock=time.monotonic):
  """Reads a data set once and returns it as `Batches`; logs how far that is, if it takes long.

  Args:
    dataset: `tf.data.Dataset` of batches, or a list of batches; a batch is any nest of dense
      tensors whose first dimension counts examples.
    num_batches: use only the first so many; required for an infinite data set.
    cache_bytes: data up to this size is kept in memory; a list always is.
    clock: function () -> seconds, by which is told what takes long.

  Raises:
    TypeError: for another kind of data set, or tensors that are not dense.
    ValueError: for an empty or infinite data set, fewer than `num_batches` batches, an empty batch,
      or batches of different structure or dtype.
    NonFiniteError: for NaN or infinity in a tensor, by the name that it has in its batch.
  """
  if num_batches is not None:
    checks.check_count("num_batches", num_batches)
  if isinstance(dataset, list):
    cache_bytes = float("inf")  # it is in memory already
  cut = _is_cut(dataset, num_batches)
  dataset = _prepare(dataset, num_batches)
  digests, shapes, signatures, sums = [], [], {}, []
  cache = []
  structure = None
  reading = Reading(
    "num_batches=, or in a config config.hessian.num_examples",
    total=_num_batches(dataset),
    clock=clock,
  )
  for b, batch in enumerate(dataset):
    tensors = _check_batch(b, batch)
    this = [t.dtype for t in tensors]
    if structure is None:
      structure, dtypes = batch, this
    _check_same_structure(b, structure, dtypes, batch, this)
    arrays = [np.asarray(t.numpy()) for t in tensors]
    digests.append(_digest(tensors, arrays))
    _check_finite(b, batch, tensors, arrays)
    key = tuple(tuple(t.shape) for t in tensors)
    spec = tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), batch)
    shapes.append(signatures.setdefault(key, (len(signatures), spec))[0])
    reading.add(_count(tensors), sum(_nbytes(t) for t in tensors), batches=1)
    if cache is not None and reading.bytes > cache_bytes:
      sums = [_checksum(earlier) for earlier in cache]
      cache = None
    if cache is None:
      sums.append(_checksum(batch))
    else:
      cache.append(batch)
  if not digests:
    raise ValueError("data set: it is empty; expected at least one batch")
  if num_batches is not None and len(digests) < num_batches:
    raise ValueError(f"data set: expected num_batches = {num_batches}, it has {len(digests)}")
  specs = tuple(spec for _, spec in signatures.values())
  return Batches(
    dataset, digests, shapes, specs, reading.examples, cache, reading.seconds, cut, sums
  )


def _num_batches(dataset):
  """Returns the number of batches; None if it is not known."""
  count = len(dataset) if isinstance(dataset, list) else int(dataset.cardinality())
  return None if count < 0 else count


def _checksum(batch):
  return checksums.checksum(batch)[0].numpy()


def check_examples(batches, /):
  """Raises ValueError unless all tensors of a batch have the same number of examples."""
  for spec in batches.signatures:
    counts = {t.shape[0] if t.shape.rank else None for t in tf.nest.flatten(spec)}
    if len(counts) > 1:
      shapes = ", ".join(str(t.shape) for t in tf.nest.flatten(spec))
      raise ValueError(
        f"data set: expected batches whose tensors have one row an example, got shapes {shapes}; "
        "if it yields single examples, add .batch(128)"
      )


def _prepare(dataset, num_batches):
  """Returns a deterministic, finite data set, or the list that it was."""
  if isinstance(dataset, list):
    return [tf.nest.map_structure(_tensor, _without_none(b)) for b in dataset[:num_batches]]
  if not isinstance(dataset, tf.data.Dataset):
    raise TypeError(
      "data set: expected a tf.data.Dataset of batches, or a list of batches, got "
      f"{type(dataset).__name__}; tf.data.Dataset.from_tensor_slices((inputs, targets)).batch(128) "
      "makes one from arrays"
    )
  if _is_cut(dataset, num_batches):
    dataset = dataset.take(min(num_batches, 2**62))
  if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
    raise ValueError("data set: it is infinite; say how much of it to use with num_batches")
  options = tf.data.Options()
  options.deterministic = True
  return dataset.with_options(options)


def _is_cut(dataset, num_batches):
  """Returns whether num_batches leaves batches of a `tf.data.Dataset` out, as far as is known."""
  if num_batches is None or not isinstance(dataset, tf.data.Dataset):
    return False
  return int(dataset.cardinality()) != num_batches


def _without_none(batch):
  """Leaves out sample weights that are None, as Keras allows."""
  while isinstance(batch, tuple) and batch and batch[-1] is None:
    batch = batch[:-1]
  return batch


def _tensor(value):
  composite = isinstance(value, (tf.SparseTensor, tf.RaggedTensor))  # refused later, by batch
  return value if composite else tf.convert_to_tensor(value)


def _check_batch(b, batch):
  tensors = tf.nest.flatten(batch)
  for t in tensors:
    if not isinstance(t, tf.Tensor):
      raise TypeError(
        f"data set: batch {b}: expected dense tensors, got {type(t).__name__}; convert with "
        "to_tensor() or tf.sparse.to_dense() in a map()"
      )
  if not tensors or _count(tensors) == 0:
    raise ValueError(f"data set: batch {b} has no examples")
  return tensors


def _check_same_structure(b, structure, dtypes, batch, this):
  try:
    tf.nest.assert_same_structure(structure, batch)
  except (TypeError, ValueError) as e:
    raise ValueError(f"data set: batch {b} has another structure than batch 0: {e}") from e
  if dtypes != this:
    raise ValueError(f"data set: batch {b} has other dtypes than batch 0: {this}, {dtypes}")


def _check_finite(b, batch, tensors, arrays):
  """Raises NonFiniteError for the first tensor of a batch that has NaN or infinity."""
  for i, (t, array) in enumerate(zip(tensors, arrays, strict=True)):
    if not (t.dtype.is_floating or t.dtype.is_complex) or _all_finite(array):
      continue
    bad = ~np.isfinite(array)
    first = np.argwhere(bad)[0]
    names = list(_tensor_names(batch))
    name = names[i] if len(names) == len(tensors) else f"tensor {i}"
    place = f", the first at index {first.tolist()}" if first.size else ""
    raise failures.NonFiniteError(
      f"data set: batch {b}: {name} has NaN or infinity in {np.count_nonzero(bad)} of its "
      f"{bad.size} entries{place}; replace them, as by a map() with "
      "tf.where(tf.math.is_finite(x), x, 0), and where their examples are not to count, leave "
      "those out by a filter(), or give them the sample weight 0 too (alone it does not help: 0 "
      "times NaN is NaN)"
    )


# The bits that are all set in NaN and infinity. NumPy's functions of such types are slow.
_EXPONENT_BITS = {"float16": np.uint16(0x7C00), "bfloat16": np.uint16(0x7F80)}


def _all_finite(array):
  """Returns whether there is no NaN or infinity; costs 2% to 8% of a digest."""
  bits = _EXPONENT_BITS.get(array.dtype.name)
  if bits is not None:
    return (array.view(np.uint16) & bits).max(initial=0) != bits
  with np.errstate(over="ignore", invalid="ignore"):
    # Whatever is not finite stays so in a sum, but a sum may overflow.
    return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


def _tensor_names(batch):
  """Yields what the user calls each tensor of a batch, in the order of `tf.nest.flatten`."""
  keras_like = isinstance(batch, tuple) and 2 <= len(batch) <= 3 and not hasattr(batch, "_fields")
  if not keras_like:
    yield from _paths("batch", batch)
    return
  for name, part in zip(("inputs", "targets", "sample_weight"), batch, strict=False):
    yield from _paths(name, part)


def _paths(path, nest):
  if isinstance(nest, collections.abc.Mapping):
    for key in sorted(nest):
      yield from _paths(f"{path}[{key!r}]", nest[key])
  elif isinstance(nest, (list, tuple)):
    fields = [f".{name}" for name in getattr(nest, "_fields", ())]
    for field, part in zip(fields or [f"[{i}]" for i in range(len(nest))], nest, strict=True):
      yield from _paths(path + field, part)
  else:
    yield path


def _count(tensors):
  return int(tensors[0].shape[0]) if tensors[0].shape.rank else 1


def _nbytes(tensor):
  if tensor.dtype == tf.string:
    return sum(map(len, np.ravel(tensor.numpy())))
  return tensor.dtype.size * tensor.shape.num_elements()


def _scalar(value):
  with tf.device("CPU:0"):
    return tf.constant(value, tf.int64)


def _digest(tensors, arrays=None):
  digest = hashlib.blake2b(digest_size=16)
  for t, array in zip(tensors, arrays or [np.asarray(t.numpy()) for t in tensors], strict=True):
    digest.update(f"{t.dtype.name}{tuple(t.shape)}".encode())
    if t.dtype == tf.string:
      for item in np.ravel(array):
        digest.update(b"%d:" % len(item) + item)
    else:
      digest.update(np.ravel(array).view(np.uint8))
  return digest.digest()


def _examples(dataset):
  """Returns how often each example occurs, by digest."""
  counts = collections.Counter()
  for batch in dataset:
    tensors = [t for t in tf.nest.flatten(batch) if t.shape.rank]
    for i in range(_count(tensors)):
      counts[_digest([t[i] for t in tensors])] += 1
  return counts
