"""ImageNet (ILSVRC 2012), decoded, cropped and resized as for Inception."""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf

from tf_hessian.data import source, tfds

_FILES_AT_ONCE = 16
_MIDDLE = 0.875  # of the image, for measuring


def imagenet2012(
  *,
  num_examples: int = 0,
  size: int = 299,
  num_classes: int = 1001,
  augment: bool = True,
  shuffle_buffer: int = 4096,
  data_dir: str | os.PathLike | None = None,
  download: bool = False,
) -> source.Source:
  """Returns ImageNet as a `Source` of images and one-hot targets.

  Images are (size, size, 3) in [-1, 1]. They are streamed from their files. An epoch takes the
  files in random order, 16 at once, and shuffles what it reads in a buffer. Measured are the
  middles of the images.

  Args:
    num_examples: the first so many of the training set; 0 for all.
    size: height and width of the images.
    num_classes: 1,001 puts an empty class 0, "background", before the 1,000.
    augment: train on random crops, mirrored and with changed colours.
    shuffle_buffer: images, still encoded, that a random one is taken from; about 100 kB each.
    data_dir: folder with TFDS data sets; None for TFDS's own choice.
    download: prepare the data set if it isn't there.

  Raises:
    FileNotFoundError: if the data set is not there.
    ValueError: for another number of classes, or more examples than there are.
  """
  import tensorflow_datasets  # slow, and not needed for other data

  if num_classes not in (1000, 1001):
    raise ValueError(f"num_classes: expected 1000 or 1001, got {num_classes}")
  found = tfds.builder("imagenet2012", data_dir=data_dir, download=download)
  count = tfds.check_num_examples(num_examples, found.info.splits["train"].num_examples)

  skip = {"image": tensorflow_datasets.decode.SkipDecoding()}

  def read(which):
    return found.as_dataset(split=which, decoders=skip)

  def target(example):
    return tf.one_hot(example["label"] + (num_classes - 1000), num_classes)

  def middle(example):
    return central_crop(example["image"], size), target(example)

  def changed(example, key):
    return random_crop(example["image"], key, size), target(example)

  def augmented(seed):
    examples = read(f"train[:{count}]").enumerate()
    return examples.map(lambda i, e: changed(e, source.key(seed, i)), tf.data.AUTOTUNE)

  part = read(f"train[:{count}]") if num_examples else None

  def epoch(order):
    return _files_in_order(found, skip, order) if part is None else part

  def batches(seed, first, batch_size):
    examples = source.stream(epoch, count, seed, first * batch_size, shuffle_buffer)
    change = changed if augment else lambda example, _: middle(example)
    examples = examples.map(change, tf.data.AUTOTUNE)
    return examples.batch(batch_size, drop_remainder=True)

  return source.Source(
    read(f"train[:{count}]").map(middle, tf.data.AUTOTUNE),
    batches,
    count,
    test=read("validation").map(middle, tf.data.AUTOTUNE),
    augmented=augmented if augment else None,
  )


def _files_in_order(found: Any, decoders: dict, order: tf.Tensor) -> tf.data.Dataset:
  """Returns the training examples, their files in random order by a key."""
  paths = [str(p) for p in found.info.splits["train"].filepaths]
  files = source.permutation(len(paths), order)
  records = tf.data.Dataset.from_tensor_slices(tf.gather(paths, files)).interleave(
    tf.data.TFRecordDataset,
    cycle_length=_FILES_AT_ONCE,
    num_parallel_calls=tf.data.AUTOTUNE,
    deterministic=True,
  )
  return records.map(lambda r: found.info.features.deserialize_example(r, decoders=decoders))


def central_crop(encoded: tf.Tensor, size: int, /) -> tf.Tensor:
  """Returns the middle 0.875 of an image each way, resized.

  Args:
    encoded: scalar string, a JPEG.
    size: height and width.

  Returns:
    (size, size, 3) float32 in [-1, 1].
  """
  image = tf.image.central_crop(tf.image.decode_jpeg(encoded, channels=3), _MIDDLE)
  return tf.image.resize(image, [size, size]) / 127.5 - 1.0


def random_crop(encoded: tf.Tensor, key: tf.Tensor, size: int, /) -> tf.Tensor:
  """Returns a random part of an image in changed colours.

  As for Inception, it is mirrored or not. The part covers 5 to 100 % of the image, with an aspect
  ratio of 3/4 to 4/3.

  Args:
    encoded: scalar string, a JPEG.
    key: (2,) int64, of stateless random functions.
    size: height and width.

  Returns:
    (size, size, 3) float32 in [-1, 1].
  """
  part, mirror, brightness, saturation, hue, contrast = tf.unstack(tf.random.split(key, 6))
  begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
    tf.image.extract_jpeg_shape(encoded),
    tf.zeros([1, 0, 4]),
    part,
    min_object_covered=0.1,
    aspect_ratio_range=(0.75, 4 / 3),
    area_range=(0.05, 1.0),
    use_image_if_no_bounding_boxes=True,
  )
  window = tf.concat([begin[:2], extent[:2]], 0)
  image = tf.image.decode_and_crop_jpeg(encoded, window, channels=3)
  image = tf.image.resize(image, [size, size]) / 255.0
  image = tf.image.stateless_random_flip_left_right(image, mirror)
  image = tf.image.stateless_random_brightness(image, 32 / 255, brightness)
  image = tf.image.stateless_random_saturation(image, 0.5, 1.5, saturation)
  image = tf.image.stateless_random_hue(image, 0.2, hue)
  image = tf.image.stateless_random_contrast(image, 0.5, 1.5, contrast)
  return tf.clip_by_value(image, 0.0, 1.0) * 2.0 - 1.0
