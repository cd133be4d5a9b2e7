"""The extreme eigenvalues of a model's Hessian, with eigenvectors."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import os
from typing import Any

from absl import logging
import numpy as np

from tf_hessian import folders
from tf_hessian.numerics import checks, eigenpairs
from tf_hessian.numerics.results import Eigenpairs, EigenpairStatus
from tf_hessian.slq import digests, provenance, search_folder
from tf_hessian.slq.matrix import Matrix, as_matrix
from tf_hessian.slq.progress import Progress


def top_eigenpairs(
  operator: Any,
  /,
  largest: int = 10,
  smallest: int = 0,
  *,
  tolerance: float | None = None,
  max_products: int | None = None,
  basis_size: int | None = None,
  repeated: bool = True,
  seed: int = 0,
  start: np.ndarray | None = None,
  workdir: str | os.PathLike | None = None,
  progress: bool = True,
  config: Any = None,
) -> Eigenpairs:
  """Returns an operator's largest and smallest eigenpairs, with their residuals.

  Lanczos with restarts goes on until all residuals |H y - theta y| are within the tolerance. Each
  is computed by a product of its own. Memory: the basis, and once more the vectors returned. A
  density can do without a basis (`Storage("none")`); this can't, but a small one will do.

  Of an exactly repeated eigenvalue, as alike outputs or units have, a start vector sees one vector
  only. So a search that has converged begins again beside what it has found, to look for others.

  >>> import numpy as np
  >>> import tf_hessian
  >>> pairs = tf_hessian.top_eigenpairs(np.diag([5.0, 2.0, -1.0]), 1, 1, progress=False)
  >>> pairs.values.round(6).tolist(), pairs.status.name
  ([5.0, -1.0], 'CONVERGED')

  Args:
    operator: a `HessianOperator`, or a symmetric `scipy.sparse.linalg.LinearOperator` or matrix.
      Each of several workers calls this function and gets the result.
    largest: number of the largest eigenvalues.
    smallest: number of the smallest eigenvalues.
    tolerance: most of a residual, relative to the largest eigenvalue found. By default 1e-8, or 20
      times the rounding error of the products where that is more (float32: 2.4e-6).
    max_products: most products of the search, by default 20 times the basis. Each pair is checked
      by one more afterwards.
    basis_size: number of vectors (n,) float64 in memory; by default 2 (largest + smallest) + 30.
      Fewer may miss copies of eigenvalues.
    repeated: whether to look for more copies of eigenvalues, by new start vectors beside the pairs,
      until that changes none: some 5 to 40 products, and again for each copy found. True by
      default; done where more than one is wanted of an end, as one has its value anyhow. False
      spares the products, where eigenvalues are known to differ; a status of CONVERGED then does
      not say that no copy was missed. Folders of earlier versions hold such searches.
    seed: seed of the start vector.
    start: (n,) what to begin at instead, such as a sum of the eigenvectors at a point that was
      near; None for a random vector. Eigenvectors that it has no part of may be missed.
    workdir: folder for the state, each minute or so and when it is interrupted, and the result:
      eigenpairs.npz, which `Eigenpairs.load` reads, and eigenpairs.json. A search that was
      interrupted goes on from there and ends bitwise the same. It has to be new or empty, or hold
      this search. None keeps everything in memory.
    progress: whether to show a bar, or log lines where there is no terminal.
    config: plain values to record in the files, such as an experiment's config; None for none.

  Returns:
    `Eigenpairs`: values, vectors (rows), residuals, and a status. If it is not
    `EigenpairStatus.CONVERGED`, its text says what to do, and the pairs are the best there are.

  Raises:
    TypeError, ValueError: for bad arguments, or products that are not finite.
    OSError: if `workdir` can't be written, or (ClusterError) other processes of a cluster are gone.
  """
  matrix = as_matrix(operator)
  matrix.check_array()
  size = (basis_size, max_products)
  options = search_options(matrix, largest, smallest, *size, tolerance, repeated, seed)
  _, total = eigenpairs.limits(matrix.n, largest, smallest, *size)

  def search():
    identity = {"start": begun, **options, "max_products": None}
    with _opened(workdir, matrix, identity, config) as folder:
      found = folder.result(total)
      if found and found.status is EigenpairStatus.COPIES_UNKNOWN and not options["repeated"]:
        found = dataclasses.replace(found, status=EigenpairStatus.CONVERGED)
      if found is None:
        folder.look_for_room(8 * matrix.n * (largest + smallest))
        found = compute(folder)
        try:
          folder.save_result(found)
        except OSError:
          logging.error("eigenpairs: not saved: %s, residuals %s", found.values, found.residuals)
          raise
    if found.status is not EigenpairStatus.CONVERGED:
      logging.warning("eigenpairs: %s", found.status.value)
    return found

  def compute(folder):
    state = folder.state()
    done = 0 if state is None else int(state["numbers"][1])
    with Progress(total, done=done, enabled=progress) as bar, matrix.passes():
      return eigenpairs.top_eigenpairs(
        matrix.product,
        matrix.n,
        precision=matrix.precision,
        start=start,
        state=state,
        save=folder.save_state,
        progress=lambda _, found: bar.advance(f"{found} of {largest + smallest} pairs"),
        **options,
      )

  start = None if start is None else checks.as_vector("start", start, matrix.n, zero=False)
  begun = None if start is None else digests.of_array(start)
  matrix.agree(**provenance.identity(), start=begun, **options)
  return matrix.lead(search, Eigenpairs.to_bytes, Eigenpairs.from_bytes)


def search_options(
  matrix: Matrix,
  largest: int,
  smallest: int,
  basis_size: int | None,
  max_products: int | None,
  tolerance: float | None,
  repeated: bool,
  seed: int,
  /,
) -> dict[str, Any]:
  """Returns a search's checked arguments, as `numerics` takes and folders record them.

  Raises:
    TypeError, ValueError: for bad arguments.
  """
  eigenpairs.limits(matrix.n, largest, smallest, basis_size, max_products)
  if tolerance is None:
    tolerance = eigenpairs.default_tolerance(matrix.precision)
  checks.check_positive("tolerance", tolerance)
  checks.check_choice("repeated", repeated, (True, False))
  return {
    "largest": largest,
    "smallest": smallest,
    "tolerance": tolerance,
    "max_products": max_products,
    "basis_size": basis_size,
    # None is not recorded: folders of earlier versions don't say that they have not looked.
    "repeated": True if repeated and max(largest, smallest) > 1 else None,
    "seed": checks.check_seed(seed),
  }


@contextlib.contextmanager
def _opened(workdir, matrix, identity, config) -> Iterator[search_folder.SearchFolder]:
  """Opens the folder of a search, if any; another one's is refused."""
  about = {"description": matrix.description(), "config": config}
  if workdir is None:
    with search_folder.SearchFolder(None, identity, about) as folder:
      yield folder
    return
  folders.look(workdir, search_folder.KIND)  # before the product that tells the matrix
  with matrix.as_recorded(folders.recorded(workdir, search_folder.KIND)) as product:
    identity |= matrix.description() | {"n": matrix.n, "point": matrix.point()}
    with search_folder.SearchFolder(workdir, identity | {"product": product}, about) as folder:
      yield folder
