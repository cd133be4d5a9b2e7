"""Batches are shuffled, augmented, and fixed by a seed and a step; streams likewise."""

import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.data import source

COUNT = 20


def noise(inputs, key):
  return inputs + tf.random.stateless_uniform(tf.shape(inputs), key)


def keys(inputs, key):
  """Augments so that each input is the key that it was given."""
  return tf.tile(key[None], [tf.shape(inputs)[0], 1])


def make(count=COUNT, *, augment=None, test=None):
  """Returns a `Source` whose example i is ((i, -i), i)."""
  numbers = np.arange(count)
  inputs = np.stack([numbers, -numbers], axis=1)
  if augment is not keys:
    inputs = inputs.astype(np.float32)
  return source.in_memory(inputs, numbers, test=test, augment=augment)


def read(dataset, count=-1):
  """Returns (inputs, targets) of the first elements, stacked."""
  return tuple(np.stack(a) for a in zip(*dataset.take(count).as_numpy_iterator(), strict=True))


def assert_same(found, expected):
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.fixture
def small_blocks(monkeypatch):
  """Makes examples eight at once, so that 20 are several blocks."""
  monkeypatch.setattr(source, "_BLOCK", 8)


# Arrays: examples.


@pytest.mark.usefixtures("small_blocks")
def test_examples_are_the_arrays_in_order():
  inputs, targets = read(make().examples)
  np.testing.assert_array_equal(inputs, np.stack([np.arange(20), -np.arange(20)], axis=1))
  np.testing.assert_array_equal(targets, np.arange(20))


@pytest.mark.parametrize("count", [1, 7, 1001])
def test_number_of_examples_is_known_without_reading(count):
  found = make(count, augment=noise)
  counts = found.num_examples, found.examples.cardinality(), found.augmented(0).cardinality()
  assert [int(c) for c in counts] == [count] * 3


def test_test_set_is_the_arrays_in_order():
  x, y = np.arange(6).reshape(3, 2), np.array([4, 5, 6])
  assert_same(read(make(test=(x, y)).test), (x, y))


def test_without_test_arrays_there_is_no_test_set():
  assert make().test is None


@pytest.mark.parametrize("part", ["examples", "test"])
def test_what_is_measured_on_is_not_augmented(part):
  test = np.arange(6.0, dtype=np.float32).reshape(3, 2), np.arange(3)
  augmented, plain = make(augment=noise, test=test), make(test=test)
  assert_same(read(getattr(augmented, part)), read(getattr(plain, part)))


@pytest.mark.parametrize("part", ["examples", "test", "batches", "augmented"])
def test_inputs_are_finished_after_augmentation(part):
  def inputs(finish):
    x = np.ones((3, 2), np.float32)
    found = source.in_memory(x, x, test=(x, x), augment=noise, finish=finish)
    parts = {"batches": lambda: found.batches(0, 0, 2), "augmented": lambda: found.augmented(0)}
    return read(parts.get(part, lambda: getattr(found, part))(), 2)[0]

  np.testing.assert_allclose(inputs(lambda x: x * x), inputs(lambda x: x) ** 2)


@pytest.mark.parametrize("part", ["examples", "test", "augmented"])
def test_examples_can_be_sent_to_other_processes(sent, part):
  found = make(augment=noise, test=(np.ones((3, 2), np.float32), np.arange(3)))
  dataset = found.augmented(0) if part == "augmented" else getattr(found, part)
  elements = sent(dataset)
  assert_same([np.stack(a) for a in zip(*elements, strict=True)], read(dataset))


# Arrays: batches.


@pytest.mark.parametrize("first", [1, 2, 7])
def test_batch_does_not_depend_on_the_step_that_training_began_with(first):
  found = make(augment=noise)
  expected = read(found.batches(3, 0, 7).skip(first), 5)
  assert_same(read(found.batches(3, first, 7), 5), expected)


@pytest.mark.parametrize("global_seed", [0, 1])
def test_batch_does_not_depend_on_tensorflows_seed(global_seed):
  found = make(augment=noise)
  expected = read(found.batches(3, 0, 7), 5)
  tf.random.set_seed(global_seed)
  assert_same(read(found.batches(3, 0, 7), 5), expected)


