"""Data sets of `tensorflow_datasets`, found or downloaded."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
  from tensorflow_datasets.core import DatasetBuilder


def builder(
  name: str, /, *, data_dir: str | os.PathLike | None = None, download: bool = False
) -> DatasetBuilder:
  """Returns the TFDS builder of a prepared data set.

  Args:
    name: TFDS's name.
    data_dir: folder with TFDS data sets; None for TFDS's own choice.
    download: prepare it first if it isn't there, by a download if it has to be.

  Raises:
    FileNotFoundError: if it isn't there, or can't be prepared, with what to do.
    OSError: if TFDS itself can't be loaded.
  """
  try:
    import tensorflow_datasets as tfds  # slow to import, and not needed for bundled data
    from tensorflow_datasets.core.download import download_manager, extractor
  except Exception as e:  # by versions of its own needs that don't agree, which fail in many ways
    raise OSError(
      f"data set {name}: tensorflow_datasets can't be loaded ({' '.join(str(e).split())[:300]}); "
      "where it is a matter of protobuf, pip install 'tensorflow-metadata<1.18' may help"
    ) from e
  found = tfds.builder(name, data_dir=data_dir)
  if found.is_prepared():
    return found
  where = pathlib.Path(found.data_dir).parents[1]
  if not download:
    raise FileNotFoundError(
      f"data set {name}: not in {where}; point --data_dir to a folder that has "
      f"{name}/{found.version}, or add --download to fetch it{_BY_HAND.get(name, '')}"
    )
  try:
    found.download_and_prepare()
  except (
    OSError,
    AssertionError,
    tfds.download.DownloadError,
    download_manager.NonMatchingChecksumError,
    extractor.ExtractError,
  ) as e:
    reason = str(e).strip().split("\n")[0]
    raise FileNotFoundError(
      f"data set {name}: it can't be fetched to {where} ({reason}){_BY_HAND.get(name, '')}; or "
      f"point --data_dir to a folder that has {name}/{found.version}"
    ) from e
  return found


_BY_HAND = {
  "imagenet2012": (
    "; its archives ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar need an account at "
    "image-net.org and belong into the folder downloads/manual there"
  )
}


def arrays(
  name: str, split: str, /, *, num_examples: int = 0, **where: Any
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the images and labels of the first examples of a split.

  Args:
    name: TFDS's name of the data set.
    split: such as "train".
    num_examples: how many, in the order of the split; 0 for all.
    **where: `data_dir` and `download`, as for `builder`.

  Returns:
    (images uint8, labels int64).

  Raises:
    FileNotFoundError: if the data set is not there, or can't be prepared.
    ValueError: if there are not so many.
  """
  found = builder(name, **where)
  count = check_num_examples(num_examples, found.info.splits[split].num_examples)
  read = found.as_dataset(split=f"{split}[:{count}]", batch_size=1000)
  parts = [(e["image"], e["label"]) for e in read.as_numpy_iterator()]
  images, labels = (np.concatenate(p) for p in zip(*parts, strict=True))
  return images, labels


def check_num_examples(wanted: int, there: int, /) -> int:
  """Returns the number of examples to take, all for 0.

  Raises:
    ValueError: if there are fewer.
  """
  if not 0 <= wanted <= there:
    raise ValueError(f"num_examples: expected 1 to {there}, or 0 for all, got {wanted}")
  return wanted or there
