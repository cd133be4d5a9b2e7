"""The networks of `making` in PyTorch, with the names of their Keras layers."""

import torch
from torch import nn
import torch.nn.functional as F

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


def make(network, *, fused=False):
  """Returns "mlp" or "resnet32"; `fused` takes PyTorch's own batch norm."""
  if network == "mlp":
    return Mlp()
  return CifarResnet(batch_norm=fused_batch_norm if fused else BatchNorm)
