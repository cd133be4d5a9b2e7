"""The weights that a measurement is of, and where its results go.

Imports no TensorFlow: it is looked at before that is imported, which takes seconds.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import pathlib
from typing import Any

from tf_hessian.training import steps


@dataclasses.dataclass(frozen=True)
class Weights:
  """Choices of the weights that are measured.

  By default they are the trained ones of the config's model.

  Attributes:
    checkpoint: path of a model to measure instead, or None.
    initial: whether the initial weights are measured instead.
    step: number of the step of training whose checkpoint is measured instead, or None.
    all_steps: whether those of all steps are, one after the other.

  Raises:
    ValueError: for choices that exclude each other.
  """

  checkpoint: str | os.PathLike | None = None
  initial: bool = False
  step: int | None = None
  all_steps: bool = False

  def __post_init__(self) -> None:
    if sum(map(bool, (self.checkpoint, self.initial, self.step is not None, self.all_steps))) > 1:
      raise ValueError("checkpoint, initial, step and all_steps exclude each other")

  @property
  def by_step(self) -> bool:
    """Whether they are of checkpoints of steps."""
    return self.all_steps or self.step is not None

  def of_workdir(self, config: dict[str, Any], /) -> bool:
    """Whether they are those that a training has left.

    The training is that of a config, of plain values, in its folder.
    """
    own_file = config["model"].get("name") == "keras_file" and "train" not in config
    return self.by_step or not (self.initial or self.checkpoint or own_file)

  def folder(self, workdir: str | os.PathLike, /) -> pathlib.Path:
    """Returns the folder of the results, of a single measurement."""
    if self.step is not None:
      return step_folder(workdir, self.step)
    return pathlib.Path(workdir, "spectrum_initial" if self.initial else "spectrum")

  def saved(self, workdir: str | os.PathLike, /) -> dict[int, pathlib.Path]:
    """Returns the checkpoints of the measured steps: number -> path, ascending.

    Raises:
      FileNotFoundError: if there are none, or none of the step.
    """
    found = steps.saved_steps(workdir)
    if not found:
      raise FileNotFoundError(
        f"{workdir}: there are no checkpoints of steps; name them in "
        "config.train.checkpoint_steps, and train"
      )
    if self.all_steps:
      return found
    if self.step not in found:
      raise FileNotFoundError(
        f"{workdir}: there is no checkpoint of step {self.step}; there are "
        f"{', '.join(map(str, found))}"
      )
    return {self.step: found[self.step]}

  def look(self, config: dict[str, Any], workdir: str | os.PathLike, /) -> None:
    """Looks whether the files are there.

    Args:
      config: the experiment's, plain values.
      workdir: its folder.

    Raises:
      FileNotFoundError, ValueError: names what is not there.
    """
    trained = pathlib.Path(workdir, "model.keras")
    own_file = config["model"].get("name") == "keras_file"
    if self.checkpoint is not None:
      check_model_file("checkpoint", self.checkpoint)
    elif self.by_step:
      self.saved(workdir)
    elif own_file and self.initial and "train" not in config:
      raise ValueError(
        "initial: of a model from a file the weights are those of the file; leave this out, and "
        "they are measured"
      )
    elif own_file and (self.initial or "train" not in config):
      check_model_file("config.model.path", config["model"].get("path", ""))
    elif not self.initial and not os.path.exists(trained):
      raise FileNotFoundError(f"{trained}: there is no such checkpoint; train the model first")


def step_folder(workdir: str | os.PathLike, step: int, /) -> pathlib.Path:
  """Returns the folder of the results of a step's checkpoint."""
  return pathlib.Path(workdir, "spectra", steps.name(step))


def check_model_file(name: str, path: str | os.PathLike, /) -> None:
  """Raises FileNotFoundError or ValueError unless a model can be there.

  The error names the argument.
  """
  if not os.path.exists(path):
    raise FileNotFoundError(
      f"{name}: there is no such checkpoint: {path}{nearest_file(path)}; it is what model.save or "
      "training has written"
    )
  if os.path.isdir(path):
    raise ValueError(f"{name}: expected a .keras file, got a folder: {path}")


def nearest_file(path: str | os.PathLike, /) -> str:
  """Returns "; did you mean x?" for the nearest file.

  It is the one of the same folder whose name is nearest; "" if there is none.
  """
  path = pathlib.Path(path)
  try:
    names = [p.name for p in path.parent.iterdir()]
  except OSError:
    return ""
  near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.8)
  return f"; did you mean {path.with_name(near[0])}?" if near else ""
