"""A data set is read once and kept, or it is refused with the cause."""

import collections
import logging

import numpy as np
import pytest
import tensorflow as tf

from tests.datasets import numbers
from tf_hessian.curvature.failures import NonFiniteError
from tf_hessian.curvature.loading import load_batches

CACHES = pytest.mark.parametrize("cache_bytes", [2**30, 0], ids=["cached", "streamed"])


def examples(count=20):
  return tf.data.Dataset.range(count)


def test_data_larger_than_the_cache_is_streamed():
  assert load_batches(numbers(2, 2), cache_bytes=32).cached
  assert not load_batches(numbers(2, 2), cache_bytes=31).cached


def test_num_batches_takes_the_first_of_an_infinite_data_set():
  batches = load_batches(numbers(2, 2, 1).repeat(), num_batches=4)
  assert [b[0].shape[0] for b in batches] == [2, 2, 1, 2]


def test_num_batches_takes_the_first_of_a_list():
  assert load_batches([np.ones(2), np.ones(1), np.ones(3)], num_batches=2).num_examples == 3


# Errors.


@pytest.mark.parametrize("data", [[], examples(0).batch(2)], ids=["list", "data set"])
def test_an_empty_data_set_is_refused(data):
  with pytest.raises(ValueError, match="^data set: it is empty; expected at least one batch"):
    load_batches(data)


@pytest.mark.parametrize(
  "data",
  [[np.ones(2), np.ones(0)], [()], [(np.ones(0), np.ones(0))]],
  ids=["second", "no tensors", "pair"],
)
def test_an_empty_batch_is_refused(data):
  with pytest.raises(ValueError, match=rf"^data set: batch {len(data) - 1} has no examples"):
    load_batches(data)


def test_an_infinite_data_set_is_refused_without_num_batches():
  with pytest.raises(
    ValueError, match="it is infinite; say how much of it to use with num_batches"
  ):
    load_batches(examples().batch(4).repeat())


@pytest.mark.parametrize("data", [numbers(2, 2, 1), [np.ones(2)] * 3], ids=["data set", "list"])
def test_fewer_batches_than_asked_for_are_refused(data):
  with pytest.raises(ValueError, match="expected num_batches = 4, it has 3"):
    load_batches(data, num_batches=4)


@pytest.mark.parametrize("value, error", [(0, ValueError), (-1, ValueError), (2.0, TypeError)])
def test_num_batches_must_be_a_count(value, error):
  with pytest.raises(error, match="num_batches: expected an integer of at least 1"):
    load_batches(numbers(2), num_batches=value)


@pytest.mark.parametrize(
  "data",
  [np.ones((4, 2)), None, tf.ones(3)],
  ids=lambda d: type(d).__name__,
)
def test_what_is_no_data_set_is_refused_with_what_can_be(data):
  with pytest.raises(TypeError, match="expected a tf.data.Dataset .*PyDataset, got"):
    load_batches(data)


def test_a_generator_is_refused():
  with pytest.raises(TypeError, match="got generator"):
    load_batches(np.ones(2) for _ in range(3))


SPARSE = tf.sparse.from_dense([[1.0, 0.0]])
RAGGED = tf.ragged.constant([[1.0], [2.0, 3.0]])


@pytest.mark.parametrize("tensor", [SPARSE, RAGGED], ids=["sparse", "ragged"])
@pytest.mark.parametrize("kind", ["data set", "list"])
def test_tensors_that_are_not_dense_are_refused(tensor, kind):
  data = [tensor] if kind == "list" else tf.data.Dataset.from_tensors(tensor)
  with pytest.raises(TypeError, match="batch 0: expected dense tensors, got (Sparse|Ragged)Tensor"):
    load_batches(data)


@pytest.mark.parametrize(
  "other",
  [{"a": np.ones(2), "c": np.ones(2)}, {"a": np.ones(2)}, (np.ones(2), np.ones(2))],
  ids=["other key", "missing key", "tuple"],
)
def test_a_batch_of_another_structure_is_refused(other):
  data = [{"a": np.ones(2), "b": np.ones(2)}] * 2 + [other]
  with pytest.raises(ValueError, match="batch 2 has another structure than batch 0"):
    load_batches(data)


def test_a_batch_of_another_dtype_is_refused():
  with pytest.raises(ValueError, match="batch 1 has other dtypes than batch 0: .*float32.*float64"):
    load_batches([np.ones(2), np.ones(2, np.float32)])


@CACHES
def test_bfloat16_batches_have_a_fingerprint(cache_bytes):
  data = tf.data.Dataset.from_tensors(tf.ones((2, 3), tf.bfloat16))
  other = tf.data.Dataset.from_tensors(tf.zeros((2, 3), tf.bfloat16))
  first, second = (load_batches(d, cache_bytes=cache_bytes).fingerprint for d in (data, other))
  assert first != second


def test_scalars_of_a_batch_are_kept():
  batches = load_batches([{"t": np.float32(2), "x": np.ones(3, np.float32)}])
  assert next(iter(batches))["t"].numpy() == 2


def test_sample_weights_that_are_none_are_left_out():
  (batch,) = load_batches([(np.ones((2, 1)), np.ones(2), None)])
  assert len(batch) == 2


def test_reading_takes_time():
  assert load_batches(numbers(2)).seconds > 0


# NaN and infinity.

Pair = collections.namedtuple("Pair", ["left", "right"])
OK = np.ones((2, 3), np.float32)


