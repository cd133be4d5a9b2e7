"""Folders, options and the small model that studies share."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

from ml_collections import ConfigDict

from tf_hessian.experiments.configs import load_config
from tf_hessian.studies import small_model


@dataclasses.dataclass(frozen=True)
class Context:
  """Folders of configs, data and results, and options, of a study.

  Attributes:
    out: folder of the results: a JSON file and pictures for each figure.
    configs: folder of the configs.
    data_dir: folder with TFDS data sets; None for TFDS's own choice.
    download: fetch a data set that isn't there.
    progress: show progress.
  """

  out: pathlib.Path
  configs: pathlib.Path = pathlib.Path("configs")
  data_dir: str | None = None
  download: bool = False
  progress: bool = True

  @property
  def work(self) -> pathlib.Path:
    """Folder of trained networks and costly numbers, which studies share."""
    return self.out / "work"

  def config(self, name: str, /, **overrides: Any) -> ConfigDict:
    """Loads a config of the folder, with values replaced."""
    return load_config(self.configs / f"{name}.py", **overrides)

  @functools.cached_property
  def small_model(self) -> small_model.SmallModel:
    """The `SmallModel` of section B, computed once."""
    return small_model.prepare(
      self.config("mnist_mlp"), self.work / "small_model", progress=self.progress
    )
