"""Estimates of the trace of a symmetric matrix from its products.

Hutchinson's estimator (1990), Hutch++ (Meyer, Musco, Musco and Woodruff, 2021), and XTrace
(Epperly, Tropp and Webber, 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.linalg

from tf_hessian.numerics import checks

METHODS = ("hutchinson", "hutch++", "xtrace")


class TraceEstimate(NamedTuple):
  """A trace with its standard error.

  >>> import numpy as np
  >>> import tf_hessian
  >>> found = tf_hessian.trace(np.diag([1.0, 2.0, 3.0]), 3, progress=False)
  >>> round(found.value, 6), found.products
  (6.0, 3)

  Attributes:
    value: the estimate.
    stderr: its standard error, estimated by the spread of samples. Those of XTrace share vectors,
      so its is too small: by a tenth to two fifths in the matrices tried, of 10 to 40 products, and
      by half of 4 to 8.
    products: how many products it took.
  """

  value: float
  stderr: float
  products: int


class DiagonalEstimate(NamedTuple):
  """A diagonal with the standard errors of its entries.

  >>> import numpy as np
  >>> import tf_hessian
  >>> found = tf_hessian.diagonal(np.diag([1.0, 2.0, 3.0]), 3, progress=False)
  >>> found.values.round(6).tolist(), found.products
  ([1.0, 2.0, 3.0], 3)

  Attributes:
    values: (n,) estimates.
    stderrs: (n,) their standard errors.
    products: how many products it took.
  """

  values: np.ndarray
  stderrs: np.ndarray
  products: int


def trace(
  products: Callable[[np.ndarray], np.ndarray],
  n: int,
  /,
  *,
  num_products: int,
  method: str = "xtrace",
  target_error: float | None = None,
  rng: np.random.Generator,
) -> TraceEstimate:
  """Returns an estimate of the trace.

  Where n products are allowed, they give it exactly.

  Args:
    products: function of vectors (k, n) -> their products (k, n).
    n: order of the matrix.
    num_products: most products.
    method: "hutchinson" by vectors of random signs, best for flat spectra; "hutch++" and "xtrace",
      which take out the dominant part first, best for matrices with few large eigenvalues. They
      hold two vectors (n,) a product, or a little less.
    target_error: standard error, relative to the trace, at which no more products are made; None
      makes all. For "hutchinson" and "xtrace", which can use the products that there are. XTrace
      has to be below it twice in a row, with half as many products more: its error is too small
      where it is first seen to be small.
    rng: generator of the random vectors.

  Returns:
    `TraceEstimate`.

  Raises:
    ValueError: for bad arguments, or fewer products than a method needs: 2, or 6 for Hutch++ and 4
      for XTrace.

  >>> rng = np.random.default_rng(0)
  >>> trace(lambda v: v * [1.0, 2.0, 3.0], 3, num_products=3, rng=rng)
  TraceEstimate(value=6.0, stderr=0.0, products=3)
  """
  check_trace(num_products, method, target_error)
  if num_products >= n and target_error is None:
    return _exact(products, n)
  least = _LEAST[method]
  if num_products < min(least, n):
    raise ValueError(f"num_products: expected at least {least} for {method}, got {num_products}")
  if method == "hutch++":
    return _hutch_plus_plus(products, n, num_products, rng)
  samples = _METHODS[method](products, n, rng)
  count = num_products if target_error is None else min(num_products, _FIRST_LOOK)
  found, times = TraceEstimate(np.nan, np.inf, 0), 0
  while count < n:
    found = samples.estimate(count)
    if target_error is None or found.products + samples.cost > num_products:
      return found
    times = times + 1 if found.stderr <= target_error * abs(found.value) else 0
    if times == samples.looks:
      return found
    count = min(num_products, count * 3 // 2)
  if found.products + n > num_products:
    return found
  return _exact(products, n)._replace(products=found.products + n)


def check_trace(num_products: int, method: str, target_error: float | None, /) -> None:
  """Raises TypeError or ValueError for arguments that `trace` doesn't take."""
  checks.check_choice("method", method, METHODS)
  checks.check_count("num_products", num_products)
  if target_error is not None:
    checks.check_positive("target_error", target_error)
    if method == "hutch++":
      raise ValueError(
        "target_error: is for 'xtrace' and 'hutchinson'; hutch++ can't use the products of fewer "
        "vectors"
      )


def diagonal(
  products: Callable[[np.ndarray], np.ndarray],
  n: int,
  /,
  *,
  num_products: int,
  vectors_per_pass: int = 1,
  rng: np.random.Generator,
) -> DiagonalEstimate:
  """Returns an estimate of the diagonal.

  The mean of v * A v over vectors v of random signs (Bekas, Kokiopoulou and Saad, 2007). The error
  of an entry is that of the others of its row, |A[i]|^2 - A[i, i]^2 for one vector.

  Args:
    products: function of vectors (k, n) -> their products (k, n).
    n: order of the matrix.
    num_products: number of products, at least 2; n of them give it exactly.
    vectors_per_pass: number of vectors that are made at once.
    rng: generator of the random vectors.

  Returns:
    `DiagonalEstimate`.

  Raises:
    ValueError: for fewer than 2 products.

  >>> rng = np.random.default_rng(0)
  >>> diagonal(lambda v: v * [1.0, 2.0, 3.0], 3, num_products=2, rng=rng).values
  array([1., 2., 3.])
  """
  checks.check_count("num_products", num_products)
  exact = num_products >= n
  if num_products < 2 and not exact:
    raise ValueError(f"num_products: expected at least 2, got {num_products}")
  count = min(num_products, n)
  mean, squares = np.zeros(n), np.zeros(n)
  for start in range(0, count, vectors_per_pass):
    size = min(vectors_per_pass, count - start)
    v = np.eye(size, n, start) if exact else _signs(rng, size, n)
    for i, sample in enumerate(v * products(v), start + 1):
      if exact:
        mean += sample
      else:
        difference = sample - mean
        mean += difference / i
        squares += difference * (sample - mean)
  stderrs = squares if exact else np.sqrt(squares / (count * (count - 1)))
  return DiagonalEstimate(mean, stderrs, count)


