"""Beyond the paper: isolated eigenvalues with their exact weight."""

from __future__ import annotations

import numpy as np

from tf_hessian import plotting
from tf_hessian.numerics import deflation, density, quadrature
from tf_hessian.slq import eigenpairs
from tf_hessian.slq.density import spectral_density
from tf_hessian.studies import drawing, intervals
from tf_hessian.studies.chapter import Chapter, Table, judged, number, prose, with_error
from tf_hessian.studies.context import TRAINED, Context

SEEDS = 20
DRAWS = 10
STEPS = 90
SIGMA_SQUARED = 1e-5
THRESHOLD = 0.4  # above which the paper counts outliers
METHODS = ("plain", "deflated", "projected")


def measure(context: Context) -> dict:
  """Compares plain and deflated estimates over seeds, at equal numbers of products.

  Raises:
    ValueError: if the network has no eigenvalue above the threshold.
  """
  small = context.trained_model
  outliers = int(np.sum(small.eigenvalues > THRESHOLD))
  if not outliers:
    raise ValueError(f"deflation: this network has no eigenvalue above {THRESHOLD}")
  grid = density.density_grid([small.eigenvalues], SIGMA_SQUARED)
  exact = density.smooth(small.eigenvalues, small.weights, grid, SIGMA_SQUARED)
  pairs = eigenpairs.top_eigenpairs(small.operator, outliers, repeated=False, progress=False)
  # The products that the search has cost are missing for draws.
  left = max(1, DRAWS - -(-pairs.num_products // STEPS))
  rows: dict[str, dict[str, list]] = {
    name: {"l1": [], "l1_outliers": [], "mass": []} for name in METHODS
  }
  known = []
  for seed in range(SEEDS):
    estimates, count = _estimates(context, pairs, seed, left)
    known.append(count)
    for name, quadratures in estimates.items():
      _add(rows[name], quadratures, grid, exact)
  _draw(rows, context.out)
  each = {name: {k: row[k] for k in ("l1", "l1_outliers")} for name, row in rows.items()}
  gain = np.array(rows["plain"]["l1"]) - np.array(rows["deflated"]["l1"])
  mean_gain, gain_error = quadrature.mean_and_stderr(gain)
  return {
    "outliers": outliers,
    "isolated_eigenvalues": known,
    "products": DRAWS * STEPS,
    "eigenpair_products": pairs.num_products,
    "draws_after_projection": left,
    "mass_exact": outliers / small.n,
    **{name: _summary(row, outliers / small.n) for name, row in rows.items()},
    "each_seed": each,
    "gain": float(mean_gain),
    "gain_stderr": float(gain_error),
  }


def _estimates(context, pairs, seed, left):
  """Estimates by each method; returns (dict of quadratures, isolated eigenvalues' number).

  Args:
    context: of the study.
    pairs: `Eigenpairs` of the outliers.
    seed: of the draws.
    left: draws that the search for eigenpairs has left for those in the complement.
  """
  small = context.trained_model
  run = spectral_density(
    small.operator,
    num_draws=DRAWS,
    lanczos_steps=STEPS,
    seed=seed,
    check=False,
    workdir=context.work / "deflation" / f"seed_{seed:02d}",
    progress=context.progress,
  )
  found = deflation.deflate(run.quadratures, run.residual_bounds(), small.n)
  projected = deflation.projected_quadratures(
    small.operator.matvec, pairs.vectors, pairs.values, steps=STEPS, draws=left, seed=seed
  )
  rules = {"plain": run.quadratures, "deflated": found.quadratures, "projected": projected}
  return rules, found.eigenvalues.size


def describe(numbers: dict) -> Chapter:
  """Describes the gain of deflated estimates at the same cost."""
  plain, new = numbers["plain"], numbers["deflated"]
  known, left = numbers["isolated_eigenvalues"], numbers["draws_after_projection"]
  gain = intervals.of_error(numbers["gain"], numbers["gain_stderr"], len(known))
  exact = new["mass_error"] < 1e-3 * plain["mass_error"]
  # sqrt(2 outliers / draws) / n
  theory = np.sqrt(2 / (DRAWS * numbers["outliers"])) * numbers["mass_exact"]
  return Chapter(
    title="Deflated estimate",
    section="",
    claim="isolated eigenvalues with the weight 1/n make the estimate better at the same cost.",
    found=prose(f"""on {TRAINED}, over {len(known)} seeds, {DRAWS} draws x {STEPS} steps: root mean
      square error of the mass of the {numbers["outliers"]} outliers
      {number(plain["mass_error"], 2)} plain
      (theory {number(theory, 2)}), {number(new["mass_error"], 2)} deflated; L1 distance above
      {THRESHOLD} {with_error(*plain["l1_outliers"])} plain, {with_error(*new["l1_outliers"])}
      deflated; of the whole density {with_error(*plain["l1"])} and {with_error(*new["l1"])} (mean ±
      standard error), smaller by {gain.text()}, {intervals.p_text(gain.p)}."""),
    verdict=judged(gain.above and exact, gain.below),
    reason=prose(f"""The difference is paired over the seeds, with a 95 % t-interval. The deflated
      estimate needs no product more than the plain one: what a draw sees beside the known
      eigenvectors is a draw of the matrix projected away from them (`numerics.deflation`), so known
      eigenvalues only get their weight. {min(known)} to {max(known)} eigenvalues are known in all
      ten draws, of both ends. Draws that are taken in the complement ("projected") cost the search
      for eigenpairs, {numbers["eigenpair_products"]} products here, and so have {left} draws. They
      have fewer known eigenvalues, the outliers only. What is left of the L1 distance is the
      bulk's."""),
    pictures={"figure_deflation.png": "Errors over the seeds"},
    tables=(_table(numbers),),
  )


def _table(numbers):
  draws = dict.fromkeys(METHODS, DRAWS) | {"projected": numbers["draws_after_projection"]}
  seeds = len(numbers["isolated_eigenvalues"])
  columns = (f"{seeds} seeds", "draws", "L1", f"L1 above {THRESHOLD}")
  return Table(
    (*columns, "error of the outliers' mass, root mean square"),
    tuple(
      (
        name,
        str(draws[name]),
        with_error(*numbers[name]["l1"]),
        with_error(*numbers[name]["l1_outliers"]),
        number(numbers[name]["mass_error"], 2),
      )
      for name in METHODS
    ),
    f"Mean ± standard error. Each row costs {numbers['products']} products or less.",
  )


def _add(row, quadratures, grid, exact):
  """Adds the errors of one estimate to a row."""
  draws = [density.smooth(q.nodes, q.weights, grid, SIGMA_SQUARED) for q in quadratures]
  mean = np.mean(draws, axis=0)
  above = grid > THRESHOLD
  row["l1"].append(float(density.l1_distance(grid, mean, exact)))
  row["l1_outliers"].append(float(density.l1_distance(grid[above], mean[above], exact[above])))
  masses = [q.weights[q.nodes > THRESHOLD].sum() for q in quadratures]
  row["mass"].append(float(np.mean(masses)))


def _summary(row, exact_mass):
  means = {k: quadrature.mean_and_stderr(row[k]) for k in ("l1", "l1_outliers")}
  error = np.sqrt(np.mean((np.array(row["mass"]) - exact_mass) ** 2))
  return {k: [float(x) for x in v] for k, v in means.items()} | {"mass_error": float(error)}


def _draw(rows, folder):
  figure, panels = plotting.new_figure(10.0, 4.0, ncols=2)
  for axes, key, title in zip(
    panels, ("l1", "l1_outliers"), ("whole density", f"above {THRESHOLD}"), strict=True
  ):
    axes.boxplot([rows[name][key] for name in METHODS])
    axes.set_xticks([1, 2, 3], METHODS)
    axes.set_ylabel("$L_1$ distance to the exact density")
    axes.set_title(f"{title}, {SEEDS} seeds", fontsize="medium")
    drawing.plain_log(axes, "y")
  plotting.save_figure(figure, folder / "figure_deflation.png")
