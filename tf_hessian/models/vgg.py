"""VGG-11 for small images, as in section F.

It is configuration A of Simonyan and Zisserman (2015).
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from tf_hessian.models import normalization as norm

_STAGES = (
  (1,),
  (2,),
  (4, 4),
  (8, 8),
  (8, 8),
)  # channels of each convolution, in units of the width


def vgg11(
  *,
  dense_units: int = 256,
  num_classes: int = 10,
  input_shape: tuple[int, int, int] = (32, 32, 3),
  normalization: str = "none",
  pooled_stages: Sequence[int] = (1, 2, 3),
  width: int = 64,
  dropout_rate: float = 0.0,
) -> keras.Model:
  """Builds a VGG-11 that returns logits.

  The paper cuts the two fully connected layers to 256 units and counts more than 10 million
  parameters, which five poolings don't give (9.42 million); pooling after the first three of the
  five stages gives 11,386,250. See docs/training.md.

  Args:
    dense_units: units of the two fully connected layers; the paper compares with 2,048.
    num_classes: number of logits.
    input_shape: (height, width, channels).
    normalization: "none"; "batch"; "population" for `PopulationNormalization`. It comes after each
      convolution, which then has no bias.
    pooled_stages: the stages, of 1 to 5, that end with a max pooling.
    width: channels of the first convolution.
    dropout_rate: dropout after each fully connected layer; 0 adds no layer.

  Returns:
    A built `keras.Model`: (batch, *input_shape) -> (batch, num_classes).

  Raises:
    ValueError: for another normalization, or a stage that is not there.
  """
  if not set(pooled_stages) <= set(range(1, 6)):
    raise ValueError(f"pooled_stages: expected stages of 1 to 5, got {pooled_stages}")
  inputs = x = keras.Input(input_shape, name="image")
  for stage, widths in enumerate(_STAGES, 1):
    for i, factor in enumerate(widths, 1):
      name = f"stage{stage}_{i}"
      x = keras.layers.Conv2D(
        width * factor,
        3,
        padding="same",
        use_bias=normalization == "none",
        name=f"{name}_conv",
      )(x)
      x = norm.normalize(x, normalization, name=f"{name}_bn")
      x = keras.layers.ReLU(name=f"{name}_relu")(x)
    if stage in pooled_stages:
      x = keras.layers.MaxPooling2D(2, name=f"stage{stage}_pool")(x)
  x = keras.layers.Flatten(name="flatten")(x)
  for i in (1, 2):
    x = keras.layers.Dense(dense_units, activation="relu", name=f"dense_{i}")(x)
    if dropout_rate:
      x = keras.layers.Dropout(dropout_rate, name=f"dropout_{i}")(x)
  logits = keras.layers.Dense(num_classes, name="logits")(x)
  return keras.Model(inputs, logits, name="vgg11")
