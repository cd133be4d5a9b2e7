"""The networks of `making` as JAX functions of {name of the Keras variable: array}."""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from benchmarks.peers.problem import BLOCKS, LABEL_SMOOTHING, LAYER_EPSILON

_BATCH_EPSILON = 1e-3  # of batch norm in Keras


def mlp(p, x):
  """784-20-10 with ReLU: (batch, 784) -> logits (batch, 10)."""
  return _dense(p, "logits", jax.nn.relu(_dense(p, "hidden_1", x)))


def convolution(x, kernel, stride):
  """Convolves 3 x 3, and pads as Keras does."""
  dimensions = ("NHWC", "HWIO", "NHWC")
  return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=dimensions)


def convolution_of_patches(x, kernel, stride):
  """Returns the same by one product of matrices.

  Within a loop XLA on CPUs takes the convolutions of a gradient for ones without a fast kernel
  (jax-ml/jax issue 12868), which take more than ten times as long.
  """
  _, height, width, channels = x.shape
  first = 1 if stride == 1 else 0
  x = jnp.pad(x, ((0, 0), (first, 1), (first, 1), (0, 0)))
  parts = [
    x[:, i : i + height : stride, j : j + width : stride] for i in range(3) for j in range(3)
  ]
  return jnp.concatenate(parts, -1) @ kernel.reshape(9 * channels, -1)


def resnet32(p, x, *, convolve=convolution):
  """He et al.'s ResNet with padded shortcuts: (batch, 32, 32, 3) -> logits (batch, 10)."""
  normalized_conv = functools.partial(_normalized_conv, convolve, p)
  x = jax.nn.relu(normalized_conv("stem", x, 1))
  for stage in (1, 2, 3):
    for i in range(1, 6):
      name, stride = f"stage{stage}_block{i}", 2 if stage > 1 and i == 1 else 1
      y = jax.nn.relu(normalized_conv(f"{name}_1", x, stride))
      y = normalized_conv(f"{name}_2", y, 1)
      x = jax.nn.relu(_shortcut(x, y.shape[-1], stride) + y)
  return _dense(p, "logits", x.mean((1, 2)))


def transformer(p, tokens):
  """Pre-norm blocks: (batch, length) of tokens -> logits (batch, length, vocabulary)."""
  x = p["tokens/embeddings"][tokens] + p["positions/embeddings"]
  for i in range(1, BLOCKS + 1):
    x = x + _attention(p, f"block{i}_attention", _layer_norm(p, f"block{i}_norm_1", x))
    y = _dense(p, f"block{i}_up", _layer_norm(p, f"block{i}_norm_2", x))
    x = x + _dense(p, f"block{i}_down", jax.nn.gelu(y, approximate=False))
  return _dense(p, "logits", _layer_norm(p, "norm", x))


NETWORKS = {"mlp": mlp, "resnet32": resnet32, "transformer": transformer}


def loss(network, p, x, labels):
  """Returns the mean cross-entropy of a network with smoothed labels, over examples or tokens."""
  logs = jax.nn.log_softmax(network(p, x))
  targets = jax.nn.one_hot(labels, logs.shape[-1], dtype=logs.dtype)
  targets = (1 - LABEL_SMOOTHING) * targets + LABEL_SMOOTHING / logs.shape[-1]
  return -(targets * logs).sum(-1).mean()


def _dense(p, name, x):
  return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]


def _normalized_conv(convolve, p, name, x, stride):
  """Convolves, and normalises by the batch's statistics."""
  x = convolve(x, p[f"{name}_conv/kernel"], stride)
  x = x - x.mean((0, 1, 2))
  scale = lax.rsqrt((x * x).mean((0, 1, 2)) + _BATCH_EPSILON) * p[f"{name}_bn/gamma"]
  return x * scale + p[f"{name}_bn/beta"]


def _shortcut(x, filters, stride):
  """Subsamples, and pads the channels with zeros at both ends."""
  if stride == 1:
    return x
  missing = filters - x.shape[-1]
  ends = (missing // 2, missing - missing // 2)
  return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), ends))


def _layer_norm(p, name, x):
  x = x - x.mean(-1, keepdims=True)
  scale = lax.rsqrt((x * x).mean(-1, keepdims=True) + LAYER_EPSILON)
  return x * scale * p[f"{name}/gamma"] + p[f"{name}/beta"]


def _attention(p, name, x):
  q, k, v = (
    jnp.einsum("btd,dhe->bhte", x, p[f"{name}/{part}/kernel"])
    + p[f"{name}/{part}/bias"][:, None, :]
    for part in ("query", "key", "value")
  )
  scores = q @ k.mT / jnp.sqrt(jnp.array(q.shape[-1], q.dtype))
  causal = jnp.tril(jnp.ones(scores.shape[-2:], bool))
  weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf))
  out = jnp.einsum("bhte,hed->btd", weights @ v, p[f"{name}/attention_output/kernel"])
  return out + p[f"{name}/attention_output/bias"]