@pytest.mark.parametrize("size", [1, 7, 20])
def test_no_example_comes_twice_in_an_epoch(size):
  per_epoch = COUNT // size
  _, targets = read(make().batches(5, 0, size), 3 * per_epoch)
  for epoch in np.split(targets, 3):
    assert len(np.unique(epoch)) == per_epoch * size


def test_inputs_of_a_batch_belong_to_its_targets():
  inputs, targets = read(make().batches(0, 0, 7), 4)
  np.testing.assert_array_equal(inputs, np.stack([targets, -targets], axis=-1))


def test_other_examples_are_left_out_in_each_epoch():
  _, targets = read(make().batches(0, 0, 15), 20)
  left_out = [frozenset(range(COUNT)) - frozenset(epoch) for epoch in targets.tolist()]
  assert len(set(left_out)) > 15
  assert frozenset.union(*left_out) == frozenset(range(COUNT))


def test_epochs_have_different_orders():
  _, targets = read(make().batches(0, 0, COUNT), 300)
  assert len({tuple(epoch) for epoch in targets.tolist()}) == 300


def test_seeds_give_different_orders():
  found = make()
  orders = {tuple(read(found.batches(seed, 0, COUNT), 1)[1][0]) for seed in range(5)}
  assert len(orders) == 5


def test_batches_are_as_uneven_as_random_ones():
  # The mean of 125 of the numbers below 50,000 deviates by 50,000 / sqrt(12 * 125).
  _, targets = read(make(50_000).batches(0, 0, 125), 400)
  deviation = targets.mean(axis=1).std() / (50_000 / np.sqrt(12 * 125))
  assert abs(deviation - 1) < 4 / np.sqrt(2 * 400)


def test_every_example_may_come_first():
  _, targets = read(make(5).batches(0, 0, 5), 200)
  assert (np.bincount(targets[:, 0], minlength=5) > 20).all()


@pytest.mark.parametrize("global_seed", [None, 0])
@pytest.mark.parametrize("anew", [False, True], ids=["same data set", "new data set"])
def test_without_a_seed_workers_draw_different_batches(global_seed, anew):
  def worker():
    """What a worker does; its TensorFlow counts operations from the beginning."""
    if anew:
      tf.random.set_seed(global_seed)
    return make().batches(None, 0, 10)

  tf.random.set_seed(global_seed)
  dataset = worker()
  first, second = read(dataset, 4)[1], read(worker() if anew else dataset, 4)[1]
  assert not np.array_equal(first, second)


def test_without_a_seed_a_batch_has_different_examples():
  inputs, targets = read(make().batches(None, 0, 19), 5)
  assert all(len(set(batch)) == 19 for batch in targets.tolist())
  np.testing.assert_array_equal(inputs[..., 0], targets)


def test_without_a_seed_batches_differ():
  _, targets = read(make().batches(None, 0, 15), 300)
  assert len({tuple(batch) for batch in targets.tolist()}) == 300


@pytest.mark.parametrize("seed", [0, None])
def test_too_large_batches_are_refused(seed):
  with pytest.raises(ValueError, match="batch size: .* number of examples, 20, got 21"):
    make().batches(seed, 0, 21)


# Arrays: augmentation.


def test_every_step_augments_by_another_key():
  found, _ = read(make(augment=keys).batches(0, 0, 7), 30)
  assert len({tuple(batch[0]) for batch in found.tolist()}) == 30


@pytest.mark.parametrize("first", [0, 4])
def test_seed_and_step_fix_the_key(first):
  found, _ = read(make(augment=keys).batches(8, first, 7), 5)
  for step, batch in enumerate(found, first):
    np.testing.assert_array_equal(batch, np.tile(source.key(8, step), [7, 1]))


def test_seeds_augment_by_different_keys():
  found = make(augment=keys)
  assert len({tuple(read(found.batches(s, 0, 7), 1)[0][0, 0]) for s in range(5)}) == 5


def test_without_a_seed_steps_augment_by_different_keys():
  found, _ = read(make(augment=keys).batches(None, 0, 7), 10)
  assert len({tuple(batch[0]) for batch in found.tolist()}) == 10


@pytest.mark.usefixtures("small_blocks")
def test_augmented_examples_repeat():
  found = make(augment=noise)
  assert_same(read(found.augmented(3)), read(found.augmented(3)))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("size", [3, 20])
