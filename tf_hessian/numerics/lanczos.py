"""The Lanczos recurrence with full reorthogonalization, one step at a time.

With rows q_0 .. q_{m-1} of Q and q_0 the start vector, H Q' = Q' T + beta_{m-1} q_m e_m', where T
is tridiagonal with diagonal alpha and off-diagonal beta. T is what Algorithm 1 of the paper needs.

New vectors are made orthogonal to all earlier ones by classical Gram-Schmidt, first to the last two
and then to all; see `Basis.orthogonalize`. Without it an isolated eigenvalue that has converged
comes back as copies of itself, as in a `RecentBasis`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import os
from typing import Any, BinaryIO

import numpy as np
import scipy.linalg

from tf_hessian.numerics import checks
from tf_hessian.numerics.basis import Basis, read_only
from tf_hessian.numerics.memory_basis import MemoryBasis, as_basis
from tf_hessian.numerics.results import LanczosStatus, RitzPairs

# A small beta_{j-1} magnifies the rounding error of q_j, and with it that of the residual, by
# scale / beta_{j-1}. The residual of a matrix of rank 2 was seen at 17 to 119 times the tolerance
# for that reason; a larger factor would end runs on an outlier above a tiny bulk too early.
_MAX_MAGNIFICATION = 100.0

# Lengths are roots of sums of squares, which float64 holds between 1e-308 and 1e308.
SHORTEST = 1e-140
BEYOND = "too large or too small for its square to be a float64: scale the matrix"

_EPS = float(np.finfo(np.float64).eps)


def breakdown_tolerance(n: int, precision: float = _EPS) -> float:
  """Returns the length below which a new direction is rounding error.

  It is relative to |H|. A residual of orthogonalization carries an error of a few `precision` from
  the product and about sqrt(n) eps from the sums of length n.

  Args:
    n: length of the vectors.
    precision: relative rounding error of the products, float64's unless given.
  """
  return max(precision, np.sqrt(n) * _EPS, 10 * _EPS)


class Lanczos:
  """State of a Lanczos recurrence.

  `step` advances it, or `update` with a product that was computed elsewhere.

  A multiple eigenvalue may get several nodes that agree to rounding, since rounding errors grow
  into further vectors of its eigenspace; weights and densities are not harmed.

  Attributes:
    basis: the array or `Basis` that was given; rows beyond the current one are unused.
    vectors: the same as a `Basis`.
    alphas: (steps,) float64, diagonal of the tridiagonal matrix.
    betas: (steps,) float64; betas[j] is the length of the residual of step j, so betas[:-1] is the
      off-diagonal and betas[-1] enters the residual bounds.
    scale: largest |H q_j| so far, a lower bound of the spectral norm.
    status: a `LanczosStatus`.

  >>> h = np.diag([1.0, 2.0])
  >>> state = Lanczos.start(np.array([0.6, 0.8]), 2)
  >>> state.run(h.dot).name
  'INVARIANT'
  >>> [x.round(12).tolist() for x in state.tridiagonal()]
  [[1.64, 1.36], [0.48]]
  """

  def __init__(self, basis: Basis | np.ndarray, /, *, tolerance: float | None = None) -> None:
    """Begins a recurrence at row 0 of a basis, of length 1.

    Args:
      basis: a `Basis`, or (max_steps, n) float64, C order: memory or a `np.memmap`. It is written
        to.
      tolerance: residuals below `tolerance * scale`, or up to 100 times that after a small beta,
        end the recurrence; by default `breakdown_tolerance(n)`.

    Raises:
      ValueError: if max_steps exceeds n, or row 0 has not length 1.
      TypeError: if an array is not float64.
    """
    self.basis = basis
    self.vectors = as_basis(basis)
    n = self.vectors.n
    _check_steps(self.vectors.steps, n)
    length = np.linalg.norm(self.vectors.row(0))
    if not abs(length - 1) <= max(1e-12, 2 * np.finfo(self.vectors.dtype).eps):
      raise ValueError(f"start vector: expected length 1, got {length}")
    self.alphas = np.empty(0)
    self.betas = np.empty(0)
    self.scale = 0.0
    self.status = LanczosStatus.RUNNING
    self._tolerance = breakdown_tolerance(n) if tolerance is None else tolerance

  @classmethod
  def start(cls, vector: np.ndarray, /, steps: int, *, tolerance: float | None = None) -> Lanczos:
    """Begins a recurrence in memory.

    Args:
      vector: (n,) of length 1.
      steps: the most there can be, at most n.
      tolerance: residuals below `tolerance * scale` end the recurrence; by default
        `breakdown_tolerance(n)`.
    """
    checks.check_count("steps", steps)
    _check_steps(steps, np.size(vector))
    basis = np.empty((steps, np.size(vector)))
    basis[0] = vector
    return cls(basis, tolerance=tolerance)

  @property
  def num_steps(self) -> int:
    """Number of steps so far."""
    return self.alphas.size

  def coefficients(self) -> dict[str, np.ndarray]:
    """Returns the arrays that, with the basis, restore the state."""
    return {
      "alphas": self.alphas,
      "betas": self.betas,
      "scale": np.float64(self.scale),
      "status": np.array(self.status.name),
    }

  def restore(self, coefficients: Mapping[str, np.ndarray], /) -> None:
    """Continues from `coefficients()` of an earlier state with the same basis.

    Raises:
      ValueError: if they do not fit each other or the basis.
    """
    alphas, betas = np.asarray(coefficients["alphas"]), np.asarray(coefficients["betas"])
    if alphas.shape != betas.shape or alphas.ndim != 1 or alphas.size > self.vectors.steps:
      raise ValueError(
        f"coefficients: expected two vectors of at most {self.vectors.steps} entries, "
        f"got {alphas.shape} and {betas.shape}"
      )
    status = LanczosStatus[str(coefficients["status"])]
    if status is LanczosStatus.RUNNING and alphas.size == self.vectors.steps:
      raise ValueError(
        f"coefficients: all {alphas.size} rows of the basis are used, and none is left"
      )
    self.alphas, self.betas, self.status = alphas, betas, status
    self.scale = float(coefficients["scale"])

  def save(self, file: str | os.PathLike | BinaryIO, /) -> None:
    """Writes the used rows of the basis and the coefficients as `.npz`.

    Raises:
      ValueError: if the basis does not keep them.
    """
    if not self.vectors.complete:
      raise ValueError("recurrence: its basis is not kept, so that there is nothing to load")
    rows = min(self.num_steps + 1, self.vectors.steps)
    state: dict[str, Any] = {
      "capacity": self.vectors.steps,
      "tolerance": self._tolerance,
      "basis": np.array([self.vectors.row(j) for j in range(rows)], self.vectors.dtype),
      **self.coefficients(),
    }
    np.savez(file, **state)

  @classmethod
  def load(cls, file: str | os.PathLike | BinaryIO, /) -> Lanczos:
    """Returns the recurrence that `save` wrote, in memory.

    Its next steps are bitwise those of the saved one.
    """
    with np.load(file, allow_pickle=False) as saved:
      rows = saved["basis"]
      basis = np.empty((int(saved["capacity"]), rows.shape[1]), rows.dtype)
      basis[: len(rows)] = rows
      plain = basis.dtype == np.float64
      state = cls(basis if plain else MemoryBasis(basis), tolerance=float(saved["tolerance"]))
      state.restore(saved)
    return state

  @property
  def vector(self) -> np.ndarray:
    """The vector (n,) float64 that H is to be multiplied by, read-only.

    It is read from where the basis lives at each call.

    Raises:
      ValueError: if the recurrence has ended.
    """
    self._check_running()
    return self.vectors.row(self.num_steps)

  def update(self, product: np.ndarray, /) -> LanczosStatus:
    """Takes one step, with a product that was computed elsewhere.

    Several recurrences can so advance in lock step, with one pass over the data for all products.

    Args:
      product: (n,), H times `vector`; it is copied.

    Returns:
      The new status. Breakdown, that is an invariant Krylov space, is a normal end.

    Raises:
      ValueError: if the recurrence has ended, or the product has another shape or is not finite;
        the step can then be taken again.
    """
    self._check_running()
    j = self.num_steps
    w, length = checked_copy(product, self.vectors.n, f"product of step {j}")
    if not j and length < SHORTEST and w.any():
      raise ValueError(f"product of step 0: it is {BEYOND}")
    self.scale = max(self.scale, length)

    previous = self.betas[-1] if j else self.scale
    smallest = smallest_residual(self._tolerance, self.scale, previous)
    overlaps, beta = self.vectors.orthogonalize(w, j + 1, smallest, recent=2)

    self.alphas = np.append(self.alphas, overlaps[-1])
    self.betas = np.append(self.betas, beta)
    if beta <= smallest:
      self.status = LanczosStatus.INVARIANT
    elif j + 1 == self.vectors.steps:
      complete = self.vectors.complete
      self.status = LanczosStatus.COMPLETE if complete else LanczosStatus.WITHOUT_BASIS
    else:
      self.vectors.extend(j + 1, w, beta)
    return self.status

  def step(self, matvec: Callable[[np.ndarray], np.ndarray], /) -> LanczosStatus:
    """Takes one step; returns and raises as `update` does.

    Args:
      matvec: product with H, (n,) float64 -> (n,) float64.
    """
    return self.update(matvec(self.vector))

  def end(self) -> None:
    """Ends the recurrence, since no more steps are wanted."""
    self._check_running()
    self.status = LanczosStatus.CONVERGED

  def run(self, matvec: Callable[[np.ndarray], np.ndarray], /) -> LanczosStatus:
    """Takes all steps that are left; returns the final status."""
    while self.status is LanczosStatus.RUNNING:
      self.step(matvec)
    return self.status

  def _check_running(self):
    if self.status is not LanczosStatus.RUNNING:
      raise ValueError(
        f"the recurrence has ended after {self.num_steps} steps: {self.status.value}"
      )

  def tridiagonal(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns the diagonal (m,) and off-diagonal (m - 1,) of T."""
    return self.alphas, self.betas[:-1]


