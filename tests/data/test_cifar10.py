"""CIFAR-10: shifts and mirror images, standardizations, what is trained and tested on."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.data import cifar10

SHIFTS = 9 * 9


def key(number):
  return tf.constant([0, number], tf.int64)


def variants(image):
  """Returns all shifted and mirrored copies of an image: 2 for each of the 81 shifts."""
  height, width, _ = image.shape
  padded = np.pad(image, [(4, 4), (4, 4), (0, 0)])
  found = []
  for top, left in itertools.product(range(9), repeat=2):
    crop = padded[top : top + height, left : left + width]
    found += [crop, crop[:, ::-1]]
  return np.stack(found)


@pytest.fixture(scope="module")
def drawn():
  """The number among `variants` of each of 4,000 changed copies of an image."""
  # No pixel is like another or 0, so that all 162 differ.
  image = np.random.default_rng(0).permutation(np.arange(1, 61)).reshape(5, 6, 2)
  number = {v.tobytes(): i for i, v in enumerate(variants(image))}
  assert len(number) == 2 * SHIFTS
  changed = cifar10.pad_crop_flip(np.tile(image, [4000, 1, 1, 1]), key(0)).numpy()
  return np.array([number.get(c.tobytes(), -1) for c in changed])


@pytest.fixture(scope="module")
def load(prepared):
  """Returns a function: options -> `Source` of the tiny CIFAR-10, the same each time."""
  return functools.cache(functools.partial(cifar10.cifar10, data_dir=prepared.folder))


def read(dataset, count=-1):
  """Returns (images, targets) of the first elements, stacked."""
  return tuple(np.stack(a) for a in zip(*dataset.take(count).as_numpy_iterator(), strict=True))


# Augmentation.


def test_changed_image_is_shifted_over_zeros_or_mirrored_too(drawn):
  assert (drawn >= 0).all()


def test_all_shifts_occur_equally_often(drawn):
  counts = np.bincount(drawn // 2, minlength=SHIFTS)
  expected = len(drawn) / SHIFTS
  chi_squared = np.sum((counts - expected) ** 2 / expected)
  assert counts.min() > 0
  assert abs(chi_squared - (SHIFTS - 1)) < 4 * np.sqrt(2 * (SHIFTS - 1))


def test_half_of_the_images_are_mirrored(drawn):
  assert abs(np.mean(drawn % 2) - 0.5) < 4 * 0.5 / np.sqrt(len(drawn))


def test_mirroring_does_not_depend_on_the_shift(drawn):
  for shift in (drawn // 2 // 9, drawn // 2 % 9):
    counts = np.bincount(shift, minlength=9)
    mirrored = np.bincount(shift[drawn % 2 == 1], minlength=9)
    assert (np.abs(mirrored / counts - 0.5) < 4 * 0.5 / np.sqrt(counts)).all()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_change_keeps_shape_and_type(dtype):
  changed = cifar10.pad_crop_flip(np.zeros((3, 5, 6, 2), dtype), key(0))
  assert (changed.shape, changed.dtype) == ((3, 5, 6, 2), dtype)


def test_key_decides_the_change():
  images = np.random.default_rng(0).integers(256, size=(3, 8, 8, 3), dtype=np.uint8)
  found = [cifar10.pad_crop_flip(images, key(i)).numpy().tobytes() for i in (0, 1, 2, 0)]
  assert found[0] == found[3]
  assert len(set(found)) == 3


# Standardizations.


def test_image_is_standardized_by_its_own_mean_and_deviation():
  images = np.random.default_rng(0).integers(256, size=(4, 32, 32, 3), dtype=np.uint8)
  x = images.astype(np.float64)
  axes = {"axis": (1, 2, 3), "keepdims": True}
  found = cifar10.per_image(images)
  assert found.dtype == tf.float32
  np.testing.assert_allclose(found, (x - x.mean(**axes)) / x.std(**axes), rtol=0, atol=1e-5)


def test_image_of_one_colour_becomes_zero():
  found = cifar10.per_image(np.full((1, 32, 32, 3), 77, np.uint8))
  np.testing.assert_array_equal(found, np.zeros((1, 32, 32, 3)))


def test_channels_are_standardized_by_those_of_the_training_set():
  images = np.random.default_rng(0).integers(256, size=(4, 32, 32, 3), dtype=np.uint8)
  found = cifar10.per_channel(images)
  expected = (images / 255 - [0.4914, 0.4822, 0.4465]) / [0.2470, 0.2435, 0.2616]
  assert found.dtype == tf.float32
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_unknown_standardization_is_refused_before_anything_is_read(tmp_path):
  with pytest.raises(ValueError, match="one of per_image, per_channel, got 'per_pixel'"):
    cifar10.cifar10(standardization="per_pixel", data_dir=tmp_path)


# The data set.


@pytest.mark.parametrize("part", ["examples", "test", "augmented", "batches"])
def test_images_and_targets_have_their_shapes_and_types(load, part):
  source = load()
  size = [7] if part == "batches" else []
  arguments = {"augmented": (0,), "batches": (0, 0, 7)}.get(part)
  dataset = getattr(source, part)
  image, target = next(iter(dataset if arguments is None else dataset(*arguments)))
  assert (image.shape, image.dtype) == ([*size, 32, 32, 3], tf.float32)
  assert (target.shape, target.dtype) == ([*size, 10], tf.float32)


@pytest.mark.parametrize("part, split", [("examples", "train"), ("test", "test")])
@pytest.mark.parametrize("standardization", ["per_image", "per_channel"])
def test_what_is_measured_on_is_standardized_in_order_and_not_augmented(
  load, prepared, part, split, standardization
):
  source = load(standardization=standardization)
  images, targets = read(getattr(source, part))
  expected, labels = prepared.cifar10[split]
  standardize = getattr(cifar10, standardization)
  np.testing.assert_allclose(images, standardize(expected), rtol=0, atol=1e-5)
  np.testing.assert_array_equal(targets, np.eye(10)[labels])


def test_training_images_are_changed_before_they_are_standardized(load, prepared):
  images, labels = prepared.cifar10["train"]
  known = {v.tobytes(): i for i, image in enumerate(images) for v in variants(image)}
  found, targets = read(load(standardization="per_channel").batches(0, 0, 40), 1)
  pixels = found[0] * [0.2470, 0.2435, 0.2616] + [0.4914, 0.4822, 0.4465]
  chosen = [known[p.tobytes()] for p in np.rint(255 * pixels).astype(np.uint8)]
  assert sorted(chosen) == list(range(40))
  np.testing.assert_array_equal(targets[0], np.eye(10)[labels[chosen]])


def test_training_images_are_left_as_they_are_without_augmentation(load, prepared):
  images, labels = prepared.cifar10["train"]
  expected = {i.tobytes() for i in images}
  found, _ = read(load(standardization="per_channel", augment=False).batches(0, 0, 40), 1)
  pixels = found[0] * [0.2470, 0.2435, 0.2616] + [0.4914, 0.4822, 0.4465]
  assert {p.tobytes() for p in np.rint(255 * pixels).astype(np.uint8)} == expected


def test_augmented_examples_are_there_only_with_augmentation(load):
  assert load(augment=False).augmented is None
  assert not np.array_equal(read(load().augmented(0))[0], read(load().examples)[0])


@pytest.mark.parametrize("num_examples", [1, 13])
def test_fewer_examples_are_the_first(load, num_examples):
  source = load(num_examples=num_examples)
  assert source.num_examples == num_examples
  for a, b in zip(read(source.examples), read(load().examples, num_examples), strict=True):
    np.testing.assert_array_equal(a, b)


def test_test_set_stays_whole_with_fewer_examples(load):
  assert int(load(num_examples=5).test.cardinality()) == 12


def test_more_examples_than_there_are_are_refused(load):
  with pytest.raises(ValueError, match="num_examples: expected 1 to 40, or 0 for all, got 41"):
    load(num_examples=41)


def test_missing_set_is_said_to_be_missing(tmp_path):
  with pytest.raises(FileNotFoundError, match="data set cifar10"):
    cifar10.cifar10(data_dir=tmp_path)


# Real data.


def test_real_set_has_its_size_and_the_means_that_are_taken_off(real):
  source = cifar10.cifar10(data_dir=real, standardization="per_channel")
  assert (source.num_examples, int(source.test.cardinality())) == (50_000, 10_000)
  sums = np.zeros((2, 3))
  for images, _ in source.examples.batch(1000).as_numpy_iterator():
    sums += [images.mean((0, 1, 2)), (images.astype(np.float64) ** 2).mean((0, 1, 2))]
  mean, square = sums / 50
  # Of 8-bit pixels, some of which went through JPEG.
  np.testing.assert_allclose(mean, 0, rtol=0, atol=0.03)
  np.testing.assert_allclose(np.sqrt(square - mean**2), 1, rtol=0, atol=0.03)
