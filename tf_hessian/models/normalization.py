"""Batch normalization, with mini-batch or population statistics, or none."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="tf_hessian")
class PopulationNormalization(keras.layers.BatchNormalization):
  """Batch normalization by moving statistics in training too (section G).

  In training the mini-batch only moves the statistics, and no gradient flows through them. A step
  normalises by the statistics that the steps before it have left. They begin at mean 0 and variance
  1, so the first steps should not learn: the paper spends 400 steps at learning rate 0.
  """

  def __init__(self, *args: Any, **kwargs: Any) -> None:
    super().__init__(*args, **kwargs)
    if getattr(self, "renorm", False):  # of newer versions of Keras
      raise ValueError("renorm=True: has no meaning where a batch's statistics are not used")

  def call(
    self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
  ) -> tf.Tensor:
    outputs = super().call(inputs, training=False, mask=mask)
    if training and self.trainable:
      moments = self._moments(keras.ops.cast(inputs, self.moving_mean.dtype), mask)
      for moving, value in zip((self.moving_mean, self.moving_variance), moments, strict=True):
        moving.assign(moving * self.momentum + value * (1.0 - self.momentum))
    return outputs


NORMALIZATIONS = {
  "batch": keras.layers.BatchNormalization,
  "population": PopulationNormalization,
  "none": None,
}


def normalize(
  x: keras.KerasTensor, kind: str, /, *, name: str, **options: Any
) -> keras.KerasTensor:
  """Applies a kind of normalization; "none" returns x itself.

  Args:
    x: symbolic tensor (batch, height, width, channels).
    kind: one of `NORMALIZATIONS`.
    name: of the layer that it adds.
    **options: arguments of `keras.layers.BatchNormalization`.

  Raises:
    ValueError: if there is no such kind.
  """
  check(kind)
  return x if kind == "none" else NORMALIZATIONS[kind](name=name, **options)(x)


def check(kind: str, /) -> None:
  """Raises ValueError if there is no such kind of normalization."""
  if kind not in NORMALIZATIONS:
    raise ValueError(f"normalization: expected one of {', '.join(NORMALIZATIONS)}, got {kind!r}")
