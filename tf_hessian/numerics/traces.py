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

  Attributes:
    value: the estimate.
    stderr: its standard error; for Hutch++ and XTrace an estimate that is rather too large.
    products: how many products it took.
  """

  value: float
  stderr: float
  products: int


def trace(
  products: Callable[[np.ndarray], np.ndarray],
  n: int,
  /,
  *,
  num_products: int,
  method: str = "xtrace",
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
    rng: generator of the random vectors.

  Returns:
    `TraceEstimate`.

  Raises:
    ValueError: for an unknown method, or fewer products than it needs: 2, or 6 for Hutch++ and 4
      for XTrace.

  >>> rng = np.random.default_rng(0)
  >>> trace(lambda v: v * [1.0, 2.0, 3.0], 3, num_products=3, rng=rng)
  TraceEstimate(value=6.0, stderr=0.0, products=3)
  """
  checks.check_choice("method", method, METHODS)
  least = {"hutchinson": 2, "hutch++": 6, "xtrace": 4}[method]
  checks.check_count("num_products", num_products)
  if num_products >= n:
    return TraceEstimate(float(np.trace(products(np.eye(n)))), 0.0, n)
  if num_products < least:
    raise ValueError(f"num_products: expected at least {least} for {method}, got {num_products}")
  return _METHODS[method](products, n, num_products, rng)


def _hutchinson(products, n, count, rng):
  v = _signs(rng, count, n)
  samples = np.einsum("in,in->i", v, products(v))
  return TraceEstimate(*_mean(samples), count)


def _hutch_plus_plus(products, n, count, rng):
  k = count // 3
  q = scipy.linalg.qr(products(_signs(rng, k, n)).T, mode="economic")[0].T
  head = np.einsum("in,in->", q, products(q))
  g = _signs(rng, count - 2 * k, n)
  g -= (g @ q.T) @ q
  value, stderr = _mean(np.einsum("in,in->i", g, products(g)))
  return TraceEstimate(float(head) + value, stderr, count)


def _xtrace(products, n, count, rng):
  # Each sample takes the range of all other products for the dominant part, and its own vector for
  # the rest. With Y = A V = Q R, that range is Q (I - s s'), s the normalized column of R^-T.
  m = count // 2
  v = rng.standard_normal((m, n)).T
  q, r = scipy.linalg.qr(products(v.T).T, mode="economic")
  z = products(q.T).T
  s = scipy.linalg.solve_triangular(r, np.eye(m), trans="T")
  s /= np.linalg.norm(s, axis=0)
  h, w, t = q.T @ z, q.T @ v, z.T @ v
  sw = np.sum(s * w, axis=0)
  u = w - s * sw  # coordinates of what is taken out of v
  inner = np.sum(w * r, axis=0) - 2 * np.sum(t * u, axis=0) + np.sum(u * (h @ u), axis=0)
  # What is left of v has a direction that is uniform in n - m + 1 dimensions.
  squares = np.sum(v * v, axis=0) - np.sum(w * w, axis=0) + sw**2
  samples = np.trace(h) - np.sum(s * (h @ s), axis=0) + (n - m + 1) * inner / squares
  return TraceEstimate(*_mean(samples), 2 * m)


_METHODS = {"hutchinson": _hutchinson, "hutch++": _hutch_plus_plus, "xtrace": _xtrace}


def _signs(rng, count, n):
  return 2.0 * rng.integers(0, 2, (count, n), dtype=np.int8) - 1.0


def _mean(samples):
  return float(np.mean(samples)), float(np.std(samples, ddof=1) / np.sqrt(len(samples)))
