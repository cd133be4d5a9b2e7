"""The bundled digits, what happens when their file is damaged, and those of TFDS."""

import hashlib
import pathlib
import shutil

import numpy as np
import pytest

from tf_hessian.data import mnist

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "third_party" / "mnist"
FILE = FOLDER / "mnist_1000.npz"


@pytest.fixture(scope="module")
def digits():
  return mnist.arrays()


@pytest.fixture
def copy(tmp_path, monkeypatch):
  """The path of a copy of the file, which is read instead of it."""
  monkeypatch.setattr(mnist, "_FOLDERS", (tmp_path,))
  return pathlib.Path(shutil.copy(FILE, tmp_path))


def read(dataset):
  return tuple(np.stack(a) for a in zip(*dataset.as_numpy_iterator(), strict=True))


def test_metadata_has_the_checksum_of_the_file():
  lines = (FOLDER / "METADATA").read_text().splitlines()
  assert f"sha256: {hashlib.sha256(FILE.read_bytes()).hexdigest()}" in lines


def test_metadata_has_the_checksum_of_the_contents():
  assert mnist._SHA256 in (FOLDER / "METADATA").read_text()


def test_digits_have_their_shapes_and_types(digits):
  images, labels = digits
  assert (images.shape, images.dtype) == ((1000, 784), np.float32)
  assert (labels.shape, labels.dtype) == ((1000,), np.int64)


def test_pixels_lie_between_zero_and_one(digits):
  assert (digits[0].min(), digits[0].max()) == (0, 1)


def test_each_digit_comes_a_hundred_times(digits):
  assert np.bincount(digits[1]).tolist() == [100] * 10


def test_classes_are_mixed(digits):
  assert all(len(set(part)) == 10 for part in np.split(digits[1], 10))


@pytest.mark.parametrize("num_examples", [1, 7, 1000])
def test_fewer_digits_are_the_first(digits, num_examples):
  images, labels = mnist.arrays(num_examples=num_examples)
  np.testing.assert_array_equal(images, digits[0][:num_examples])
  np.testing.assert_array_equal(labels, digits[1][:num_examples])


@pytest.mark.parametrize("num_examples", [0, -1, 1001])
def test_number_of_digits_is_limited(num_examples):
  with pytest.raises(ValueError, match=f"num_examples: expected 1 to 1000, got {num_examples}"):
    mnist.arrays(num_examples=num_examples)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_data_set_has_the_digits_in_order(digits, dtype):
  found = list(mnist.mnist(num_examples=20, dtype=dtype).examples.as_numpy_iterator())
  assert len(found) == 20
  for (image, target), pixels, label in zip(found, *digits, strict=False):
    assert image.dtype == target.dtype == dtype
    np.testing.assert_array_equal(image, pixels.astype(dtype))
    np.testing.assert_array_equal(target, np.eye(10)[label])


def test_copy_of_the_file_is_read(copy, digits):
  assert copy.exists()
  np.testing.assert_array_equal(mnist.arrays()[0], digits[0])


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("array", ["images", "labels"])
def test_changed_digits_are_refused(copy, array):
  with np.load(FILE) as saved:
    arrays = dict(saved)
  arrays[array].flat[-1] ^= 1
  np.savez_compressed(copy, **arrays)
  with pytest.raises(ValueError, match=f"{copy}: wrong checksum"):
    mnist.arrays()


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("part", [0, 0.3, 0.99])
def test_truncated_file_is_refused(copy, part):
  content = FILE.read_bytes()
  copy.write_bytes(content[: int(part * len(content))])
  with pytest.raises(ValueError, match=str(copy)):
    mnist.arrays()


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_file_with_a_flipped_byte_is_refused(copy, part):
  content = bytearray(FILE.read_bytes())
  content[int(part * len(content))] ^= 0xFF
  copy.write_bytes(content)
  with pytest.raises(ValueError, match=str(copy)):
    mnist.arrays()


def test_missing_file_names_the_remedy(copy):
  copy.unlink()
  with pytest.raises(FileNotFoundError, match="rebuild"):
    mnist.arrays()


def test_images_may_keep_their_shape():
  flat = next(iter(mnist.mnist(num_examples=3).examples))[0]
  image = next(iter(mnist.mnist(num_examples=3, flatten=False).examples))[0]
  assert image.shape == (28, 28, 1)
  np.testing.assert_array_equal(np.ravel(image), flat)


def test_zero_stands_for_all_bundled_digits(digits):
  source = mnist.mnist(num_examples=0)
  assert source.num_examples == len(digits[0]) == 1000


def test_bundled_digits_have_no_test_set():
  assert mnist.mnist(num_examples=3).test is None


# Those of TFDS.


@pytest.mark.parametrize("part, split", [("examples", "train"), ("test", "test")])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_digits_of_tfds_are_read_in_order(prepared, part, split, dtype):
  options = {"bundled": False, "num_examples": 0, "dtype": dtype, "data_dir": prepared.folder}
  images, targets = read(getattr(mnist.mnist(**options), part))
  expected, labels = prepared.mnist[split]
  assert images.dtype == targets.dtype == dtype
  np.testing.assert_allclose(images, expected.reshape(-1, 784) / 255, rtol=1e-6)
  np.testing.assert_array_equal(targets, np.eye(10)[labels])


@pytest.mark.parametrize("part, split", [("examples", "train"), ("test", "test")])
def test_images_of_tfds_may_keep_their_shape(prepared, part, split):
  options = {"bundled": False, "num_examples": 0, "data_dir": prepared.folder}
  images, _ = read(getattr(mnist.mnist(flatten=False, **options), part))
  np.testing.assert_allclose(images, prepared.mnist[split][0] / 255, rtol=1e-6)


def test_fewer_digits_of_tfds_are_the_first_and_the_test_set_stays_whole(prepared):
  source = mnist.mnist(bundled=False, num_examples=7, data_dir=prepared.folder)
  assert (source.num_examples, int(source.test.cardinality())) == (7, 12)
  np.testing.assert_array_equal(
    np.argmax(read(source.examples)[1], axis=1), prepared.mnist["train"][1][:7]
  )


def test_number_of_digits_of_tfds_is_limited(prepared):
  with pytest.raises(ValueError, match="num_examples: expected 1 to 30, or 0 for all, got 31"):
    mnist.mnist(bundled=False, num_examples=31, data_dir=prepared.folder)


def test_missing_set_of_tfds_is_said_to_be_missing(tmp_path):
  with pytest.raises(FileNotFoundError, match="data set mnist"):
    mnist.mnist(bundled=False, data_dir=tmp_path)


def test_real_set_has_its_size_and_mean(real):
  source = mnist.mnist(bundled=False, num_examples=0, data_dir=real)
  assert (source.num_examples, int(source.test.cardinality())) == (60_000, 10_000)
  batches = source.examples.batch(1000).as_numpy_iterator()
  mean = np.mean([images.mean(dtype=np.float64) for images, _ in batches])
  np.testing.assert_allclose(255 * mean, 33.318, atol=1e-3)
