"""The small model of section B, and its exact spectrum."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import time

from absl import logging
import keras
from ml_collections import ConfigDict
import numpy as np

from tf_hessian import files
from tf_hessian.curvature import precision
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.distribute import memory
from tf_hessian.experiments import experiment
from tf_hessian.experiments.train import train
from tf_hessian.numerics import dense, probes
from tf_hessian.slq import exact
from tf_hessian.slq.density import spectral_density
from tf_hessian.spectrum import Spectrum
from tf_hessian.studies import bulk, comparison, quadrature_error
from tf_hessian.training import checkpoints, record

MAX_STEPS = 120
NUM_TOP = 20  # exact eigenvectors that are kept, of the largest eigenvalues

# Upper bounds of what comes out, and where they come from.
EXPECTED = {
  "asymmetry": 1e-14,  # rounding of float64 products
  "l1_draw_90": 1e-6,  # the quadrature has converged at m = 90
  "l1_draw_120": 1e-12,  # to rounding at m = 120
  "l1_mean_over_predicted": 1.5,  # Monte-Carlo error of ten draws; itself a random number
  "peak_gib": 8.0,
}


@dataclasses.dataclass(frozen=True)
class SmallModel:
  """A trained network whose whole spectrum is known, and estimates of it.

  Attributes:
    setup: the `Experiment` it comes from.
    model: the network, float64.
    operator: its `HessianOperator`, float64.
    spectrum: `Spectrum` of draws of 120 steps.
    eigenvalues: (n,) all eigenvalues, ascending.
    draws: tuple of (nodes, weights) of the exact measure of each draw's start vector.
    gradient: (nodes, weights) of the exact measure of the gradient's direction.
    top_vectors: (20, n) eigenvectors of the largest eigenvalues, in descending order.
    facts: dict of numbers: asymmetry, zero_rows, dense_seconds, exact_seconds, training_seconds.
  """

  setup: experiment.Experiment
  model: keras.Model
  operator: HessianOperator
  spectrum: Spectrum
  eigenvalues: np.ndarray
  draws: tuple[tuple[np.ndarray, np.ndarray], ...]
  gradient: tuple[np.ndarray, np.ndarray]
  top_vectors: np.ndarray
  facts: dict

  @property
  def n(self) -> int:
    """Number of parameters."""
    return self.eigenvalues.size

  @property
  def seconds(self) -> float:
    """Seconds of training, exact spectrum and draws, whenever they were made."""
    made = self.facts["training_seconds"] + self.facts["exact_seconds"]
    return made + float(np.sum(self.spectrum.wall_times))

  @property
  def weights(self) -> np.ndarray:
    """(n,): 1/n each."""
    return np.full(self.n, 1 / self.n)

  def in_batches_of(self, size: int) -> HessianOperator:
    """Returns the operator on the same data in other batches."""
    section = self.setup.config["hessian"] | {"batch_size": size}
    setup = dataclasses.replace(self.setup, config=self.setup.config | {"hessian": section})
    return setup.operator(self.model, dtype="float64")


def prepare(
  config: ConfigDict, workdir: str | os.PathLike, /, *, num_draws: int = 10, progress: bool = True
) -> SmallModel:
  """Trains the small model, and computes its exact spectrum and estimates.

  Reads what is there already.

  Args:
    config: `ml_collections.ConfigDict`, such as configs/mnist_mlp.py.
    workdir: folder of the model, exact.npz and the estimates.
    num_draws: number of draws.
    progress: show progress.

  Returns:
    A `SmallModel`.

  Raises:
    ValueError, OSError: as `experiments.train.train` does, for a bad config or folder.
  """
  workdir = pathlib.Path(workdir)
  train(config, workdir)
  setup = experiment.build(config)
  model = precision.float64_model(checkpoints.load_model(workdir / "model.keras"))
  operator = setup.operator(model, dtype="float64")
  seed = setup.config["seed"]
  known = _exact_side(operator, seed, num_draws, workdir / "exact.npz", progress)
  spectrum = spectral_density(
    operator,
    num_draws=num_draws,
    lanczos_steps=min(MAX_STEPS, operator.shape[0]),
    seed=seed,
    workdir=workdir / "spectrum_float64",
    progress=progress,
  )
  nodes = known["nodes"]
  return SmallModel(
    setup,
    model,
    operator,
    spectrum,
    known["eigenvalues"],
    tuple((nodes, w) for w in known["draw_weights"]),
    (nodes, known["gradient_weights"]),
    known["top_vectors"],
    json.loads(known["facts"].tobytes())
    | {"training_seconds": record.read(workdir)[-1].get("seconds", 0.0)},
  )


def _exact_side(operator, seed, num_draws, path, progress):
  """Returns the arrays of exact.npz, read or computed.

  The file is read if it is of this matrix and these draws.
  """
  n = operator.shape[0]
  # A product tells this matrix from another.
  mark = np.array([seed, num_draws, *(operator @ probes.probe(0, 0, n))[: 10**4]])
  if path.exists():
    try:
      found = files.read_npz(path)
      if np.array_equal(found["mark"], mark):
        return found
      logging.info("%s is of another matrix or run: computed again", path)
    except (ValueError, KeyError) as e:
      logging.warning("%s: computed again (%s)", path, e)
  facts = {}
  truth = _decompose(operator, facts, progress)
  gradient = operator.gradient()
  draws = [truth.draw(probes.probe(seed, i, n)) for i in range(num_draws)]
  top = np.zeros((min(NUM_TOP, len(truth.nonzero_rows)), n))
  top[:, truth.nonzero_rows] = truth.eigenvectors[:, : -len(top) - 1 : -1].T
  nodes, gradient_weights = truth.draw(gradient / np.linalg.norm(gradient))
  result = {
    "mark": mark,
    "eigenvalues": truth.eigenvalues,
    "nodes": nodes,
    "draw_weights": np.array([w for _, w in draws]),
    "gradient_weights": gradient_weights,
    "top_vectors": top,
    "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8),
  }
  with files.replacing(path) as file:
    np.savez(file, **result)
  return result


def _decompose(operator, facts, progress):
  """Returns the `ExactSpectrum` with eigenvectors; adds what was measured to the facts."""
  begin = time.monotonic()
  rows = exact.nonzero_rows(operator)
  exact.check_memory("the exact side of a matrix", rows.size, exact.EIGENVECTORS)
  triangle = exact.upper_triangle(operator, rows, progress=progress)
  facts["dense_seconds"] = time.monotonic() - begin
  facts["asymmetry"] = triangle.asymmetry
  truth = dense.block_spectrum(triangle.matrix, rows, operator.shape[0], eigenvectors=True)
  facts["exact_seconds"] = time.monotonic() - begin
  facts["zero_rows"] = truth.num_zero_rows
  return truth


def verify(
  config: ConfigDict, workdir: str | os.PathLike, /, *, num_draws: int = 10, progress: bool = True
) -> dict:
  """Compares the small model's estimated spectrum with the exact one, in float64.

  Args:
    config: `ml_collections.ConfigDict`, such as configs/mnist_mlp.py.
    workdir: folder for the model, figure_1.png, figure_15.png, figure_16.png and verify.json.
    num_draws: number of draws.
    progress: show progress.

  Returns:
    dict: the numbers, as in verify.json; "failed" lists the bounds of `EXPECTED` that don't hold.

  Raises:
    ValueError, OSError: as `experiments.train.train` does, for a bad config or folder.
  """
  workdir = pathlib.Path(workdir)
  small = prepare(config, workdir, num_draws=num_draws, progress=progress)
  with files.replacing(workdir / "exact_eigenvalues.npy") as file:
    np.save(file, small.eigenvalues)
  numbers = {
    "n": small.n,
    "loss": small.operator.loss(),
    **small.facts,
    **_extremes(small),
    **_distances(small),
  }
  numbers["peak_gib"] = memory.peak() / 2**30
  numbers["failed"] = [k for k, bound in EXPECTED.items() if not numbers[k] <= bound]
  comparison.draw_densities(small, workdir)
  quadrature_error.draw_errors(numbers, workdir / "figure_15.png")
  files.write_text(workdir / "verify.json", json.dumps(numbers, indent=2))
  return numbers


def _extremes(small):
  values, estimate = small.eigenvalues, small.spectrum
  trace, stderr = estimate.trace()
  return {
    "largest_exact": values[:-11:-1].tolist(),
    "largest_estimated": estimate.largest(10).tolist(),
    "smallest_exact": values[:5].tolist(),
    "smallest_estimated": estimate.smallest(5).tolist(),
    "trace_exact": float(values.sum()),
    "trace_estimated": trace,
    "trace_stderr": stderr,
  }


def _distances(small):
  """Returns the distances between estimated and exact densities."""
  numbers = quadrature_error.errors_of_draws(small) | bulk.mean_error(small)
  return numbers | {
    "l1_draw_90": max(numbers["l1_draws_by_steps"][90]),
    "l1_draw_120": max(numbers["l1_draws_by_steps"][120]),
  }


def report(numbers: dict, workdir: str | os.PathLike, /) -> str:
  """Returns the numbers of `verify` as text."""
  rows = [
    ("n", f"{numbers['n']} ({numbers['zero_rows']} rows are exactly zero)"),
    ("loss", f"{numbers['loss']:.8g}"),
    ("largest, exact", _row(numbers["largest_exact"])),
    ("largest, estimated", _row(numbers["largest_estimated"])),
    ("smallest, exact", _row(numbers["smallest_exact"])),
    ("smallest, estimated", _row(numbers["smallest_estimated"])),
    ("trace, exact", f"{numbers['trace_exact']:.6g}"),
    ("trace, estimated", f"{numbers['trace_estimated']:.6g} ± {numbers['trace_stderr']:.2g}"),
    ("asymmetry of H", f"{numbers['asymmetry']:.2g}"),
    *(
      (f"L1 of draws, m = {m}", f"median {np.median(d):.2g}, largest {max(d):.2g}")
      for m, d in numbers["l1_draws_by_steps"].items()
    ),
    ("L1 of the mean", f"{numbers['l1_mean']:.2g} at m = 90, sigma^2 = 1e-5"),
    ("  by Monte-Carlo theory", f"{numbers['l1_mean_predicted']:.2g}"),
    ("  in the paper", f"{numbers['l1_mean_paper']:.2g} (another network)"),
    (
      "exact side took",
      f"{numbers['exact_seconds']:.0f} s ({numbers['dense_seconds']:.0f} s dense)",
    ),
    ("peak memory", f"{numbers['peak_gib']:.2f} GiB"),
    ("written", f"verify.json, figure_1.png, figure_15.png, figure_16.png in {workdir}"),
    ("failed", ", ".join(numbers["failed"]) or "nothing"),
  ]
  return "\n".join(f"{name:24s}{value}" for name, value in rows)


def _row(values):
  return " ".join(f"{v:.6g}" for v in values)
