"""The result of a density run: tridiagonal matrices and where they come from, on disk for years."""

import dataclasses
import functools
import json
import pathlib

import numpy as np

from tf_hessian import files
from tf_hessian.numerics import checks, deflation, density, quadrature

FORMAT = "tf_hessian.spectrum"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True, repr=False)
class Spectrum:
  """The quadrature of k draws of Lanczos on one matrix, with its provenance.

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

  diagonals: tuple
  off_diagonals: tuple
  residuals: np.ndarray
  statuses: tuple
  num_parameters: int | None
  seed: int | None = None
  parameter_names: tuple = ()
  parameter_shapes: tuple = ()
  loss: float | None = None
  config: dict = dataclasses.field(default_factory=dict)
  versions: dict = dataclasses.field(default_factory=dict)
  device: str = ""
  wall_times: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))

  @property
  def num_draws(self):
    return len(self.diagonals)

  @property
  def start(self):
    """What the run began at: None for random vectors, "gradient", or the digest of a vector."""
    return self.config.get("start")

  @functools.cached_property
  def quadratures(self):
    """Tuple of one `Quadrature` a draw."""
    pairs = zip(self.diagonals, self.off_diagonals, strict=True)
    return tuple(quadrature.gauss_quadrature(d, e) for d, e in pairs)

  @property
  def nodes(self):
    """Tuple of k vectors (m_i,) float64, ascending: the Ritz values of each draw."""
    return tuple(q.nodes for q in self.quadratures)

  @property
  def weights(self):
    """Tuple of k vectors (m_i,) float64; each sums to 1."""
    return tuple(q.weights for q in self.quadratures)

  @property
  def tridiagonals(self):
    """Tuple of k dense matrices (m_i, m_i) float64."""
    pairs = zip(self.diagonals, self.off_diagonals, strict=True)
    return tuple(quadrature.tridiagonal_matrix(d, e) for d, e in pairs)

  def density(self, sigma_squared=1e-5, *, grid=None, relative=False, deflate=False):
    """Returns the smoothed density as a `Density`, a tuple (grid, values, stderr).

    Args:
      sigma_squared: variance of the Gaussian kernel (default: the paper's).
      grid: (g,) ascending points; by default all nodes and 9 sigma around them.
      relative: multiply sigma_squared by max(1, range of the nodes), as the original code did.
      deflate: give isolated eigenvalues that have converged in all draws the weight 1 / n that they
        have in the density, instead of the draws' random weights; see `deflated`.

    Raises:
      ValueError: for a bad grid or sigma_squared, or a deflation that is not possible.
    """
    rules = self.deflated().quadratures if deflate else self.quadratures
    nodes, weights = [q.nodes for q in rules], [q.weights for q in rules]
    return density.density(nodes, weights, sigma_squared, grid=grid, relative=relative)

  def deflated(self):
    """Returns the quadratures in which known eigenvalues weigh 1 / n: a `numerics` `Deflation`.

    Known are those whose Ritz pair has converged in all draws, far from their neighbours, with
    weights that single eigenvalues can have. Their heights have no standard error then.

    Raises:
      ValueError: if n or the residuals are not known, or the run began at a vector of its own.
    """
    if self.start is not None:
      raise ValueError("deflation: is for random start vectors; this run began at another")
    if self.num_parameters is None:
      raise ValueError("deflation: needs the number of parameters, which isn't known")
    return deflation.deflate(self.quadratures, self.residual_bounds(), self.num_parameters)

  def moments(self, order=2):
    """Returns the estimated tr(H^j) / n for j = 1 .. order and standard errors, each (order,)."""
    checks.check_count("order", order)
    return quadrature.mean_and_stderr(quadrature.moments(self.quadratures, order))

  def mass(self, low=-np.inf, high=np.inf):
    """Returns the share of the density from low to high, not smoothed, and its standard error.

    Times `num_parameters` it is the number of eigenvalues there. Of a run that began at a gradient
    it is the share of the gradient's energy in the eigenvectors of these eigenvalues. It is exact
    for a range whose ends lie among converged Ritz values; see `residual_bounds`.

    Args:
      low: lower end, which counts.
      high: upper end, which counts.

    Raises:
      ValueError: if the ends are not in order.
    """
    if not low <= high:
      raise ValueError(f"mass: expected low at most high, got {low!r} and {high!r}")
    shares = [q.weights[(q.nodes >= low) & (q.nodes <= high)].sum() for q in self.quadratures]
    mean, stderr = quadrature.mean_and_stderr(shares)
    return float(mean), float(stderr)

  def trace(self):
    """Returns the estimated trace of H and its standard error: floats.

    NaN if n is not known, or the run began at a vector of its own, which sees another measure.
    """
    if self.num_parameters is None or self.start is not None:
      return np.nan, np.nan
    mean, stderr = self.moments(1)
    return float(mean[0] * self.num_parameters), float(stderr[0] * self.num_parameters)

  def largest(self, count):
    """Returns the `count` largest Ritz values, descending, each the largest over the draws.

    The i-th largest Ritz value of a draw is at most the i-th largest eigenvalue (Cauchy), so the
    largest over the draws is the best lower bound they give. Fewer are returned where no draw has
    so many nodes.
    """
    return _extremes([t[::-1] for t in self.nodes], count, np.maximum)

  def smallest(self, count):
    """Returns the `count` smallest Ritz values, ascending, each the smallest over the draws."""
    return _extremes(self.nodes, count, np.minimum)

  def residual_bounds(self):
    """Returns, for each node of each draw, how far an eigenvalue is away at most: k vectors (m_i,).

    |beta_m s_mi|, the length of H y - theta y of the Ritz pair (Parlett, The Symmetric Eigenvalue
    Problem, section 13.2). NaN where the last residual is not known.
    """
    pairs = zip(self.diagonals, self.off_diagonals, self.residuals, strict=True)
    return tuple(quadrature.ritz_residuals(d, e, beta) for d, e, beta in pairs)

  def summary(self):
    """Returns the main numbers and the provenance as a dict that JSON can hold."""
    trace, trace_stderr = self.trace()
    return {
      "start": self.start,
      "energy_in_largest": None if self.start is None else self._energies(),
      "num_parameters": self.num_parameters,
      "num_draws": self.num_draws,
      "steps": [len(d) for d in self.diagonals],
      "statuses": list(self.statuses),
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

  def _energies(self):
    """Returns dict: count -> share of the start vector's energy in so many largest Ritz values."""
    weights = self.weights[0][::-1]
    return {
      count: float(weights[:count].sum()) for count in (1, 3, 10, 30) if count <= weights.size
    }

  def __repr__(self):
    steps = max(map(len, self.diagonals), default=0)
    start = "" if self.start is None else f", from {self.start}"
    return f"Spectrum(n = {self.num_parameters}, {self.num_draws} draws of {steps} steps{start})"

  def plot(self, path, **options):
    """Writes a picture of the density; see `plotting.plot_spectrum`."""
    from tf_hessian import plotting

    plotting.plot_spectrum(self, path, **options)

  def save(self, path):
    """Writes the result to a `.npz` file, whole or not at all; a link is replaced itself.

    Raises:
      OSError: if the file can't be written.
    """
    with files.replacing(_with_suffix(path)) as file:
      self.write(file)

  def write(self, file):
    """Writes what `save` does to a binary file object."""
    steps = np.array([len(d) for d in self.diagonals])
    padded = np.full((2, self.num_draws, steps.max()), np.nan)
    for i, (d, e) in enumerate(zip(self.diagonals, self.off_diagonals, strict=True)):
      padded[0, i, : len(d)] = d
      padded[1, i, : len(e)] = e
    about = {
      "format": FORMAT,
      "format_version": FORMAT_VERSION,
      "statuses": list(self.statuses),
      "num_parameters": self.num_parameters,
      "seed": self.seed,
      "parameter_names": list(self.parameter_names),
      "parameter_shapes": [list(s) for s in self.parameter_shapes],
      "loss": self.loss,
      "config": self.config,
      "versions": self.versions,
      "device": self.device,
    }
    np.savez(
      file,
      about=np.frombuffer(json.dumps(about).encode(), np.uint8),
      steps=steps,
      diagonals=padded[0],
      off_diagonals=padded[1],
      residuals=self.residuals,
      wall_times=self.wall_times,
      # So that the file can be used without this package.
      nodes=_padded(self.nodes, steps),
      weights=_padded(self.weights, steps),
    )

  @classmethod
  def load(cls, path):
    """Reads what `save` wrote.

    Raises:
      OSError: if there is no such file.
      ValueError: if it is damaged, of another kind, or of a newer format.
    """
    return cls.read(_existing(path))

  @classmethod
  def read(cls, path):
    """Reads what `write` wrote, from a path or a binary file object; raises as `load` does."""
    arrays = files.read_npz(path)
    try:
      about = dict(json.loads(arrays["about"].tobytes()))
    except (ValueError, KeyError, TypeError) as e:
      raise ValueError(f"{path}: not a spectrum, or damaged ({e})") from e
    if about.get("format") != FORMAT:
      raise ValueError(f"{path}: expected format {FORMAT!r}, got {about.get('format')!r}")
    try:
      if about["format_version"] <= FORMAT_VERSION:
        return cls._from_arrays(arrays, about)
    except (KeyError, IndexError, ValueError, TypeError) as e:
      raise ValueError(f"{path}: damaged: {e} is missing or wrong") from e
    raise ValueError(
      f"{path}: it has format version {about['format_version']}, and this tf_hessian reads up to "
      f"{FORMAT_VERSION}: install a newer one"
    )

  @classmethod
  def _from_arrays(cls, arrays, about):
    steps = _checked_steps(arrays, about["statuses"])
    return cls(
      diagonals=tuple(d[:m] for d, m in zip(arrays["diagonals"], steps, strict=True)),
      off_diagonals=tuple(e[: m - 1] for e, m in zip(arrays["off_diagonals"], steps, strict=True)),
      residuals=arrays["residuals"],
      statuses=tuple(about["statuses"]),
      num_parameters=about["num_parameters"],
      seed=about["seed"],
      parameter_names=tuple(about["parameter_names"]),
      parameter_shapes=tuple(tuple(s) for s in about["parameter_shapes"]),
      loss=about["loss"],
      config=dict(about["config"]),
      versions=dict(about["versions"]),
      device=about["device"],
      wall_times=arrays["wall_times"],
    )

  def save_original(self, path):
    """Writes the layout of the original code: float64 (steps, steps, draws), as `save` does.

    It was named `tridiag_<k>` after k draws. Draws with fewer nodes than others don't fit it.

    Raises:
      ValueError: if the draws have different numbers of nodes.
      OSError: if the file can't be written.
    """
    if len({len(d) for d in self.diagonals}) > 1:
      raise ValueError(
        "the original layout: expected the same number of nodes in each draw, got "
        f"{[len(d) for d in self.diagonals]}"
      )
    with files.replacing(path) as file:
      np.save(file, np.stack(self.tridiagonals, axis=-1))

  @classmethod
  def load_original(cls, path, *, num_parameters=None):
    """Reads the original code's `tridiag_<k>`, float64 (steps, steps, draws).

    Slices that are all zero are draws that had not finished; they are left out.

    Args:
      path: the file.
      num_parameters: n, which the layout does not record (traces need it).

    Raises:
      OSError: if there is no such file.
      ValueError: if it is damaged, or not such an array of tridiagonal matrices.
    """
    with open(path, "rb") as file:
      try:
        array = np.load(file, allow_pickle=False)
      except Exception as e:  # damaged files fail in many ways inside zipfile and NumPy
        raise ValueError(f"{path}: not an array of the original code, or damaged ({e})") from e
    if not isinstance(array, np.ndarray) or array.ndim != 3 or array.shape[0] != array.shape[1]:
      raise ValueError(
        f"{path}: expected an array (steps, steps, draws), got {getattr(array, 'shape', 'several')}"
      )
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
      raise ValueError(f"{path}: expected finite real numbers, got {array.dtype}")
    matrices = [t for t in np.moveaxis(array, -1, 0).astype(np.float64) if t.any()]
    if not matrices:
      raise ValueError(f"{path}: no finished draw, all entries are zero")
    for i, t in enumerate(matrices):
      band = np.triu(np.tril(t, 1), -1)
      if not np.array_equal(band, t) or not np.array_equal(t, t.T):
        raise ValueError(f"{path}: draw {i} is not a symmetric tridiagonal matrix")
    return cls(
      diagonals=tuple(np.diag(t).copy() for t in matrices),
      off_diagonals=tuple(np.diag(t, 1).copy() for t in matrices),
      residuals=np.full(len(matrices), np.nan),
      statuses=("COMPLETE",) * len(matrices),
      num_parameters=num_parameters,
      config={"read_from": "original layout"},
    )


def load(path, *, num_parameters=None):
  """Reads a spectrum of either layout, ours or the original code's, whichever the file holds.

  As `Spectrum.save` does, it adds ".npz" to a path without it if there is no file otherwise.

  Args:
    path: the file.
    num_parameters: n, which the original layout does not record.

  Raises:
    OSError, ValueError: see `Spectrum.load` and `Spectrum.load_original`.
  """
  path = _existing(path)
  with open(path, "rb") as file:
    is_array = file.read(6) == b"\x93NUMPY"
  if is_array:
    return Spectrum.load_original(path, num_parameters=num_parameters)
  return Spectrum.load(path)


def _checked_steps(arrays, statuses):
  """Returns the steps of each draw, (k,), of arrays that fit each other and can be a result."""
  steps, count = arrays["steps"], len(statuses)
  columns = arrays["diagonals"].shape[-1]
  shapes = {"steps": (count,), "residuals": (count,), "wall_times": (count,)}
  shapes |= {"diagonals": (count, columns), "off_diagonals": (count, columns)}
  for name, shape in shapes.items():
    array = arrays[name]
    if array.dtype.kind not in ("iu" if name == "steps" else "f"):
      raise ValueError(f"{name} of {array.dtype}")
    if array.shape != shape and not (name == "wall_times" and not array.size):
      raise ValueError(f"{name} of shape {array.shape}")
  if not count or steps.min() < 1 or steps.max() > columns:
    raise ValueError("steps")
  for name, fewer in (("diagonals", 0), ("off_diagonals", 1)):
    used = np.arange(columns) < steps[:, None] - fewer
    if not np.isfinite(arrays[name][used]).all():
      raise ValueError(f"{name}: not finite, which")
  return steps


def _number(x):
  return None if np.isnan(x) else x


def _with_suffix(path):
  path = pathlib.Path(path)
  return path if path.suffix == ".npz" else path.with_name(path.name + ".npz")


def _existing(path):
  return path if pathlib.Path(path).exists() else _with_suffix(path)


def _extremes(nodes, count, best):
  checks.check_count("count", count)
  size = min(count, max(len(t) for t in nodes))
  worst = -np.inf if best is np.maximum else np.inf
  padded = [np.append(t[:size], np.full(size - len(t[:size]), worst)) for t in nodes]
  return best.reduce(padded, axis=0)


def _padded(vectors, steps):
  result = np.full((len(vectors), steps.max()), np.nan)
  for row, v in zip(result, vectors, strict=True):
    row[: len(v)] = v
  return result
