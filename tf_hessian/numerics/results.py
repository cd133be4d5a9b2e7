"""What the numerics return: frozen records, with a status where something can end early."""

import dataclasses
import enum

import numpy as np


class LanczosStatus(enum.Enum):
  """How far a Lanczos recurrence has come; the values are the explanations."""

  RUNNING = "more steps can be taken"
  COMPLETE = "all steps asked for were taken"
  INVARIANT = (
    "ended early: the Krylov space is invariant, so the nodes are eigenvalues and there are no more"
  )
  CONVERGED = "ended early: the quadrature is as exact as was asked for"


class EigenpairStatus(enum.Enum):
  """How a search for eigenpairs ended; the values are the explanations."""

  CONVERGED = "all residuals are within the tolerance"
  OUT_OF_PRODUCTS = (
    "not all residuals are within the tolerance: allow more products, or a larger basis"
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
  """Eigenpairs from both ends of a spectrum, checked by products."""

  values: np.ndarray  # (k,) float64: the largest, descending, then the smallest, ascending
  vectors: np.ndarray = dataclasses.field(repr=False)  # (k, n) float64, orthonormal rows
  residuals: np.ndarray  # (k,) float64: |H vectors[i] - values[i] vectors[i]|
  status: EigenpairStatus
  num_products: int  # products with H, those of the check included


@dataclasses.dataclass(frozen=True)
class Density:
  """A density of eigenvalues on a grid, smoothed by a Gaussian kernel; it integrates to 1.

  Unpacks as `grid, values, stderr = density`.
  """

  grid: np.ndarray  # (g,) float64, ascending
  values: np.ndarray  # (g,) float64: mean over draws, per unit of eigenvalue
  stderr: np.ndarray  # (g,) float64: standard error of the mean; NaN for a single draw
  draws: np.ndarray  # (k, g) float64: density of each draw
  sigma_squared: float  # variance of the kernel that was used
  missing_mass: float  # part of the mass outside the grid

  def __iter__(self):
    return iter((self.grid, self.values, self.stderr))
