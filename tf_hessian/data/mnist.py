"""MNIST: the 1,000 digits of the package, or all of TFDS's."""

from __future__ import annotations

import hashlib
import os
import pathlib
from typing import Any

import numpy as np

from tf_hessian.data import source, tfds

NUM_CLASSES = 10
_SHA256 = "3c84ce7ee5e3a0f7aae4c6ab4d245e705e55a918b5526f2f598413a395fa1492"
_HERE = pathlib.Path(__file__).resolve()
# In a clone the file lies beside the package, in an installation inside it.
_FOLDERS = (_HERE.parents[2] / "third_party" / "mnist", _HERE.parents[1] / "third_party" / "mnist")


def arrays(*, num_examples: int = 1000) -> tuple[np.ndarray, np.ndarray]:
  """Returns (images, labels) of the first digits, whose classes are mixed.

  Args:
    num_examples: 1 to 1,000; all by default.

  Returns:
    images (num_examples, 784) float32 in [0, 1], labels (num_examples,) int64.

  Raises:
    ValueError: for more examples than there are, or a damaged file.
    FileNotFoundError: if the file is missing.
  """
  path = next((f / "mnist_1000.npz" for f in _FOLDERS if (f / "mnist_1000.npz").exists()), None)
  if path is None:
    raise FileNotFoundError(
      f"mnist_1000.npz is in none of {[str(f) for f in _FOLDERS]}: install tf_hessian again, or "
      "rebuild it with third_party/mnist/rebuild.py"
    )
  with open(path, "rb") as file:
    try:
      with np.load(file, allow_pickle=False) as saved:
        images, labels = saved["images"], saved["labels"]
    except Exception as e:  # damaged archives fail in many ways inside zipfile and NumPy
      raise ValueError(f"{path}: damaged ({e})") from e
  if hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest() != _SHA256:
    raise ValueError(f"{path}: wrong checksum: it is damaged or was changed")
  if not 1 <= num_examples <= len(images):
    raise ValueError(f"num_examples: expected 1 to {len(images)}, got {num_examples}")
  images = images[:num_examples].reshape(num_examples, -1).astype(np.float32) / 255
  return images, labels[:num_examples].astype(np.int64)


def mnist(
  *,
  num_examples: int = 0,
  bundled: bool = True,
  flatten: bool = True,
  dtype: str = "float32",
  data_dir: str | os.PathLike | None = None,
  download: bool = False,
) -> source.Source:
  """Returns digits as a `Source` of (image, one-hot target (10,)).

  Args:
    num_examples: the first so many; 0 for all there are.
    bundled: take the 1,000 that come with the package; else TFDS's 60,000, with its 10,000 to test.
    flatten: images are (784,); else (28, 28, 1), for convolutions.
    dtype: of both, "float32" or "float64".
    data_dir: folder with TFDS data sets; None for TFDS's own choice.
    download: fetch the data set if it isn't there.

  Raises:
    ValueError: for more examples than there are, or a damaged file.
    FileNotFoundError: if the data set is not there.
  """

  def finished(images, labels):
    shape = (784,) if flatten else (28, 28, 1)
    return images.reshape(-1, *shape).astype(dtype), np.eye(NUM_CLASSES, dtype=dtype)[labels]

  if bundled:
    return source.in_memory(*finished(*arrays(num_examples=num_examples or 1000)))
  where: dict[str, Any] = {"data_dir": data_dir, "download": download}
  images, labels = tfds.arrays("mnist", "train", num_examples=num_examples, **where)
  test_images, test_labels = tfds.arrays("mnist", "test", **where)
  return source.in_memory(
    *finished(images / np.float32(255), labels),
    test=finished(test_images / np.float32(255), test_labels),
  )