def _exact(products, n):
  return TraceEstimate(float(np.trace(products(np.eye(n)))), 0.0, n)


class _Hutchinson:
  """Samples v' A v, to which more can be added.

  Attributes:
    cost: products of one more sample.
    looks: how many times in a row an error has to be small.
  """

  cost = 1
  looks = 1

  def __init__(self, products, n, rng):
    self._products, self._n, self._rng = products, n, rng
    self._samples = np.empty(0)

  def estimate(self, count):
    """Returns the estimate by `count` products."""
    v = _signs(self._rng, count - len(self._samples), self._n)
    self._samples = np.append(self._samples, np.einsum("in,in->i", v, self._products(v)))
    return TraceEstimate(*_mean(self._samples), count)


def _hutch_plus_plus(products, n, count, rng):
  k = count // 3
  q = scipy.linalg.qr(products(_signs(rng, k, n)).T, mode="economic")[0].T
  head = np.einsum("in,in->", q, products(q))
  g = _signs(rng, count - 2 * k, n)
  g -= (g @ q.T) @ q
  value, stderr = _mean(np.einsum("in,in->i", g, products(g)))
  return TraceEstimate(float(head) + value, stderr, count)


class _XTrace:
  """Samples of which each takes the range of all other products out.

  Its own vector is for the rest. With Y = A V = Q R, that range is Q (I - s s'), s the normalized
  column of R^-T. More vectors extend all of these.

  Attributes: as `_Hutchinson`.
  """

  cost = 2
  looks = 2

  def __init__(self, products, n, rng):
    self._products, self._n, self._rng = products, n, rng
    self._v = self._q = self._z = np.empty((0, n))  # rows: V, Q, and Z = A Q
    self._r = np.empty((0, 0))

  def estimate(self, count):
    """Returns the estimate by `count` products."""
    self._extend(count // 2 - len(self._v))
    v, q, r, z = self._v.T, self._q.T, self._r, self._z.T
    m = len(r)
    s = scipy.linalg.solve_triangular(_regular(r), np.eye(m), trans="T")
    s /= np.linalg.norm(s, axis=0)
    h, w, t = q.T @ z, q.T @ v, z.T @ v
    sw = np.sum(s * w, axis=0)
    u = w - s * sw  # coordinates of what is taken out of v
    inner = np.sum(w * r, axis=0) - 2 * np.sum(t * u, axis=0) + np.sum(u * (h @ u), axis=0)
    # What is left of v has a direction that is uniform in n - m + 1 dimensions.
    squares = np.sum(v * v, axis=0) - np.sum(w * w, axis=0) + sw**2
    samples = np.trace(h) - np.sum(s * (h @ s), axis=0) + (self._n - m + 1) * inner / squares
    return TraceEstimate(*_mean(samples), 2 * m)

  def _extend(self, more):
    v = self._rng.standard_normal((more, self._n))
    y = self._products(v)
    overlaps = np.zeros((len(self._q), more))
    for _ in range(2):  # the second time for what rounding has left
      c = self._q @ y.T
      y = y - c.T @ self._q
      overlaps += c
    q, r = scipy.linalg.qr(y.T, mode="economic")
    below = np.zeros((more, len(self._q)))
    self._r = np.block([[self._r, overlaps], [below, r]])
    self._z = _below(self._z, self._products(q.T))
    self._v, self._q = _below(self._v, v), _below(self._q, q.T)


def _below(rows, more):
  """Returns rows with more below them; the first ones are not copied."""
  return np.vstack([rows, more]) if len(rows) else more


def _regular(r):
  """Returns R with rounding for zeros on its diagonal.

  Those are of low rank, and belong to directions that the matrix takes to zero.
  """
  diagonal = np.abs(np.diag(r))
  least = np.finfo(np.float64).eps * diagonal.max() or 1.0
  return r + np.diag(np.where(diagonal < least, least, 0.0))


_METHODS: dict[str, Callable] = {"hutchinson": _Hutchinson, "xtrace": _XTrace}
_LEAST = {"hutchinson": 2, "hutch++": 6, "xtrace": 4}
_FIRST_LOOK = 10  # number of products after which an error is first looked at


def _signs(rng, count, n):
  return 2.0 * rng.integers(0, 2, (count, n), dtype=np.int8) - 1.0


def _mean(samples):
  return float(np.mean(samples)), float(np.std(samples, ddof=1) / np.sqrt(len(samples)))
