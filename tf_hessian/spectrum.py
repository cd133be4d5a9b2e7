"""The result of a density run: tridiagonal matrices, with their provenance."""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import pathlib
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from tf_hessian import files, spectrum_file
from tf_hessian.numerics import checks, deflation, density, markup, quadrature

if TYPE_CHECKING:
  from matplotlib.axes import Axes

  from tf_hessian.numerics.results import Density, Quadrature


class _Shown:
  """The way in which notebooks show a spectrum."""

  def _repr_html_(self) -> str:
    about = self.summary()  # type: ignore[attr-defined]  # of a `Spectrum`
    trace, error = about["trace"], about["trace_stderr"]
    return markup.table(
      {
        "parameters": f"{about['num_parameters']:,}" if about["num_parameters"] else "not known",
        "draws": f"{about['num_draws']} of {max(about['steps'], default=0)} steps",
        "loss": "not known" if about["loss"] is None else about["loss"],
        "trace": f"{trace:.5g}" + ("" if error is None else f" ± {error:.2g}"),
        "largest": ", ".join(f"{x:.5g}" for x in about["largest"][:5]),
        "smallest": ", ".join(f"{x:.5g}" for x in about["smallest"][:3]),
      }.items()
    )


@dataclasses.dataclass(frozen=True, repr=False)
class Spectrum(_Shown):
  """The quadrature of k Lanczos draws on one matrix, with its provenance.

  >>> import numpy as np
  >>> import tf_hessian
  >>> spectrum = tf_hessian.spectral_density(
  ...   np.diag([3.0, 0.0, 0.0, 0.0]), num_draws=4, lanczos_steps=4, progress=False
  ... )
  >>> spectrum.largest(1).round(6).tolist(), spectrum.num_draws
  ([3.0], 4)

  Attributes:
    diagonals: k vectors (m_i,) float64, diagonals of the tridiagonal matrices.
    off_diagonals: k vectors (m_i - 1,) float64.
    residuals: (k,) float64, length of the residual after each draw's last step.
    statuses: k names of `LanczosStatus`.
    num_parameters: n, the order of the matrix; None if not known.
    seed: seed of the start vectors; draw i begins with `probes.probe(seed, i, n)`. None where they
      were others; config["start"] says which.
    parameter_names: names of the variables, in the order of the vector.
    parameter_shapes: their shapes.
    loss: mean loss at the point, or None if not known.
    config: what defines the matrix and the run; plain values.
    versions: of the packages that made it.
    device: what it ran on.
    wall_times: (k,) float64, seconds each draw took.
  """

  diagonals: tuple[np.ndarray, ...]
  off_diagonals: tuple[np.ndarray, ...]
  residuals: np.ndarray
  statuses: tuple[str, ...]
  num_parameters: int | None
  seed: int | None = None
  parameter_names: tuple[str, ...] = ()
  parameter_shapes: tuple[tuple[int, ...], ...] = ()
  loss: float | None = None
  config: dict[str, Any] = dataclasses.field(default_factory=dict)
  versions: dict[str, str] = dataclasses.field(default_factory=dict)
  device: str = ""
  wall_times: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))

  @property
  def num_draws(self) -> int:
    """Number k of draws."""
    return len(self.diagonals)

  @property
  def start(self) -> str | None:
    """The start of the run: None if random, "gradient", or a digest."""
    return self.config.get("start")

  @functools.cached_property
  def quadratures(self) -> tuple[Quadrature, ...]:
    """Tuple of one `Quadrature` a draw."""
    pairs = zip(self.diagonals, self.off_diagonals, strict=True)
    return tuple(quadrature.gauss_quadrature(d, e) for d, e in pairs)

  @property
  def nodes(self) -> tuple[np.ndarray, ...]:
    """The Ritz values of each draw: k vectors (m_i,) float64, ascending."""
    return tuple(q.nodes for q in self.quadratures)

  @property
  def weights(self) -> tuple[np.ndarray, ...]:
    """Tuple of k vectors (m_i,) float64; each sums to 1."""
    return tuple(q.weights for q in self.quadratures)

  @property
  def tridiagonals(self) -> tuple[np.ndarray, ...]:
    """Tuple of k dense matrices (m_i, m_i) float64."""
    pairs = zip(self.diagonals, self.off_diagonals, strict=True)
    return tuple(quadrature.tridiagonal_matrix(d, e) for d, e in pairs)

  def density(
    self,
    sigma_squared: float = 1e-5,
    *,
    grid: np.ndarray | None = None,
    relative: bool = False,
    deflate: bool = False,
  ) -> Density:
    """Returns the smoothed density, a tuple (grid, values, stderr).

    Args:
      sigma_squared: variance of the Gaussian kernel (default: the paper's).
      grid: (g,) ascending points; by default all nodes and 9 sigma around them.
      relative: multiply sigma_squared by max(1, range of the nodes), as the original code did.
      deflate: give isolated eigenvalues that have converged in all draws the weight 1 / n that they
        have in the density, instead of the draws' random weights; see `deflated`.

    Raises:
      ValueError: for a bad grid or sigma_squared, or a deflation that is not possible.

    >>> one = Spectrum((np.array([2.0]),), (np.array([]),), np.zeros(1), ("COMPLETE",), 1)
    >>> grid, values, _ = one.density(1.0)
    >>> len(grid), round(float(values.max()), 6)  # 12 points a sigma; 1 / sqrt(2 pi)
    (217, 0.398942)
    """
    rules = self.deflated().quadratures if deflate else self.quadratures
    nodes, weights = [q.nodes for q in rules], [q.weights for q in rules]
    return density.density(nodes, weights, sigma_squared, grid=grid, relative=relative)

  def deflated(self) -> deflation.Deflation:
    """Returns the quadratures in which known eigenvalues weigh 1 / n.

    Known are those whose Ritz pair has converged in all draws, far from their neighbours, with
    weights that single eigenvalues can have. Their heights have no standard error then. Ten draws
    can't tell an exactly double eigenvalue from a single one: it gets half its height.

    Raises:
      ValueError: if n or the residuals are not known, or the run began at a vector of its own, or
        kept no basis.
    """
    if self.start is not None:
      raise ValueError("deflation: is for random start vectors; this run began at another")
    if spectrum_file.without_basis(self.config):
      raise ValueError(
        'deflation: needs the Lanczos vectors, and this run kept none (Storage("none")): run it '
        "with a basis"
      )
    if self.num_parameters is None:
      raise ValueError("deflation: needs the number of parameters, which isn't known")
    return deflation.deflate(self.quadratures, self.residual_bounds(), self.num_parameters)

  def moments(self, order: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Returns the estimated moments tr(H^j) / n and their standard errors.

    Args:
      order: the highest j, from 1.

    Returns:
      Two arrays (order,) float64, of j = 1 .. order.

    >>> one = Spectrum((np.array([2.0]),), (np.array([]),), np.zeros(1), ("COMPLETE",), 1)
    >>> one.moments(3)[0].tolist()
    [2.0, 4.0, 8.0]
    """
    checks.check_count("order", order)
    return quadrature.mean_and_stderr(quadrature.moments(self.quadratures, order))

  def mass(self, low: float = -np.inf, high: float = np.inf) -> tuple[float, float]:
    """Returns the density's share in a range, and its standard error.

    The density is not smoothed for it. Times `num_parameters` it is the number of eigenvalues
    there. Of a run that began at a gradient it is the share of the gradient's energy in the
    eigenvectors of these eigenvalues. It is exact for a range whose ends lie among converged Ritz
    values; `residual_bounds` says how far these have converged. What is zero or an end of the range
    but for rounding counts as such.

    Args:
      low: lower end, which counts; by default there is none.
      high: upper end, which counts; by default there is none.

    Raises:
      ValueError: if the ends are not in order.

    >>> two = Spectrum((np.array([2.0]), np.array([-1.0])), (np.array([]),) * 2, np.zeros(2),
    ...                ("COMPLETE",) * 2, 1)
    >>> two.mass(0.0), two.mass()
    ((0.5, 0.5), (1.0, 0.0))
    """
    rounding = spectrum_file.rounding(self.config)
    shares = [quadrature.share(q, low, high, rounding) for q in self.quadratures]
    mean, stderr = quadrature.mean_and_stderr(shares)
    return float(mean), float(stderr)

  def trace(self) -> tuple[float, float]:
    """Returns the estimated trace of H and its standard error.

    NaN if n is not known, or the run began at a vector of its own, which sees another measure.
    """
    if self.num_parameters is None or self.start is not None:
      return np.nan, np.nan
    mean, stderr = self.moments(1)
    return float(mean[0] * self.num_parameters), float(stderr[0] * self.num_parameters)

  def largest(self, count: int) -> np.ndarray:
    """Returns the largest Ritz values, descending.

    The i-th is the largest of the draws' i-th largest. The i-th largest Ritz value of a draw is at
    most the i-th largest eigenvalue (Cauchy), so it is the best lower bound that they give. Of a
    run without a basis, whose eigenvalues may have several nodes, each counts once
    (`quadrature.distinct`).

    Args:
      count: how many; fewer are returned where no draw has so many nodes.

    >>> two = Spectrum((np.array([2.0]), np.array([-1.0])), (np.array([]),) * 2, np.zeros(2),
    ...                ("COMPLETE",) * 2, 1)
    >>> two.largest(1).tolist(), two.smallest(1).tolist()
    ([2.0], [-1.0])
    """
    return quadrature.extremes([q.nodes[::-1] for q in _distinct(self)], count, np.maximum)

  def smallest(self, count: int) -> np.ndarray:
    """Returns the smallest Ritz values, ascending.

    The i-th is the smallest of the draws' i-th smallest.

    Args:
      count: how many; fewer are returned where no draw has so many nodes.
    """
    return quadrature.extremes([q.nodes for q in _distinct(self)], count, np.minimum)

  def residual_bounds(self) -> tuple[np.ndarray, ...]:
    """Returns the largest distance of each node from an eigenvalue.

    They are k vectors (m_i,) of |beta_m s_mi|, the length of H y - theta y of the Ritz pair
    (Parlett, The Symmetric Eigenvalue Problem, section 13.2). NaN where the last residual is not
    known.
    """
    pairs = zip(self.diagonals, self.off_diagonals, self.residuals, strict=True)
    return tuple(quadrature.ritz_residuals(d, e, beta) for d, e, beta in pairs)

  def summary(self) -> dict[str, Any]:
    """Returns the main numbers and the provenance, which JSON can hold."""
    trace, trace_stderr = self.trace()
    return {
      "start": self.start,
      "energy_in_largest": None if self.start is None else _energies(_distinct(self)[0]),
      "num_parameters": self.num_parameters,
      "num_draws": self.num_draws,
      "steps": [len(d) for d in self.diagonals],
      "statuses": list(self.statuses),
      "basis": self.config.get("basis"),
      "seed": self.seed,
      "loss": self.loss,
      "largest": self.largest(10).tolist(),
      "smallest": self.smallest(5).tolist(),
      "trace": _number(trace),
      "trace_stderr": _number(trace_stderr),
      "wall_times": np.asarray(self.wall_times).tolist(),
      "config": self.config,
      "versions": self.versions,
      "device": self.device,
    }

  def __repr__(self) -> str:
    steps = max(map(len, self.diagonals), default=0)
    start = "" if self.start is None else f", from {self.start}"
    basis = ", without a basis" if spectrum_file.without_basis(self.config) else ""
    return (
      f"Spectrum(n = {self.num_parameters}, {self.num_draws} draws of {steps} steps{start}{basis})"
    )

  def plot(self, path: str | os.PathLike | None = None, **options: Any) -> Axes:
    """Draws the density, into a file, axes, or a notebook.

    Args:
      path: the picture, such as "spectrum.png"; None for none.
      **options: keyword arguments of `plotting.plot_spectrum`, such as `ax`.

    Returns:
      The Matplotlib axes.
    """
    from tf_hessian import plotting

    return plotting.plot_spectrum(self, path, **options)

  def save(self, path: str | os.PathLike) -> None:
    """Writes the result to a `.npz` file, whole or not at all.

    Args:
      path: the file; a link is replaced itself, and a missing suffix added.

    Raises:
      OSError: if the file can't be written.
    """
    with files.replacing(_with_suffix(path)) as file:
      self.write(file)

  def write(self, file: BinaryIO) -> None:
    """Writes the contents of a `.npz` file to a binary file object."""
    fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    spectrum_file.write(file, fields, nodes=self.nodes, weights=self.weights)

  def to_bytes(self) -> bytes:
    """Returns the contents of a `.npz` file, for other processes."""
    file = io.BytesIO()
    self.write(file)
    return file.getvalue()

  @classmethod
  def load(cls, path: str | os.PathLike) -> Spectrum:
    """Returns the result in a file that `save` wrote.

    Raises:
      OSError: if there is no such file.
      ValueError: if it is damaged, of another kind, or of a newer format.
    """
    return cls.read(_existing(path))

  @classmethod
  def read(cls, path: str | os.PathLike | BinaryIO) -> Spectrum:
    """Returns the result in a file or binary file object.

    Raises:
      OSError: if there is no such file.
      ValueError: if it is damaged, of another kind, or of a newer format.
    """
    return cls(**spectrum_file.read(path))

  @classmethod
  def from_bytes(cls, content: bytes) -> Spectrum:
    """Returns the result that `to_bytes` gave.

    Raises:
      ValueError: if the bytes are damaged, or something else.
    """
    return cls.read(_NamedBytes(content))

  def save_original(self, path: str | os.PathLike) -> None:
    """Writes the layout of the original code: float64 (steps, steps, draws).

    It was named `tridiag_<k>` after k draws. Draws with fewer nodes than others don't fit it.

    Raises:
      ValueError: if the draws have different numbers of nodes, or one is zero.
      OSError: if the file can't be written.
    """
    if len({len(d) for d in self.diagonals}) > 1:
      raise ValueError(
        "the original layout: expected the same number of nodes in each draw, got "
        f"{[len(d) for d in self.diagonals]}"
      )
    if not all(t.any() for t in self.tridiagonals):
      raise ValueError("the original layout: a draw of zeros says there that it has not finished")
    with files.replacing(path) as file:
      np.save(file, np.stack(self.tridiagonals, axis=-1))

  @classmethod
  def load_original(
    cls,
    path: str | os.PathLike,
    *,
    num_parameters: int | None = None,
    precision: float = spectrum_file.FLOAT32,
  ) -> Spectrum:
    """Returns the result in the original code's `tridiag_<k>`.

    Slices that are all zero are draws that had not finished; they are left out.

    Args:
      path: the file, float64 (steps, steps, draws).
      num_parameters: n, which the layout does not record (traces need it).
      precision: relative rounding error of the products, likewise; by default that of float32.

    Raises:
      OSError: if there is no such file.
      ValueError: if it is damaged, or not such an array of tridiagonal matrices.
    """
    return cls(**spectrum_file.read_original(path, precision), num_parameters=num_parameters)


def load(path: str | os.PathLike, *, num_parameters: int | None = None) -> Spectrum:
  """Returns the spectrum in a file of either layout.

  That is ours or the original code's. As `Spectrum.save` does, it adds ".npz" to a path without it
  if there is no file otherwise.

  Args:
    path: the file.
    num_parameters: n, which the original layout does not record.

  Raises:
    OSError: if there is no such file.
    ValueError: if it is damaged, of neither layout, or of a newer format.
  """
  path = _existing(path)
  if spectrum_file.is_original(path):
    return Spectrum.load_original(path, num_parameters=num_parameters)
  return Spectrum.load(path)


def _distinct(spectrum):
  """Returns the quadrature of each draw, with each eigenvalue once."""
  if not spectrum_file.without_basis(spectrum.config):
    return spectrum.quadratures
  rounding = spectrum_file.rounding(spectrum.config)
  return tuple(quadrature.distinct(q, rounding) for q in spectrum.quadratures)


class _NamedBytes(io.BytesIO):
  """Bytes of a spectrum, with the name that errors call them by."""

  def __str__(self) -> str:
    return "spectrum as bytes"


def _number(x: float) -> float | None:
  return None if np.isnan(x) else x


def _energies(rule: Quadrature) -> dict[int, float]:
  """Returns the energy's shares in so many of the largest Ritz values."""
  weights = rule.weights[::-1]
  return {count: float(weights[:count].sum()) for count in (1, 3, 10, 30) if count <= weights.size}


def _with_suffix(path: str | os.PathLike) -> pathlib.Path:
  path = pathlib.Path(path)
  return path if path.suffix == ".npz" else path.with_name(path.name + ".npz")


def _existing(path: str | os.PathLike) -> str | os.PathLike:
  return path if pathlib.Path(path).is_file() else _with_suffix(path)
