"""What the studies share: where results go, and the networks that several of them measure."""

import dataclasses
import functools
import pathlib

from tf_hessian.experiments.configs import load_config
from tf_hessian.studies import small_model


@dataclasses.dataclass(frozen=True)
class Context:
  """Where a study finds its configs and data, and where it leaves what it makes.

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
  def work(self):
    """Folder of trained networks and of what is costly to compute; studies share it."""
    return self.out / "work"

  def config(self, name, /, **overrides):
    """Returns a config; see `experiments.configs.load_config`."""
    return load_config(self.configs / f"{name}.py", **overrides)

  @functools.cached_property
  def small_model(self):
    """The `SmallModel` of section B, computed once."""
    return small_model.prepare(
      self.config("mnist_mlp"), self.work / "small_model", progress=self.progress
    )
