"""Tiny data sets of random images, prepared under the names and versions that TFDS knows."""

import dataclasses
import os
import pathlib
import socket

import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.curvature.loading import load_batches

SHARDS = (6, 5, 4, 6, 3)  # training images of each file of imagenet2012


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A folder of data sets; each is {split: (images, labels)}, in order.

  Images of `mnist` and `cifar10` are arrays; those of `imagenet` encoded JPEGs, one of each split
  grey, whose labels all differ.
  """

  folder: pathlib.Path
  mnist: dict
  cifar10: dict
  imagenet: dict


def write(folder, name, splits, shards):
  """Writes a data set as TFDS does, from {split: (encoded images, labels)}."""
  import tensorflow_datasets as tfds

  builder = tfds.builder(name, data_dir=folder)
  path = pathlib.Path(builder.data_dir)
  path.mkdir(parents=True)
  infos = []
  for split, (images, labels) in splits.items():
    examples = [{"image": i, "label": int(c)} for i, c in zip(images, labels, strict=True)]
    for i, example in enumerate(examples):
      example |= {k: f"{split}_{i}" for k in builder.info.features if k not in example}
    records = [builder.info.features.serialize_example(e) for e in examples]
    lengths = shards.get(split, (len(records),))
    template = tfds.core.ShardedFileTemplate(
      path, dataset_name=name, split=split, filetype_suffix="tfrecord"
    )
    infos.append(
      tfds.core.SplitInfo(
        name=split,
        shard_lengths=list(lengths),
        num_bytes=sum(map(len, records)),
        filename_template=template,
      )
    )
    rest = iter(records)
    for file, length in zip(infos[-1].filepaths, lengths, strict=True):
      with tf.io.TFRecordWriter(str(file)) as writer:
        for _ in range(length):
          writer.write(next(rest))
  builder.info.set_splits(tfds.core.SplitDict(infos))
  builder.info.write_to_directory(path)


def small_images(rng, count, *shape):
  """Returns random images and labels, the first ten of which are all classes."""
  labels = np.concatenate([rng.permutation(10), rng.integers(10, size=count - 10)])
  return rng.integers(256, size=(count, *shape), dtype=np.uint8), labels


def photographs(rng, count, first):
  """Returns JPEGs of different sizes, number 1 grey, and labels that begin with `first`."""
  images = []
  for i in range(count):
    height, width = 20 + rng.integers(40, size=2)
    pixels = rng.integers(256, size=(height, width, 1 if i == 1 else 3), dtype=np.uint8)
    images.append(tf.io.encode_jpeg(pixels).numpy())
  return images, first + 37 * np.arange(count)


@pytest.fixture(autouse=True)
def _no_global_seed():
  """Tests that want TensorFlow's global seed set it; others' must not reach here."""
  tf.random.set_seed(None)
  yield
  tf.random.set_seed(None)


@pytest.fixture
def no_network(monkeypatch):
  """Lets Python open no connection."""

  def refuse(*_, **__):
    raise AssertionError("the network was used")

  monkeypatch.setattr(socket, "getaddrinfo", refuse)
  monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def sent():
  """Returns a function: finite data set -> its elements as another process would make them."""

  def send(dataset):
    batches = load_batches(dataset.batch(1), cache_bytes=0)
    stream = batches.stream(batches.serialized(), 0, batches.num_batches)
    return [tf.nest.map_structure(lambda t: t.numpy()[0], batch) for batch in stream]

  return send


@pytest.fixture(scope="session")
def real():
  """The folder of real data sets that TF_HESSIAN_TFDS names; tests that need it are skipped."""
  folder = os.environ.get("TF_HESSIAN_TFDS")
  if not folder:
    pytest.skip("TF_HESSIAN_TFDS names no folder of real data sets")
  return folder


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
  """A `Prepared` folder."""
  folder = tmp_path_factory.mktemp("tfds")
  rng = np.random.default_rng(0)
  mnist = {"train": small_images(rng, 30, 28, 28, 1), "test": small_images(rng, 12, 28, 28, 1)}
  cifar10 = {"train": small_images(rng, 40, 32, 32, 3), "test": small_images(rng, 12, 32, 32, 3)}
  imagenet = {
    "train": photographs(rng, sum(SHARDS), 0),
    "validation": photographs(rng, 4, 888),
  }
  for name, splits in (("mnist", mnist), ("cifar10", cifar10)):
    encoded = {
      split: ([tf.io.encode_png(i).numpy() for i in images], labels)
      for split, (images, labels) in splits.items()
    }
    write(folder, name, encoded, {})
  write(folder, "imagenet2012", imagenet, {"train": SHARDS})
  return Prepared(folder, mnist, cifar10, imagenet)
