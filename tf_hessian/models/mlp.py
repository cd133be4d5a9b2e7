"""Multi-layer perceptrons, such as the small model of the paper's section B."""

from __future__ import annotations

from collections.abc import Sequence

import keras


def mlp(
  *,
  input_shape: tuple[int, ...] = (784,),
  hidden_units: Sequence[int] = (20,),
  num_classes: int = 10,
  activation: str = "relu",
  use_bias: bool = True,
) -> keras.Model:
  """Builds a fully connected classifier that returns logits.

  With the defaults it is the 784-20-10 network of section B: 15,910 parameters.

  Args:
    input_shape: shape of one example; it is flattened.
    hidden_units: width of each hidden layer.
    num_classes: number of logits.
    activation: Keras name of the hidden layers' activation.
    use_bias: False leaves the biases out.

  Returns:
    A built `keras.Model`: (batch, *input_shape) -> (batch, num_classes).
  """
  inputs = keras.Input(input_shape, name="image")
  x = keras.layers.Flatten(name="flatten")(inputs) if len(input_shape) > 1 else inputs
  for i, units in enumerate(hidden_units, 1):
    x = keras.layers.Dense(units, activation=activation, use_bias=use_bias, name=f"hidden_{i}")(x)
  logits = keras.layers.Dense(num_classes, use_bias=use_bias, name="logits")(x)
  return keras.Model(inputs, logits, name="mlp")
