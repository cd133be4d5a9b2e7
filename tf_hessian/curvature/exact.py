"""The dense Hessian and its exact spectrum, for models small enough."""

import numpy as np

from tf_hessian.numerics import dense


def dense_hessian(operator, /, *, progress=None):
  """Returns the matrix of an operator, column by column through its products.

  Several columns are computed in one pass over the data. The result is symmetric to rounding, and
  left so: its asymmetry (`numerics.dense.asymmetry`) is a check of the products.

  Args:
    operator: a `HessianOperator`, or any symmetric `scipy.sparse.linalg.LinearOperator`.
    progress: called with the number of finished columns.

  Returns:
    (n, n) float64: n * n * 8 bytes.
  """
  n = operator.shape[0]
  count = getattr(operator, "columns_per_pass", 64)
  matrix = np.empty((n, n))
  for start in range(0, n, count):
    rows = np.zeros((min(count, n - start), n))
    rows[np.arange(len(rows)), start + np.arange(len(rows))] = 1
    if hasattr(operator, "product_rows"):
      operator.product_rows(rows, matrix[start : start + len(rows)])
    else:
      matrix[start : start + len(rows)] = (operator @ rows.T).T
    if progress is not None:
      progress(start + len(rows))
  return matrix


def exact_spectrum(operator, /, *, eigenvectors=False, progress=None):
  """Returns the `ExactSpectrum` of an operator, from its dense matrix.

  Args:
    operator: a `HessianOperator` or symmetric `LinearOperator`.
    eigenvectors: keep the eigenvectors, which the exact density of one draw needs.
    progress: called with the number of finished columns.
  """
  matrix = dense_hessian(operator, progress=progress)
  return dense.symmetric_spectrum(matrix, eigenvectors=eigenvectors)
