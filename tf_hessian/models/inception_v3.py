"""Inception V3 (Szegedy et al. 2016, "Rethinking the Inception architecture")."""

from __future__ import annotations

import functools

import keras

from tf_hessian.models import normalization as norm


def inception_v3(
  *,
  num_classes: int = 1001,
  input_shape: tuple[int, int, int] = (299, 299, 3),
  normalization: str = "batch",
  auxiliary: bool = True,
  dropout_rate: float = 0.2,
  width: float = 1.0,
) -> keras.Model:
  """Builds an Inception V3 that returns logits, also of an auxiliary head.

  The head hangs on the last 17 x 17 map. With the defaults there are 27,145,970 trainable
  parameters; batch normalization has no scale, as in the original.

  Args:
    num_classes: number of logits; the original has 1,001, class 0 being "background".
    input_shape: (height, width, channels), at least 75 each way, with the head 107.
    normalization: "batch"; "population" for `PopulationNormalization`; "none" leaves it out and
      gives the convolutions biases.
    auxiliary: False leaves the auxiliary head out.
    dropout_rate: dropout before the logits; 0 adds no layer.
    width: factor of all numbers of channels.

  Returns:
    A built `keras.Model`: (batch, *input_shape) -> [(batch, num_classes)] * 2: logits, those of the
    head; without the head, one tensor.

  Raises:
    ValueError: for another normalization, or too small an input.
  """
  smallest = 107 if auxiliary else 75
  if min(input_shape[:2]) < smallest:
    raise ValueError(f"input_shape: expected at least {smallest} each way, got {input_shape}")
  conv = functools.partial(_convolution, normalization, width)
  inputs = keras.Input(input_shape, name="image")
  x = conv(inputs, 32, 3, "stem_1", stride=2, padding="valid")
  x = conv(x, 32, 3, "stem_2", padding="valid")
  x = conv(x, 64, 3, "stem_3")
  x = keras.layers.MaxPooling2D(3, 2, name="stem_pool_1")(x)
  x = conv(x, 80, 1, "stem_4", padding="valid")
  x = conv(x, 192, 3, "stem_5", padding="valid")
  x = keras.layers.MaxPooling2D(3, 2, name="stem_pool_2")(x)
  for i, pooled in enumerate((32, 64, 64), 1):
    x = _block_35(conv, x, pooled, f"block35_{i}")
  x = _reduction_35(conv, x, "reduction35")
  for i, channels in enumerate((128, 160, 160, 192), 1):
    x = _block_17(conv, x, channels, f"block17_{i}")
  outputs = [_auxiliary_head(conv, x, num_classes)] if auxiliary else []
  x = _reduction_17(conv, x, "reduction17")
  for i in (1, 2):
    x = _block_8(conv, x, f"block8_{i}")
  x = keras.layers.GlobalAveragePooling2D(name="average_pool")(x)
  if dropout_rate:
    x = keras.layers.Dropout(dropout_rate, name="dropout")(x)
  outputs = [keras.layers.Dense(num_classes, name="logits")(x), *outputs]
  return keras.Model(inputs, outputs if auxiliary else outputs[0], name="inception_v3")


def _convolution(normalization, width, x, filters, size, name, *, stride=1, padding="same"):
  x = keras.layers.Conv2D(
    max(1, round(width * filters)),
    size,
    strides=stride,
    padding=padding,
    use_bias=normalization == "none",
    name=f"{name}_conv",
  )(x)
  x = norm.normalize(
    x, normalization, name=f"{name}_bn", scale=False, momentum=0.9997, epsilon=1e-3
  )
  return keras.layers.ReLU(name=f"{name}_relu")(x)


def _pooled(conv, x, filters, name):
  x = keras.layers.AveragePooling2D(3, 1, padding="same", name=f"{name}_pool")(x)
  return conv(x, filters, 1, f"{name}_pool")


