"""What makes the passes over a data set differ is found in its pipeline, and named."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.curvature import pipeline
from tf_hessian.curvature.loading import load_batches

N = 24
CACHES = pytest.mark.parametrize("cache_bytes", [2**30, 1], ids=["cached", "streamed"])
ORDER = "the order of the examples changes"
EXAMPLES = "the examples themselves change"
OTHERS = "each pass over the data set has other examples, since {} comes after {}: "
FIX_SHUFFLE = "reshuffle_each_iteration=False and a seed"
FILES = "list_files() has one, unless it gets shuffle=False"
FIX_NUMBERS = "tf.random.stateless_"


def numbers(low=0, high=N):
  return tf.data.Dataset.range(low, high).map(lambda i: tf.cast(i, tf.float32))


def shuffled(low=0, high=N):
  return numbers(low, high).shuffle(N, seed=1)


def fixed(low=0, high=N):
  return numbers(low, high).shuffle(N, seed=1, reshuffle_each_iteration=False)


def noisy(data, **how):
  return data.map(lambda x: x + tf.random.normal([]), **how)


def with_generator(data):
  generator = tf.random.Generator.from_seed(1)
  return data.map(lambda x: x + generator.normal([]))


def with_seed_generator(data):
  layer = keras.layers.GaussianNoise(1.0, seed=1)
  return data.map(lambda x: layer(x, training=True))


def with_python(data, function):
  rng = np.random.default_rng(0)  # its state goes on from pass to pass

  def noise(x):
    return np.float32(x + rng.standard_normal())

  def add(x):
    return tf.ensure_shape(function(noise, [x], tf.float32), ())

  return data.map(add)


def from_generator(*, shuffles):
  rng = np.random.default_rng(0)

  def generate():
    values = np.arange(N, dtype=np.float32)
    yield from rng.permutation(values) if shuffles else values + rng.standard_normal()

  return tf.data.Dataset.from_generator(generate, output_signature=tf.TensorSpec((), tf.float32))


def sampled(**how):
  return tf.data.Dataset.sample_from_datasets(
    [numbers(), numbers(100, 120)], weights=[0.5, 0.5], seed=1, **how
  )


def counted(data):
  count = tf.Variable(0.0)
  return data.map(lambda x: x + count.assign_add(1.0))


def inner_shuffle(**how):
  return (
    numbers().batch(12).flat_map(lambda x: tf.data.Dataset.from_tensor_slices(x).shuffle(12, **how))
  )


def interleaved_noise():
  return numbers(0, 2).interleave(lambda _: noisy(numbers()), cycle_length=2)


def held_shuffle():
  held = shuffled()
  return numbers(0, 2).flat_map(lambda _: held)


@pytest.fixture(autouse=True)
def no_global_seed():
  """With one, operations without a seed of their own repeat in each pass."""
  tf.random.set_seed(None)


CUT = OTHERS.format("{}", "shuffle()")

# pipeline -> (beginning of the sentence, what else is in it)
CHANGING = {
  "shuffle": (lambda: shuffled().batch(4), ORDER, "shuffle()", FIX_SHUFFLE),
  "shuffle, prefetch": (lambda: shuffled().batch(4).prefetch(2), ORDER, "shuffle()", FIX_SHUFFLE),
  "shuffle of batches": (lambda: numbers().batch(4).shuffle(6, seed=1), ORDER, "shuffle()"),
  "cache, shuffle": (lambda: numbers().cache().shuffle(N, seed=1).batch(4), ORDER, "shuffle()"),
  "two shuffles": (lambda: fixed().shuffle(N, seed=1).batch(4), ORDER, "shuffle()"),
  "shuffle, take": (lambda: shuffled().take(8).batch(4), CUT.format("take()"), FIX_SHUFFLE),
  "shuffle, batch, take": (lambda: shuffled().batch(4).take(3), CUT.format("take()"), FIX_SHUFFLE),
  "shuffle, skip": (lambda: shuffled().skip(8).batch(4), CUT.format("skip()"), FIX_SHUFFLE),
  "shuffle, shard": (lambda: shuffled().shard(2, 0).batch(4), CUT.format("shard()"), FIX_SHUFFLE),
  "take, shuffle": (lambda: shuffled(0, N).take(N).shuffle(N).batch(4), CUT.format("take()")),
  "shuffle after take": (lambda: numbers().take(8).shuffle(8, seed=1).batch(4), ORDER, "shuffle()"),
  "shuffle, cache, take": (
    lambda: shuffled().cache().batch(4).take(2),
    CUT.format("take()"),
    "cache() after it holds nothing",
  ),
  "zip": (
    lambda: tf.data.Dataset.zip((numbers(), shuffled())).batch(4),
    CUT.format("zip()"),
    FIX_SHUFFLE,
  ),
  "concatenate": (lambda: numbers().concatenate(shuffled()).batch(4), ORDER, "shuffle()"),
  "choose": (
    lambda: tf.data.Dataset.choose_from_datasets(
      [numbers(), shuffled()], tf.data.Dataset.range(2).repeat(10)
    ).batch(4),
    ORDER,
    "shuffle()",
  ),
  "from a variant": (
    lambda: tf.data.experimental.from_variant(
      tf.data.experimental.to_variant(shuffled()), tf.TensorSpec((), tf.float32)
    ).batch(4),
    ORDER,
    "shuffle()",
  ),
  "a data set that a function holds": (
    lambda: held_shuffle().batch(4),
    ORDER,
    "shuffle()",
  ),
  "shuffle inside": (
    lambda: inner_shuffle(reshuffle_each_iteration=False).batch(4),
    ORDER,
    "shuffle() inside flat_map() has no seed",
  ),
  "map": (lambda: noisy(numbers()).batch(4), EXAMPLES, "map() draws", FIX_NUMBERS),
  "map, take": (lambda: noisy(numbers()).batch(4).take(3), EXAMPLES, "map() draws", FIX_NUMBERS),
  "map after a fixed shuffle": (lambda: noisy(fixed()).batch(4), EXAMPLES, "map() draws"),
  "map and shuffle": (lambda: noisy(shuffled()).batch(4), EXAMPLES, "map() draws", FIX_SHUFFLE),
  "parallel map": (
    lambda: noisy(numbers(), num_parallel_calls=2).batch(4),
    EXAMPLES,
    "map() draws",
    FIX_NUMBERS,
  ),
  "map after cache": (lambda: noisy(numbers().cache()).batch(4), EXAMPLES, "map() draws"),
  "generator": (lambda: with_generator(numbers()).batch(4), EXAMPLES, "RngReadAndSkip"),
  "Keras's layer": (lambda: with_seed_generator(numbers().batch(4)), EXAMPLES, "Keras's random"),
  "variable": (lambda: counted(numbers()).batch(4), EXAMPLES, "map() changes a variable"),
  "scan": (
    lambda: numbers().scan(0.0, lambda s, x: (s, x + tf.random.normal([]))).batch(4),
    EXAMPLES,
    "scan() draws random numbers (RandomStandardNormal)",
  ),
  "interleave": (
    lambda: interleaved_noise().batch(4),
    EXAMPLES,
    "interleave() draws",
  ),
  "random": (
    lambda: tf.data.Dataset.random(seed=1, rerandomize_each_iteration=True).take(9).batch(4),
    EXAMPLES,
    "rerandomize_each_iteration",
  ),
  "sample": (
    lambda: sampled(rerandomize_each_iteration=True).take(40).batch(4),
    EXAMPLES,
    "sample_from_datasets() draws",
  ),
  "numpy_function": (
    lambda: with_python(numbers(), tf.numpy_function).batch(4),
    EXAMPLES,
    "map() runs Python code",
  ),
  "py_function": (
    lambda: with_python(numbers(), tf.py_function).batch(4),
    EXAMPLES,
    "map() runs Python code",
  ),
  "python and shuffle": (
    lambda: with_python(shuffled(), tf.numpy_function).batch(4),
    ORDER,
    "shuffle()",
  ),
  "from_generator, other order": (
    lambda: from_generator(shuffles=True).batch(4),
    ORDER,
    "from_generator() runs Python code",
  ),
  "from_generator, other examples": (
    lambda: from_generator(shuffles=False).batch(4),
    EXAMPLES,
    "from_generator() runs Python code",
  ),
  "filter": (
    lambda: numbers().filter(lambda _: tf.random.uniform([]) < 0.5).batch(1),
    "",
    EXAMPLES,
    "filter() draws random numbers (RandomUniform)",
  ),
}


PIPELINES = pytest.mark.parametrize(
  "make, begin, parts", [(m, b, p) for m, b, *p in CHANGING.values()], ids=CHANGING
)


@pytest.mark.parametrize(
  "cache_bytes",
  [
    pytest.param(2**30, id="cached"),
    # The cause is looked for in the same way, and tests below stream.
    pytest.param(1, id="streamed", marks=pytest.mark.slow),
  ],
)
@PIPELINES
def test_the_cause_is_named_with_its_remedy(make, begin, parts, cache_bytes):
  sentence = load_batches(make(), cache_bytes=cache_bytes).changes()
  assert sentence.startswith(begin)
  for part in parts:
    assert part in sentence


@PIPELINES
def test_a_large_data_set_is_explained_too(make, begin, parts, monkeypatch):
  monkeypatch.setattr(pipeline, "_MAX_BYTES", -1)  # so that any is large
  test_the_cause_is_named_with_its_remedy(make, begin, parts, 2**30)


def test_data_in_memory_are_counted():
  x = np.zeros((8, 3), np.float32)
  data = tf.data.Dataset.from_tensor_slices((x, x[:, 0])).shuffle(8).batch(2)
  assert pipeline._size(tf.data.Dataset.zip((data, data)).repeat(2)) == 2 * 4 * (24 + 8)


# What num_batches= leaves out.


@CACHES
def test_num_batches_of_shuffled_data_is_named(cache_bytes):
  sentence = load_batches(shuffled().batch(4), num_batches=3, cache_bytes=cache_bytes).changes()
  assert sentence.startswith(CUT.format("num_batches")) and FIX_SHUFFLE in sentence


def test_num_batches_is_told_from_the_take_of_the_user():
  data = numbers().batch(4).take(5).shuffle(5, seed=1)
  assert load_batches(data, num_batches=2).changes().startswith(CUT.format("num_batches"))
  data = shuffled().batch(4).take(5)
  assert load_batches(data, num_batches=5).changes().startswith(CUT.format("take()"))


def test_num_batches_that_leaves_nothing_out_is_not_named():
  sentence = load_batches(shuffled().batch(4), num_batches=N // 4).changes()
  assert sentence.startswith(ORDER)


# What does not change, and what is not to blame.

FIXED = {
  "fixed shuffle": lambda: fixed().batch(4),
  "fixed shuffle, take": lambda: fixed().take(8).batch(4),
  "shuffle, cache": lambda: shuffled().cache().batch(4),
  "map, cache": lambda: noisy(numbers()).cache().batch(4),
  "take, cache": lambda: shuffled().take(8).cache().batch(4),
  "seeded map": lambda: numbers().map(lambda x: x + tf.random.normal([], seed=1)).batch(4),
  "stateless map": lambda: numbers().map(
    lambda x: x + tf.random.stateless_normal([], tf.cast([x, 0], tf.int32))
  ),
  "sample": lambda: sampled().batch(4),
  "seeded shuffle inside": lambda: inner_shuffle(seed=1).batch(4),
}


@CACHES
@pytest.mark.parametrize("make", FIXED.values(), ids=FIXED)
def test_a_fixed_pipeline_has_no_changes(make, cache_bytes):
  assert load_batches(make(), cache_bytes=cache_bytes).changes() is None


# What changes without a cause of its own in the pipeline: a file, here a variable.
@pytest.mark.parametrize("innocent", FIXED.values(), ids=FIXED)
@pytest.mark.parametrize("limit", [2**28, -1], ids=["graph", "objects"])
def test_what_gives_the_same_each_time_is_not_blamed(innocent, limit, monkeypatch):
  monkeypatch.setattr(pipeline, "_MAX_BYTES", limit)
  found = pipeline.explain_changes(innocent(), lambda: "examples")
  assert "cache() after it holds nothing" in found or found.endswith(
    "as a random map() or a part of shuffled data does: " + pipeline._FIX_NUMBERS
  )


@CACHES
@pytest.mark.parametrize("value", [-1.0, 2.0], ids=["other order", "other examples"])
def test_a_single_change_from_outside_is_described_as_such(value, cache_bytes):
  scale = tf.Variable(1.0)
  data = tf.data.Dataset.range(-3, 4).map(lambda i: tf.cast(i, tf.float32) * scale)
  batches = load_batches(data.batch(1), cache_bytes=cache_bytes)
  scale.assign(value)
  assert batches.changes().startswith("the data set is not what it was when it was read first: ")


@CACHES
@pytest.mark.parametrize("shuffles, begin", [(True, ORDER), (False, EXAMPLES)])
def test_changes_without_a_known_cause_are_told_by_the_examples(
  shuffles, begin, cache_bytes, monkeypatch
):
  monkeypatch.setattr(pipeline, "_read", lambda _: None)
  batches = load_batches(from_generator(shuffles=shuffles).batch(4), cache_bytes=cache_bytes)
  assert batches.changes().startswith(begin)


@pytest.mark.parametrize("how", ["map", "interleave"])
@pytest.mark.parametrize("deterministic, named", [(False, True), (True, False), (None, False)])
def test_elements_that_come_as_they_come_are_named(how, deterministic, named):
  function = (lambda x: x) if how == "map" else tf.data.Dataset.from_tensors
  data = getattr(numbers(), how)(function, num_parallel_calls=2, deterministic=deterministic)
  found = pipeline.explain_changes(data.batch(4), lambda: "examples")
  assert found.startswith(ORDER if named else EXAMPLES)
  assert (f"{how}() with deterministic=False" in found) == named


# Files.


@pytest.fixture(scope="module")
def records(tmp_path_factory):
  folder = tmp_path_factory.mktemp("records")
  for i in range(6):
    with tf.io.TFRecordWriter(str(folder / f"{i}.records")) as writer:
      for j in range(4):
        writer.write(tf.io.serialize_tensor(tf.constant(10.0 * i + j)).numpy())
  return str(folder / "*.records")


def parsed(files):
  data = tf.data.TFRecordDataset(files)
  return data.map(lambda r: tf.ensure_shape(tf.io.parse_tensor(r, tf.float32), ()))


@CACHES
@pytest.mark.parametrize(
  "make, begin, part",
  [
    (
      lambda f: parsed(sorted(tf.io.gfile.glob(f))).shuffle(24, seed=1).batch(4),
      ORDER,
      FIX_SHUFFLE,
    ),
    (
      lambda f: parsed(sorted(tf.io.gfile.glob(f))).shuffle(24, seed=1).batch(4).take(2),
      CUT.format("take()"),
      FIX_SHUFFLE,
    ),
    (lambda f: noisy(parsed(sorted(tf.io.gfile.glob(f)))).batch(4), EXAMPLES, "map() draws"),
    (lambda f: parsed(tf.data.Dataset.list_files(f, seed=1)).batch(4), ORDER, FILES),
    (
      lambda f: tf.data.Dataset.list_files(f, seed=1).interleave(parsed, cycle_length=2).batch(4),
      ORDER,
      FILES,
    ),
  ],
  ids=["shuffle", "shuffle, take", "map", "list_files", "interleave of list_files"],
)
def test_the_cause_is_named_of_data_from_files(make, begin, part, cache_bytes, records):
  sentence = load_batches(make(records), cache_bytes=cache_bytes).changes()
  assert sentence.startswith(begin) and part in sentence
