"""Data and a point that all contenders measure, in a file.

NumPy only. Vectors and weights are kept as Keras has them; JAX's networks take them so. PyTorch has
the axes of a kernel in another order: (height, width, in, out) is (out, in, height, width) there,
and (in, out) (out, in). Its linear layers have all heads of an attention in one axis.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import math
import os

import numpy as np

LABEL_SMOOTHING = 0.1  # of the cross-entropy, as in the paper
# Of the transformer.
BLOCKS, WIDTH, HEADS, LENGTH, VOCABULARY = 4, 128, 8, 64, 1_000
LAYER_EPSILON = 1e-5  # of its layer norm; Keras's own is 1e-3
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0)}
_TO_KERAS = {4: (2, 3, 1, 0), 2: (1, 0)}
_TORCH_NAMES = {
  "kernel": "weight",
  "bias": "bias",
  "gamma": "weight",
  "beta": "bias",
  "embeddings": "weight",
}


@dataclasses.dataclass(frozen=True)
class Problem:
  """A mean cross-entropy over data, in a network's parameters.

  Attributes:
    network: "mlp", "resnet32" or "transformer".
    inputs: images, (examples, 784) or (examples, 32, 32, 3) float32, or tokens, (examples, length)
      int32.
    labels: (examples,) int64, or the next tokens, (examples, length).
    batch_size: of the passes over the data; with batch norm it is part of the loss.
    names: names of the variables, such as "stem_conv/kernel", in the order of the vector.
    shapes: their shapes in Keras.
    parameters: (n,) float32, the point.
  """

  network: str
  inputs: np.ndarray
  labels: np.ndarray
  batch_size: int
  names: tuple[str, ...]
  shapes: tuple[tuple[int, ...], ...]
  parameters: np.ndarray

  @property
  def num_batches(self) -> int:
    """Number of batches of a pass."""
    return math.ceil(len(self.labels) / self.batch_size)

  def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (inputs, labels)."""
    for start in range(0, len(self.labels), self.batch_size):
      part = slice(start, start + self.batch_size)
      yield self.inputs[part], self.labels[part]

  def save(self, path: str | os.PathLike) -> None:
    """Writes the problem into an .npz file, for `load`."""
    fields = dataclasses.asdict(self)
    fields["shapes"] = [" ".join(map(str, s)) for s in self.shapes]
    np.savez(path, **fields)


def load(path: str | os.PathLike) -> Problem:
  """Returns the `Problem` that was saved there."""
  with np.load(path, allow_pickle=False) as saved:
    fields = dict(saved)
  fields["network"] = str(fields["network"])
  fields["batch_size"] = int(fields["batch_size"])
  fields["names"] = tuple(fields["names"].tolist())
  fields["shapes"] = tuple(tuple(map(int, s.split())) for s in fields["shapes"].tolist())
  return Problem(**fields)


def split(vector: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
  """Returns the arrays of a vector (n,), one for each shape."""
  sizes = [math.prod(s) for s in shapes]
  if sum(sizes) != len(vector):
    raise ValueError(f"vector: expected {sum(sizes)} numbers for the shapes, got {len(vector)}")
  parts = np.split(vector, np.cumsum(sizes)[:-1])
  return [p.reshape(s) for p, s in zip(parts, shapes, strict=True)]


def torch_name(name: str) -> str:
  """Returns what a Keras variable is called in `networks`: "a/b/kernel" is "a.b.weight"."""
  *layers, variable = name.split("/")
  return ".".join([*layers, _TORCH_NAMES[variable]])


def torch_arrays(
  vector: np.ndarray, names: Sequence[str], shapes: Sequence[tuple[int, ...]]
) -> list[np.ndarray]:
  """Returns the arrays of a vector with their axes in PyTorch's order.

  Args:
    vector: (n,), in Keras's order.
    names: of the variables in Keras.
    shapes: their shapes there.
  """
  return [
    _transposed(a.reshape(_layer_shape(name, a.shape)), name, _TO_TORCH)
    for name, a in zip(names, split(vector, shapes), strict=True)
  ]


def keras_vector(arrays: Sequence[np.ndarray], names: Sequence[str]) -> np.ndarray:
  """Returns the vector (n,) float64 of arrays in PyTorch's order, and their names in Keras."""
  parts = [_transposed(a, name, _TO_KERAS).ravel() for a, name in zip(arrays, names, strict=True)]
  return np.concatenate(parts).astype(np.float64)


def torch_vector(
  vector: np.ndarray, names: Sequence[str], shapes: Sequence[tuple[int, ...]]
) -> np.ndarray:
  """Returns a vector in PyTorch's order of its entries."""
  return np.concatenate([a.ravel() for a in torch_arrays(vector, names, shapes)])


def _layer_shape(name, shape):
  """Returns the shape of a variable of an attention with its heads in one axis."""
  if name.endswith("attention_output/kernel"):  # (heads, size, out)
    return (math.prod(shape[:2]), shape[2])
  if name.endswith("/kernel") and len(shape) == 3:  # (in, heads, size)
    return (shape[0], math.prod(shape[1:]))
  if name.endswith("/bias"):
    return (math.prod(shape),)
  return shape


def _transposed(array, name, axes):
  kernel = name.endswith("/kernel") and array.ndim in axes
  return array.transpose(axes[array.ndim]) if kernel else array
