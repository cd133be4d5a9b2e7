"""A data set is a fixed sequence of batches, or it is refused with the cause."""

import numpy as np
import pytest
import tensorflow as tf

from tests.datasets import numbers
from tf_hessian.curvature.batches import check_examples
from tf_hessian.curvature.loading import load_batches

CACHES = pytest.mark.parametrize("cache_bytes", [2**30, 0], ids=["cached", "streamed"])


def read_in_graph(batches):
  """Returns [(number of the batch, first tensor)] as passes read them, sorted by number."""
  result = []

  @tf.function(autograph=False)
  def read(number, feed, i):
    return batches.read(feed, number, i)

  for segment in batches.segments():
    for i in range(int(segment.feed[2])):
      b, batch = read(segment.signature, segment.feed, tf.constant(i))
      result.append((int(b), tf.nest.flatten(batch)[0].numpy().tolist()))
  return result


SIZES = pytest.mark.parametrize(
  "sizes", [(3,), (2, 2), (2, 2, 1), (2, 1, 2), (1, 2, 2), (3, 1, 2, 1, 3)]
)


def expected_batches(sizes):
  ends = np.cumsum(sizes)
  return [
    (b, list(map(float, range(e - s, e)))) for b, (s, e) in enumerate(zip(sizes, ends, strict=True))
  ]


@CACHES
@SIZES
def test_every_batch_is_read_once_under_its_number(sizes, cache_bytes):
  batches = load_batches(numbers(*sizes), cache_bytes=cache_bytes)
  for _ in range(2):
    assert sorted(read_in_graph(batches)) == expected_batches(sizes)


@CACHES
@SIZES
def test_iteration_yields_the_batches_in_order(sizes, cache_bytes):
  batches = load_batches(numbers(*sizes), cache_bytes=cache_bytes)
  found = [(b, batch[0].numpy().tolist()) for b, batch in enumerate(batches)]
  assert found == expected_batches(sizes)


@CACHES
def test_a_list_of_batches_is_read_like_a_data_set(cache_bytes):
  data = [(np.float32([0, 1]), np.float32([0, 1])), (np.float32([2]), np.float32([4]))]
  batches = load_batches(data, cache_bytes=cache_bytes)
  assert sorted(read_in_graph(batches)) == expected_batches((2, 1))
  assert batches.changes() is None


@CACHES
def test_counts(cache_bytes):
  batches = load_batches(numbers(2, 2, 1), cache_bytes=cache_bytes)
  assert (batches.num_batches, batches.num_examples, len(batches.signatures)) == (3, 5, 2)


# Fingerprints.


def fingerprint(*arrays):
  return load_batches([np.asarray(a) for a in arrays]).fingerprint


def test_the_fingerprint_is_the_same_for_the_same_data():
  assert load_batches(numbers(2, 1)).fingerprint == load_batches(numbers(2, 1)).fingerprint


@CACHES
def test_the_fingerprint_does_not_depend_on_the_cache(cache_bytes):
  fingerprints = {
    load_batches(numbers(2, 1), cache_bytes=c).fingerprint for c in (2**30, cache_bytes)
  }
  assert len(fingerprints) == 1


@pytest.mark.parametrize(
  "other",
  [
    ([3.0, 4.0], [1.0, 2.0]),
    ([1.0, 2.0], [3.0, 5.0]),
    ([2.0, 1.0], [3.0, 4.0]),
    ([1.0, 2.0], [3.0, 4.0], [5.0, 6.0]),
    ([1.0, 2.0, 3.0], [4.0]),
    ([[1.0, 2.0]], [[3.0, 4.0]]),
    (np.float32([1, 2]), np.float32([3, 4])),
  ],
  ids=["order of batches", "content", "order of examples", "more", "cut", "shape", "dtype"],
)
def test_the_fingerprint_changes_with_order_content_cut_shape_and_dtype(other):
  assert fingerprint(*other) != fingerprint([1.0, 2.0], [3.0, 4.0])


def test_the_fingerprint_of_strings_knows_where_they_end():
  assert fingerprint([b"ab", b"c"]) != fingerprint([b"a", b"bc"])


# Changes.


@CACHES
def test_a_fixed_data_set_has_no_changes(cache_bytes):
  assert load_batches(numbers(2, 2, 1), cache_bytes=cache_bytes).changes() is None


def examples(count=20):
  return tf.data.Dataset.range(count)


def test_a_changing_count_is_named():
  passes = []

  def generate():
    passes.append(None)
    yield from range(4 + len(passes))

  data = tf.data.Dataset.from_generator(generate, output_signature=tf.TensorSpec((), tf.int64))
  sentence = load_batches(data.batch(1)).changes()
  assert sentence.startswith("the number of batches changes") and "5, then 6; " in sentence


def test_single_examples_are_refused_with_what_to_do():
  data = tf.data.Dataset.from_tensor_slices((np.ones((4, 3)), np.arange(4)))
  with pytest.raises(ValueError, match=r"one row an example.* add \.batch\(128\)"):
    check_examples(load_batches(data))


# What a plan asks.


@CACHES
def test_idle_batches_are_not_read(cache_bytes):
  batches = load_batches(numbers(2, 2, 1), cache_bytes=cache_bytes)
  batches.idle = True
  assert read_in_graph(batches) == []
  batches.idle = False
  assert sorted(read_in_graph(batches)) == expected_batches((2, 2, 1))


def test_sizes_count_the_entries_of_all_tensors():
  assert load_batches(numbers(3, 1, 2)).sizes.tolist() == [6, 2, 4]


@CACHES
@pytest.mark.parametrize(
  "sizes, count, low, high",
  [((2, 2, 1), 2, 0, 2), ((1, 3, 2), 2, 1, 3), ((1, 3, 2), 1, 1, 2), ((2, 2), 5, 0, 2)],
)
def test_largest_batches_are_those_in_a_row_with_the_most_data(
  sizes, count, low, high, cache_bytes
):
  batches = load_batches(numbers(*sizes), cache_bytes=cache_bytes)
  found = [first.numpy().tolist() for first, _ in batches.largest(count)]
  assert found == [values for _, values in expected_batches(sizes)[low:high]]
