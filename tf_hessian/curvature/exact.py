"""The dense Hessian and its exact spectrum, for models small enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from tf_hessian import machine_memory
from tf_hessian.curvature import failures
from tf_hessian.curvature.selfcheck import PRODUCT_ROUNDINGS
from tf_hessian.numerics import dense, probes


def dense_hessian(
  operator: LinearOperator,
  /,
  *,
  rows: Sequence[int] | np.ndarray | None = None,
  progress: Callable[[int], None] | None = None,
) -> np.ndarray:
  """Returns the matrix of an operator, column by column through its products.

  Several columns are computed in one pass over the data. The result is symmetric to rounding, and
  left so: its asymmetry (`numerics.dense.asymmetry`) is a check of the products.

  >>> import numpy as np
  >>> import tensorflow as tf
  >>> import tf_hessian
  >>> def loss(p, batch):
  ...   return batch * tf.reduce_sum(p[0] ** 4)
  >>> point, data = [tf.Variable([3.0, 1.0])], [np.ones(1, "float32")]
  >>> hessian = tf_hessian.HessianOperator(point, loss, data)
  >>> tf_hessian.dense_hessian(hessian).tolist()
  [[108.0, 0.0], [0.0, 12.0]]

  Args:
    operator: a `HessianOperator`, or any symmetric `scipy.sparse.linalg.LinearOperator`.
    rows: (r,) indices of the rows and columns to return; all by default.
    progress: called with the number of finished columns; None for no calls.

  Returns:
    (r, r) float64: r * r * 8 bytes.

  Raises:
    TypeError: if it is no operator.
    ValueError: if it is not square, or (before the first product) there is no room for the matrix.
  """
  _check(operator)
  n = operator.shape[0]
  rows = np.arange(n) if rows is None else np.asarray(rows)
  _check_room("dense_hessian: a matrix", rows.size, 1.0)
  count = getattr(operator, "vectors_per_pass", 64)
  matrix = np.empty((rows.size, rows.size))
  for start in range(0, rows.size, count):
    chosen = rows[start : start + count]
    unit = np.zeros((chosen.size, n))
    unit[np.arange(chosen.size), chosen] = 1
    matrix[start : start + count] = (operator @ unit.T).T[:, rows]
    if progress is not None:
      progress(start + chosen.size)
  return matrix


def _check_room(what, rows, copies):
  """Refuses a matrix that does not fit, with its work space."""
  needed, there = copies * 8 * rows**2, machine_memory.available_memory()
  if needed > there:
    raise ValueError(
      f"{what} of {rows:,} rows takes {needed / 1e9:.3g} GB, and there are {there / 1e9:.3g} GB: "
      f"at most {int((there / 8 / copies) ** 0.5):,} rows fit; take a block (variables=), or what "
      "needs no matrix: spectral_density and top_eigenpairs"
    )


def _check(operator):
  if not isinstance(operator, np.ndarray) and not hasattr(operator, "matvec"):
    operator = _as_operator(operator)
  if len(operator.shape) != 2 or operator.shape[0] != operator.shape[1]:
    raise ValueError(f"operator: expected a square matrix, got shape {operator.shape}")


def _as_operator(operator):
  try:
    return aslinearoperator(operator)
  except TypeError as e:
    raise failures.no_operator(operator, "a HessianOperator, a linear operator or a matrix") from e


def _check_symmetric(matrix, precision):
  found = dense.asymmetry(matrix) if matrix.size else 0.0
  if found > min(0.3, PRODUCT_ROUNDINGS * precision):
    raise ValueError(
      f"operator: expected a symmetric matrix, and it is off by {found:.2g} of its largest entry"
    )


def nonzero_rows(operator: LinearOperator, /) -> np.ndarray:
  """Returns the ascending indices of the rows that are not exactly zero.

  A row is zero exactly if its entry in the products with random vectors is zero: other rows have a
  sum there that vanishes with probability zero; two vectors are used.
  """
  n = operator.shape[0]
  products = [operator @ probes.probe(seed, probes.Stream.NONZERO_ROWS, n) for seed in (0, 1)]
  return np.flatnonzero((products[0] != 0) | (products[1] != 0))


def exact_spectrum(
  operator: LinearOperator,
  /,
  *,
  eigenvectors: bool = False,
  progress: Callable[[int], None] | None = None,
) -> dense.ExactSpectrum:
  """Returns the `ExactSpectrum` of an operator.

  It is computed from the dense matrix of the nonzero rows. With r nonzero rows this takes r
  products, 8 r^2 bytes for the matrix and up to twice as much as work space.

  >>> import numpy as np
  >>> import tensorflow as tf
  >>> import tf_hessian
  >>> def loss(p, batch):
  ...   return batch * tf.reduce_sum(p[0] ** 4)
  >>> point, data = [tf.Variable([3.0, 1.0])], [np.ones(1, "float32")]
  >>> hessian = tf_hessian.HessianOperator(point, loss, data)
  >>> tf_hessian.exact_spectrum(hessian).eigenvalues.tolist()
  [12.0, 108.0]

  Args:
    operator: a `HessianOperator` or symmetric `LinearOperator`.
    eigenvectors: whether to keep the eigenvectors, which only the exact density of one draw needs;
      False by default, since they take as much memory as the matrix.
    progress: called with the number of finished columns; None for no calls.

  Raises:
    TypeError: if it is no operator.
    ValueError: if the matrix is not square, or not symmetric, or (before the first product) there
      is no room for one without zero rows.
  """
  _check(operator)
  # Measured at 3,000 rows: the matrix, a copy for LAPACK and for the check of symmetry; with
  # eigenvectors, LAPACK's work space besides.
  copies = 4.2 if eigenvectors else 2.4
  _check_room("exact_spectrum: the work on a matrix", operator.shape[0], copies)
  rows = nonzero_rows(operator)
  block = dense_hessian(operator, rows=rows, progress=progress)
  _check_symmetric(block, getattr(operator, "precision", float(np.finfo(np.float64).eps)))
  return dense.block_spectrum(block, rows, operator.shape[0], eigenvectors=eigenvectors)
