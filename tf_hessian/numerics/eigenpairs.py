"""Extreme eigenpairs by Lanczos with thick restarts (Wu and Simon, 2000).

A recurrence that has filled its basis goes on from the Ritz vectors nearest to the ends of the
spectrum and the last residual, so that memory does not grow with the number of products. New
vectors are made orthogonal to the whole basis, which gives H projected on it as it is after a
restart too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from tf_hessian.numerics import checks, probes
from tf_hessian.numerics.lanczos import (
  BEYOND,
  SHORTEST,
  breakdown_tolerance,
  checked_product,
  smallest_residual,
)
from tf_hessian.numerics.memory_basis import orthogonalize
from tf_hessian.numerics.results import Eigenpairs, EigenpairStatus

if TYPE_CHECKING:
  from collections.abc import Callable, Mapping

_EPS = float(np.finfo(np.float64).eps)
# A residual so many times what the recurrence says is the rounding of the products.
_BROKEN_PROMISE = 10.0
_FRACTION_OF_ROUNDING = 0.1
_MARGIN = 2.0  # of residuals below the tolerance, in units of the products' rounding error
# In units of the products' rounding error; they are sums of many terms.
_TOLERANCE = 20.0
# Of a start vector that looks for copies: how likely it may miss one, and the nearest that it is to
# tell from the last eigenvalue, in units of half the spectrum beyond.
_MISSED, _NEAREST = 1e-3, 0.15
_COLUMNS = 2**16  # of the basis that are rotated at once, so that no second basis is made


def top_eigenpairs(
  matvec: Callable[[np.ndarray], np.ndarray],
  n: int,
  /,
  largest: int,
  smallest: int = 0,
  *,
  tolerance: float = 1e-8,
  max_products: int | None = None,
  basis_size: int | None = None,
  precision: float = _EPS,
  repeated: bool = True,
  seed: int = 0,
  start: np.ndarray | None = None,
  state: Mapping[str, np.ndarray] | None = None,
  progress: Callable[[int, int], object] | None = None,
  save: Callable[[Callable[[], dict[str, np.ndarray]] | None], object] | None = None,
) -> Eigenpairs:
  """Returns extreme eigenvalues of a symmetric matrix, with eigenvectors.

  Once the basis promises pairs within the tolerance, each is checked by one product of its own.

  A start vector sees one vector of the eigenspace of an exactly multiple eigenvalue. Others are
  found when the Krylov space has become invariant, from a new start vector; before, rounding brings
  them in late, and they may be missed. So pairs that have converged are kept, and a new start
  vector looks beside them, until that changes none. One pair of an end has its value without that.

  Args:
    matvec: product with H, (n,) float64 -> (n,) float64.
    n: order of H.
    largest: how many of the largest eigenvalues.
    smallest: how many of the smallest.
    tolerance: of the residuals |H y - theta y|, relative to the largest |theta|.
    max_products: ends the search, after which the check has its products; by default 20 times the
      basis.
    basis_size: vectors of length n in memory; by default 2 (largest + smallest) + 30. Fewer may
      miss copies of eigenvalues.
    precision: relative rounding error of the products, by which an invariant space is known.
    repeated: whether to look for more copies of eigenvalues, from new start vectors, where more
      than one is wanted of an end; True by default. It takes some 5 to 40 products, and again for
      each copy.
    seed: of the start vector.
    start: (n,) what to begin at instead, such as a sum of the eigenvectors of a matrix that was
      near; None for a random vector. Eigenvectors that it has no part of may be missed.
    state: what an interrupted search had saved, from which it goes on bitwise; None to begin.
    progress: called with (number of products, number of wanted pairs within the tolerance).
    save: called before each product with a function () -> state, a dict of arrays that stay as they
      are until it is called again; with None before they change. It is called last if products have
      run out, with what goes on if more are allowed.

  Returns:
    `Eigenpairs`; its status says whether they have converged.

  Raises:
    TypeError, ValueError: for bad arguments, or products that are not finite.

  >>> found = top_eigenpairs(np.diag(np.arange(9.0)).dot, 9, 2, 1)
  >>> (found.values.round(9) + 0.0).tolist(), found.status.name
  ([8.0, 7.0, 0.0], 'CONVERGED')
  """
  size, max_products = limits(n, largest, smallest, basis_size, max_products)
  checks.check_positive("tolerance", tolerance)
  checks.check_positive("precision", precision)
  seed = checks.check_seed(seed)
  if start is not None:
    start = checks.as_vector("start", start, n, zero=False)
  ends = largest, smallest
  search = _Search(matvec, np.empty((size, n)), ends, tolerance, precision, repeated, seed)
  if start is not None:
    search.begin_at(start)
  if state is not None:
    search.go_on(state)
  return search.run(max_products, progress or (lambda *_: None), save or (lambda _: None))


def default_tolerance(precision: float, /) -> float:
  """Returns the tolerance of residuals for products of some precision.

  >>> default_tolerance(1e-16)
  1e-08
  """
  return max(1e-8, _TOLERANCE * precision)


def limits(
  n: int,
  largest: int,
  smallest: int,
  basis_size: int | None = None,
  max_products: int | None = None,
  /,
) -> tuple[int, int]:
  """Returns the basis size and the most products of a search.

  Args:
    n: order of the matrix.
    largest: how many of the largest eigenvalues.
    smallest: how many of the smallest.
    basis_size: vectors in memory; by default 2 (largest + smallest) + 30.
    max_products: by default 20 times the basis.

  Raises:
    TypeError, ValueError: for bad arguments.

  >>> limits(1000, 3, 2)
  (40, 800)
  """
  for name, count in (("largest", largest), ("smallest", smallest)):
    if type(count) is bool or not isinstance(count, (int, np.integer)) or count:
      checks.check_count(name, count)
  wanted = largest + smallest
  if not 1 <= wanted <= n:
    raise ValueError(
      f"largest, smallest: expected 1 to n = {n} eigenvalues together, got {largest} + {smallest}"
    )
  size = 2 * wanted + 30 if basis_size is None else basis_size
  max_products = 20 * min(n, size) if max_products is None else max_products
  least = min(n, wanted + 2)
  for name, count in (("basis_size", size), ("max_products", max_products)):
    checks.check_count(name, count)
    if count < least:
      raise ValueError(f"{name}: expected at least {least}, got {count}")
  return min(n, size), max_products


class _Search:
  """An orthonormal basis, and H projected on it.

  Both grow product by product.

  H basis[i] lies in the basis for all rows i but the last, whose product leaves `residual`, and for
  those kept beside a new start vector, which leave what is small enough for the tolerance.
  """

  def __init__(self, matvec, basis, ends, tolerance, precision, repeated, seed):
    self._matvec = matvec
    self._basis = basis
    self._ends = ends
    self._tolerance = tolerance
    self._precision = precision
    self._breakdown = breakdown_tolerance(basis.shape[1], precision)
    self._seed = seed
    self._projected = np.zeros((len(basis),) * 2)
    self._count = 0  # rows of the basis in use
    self._scale = 0.0  # largest |H q| so far
    self._products = 0
    self._starts = 0
    self._residual, self._beta = self._new_start(), 0.0
    self._repeated = repeated
    self._lost = np.zeros(len(basis))  # squared part of H basis[i] beyond what `projected` has
    self._kept = np.empty(0)  # the eigenvalues that the last start vector was beside
    self._begun = 0  # products before that

  def begin_at(self, start):
    """Begins at a vector instead of a random one."""
    self._residual = np.array(start, np.float64)

  def state(self):
    """Returns all that the search goes on from: a dict of arrays."""
    numbers = (self._scale, self._products, self._starts, self._beta)
    return {
      "basis": self._basis[: self._count],
      "projected": self._projected,
      "residual": self._residual,
      "kept": np.append(self._begun, self._kept),
      "lost": self._lost,
      "numbers": np.array(numbers, np.float64),
    }

  def go_on(self, state):
    """Takes over the state of an earlier search."""
    self._count = len(state["basis"])
    self._basis[: self._count] = state["basis"]
    self._projected[:] = state["projected"]
    self._residual = np.array(state["residual"], np.float64)
    begun, *kept = state.get("kept", [0.0])  # earlier versions have none
    self._begun, self._kept = int(begun), np.array(kept)
    self._lost[:] = state.get("lost", 0.0)
    self._scale, products, starts, self._beta = state["numbers"].tolist()
    self._products, self._starts = int(products), int(starts)

  def run(self, max_products, progress, save):
    size, n = self._basis.shape
    wanted = sum(self._ends)
    while True:
      if self._count < size:
        save(self.state)
      beta = self._step()
      full, spent = self._count == size, self._products >= max_products
      if self._count < min(n, wanted + 1):
        continue
      values, s = scipy.linalg.eigh(self._projected[: self._count, : self._count], driver="evd")
      chosen = self._from_the_ends(len(values), *self._ends)
      bounds = np.sqrt(self._squared_bounds(beta, s[:, chosen]))
      largest = np.abs(values).max()
      limit = self._tolerance * largest
      # Residuals are rounded too. Below a part of that they are nothing else, whatever is promised.
      rounding = self._precision * largest
      enough = max(limit / 2, limit - _MARGIN * rounding, _FRACTION_OF_ROUNDING * rounding)
      progress(self._products, int(np.sum(bounds <= limit)))
      # An invariant space may have missed copies of eigenvalues: then the basis is filled first.
      done = bounds.max() <= enough and (self._starts == 1 or full or self._kept.size > 0)
      whole = full and size == n
      same = max(limit, _TOLERANCE * rounding)
      kept = self._kept.size > 0 and np.abs(values[chosen] - self._kept).max() <= same
      beside = self._repeated and self._enough_beside(values, chosen, same)
      sure = whole or not beside or kept and self._products - self._begun >= beside
      ended = done and sure or whole
      if ended or spent:
        vectors, searched = s[:, chosen].T @ self._basis[: self._count], self._products
        found = self._checked(values[chosen], vectors, limit, enough, bounds.max(), sure)
        self._products = searched
      if ended:
        return found
      # Of what is kept the residual is lost, so it has to leave room for that of the rest.
      if bounds.max() <= enough / 2 and done and not kept:
        save(None)
        self._keep(values, s, chosen, beta)
        self._kept, self._begun, self._beta = values[chosen], self._products, 0.0
        self._residual = self._new_start()
      elif full:
        save(None)
        self._restart(values, s)
      if spent:
        save(self.state)  # a search with more products goes on from there
        return found

  def _step(self):
    """Adds the residual to the basis, and returns the new one's length."""
    j = self._count
    basis = self._basis[: j + 1]
    np.divide(self._residual, np.linalg.norm(self._residual), out=basis[j])
    w = self._product(basis[j])
    smallest = smallest_residual(self._breakdown, self._scale, self._beta)
    overlaps, beta = orthogonalize(w, basis, smallest)
    self._projected[j, : j + 1] = self._projected[: j + 1, j] = overlaps
    self._count = j + 1
    self._residual, self._beta = w, beta
    if beta <= smallest:  # the space is invariant
      self._beta = 0.0
      if self._count < self._basis.shape[1]:
        self._residual = self._new_start()
    return self._beta

  def _product(self, vector):
    w, norm = checked_product(self._matvec, vector, f"product {self._products}")
    if not self._products and norm < SHORTEST and w.any():
      raise ValueError(f"product 0: it is {BEYOND}")
    self._scale = max(self._scale, norm)
    self._products += 1
    return w

  def _new_start(self):
    """Returns a random vector that is orthogonal to the basis."""
    v = probes.probe(self._seed, probes.Stream.EIGENPAIRS + self._starts, self._basis.shape[1])
    self._starts += 1
    orthogonalize(v, self._basis[: self._count], 0.0)
    return v

  @staticmethod
  def _from_the_ends(count, largest, smallest):
    """Returns indices of so many ascending values: the largest, then the smallest."""
    return np.array([*range(count - 1, count - 1 - largest, -1), *range(smallest)], int)

  def _enough_beside(self, values, chosen, same):
    """Returns after how many products a random vector shows missed copies.

    After j of them the largest Ritz value is no less than the Rayleigh quotient of the Chebyshev
    polynomial T of degree j - 1 that is at most 1 from the smallest to the last wanted eigenvalue.
    An eigenvector at x in its units, of which the start vector has the share w, lifts that above
    the last one if w T(x)^2 (x - 1) > 2. Copies nearer than _NEAREST would need more products.
    """
    needed = 0
    largest = values[chosen[: self._ends[0]]], values[0]
    smallest = -values[chosen[self._ends[0] :]], -values[-1]
    for wanted, other in (largest, smallest):
      gaps = wanted - wanted[-1:]
      gaps = gaps[gaps > same]  # those of a copy of the last one change nothing
      if gaps.size:
        gap = max(2 * gaps.min() / max(wanted[-1] - other, _EPS * gaps.min()), _NEAREST)
        share = np.pi / 2 * _MISSED**2 / self._basis.shape[1]  # of a component of a random vector
        degree = np.arccosh(max(1.0, 2 / (share * gap)) ** 0.5) / np.arccosh(1 + gap)
        needed = max(needed, 1 + int(np.ceil(degree)))
    return needed

  def _checked(self, values, vectors, limit, enough, promised, sure):
    """Returns the pairs with their residuals, each of which takes a product."""
    residuals = np.array(
      [np.linalg.norm(self._product(y) - t * y) for t, y in zip(values, vectors, strict=True)]
    )
    if residuals.max() <= limit:
      status = EigenpairStatus.CONVERGED if sure else EigenpairStatus.COPIES_UNKNOWN
    elif promised <= enough or residuals.max() > _BROKEN_PROMISE * promised:
      status = EigenpairStatus.ROUNDING
    else:
      status = EigenpairStatus.OUT_OF_PRODUCTS
    return Eigenpairs(values, vectors, residuals, status, self._products)

  def _restart(self, values, s):
    """Keeps the wanted Ritz vectors, and half of the others."""
    size = len(values)
    wanted = sum(self._ends)
    extra = (size - wanted) // 2
    share = [end + extra * end // wanted for end in self._ends]
    self._keep(values, s, self._from_the_ends(size, *share))

  def _squared_bounds(self, beta, s):
    """Returns the squared residuals of Ritz vectors, that the recurrence promises."""
    return (beta * s[-1]) ** 2 + self._lost[: len(s)] @ s**2

  def _keep(self, values, s, kept, lost=0.0):
    """Keeps some Ritz vectors, and loses a residual of some length."""
    self._lost[: kept.size] = self._squared_bounds(lost, s[:, kept])
    self._lost[kept.size :] = 0.0
    for start in range(0, self._basis.shape[1], _COLUMNS):
      part = self._basis[: len(values), start : start + _COLUMNS]
      part[: kept.size] = s[:, kept].T @ part
    self._count = kept.size
    self._projected[:] = 0
    self._projected[range(kept.size), range(kept.size)] = values[kept]
