"""The task of a training: its losses, and whether its outputs are classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
import functools
import math
from typing import Any

import keras
import tensorflow as tf

_EVALUATED_AT_ONCE = 500


class Task:
  """The loss of a model's outputs, which have the same targets.

  Args:
    loss: a `keras.losses.Loss` with the reduction "sum_over_batch_size"; None for what a model was
      compiled with, which can't be measured here.
    weights: coefficient of each output's loss; () for a single output.
    classes: number of classes, if the targets are one-hot; 0 if not.

  Attributes:
    lowest: the smallest value that the loss can have: the entropy of smoothed targets, or 0.
  """

  def __init__(self, loss: Any, /, *, weights: Iterable[float] = (), classes: int = 0) -> None:
    self.loss = loss
    self.weights = tuple(weights) or (1.0,)
    self.classes = classes
    self.lowest = sum(self.weights) * _lowest(loss, classes)

  def measure(
    self, model: keras.Model, inputs: Any, targets: tf.Tensor, /, *, training: bool
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (mean loss of a batch, number of right classes), scalars."""
    outputs = tf.nest.flatten(model(inputs, training=training))
    if len(outputs) != len(self.weights):
      raise ValueError(
        f"config.loss.weights: expected one for each of the model's {len(outputs)} outputs, got "
        f"{len(self.weights)}"
      )
    # Not the loss's __call__, which divides by the number of replicas as well.
    losses = [
      w * tf.reduce_mean(self.loss.call(targets, y))
      for w, y in zip(self.weights, outputs, strict=True)
    ]
    # Losses that layers add are part of it.
    loss = tf.add_n([tf.cast(x, losses[0].dtype) for x in [*losses, *model.losses]])
    right = tf.zeros((), tf.int64)
    if self.classes:
      right = tf.math.count_nonzero(tf.argmax(outputs[0], -1) == tf.argmax(targets, -1))
    return loss, right

  def evaluator(
    self, model: keras.Model, examples: tf.data.Dataset, /, *, most: int = 0
  ) -> Callable[[], dict[str, float]]:
    """Returns a function () -> `summary` of the model.

    The model is out of training mode.

    Args:
      model: a Keras model on one device.
      examples: data set of single examples.
      most: the first so many of them; 0 for all.
    """
    if most:
      examples = examples.take(most)
    batches = examples.batch(_EVALUATED_AT_ONCE).prefetch(2)

    def add(sums, batch):
      loss, right = self.measure(model, *batch, training=False)
      size = tf.cast(tf.shape(batch[1])[0], tf.float64)
      return sums + tf.stack([tf.cast(loss, tf.float64) * size, tf.cast(right, tf.float64), size])

    # partial() gives each its own identity; TensorFlow counts the traces of a function together.
    total = tf.function(
      functools.partial(batches.reduce, tf.zeros(3, tf.float64), add), autograph=False
    )

    def evaluate():
      loss, right, size = total().numpy().tolist()
      return self.summary(loss / size, right / size)

    return evaluate

  def summary(self, loss: float, accuracy: float, /) -> dict[str, float]:
    """Returns a dict of loss, excess and accuracy.

    There is an excess if the lowest loss isn't 0, and an accuracy if there are classes.
    """
    result = {"loss": loss}
    if self.lowest:
      result["excess"] = loss - self.lowest
    if self.classes:
      result["accuracy"] = accuracy
    return result


def _lowest(loss, classes):
  smoothing = getattr(loss, "label_smoothing", 0.0)
  if not (classes and smoothing and isinstance(loss, keras.losses.CategoricalCrossentropy)):
    return 0.0
  return smoothed_entropy(smoothing, classes)


def smoothed_entropy(smoothing: float, classes: int, /) -> float:
  """Returns the entropy, in nats, of smoothed one-hot targets.

  It is the lowest cross entropy there is: 0.5003 for 0.1 and ten classes, whose targets are 0.91
  and 0.01. Section F of the paper says 0.509.
  """
  rest = smoothing / classes
  first = 1 - smoothing + rest
  return -first * math.log(first) - (classes - 1) * rest * math.log(rest)