def _check_steps(steps, n):
  if steps > n:
    raise ValueError(f"steps: expected at most n = {n}, got {steps}")


def checked_copy(product: np.ndarray, n: int, name: str, /) -> tuple[np.ndarray, float]:
  """Returns a product, as (n,) float64 of its own, and its length.

  Args:
    product: H times a row of a basis.
    n: length that is expected.
    name: what errors call the product.

  Raises:
    ValueError: if the product has another shape, or is not finite.
  """
  w = np.array(product, dtype=np.float64)
  checks.check_vector("product", w, n)
  with np.errstate(over="ignore"):  # which is told below
    norm = float(np.linalg.norm(w))
  if not np.isfinite(norm):
    finite = np.isfinite(w).all()
    raise ValueError(
      f"{name}: {f'it is {BEYOND}' if finite else 'expected finite numbers, got NaN or infinity'}"
    )
  return w, norm


def checked_product(
  matvec: Callable[[np.ndarray], np.ndarray], q: np.ndarray, name: str, /
) -> tuple[np.ndarray, float]:
  """Returns the product with a row of a basis, and its length.

  Args:
    matvec: product with H, (n,) float64 -> (n,) float64.
    q: (n,) float64.
    name: what errors call the product.

  Raises:
    ValueError: if the product has another shape, is not finite, or writes to its argument.
  """
  return checked_copy(matvec(read_only(q)), q.size, name)


