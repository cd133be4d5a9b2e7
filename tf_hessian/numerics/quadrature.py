"""From tridiagonal matrices to Gauss quadrature (Golub and Welsch, 1969)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
import scipy.linalg

from tf_hessian.numerics import checks
from tf_hessian.numerics.results import Quadrature

_EPS = float(np.finfo(np.float64).eps)
_ROUNDINGS = 10  # of the largest node, by which a node that should be zero may be off
_WIDEST_ZERO = 1e-6  # of the largest node: ten roundings of float32
_COPY = 10.0  # times the root of what rounding makes of a weight, of which 0.7 times was seen


def gauss_quadrature(diagonal: np.ndarray, off_diagonal: np.ndarray, /) -> Quadrature:
  """Returns the nodes and weights of a tridiagonal matrix.

  That is step 2 of Algorithm 1. The nodes are its eigenvalues, the weights the squares of the first
  components of its eigenvectors. QL iteration is used because its eigenvectors are orthogonal to
  rounding, so that the weights sum to 1 to rounding.

  Args:
    diagonal: (m,) float64.
    off_diagonal: (m - 1,) float64.

  >>> rule = gauss_quadrature([0.0, 0.0], [1.0])
  >>> rule.nodes.round(12).tolist(), rule.weights.round(12).tolist()
  ([-1.0, 1.0], [0.5, 0.5])
  """
  nodes, vectors = scipy.linalg.eigh_tridiagonal(diagonal, off_diagonal, lapack_driver="stev")
  return Quadrature(nodes, vectors[0] ** 2)


def ritz_residuals(diagonal: np.ndarray, off_diagonal: np.ndarray, beta: float, /) -> np.ndarray:
  """Returns the residual bound of each node: (m,) float64.

  It is |beta s_mi|, with s_i the eigenvectors of the tridiagonal matrix.

  Args:
    diagonal: (m,) float64.
    off_diagonal: (m - 1,) float64.
    beta: length of the residual of the last Lanczos step.

  >>> ritz_residuals([0.0, 0.0], [1.0], 0.5).round(6).tolist()  # 0.5 / sqrt(2)
  [0.353553, 0.353553]
  """
  _, vectors = scipy.linalg.eigh_tridiagonal(diagonal, off_diagonal, lapack_driver="stev")
  return np.abs(beta * vectors[-1])


def distinct(rule: Quadrature, precision: float, /) -> Quadrature:
  """Returns the quadrature of a recurrence without a basis, copies merged.

  Rounding of the products, and of the recurrence, is like a change of the matrix by about p |H|. So
  it puts a node at a distance d from that of an eigenvalue with up to (p |H| / d)^2 of its weight.
  Nodes with a hundred times that or less beside a heavier one are taken for its copies. Weights of
  up to half of it were seen (docs/design/basis.md).

  Args:
    rule: the quadrature of one draw, m nodes.
    precision: p, the relative rounding error of the products.

  Returns:
    The others, each with the weights of the copies that are nearest to it.

  >>> found = distinct(Quadrature(np.array([1, 2, 2 + 1e-15]), np.array([0.5, 0.2, 0.3])), 2e-16)
  >>> found.nodes, found.weights
  (array([1., 2.]), array([0.5, 0.5]))
  """
  nodes, root = rule.nodes, np.sqrt(rule.weights)
  error = _COPY * max(precision, _EPS) * np.abs(nodes).max()
  near = root[:, None] * np.abs(nodes[:, None] - nodes) <= error * root
  kept = nodes[~(near & _heavier(rule.weights)).any(axis=1)]
  nearest = np.abs(nodes[:, None] - kept).argmin(axis=1)
  return Quadrature(kept, np.bincount(nearest, rule.weights))


def extremes(nodes: Sequence[np.ndarray], count: int, best: np.ufunc, /) -> np.ndarray:
  """Returns the best of the draws' first, second, ... nodes.

  Args:
    nodes: k vectors, of which the first entries are wanted.
    count: how many are; fewer are returned where no draw has so many.
    best: `np.maximum` or `np.minimum`.

  >>> extremes([np.array([3.0, 1.0]), np.array([2.0])], 2, np.maximum)
  array([3., 1.])
  """
  checks.check_count("count", count)
  size = min(count, max(len(t) for t in nodes))
  worst = -np.inf if best is np.maximum else np.inf
  padded = [np.append(t[:size], np.full(size - len(t[:size]), worst)) for t in nodes]
  return best.reduce(padded, axis=0)


def _heavier(weights):
  """Returns (m, m): whether j is heavier than i, or as heavy and before it."""
  order = np.empty(len(weights), int)
  order[np.argsort(-weights, kind="stable")] = np.arange(len(weights))
  return order < order[:, None]


def tridiagonal_matrix(diagonal: np.ndarray, off_diagonal: np.ndarray, /) -> np.ndarray:
  """Returns the dense matrix of two diagonals: (m, m) float64.

  >>> tridiagonal_matrix([1.0, 2.0], [3.0]).tolist()
  [[1.0, 3.0], [3.0, 2.0]]
  """
  return np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1)


def moments(quadratures: Sequence[Quadrature], order: int, /) -> np.ndarray:
  """Returns the moments of each draw.

  They are sum_i w_i t_i^j, which is v' H^j v for j < 2m.

  Args:
    quadratures: sequence of k `Quadrature`.
    order: highest power J.

  Returns:
    (k, J) float64: powers 1 .. J.

  >>> moments([gauss_quadrature([0.0, 0.0], [1.0])], 4).round(12).tolist()
  [[0.0, 1.0, 0.0, 1.0]]
  """
  powers = np.arange(1, order + 1)
  return np.array([q.weights @ q.nodes[:, None] ** powers for q in quadratures])


def mean_and_stderr(samples: ArrayLike, /) -> tuple[np.ndarray, np.ndarray]:
  """Returns the mean over axis 0 and its standard error.

  That is NaN for a single sample.

  >>> [float(x) for x in mean_and_stderr([1.0, 3.0])]
  [2.0, 1.0]
  """
  samples = np.asarray(samples, np.float64)
  count = len(samples)
  if count < 2:
    return samples.mean(axis=0), np.full(samples.shape[1:], np.nan)
  return samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(count)


def share(rule: Quadrature, low: float, high: float, precision: float, /) -> float:
  """Returns the weight of a quadrature's nodes in a range.

  Nodes that are zero but for rounding count as zero, and those that are an end as in the range.

  >>> share(Quadrature(np.array([-1e-17, 1.0]), np.array([0.25, 0.75])), 0.0, 2.0, 0.0)
  1.0

  Args:
    rule: the quadrature.
    low: lower end of the range, which counts.
    high: upper end, which counts.
    precision: relative error of the products that it is of; 0 for that of float64.

  Raises:
    TypeError, ValueError: if the ends are no numbers, or not in order.
  """
  try:
    ordered = float(low) <= float(high)
  except (TypeError, ValueError) as e:
    raise TypeError(f"mass: expected two numbers, got {low!r} and {high!r}") from e
  if not ordered:
    raise ValueError(f"mass: expected low at most high, got {low!r} and {high!r}")
  # No wider for lower precision, in which eigenvalues of that size may still be told from zero.
  width = np.abs(rule.nodes).max(initial=0.0) * min(_ROUNDINGS * max(precision, _EPS), _WIDEST_ZERO)
  nodes = rule.nodes
  for end in (0.0, low, high):
    if end == 0 or abs(end) > width:  # others can't be told from zero, which goes first
      nodes = np.where(np.abs(nodes - end) <= width, end, nodes)
  return float(rule.weights[(nodes >= low) & (nodes <= high)].sum())
