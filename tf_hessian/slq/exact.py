"""The dense matrix and its exact spectrum, for matrices small enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import os
from typing import Any

import numpy as np

from tf_hessian import folders, machine_memory, notices
from tf_hessian.curvature.selfcheck import PRODUCT_ROUNDINGS
from tf_hessian.numerics import dense, probes
from tf_hessian.slq import digests, matrix_folder, provenance
from tf_hessian.slq.matrix import Matrix, as_matrix
from tf_hessian.slq.matrix_folder import MatrixFolder
from tf_hessian.slq.progress import Progress
from tf_hessian.slq.storage import free_disk

# Bytes for each entry, measured by benchmarks.dense: the matrix, in which LAPACK works, and the
# eigenvectors; the rest is for blocks of columns.
EIGENVALUES, EIGENVECTORS = 8.4, 16.6
_LEAST_COLUMNS = 8  # of a block
_LONG = 2000  # rows from which on LAPACK takes seconds


def dense_hessian(
  operator: Any,
  /,
  *,
  rows: Sequence[int] | np.ndarray | None = None,
  workdir: str | os.PathLike | None = None,
  progress: bool | Callable[[int], None] | None = True,
) -> np.ndarray:
  """Returns the matrix of an operator, column by column through its products.

  Several columns are computed in one pass over the data. Of each pair of entries that should be
  equal, the one that is computed first stands for both; the other one is compared with it.

  >>> import numpy as np
  >>> import tensorflow as tf
  >>> import tf_hessian
  >>> def loss(p, batch):
  ...   return batch * tf.reduce_sum(p[0] ** 4)
  >>> point, data = [tf.Variable([3.0, 1.0])], [np.ones(1, "float32")]
  >>> hessian = tf_hessian.HessianOperator(point, loss, data)
  >>> tf_hessian.dense_hessian(hessian, progress=False).tolist()
  [[108.0, 0.0], [0.0, 12.0]]

  Args:
    operator: a `HessianOperator`, or any symmetric `scipy.sparse.linalg.LinearOperator` or array.
      Each of several workers calls this function and gets the matrix.
    rows: (r,) indices of the rows and columns to return; all by default.
    workdir: folder for finished blocks of columns, of which one triangle is kept: 4 r^2 bytes. A
      computation that was interrupted goes on from there and ends with bitwise the same matrix. It
      has to be new or empty, or hold this matrix. The whole one is put together there too, in
      matrix.npy, so it need not fit into memory, but 12 r^2 bytes on the disk. None keeps
      everything in memory.
    progress: whether to show a bar, or log lines where there is no terminal; or a function that is
      called with the number of finished columns.

  Returns:
    (r, r) float64, exactly symmetric: 8 r^2 bytes. With `workdir` it is matrix.npy, mapped into
    memory; changes stay in memory.

  Raises:
    TypeError: if it is no operator.
    ValueError: if it is not square, or products are not symmetric or not finite, or (before the
      first product) there is no room for the matrix, or the folder is of something else.
    OSError: if `workdir` can't be written, or (ClusterError) other processes of a cluster are gone.
  """
  matrix = as_matrix(operator)
  chosen = _checked_rows(rows, matrix.n)

  def compute():
    if workdir is None:
      remedy = "give it a folder (workdir=), which holds it on disk; "
      check_memory("dense_hessian: a matrix", chosen.size, 8.0, remedy)
      return fill(None, None)
    _check_folder("dense_hessian: a matrix", workdir, chosen.size, 12.0)
    with _opened(workdir, matrix, chosen) as folder:
      with folder.new_matrix(chosen.size) as whole:
        fill(folder, whole)
      return folder.matrix()

  def fill(folder, whole):
    triangle = upper_triangle(matrix, chosen, progress=progress, folder=folder, into=whole)
    _check_symmetric(triangle, matrix)
    triangle.mirror()
    return triangle.matrix

  matrix.agree(**provenance.identity(), rows=digests.of_array(chosen))
  return matrix.lead(
    compute,
    lambda found: found.tobytes(),
    lambda content: np.frombuffer(bytearray(content)).reshape(chosen.size, chosen.size),
  )


def exact_spectrum(
  operator: Any,
  /,
  *,
  eigenvectors: bool = False,
  workdir: str | os.PathLike | None = None,
  progress: bool | Callable[[int], None] | None = True,
) -> dense.ExactSpectrum:
  """Returns the `ExactSpectrum` of an operator.

  It is computed from the dense matrix of the nonzero rows, in whose place LAPACK works. With r
  nonzero rows this takes r products, and memory for r^2 float64 numbers, with eigenvectors for
  twice as many: measured are 1.02 and 2.01 times the matrix at 12,000 rows (`python -m
  benchmarks.dense`).

  >>> import numpy as np
  >>> import tensorflow as tf
  >>> import tf_hessian
  >>> def loss(p, batch):
  ...   return batch * tf.reduce_sum(p[0] ** 4)
  >>> point, data = [tf.Variable([3.0, 1.0])], [np.ones(1, "float32")]
  >>> hessian = tf_hessian.HessianOperator(point, loss, data)
  >>> tf_hessian.exact_spectrum(hessian, progress=False).eigenvalues.tolist()
  [12.0, 108.0]

  Args:
    operator: a `HessianOperator`, or a symmetric `scipy.sparse.linalg.LinearOperator` or array.
      Each of several workers calls this function and gets the result; the chief alone has the
      matrix.
    eigenvectors: whether to keep the eigenvectors, which only the exact density of one draw needs;
      False by default, since they take as much memory as the matrix.
    workdir: folder for finished blocks of columns, as in `dense_hessian`, and for the eigenvalues.
      It takes 4 r^2 bytes; the matrix has to fit into memory all the same. None keeps everything in
      memory.
    progress: whether to show a bar, or log lines where there is no terminal; or a function that is
      called with the number of finished columns.

  Raises:
    TypeError: if it is no operator.
    ValueError: if the matrix is not square, or products are not symmetric or not finite, or (before
      the first product) there is no room for a matrix without zero rows, or the folder is of
      something else.
    OSError: if `workdir` can't be written, or (ClusterError) other processes of a cluster are gone.
  """
  matrix = as_matrix(operator)

  def compute():
    needed = EIGENVECTORS if eigenvectors else EIGENVALUES
    check_memory("exact_spectrum: the work on a matrix", matrix.n, needed)
    if workdir is not None:
      _check_folder("exact_spectrum: the triangle of a matrix", workdir, matrix.n, 4.0)
    matrix.share(matrix.columns_per_pass)
    rows = nonzero_rows(matrix)
    if workdir is None:
      return solve(rows, None)
    with _opened(workdir, matrix, rows) as folder:
      found = None if eigenvectors else folder.read(matrix_folder.EIGENVALUES)
      if found is not None:
        return dense.ExactSpectrum.from_arrays(found)
      result = solve(rows, folder)
      if not eigenvectors:
        folder.write(matrix_folder.EIGENVALUES, result.arrays())
      return result

  def solve(rows, folder):
    triangle = upper_triangle(matrix, rows, progress=progress, folder=folder)
    _check_symmetric(triangle, matrix)
    if rows.size > _LONG and _is_shown(progress):
      notices.show("all %d columns are there: LAPACK computes the eigenvalues", rows.size)
    return dense.block_spectrum(triangle.matrix, rows, matrix.n, eigenvectors=eigenvectors)

  matrix.agree(**provenance.identity(), eigenvectors=eigenvectors)
  return matrix.lead(compute, dense.ExactSpectrum.to_bytes, dense.ExactSpectrum.from_bytes)


def nonzero_rows(operator: Any, /) -> np.ndarray:
  """Returns the ascending indices of the rows that are not exactly zero.

  A row is zero exactly if its entry in the products with random vectors is zero: other rows have a
  sum there that vanishes with probability zero; two vectors are used.
  """
  matrix = as_matrix(operator)
  vectors = [probes.probe(seed, probes.Stream.NONZERO_ROWS, matrix.n) for seed in (0, 1)]
  return np.flatnonzero(np.any([matrix.product(v) != 0 for v in vectors], axis=0))


def upper_triangle(
  operator: Any,
  rows: np.ndarray,
  /,
  *,
  progress: bool | Callable[[int], None] | None = True,
  folder: MatrixFolder | None = None,
  into: np.ndarray | None = None,
) -> dense.Triangle:
  """Computes the upper triangle of an operator's matrix.

  Args:
    operator: the operator, or its `Matrix`.
    rows: (r,) indices of the rows and columns.
    progress: as in `dense_hessian`.
    folder: where finished blocks are, and are written to; None for none.
    into: (r, r) float64 to be filled; None for a new one in memory.

  Raises:
    ValueError: if products are not finite.
    OSError: if the folder can't be written.
  """
  matrix = as_matrix(operator)
  triangle = dense.Triangle(np.empty((rows.size, rows.size)) if into is None else into)
  count = matrix.columns_per_pass
  width = -(-_LEAST_COLUMNS // count) * count
  told = progress if callable(progress) else lambda _: None
  with Progress(rows.size, enabled=_is_shown(progress), unit="column") as bar, matrix.passes():
    for start in range(0, rows.size, width):
      stop = min(start + width, rows.size)
      found = None
      if folder is not None:
        found = folder.columns(start, (stop - start, rows.size - start))
      if found is not None:
        bar.resume(stop - start)
        told(stop)
      else:
        block = np.empty((stop - start, rows.size))
        for i in range(start, stop, count):
          part = rows[i : min(i + count, stop)]
          block[i - start : i - start + part.size] = matrix.columns(part)[:, rows]
          bar.advance("dense matrix", products=part.size)
          told(i + part.size)
        _check_finite(block, rows[start:stop])
        found = block[:, start:], triangle.judge(start, block)
        if folder is not None:
          folder.save_columns(start, *found)
      triangle.keep(start, *found)
  return triangle


def check_memory(what: str, rows: int, each: float, remedy: str = "", /) -> None:
  """Refuses a matrix that does not fit into memory.

  Args:
    what: what it is, for the message.
    rows: its order.
    each: bytes for each of its entries.
    remedy: what helps besides, for the message.

  Raises:
    ValueError: says how many rows fit, and what needs no matrix.
  """
  _check_room(what, rows, each, machine_memory.available_memory(), remedy)


def _check_folder(what, path, rows, each):
  """Refuses a folder of something else, or without room on its disk."""
  folders.look(path, matrix_folder.KIND)
  there = free_disk(path) + matrix_folder.held_bytes(path)
  _check_room(f"{what} in {path}", rows, each, there, "take a larger disk; ")


def _check_room(what, rows, each, there, remedy):
  needed = each * rows**2
  if needed > there:
    raise ValueError(
      f"{what} of {rows:,} rows takes {needed / 1e9:.3g} GB, and there are {there / 1e9:.3g} GB: "
      f"at most {int((there / each) ** 0.5):,} rows fit; {remedy}take a block (variables=), or "
      "what needs no matrix: spectral_density and top_eigenpairs"
    )


def _checked_rows(rows, n):
  if rows is None:
    return np.arange(n)
  chosen = np.asarray(rows)
  if not chosen.size:
    return np.empty(0, np.int64)
  if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or chosen.min() < -n or chosen.max() >= n:
    hint = "; np.flatnonzero makes them of a mask" if chosen.dtype == bool else ""
    raise ValueError(f"rows: expected indices of rows, below {n}, got {rows!r}{hint}")
  return chosen.astype(np.int64) % n


@contextlib.contextmanager
def _opened(path, matrix: Matrix, rows: np.ndarray) -> Iterator[MatrixFolder]:
  """Opens the folder of a matrix; another one's is refused."""
  identity = matrix.description() | {"n": matrix.n, "rows": digests.of_array(rows)}
  identity |= {"vectors_per_pass": matrix.columns_per_pass, "vectorized": matrix.vectorized}
  identity["point"] = matrix.point()
  matrix.share(matrix.columns_per_pass)
  with (
    matrix.as_recorded(folders.recorded(path, matrix_folder.KIND)) as product,
    MatrixFolder(path, identity | {"product": product}) as folder,
  ):
    yield folder


def _is_shown(progress):
  return bool(progress) and not callable(progress)


def _check_finite(block, rows):
  bad = rows[~np.isfinite(block).all(axis=1)]
  if bad.size:
    raise ValueError(f"operator: NaN or infinity in column {bad[0]}")


def _check_symmetric(triangle, matrix):
  if triangle.asymmetry > min(0.3, PRODUCT_ROUNDINGS * matrix.symmetry):
    raise ValueError(
      f"operator: expected a symmetric matrix, and it is off by {triangle.asymmetry:.2g} of its "
      f"largest entry, where products are taken to be right to {matrix.symmetry:.2g}; an operator "
      "that computes in float32 says so by its dtype"
    )
