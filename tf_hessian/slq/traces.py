"""Traces of a matrix and of its diagonal blocks, from products."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import functools
import io
import json
from typing import TYPE_CHECKING, Any

from absl import logging
import numpy as np

from tf_hessian.numerics import checks, probes, traces
from tf_hessian.numerics.scaling import scales_of
from tf_hessian.numerics.traces import DiagonalEstimate, TraceEstimate
from tf_hessian.slq import blocks, provenance
from tf_hessian.slq.matrix import as_matrix, check_is_of_model
from tf_hessian.slq.progress import Progress

if TYPE_CHECKING:
  from tf_hessian.curvature.operator import CurvatureOperator


@dataclasses.dataclass(frozen=True, eq=False)
class BlockTraces:
  """Estimates for each diagonal block of a matrix.

  >>> import numpy as np
  >>> import tensorflow as tf
  >>> import tf_hessian
  >>> def loss(p, batch):
  ...   return batch * (tf.reduce_sum(p[0] ** 2) + tf.reduce_sum(p[1] ** 4))
  >>> point = [tf.Variable([1.0, 2.0], name="a"), tf.Variable([3.0], name="b")]
  >>> hessian = tf_hessian.HessianOperator(point, loss, [np.ones(1, "float32")])
  >>> found = tf_hessian.block_traces(hessian, num_probes=4, progress=False)
  >>> found.sizes.tolist(), found.traces.round(3).tolist()
  ([2, 1], [4.0, 108.0])

  Attributes:
    names: those of the layers or variables.
    sizes: (blocks,) numbers of parameters.
    cross: (probes, probes, blocks) v_l' (A w)_l of each pair of probes v and w. The mean of those
      of v with itself is the trace. Of two, v_l' (A w)_l times w_l' (A v)_l has the mean |A_ll|^2.
    squares: (probes, blocks) |(A v)_l|^2, whose mean is the sum of the squares of the block's rows,
      with their entries outside of the diagonal block.
  """

  names: tuple[str, ...]
  sizes: np.ndarray
  cross: np.ndarray
  squares: np.ndarray

  @property
  def samples(self) -> np.ndarray:
    """(probes, blocks) samples of the traces."""
    return np.diagonal(self.cross).T

  @property
  def block_squares(self) -> np.ndarray:
    """(blocks,) estimates of the squared Frobenius norms of the blocks.

    NaN for a single probe.
    """
    return _pair_mean(self.cross)

  @property
  def block_square_errors(self) -> np.ndarray:
    """(blocks,) their standard errors, by the jackknife; NaN below three probes."""
    k = len(self.cross)
    if k < 3:
      return np.full(self.cross.shape[2], np.nan)
    kept = [np.delete(np.arange(k), i) for i in range(k)]
    without = np.stack([_pair_mean(self.cross[np.ix_(i, i)]) for i in kept])
    return np.sqrt((k - 1) / k * np.sum((without - without.mean(axis=0)) ** 2, axis=0))

  @property
  def traces(self) -> np.ndarray:
    """(blocks,) estimates of the traces."""
    return self.samples.mean(axis=0)

  @property
  def trace_errors(self) -> np.ndarray:
    """(blocks,) standard errors of the traces; NaN for a single probe."""
    return _standard_errors(self.samples)

  @property
  def row_squares(self) -> np.ndarray:
    """(blocks,) estimates of the squared Frobenius norms of the blocks' rows."""
    return self.squares.mean(axis=0)

  @property
  def row_square_errors(self) -> np.ndarray:
    """(blocks,) their standard errors; NaN for a single probe."""
    return _standard_errors(self.squares)

  @property
  def trace(self) -> tuple[float, float]:
    """The trace of the whole matrix, and its standard error."""
    whole = self.samples.sum(axis=1, keepdims=True)
    return float(whole.mean()), float(_standard_errors(whole)[0])

  @property
  def frobenius_squared(self) -> tuple[float, float]:
    """The squared Frobenius norm of the whole matrix, and its standard error."""
    whole = self.squares.sum(axis=1, keepdims=True)
    return float(whole.mean()), float(_standard_errors(whole)[0])

  def __str__(self) -> str:
    width = max(len("all"), *map(len, self.names))
    heads = ("trace", "squared norm", "squares of rows")
    lines = [f"{'':{width}s}  {'parameters':>10s}" + "".join(f"  {h:>22s}" for h in heads)]
    lines += [f"{name:{width}s}  {n:10,d}  {'  '.join(cells)}" for name, n, cells in self._rows()]
    return "\n".join(lines)

  def _rows(self) -> Iterator[tuple[str, int, list[str]]]:
    pairs = (
      zip(self.traces, self.trace_errors, strict=True),
      zip(self.block_squares, self.block_square_errors, strict=True),
      zip(self.row_squares, self.row_square_errors, strict=True),
    )
    for name, n, *cells in zip(self.names, self.sizes, *pairs, strict=True):
      yield name, int(n), [_number(*cell) for cell in cells]
    whole = (self.trace, self.frobenius_squared, self.frobenius_squared)
    yield "all", int(np.sum(self.sizes)), [_number(*cell) for cell in whole]

  def to_bytes(self) -> bytes:
    """Returns the result as bytes that `from_bytes` reads."""
    buffer = io.BytesIO()
    np.savez(buffer, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})
    return buffer.getvalue()

  @classmethod
  def from_bytes(cls, content: bytes, /) -> BlockTraces:
    """Returns the result of bytes by `to_bytes`."""
    with np.load(io.BytesIO(content)) as found:
      return cls(tuple(map(str, found["names"])), found["sizes"], found["cross"], found["squares"])