def spoiled(value=np.nan, dtype=np.float32, *, at=((1, 2),)):
  array = np.ones((2, 3), dtype)
  for index in at:
    array[index] = value
  return array


NAMES = {
  "inputs": (spoiled(), OK),
  "targets": (OK, spoiled()),
  "sample_weight": (OK, OK, spoiled()),
  "inputs['image']": ({"image": spoiled(), "a": OK}, OK),
  "inputs[1]": ((OK, spoiled()), OK),
  "targets['out']['z']": (OK, {"out": {"z": spoiled(), "a": OK}, "b": OK}),
  "sample_weight['out']": (OK, {"out": OK}, {"out": spoiled()}),
  "batch": spoiled(),
  "batch['w']": {"w": spoiled(), "x": OK},
  "batch[1]": [OK, spoiled()],
  "batch[3]": (OK, OK, OK, spoiled()),
  "batch[0]": (spoiled(),),
  "batch.right['k'][1]": Pair(OK, {"k": (OK, spoiled())}),
}


@pytest.mark.parametrize("name, batch", NAMES.items(), ids=NAMES)
def test_nan_is_named_by_its_tensor_and_batch(name, batch):
  good = tf.nest.map_structure(np.ones_like, batch)
  with pytest.raises(NonFiniteError) as error:
    load_batches([good, batch])
  expected = f"data set: batch 1: {name} has NaN or infinity in 1 of its 6 entries, the first at "
  assert str(error.value).startswith(expected + "index [1, 2]; replace them, as by a map()")


@CACHES
@pytest.mark.parametrize("name", ["inputs['image']", "targets", "batch['w']"])
def test_nan_of_a_data_set_is_named_like_that_of_a_list(name, cache_bytes):
  data = tf.data.Dataset.from_tensors(NAMES[name])
  with pytest.raises(NonFiniteError) as error:
    load_batches(data, cache_bytes=cache_bytes)
  assert f"batch 0: {name} has NaN" in str(error.value)


FLOATS = pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])


@FLOATS
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_each_kind_of_value_that_is_not_finite_is_found(value, dtype):
  with pytest.raises(NonFiniteError, match=r"in 1 of its 6 entries, the first at index \[0, 1\]"):
    load_batches([spoiled(value, tf.as_dtype(dtype).as_numpy_dtype, at=[(0, 1)])])


@FLOATS
def test_infinities_that_cancel_are_found(dtype):
  array = spoiled(np.inf, tf.as_dtype(dtype).as_numpy_dtype, at=[(0, 2), (1, 0)])
  array[1, 1] = -np.inf
  with pytest.raises(NonFiniteError, match=r"in 3 of its 6 entries, the first at index \[0, 2\]"):
    load_batches([array])


@FLOATS
def test_numbers_whose_sum_overflows_are_finite(dtype):
  dtype = tf.as_dtype(dtype)
  for sign in (1, -1):
    assert load_batches([np.full((2, 3), sign * dtype.max, dtype.as_numpy_dtype)]).num_batches == 1


def test_nan_of_complex_numbers_and_of_scalars_is_found():
  with pytest.raises(NonFiniteError, match="batch 0: batch has NaN"):
    load_batches([np.array([1, complex(0, np.inf)])])
  with pytest.raises(
    NonFiniteError, match=r"batch\['t'\] has NaN or infinity in 1 of its 1 entries;"
  ):
    load_batches([{"t": np.float32(np.nan), "x": OK}])


def test_integers_strings_and_tensors_without_entries_are_finite():
  batch = {
    "i": np.array([-1, 2]),
    "s": np.array([b"nan", b"inf"]),
    "e": np.ones((2, 0), np.float16),
  }
  assert load_batches([batch]).num_examples == 2


# How far the first reading is.


class Clock:
  """A clock that has gone on by some seconds each time it is asked."""

  def __init__(self, step):
    self.now, self._step = 0.0, step

  def __call__(self):
    self.now += self._step
    return self.now


def test_reading_of_unknown_length_is_logged_with_the_remedy(caplog):
  spec = tf.TensorSpec((None, 1), tf.float32)
  dataset = tf.data.Dataset.from_generator(
    lambda: (np.full((4, 1), i, np.float32) for i in range(100)), output_signature=spec
  )
  with caplog.at_level(logging.INFO, logger="absl"):
    assert load_batches(dataset, clock=Clock(1.0)).num_examples == 400
  lines = [r.getMessage() for r in caplog.records]
  assert 3 <= len(lines) <= 6  # at intervals that double
  assert all("batches, " in x and "interrupt (Ctrl-C) and give num_batches=" in x for x in lines)


@pytest.mark.parametrize("kind", [list, lambda x: x])
def test_reading_of_known_length_is_logged_with_its_end(caplog, kind):
  dataset = kind(tf.data.Dataset.range(100).batch(2))
  with caplog.at_level(logging.INFO, logger="absl"):
    load_batches(dataset, clock=Clock(1.0))
  assert caplog.records and all(r.getMessage().endswith(" of 50") for r in caplog.records)


def test_short_reading_is_not_logged(caplog):
  with caplog.at_level(logging.INFO, logger="absl"):
    load_batches(numbers(*[2] * 50))
  assert not caplog.records


def test_more_batches_than_an_int64_can_count_are_refused():
  with pytest.raises(ValueError, match=f"expected num_batches = {10**20}, it has 3"):
    load_batches(tf.data.Dataset.range(6).batch(2), num_batches=10**20)
