"""Results of the numerics: frozen records, some with a status."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import enum
import io
import os
from typing import Any, NamedTuple

import numpy as np

from tf_hessian.numerics import checks, markup


class LanczosStatus(enum.Enum):
  """The states of a Lanczos recurrence; the values are the explanations."""

  RUNNING = "more steps can be taken"
  COMPLETE = "all steps asked for were taken"
  WITHOUT_BASIS = (
    "all steps asked for were taken, without a basis: an eigenvalue may have several nodes, whose "
    "weights add up to its own"
  )
  INVARIANT = (
    "ended early: the Krylov space is invariant, so the nodes are eigenvalues and there are no more"
  )
  CONVERGED = "ended early: the quadrature is as exact as was asked for"


class EigenpairStatus(enum.Enum):
  """The ends of a search for eigenpairs; the values are the explanations."""

  CONVERGED = "all residuals are within the tolerance"
  OUT_OF_PRODUCTS = (
    "not all residuals are within the tolerance: allow more products, or a larger basis"
  )
  COPIES_UNKNOWN = (
    "all residuals are within the tolerance, but more copies of repeated eigenvalues could not be "
    "looked for: allow more products, or set repeated=False"
  )
  ROUNDING = (
    "the products are not exact enough for the tolerance, or not those of a symmetric matrix: "
    "raise the tolerance, or use a float64 model"
  )


@dataclasses.dataclass(frozen=True)
class Quadrature:
  """Gauss quadrature of one draw: sum_i weights[i] g(nodes[i]) approximates v' g(H) v."""

  nodes: np.ndarray  # (m,) float64, ascending
  weights: np.ndarray  # (m,) float64, not negative, sum 1


@dataclasses.dataclass(frozen=True)
class RitzPairs:
  """Approximate eigenpairs from a Lanczos basis.

  |H vectors[i] - values[i] vectors[i]| = residual_bounds[i] in exact arithmetic, and an
  eigenvalue of H lies within that distance of values[i].
  """

  values: np.ndarray  # (k,) float64, ascending
  vectors: np.ndarray  # (k, n) float64, rows of unit length
  residual_bounds: np.ndarray  # (k,) float64


