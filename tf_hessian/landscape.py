"""Losses along directions, beside the quadratic that the curvature says."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os
from typing import TYPE_CHECKING

import keras
import numpy as np

from tf_hessian.numerics import checks
from tf_hessian.slq.blocks import owners_of
from tf_hessian.slq.matrix import check_is_of_model
from tf_hessian.slq.progress import Progress

if TYPE_CHECKING:
  from tf_hessian.curvature.operator import CurvatureOperator

NORMALIZE = ("none", "unit", "filter")


@dataclasses.dataclass(frozen=True, eq=False)
class LossAlong:
  """Losses along a line, or over a plane.

  >>> import numpy as np
  >>> import tensorflow as tf
  >>> import tf_hessian
  >>> def loss(p, batch):
  ...   return batch * tf.reduce_sum(p[0] ** 4)
  >>> point, data = [tf.Variable([3.0, 1.0])], [np.ones(1, "float32")]
  >>> hessian = tf_hessian.HessianOperator(point, loss, data)
  >>> along = tf_hessian.loss_along(hessian, np.array([0.0, 1.0]), np.array([0.0, 1.0]))
  >>> along.losses.tolist(), along.quadratic.tolist()
  ([82.0, 97.0], [82.0, 92.0])

  Attributes:
    directions: (k, n) what distances are measured in, normalized; k is 1 or 2.
    distances: k arrays, of lengths m_1 to m_k.
    losses: (m_1,) or (m_1, m_2).
    loss: that of the point itself.
    slopes: (k,) g' d.
    curvatures: (k, k) d' A d, with the operator's matrix A.
  """

  directions: np.ndarray
  distances: tuple[np.ndarray, ...]
  losses: np.ndarray
  loss: float
  slopes: np.ndarray
  curvatures: np.ndarray

  @property
  def quadratic(self) -> np.ndarray:
    """The losses by slope and curvature: an array like `losses`."""
    t = np.stack(np.meshgrid(*self.distances, indexing="ij"), axis=-1)
    return self.loss + t @ self.slopes + 0.5 * np.einsum("...i,ij,...j", t, self.curvatures, t)

  def plot(self, path: str | os.PathLike, *, title: str = "") -> None:
    """Writes a picture: the line with its parabola, or contours.

    Args:
      path: the picture, such as "loss.png".
      title: text above.

    Raises:
      ValueError: for another format.
      OSError: if the picture can't be written.
    """
    from tf_hessian import plotting

    plotting.plot_losses(self.distances, self.losses, self.quadratic, path, title=title)


def loss_along(
  operator: CurvatureOperator,
  directions: np.ndarray,
  distances: np.ndarray | Sequence[np.ndarray] | None = None,
  /,
  *,
  normalize: str = "unit",
  progress: bool = True,
) -> LossAlong:
  """Returns the losses along a direction, or over a plane of two.

  Each point takes one pass for its loss. The quadratic takes one gradient, and a product for each
  direction. The model is put back however it ends. Of several workers, all call this function.

  >>> import numpy as np
  >>> import tensorflow as tf
  >>> import tf_hessian
  >>> point = [tf.Variable([3.0, 1.0])]
  >>> hessian = tf_hessian.HessianOperator(
  ...   point, lambda p, batch: batch * tf.reduce_sum(p[0] ** 2), [np.ones(1, "float32")]
  ... )
  >>> along = tf_hessian.loss_along(hessian, np.array([1.0, 0.0]), np.array([-1.0, 0.0, 1.0]))
  >>> along.losses, along.quadratic
  (array([ 5., 10., 17.]), array([ 5., 10., 17.]))

  Args:
    operator: a `HessianOperator` or another matrix of a model, which makes the quadratic.
    directions: (n,) or (2, n), such as an eigenvector or two.
    distances: array, or two of them for a plane, in lengths of the normalized directions; by
      default 21 from -1 to 1.
    normalize: "unit" gives directions the length 1. "filter" gives each filter of them, by the
      outputs' axis of a kernel, the length of the model's, and leaves biases and scales alone (Li
      et al., 2018). "none" takes them as they are.
    progress: whether to show a bar, or log lines where there is no terminal.

  Returns:
    `LossAlong`.

  Raises:
    TypeError: for an operator of no model.
    ValueError: for directions that are zero, not finite, or of another length, or bad distances.
  """
  check_is_of_model(operator)
  checks.check_choice("normalize", normalize, NORMALIZE)
  given = _directions(directions, operator.shape[0])
  grid = _distances(distances, len(given))
  point = operator.parameters()
  scaled = np.stack([_normalized(operator, point, d, normalize) for d in given])
  losses = np.empty([len(g) for g in grid])
  with Progress(losses.size, enabled=progress) as bar:
    for place in np.ndindex(losses.shape):
      t = np.array([g[i] for g, i in zip(grid, place, strict=True)])
      if t.any():
        with operator.at(point + t @ scaled):
          losses[place] = operator.loss()
      else:
        losses[place] = operator.loss()
      bar.advance("losses")
  origin = np.all(np.stack(np.meshgrid(*grid, indexing="ij")) == 0, axis=0)
  loss = float(losses[origin][0]) if origin.any() else operator.loss()
  products = np.stack([operator @ d for d in scaled])
  curvatures = scaled @ products.T
  return LossAlong(
    directions=scaled,
    distances=grid,
    losses=losses,
    loss=loss,
    slopes=scaled @ operator.gradient(),
    curvatures=(curvatures + curvatures.T) / 2,
  )


def _directions(directions, n):
  two = isinstance(directions, (list, tuple, np.ndarray)) and np.ndim(directions[0]) == 1
  given = directions if two else [directions]
  if len(given) > 2 or any(np.shape(d) != (n,) for d in given if not isinstance(d, (dict, str))):
    raise ValueError(f"directions: expected shape ({n},) or (2, {n}), got {np.shape(directions)}")
  return np.stack([checks.as_vector("directions", d, n, zero=False) for d in given])


def _distances(distances, count):
  if distances is None:
    return (np.linspace(-1.0, 1.0, 21),) * count
  given = [distances] if count == 1 else distances
  try:
    result = tuple(np.asarray(g, np.float64) for g in given)
    good = len(result) == count and all(
      g.ndim == 1 and g.size and np.isfinite(g).all() for g in result
    )
  except (TypeError, ValueError):
    good = False
  if not good:
    one = "an array of finite numbers (m,), for one direction"
    two = "two arrays of finite numbers, for two directions"
    raise ValueError(f"distances: expected {one if count == 1 else two}, got {distances!r:.80}")
  return result


_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_TRANSPOSED = (
  keras.layers.Conv1DTranspose,
  keras.layers.Conv2DTranspose,
  keras.layers.Conv3DTranspose,
)
# Ends of the names of variables that are no kernels, however many axes they have.
_NO_KERNELS = ("bias", "beta", "gamma", "alpha", "scale")


def _axes_within(name, rank, layer):
  """Returns the axes within a filter, or None for no kernel."""
  if rank < 2 or name.rpartition("/")[2].rstrip("_0123456789").endswith(_NO_KERNELS):
    return None
  if "depthwise" in name.rpartition("/")[2] or isinstance(layer, _DEPTHWISE):
    return tuple(range(rank - 2))  # each channel has filters of its own
  last = rank - 2 if isinstance(layer, _TRANSPOSED) else rank - 1
  return tuple(axis for axis in range(rank) if axis != last)


def _normalized(operator, point, direction, how):
  if how == "none":
    return direction
  if how == "unit":
    return direction / np.linalg.norm(direction)
  weights, parts = operator.unflatten(point), operator.unflatten(direction)
  for (name, part), layer in zip(parts.items(), owners_of(operator), strict=True):
    axes = _axes_within(name, part.ndim, layer)
    if axes is None:
      parts[name] = np.zeros_like(part)
      continue
    length = np.sqrt(np.sum(part**2, axis=axes, keepdims=True))
    wanted = np.sqrt(np.sum(weights[name] ** 2, axis=axes, keepdims=True))
    factor = np.divide(wanted, length, out=np.zeros_like(length), where=length > 0)
    parts[name] = part * factor
  result = operator.flatten(parts)
  if not result.any():
    raise ValueError(
      "directions: nothing is left of one by normalize='filter', which takes biases and scales out"
    )
  return result
