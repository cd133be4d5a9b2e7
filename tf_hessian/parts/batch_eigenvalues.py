"""Extreme eigenvalues of each mini-batch's own matrix."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
import re
import time
from typing import TYPE_CHECKING

from absl import logging
import numpy as np

from tf_hessian import files, folders, plotting, records
from tf_hessian.numerics import checks, eigenpairs
from tf_hessian.numerics.results import EigenpairStatus
from tf_hessian.slq import blas, provenance
from tf_hessian.slq.eigenpairs import search_options
from tf_hessian.slq.matrix import as_matrix, check_is_of_model
from tf_hessian.slq.progress import Progress

if TYPE_CHECKING:
  from tf_hessian.curvature.operator import CurvatureOperator

FORMAT_VERSION = 1
_FILE = "eigenvalues.npz"
KIND = folders.Kind(
  "folder of batches' eigenvalues", "batches.json", made=re.compile(re.escape(_FILE))
)
_SAVE_SECONDS = 1.0  # between two files; a killed process loses the batches since the last one


@dataclasses.dataclass(frozen=True, eq=False)
class BatchEigenvalues:
  """The extreme eigenvalues of each batch's own matrix.

  >>> import numpy as np
  >>> import tensorflow as tf
  >>> import tf_hessian
  >>> point = [tf.Variable([3.0, 1.0])]
  >>> hessian = tf_hessian.HessianOperator(
  ...   point, lambda p, b: b * tf.reduce_sum(p[0] ** 4), [np.float32([1.0]), np.float32([2.0])]
  ... )
  >>> found = tf_hessian.batch_eigenvalues(hessian, 1, progress=False)
  >>> np.round(found.values, 3).tolist(), found.converged.tolist()
  ([[108.0], [216.0]], [True, True])

  Attributes:
    values: (batches, k): the largest of each, descending, then the smallest, ascending.
    residuals: (batches, k) |A_b y - theta y| of each.
    converged: (batches,) bool: whether they are all within the tolerance.
    products: (batches,) number of products that each batch took.
    largest: how many of the k are the largest.
  """

  values: np.ndarray
  residuals: np.ndarray
  converged: np.ndarray
  products: np.ndarray
  largest: int

  def __str__(self) -> str:
    k = self.values.shape[1]
    names = [f"largest {i + 1}" for i in range(self.largest)]
    names += [f"smallest {i + 1}" for i in range(k - self.largest)]
    lines = [f"{'':12s}  {'least':>12s}  {'median':>12s}  {'mean':>12s}  {'greatest':>12s}"]
    for name, v in zip(names, self.values[self._weigh()].T, strict=True):
      numbers = (v.min(), np.median(v), v.mean(), v.max())
      lines.append(f"{name:12s}" + "".join(f"  {x:12.5g}" for x in numbers))
    lines.append(
      f"{len(self.values)} batches, {int(self.converged.sum())} converged, "
      f"{int(self.products.sum())} products"
    )
    return "\n".join(lines)

  def plot(self, path: str | os.PathLike, *, title: str = "") -> None:
    """Writes a picture: how often which eigenvalue is found.

    Args:
      path: the picture, such as "batches.png".
      title: text above.

    Raises:
      ValueError: for another format.
      OSError: if the picture can't be written.
    """
    values, largest = self.values[self._weigh()], self.largest
    parts = {"largest eigenvalue": values[:, 0]} if largest else {}
    if largest < values.shape[1]:
      parts["smallest eigenvalue"] = values[:, largest]
    plotting.plot_histograms(parts, path, label="eigenvalue of a batch", title=title)

  def _weigh(self):
    """Returns which batches have eigenvalues, since their examples weigh something."""
    return np.isfinite(self.values).all(axis=1)

  def to_bytes(self) -> bytes:
    """Returns the result as bytes that `from_bytes` reads."""
    buffer = io.BytesIO()
    np.savez(buffer, **vars(self))
    return buffer.getvalue()

  @classmethod
  def from_bytes(cls, content: bytes, /) -> BatchEigenvalues:
    """Returns the result of bytes by `to_bytes`.

    Raises:
      ValueError: if they are damaged.
    """
    return cls._of(files.read_npz(io.BytesIO(content)))

  @classmethod
  def _of(cls, found):
    names = [f.name for f in dataclasses.fields(cls)][:-1]
    return cls(*(found[n] for n in names), int(found["largest"]))


def batch_eigenvalues(
  operator: CurvatureOperator,
  /,
  largest: int = 1,
  smallest: int = 0,
  *,
  num_batches: int | None = None,
  tolerance: float | None = None,
  max_products: int | None = None,
  basis_size: int | None = None,
  repeated: bool = True,
  seed: int = 0,
  workdir: str | os.PathLike | None = None,
  progress: bool = True,
) -> BatchEigenvalues:
  """Returns extreme eigenvalues of each batch's own matrix.

  That of batch b is the matrix of the batch's own mean loss, such as its Hessian. All batches share
  the compiled functions. Several workers leave it to the chief.

  >>> import numpy as np
  >>> import tensorflow as tf
  >>> import tf_hessian
  >>> point = [tf.Variable([1.0, 1.0, 1.0])]
  >>> hessian = tf_hessian.HessianOperator(
  ...   point,
  ...   lambda p, batch: batch[:, 0] * p[0][0] ** 2 + 2 * p[0][1] ** 2,
  ...   [np.full((1, 1), x, "float32") for x in (1, 3)],
  ... )
  >>> tf_hessian.batch_eigenvalues(hessian, progress=False).values.round(6).tolist()
  [[4.0], [6.0]]

  Args:
    operator: a `HessianOperator` or another matrix of a model. Each of several workers calls this
      function and gets the result.
    largest: number of the largest eigenvalues.
    smallest: number of the smallest.
    num_batches: only the first so many batches; None for all.
    tolerance: most of a residual, relative to the batch's largest eigenvalue; that of
      `top_eigenpairs` by default.
    max_products: most products of a batch's search; by default 20 times the basis.
    basis_size: number of vectors (n,) float64 in memory; by default 2 (largest + smallest) + 30.
    repeated: whether to look for more copies of eigenvalues where more than one is wanted of an
      end, as `top_eigenpairs` does.
    seed: seed of the start vector, which is the same for all batches.
    workdir: folder for what is finished. A run that was interrupted goes on from there. It has to
      be new or empty, or hold this run. None keeps everything in memory.
    progress: whether to show a bar, or log lines where there is no terminal.

  Returns:
    `BatchEigenvalues`, NaN for batches whose examples weigh nothing. Where some have not converged,
    a warning says so.

  Raises:
    TypeError, ValueError: for bad arguments, or products that are not finite.
    OSError: if `workdir` can't be written, or (ClusterError) other processes of a cluster are gone.
  """
  check_is_of_model(operator)
  matrix = as_matrix(operator)
  count = operator.batches.num_batches
  if num_batches is not None:
    checks.check_count("num_batches", num_batches)
    count = min(count, num_batches)
  size = (basis_size, max_products)
  options = search_options(matrix, largest, smallest, *size, tolerance, repeated, seed)

  def compute():
    operator.check_point()
    identity = matrix.description() | options | {"num_batches": count, "point": matrix.point()}
    with _Found(workdir, identity, (count, largest + smallest, largest)) as found:
      with (
        Progress(count, done=found.count, enabled=progress, unit="batch") as bar,
        blas.without_threads(matrix.n),
      ):
        for batch in operator.runner.single_batches(found.count):
          if batch.number >= count:
            break
          search = functools.partial(eigenpairs.top_eigenpairs, batch.product, matrix.n, **options)
          found.add(None if batch.empty else search(precision=matrix.precision))
          bar.advance(f"batch {batch.number}")
      return found.result()

  matrix.agree(**provenance.identity(), **options, num_batches=count)
  result = matrix.lead(compute, BatchEigenvalues.to_bytes, BatchEigenvalues.from_bytes)
  missed = int(np.sum(~result.converged & result._weigh()))
  if missed:
    logging.warning(
      "eigenvalues of %d of %d batches are not within the tolerance: allow more products, a larger "
      "basis, or a larger tolerance; or more copies of theirs could not be looked for",
      missed,
      count,
    )
  return result


class _Found:
  """The eigenvalues of finished batches, perhaps in a folder.

  Args:
    path: the folder, or None.
    identity: plain values that say which run it is.
    shape: (number of batches, values of each, how many of these are the largest).

  Attributes:
    count: number of batches that are finished.
  """

  def __init__(self, path, identity, shape):
    batches, k, largest = shape
    values = np.full((batches, k), np.nan)
    self._all = BatchEigenvalues(
      values, values.copy(), np.zeros(batches, bool), np.zeros(batches, np.int64), largest
    )
    self.count = 0
    self._saved = time.monotonic()
    self._folder = None
    if path is not None:
      self._open(path, identity)

  def _open(self, path, identity):
    identity = records.as_plain({"format_version": FORMAT_VERSION, **identity})
    text = json.dumps(identity, indent=2)
    self._folder = folders.OwnedFolder(
      path, KIND, text, lambda found: records.check_same(path, KIND.record, found, identity)
    )
    self._digest = folders.digest(folders.recorded(path, KIND))
    file = self._folder.path / _FILE
    if not file.exists():
      return
    try:
      state = files.read_npz(file, follow=False)
      found = BatchEigenvalues._of(state)
      count = int(state["count"])
      if str(state["run"]) != self._digest or found.values.shape != self._all.values.shape:
        raise ValueError("it is of another run")
    except (OSError, ValueError, KeyError) as e:
      logging.warning("%s is damaged (%s): all batches are computed again", file, e)
      return
    self._all, self.count = found, count

  def add(self, pairs):
    """Adds those of the next batch; None leaves NaN."""
    found, b = self._all, self.count
    if pairs is None:
      logging.warning("batch %d: its examples weigh nothing, so it has no eigenvalues", b)
    else:
      found.values[b], found.residuals[b] = pairs.values, pairs.residuals
      found.converged[b] = pairs.status is EigenpairStatus.CONVERGED
      found.products[b] = pairs.num_products
    self.count = b + 1
    if time.monotonic() - self._saved > _SAVE_SECONDS:
      self._save()

  def result(self):
    return self._all

  def _save(self):
    if self._folder is not None:
      with files.replacing(self._folder.path / _FILE) as file:
        made_by = json.dumps(provenance.versions() | {"device": provenance.device()})
        np.savez(file, run=self._digest, count=self.count, made_by=made_by, **vars(self._all))
    self._saved = time.monotonic()

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    try:
      self._save()
    finally:
      if self._folder is not None:
        self._folder.close()
