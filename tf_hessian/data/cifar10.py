"""CIFAR-10 (Krizhevsky 2009)."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import tensorflow as tf

from tf_hessian.data import source, tfds

NUM_CLASSES = 10
# Of the canonical training images, over 255; Krizhevsky (2009).
_MEANS = (0.4914, 0.4822, 0.4465)
_DEVIATIONS = (0.2470, 0.2435, 0.2616)
_PADDING = 4


def per_image(images: tf.Tensor, /) -> tf.Tensor:
  """Standardizes each image by its own mean and deviation: float32."""
  return tf.image.per_image_standardization(images)


def per_channel(images: tf.Tensor, /) -> tf.Tensor:
  """Standardizes by the training set's mean and deviation of each channel: float32."""
  images = tf.image.convert_image_dtype(images, tf.float32)
  return (images - tf.constant(_MEANS)) / tf.constant(_DEVIATIONS)


_STANDARDIZATIONS = {"per_image": per_image, "per_channel": per_channel}


def pad_crop_flip(images: tf.Tensor, key: tf.Tensor, /) -> tf.Tensor:
  """Shifts images by up to 4 pixels, and mirrors half of them.

  Args:
    images: (batch, height, width, channels); zeros come in at the edges.
    key: (2,) int64, of stateless random functions.
  """
  batch, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
  shifts, flips = tf.unstack(tf.random.split(key))
  shifts = tf.random.stateless_uniform([batch, 2], shifts, 0, 2 * _PADDING + 1, tf.int32)
  flips = tf.random.stateless_uniform([batch, 1], flips, 0, 2, tf.int32) == 1
  columns = tf.range(width)
  columns = shifts[:, 1:] + tf.where(flips, width - 1 - columns, columns)
  padding = [[0, 0], [_PADDING, _PADDING], [_PADDING, _PADDING], [0, 0]]
  padded = tf.gather(tf.pad(images, padding), shifts[:, :1] + tf.range(height), batch_dims=1)
  return tf.gather(padded, columns, axis=2, batch_dims=1)


def cifar10(
  *,
  num_examples: int = 0,
  standardization: str = "per_image",
  augment: bool = True,
  data_dir: str | os.PathLike | None = None,
  download: bool = False,
) -> source.Source:
  """Returns CIFAR-10 as a `Source` of images and one-hot targets.

  Examples are (image (32, 32, 3), target (10,)), both float32.

  Args:
    num_examples: the first so many of the training set; 0 for all 50,000.
    standardization: "per_image" or "per_channel".
    augment: train on shifted and mirrored images.
    data_dir: folder with TFDS data sets; None for TFDS's own choice.
    download: fetch the data set if it isn't there.

  Raises:
    FileNotFoundError: if the data set is not there.
    ValueError: for another standardization, or more examples than there are.
  """
  if standardization not in _STANDARDIZATIONS:
    known = ", ".join(_STANDARDIZATIONS)
    raise ValueError(f"standardization: expected one of {known}, got {standardization!r}")
  where: dict[str, Any] = {"data_dir": data_dir, "download": download}
  one_hot = np.eye(NUM_CLASSES, dtype=np.float32)
  images, labels = tfds.arrays("cifar10", "train", num_examples=num_examples, **where)
  test_images, test_labels = tfds.arrays("cifar10", "test", **where)
  return source.in_memory(
    images,
    one_hot[labels],
    test=(test_images, one_hot[test_labels]),
    augment=pad_crop_flip if augment else None,
    finish=_STANDARDIZATIONS[standardization],
  )
