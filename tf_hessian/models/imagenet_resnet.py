"""ResNet-18 for ImageNet, as in the TensorFlow Models repository.

It is version 2 of the official code of 2017, which normalises before each convolution (He et al.
2016b, "Identity mappings"). The repository differs from the article: the first block of every stage
has a projection shortcut, the first stage too, and there is no normalization after the stem; and it
pads before a convolution with strides in a way that does not depend on the size of the input.
"""

from __future__ import annotations

import keras

from tf_hessian.models import normalization as norm

_BLOCKS = (2, 2, 2, 2)


def imagenet_resnet18(
  *,
  num_classes: int = 1001,
  input_shape: tuple[int, int, int] = (299, 299, 3),
  normalization: str = "batch",
  width: int = 64,
) -> keras.Model:
  """Builds a ResNet-18 that returns logits.

  With the defaults it has 11,692,329 trainable parameters.

  Args:
    num_classes: number of logits; the repository has 1,001, class 0 being "background".
    input_shape: (height, width, channels).
    normalization: "batch"; "population" for `PopulationNormalization`; "none" leaves it out and
      gives the convolutions biases.
    width: channels of the first stage.

  Returns:
    A built `keras.Model`: (batch, *input_shape) -> (batch, num_classes).

  Raises:
    ValueError: for another normalization.
  """

  def convolution(x, filters, size, stride, name):
    if stride > 1:
      before = (size - 1) // 2
      x = keras.layers.ZeroPadding2D(((before, size - 1 - before),) * 2, name=f"{name}_padding")(x)
    return keras.layers.Conv2D(
      filters,
      size,
      strides=stride,
      padding="same" if stride == 1 else "valid",
      use_bias=normalization == "none",
      kernel_initializer=keras.initializers.VarianceScaling(),
      name=f"{name}_conv",
    )(x)

  def activation(x, name):
    x = norm.normalize(x, normalization, name=f"{name}_bn", momentum=0.997, epsilon=1e-5)
    return keras.layers.ReLU(name=f"{name}_relu")(x)

  inputs = keras.Input(input_shape, name="image")
  x = convolution(inputs, width, 7, 2, "stem")
  x = keras.layers.MaxPooling2D(3, 2, padding="same", name="stem_pool")(x)
  for stage, blocks in enumerate(_BLOCKS, 1):
    filters = width * 2 ** (stage - 1)
    for i in range(1, blocks + 1):
      name = f"stage{stage}_block{i}"
      stride = 2 if stage > 1 and i == 1 else 1
      y = activation(x, f"{name}_1")
      shortcut = convolution(y, filters, 1, stride, f"{name}_shortcut") if i == 1 else x
      y = convolution(y, filters, 3, stride, f"{name}_1")
      y = convolution(activation(y, f"{name}_2"), filters, 3, 1, f"{name}_2")
      x = keras.layers.Add(name=f"{name}_add")([shortcut, y])
  x = activation(x, "last")
  x = keras.layers.GlobalAveragePooling2D(name="average_pool")(x)
  logits = keras.layers.Dense(num_classes, name="logits")(x)
  return keras.Model(inputs, logits, name="imagenet_resnet18")