def _block_35(conv, x, pooled, name):
  """Builds four branches at 35 x 35.

  1 x 1, 5 x 5, two 3 x 3, pooling.
  """
  a = conv(x, 64, 1, f"{name}_1x1")
  b = conv(conv(x, 48, 1, f"{name}_5x5_1"), 64, 5, f"{name}_5x5_2")
  c = conv(conv(x, 64, 1, f"{name}_3x3_1"), 96, 3, f"{name}_3x3_2")
  c = conv(c, 96, 3, f"{name}_3x3_3")
  return keras.layers.Concatenate(name=name)([a, b, c, _pooled(conv, x, pooled, name)])


def _reduction_35(conv, x, name):
  """Reduces 35 x 35 to 17 x 17."""
  a = conv(x, 384, 3, f"{name}_3x3", stride=2, padding="valid")
  b = conv(conv(x, 64, 1, f"{name}_double_1"), 96, 3, f"{name}_double_2")
  b = conv(b, 96, 3, f"{name}_double_3", stride=2, padding="valid")
  c = keras.layers.MaxPooling2D(3, 2, name=f"{name}_pool")(x)
  return keras.layers.Concatenate(name=name)([a, b, c])


def _block_17(conv, x, channels, name):
  """Builds four branches at 17 x 17.

  Their 7 x 7 convolutions are 1 x 7 and 7 x 1.
  """
  a = conv(x, 192, 1, f"{name}_1x1")
  b = conv(x, channels, 1, f"{name}_7x7_1")
  b = conv(b, channels, (1, 7), f"{name}_7x7_2")
  b = conv(b, 192, (7, 1), f"{name}_7x7_3")
  c = conv(x, channels, 1, f"{name}_double_1")
  c = conv(c, channels, (7, 1), f"{name}_double_2")
  c = conv(c, channels, (1, 7), f"{name}_double_3")
  c = conv(c, channels, (7, 1), f"{name}_double_4")
  c = conv(c, 192, (1, 7), f"{name}_double_5")
  return keras.layers.Concatenate(name=name)([a, b, c, _pooled(conv, x, 192, name)])


def _reduction_17(conv, x, name):
  """Reduces 17 x 17 to 8 x 8."""
  a = conv(conv(x, 192, 1, f"{name}_3x3_1"), 320, 3, f"{name}_3x3_2", stride=2, padding="valid")
  b = conv(x, 192, 1, f"{name}_7x7_1")
  b = conv(b, 192, (1, 7), f"{name}_7x7_2")
  b = conv(b, 192, (7, 1), f"{name}_7x7_3")
  b = conv(b, 192, 3, f"{name}_7x7_4", stride=2, padding="valid")
  c = keras.layers.MaxPooling2D(3, 2, name=f"{name}_pool")(x)
  return keras.layers.Concatenate(name=name)([a, b, c])


def _block_8(conv, x, name):
  """Builds four branches at 8 x 8.

  Two of them end side by side in 1 x 3 and 3 x 1.
  """
  a = conv(x, 320, 1, f"{name}_1x1")
  b = conv(x, 384, 1, f"{name}_3x3_1")
  b = [conv(b, 384, (1, 3), f"{name}_3x3_2a"), conv(b, 384, (3, 1), f"{name}_3x3_2b")]
  c = conv(conv(x, 448, 1, f"{name}_double_1"), 384, 3, f"{name}_double_2")
  c = [conv(c, 384, (1, 3), f"{name}_double_3a"), conv(c, 384, (3, 1), f"{name}_double_3b")]
  return keras.layers.Concatenate(name=name)([a, *b, *c, _pooled(conv, x, 192, name)])


def _auxiliary_head(conv, x, num_classes):
  x = keras.layers.AveragePooling2D(5, 3, name="auxiliary_pool")(x)
  x = conv(x, 128, 1, "auxiliary_1")
  # As large as the map: 5 x 5 at an input of 299 x 299.
  x = conv(x, 768, tuple(x.shape[1:3]), "auxiliary_2", padding="valid")
  x = keras.layers.Flatten(name="auxiliary_flatten")(x)
  return keras.layers.Dense(num_classes, name="auxiliary_logits")(x)
