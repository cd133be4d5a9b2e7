"""Data sets of TFDS are found, fetched, or it is said what to do."""

import shutil

import numpy as np
import pytest
import tensorflow_datasets
from tensorflow_datasets.core.download import download_manager, extractor

from tf_hessian.data import tfds

NAMES = ["mnist", "cifar10", "imagenet2012"]


@pytest.fixture
def fetching(monkeypatch):
  """Returns a function that puts another function (builder) in the place of the download."""

  def replace(function):
    builder = tensorflow_datasets.core.DatasetBuilder
    monkeypatch.setattr(builder, "download_and_prepare", function)

  return replace


def missing(name, folder, **options):
  """Returns what is said if a data set isn't there."""
  with pytest.raises(FileNotFoundError) as caught:
    tfds.builder(name, data_dir=folder, **options)
  return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_prepared_set_is_found(prepared, name):
  assert tfds.builder(name, data_dir=prepared.folder).is_prepared()


@pytest.mark.parametrize("name", NAMES)
def test_missing_set_is_named_with_its_folder_and_the_remedies(tmp_path, name):
  message = missing(name, tmp_path)
  assert message.startswith(f"data set {name}: not in {tmp_path};")
  assert f" {name}/{tensorflow_datasets.builder_cls(name).VERSION}, " in message
  assert "--data_dir" in message and "--download" in message


@pytest.mark.usefixtures("no_network")
def test_missing_set_is_noticed_without_the_network(tmp_path):
  assert "network was used" not in missing("cifar10", tmp_path)


def test_looking_for_a_missing_set_leaves_the_folder_empty(tmp_path):
  missing("mnist", tmp_path)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{}, {"download": True}], ids=["look", "download"])
@pytest.mark.usefixtures("no_network")
def test_missing_imagenet_is_explained_by_what_to_do_by_hand(tmp_path, options):
  message = missing("imagenet2012", tmp_path, **options)
  assert "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar" in message
  assert "image-net.org" in message and "downloads/manual" in message


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_nothing_is_to_do_by_hand_for_other_sets(tmp_path, name):
  assert "manual" not in missing(name, tmp_path)


@pytest.mark.parametrize(
  "error",
  [
    OSError("no route to host\nTraceback"),
    AssertionError("\nno route to host"),
    tensorflow_datasets.download.DownloadError("no route to host"),
    download_manager.NonMatchingChecksumError("no route to host"),
    extractor.ExtractError("no route to host"),
  ],
  ids=lambda e: type(e).__name__,
)
def test_failed_download_is_explained(fetching, tmp_path, error):
  def fail(_):
    raise error

  fetching(fail)
  message = missing("cifar10", tmp_path, download=True)
  assert f"data set cifar10: it can't be fetched to {tmp_path} (no route to host); or" in message
  assert "--data_dir" in message and "Traceback" not in message


def test_set_is_used_once_it_is_fetched(fetching, prepared, tmp_path):
  def fetch(builder):
    shutil.copytree(prepared.folder / "mnist", tmp_path / "mnist")
    builder.info.read_from_directory(builder.data_dir)

  fetching(fetch)
  images, _ = tfds.arrays("mnist", "train", data_dir=tmp_path, download=True)
  np.testing.assert_array_equal(images, prepared.mnist["train"][0])


def test_prepared_set_is_not_fetched_again(fetching, prepared):
  fetching(lambda _: pytest.fail("fetched again"))
  assert tfds.builder("mnist", data_dir=prepared.folder, download=True).is_prepared()


@pytest.mark.parametrize("name, split", [("mnist", "train"), ("cifar10", "test")])
def test_arrays_are_the_images_and_labels_in_order(prepared, name, split):
  images, labels = tfds.arrays(name, split, data_dir=prepared.folder)
  expected = getattr(prepared, name)[split]
  np.testing.assert_array_equal(images, expected[0])
  np.testing.assert_array_equal(labels, expected[1])
  assert (images.dtype, labels.dtype) == (np.uint8, np.int64)


@pytest.mark.parametrize("num_examples", [1, 12, 30])
def test_fewer_examples_are_the_first(prepared, num_examples):
  found = tfds.arrays("mnist", "train", num_examples=num_examples, data_dir=prepared.folder)
  for a, b in zip(found, prepared.mnist["train"], strict=True):
    np.testing.assert_array_equal(a, b[:num_examples])


@pytest.mark.parametrize("num_examples", [-1, 31])
def test_number_of_examples_is_limited(prepared, num_examples):
  message = f"num_examples: expected 1 to 30, or 0 for all, got {num_examples}"
  with pytest.raises(ValueError, match=message):
    tfds.arrays("mnist", "train", num_examples=num_examples, data_dir=prepared.folder)
