"""A matrix as a run sees it, whatever it was given as.

`as_matrix` is asked once, at the door. Nobody behind it asks again what an operator is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import hashlib
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import scipy.sparse.linalg

from tf_hessian.curvature import failures, widths
from tf_hessian.curvature.group import lead
from tf_hessian.curvature.operator import CurvatureOperator
from tf_hessian.curvature.selfcheck import PRODUCT_ROUNDINGS, check_operator, relative_asymmetry
from tf_hessian.numerics import probes
from tf_hessian.slq import blas, digests
from tf_hessian.slq.storage import Workers, default_memory

if TYPE_CHECKING:
  from tf_hessian.numerics.basis import Basis

T = TypeVar("T")
_COLUMNS = 64  # at a time, of an operator that does not say how many share a pass


def _real(product):
  """Refuses complex products, whose imaginary part NumPy would drop."""
  if np.iscomplexobj(product):
    raise TypeError("matrix: its products are complex; expected a real symmetric matrix")
  return product


class Matrix:
  """A symmetric linear operator or array, with products one by one.

  Attributes:
    n: its order.
    precision: relative rounding error of its products.
    symmetry: relative rounding error of its entries, by which it may be off being symmetric.
    deterministic: whether products with the same vector are bitwise equal.
    vectorized: whether the rounding of products that share a pass depends on how many do.
    traced: whether functions are built before the first product, which takes a while.
    columns_per_pass: number of columns that share a pass.
    parameter_names, parameter_shapes: names and shapes of the variables in its vectors, if known.
  """

  vectorized = True  # of what `matmat` does nothing is known
  traced = False
  # Function (steps, path or None) -> `Basis`, if there are workers.
  distributed_basis: Callable[..., Basis] | None = None

  def __init__(self, operator: scipy.sparse.linalg.LinearOperator, /):
    self.n = operator.shape[0]
    self.precision = max(map(_precision, _parts(operator)))
    self.symmetry = self.precision
    self.deterministic = all(getattr(part, "deterministic", True) for part in _parts(operator))
    self.columns_per_pass = getattr(operator, "vectors_per_pass", _COLUMNS)
    self.parameter_names = tuple(getattr(operator, "parameter_names", ()))
    self.parameter_shapes = tuple(getattr(operator, "parameter_shapes", ()))
    self._operator = operator

  def product(self, vector: np.ndarray, /) -> np.ndarray:
    """Returns the product with a vector, both (n,)."""
    return _real(self._operator.matvec(vector))

  def products(self, vectors: np.ndarray, /, *, vectors_per_pass: int) -> np.ndarray:  # noqa: ARG002
    """Returns the products with the rows of (k, n): (k, n).

    Args:
      vectors: (k, n).
      vectors_per_pass: number of vectors that share a pass, where passes are shared.
    """
    return self.matmat(vectors)

  def matmat(self, vectors: np.ndarray, /) -> np.ndarray:
    """Returns products with rows, as the operator makes them, both (k, n)."""
    found = _real(self._operator.matmat(vectors.T).T)
    if len(found) > 1 and np.array_equal(found[0], found[-1]) and found[0].any():
      # SciPy makes them one by one where there is no matmat, of what may be the same array again.
      found = np.stack([np.array(self.product(v)) for v in vectors])
    return found

  def columns(self, numbers: np.ndarray, /) -> np.ndarray:
    """Returns the columns of the given numbers (k,), one a row: (k, n)."""
    unit = np.zeros((len(numbers), self.n))
    unit[np.arange(len(numbers)), numbers] = 1
    return self.matmat(unit)

  def most_vectors(self, num_draws: int, /) -> int:  # noqa: ARG002
    """Returns how many draws may share a pass.

    The memory that they take is not considered.
    """
    return 1  # it is not known whether that is any use

  def share(self, count: int, /) -> None:
    """Says how many vectors will share a pass.

    The pass of several is built then, and makes single products too, so that no other has to be.

    Args:
      count: number of vectors.
    """

  def passes(self) -> contextlib.AbstractContextManager:
    """Returns a context for a run's products.

    It leaves BLAS its threads, which a caller's matrix may need.
    """
    return contextlib.nullcontext()

  def gradient(self) -> np.ndarray:
    """Returns the gradient that a run begins at: (n,).

    Raises:
      ValueError: if there is none.
    """
    raise ValueError('start: "gradient" is for a HessianOperator; give the vector')

  def check_start(self, start: Any, /) -> None:
    """Raises ValueError for a start that this matrix does not have."""
    if isinstance(start, str):
      self.gradient()

  def loss(self) -> float | None:
    """Returns the mean loss, or None if there is none."""
    return None

  def check(self) -> None:
    """Checks that products repeat and that the matrix is symmetric.

    Does nothing where it is not known how.
    """

  def check_array(self) -> None:
    """Checks that an array is symmetric; does nothing where that costs more."""

  def description(self) -> dict[str, Any]:
    """Returns what defines it apart from its point: plain values."""
    return {"operator": type(self._operator).__name__}

  def point(self) -> str | None:
    """Returns a digest of the point at which it is taken.

    None if it has no such point.
    """
    return None

  def state(self) -> str | None:
    """Returns a digest that changes if the matrix does.

    None if that can't be told.
    """
    return self.product_digest()

  def product_digest(self) -> str | None:
    """Returns a digest of a product, by which another matrix is noticed.

    None for products that don't repeat bitwise.
    """
    if not self.deterministic:
      return None
    product = _real(self._operator @ known_vector(self.n))
    if product.dtype.itemsize > 8:  # of such numbers some bytes are nobody's
      product = product.astype(np.float64)
    return digests.of_array(product)

  @contextlib.contextmanager
  def as_recorded(
    self, record: Mapping[str, Any], /, digest: Callable[[], str | None] | None = None
  ) -> Iterator[str | None]:
    """Makes products as a folder's run made them, if it can.

    Earlier versions made single ones in another way. Afterwards products are as before.

    Args:
      record: plain values of the run; empty where there is none.
      digest: function () -> digest of a product; by default `product_digest`.

    Yields:
      The digest.
    """
    del record
    yield self.product_digest() if digest is None else digest()

  def agree(self, **about: Any) -> None:
    """Makes sure that all workers have the same matrix and values.

    Args:
      **about: plain values by name.
    """

  def workers(self, memory: float | None, /) -> Workers | None:  # noqa: ARG002
    """Returns the `Workers` over which bases can be distributed, or None.

    All workers must call it.

    Args:
      memory: bytes that vectors may take in this process; None for its share of 70 % of what there
        is.
    """
    return None

  def lead(
    self,
    compute: Callable[[], T],
    encode: Callable[[T], bytes],  # noqa: ARG002
    decode: Callable[[bytes], T],  # noqa: ARG002
    /,
  ) -> T:
    """Runs a computation on the chief; returns its result on all workers.

    Args:
      compute: runs on the chief alone.
      encode: makes bytes of its result.
      decode: makes the result of bytes.
    """
    return compute()


class _Array(Matrix):
  """A NumPy or SciPy array, of which products cost next to nothing."""

  def __init__(self, operator: scipy.sparse.linalg.LinearOperator, /):
    super().__init__(operator)
    dtype = operator.dtype  # entries are rounded to it, products to float64
    self.symmetry = float(np.finfo(dtype if dtype.kind == "f" else np.float64).eps)

  def check(self) -> None:
    u = probes.probe(0, probes.Stream.CHECK, self.n)
    product = self.product(u)
    if not np.isfinite(product).all():
      raise ValueError("operator: expected finite numbers, got NaN or infinity in the array")
    asymmetry = relative_asymmetry(self._operator, u, product)
    if not asymmetry <= PRODUCT_ROUNDINGS * self.symmetry:
      raise ValueError(
        "operator: expected a symmetric matrix, and this array is not; (A + A.T) / 2 is its "
        "symmetric part (spectral_density takes it as it is with check=False)"
      )

  check_array = check


class _Shared(Matrix):
  """An operator with a method `products`, whose vectors share passes over data."""

  @property
  def vectorized(self):
    return self._operator.vectorized

  def products(self, vectors, /, *, vectors_per_pass):
    return self._operator.products(vectors, vectors_per_pass=vectors_per_pass)

  def most_vectors(self, num_draws, /):
    most = self._operator.vectors_per_pass if self.vectorized else widths.MOST_VECTORS
    return min(num_draws, most)

  def passes(self):
    return blas.without_threads(self.n)


class _Curvature(_Shared):
  """A `CurvatureOperator`."""

  traced = True
  _width = 1  # of the passes that are shared

  def distributed_basis(self, steps: int, path: str | None = None, /) -> Basis:
    return self._operator.distributed_basis(steps, path)

  def distributed_products(
    self, rows: Sequence, /, *, places: Sequence[int] = (0,), vectors_per_pass: int = 1
  ) -> list[np.ndarray]:
    """Returns the products with rows of distributed bases.

    Args:
      rows: (basis, number of the row) of each vector.
      places: place of each in its pass; by default the first, of a single one.
      vectors_per_pass: number of places of a pass, by default one.

    Returns:
      List of the products, (n,) float64 each.
    """
    return self._operator.distributed_products(
      rows, places=places, vectors_per_pass=vectors_per_pass
    )

  def most_vectors(self, num_draws, /):
    if self._operator.program.sharing_gains:
      return super().most_vectors(num_draws)
    return 1  # each vector would take memory, and none less time

  def share(self, count, /):
    self._width = count
    program = self._operator.program
    if count > 1 and program.alike:
      program.columns(count)

  def gradient(self):
    return self._operator.gradient()

  @contextlib.contextmanager
  def as_recorded(self, record, /, digest=None):
    program, digest = self._operator.program, digest or self.product_digest
    found, there = digest(), record.get("product")
    other = found is not None and there not in (None, found)
    if not (other and program.alike and record.get("point") == self.point()):
      yield found
      return
    try:
      program.straight = True
      earlier = digest()
      program.straight = earlier == there
      yield earlier if program.straight else found
    finally:
      program.straight = False

  def check_start(self, start, /):
    """Accepts any: there is a gradient."""

  def loss(self):
    return self._operator.loss()

  def check(self):
    found = check_operator(self._operator, differences=False, width=self._width)
    found.raise_for_problems()

  def description(self):
    operator = self._operator
    names = [list(operator.parameter_names), [list(s) for s in operator.parameter_shapes]]
    return operator.description() | {"variables": hashlib.sha256(repr(names).encode()).hexdigest()}

  def point(self):
    objective = self._operator.objective
    return digests.of_arrays(p.numpy() for p in objective.parameters + objective.context)

  def state(self):
    return self.point()

  def workers(self, memory, /):
    engine = self._operator.engine
    if not (engine.followers and self._operator.distributes_bases):
      return None
    memory = default_memory() // engine.neighbours if memory is None else int(memory)
    return Workers(engine.size, min(engine.gather([memory])))

  def agree(self, **about):
    self._operator.agree(**about)

  def lead(self, compute, encode, decode, /):
    return lead(self._operator, compute, encode, decode)


def _parts(operator):
  """Returns the operators that SciPy made one of, or itself.

  SciPy's sums, products and multiples know nothing of their parts' precision.
  """
  kind = scipy.sparse.linalg.LinearOperator
  parts = [part for part in getattr(operator, "args", ()) if isinstance(part, kind)]
  return [own for part in parts for own in _parts(part)] or [operator]


def _precision(operator):
  """Returns the relative rounding error of an operator's products."""
  dtype = np.dtype(operator.dtype or np.float64)
  # Products of float32 arrays with float64 vectors are float64.
  rounds = dtype.kind == "f" and dtype.itemsize < 8 and not hasattr(operator, "A")
  eps = np.finfo(dtype if rounds else np.float64).eps
  return float(max(getattr(operator, "precision", 0.0), eps))