def block_traces(
  operator: CurvatureOperator,
  /,
  by: str = "layer",
  *,
  num_probes: int = 10,
  seed: int = 0,
  progress: bool = True,
) -> BlockTraces:
  """Returns estimates of the traces of all diagonal blocks.

  By Hutchinson's estimator, from products with whole vectors of random signs: with the parts v_l of
  a probe, E[v_l' (A v)_l] is the trace of block l, and E[|(A v)_l|^2] the sum of the squares of its
  rows. Of two probes v and w, E[v_l' (A w)_l w_l' (A v)_l] is the squared Frobenius norm of the
  block. So all blocks take the products of one. See Hutchinson (1990). The products are held in
  memory, a vector (n,) each.

  >>> import numpy as np
  >>> import tensorflow as tf
  >>> import tf_hessian
  >>> point = [tf.Variable([1.0, 2.0]), tf.Variable([3.0])]
  >>> hessian = tf_hessian.HessianOperator(
  ...   point, lambda p, batch: batch * (p[0][0] ** 2 + 2 * p[0][1] ** 2 + 3 * p[1][0] ** 2),
  ...   [np.ones(1, "float32")],
  ... )
  >>> tf_hessian.block_traces(hessian, "variable", num_probes=2, progress=False).traces
  array([6., 6.])

  Args:
    operator: a `HessianOperator` or another matrix of a model. Each of several workers calls this
      function and gets the result.
    by: "layer" for all variables of a layer together, or "variable".
    num_probes: number of products.
    seed: seed of the probes.
    progress: whether to show a bar, or log lines where there is no terminal.

  Returns:
    `BlockTraces`.

  Raises:
    TypeError, ValueError: for bad arguments, or products that are not finite.
    OSError: (ClusterError) if other processes of a cluster are gone.
  """
  check_is_of_model(operator)
  blocks.check_by(by)
  checks.check_count("num_probes", num_probes)
  seed = checks.check_seed(seed)
  found = blocks.of_operator(operator, by)
  matrix = as_matrix(operator)

  def compute():
    vectors = np.empty((num_probes, matrix.n), np.int8)
    products = np.empty((num_probes, matrix.n))
    count = min(num_probes, operator.vectors_per_pass)
    with Progress(num_probes, enabled=progress) as bar, matrix.passes():
      for start in range(0, num_probes, count):
        part = slice(start, min(start + count, num_probes))
        v = np.stack([probes.signs(seed, i, matrix.n) for i in range(num_probes)[part]])
        vectors[part], products[part] = v, operator.products(v)
        bar.advance(f"{part.stop} of {num_probes} probes", products=len(v))
    names = tuple(block.name for block in found)
    sizes = np.array([block.n for block in found], np.int64)
    cross, squares = zip(*(_of_block(vectors, products, block) for block in found), strict=True)
    return BlockTraces(names, sizes, np.stack(cross, axis=2), np.stack(squares, axis=1))

  matrix.agree(**provenance.identity(), by=by, num_probes=num_probes, seed=seed)
  return matrix.lead(compute, BlockTraces.to_bytes, BlockTraces.from_bytes)


def trace(
  operator: Any,
  /,
  num_products: int = 30,
  *,
  method: str = "xtrace",
  target_error: float | None = None,
  seed: int = 0,
  progress: bool = True,
) -> TraceEstimate:
  """Returns an estimate of the trace, with its standard error.

  The draws of a density give it too, without further products: `Spectrum.trace`. What is taken out
  of the dominant part of the spectrum makes this one more exact for equal products.

  >>> import numpy as np
  >>> import tf_hessian
  >>> tf_hessian.trace(np.diag([1.0, 2.0, 3.0]), progress=False)
  TraceEstimate(value=6.0, stderr=0.0, products=3)

  Args:
    operator: a `HessianOperator` or another matrix of a model, or a symmetric
      `scipy.sparse.linalg.LinearOperator` or array. Each of several workers calls this function and
      gets the result.
    num_products: most products; n of them give it exactly.
    method: "xtrace" or "hutch++", which take out the dominant part first, or "hutchinson". They
      hold two vectors (n,) a product, or a little less (`numerics.traces`).
    target_error: standard error, relative to the trace, at which no more products are made; None
      makes all. Not for "hutch++". If it is not reached, a warning says so.
    seed: seed of the random vectors.
    progress: whether to show a bar, or log lines where there is no terminal.

  Returns:
    `TraceEstimate`.

  Raises:
    TypeError, ValueError: for bad arguments, or products that are not finite.
    OSError: (ClusterError) if other processes of a cluster are gone.
  """
  matrix = as_matrix(operator)
  traces.check_trace(num_products, method, target_error)
  about: dict[str, Any] = {
    "num_products": num_products,
    "method": method,
    "target_error": target_error,
  }
  result = _estimate(
    matrix,
    functools.partial(traces.trace, **about),
    about | {"seed": checks.check_seed(seed)},
    total=num_products if target_error else min(num_products, matrix.n),
    progress=progress,
    ways=(
      lambda found: json.dumps(found).encode(),
      lambda content: TraceEstimate(*json.loads(content)),
    ),
  )
  if target_error is not None and result.stderr > target_error * abs(result.value):
    logging.warning(
      "trace: %.5g +- %.2g after %d products misses target_error=%g: allow more products",
      *result,
      target_error,
    )
  return result


