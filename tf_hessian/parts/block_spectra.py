"""Densities of all diagonal blocks of a model's matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import os
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_hessian import notices, plotting
from tf_hessian.folders import as_path
from tf_hessian.slq import blocks, digests, run_folder
from tf_hessian.slq.density import spectral_density
from tf_hessian.slq.matrix import Matrix, as_matrix, check_is_of_model, known_vector

if TYPE_CHECKING:
  from tf_hessian.curvature.operator import CurvatureOperator
  from tf_hessian.spectrum import Spectrum


_ROUNDING = 1e-6  # of the largest eigenvalue, which products of float32 models are right to


class BlockSpectra(Mapping):
  """The spectra of diagonal blocks, by name.

  Their order is that of the vector.

  >>> import numpy as np
  >>> import tensorflow as tf
  >>> import tf_hessian
  >>> def loss(p, batch):
  ...   return batch * (tf.reduce_sum(p[0] ** 2) + tf.reduce_sum(p[1] ** 4))
  >>> point = [tf.Variable([1.0, 2.0], name="a"), tf.Variable([3.0], name="b")]
  >>> hessian = tf_hessian.HessianOperator(point, loss, [np.ones(1, "float32")])
  >>> layers = tf_hessian.block_spectra(hessian, num_draws=2, lanczos_steps=2, progress=False)
  >>> {name: spectrum.largest(1).round(3).tolist() for name, spectrum in layers.items()}
  {'a': [2.0], 'b': [108.0]}

  Args:
    spectra: dict: name of the layer or variable -> `Spectrum` of its block.
  """

  def __init__(self, spectra: Mapping[str, Spectrum], /) -> None:
    self._spectra = dict(spectra)

  def __getitem__(self, name: str) -> Spectrum:
    return self._spectra[name]

  def __iter__(self) -> Iterator[str]:
    return iter(self._spectra)

  def __len__(self) -> int:
    return len(self._spectra)

  def __repr__(self) -> str:
    return f"BlockSpectra({len(self)} blocks)"

  def __str__(self) -> str:
    width = max(len("block"), *map(len, self))
    columns = ("parameters", "smallest", "largest", "below zero")
    lines = [f"{'block':{width}s}" + "".join(f"  {c:>12s}" for c in columns) + f"  {'trace':>22s}"]
    for name, spectrum in self.items():
      nodes = np.concatenate(spectrum.nodes)
      trace, error = spectrum.trace()
      lines.append(
        f"{name:{width}s}  {spectrum.num_parameters:12,d}  {nodes.min():12.5g}  {nodes.max():12.5g}"
        f"  {_below_zero(spectrum, nodes):12.3g}  {trace:12.5g} +- {error:<6.2g}"
      )
    return "\n".join(lines)

  def plot(
    self,
    path: str | os.PathLike,
    *,
    sigma_squared: float = 1e-5,
    limits: tuple[float, float] | None = None,
  ) -> None:
    """Writes a picture of the densities by depth, one row a block.

    Args:
      path: the picture, such as "layers.png".
      sigma_squared: variance of the kernel (default: the paper's).
      limits: (low, high) of the eigenvalue axis; all densities by default.

    Raises:
      ValueError: for another format.
      OSError: if the picture can't be written.
    """
    plotting.plot_by_depth(self, path, sigma_squared=sigma_squared, limits=limits)


def _below_zero(spectrum, nodes):
  """Returns the share of eigenvalues that are negative beyond rounding."""
  least = -_ROUNDING * np.abs(nodes).max()
  return np.mean([q.weights[q.nodes < least].sum() for q in spectrum.quadratures])


def block_spectra(
  operator: CurvatureOperator,
  /,
  by: str = "layer",
  *,
  workdir: str | os.PathLike | None = None,
  check: bool = True,
  **options: Any,
) -> BlockSpectra:
  """Returns the eigenvalue density of each diagonal block.

  The product with a block is that part of the whole product with a vector that is zero elsewhere.
  So one build of the functions serves all of them, and each product costs what a whole one does.

  >>> import numpy as np
  >>> import tensorflow as tf
  >>> import tf_hessian
  >>> point = [tf.Variable([1.0, 2.0]), tf.Variable([3.0])]
  >>> hessian = tf_hessian.HessianOperator(
  ...   point, lambda p, batch: batch * (p[0][0] ** 2 + 2 * p[0][1] ** 2 + 3 * p[1][0] ** 2),
  ...   [np.ones(1, "float32")],
  ... )
  >>> spectra = tf_hessian.block_spectra(hessian, "variable", num_draws=1, progress=False)
  >>> [spectra[name].nodes[0].round(5).tolist() for name in spectra]
  [[2.0, 4.0], [6.0]]

  Args:
    operator: a `HessianOperator` or another matrix of a model. Each of several workers calls this
      function and gets the result.
    by: "layer" for all variables of a layer together, or "variable".
    workdir: folder around one folder for each block, from which an interrupted run goes on.
    check: as in `spectral_density`; the whole matrix is checked, once.
    **options: further arguments of `spectral_density`, such as `num_draws`.

  Returns:
    `BlockSpectra`.

  Raises:
    TypeError, ValueError: for bad arguments, data, or a matrix that can't be relied on.
    OSError: if `workdir` can't be written, or (ClusterError) other processes of a cluster are gone.
  """
  check_is_of_model(operator)
  blocks.check_by(by)
  whole = as_matrix(operator)
  chosen = [_Block(whole, block) for block in blocks.of_operator(operator, by)]
  folders = [None if workdir is None else _folder(workdir, i, b) for i, b in enumerate(chosen)]
  _check_folder(workdir, [f.name for f in folders if f is not None])
  for folder in filter(None, folders):
    run_folder.check(folder)
  found = {}
  for i, (block, folder) in enumerate(zip(chosen, folders, strict=True)):
    if options.get("progress", True):
      notices.show("block %d of %d: %s (n = %d)", i + 1, len(chosen), block.name, block.n)
    found[block.name] = spectral_density(block, workdir=folder, check=check and not i, **options)
  return BlockSpectra(found)


def _check_folder(workdir, names):
  """Refuses a folder around other blocks."""
  if workdir is None or not os.path.isdir(workdir):
    return
  others = sorted(set(os.listdir(workdir)) - set(names))
  if others:
    raise ValueError(
      f"workdir: {workdir} holds {', '.join(others[:3])}, which is none of these blocks; choose a "
      "new or empty folder"
    )


def _folder(workdir, i, block):
  return as_path(workdir) / f"{i:03d}_{re.sub(r'[^A-Za-z0-9.-]+', '_', block.name)}"


class _Block(Matrix):
  """A diagonal block of a matrix."""

  def __init__(self, whole: Matrix, block: blocks.Block):
    self.name, self.n = block.name, block.n
    self.precision, self.deterministic = whole.precision, whole.deterministic
    self.parameter_names, self.parameter_shapes = block.names, block.shapes
    self._whole, self._parts = whole, block.parts

  @property
  def vectorized(self):
    return self._whole.vectorized

  def product(self, vector: np.ndarray, /) -> np.ndarray:
    return self._part(self._whole.product(self._spread(vector)))

  def products(self, vectors: np.ndarray, /, *, vectors_per_pass: int) -> np.ndarray:
    found = self._whole.products(self._spread(vectors), vectors_per_pass=vectors_per_pass)
    return self._part(found)

  def _spread(self, vectors):
    """Returns vectors (..., n) of the block as whole ones, zero elsewhere."""
    result = np.zeros((*vectors.shape[:-1], self._whole.n))
    start = 0
    for part in self._parts:
      stop = start + part.stop - part.start
      result[..., part] = vectors[..., start:stop]
      start = stop
    return result

  def _part(self, vectors):
    return np.concatenate([vectors[..., part] for part in self._parts], axis=-1)

  def most_vectors(self, num_draws, /):
    return self._whole.most_vectors(num_draws)

  def share(self, count, /):
    self._whole.share(count)

  def passes(self):
    return self._whole.passes()

  def gradient(self):
    return self._part(self._whole.gradient())

  def loss(self):
    return self._whole.loss()

  def check(self):
    self._whole.check()

  def description(self):
    return self._whole.description() | {"block": self.name}

  def point(self):
    return self._whole.point()

  def state(self):
    return self._whole.state()

  def product_digest(self):
    if not self.deterministic:
      return None
    return digests.of_array(self.product(known_vector(self.n)))

  def as_recorded(self, record, /, digest=None):
    return self._whole.as_recorded(record, digest or self.product_digest)

  def agree(self, **about):
    self._whole.agree(block=self.name, **about)

  def lead(self, compute, encode, decode, /):
    return self._whole.lead(compute, encode, decode)
