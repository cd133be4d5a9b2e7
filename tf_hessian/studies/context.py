"""Folders, options and the small models that studies share."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from ml_collections import ConfigDict

from tf_hessian.experiments.configs import load_config
from tf_hessian.studies import small_model as small_model_lib
from tf_hessian.studies.pieces import Costs

# In words: `Context.trained_model`.
TRAINED = "the network of configs/mnist_mlp.py, trained to its end"
# Config of a small model -> its folder.
FOLDERS = {"mnist_mlp_early": "small_model_early", "mnist_mlp": "small_model"}


@dataclasses.dataclass(frozen=True)
class Context:
  """Folders of configs, data and results, and options, of a study.

  Attributes:
    out: folder of the results: a JSON file and pictures for each figure.
    configs: folder of the configs.
    data_dir: folder with TFDS data sets; None for TFDS's own choice.
    download: fetch a data set that isn't there.
    progress: show progress.
    costs: seconds of the study that is made.
  """

  out: pathlib.Path
  configs: pathlib.Path = pathlib.Path("configs")
  data_dir: str | None = None
  download: bool = False
  progress: bool = True
  costs: Costs = dataclasses.field(default_factory=Costs, compare=False)
  _models: dict = dataclasses.field(default_factory=dict, repr=False, compare=False)

  @property
  def work(self) -> pathlib.Path:
    """Folder of trained networks and costly numbers, which studies share."""
    return self.out / "work"

  def config(self, name: str, /, **overrides: Any) -> ConfigDict:
    """Loads a config of the folder, with values replaced."""
    return load_config(self.configs / f"{name}.py", **overrides)

  @property
  def small_model(self) -> small_model_lib.SmallModel:
    """The `SmallModel` of section B, with a spectrum of the paper's range."""
    return self._prepared("mnist_mlp_early")

  @property
  def trained_model(self) -> small_model_lib.SmallModel:
    """The `SmallModel` that is trained to the end."""
    return self._prepared("mnist_mlp")

  def _prepared(self, config):
    """Returns the `SmallModel` of a config, computed once; notes its cost."""

    def make():
      if config not in self._models:
        self._models[config] = small_model_lib.prepare(
          self.config(config), self.work / FOLDERS[config], progress=self.progress
        )
      return self._models[config]

    return self.costs.take(config, make, lambda made: made.seconds)