@dataclasses.dataclass(frozen=True)
class Eigenpairs:
  """Eigenpairs from both ends of a spectrum, checked by products.

  >>> import numpy as np
  >>> import tf_hessian
  >>> pairs = tf_hessian.top_eigenpairs(np.diag([3.0, 2.0, 1.0]), 2, progress=False)
  >>> pairs.values.round(6).tolist(), abs(pairs.vectors[0]).round(6).tolist()
  ([3.0, 2.0], [1.0, 0.0, 0.0])
  """

  values: np.ndarray  # (k,) float64: the largest, descending, then the smallest, ascending
  vectors: np.ndarray = dataclasses.field(repr=False)  # (k, n) float64, orthonormal rows
  residuals: np.ndarray  # (k,) float64: |H vectors[i] - values[i] vectors[i]|
  status: EigenpairStatus
  num_products: int  # products with H, those of the check included

  def _repr_html_(self) -> str:
    pairs = zip(self.values.tolist(), self.residuals.tolist(), strict=True)
    note = f"{self.num_products} products: {self.status.value}"
    return markup.table(pairs, ("eigenvalue", "residual")) + f"<p>{note}</p>"

  def project(self, vector: np.ndarray, /) -> np.ndarray:
    """Returns the shares of a vector's energy in the eigenvectors.

    >>> pairs = Eigenpairs(np.ones(2), np.eye(2, 3), np.zeros(2), EigenpairStatus.CONVERGED, 2)
    >>> pairs.project(np.array([3.0, 0.0, 4.0]))
    array([0.36, 0.  ])

    Args:
      vector: (n,) g, such as a gradient.

    Returns:
      (k,) (g' q_i)^2 / |g|^2.

    Raises:
      TypeError, ValueError: for another shape, or a vector that is zero or not finite.
    """
    vector = checks.as_vector("vector", vector, self.vectors.shape[1], zero=False)
    vector = vector / np.abs(vector).max()  # whose square is neither zero nor infinite
    return (self.vectors @ vector) ** 2 / (vector @ vector)

  def to_bytes(self) -> bytes:
    """Returns the result as bytes, for other processes and files."""
    file = io.BytesIO()
    np.savez(file, **self.arrays())
    return file.getvalue()

  def arrays(self) -> dict[str, Any]:
    """Returns what a file of the result holds: name -> array."""
    fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    return fields | {"status": self.status.name}

  @classmethod
  def from_arrays(cls, found: Mapping[str, Any], /) -> Eigenpairs:
    """Returns the result that `arrays` gave.

    Raises:
      KeyError: if something is missing, or the status is unknown.
    """
    values, vectors, residuals = (found[n] for n in ("values", "vectors", "residuals"))
    status = EigenpairStatus[str(found["status"])]
    return cls(values, vectors, residuals, status, int(found["num_products"]))

  @classmethod
  def load(cls, path: str | os.PathLike, /) -> Eigenpairs:
    """Returns the result in a file eigenpairs.npz of a search.

    Args:
      path: the file, or the folder of the search.

    Raises:
      OSError: if there is no such file.
      ValueError: if it is damaged, or something else.
    """
    if os.path.isdir(path):
      path = os.path.join(path, "eigenpairs.npz")
    with open(path, "rb") as file:
      content = file.read()
    try:
      return cls.from_bytes(content)
    except ValueError as e:
      raise ValueError(f"{os.fspath(path)}: not the eigenpairs of a search, or damaged") from e

  @classmethod
  def from_bytes(cls, content: bytes, /) -> Eigenpairs:
    """Returns the result that `to_bytes` gave.

    Raises:
      ValueError: if the bytes are damaged, or something else.
    """
    try:
      with np.load(io.BytesIO(content), allow_pickle=False) as saved:
        return cls.from_arrays(saved)
    except Exception as e:  # damaged archives fail in many ways inside zipfile and NumPy
      raise ValueError(f"eigenpairs: not a result as bytes, or damaged ({e})") from e


class _Curve(NamedTuple):
  grid: np.ndarray  # (g,) float64, ascending
  values: np.ndarray  # (g,) float64: mean over draws, per unit of eigenvalue
  stderr: np.ndarray  # (g,) float64: standard error of the mean; NaN for a single draw


class Density(_Curve):
  """A density of eigenvalues on a grid, smoothed by a Gaussian kernel.

  It integrates to 1. It is a tuple of three, `grid, values, stderr = density`, with what they were
  made from as attributes.
  """

  draws: np.ndarray  # (k, g) float64: density of each draw
  sigma_squared: float  # variance of the kernel that was used
  missing_mass: float  # part of the mass outside the grid

  def __new__(
    cls,
    grid: np.ndarray,
    values: np.ndarray,
    stderr: np.ndarray,
    draws: np.ndarray,
    sigma_squared: float,
    missing_mass: float,
  ) -> Density:
    self = super().__new__(cls, grid, values, stderr)
    vars(self).update(draws=draws, sigma_squared=sigma_squared, missing_mass=missing_mass)
    return self

  def _fields_by_name(self) -> dict[str, Any]:
    return self._asdict() | vars(self)

  # Those of a tuple would lose the attributes, and compare arrays as if they were numbers.

  def __getnewargs__(self) -> tuple:
    return tuple(self._fields_by_name().values())

  def _replace(self, /, **changes: Any) -> Density:
    return type(self)(**self._fields_by_name() | changes)

  __replace__ = _replace

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, Density):
      return False
    pairs = zip(self.__getnewargs__(), other.__getnewargs__(), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)

  def __ne__(self, other: object) -> bool:
    return not self == other

  __hash__ = None  # type: ignore[assignment]  # arrays have no hash

  def __setattr__(self, name: str, value: object) -> None:
    raise AttributeError(f"density: {name} can't be set; _replace() makes another density")
