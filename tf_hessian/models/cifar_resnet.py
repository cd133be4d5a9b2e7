"""Residual networks for CIFAR-10 (He et al. 2016, section 4.2)."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_hessian.models import normalization as norm


@keras.saving.register_keras_serializable(package="tf_hessian")
class PaddedShortcut(keras.layers.Layer):
  """Identity shortcut to a smaller, deeper map.

  It subsamples, then pads channels with zeros. It is option A of He et al. (2016), which has no
  parameters. (batch, h, w, c) becomes (batch, ceil(h / stride), ceil(w / stride), filters), the new
  channels split over both ends.
  """

  def __init__(self, filters: int, *, stride: int = 1, **kwargs: Any) -> None:
    super().__init__(**kwargs)
    self.filters = filters
    self.stride = stride

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    x = inputs[:, :: self.stride, :: self.stride, :]
    missing = self.filters - inputs.shape[-1]
    return keras.ops.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))

  def get_config(self) -> dict[str, Any]:
    return super().get_config() | {"filters": self.filters, "stride": self.stride}


def cifar_resnet(
  *,
  depth: int = 32,
  num_classes: int = 10,
  input_shape: tuple[int, int, int] = (32, 32, 3),
  normalization: str = "batch",
  residual: bool = True,
  width: int = 16,
  dropout_rate: float = 0.0,
) -> keras.Model:
  """Builds a ResNet for small images, which returns logits.

  Depth 32 has 464,154 trainable parameters with batch norm.

  Args:
    depth: number of weight layers, 6n + 2.
    num_classes: number of logits.
    input_shape: (height, width, channels).
    normalization: "batch"; "population" for `PopulationNormalization`; "none" leaves it out and
      gives the convolutions biases.
    residual: False leaves the shortcuts out.
    width: channels of the first stage; the next two have twice and four times as many.
    dropout_rate: dropout before the logits; 0 adds no layer.

  Returns:
    A built `keras.Model`: (batch, *input_shape) -> (batch, num_classes).

  Raises:
    ValueError: if depth is not 6n + 2 with n >= 1, or for another normalization.
  """
  if depth < 8 or (depth - 2) % 6:
    raise ValueError(f"depth of a CIFAR ResNet must be 6n + 2 with n >= 1, got {depth}")

  plain = normalization == "none"

  def convolution(x, filters, name, *, stride=1):
    x = keras.layers.Conv2D(
      filters,
      3,
      strides=stride,
      padding="same",
      use_bias=plain,
      # Without normalization, He's factor of 2 makes the residual sums explode.
      kernel_initializer=keras.initializers.VarianceScaling(1.0 if plain else 2.0),
      name=f"{name}_conv",
    )(x)
    return norm.normalize(x, normalization, name=f"{name}_bn")

  def block(x, filters, name, *, stride):
    y = convolution(x, filters, f"{name}_1", stride=stride)
    y = keras.layers.ReLU(name=f"{name}_1_relu")(y)
    y = convolution(y, filters, f"{name}_2")
    if residual:
      if stride > 1:
        x = PaddedShortcut(filters, stride=stride, name=f"{name}_shortcut")(x)
      y = keras.layers.Add(name=f"{name}_add")([x, y])
    return keras.layers.ReLU(name=f"{name}_2_relu")(y)

  inputs = keras.Input(input_shape, name="image")
  x = convolution(inputs, width, "stem")
  x = keras.layers.ReLU(name="stem_relu")(x)
  for stage, filters in enumerate((width, 2 * width, 4 * width), 1):
    for i in range(1, (depth - 2) // 6 + 1):
      stride = 2 if stage > 1 and i == 1 else 1
      x = block(x, filters, f"stage{stage}_block{i}", stride=stride)
  x = keras.layers.GlobalAveragePooling2D(name="average_pool")(x)
  if dropout_rate:
    x = keras.layers.Dropout(dropout_rate, name="dropout")(x)
  logits = keras.layers.Dense(num_classes, name="logits")(x)
  return keras.Model(inputs, logits, name=f"cifar_resnet{depth}")
