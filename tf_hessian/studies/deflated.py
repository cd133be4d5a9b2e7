"""Beyond the paper: isolated eigenvalues with their exact weight, on the small model."""

import numpy as np

from tf_hessian import plotting
from tf_hessian.experiments import density_run, eigenpairs
from tf_hessian.numerics import deflation, density, quadrature
from tf_hessian.studies.result import Study, Table, Verdict, number, prose, with_error

SEEDS = 20
DRAWS = 10
STEPS = 90
SIGMA_SQUARED = 1e-5
THRESHOLD = 0.4  # above which the paper counts outliers
METHODS = ("plain", "deflated", "projected")


def figure_deflation(context):
  """Compares plain and deflated estimates over seeds, at equal numbers of products."""
  small = context.small_model
  outliers = int(np.sum(small.eigenvalues > THRESHOLD))
  if not outliers:
    raise ValueError(f"deflation: this network has no eigenvalue above {THRESHOLD}")
  grid = density.density_grid([small.eigenvalues], SIGMA_SQUARED)
  exact = density.smooth(small.eigenvalues, small.weights, grid, SIGMA_SQUARED)
  pairs = eigenpairs.top_eigenpairs(small.operator, outliers, progress=False)
  # The products that the search has cost are missing for draws.
  left = max(1, DRAWS - -(-pairs.num_products // STEPS))
  rows = {name: {"l1": [], "l1_outliers": [], "mass": []} for name in METHODS}
  known = []
  for seed in range(SEEDS):
    run = density_run.estimate_spectrum(
      small.operator,
      num_draws=DRAWS,
      lanczos_steps=STEPS,
      seed=seed,
      check=False,
      workdir=context.work / "deflation" / f"seed_{seed:02d}",
      progress=context.progress,
    )
    found = deflation.deflate(run.quadratures, run.residual_bounds(), small.n)
    known.append(found.eigenvalues.size)
    projected = deflation.projected_quadratures(
      small.operator.matvec, pairs.vectors, pairs.values, steps=STEPS, draws=left, seed=seed
    )
    rules = {"plain": run.quadratures, "deflated": found.quadratures, "projected": projected}
    for name, quadratures in rules.items():
      _add(rows[name], quadratures, grid, exact)
  exact_mass = outliers / small.n
  numbers = {
    "outliers": outliers,
    "isolated_eigenvalues": known,
    "products": DRAWS * STEPS,
    "eigenpair_products": pairs.num_products,
    "draws_after_projection": left,
    "mass_exact": exact_mass,
  }
  for name, row in rows.items():
    numbers[name] = _summary(row, exact_mass)
  plain, new = numbers["plain"], numbers["deflated"]
  gain = np.array(rows["plain"]["l1"]) - np.array(rows["deflated"]["l1"])
  mean_gain, gain_error = quadrature.mean_and_stderr(gain)
  numbers |= {"gain": float(mean_gain), "gain_stderr": float(gain_error)}
  _draw(rows, context.out)
  better = mean_gain > 2 * gain_error and new["mass_error"] < 1e-3 * plain["mass_error"]
  theory = np.sqrt(2 * outliers / DRAWS) / small.n
  return Study(
    figure="deflation",
    title="Deflated estimate",
    section="",
    claim="isolated eigenvalues with the weight 1/n make the estimate better at the same cost.",
    found=prose(f"""over {SEEDS} seeds, {DRAWS} draws x {STEPS} steps: root mean square error of the
      mass of the {outliers} outliers {number(plain["mass_error"], 2)} plain (theory
      {number(theory, 2)}), {number(new["mass_error"], 2)} deflated; L1 distance above {THRESHOLD}
      {with_error(*plain["l1_outliers"])} plain, {with_error(*new["l1_outliers"])} deflated; of the
      whole density {with_error(*plain["l1"])} and {with_error(*new["l1"])} (paired difference
      {with_error(float(mean_gain), float(gain_error))})."""),
    verdict=Verdict.AGREES if better else Verdict.DIFFERS,
    reason=prose(f"""The deflated estimate needs no product more than the plain one: what a draw
      sees beside the known eigenvectors is a draw of the matrix projected away from them
      (`numerics.deflation`), so known eigenvalues only get their weight. {min(known)} to
      {max(known)} eigenvalues are known in all ten draws, of both ends. Draws that are taken in the
      complement ("projected") cost the search for eigenpairs, {pairs.num_products} products here,
      and so have {left} draws. They have fewer known eigenvalues, the outliers only, and no smaller
      L1 distance than plain draws. What is left of it is the bulk's."""),
    numbers=numbers,
    pictures={"figure_deflation.png": "Errors over the seeds"},
    tables=(
      Table(
        (
          f"{SEEDS} seeds",
          "draws",
          "L1",
          f"L1 above {THRESHOLD}",
          "error of the outliers' mass, root mean square",
        ),
        tuple(
          (
            name,
            str(left if name == "projected" else DRAWS),
            with_error(*numbers[name]["l1"]),
            with_error(*numbers[name]["l1_outliers"]),
            number(numbers[name]["mass_error"], 2),
          )
          for name in METHODS
        ),
        f"Mean ± standard error. Each row costs {DRAWS * STEPS} products or less.",
      ),
    ),
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
    axes.set_ylim(bottom=0)
  plotting.save_figure(figure, folder / "figure_deflation.png")
