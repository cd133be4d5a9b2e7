"""The networks of `making` in PyTorch, with the names of their Keras layers."""

import torch
from torch import nn
import torch.nn.functional as F

from benchmarks.peers.problem import (
  BLOCKS,
  HEADS,
  LABEL_SMOOTHING,
  LAYER_EPSILON,
  LENGTH,
  VOCABULARY,
  WIDTH,
)

_EPSILON = 1e-3  # of batch norm in Keras; PyTorch's own is 1e-5


class Mlp(nn.Module):
  """784-20-10 with ReLU: (batch, 784) -> logits (batch, 10)."""

  def __init__(self):
    super().__init__()
    self.hidden_1 = nn.Linear(784, 20)
    self.logits = nn.Linear(20, 10)

  def forward(self, x):
    return self.logits(F.relu(self.hidden_1(x)))


class BatchNorm(nn.Module):
  """Normalises by the batch's statistics, written as sums and products.

  Forward over backward through PyTorch's own function for it is wrong; see docs/benchmarks.md. Two
  backward passes are right through both, and take a little less time through this one.
  """

  def __init__(self, channels):
    super().__init__()
    self.weight = nn.Parameter(torch.ones(channels))
    self.bias = nn.Parameter(torch.zeros(channels))

  def forward(self, x):
    centered = x - x.mean((0, 2, 3), keepdim=True)
    variance = (centered * centered).mean((0, 2, 3), keepdim=True)
    scale = torch.rsqrt(variance + _EPSILON) * self.weight[:, None, None]
    return centered * scale + self.bias[:, None, None]


def fused_batch_norm(channels):
  """Returns PyTorch's own batch norm, with the batch's statistics also after `eval`."""
  return nn.BatchNorm2d(channels, eps=_EPSILON, track_running_stats=False)


class SameConv(nn.Conv2d):
  """A 3 x 3 convolution that pads as Keras does: with stride 2, at the lower and right end only."""

  def __init__(self, channels, filters, stride):
    super().__init__(channels, filters, 3, stride, padding=1 if stride == 1 else 0, bias=False)

  def forward(self, x):
    return super().forward(x if self.stride == (1, 1) else F.pad(x, (0, 1, 0, 1)))


class CifarResnet(nn.Module):
  """He et al.'s ResNet with padded shortcuts: (batch, 3, 32, 32) -> logits (batch, 10)."""

  def __init__(self, *, depth=32, width=16, batch_norm=BatchNorm):
    super().__init__()
    self._batch_norm = batch_norm
    self._add_convolution("stem", 3, width, 1)
    self._blocks = []
    channels = width
    for stage in (1, 2, 3):
      filters = width * 2 ** (stage - 1)
      for i in range(1, (depth - 2) // 6 + 1):
        name, stride = f"stage{stage}_block{i}", 2 if stage > 1 and i == 1 else 1
        self._add_convolution(f"{name}_1", channels, filters, stride)
        self._add_convolution(f"{name}_2", filters, filters, 1)
        self._blocks.append((name, stride))
        channels = filters
    self.logits = nn.Linear(channels, 10)

  def forward(self, x):
    x = F.relu(self._normalized("stem", x))
    for name, stride in self._blocks:
      y = F.relu(self._normalized(f"{name}_1", x))
      y = self._normalized(f"{name}_2", y)
      x = F.relu(_shortcut(x, y.shape[1], stride) + y)
    return self.logits(x.mean((2, 3)))

  def _add_convolution(self, name, channels, filters, stride):
    self.add_module(f"{name}_conv", SameConv(channels, filters, stride))
    self.add_module(f"{name}_bn", self._batch_norm(filters))

  def _normalized(self, name, x):
    return self.get_submodule(f"{name}_bn")(self.get_submodule(f"{name}_conv")(x))


def _shortcut(x, filters, stride):
  """Subsamples, and pads the channels with zeros at both ends."""
  if stride == 1:
    return x
  x = x[:, :, ::stride, ::stride]
  missing = filters - x.shape[1]
  return F.pad(x, (0, 0, 0, 0, missing // 2, missing - missing // 2))


class LayerNorm(nn.Module):
  """Normalises over the last axis, written as sums and products.

  As for `BatchNorm`: forward over backward through PyTorch's own function is wrong.
  """

  def __init__(self, width, epsilon):
    super().__init__()
    self.weight = nn.Parameter(torch.ones(width))
    self.bias = nn.Parameter(torch.zeros(width))
    self.epsilon = epsilon

  def forward(self, x):
    centered = x - x.mean(-1, keepdim=True)
    variance = (centered * centered).mean(-1, keepdim=True)
    return centered * torch.rsqrt(variance + self.epsilon) * self.weight + self.bias


class Attention(nn.Module):
  """Causal attention of several heads, by products of matrices and softmax.

  PyTorch's own function for it has no second derivatives where it is fused.
  """

  def __init__(self):
    super().__init__()
    self.query = nn.Linear(WIDTH, WIDTH)
    self.key = nn.Linear(WIDTH, WIDTH)
    self.value = nn.Linear(WIDTH, WIDTH)
    self.attention_output = nn.Linear(WIDTH, WIDTH)
    later = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    self.register_buffer("later", later, persistent=False)

  def forward(self, x):
    q, k, v = (
      layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
      for layer in (self.query, self.key, self.value)
    )
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(self.later, -torch.inf).softmax(-1)
    return self.attention_output((weights @ v).transpose(1, 2).flatten(2))


class Transformer(nn.Module):
  """Pre-norm blocks: (batch, length) of tokens -> logits (batch, length, vocabulary)."""

  def __init__(self, *, layer_norm=LayerNorm):
    super().__init__()
    self.tokens = nn.Embedding(VOCABULARY, WIDTH)
    self.positions = nn.Embedding(LENGTH, WIDTH)
    for i in range(1, BLOCKS + 1):
      self.add_module(f"block{i}_norm_1", layer_norm(WIDTH, LAYER_EPSILON))
      self.add_module(f"block{i}_attention", Attention())
      self.add_module(f"block{i}_norm_2", layer_norm(WIDTH, LAYER_EPSILON))
      self.add_module(f"block{i}_up", nn.Linear(WIDTH, 4 * WIDTH))
      self.add_module(f"block{i}_down", nn.Linear(4 * WIDTH, WIDTH))
    self.norm = layer_norm(WIDTH, LAYER_EPSILON)
    self.logits = nn.Linear(WIDTH, VOCABULARY)

  def forward(self, tokens):
    x = self.tokens(tokens) + self.positions.weight
    for i in range(1, BLOCKS + 1):
      norm_1, attention, norm_2, up, down = (
        self.get_submodule(f"block{i}_{part}")
        for part in ("norm_1", "attention", "norm_2", "up", "down")
      )
      x = x + attention(norm_1(x))
      x = x + down(F.gelu(up(norm_2(x))))
    return self.logits(self.norm(x))


class CrossEntropy(nn.CrossEntropyLoss):
  """The mean over examples, or tokens, of logits (..., classes) with smoothed labels (...)."""

  def __init__(self):
    super().__init__(label_smoothing=LABEL_SMOOTHING)

  def forward(self, logits, labels):
    return super().forward(logits.flatten(0, -2), labels.flatten())


def make(network, *, fused=()):
  """Returns a network that takes PyTorch's own norms of the kinds `fused`: "batch", "layer"."""
  if network == "resnet32":
    return CifarResnet(batch_norm=fused_batch_norm if "batch" in fused else BatchNorm)
  if network == "transformer":
    return Transformer(layer_norm=nn.LayerNorm if "layer" in fused else LayerNorm)
  return Mlp()
