"""Estimates without the noise of isolated eigenvalues.

A draw gives an isolated eigenvalue the weight (v' q)^2, whose relative standard deviation is 1.4,
where the density has exactly 1 / n. Once its Ritz pair has converged, the eigenvalue is known. Then
phi = (1 / n) sum_i N(t; lambda_i, sigma^2) over the p known ones + (1 - p / n) phi', with phi' the
density of the matrix on the complement of their eigenvectors.

phi' needs no more products: the part of v in the complement points in a uniformly random direction
there, and its spectral measure is that of v without the known eigenvalues, divided by what is left.
`deflate` does that to the quadratures of draws. `projected_quadratures` takes the draws in the
complement, for eigenvectors that are known beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses

import numpy as np
import scipy.special

from tf_hessian.numerics import checks, lanczos, probes
from tf_hessian.numerics.quadrature import gauss_quadrature
from tf_hessian.numerics.results import Quadrature

# A residual r and a gap g leave a relative error of about (r / g)^2 in a weight.
_RELATIVE_RESIDUAL = 1e-3
# The probability with which a single eigenvalue is taken for several, and keeps its plain weight: n
# times its mean weight over k draws is chi-square over k.
_LEVEL = 1e-4
_NEVER = 1e-6  # the same of all of them together, in one draw
_ROUNDED = 1e-12  # what rounding may leave of nothing


@dataclasses.dataclass(frozen=True)
class Deflation:
  """Quadratures of draws in which known eigenvalues weigh 1 / n."""

  quadratures: tuple[Quadrature, ...]  # one a draw
  eigenvalues: np.ndarray  # (p,) float64, ascending: those that weigh 1 / n now
  weights_before: np.ndarray  # (k, p) float64: their weights in the draws


def isolated(nodes: np.ndarray, residuals: np.ndarray, /) -> np.ndarray:
  """Returns the ascending indices of nodes known to be single eigenvalues.

  They are those whose residual is at most a thousandth of the gap to the next node.

  Args:
    nodes: (m,) ascending nodes of one draw.
    residuals: (m,) residual bounds of their Ritz pairs.

  >>> isolated(np.array([0.0, 1.0, 3.0]), np.array([1e-9, 0.1, 1e-3])).tolist()
  [0, 2]
  """
  if len(nodes) < 2:
    return np.flatnonzero(residuals == 0)
  nearest = _gaps(nodes)
  return np.flatnonzero((residuals <= _RELATIVE_RESIDUAL * nearest) & (nearest > 0))


def _gaps(nodes):
  """Returns the distance of each node to the nearest other one."""
  gaps = np.diff(nodes)
  return np.minimum(np.append(gaps, np.inf), np.insert(gaps, 0, np.inf))


def deflate(
  quadratures: Sequence[Quadrature], residuals: Sequence[np.ndarray], n: int, /
) -> Deflation:
  """Gives the weight 1 / n to eigenvalues isolated in all draws.

  The other weights are scaled so that each draw's sum to 1. An eigenvalue whose weights are larger
  than a single one's can be keeps them: it stands for several. So do all, where they leave less
  than n single ones can. With few draws a small multiplicity among many others is not seen; it
  would count as 1.

  Args:
    quadratures: sequence of k `Quadrature`.
    residuals: sequence of k vectors (m_i,), residual bounds of the Ritz pairs.
    n: order of the matrix.

  Returns:
    A `Deflation`.

  Raises:
    ValueError: if the residuals are not known.

  >>> draw = Quadrature(np.array([0.0, 5.0]), np.array([0.7, 0.3]))
  >>> found = deflate([draw], [np.array([1.0, 0.0])], 4)
  >>> found.eigenvalues.tolist(), found.quadratures[0].weights.round(12).tolist()
  ([5.0], [0.75, 0.25])
  """
  checks.check_count("n", n)
  if not len(quadratures):
    raise ValueError("deflation: expected at least one draw, got none")
  if not all(np.all(np.isfinite(r)) for r in residuals):
    raise ValueError("deflation: needs the residual of each draw's last step, which isn't known")
  found = [isolated(q.nodes, r) for q, r in zip(quadratures, residuals, strict=True)]
  matches = [_match(i, quadratures, found) for i in found[0]]
  common = np.array([c for c in matches if c is not None], int).reshape(-1, len(quadratures))
  before = np.array([q.weights[c] for q, c in zip(quadratures, common.T, strict=True)])
  # Of single eigenvalues, n times the weights are squares of k standard normal numbers.
  single = scipy.special.chdtrc(len(before), n * before.sum(axis=0)) >= _LEVEL
  common, before = common[single], before[:, single]
  if not _leave_room(before, n):
    common, before = common[:0], before[:, :0]
  values = np.array([q.nodes[c] for q, c in zip(quadratures, common.T, strict=True)])
  new = tuple(_reweight(q, c, n) for q, c in zip(quadratures, common.T, strict=True))
  return Deflation(new, values.mean(axis=0), before)


def _leave_room(weights, n):
  """Returns whether single eigenvalues can have weights (k, p).

  What p of n leave has a beta distribution in each draw.
  """
  p = weights.shape[1]
  if p in (0, n):
    return True
  rest = np.clip(1 - weights.sum(axis=1), 0, 1)
  rest[rest < _ROUNDED] = 0
  return scipy.special.betainc((n - p) / 2, p / 2, rest).min() >= _NEVER


def _match(index, quadratures, found):
  """Returns the indices, by draws, of an isolated node of the first.

  None if one lacks it. Its place is known to a thousandth of the gaps, whatever the rounding of the
  products; so two nodes of a draw never match the same one of another.
  """
  value, gap = quadratures[0].nodes[index], _gaps(quadratures[0].nodes)[index]
  result = []
  for q, candidates in zip(quadratures, found, strict=True):
    if not candidates.size:
      return None
    nearest = candidates[np.argmin(np.abs(q.nodes[candidates] - value))]
    radius = 2 * _RELATIVE_RESIDUAL * min(gap, _gaps(q.nodes)[nearest])
    if not abs(q.nodes[nearest] - value) <= radius:
      return None
    result.append(nearest)
  return result


def _reweight(quadrature, known, n):
  weights = quadrature.weights.copy()
  weights[known] = 0
  if known.size < n:
    weights *= (1 - known.size / n) / weights.sum()
  weights[known] = 1 / n
  return Quadrature(quadrature.nodes, weights)


def projected_quadratures(
  matvec: Callable[[np.ndarray], np.ndarray],
  vectors: np.ndarray,
  values: np.ndarray,
  /,
  *,
  steps: int,
  draws: int,
  seed: int = 0,
) -> tuple[Quadrature, ...]:
  """Returns the deflated quadratures of draws in the complement of eigenvectors.

  Args:
    matvec: product with H, (n,) float64 -> (n,) float64.
    vectors: (p, n) float64, orthonormal rows: eigenvectors, such as of `top_eigenpairs`.
    values: (p,) their eigenvalues.
    steps: Lanczos steps of a draw.
    draws: number of draws.
    seed: of the start vectors, which are those of other runs, projected.

  Returns:
    Tuple of `Quadrature`, one a draw, with the known eigenvalues as nodes of weight 1 / n.

  >>> h = np.diag([0.0, 1.0, 5.0])
  >>> (rule,) = projected_quadratures(h.dot, np.eye(3)[2:], [5.0], steps=2, draws=1)
  >>> rule.nodes.round(12).tolist(), round(float(rule.weights[2]), 12)
  ([0.0, 1.0, 5.0], 0.333333333333)
  """
  checks.check_count("steps", steps)
  checks.check_count("draws", draws)
  count, n = vectors.shape

  def project(x):
    for _ in range(2):
      x = x - (vectors @ x) @ vectors
    return x

  result = []
  for draw in range(draws):
    if count == n:  # nothing else is there
      rule = Quadrature(np.empty(0), np.empty(0))
    else:
      v = project(probes.probe(seed, draw, n))
      state = lanczos.Lanczos.start(v / np.linalg.norm(v), min(steps, n - count))
      state.run(lambda q: project(matvec(q)))
      rule = gauss_quadrature(*state.tridiagonal())
    nodes = np.concatenate([rule.nodes, values])
    weights = np.concatenate([rule.weights * (1 - count / n), np.full(count, 1 / n)])
    order = np.argsort(nodes, kind="stable")
    result.append(Quadrature(nodes[order], weights[order]))
  return tuple(result)