def as_matrix(operator: Any, /) -> Matrix:
  """Returns an operator or array as a `Matrix`.

  Args:
    operator: a `HessianOperator`, a symmetric `scipy.sparse.linalg.LinearOperator` or array, or a
      `Matrix`, which is returned as it is.

  Raises:
    TypeError: if it is none, such as a model, or of complex numbers.
    ValueError: if it is not square.
  """
  if isinstance(operator, Matrix):
    return operator
  if np.ma.is_masked(operator):
    raise ValueError("operator: it is a masked array; fill its gaps, as by operator.filled(0)")
  if isinstance(operator, np.ndarray) and operator.dtype == object:
    operator = _of_objects(operator)
  try:
    result = scipy.sparse.linalg.aslinearoperator(operator)
  except TypeError as e:
    raise failures.no_operator(operator, "a HessianOperator, a linear operator or a matrix") from e
  if result.shape != (result.shape[0],) * 2:
    raise ValueError(f"operator: expected a square matrix, got shape {result.shape}")
  if result.dtype is not None and np.issubdtype(result.dtype, np.complexfloating):
    raise TypeError(
      f"operator: expected a matrix of real numbers, got {result.dtype}; if the imaginary part is "
      "zero, give the real one"
    )
  if isinstance(result, CurvatureOperator):
    return _Curvature(result)
  if isinstance(operator, np.ndarray) or scipy.sparse.issparse(operator):
    return _Array(result)
  return _Shared(result) if hasattr(result, "products") else Matrix(result)


def _of_objects(array):
  """Returns an array of Python's numbers as float64."""
  try:
    return array.astype(np.float64)
  except (TypeError, ValueError) as e:
    raise TypeError(f"operator: expected a matrix of real numbers, got objects ({e})") from e


def check_is_of_model(operator: Any, /) -> None:
  """Raises TypeError unless an operator is that of a model."""
  if not isinstance(operator, CurvatureOperator):
    raise failures.no_operator(operator)


def known_vector(n: int, /) -> np.ndarray:
  """Returns the vector (n,) whose product a matrix is known by."""
  return probes.probe(0, probes.Stream.KNOWN_VECTOR, n)