def test_augmented_examples_do_not_depend_on_how_they_are_batched(size):
  examples = make(augment=noise).augmented(3)
  batches = list(examples.batch(size).as_numpy_iterator())
  found = [np.concatenate(a) for a in zip(*batches, strict=True)]
  assert_same(found, read(examples))


@pytest.mark.usefixtures("small_blocks")
def test_first_augmented_examples_are_what_they_are_among_all():
  examples = make(augment=noise).augmented(3)
  assert_same(read(examples, 10), [a[:10] for a in read(examples)])


@pytest.mark.usefixtures("small_blocks")
def test_augmented_examples_are_the_examples_in_order():
  inputs, targets = read(make(augment=noise).augmented(3))
  np.testing.assert_array_equal(targets, np.arange(COUNT))
  np.testing.assert_array_equal(np.floor(inputs[:, 0]), np.arange(COUNT))


@pytest.mark.usefixtures("small_blocks")
def test_augmented_examples_are_changed_each_in_its_own_way():
  inputs, targets = read(make(augment=noise).augmented(3))
  assert len(np.unique(inputs[:, 0] - targets)) == COUNT


def test_seeds_augment_examples_differently():
  found = make(augment=noise)
  assert len({read(found.augmented(seed))[0].tobytes() for seed in range(3)}) == 3


def test_without_augmentation_there_are_no_augmented_examples():
  assert make().augmented is None


# Streams.


def stream(seed, first=0, count=10, buffer=10):
  return source.stream(lambda _: tf.data.Dataset.range(count), count, seed, first, buffer)


@pytest.mark.parametrize("buffer", [1, 4, 100])
@pytest.mark.parametrize("seed", [0, None])
def test_stream_has_every_example_once_an_epoch(seed, buffer):
  numbers, _ = read(stream(seed, buffer=buffer), 40)
  for epoch in np.split(numbers, 4):
    assert sorted(epoch) == list(range(10))


def test_stream_shuffles_each_epoch_differently():
  numbers, _ = read(stream(0), 200)
  assert len({tuple(epoch) for epoch in np.split(numbers, 20)}) == 20


def test_stream_depends_on_the_seed():
  assert len({tuple(read(stream(seed), 10)[0]) for seed in range(4)}) == 4


@pytest.mark.parametrize("first", [1, 9, 10, 25])
def test_stream_can_begin_at_any_example(first):
  expected = read(stream(4, buffer=5).skip(first), 25)
  assert_same(read(stream(4, first, buffer=5), 25), expected)


@pytest.mark.parametrize("global_seed", [0, 1])
def test_stream_does_not_depend_on_tensorflows_seed(global_seed):
  expected = read(stream(3), 25)
  tf.random.set_seed(global_seed)
  assert_same(read(stream(3), 25), expected)


def test_every_example_of_a_stream_has_its_own_key():
  _, found = read(stream(0), 100)
  assert len({tuple(key) for key in found.tolist()}) == 100


def test_streams_of_different_seeds_have_different_keys():
  found = {tuple(read(stream(seed), 1)[1][0]) for seed in range(4)}
  assert len(found) == 4


def test_epochs_of_a_stream_are_made_with_different_keys():
  def epoch(order):
    return tf.data.Dataset.from_tensors(order)

  def orders(first):
    return read(source.stream(epoch, 1, 0, first, 1), 20)[0].tolist()

  assert len({tuple(order) for order in orders(0)}) == 20
  assert orders(0)[7:] == orders(7)[:13]


@pytest.mark.parametrize("global_seed", [None, 0])
@pytest.mark.parametrize("anew", [False, True], ids=["same data set", "new data set"])
def test_without_a_seed_workers_have_different_streams(global_seed, anew):
  def worker():
    if anew:
      tf.random.set_seed(global_seed)
    return stream(None)

  tf.random.set_seed(global_seed)
  dataset = worker()
  first, second = read(dataset, 10), read(worker() if anew else dataset, 10)
  assert not np.array_equal(first[0], second[0])
  assert not np.array_equal(first[1], second[1])


def test_without_a_seed_examples_of_a_stream_have_their_own_keys():
  _, found = read(stream(None), 50)
  assert len({tuple(key) for key in found.tolist()}) == 50
