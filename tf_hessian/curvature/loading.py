"""Reading a data set once, into `Batches`.

Its batches are checked, counted, fingerprinted, and kept or dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import time
from typing import Any

import numpy as np
import tensorflow as tf

from tf_hessian import keras_inputs
from tf_hessian.curvature import batches, failures
from tf_hessian.distribute import checksums
from tf_hessian.numerics import checks
from tf_hessian.reading import Reading


def load_batches(
  dataset: Any,
  /,
  *,
  num_batches: int | None = None,
  cache_bytes: float = 2**30,
  clock: Callable[[], float] = time.monotonic,
) -> batches.Batches:
  """Reads a data set once and returns it as `Batches`.

  Logs how far that is, if it takes long.

  Args:
    dataset: `tf.data.Dataset` of batches, or a list of batches; a batch is any nest of dense
      tensors whose first dimension counts examples. Or what `keras_inputs.as_batches` takes.
    num_batches: use only the first so many; None for all, which an infinite data set can't have.
    cache_bytes: size in bytes up to which data are kept in memory, by default 1 GiB; a list always
      is.
    clock: function () -> seconds, by which is told what takes long; by default one that is never
      set back.

  Raises:
    TypeError: for another kind of data set, or tensors that are not dense.
    ValueError: for an empty or infinite data set, fewer than `num_batches` batches, an empty batch,
      or batches of different structure or dtype.
    NonFiniteError: for NaN or infinity in a tensor, by the name that it has in its batch.
  """
  if num_batches is not None:
    checks.check_count("num_batches", num_batches)
  dataset = keras_inputs.as_batches(dataset)
  if isinstance(dataset, list):
    cache_bytes = float("inf")  # it is in memory already
  cut = _is_cut(dataset, num_batches)
  dataset = _prepare(dataset, num_batches)
  digests, shapes, sums, negative, weighs = [], [], [], [], False
  signatures: dict[Any, tuple] = {}
  cache: list[Any] | None = []
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
    digests.append(batches.digest(tensors, arrays))
    _check_finite(b, batch, tensors, arrays)
    weights = _sample_weights(batch, arrays)
    negative.extend([b] * any((w < 0).any() for w in weights))
    weighs = weighs or any((w != 1).any() for w in weights)
    key = tuple(tuple(t.shape) for t in tensors)
    spec = tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), batch)
    shapes.append(signatures.setdefault(key, (len(signatures), spec))[0])
    reading.add(batches.count_examples(tensors), sum(_nbytes(t) for t in tensors), batches=1)
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
  about = reading.examples, cache, reading.seconds, cut, sums, next(iter(negative), None), weighs
  return batches.Batches(dataset, digests, shapes, specs, *about)


def _num_batches(dataset):
  """Returns the number of batches; None if it is not known."""
  count = len(dataset) if isinstance(dataset, list) else int(dataset.cardinality())
  return None if count < 0 else count


def _checksum(batch):
  return checksums.checksum(batch)[0].numpy()


def _prepare(dataset, num_batches):
  """Returns a deterministic, finite data set, or the list that it was."""
  if isinstance(dataset, list):
    return [
      tf.nest.map_structure(_tensor, keras_inputs.without_none(b)) for b in dataset[:num_batches]
    ]
  if not isinstance(dataset, tf.data.Dataset):
    raise TypeError(
      "data set: expected a tf.data.Dataset of batches, a list of batches, a tuple (inputs, "
      f"targets) of arrays or a keras.utils.PyDataset, got {type(dataset).__name__}"
    )
  if _is_cut(dataset, num_batches):
    dataset = dataset.take(min(num_batches, 2**62))
  if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
    raise ValueError("data set: it is infinite; say how much of it to use with num_batches")
  options = tf.data.Options()
  options.deterministic = True
  return dataset.with_options(options)


def _is_cut(dataset, num_batches):
  """Returns whether num_batches leaves batches of a data set out.

  As far as is known; True if it is not, and False for a list.
  """
  known = num_batches is not None and isinstance(dataset, tf.data.Dataset)
  return known and int(dataset.cardinality()) != num_batches


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
  if not tensors or batches.count_examples(tensors) == 0:
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
  """Raises NonFiniteError for NaN or infinity in a batch.

  It names the first tensor that has them.
  """
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


def _sample_weights(batch, arrays):
  """Returns the sample weights of a batch: arrays."""
  if not _is_keras_like(batch) or len(batch) < 3:
    return []
  weights = arrays[len(arrays) - len(tf.nest.flatten(batch[2])) :]
  return [a for a in weights if a.dtype.kind in "iufV"]  # "V": bfloat16


# The bits that are all set in NaN and infinity. NumPy's functions of such types are slow.
_EXPONENT_BITS = {"float16": np.uint16(0x7C00), "bfloat16": np.uint16(0x7F80)}


def _all_finite(array):
  """Returns whether there is no NaN or infinity.

  That costs 2% to 8% of a digest.
  """
  bits = _EXPONENT_BITS.get(array.dtype.name)
  if bits is not None:
    return (array.view(np.uint16) & bits).max(initial=0) != bits
  with np.errstate(over="ignore", invalid="ignore"):
    # Whatever is not finite stays so in a sum, but a sum may overflow.
    return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


def _tensor_names(batch):
  """Yields the user's name for each tensor of a batch.

  They come in the order of `tf.nest.flatten`.
  """
  if not _is_keras_like(batch):
    yield from _paths("batch", batch)
    return
  for name, part in zip(("inputs", "targets", "sample_weight"), batch, strict=False):
    yield from _paths(name, part)


def _is_keras_like(batch):
  return isinstance(batch, tuple) and 2 <= len(batch) <= 3 and not hasattr(batch, "_fields")


def _paths(path, nest):
  if isinstance(nest, Mapping):
    for key in sorted(nest):
      yield from _paths(f"{path}[{key!r}]", nest[key])
  elif isinstance(nest, (list, tuple)):
    fields = [f".{name}" for name in getattr(nest, "_fields", ())]
    for field, part in zip(fields or [f"[{i}]" for i in range(len(nest))], nest, strict=True):
      yield from _paths(path + field, part)
  else:
    yield path


def _nbytes(tensor):
  if tensor.dtype == tf.string:
    return sum(map(len, np.ravel(tensor.numpy())))
  return tensor.dtype.size * tensor.shape.num_elements()
