"""A small language model in Keras, as `make bench-peers` measures it."""

import keras
from keras import layers

from benchmarks.peers.problem import BLOCKS, HEADS, LAYER_EPSILON, LENGTH, VOCABULARY, WIDTH


@keras.saving.register_keras_serializable(package="benchmarks")
def gelu(x):
  """Returns x Phi(x), by erf. Keras's own takes sqrt(2) as a float32, in float64 too."""
  return 0.5 * x * (1 + keras.ops.erf(x * 0.5**0.5))


class Positions(layers.Layer):
  """Adds a learned vector to each position: (batch, length, width), the same."""

  def build(self, shape):
    self.embeddings = self.add_weight(
      shape=shape[1:], initializer=keras.initializers.RandomUniform(), name="embeddings"
    )

  def call(self, x):
    return x + self.embeddings


def transformer():
  """Returns a model: (batch, length) of tokens -> logits (batch, length, vocabulary).

  Pre-norm blocks, causal attention, a dense layer of four times the width with the exact gelu, by
  erf; 1,058,536 parameters.
  """

  def normalized(x, name):
    return layers.LayerNormalization(epsilon=LAYER_EPSILON, name=name)(x)

  inputs = keras.Input((LENGTH,), dtype="int32", name="sequence")
  x = layers.Embedding(VOCABULARY, WIDTH, name="tokens")(inputs)
  x = Positions(name="positions")(x)
  for i in range(1, BLOCKS + 1):
    y = normalized(x, f"block{i}_norm_1")
    attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name=f"block{i}_attention")
    x = layers.Add(name=f"block{i}_add_1")([x, attention(y, y, use_causal_mask=True)])
    y = normalized(x, f"block{i}_norm_2")
    y = layers.Dense(4 * WIDTH, activation=gelu, name=f"block{i}_up")(y)
    x = layers.Add(name=f"block{i}_add_2")([x, layers.Dense(WIDTH, name=f"block{i}_down")(y)])
  logits = layers.Dense(VOCABULARY, name="logits")(normalized(x, "norm"))
  return keras.Model(inputs, logits, name="transformer")
