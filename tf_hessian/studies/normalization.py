"""Trainings on CIFAR-10 that normalise in different ways (section G)."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import keras
from ml_collections import ConfigDict

from tf_hessian.curvature import keras_internals
from tf_hessian.experiments import experiment
from tf_hessian.experiments.train import train
from tf_hessian.studies.context import Context
from tf_hessian.training import folder as training_folder
from tf_hessian.training import record
from tf_hessian.training.train import DivergedError

CONFIG = "cifar10_small_resnet"
SETTLING = 50  # batches whose statistics are averaged


@dataclasses.dataclass(frozen=True)
class Variant:
  """One way of normalising, and how it is trained and measured."""

  name: str
  normalization: str
  learning_rate: float
  zero_steps: int = 0
  training: bool = False  # of the measurement: True for batch statistics

  def config(self, context: Context, seed: int) -> ConfigDict:
    """Returns the config of a training and its measurement."""
    config = context.config(
      CONFIG,
      seed=seed,
      model={"normalization": self.normalization},
      train={"learning_rate": self.learning_rate, "zero_steps": self.zero_steps},
      hessian={"training": self.training},
    )
    if self.zero_steps:  # the steps that learn are the same; the first checkpoint is before them
      with config.unlocked():
        for field in ("decay_steps", "checkpoint_steps"):
          config.train[field] = tuple(s + self.zero_steps for s in config.train[field])
        config.train.steps += self.zero_steps
    return config

  def folder(self, context: Context, seed: int) -> pathlib.Path:
    """Returns the folder of a training and of its measurements."""
    return context.work / "batch_norm" / f"{self.name.replace(' ', '_')}_seed_{seed}"

  def train(self, context: Context, seed: int) -> pathlib.Path:
    """Trains where that is left to do; returns the folder."""
    return trained(context, self.config(context, seed), self.folder(context, seed))


def trained(context: Context, config: ConfigDict, folder: pathlib.Path) -> pathlib.Path:
  """Trains where that is left to do; returns the folder.

  Notes what it cost, whenever that was.

  Raises:
    DivergedError: if the loss is not finite; its log is in the folder up to there.
  """

  def make():
    try:
      train(config, folder, data_dir=context.data_dir, download=context.download)
    except DivergedError as e:
      return log(folder), e
    return log(folder), None

  def seconds(made):
    return made[0][-1].get("seconds", 0.0) if made[0] else 0.0

  _, error = context.costs.take(str(folder), make, seconds)
  if error is not None:
    raise error
  return folder


def end(config: ConfigDict, folder: pathlib.Path, /) -> dict[str, Any]:
  """Returns the result of a finished training, as `train` did."""
  identity = training_folder.identity_of(experiment.check(config))
  return training_folder.finished(folder, identity) or {}


def settle(model: keras.Model, setup: experiment.Experiment, /) -> None:
  """Makes moving statistics those of the present weights.

  They become means over `SETTLING` batches of the training, as after steps at rate 0. While weights
  move, moving statistics lag behind them.
  """
  layers = [
    layer
    for layer in keras_internals.layers_of(model)
    if isinstance(layer, keras.layers.BatchNormalization)
  ]
  momenta = [layer.momentum for layer in layers]
  size = setup.config["train"]["batch_size"]
  try:
    for i, batch in enumerate(setup.source.batches(0, 0, size).take(SETTLING)):
      for layer in layers:
        layer.momentum = i / (i + 1)
      model(batch[0], training=True)
  finally:
    for layer, momentum in zip(layers, momenta, strict=True):
      layer.momentum = momentum


def log(folder: pathlib.Path) -> list[dict]:
  """Returns the rows of a training's log, if it has one."""
  return record.read(folder) if (folder / "train.csv").exists() else []


WITHOUT = Variant("without", "none", 0.1)
BATCH = Variant("batch statistics", "batch", 0.1, training=True)
# Section G: a hundredth of the learning rate, and 400 steps at learning rate 0 first.
POPULATION = Variant("population statistics", "population", 0.001, 400)
SLOW_BATCH = Variant("batch statistics, same rate", "batch", 0.001, 400, training=True)
