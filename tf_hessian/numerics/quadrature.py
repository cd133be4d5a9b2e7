"""From tridiagonal matrices to Gauss quadrature (Golub and Welsch, 1969)."""

import numpy as np
import scipy.linalg

from tf_hessian.numerics.results import Quadrature


def gauss_quadrature(diagonal, off_diagonal, /):
  """Returns the nodes and weights of a tridiagonal matrix (step 2 of Algorithm 1).

  The nodes are its eigenvalues, the weights the squares of the first components of its
  eigenvectors. QL iteration is used because its eigenvectors are orthogonal to rounding, so that
  the weights sum to 1 to rounding.

  Args:
    diagonal: (m,) float64.
    off_diagonal: (m - 1,) float64.
  """
  nodes, vectors = scipy.linalg.eigh_tridiagonal(diagonal, off_diagonal, lapack_driver="stev")
  return Quadrature(nodes, vectors[0] ** 2)


def ritz_residuals(diagonal, off_diagonal, beta, /):
  """Returns |beta s_mi| of each node, s_i the eigenvectors of the tridiagonal matrix: (m,) float64.

  Args:
    diagonal: (m,) float64.
    off_diagonal: (m - 1,) float64.
    beta: length of the residual of the last Lanczos step.
  """
  _, vectors = scipy.linalg.eigh_tridiagonal(diagonal, off_diagonal, lapack_driver="stev")
  return np.abs(beta * vectors[-1])


def tridiagonal_matrix(diagonal, off_diagonal, /):
  """Returns the dense (m, m) float64 matrix."""
  return np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1)


def moments(quadratures, order, /):
  """Returns sum_i w_i t_i^j, which is v' H^j v for j < 2m, of each draw.

  Args:
    quadratures: sequence of k `Quadrature`.
    order: highest power J.

  Returns:
    (k, J) float64: powers 1 .. J.
  """
  powers = np.arange(1, order + 1)
  return np.array([q.weights @ q.nodes[:, None] ** powers for q in quadratures])


def mean_and_stderr(samples, /):
  """Returns the mean over axis 0 and its standard error, which is NaN for a single sample."""
  samples = np.asarray(samples, np.float64)
  count = len(samples)
  if count < 2:
    return samples.mean(axis=0), np.full(samples.shape[1:], np.nan)
  return samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(count)
