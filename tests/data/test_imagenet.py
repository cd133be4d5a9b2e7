"""ImageNet: crops, labels, and a stream that a seed and a step fix."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.data import imagenet

SIZE = 8
CROPS = pytest.mark.parametrize(
  "crop", [imagenet.central_crop, lambda e, size: imagenet.random_crop(e, key(0), size)]
)


def key(number):
  return tf.constant([0, number], tf.int64)


def jpeg(pixels):
  """Encodes pixels as well as it can be done."""
  pixels = np.rint(pixels).astype(np.uint8)
  return tf.io.encode_jpeg(pixels, quality=100, chroma_downsampling=False)


def ramp(height, width):
  """Returns an image that rises from 20 to 230 from left to right, in three equal channels."""
  return np.tile(np.linspace(20, 230, width)[None, :, None], [height, 1, 3])


@pytest.fixture(scope="module")
def random_crops():
  """Returns a function: (JPEG, number of keys) -> so many random crops, stacked."""

  @tf.function(autograph=False)
  def crops(encoded, keys):
    spec = tf.TensorSpec((SIZE, SIZE, 3), tf.float32)
    return tf.map_fn(lambda k: imagenet.random_crop(encoded, k, SIZE), keys, spec)

  return lambda encoded, count: crops(encoded, tf.stack([key(i) for i in range(count)])).numpy()


@pytest.fixture(scope="module")
def load(prepared):
  """Returns a function: options -> `Source` of the tiny ImageNet, the same each time."""
  make = functools.partial(imagenet.imagenet2012, size=SIZE, data_dir=prepared.folder)
  return functools.cache(make)


def read(dataset, count=-1):
  """Returns (images, targets) of the first elements, stacked."""
  return tuple(np.stack(a) for a in zip(*dataset.take(count).as_numpy_iterator(), strict=True))


@pytest.fixture(scope="module")
def examples(load):
  """(Images, targets) that are measured."""
  return read(load().examples)


@pytest.fixture(scope="module")
def augmented(load):
  """(Images, targets) augmented by seed 3."""
  return read(load().augmented(3))


def numbers(targets):
  """Returns which training images targets belong to."""
  return ((np.argmax(targets, axis=-1) - 1) // 37).tolist()


def assert_same(found, expected):
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_array_equal(a, b)


# Crops.


@pytest.mark.parametrize("value", [0, 100, 255])
def test_middle_of_an_image_of_one_colour_is_that_colour(value):
  found = imagenet.central_crop(jpeg(np.full((40, 60, 3), value)), SIZE)
  np.testing.assert_allclose(found, np.full((SIZE, SIZE, 3), value / 127.5 - 1), atol=0.01)


@pytest.mark.parametrize("height, width, size", [(64, 96, 8), (64, 96, 50), (50, 39, 100)])
def test_middle_of_a_gradient_is_cut_and_resized(height, width, size):
  rows, columns = np.mgrid[:height, :width]
  image = np.stack([20 + 2 * rows, 20 + 2 * columns, 20 + rows + columns], axis=-1)

  def positions(n):
    """Where the pixels of the result lie: pixels are squares, and outermost ones are repeated."""
    begin = n // 16
    middle = n - 2 * begin
    inside = (np.arange(size) + 0.5) * middle / size - 0.5
    return begin + np.clip(inside, 0, middle - 1)

  rows, columns = np.meshgrid(positions(height), positions(width), indexing="ij")
  expected = np.stack([20 + 2 * rows, 20 + 2 * columns, 20 + rows + columns], axis=-1)
  # PNGs are decoded by the same operation, without loss.
  found = imagenet.central_crop(tf.io.encode_png(image.astype(np.uint8)), size)
  np.testing.assert_allclose(found, expected / 127.5 - 1, rtol=0, atol=1e-5)


@CROPS
def test_grey_image_gets_three_equal_channels(crop):
  pixels = np.random.default_rng(0).integers(256, size=(40, 50, 1))
  found = crop(jpeg(pixels), SIZE).numpy()
  assert found.shape == (SIZE, SIZE, 3)
  np.testing.assert_allclose(found, np.repeat(found[..., :1], 3, axis=-1), atol=1e-5)


@CROPS
def test_tiny_image_is_enlarged(crop):
  assert crop(jpeg(np.full((2, 3, 3), 50)), SIZE).shape == (SIZE, SIZE, 3)


def test_random_crops_lie_between_minus_one_and_one(random_crops):
  pixels = 255 * np.random.default_rng(0).integers(2, size=(40, 50, 3))
  found = random_crops(jpeg(pixels), 50)
  assert found.dtype == np.float32
  assert (found.min(), found.max()) == (-1, 1)


def test_key_decides_the_random_crop(random_crops):
  encoded = jpeg(ramp(40, 50))
  found = random_crops(encoded, 20)
  assert len({crop.tobytes() for crop in found}) == 20
  np.testing.assert_array_equal(random_crops(encoded, 20), found)


def test_half_of_the_random_crops_are_mirrored(random_crops):
  found = random_crops(jpeg(ramp(40, 50)), 200).mean(axis=(1, 3))
  mirrored = found[:, -1] < found[:, 0]
  assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(200)


def test_random_crops_are_parts_of_all_sizes(random_crops):
  # Brightness and contrast change by at most so much that the width of the part stays visible.
  found = random_crops(jpeg(ramp(40, 50)), 200).mean(axis=(1, 3))
  extent = np.abs(found[:, -1] - found[:, 0])
  assert extent.min() < 0.4 < 1.2 < extent.max()


def test_random_crops_have_different_brightness_and_colour(random_crops):
  found = random_crops(jpeg(np.full((40, 50, 3), [150, 100, 80])), 50)
  np.testing.assert_allclose(found, np.broadcast_to(found[:, :1, :1], found.shape), atol=0.02)
  colours = found[:, 0, 0]
  assert np.ptp(colours.mean(axis=1)) > 0.2
  assert np.ptp(colours[:, 0] - colours[:, 1]) > 0.2


# Labels and what is measured on.


@pytest.mark.parametrize("num_classes, shift", [(1000, 0), (1001, 1)])
def test_background_comes_before_the_other_classes_or_is_left_out(
  load, prepared, num_classes, shift
):
  _, targets = read(load(num_classes=num_classes).test)
  assert targets.dtype == np.float32
  labels = prepared.imagenet["validation"][1]
  np.testing.assert_array_equal(targets, np.eye(num_classes)[labels + shift])


@pytest.mark.parametrize("num_classes", [10, 999, 1002])
def test_other_numbers_of_classes_are_refused(load, num_classes):
  with pytest.raises(ValueError, match=f"expected 1000 or 1001, got {num_classes}"):
    load(num_classes=num_classes)


@pytest.mark.parametrize("part, split", [("examples", "train"), ("test", "validation")])
def test_measured_are_the_middles_of_the_images_in_order(load, prepared, part, split):
  found, targets = read(getattr(load(), part))
  np.testing.assert_array_equal(np.argmax(targets, axis=1), prepared.imagenet[split][1] + 1)
  expected = [imagenet.central_crop(e, SIZE) for e in prepared.imagenet[split][0]]
  np.testing.assert_allclose(found, np.stack(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_examples", [1, 8])
def test_fewer_examples_are_the_first(load, examples, num_examples):
  source = load(num_examples=num_examples)
  assert source.num_examples == num_examples
  assert_same(read(source.examples), [a[:num_examples] for a in examples])


def test_more_examples_than_there_are_are_refused(load):
  with pytest.raises(ValueError, match="num_examples: expected 1 to 24, or 0 for all, got 25"):
    load(num_examples=25)


def test_missing_set_is_said_to_be_missing(tmp_path):
  with pytest.raises(FileNotFoundError, match="data set imagenet2012"):
    imagenet.imagenet2012(data_dir=tmp_path)


@pytest.mark.parametrize("part", ["examples", "augmented"])
@pytest.mark.parametrize("num_examples", [0, pytest.param(8, marks=pytest.mark.slow)])
def test_examples_can_be_sent_to_other_processes(load, sent, part, num_examples):
  source = load(num_examples=num_examples)
  dataset = source.examples if part == "examples" else source.augmented(0)
  assert_same([np.stack(a) for a in zip(*sent(dataset), strict=True)], read(dataset))


# Augmented examples.


def test_augmented_examples_repeat(load, augmented):
  assert_same(read(load().augmented(3)), augmented)


def test_augmented_examples_are_the_examples_in_order_but_changed(augmented, examples):
  (found, targets), (plain, expected) = augmented, examples
  np.testing.assert_array_equal(targets, expected)
  assert (np.abs(found - plain).max(axis=(1, 2, 3)) > 0.01).all()


def test_first_augmented_examples_are_what_they_are_among_all(load, augmented):
  assert_same(read(load(num_examples=8).augmented(3)), [a[:8] for a in augmented])


def test_seeds_augment_examples_differently(load, augmented):
  assert not np.array_equal(read(load().augmented(0))[0], augmented[0])


def test_without_augmentation_there_are_no_augmented_examples(load):
  assert load(augment=False).augmented is None


# Batches.


@pytest.mark.parametrize("options", [{}, {"shuffle_buffer": 5}, {"num_examples": 8}], ids=str)
def test_every_image_comes_once_an_epoch(load, options):
  source = load(**options)
  _, targets = read(source.batches(0, 0, 1), 3 * source.num_examples)
  for epoch in np.split(targets[:, 0], 3):
    assert sorted(numbers(epoch)) == list(range(source.num_examples))


def test_batches_have_their_shapes_and_types(load):
  images, targets = load().batches(0, 0, 7).element_spec
  assert images == tf.TensorSpec((7, SIZE, SIZE, 3), tf.float32)
  assert targets == tf.TensorSpec((7, 1001), tf.float32)


def test_epochs_and_seeds_have_different_orders(load):
  orders = []
  for seed in (0, 1):
    orders += np.split(read(load().batches(seed, 0, 24), 3)[1], 3)
  assert len({tuple(numbers(order[0])) for order in orders}) == 6


def test_files_come_in_another_order_each_epoch(load):
  # Without a buffer, the images are the first ones of all files, then the second ones, ...
  _, targets = read(load(shuffle_buffer=1).batches(0, 0, 24), 8)
  firsts = {tuple(numbers(epoch)[:5]) for epoch in targets}
  assert {tuple(sorted(f)) for f in firsts} == {(0, 6, 11, 15, 21)}
  assert len(firsts) > 4


@pytest.mark.parametrize("options", [{}, {"num_examples": 8}], ids=str)
@pytest.mark.parametrize("first", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_batch_does_not_depend_on_the_step_that_training_began_with(load, options, first):
  source = load(**options)
  expected = read(source.batches(3, 0, 7).skip(first), 3)
  assert_same(read(source.batches(3, first, 7), 3), expected)


def test_image_is_changed_differently_in_each_epoch(load):
  images, targets = read(load().batches(0, 0, 24), 2)
  order = np.argsort(np.argmax(targets, axis=-1), axis=-1)
  first, second = (i[o] for i, o in zip(images, order, strict=True))
  assert (np.abs(first - second).max(axis=(1, 2, 3)) > 0.01).all()


def test_middles_are_trained_on_without_augmentation(load, examples):
  images, targets = read(load(augment=False).batches(0, 0, 24), 1)
  order = np.argsort(np.argmax(targets[0], axis=-1))
  assert_same((images[0][order], targets[0][order]), examples)


def test_without_a_seed_workers_draw_different_batches(load):
  batches = load().batches(None, 0, 24)
  (first, targets), (second, others) = read(batches, 1), read(batches, 1)
  assert numbers(targets[0]) != numbers(others[0])
  assert not np.array_equal(first, second)


def test_batches_do_not_depend_on_tensorflows_seed(load):
  expected = read(load().batches(0, 0, 7), 3)
  tf.random.set_seed(0)  # as commands do, with the seed of the config
  assert_same(read(load().batches(0, 0, 7), 3), expected)
