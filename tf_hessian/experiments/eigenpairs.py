"""The extreme eigenvalues of a model's Hessian, with eigenvectors."""

import contextlib
import io

from absl import logging
import numpy as np

from tf_hessian.curvature.group import lead
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.experiments import density_run, environment
from tf_hessian.experiments.lock_step import without_blas_threads
from tf_hessian.experiments.progress import Progress
from tf_hessian.numerics import checks, eigenpairs
from tf_hessian.numerics.results import Eigenpairs, EigenpairStatus

# In units of the products' rounding error; they are sums of many terms.
_TOLERANCE = 20.0


def top_eigenpairs(
  operator,
  /,
  largest=10,
  smallest=0,
  *,
  tolerance=None,
  max_products=None,
  basis_size=None,
  seed=0,
  progress=True,
):
  """Returns the largest and smallest eigenvalues of an operator, with eigenvectors and residuals.

  Lanczos with restarts, until all residuals |H y - theta y|, each computed by a product of its own,
  are within the tolerance. See `numerics.eigenpairs.top_eigenpairs`, also for what happens with
  multiple eigenvalues. Memory: the basis, and once more the vectors returned.

  Args:
    operator: a `HessianOperator`, or a symmetric `scipy.sparse.linalg.LinearOperator` or matrix. Of
      several workers each calls this function, and all get the result.
    largest: how many of the largest eigenvalues.
    smallest: how many of the smallest.
    tolerance: relative to the largest eigenvalue found; by default 1e-8, or 20 times the rounding
      error of the products where that is more (float32: 2.4e-6).
    max_products: ends the search, after which each pair is checked by one more; by default 20 times
      the basis.
    basis_size: number of vectors (n,) float64 in memory; by default 2 (largest + smallest) + 30.
    seed: of the start vector.
    progress: show a bar, or log lines where there is no terminal.

  Returns:
    `Eigenpairs`: values, vectors (rows), residuals, and a status. If it is not
    `EigenpairStatus.CONVERGED`, its text says what to do, and the pairs are the best there are.

  Raises:
    TypeError, ValueError: for bad arguments, or products that are not finite.
    OSError: (ClusterError) if other processes of a cluster are gone.
  """
  operator = density_run.as_operator(operator)
  n = operator.shape[0]
  seed = checks.check_seed(seed)
  precision = getattr(operator, "precision", np.finfo(np.float64).eps)
  options = {
    "tolerance": max(1e-8, _TOLERANCE * precision) if tolerance is None else tolerance,
    "max_products": max_products,
    "basis_size": basis_size,
    "seed": seed,
  }
  _, total = eigenpairs.limits(n, largest, smallest, basis_size, max_products)

  def search():
    of_model = isinstance(operator, HessianOperator)
    with (
      Progress(total, enabled=progress) as bar,
      without_blas_threads(n) if of_model else contextlib.nullcontext(),
    ):
      found = eigenpairs.top_eigenpairs(
        operator.matvec,
        n,
        largest,
        smallest,
        precision=precision,
        progress=lambda _, found: bar.advance(f"{found} of {largest + smallest} pairs"),
        **options,
      )
    if found.status is not EigenpairStatus.CONVERGED:
      logging.warning("eigenpairs: %s", found.status.value)
    return found

  if not isinstance(operator, HessianOperator):
    return search()
  operator.agree(**environment.identity(), largest=largest, smallest=smallest, **options)
  return lead(operator, search, _to_bytes, _from_bytes)


def _to_bytes(result):
  file = io.BytesIO()
  np.savez(
    file,
    values=result.values,
    vectors=result.vectors,
    residuals=result.residuals,
    status=result.status.name,
    num_products=result.num_products,
  )
  return file.getvalue()


def _from_bytes(content):
  with np.load(io.BytesIO(content), allow_pickle=False) as saved:
    return Eigenpairs(
      saved["values"],
      saved["vectors"],
      saved["residuals"],
      EigenpairStatus[str(saved["status"])],
      int(saved["num_products"]),
    )
