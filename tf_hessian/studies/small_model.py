"""Section B of the paper: the small model, its exact spectrum, and Figures 1, 15 and 16."""

import json
import pathlib
import resource
import time

from absl import logging
import numpy as np

from tf_hessian import files, plotting
from tf_hessian.curvature import exact
from tf_hessian.curvature.precision import float64_model
from tf_hessian.experiments import commands, density_run, experiment
from tf_hessian.numerics import dense, density, probes, quadrature
from tf_hessian.training import checkpoints

PAPER_SIGMA_SQUARED = 1e-5
PAPER_STEPS = 90
PAPER_L1 = 0.0012  # section B, for its network
STEPS = tuple(range(10, 121, 10))
KERNEL_VARIANCES = tuple(float(f"{10**e:.3g}") for e in np.arange(-7, -1.9, 0.5))

# Upper bounds of what comes out, and where they come from.
EXPECTED = {
  "asymmetry": 1e-14,  # rounding of float64 products
  "l1_draw_90": 1e-6,  # the quadrature has converged at m = 90
  "l1_draw_120": 1e-12,  # to rounding at m = 120
  "l1_mean_over_predicted": 1.5,  # Monte-Carlo error of ten draws; itself a random number
  "exact_seconds": 240.0,  # on an idle machine
  "peak_gib": 8.0,
}