def diagonal(
  operator: Any, /, num_products: int = 30, *, seed: int = 0, progress: bool = True
) -> DiagonalEstimate:
  """Returns an estimate of the diagonal, with the standard errors.

  By products with vectors of random signs (Bekas, Kokiopoulou and Saad, 2007).

  >>> import numpy as np
  >>> import tf_hessian
  >>> tf_hessian.diagonal(np.diag([1.0, 2.0, 3.0]), progress=False).values
  array([1., 2., 3.])

  Args:
    operator: a `HessianOperator` or another matrix of a model, or a symmetric
      `scipy.sparse.linalg.LinearOperator` or array. Each of several workers calls this function and
      gets the result.
    num_products: number of products; n of them give it exactly.
    seed: seed of the random vectors.
    progress: whether to show a bar, or log lines where there is no terminal.

  Returns:
    `DiagonalEstimate`: values, stderrs, and products. `operator.unflatten(found.values)` gives them
    by variable.

  Raises:
    TypeError, ValueError: for bad arguments, or products that are not finite.
    OSError: (ClusterError) if other processes of a cluster are gone.
  """
  matrix = as_matrix(operator)
  checks.check_count("num_products", num_products)
  about: dict[str, Any] = {"num_products": num_products}
  width = matrix.most_vectors(num_products)
  return _estimate(
    matrix,
    functools.partial(traces.diagonal, vectors_per_pass=width, **about),
    about | {"seed": checks.check_seed(seed)},
    total=min(num_products, matrix.n),
    progress=progress,
    ways=(_diagonal_to_bytes, _diagonal_from_bytes),
  )


def _estimate(matrix, estimate, about, *, total, progress, ways):
  """Returns what `estimate` makes of a matrix's products, on all workers.

  Args:
    matrix: the `Matrix`.
    estimate: (products, n, rng=generator) -> result.
    about: plain values that all workers must have in common, with the seed.
    total: number of products.
    progress: whether to show it.
    ways: how the result becomes bytes, and they become the result.
  """
  matrix.check_array()

  def compute():
    scale = None

    def products(vectors):
      nonlocal scale
      found = matrix.matmat(vectors)
      if not np.isfinite(found).all():
        raise ValueError("operator: its products are not finite: there is NaN or infinity in them")
      bar.advance("estimate", products=len(vectors))
      if scale is None:  # the squares of extreme numbers are no float64
        scale = float(scales_of(np.reshape(found, (1, -1)))[0])
      return found if scale == 1 else found / scale

    rng = probes.generator(about["seed"], probes.Stream.TRACE)
    with Progress(total, enabled=progress) as bar, matrix.passes():
      found = estimate(products, matrix.n, rng=rng)
    value, stderr, count = found
    return found if scale == 1 else type(found)(value * scale, stderr * scale, count)

  matrix.agree(**provenance.identity(), **about)
  return matrix.lead(compute, *ways)


def _diagonal_to_bytes(found):
  buffer = io.BytesIO()
  np.savez(buffer, **found._asdict())
  return buffer.getvalue()


def _diagonal_from_bytes(content):
  with np.load(io.BytesIO(content)) as found:
    return DiagonalEstimate(found["values"], found["stderrs"], int(found["products"]))


def _of_block(vectors, products, block):
  """Returns v_l' (A w)_l of all pairs, and |(A v)_l|^2."""
  cross, squares = 0.0, 0.0
  for part in block.parts:
    cross = cross + vectors[:, part].astype(np.float64) @ products[:, part].T
    squares = squares + np.einsum("in,in->i", products[:, part], products[:, part])
  return cross, squares


def _pair_mean(cross):
  """Returns the mean of c_ij c_ji over pairs i < j: (blocks,)."""
  first, second = np.triu_indices(len(cross), 1)
  if not len(first):
    return np.full(cross.shape[2], np.nan)
  return np.mean(cross[first, second] * cross[second, first], axis=0)


def _standard_errors(samples):
  if len(samples) < 2:
    return np.full(samples.shape[1], np.nan)
  return samples.std(axis=0, ddof=1) / np.sqrt(len(samples))


def _number(value, error):
  return f"{value:12.5g} +- {error:<6.2g}"