def smallest_residual(tolerance: float, scale: float, previous: float, /) -> float:
  """Returns the length below which a residual is rounding error.

  Args:
    tolerance: of the recurrence, such as `breakdown_tolerance` gives.
    scale: largest |H q| so far.
    previous: length of the residual that the last vector was made from; 0 for a new start.
  """
  magnification = scale / previous if previous else 1.0
  return tolerance * scale * min(max(magnification, 1.0), _MAX_MAGNIFICATION)


def ritz_pairs(lanczos: Lanczos, /, which: int | slice = slice(None)) -> RitzPairs:
  """Returns Ritz values, vectors and residual bounds of a recurrence.

  The bound of pair i is betas[-1] |s_i[-1]|, s_i the eigenvector of the tridiagonal matrix
  (Parlett, The Symmetric Eigenvalue Problem, section 13.2).

  Args:
    lanczos: a `Lanczos` after m steps, at least one.
    which: index or slice of the ascending Ritz values to return; vectors are made only for these.
      All by default.

  Raises:
    ValueError: if there is no step.

  >>> state = Lanczos.start(np.array([0.6, 0.8]), 2)
  >>> _ = state.run(np.diag([1.0, 2.0]).dot)
  >>> ritz_pairs(state, -1).values.round(12).tolist()
  [2.0]
  """
  if not lanczos.num_steps:
    raise ValueError("Ritz pairs: expected at least one Lanczos step, got none")
  values, s = scipy.linalg.eigh_tridiagonal(*lanczos.tridiagonal(), lapack_driver="stev")
  chosen = np.atleast_1d(np.arange(values.size)[which])
  vectors = lanczos.vectors.combine(s[:, chosen].T)
  return RitzPairs(values[chosen], vectors, np.abs(lanczos.betas[-1] * s[-1, chosen]))