def verify(config, workdir, /, *, num_draws=10, progress=True):
  """Compares the estimated spectrum of a trained small model with the exact one, in float64.

  Args:
    config: `ml_collections.ConfigDict`, such as configs/mnist_mlp.py.
    workdir: folder for the model, figure_1.png, figure_15.png, figure_16.png and verify.json.
    num_draws: number of draws.
    progress: show progress.

  Returns:
    dict: the numbers, as in verify.json; "failed" lists the bounds of `EXPECTED` that don't hold.

  Raises:
    ValueError, OSError: see `commands.train`.
  """
  workdir = pathlib.Path(workdir)
  commands.train(config, workdir)
  setup = experiment.build(config)
  model = float64_model(checkpoints.load_model(workdir / "model.keras"))
  operator = setup.operator(model, dtype="float64")

  numbers = {"n": operator.shape[0], "loss": operator.loss()}
  truth = _exact_side(operator, numbers, progress)
  np.save(workdir / "exact_eigenvalues.npy", truth.eigenvalues)
  estimate = density_run.estimate_spectrum(
    operator,
    num_draws=num_draws,
    lanczos_steps=max(STEPS),
    seed=setup.config["seed"],
    progress=progress,
  )
  grid = density.density_grid([truth.eigenvalues, *estimate.nodes], min(KERNEL_VARIANCES))
  _compare_extremes(truth, estimate, numbers)
  _compare_draws(truth, estimate, grid, numbers)
  _compare_mean(truth, estimate, grid, numbers)
  numbers["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  numbers["failed"] = [k for k, bound in EXPECTED.items() if not numbers[k] <= bound]
  _figures(truth, estimate, numbers, workdir)
  files.write_text(workdir / "verify.json", json.dumps(numbers, indent=2))
  return numbers


def _exact_side(operator, numbers, progress):
  begin = time.monotonic()
  rows = exact.nonzero_rows(operator)

  def show(done):
    if progress and done % 3200 == 0:
      seconds = time.monotonic() - begin
      logging.info("dense Hessian: %d of %d columns, %.0f s", done, rows.size, seconds)

  block = exact.dense_hessian(operator, rows=rows, progress=show)
  numbers["dense_seconds"] = time.monotonic() - begin
  numbers["asymmetry"] = dense.asymmetry(block)
  truth = dense.block_spectrum(block, rows, operator.shape[0], eigenvectors=True)
  numbers["exact_seconds"] = time.monotonic() - begin
  numbers["zero_rows"] = truth.num_zero_rows
  return truth


def _compare_extremes(truth, estimate, numbers):
  values = truth.eigenvalues
  trace, stderr = estimate.trace()
  numbers |= {
    "largest_exact": values[:-11:-1].tolist(),
    "largest_estimated": estimate.largest(10).tolist(),
    "smallest_exact": values[:5].tolist(),
    "smallest_estimated": estimate.smallest(5).tolist(),
    "trace_exact": float(values.sum()),
    "trace_estimated": trace,
    "trace_stderr": stderr,
  }


def _quadratures(estimate, steps):
  """Returns each draw's quadrature after its first `steps` steps: a leading block of its matrix."""
  pairs = zip(estimate.diagonals, estimate.off_diagonals, strict=True)
  return [quadrature.gauss_quadrature(d[:steps], e[: steps - 1]) for d, e in pairs]


def _compare_draws(truth, estimate, grid, numbers):
  """L1 distance of each draw's density to the exact density of that draw, over m and sigma^2."""
  draws = [
    truth.draw(probes.probe(estimate.seed, i, numbers["n"])) for i in range(estimate.num_draws)
  ]
  by_steps, by_variance = {}, {}
  exact_draws = _smooth_all(draws, grid, PAPER_SIGMA_SQUARED)
  for steps in STEPS:
    rules = [(q.nodes, q.weights) for q in _quadratures(estimate, steps)]
    estimated = _smooth_all(rules, grid, PAPER_SIGMA_SQUARED)
    by_steps[steps] = density.l1_distance(grid, estimated, exact_draws).tolist()
  rules = [(q.nodes, q.weights) for q in _quadratures(estimate, PAPER_STEPS)]
  for variance in KERNEL_VARIANCES:
    distances = density.l1_distance(
      grid, _smooth_all(rules, grid, variance), _smooth_all(draws, grid, variance)
    )
    by_variance[variance] = distances.tolist()
  numbers["l1_draws_by_steps"] = by_steps
  numbers["l1_draws_by_sigma_squared"] = by_variance
  numbers["l1_draw_90"] = max(by_steps[90])
  numbers["l1_draw_120"] = max(by_steps[120])


def _compare_mean(truth, estimate, grid, numbers):
  """L1 distance of the mean over draws to the exact density, at m = 90."""
  expected = density.smooth(truth.eigenvalues, truth.weights, grid, PAPER_SIGMA_SQUARED)
  rules = [(q.nodes, q.weights) for q in _quadratures(estimate, PAPER_STEPS)]
  draws = _smooth_all(rules, grid, PAPER_SIGMA_SQUARED)
  numbers["l1_mean"] = float(density.l1_distance(grid, draws.mean(axis=0), expected))
  numbers["l1_mean_predicted"] = density.predicted_l1(
    truth.eigenvalues, grid, PAPER_SIGMA_SQUARED, estimate.num_draws
  )
  numbers["l1_mean_over_predicted"] = numbers["l1_mean"] / numbers["l1_mean_predicted"]
  numbers["l1_mean_paper"] = PAPER_L1
  numbers["l1_single_draws"] = density.l1_distance(grid, draws, expected).tolist()


def _smooth_all(rules, grid, variance):
  return np.array([density.smooth(t, w, grid, variance) for t, w in rules])


def _figures(truth, estimate, numbers, workdir):
  rules = _quadratures(estimate, PAPER_STEPS)
  grid = density.density_grid([truth.eigenvalues], PAPER_SIGMA_SQUARED)
  mean = density.density(
    [q.nodes for q in rules], [q.weights for q in rules], PAPER_SIGMA_SQUARED, grid=grid
  )
  for name, limits in (("figure_1", (-0.2, 0.4)), ("figure_16", (0.4, grid[-1]))):
    figure, axes = plotting.new_figure()
    plotting.draw_density(axes, mean, exact=truth.eigenvalues, limits=limits)
    axes.set_title(f"{estimate.num_draws} draws of {PAPER_STEPS} steps, $\\sigma^2$ = 1e-5")
    plotting.save_figure(figure, workdir / f"{name}.png")

  figure, (left, right) = plotting.new_figure(10.0, 4.0, ncols=2)
  for axes, table, label in (
    (left, numbers["l1_draws_by_steps"], "Lanczos steps m"),
    (right, numbers["l1_draws_by_sigma_squared"], "$\\sigma^2$"),
  ):
    axes.plot(
      list(table), [np.median(d) for d in table.values()], "o-", label="median of the draws"
    )
    axes.plot(list(table), [max(d) for d in table.values()], "x:", label="largest")
    axes.set(yscale="log", xlabel=label, ylabel="$L_1$ distance to the draw's exact density")
    axes.legend(frameon=False)
  right.set_xscale("log")
  left.set_title("$\\sigma^2$ = 1e-5", fontsize="medium")
  right.set_title(f"m = {PAPER_STEPS}", fontsize="medium")
  plotting.save_figure(figure, workdir / "figure_15.png")


def report(numbers, workdir, /):
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
