"""Learning rates over the steps of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

SCHEDULES = ("constant", "steps", "exponential")


@keras.saving.register_keras_serializable(package="tf_hessian")
class Delayed(keras.optimizers.schedules.LearningRateSchedule):
  """A schedule that is 0 for the first steps.

  Args:
    schedule: a Keras schedule; it is given the number of the step, the zeros counted.
    zero_steps: number of steps at learning rate 0.
  """

  def __init__(
    self, schedule: keras.optimizers.schedules.LearningRateSchedule, zero_steps: int
  ) -> None:
    self.schedule = schedule
    self.zero_steps = zero_steps

  def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
    rate = self.schedule(step)
    return keras.ops.where(step < self.zero_steps, keras.ops.zeros_like(rate), rate)

  def get_config(self) -> dict[str, Any]:
    schedule = keras.saving.serialize_keras_object(self.schedule)
    return {"schedule": schedule, "zero_steps": self.zero_steps}

  @classmethod
  def from_config(cls, config: dict[str, Any]) -> Delayed:
    schedule = keras.saving.deserialize_keras_object(config["schedule"])
    return cls(schedule, config["zero_steps"])


def learning_rate(config: Mapping[str, Any], /) -> keras.optimizers.schedules.LearningRateSchedule:
  """Returns the Keras schedule that `config.train` describes.

  Args:
    config: dict: learning_rate; schedule, one of `SCHEDULES`: "constant", "steps" (multiplied by
      decay_factor at each of decay_steps), "exponential" (by decay_factor over each decay_steps[0],
      smoothly); zero_steps, for which it is 0 at the beginning.

  Raises:
    ValueError: for another schedule, or decay_steps that don't fit it.
  """
  rate, kind = config["learning_rate"], config["schedule"]
  steps, factor = list(config["decay_steps"]), config["decay_factor"]
  schedules = keras.optimizers.schedules
  if kind == "constant":
    schedule = schedules.PiecewiseConstantDecay([0], [rate, rate])
  elif kind == "steps":
    if not steps or steps != sorted(set(steps)):
      raise ValueError(f"config.train.decay_steps: expected ascending steps, got {steps}")
    rates = [rate * factor**i for i in range(len(steps) + 1)]
    # Keras changes the rate after a boundary's step; here the step itself has the new rate.
    schedule = schedules.PiecewiseConstantDecay([s - 1 for s in steps], rates)
  elif kind == "exponential":
    if len(steps) != 1:
      raise ValueError(f"config.train.decay_steps: expected one number of steps, got {steps}")
    schedule = schedules.ExponentialDecay(rate, steps[0], factor)
  else:
    raise ValueError(f"config.train.schedule: expected one of {', '.join(SCHEDULES)}, got {kind!r}")
  return Delayed(schedule, config["zero_steps"]) if config["zero_steps"] else schedule


def scaled(config: Mapping[str, Any], scale: float, /) -> dict[str, Any]:
  """Returns `config.train` with its schedule shortened: numbers of steps multiplied by `scale`.

  The steps at learning rate 0 stay as they are, since statistics settle at their own pace, and so
  does how often is logged.
  """

  def times(steps):
    return max(1, round(steps * scale)) if steps else 0

  config = dict(config)
  for field in ("steps", "max_steps", "test_every"):
    config[field] = times(config[field])
  for field in ("decay_steps", "checkpoint_steps"):
    config[field] = tuple(sorted({times(s) for s in config[field]}))
  return config
