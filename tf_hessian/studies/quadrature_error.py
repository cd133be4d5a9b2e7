"""Section B of the paper: how far the quadrature is from the exact density (Figures 1, 15, 16)."""

import numpy as np

from tf_hessian import plotting
from tf_hessian.numerics import density, quadrature
from tf_hessian.studies.result import Study, Table, Verdict, number, prose

SIGMA_SQUARED = 1e-5  # paper
STEPS = 90  # paper
PAPER_L1 = 0.0012  # section B, for its network
ALL_STEPS = tuple(range(10, 121, 10))
KERNEL_VARIANCES = tuple(float(f"{10**e:.3g}") for e in np.arange(-7, -1.9, 0.5))
BULK = (-0.2, 0.4)  # paper


def figure_1(context):
  """Compares the estimated and the exact density of the bulk."""
  small = context.small_model
  draw_densities(small, context.out, figures=("1",))
  numbers = _mean_error(small)
  inside = float(np.mean((small.eigenvalues >= BULK[0]) & (small.eigenvalues <= BULK[1])))
  numbers |= {
    "n": small.n,
    "smallest": float(small.eigenvalues[0]),
    "largest": float(small.eigenvalues[-1]),
    "share_of_the_bulk": inside,
  }
  draws = small.spectrum.num_draws
  ratio = numbers["l1_mean"] / PAPER_L1
  return Study(
    figure="1",
    title="Estimated and exact density of the small model",
    section="B, Figure 1",
    claim=f"k = 10, m = 90, sigma² = 1e-5 give an L1 distance of about {PAPER_L1}.",
    found=prose(f"""L1 = {number(numbers["l1_mean"], 2)} with k = {draws} on our network, where
      Monte-Carlo theory expects {number(numbers["l1_mean_predicted"], 2)}; {100 * inside:.2f} % of
      the eigenvalues lie in the paper's bulk of {BULK[0]} to {BULK[1]}."""),
    verdict=Verdict.AGREES if 0.5 <= ratio <= 2 else Verdict.DIFFERS,
    reason=prose(f"""The distance is a random variable, hardly any of it is the quadrature's (Figure
      15), and its expectation depends on the network: the exact variance of v'f(H)v puts it at
      {number(numbers["l1_mean_predicted"], 2)} for ours and ten draws. The paper does not describe
      the training of its network. Its {PAPER_L1} may be another network, a wider kernel (the
      original code multiplies sigma² by the range of the nodes), or luck; the text does not say
      enough to tell. Ours is trained by SGD without momentum (configs/mnist_mlp.py)."""),
    numbers=numbers,
    pictures={"figure_1.png": "Estimated and exact density of the bulk"},
    tables=(
      Table(
        ("", "paper", "here"),
        (
          ("parameters", "15,910", f"{small.n:,}"),
          (
            "bulk",
            "about -0.2 to 0.4",
            f"{number(numbers['smallest'])} to 0.4, with {100 * inside:.2f} % of the eigenvalues",
          ),
          ("outliers", "0.4 to 10", f"0.4 to {number(numbers['largest'])}"),
          ("L1 distance", str(PAPER_L1), number(numbers["l1_mean"], 2)),
        ),
      ),
    ),
  )


def figure_15(context):
  """Measures the quadrature's error over the number of steps and the kernel's variance."""
  small = context.small_model
  numbers = _errors_of_draws(small)
  draw_errors(numbers, context.out / "figure_15.png")
  median = {m: float(np.median(d)) for m, d in numbers["l1_draws_by_steps"].items()}
  relative = {m: float(np.median(d)) for m, d in numbers["l1_draws_by_steps_relative"].items()}
  wide = {v: float(np.median(d)) for v, d in numbers["l1_draws_by_sigma_squared"].items()}
  reached = next((m for m, x in median.items() if x <= 1e-13), None)
  numbers["degree_of_1e-13"] = reached
  numbers["degree_of_1e-13_relative"] = next((m for m, x in relative.items() if x <= 1e-13), None)
  agrees = median[80] <= 1e-13 or relative[80] <= 1e-13
  return Study(
    figure="15",
    title="Accuracy of the quadrature",
    section="B, Figure 15",
    claim="80 nodes reach 1e-14; the error falls as sigma² grows.",
    found=prose(f"""the median distance of a draw's density to its exact one is
      {number(median[80], 2)} at m = 80, {number(median[90], 2)} at 90 and {number(median[100], 2)}
      at 100 with sigma² = 1e-5; {number(relative[80], 2)} at 80 with the original code's relative
      sigma² ({number(numbers["relative_sigma_squared"], 2)} here); at m = 90 it falls from
      {number(wide[KERNEL_VARIANCES[0]], 2)} at sigma² = {number(KERNEL_VARIANCES[0], 2)} to
      {number(min(wide.values()), 2)}."""),
    verdict=Verdict.AGREES if agrees else Verdict.DIFFERS,
    reason=prose(f"""The error at a given m depends on the range of the spectrum over sigma. The
      original code multiplies sigma² by max(1, range of the nodes), which for the paper's range of
      about 10 would be 1e-4 and explain its 1e-14 at 80. Both curves are in the left panel for our
      range. Without it 1e-13 is reached at m = {reached} here."""),
    numbers=numbers,
    pictures={"figure_15.png": "Distance of a draw's density to its exact one"},
    tables=(
      Table(
        ("m", "sigma² = 1e-5: median", "largest", "relative sigma²: median", "largest"),
        tuple(
          (
            str(m),
            number(median[m], 2),
            number(max(numbers["l1_draws_by_steps"][m]), 2),
            number(relative[m], 2),
            number(max(numbers["l1_draws_by_steps_relative"][m]), 2),
          )
          for m in median
        ),
        prose(f"""L1 distance of a draw's density to the exact density of that draw,
          {small.spectrum.num_draws} draws"""),
      ),
      Table(
        ("sigma²", *(number(v, 2) for v in wide)),
        (("median at m = 90", *(number(x, 2) for x in wide.values())),),
      ),
    ),
  )


def figure_16(context):
  """Compares the estimated and the exact density of the outliers."""
  small = context.small_model
  draw_densities(small, context.out, figures=("16",))
  values = small.eigenvalues[small.eigenvalues > BULK[1]][::-1]
  if not values.size:
    raise ValueError(f"Figure 16: this network has no eigenvalue above {BULK[1]}")
  found = np.array([q.nodes for q in leading_rules(small, STEPS)])[:, ::-1][:, : values.size]
  error = float(np.abs(found - values).max() / values[0])
  shares = np.array([q.weights[q.nodes > BULK[1]].sum() for q in leading_rules(small, STEPS)])
  mean, stderr = quadrature.mean_and_stderr(shares)
  numbers = {
    "outliers": values.tolist(),
    "largest_relative_error": error,
    "mass_exact": values.size / small.n,
    "mass_estimated": float(mean),
    "mass_stderr": float(stderr),
  }
  return Study(
    figure="16",
    title="Outliers of the small model",
    section="B, Figure 16",
    claim="the estimate detects the outlier eigenvalues above 0.4.",
    found=prose(f"""all {values.size} eigenvalues above 0.4 are Ritz values of each of the
      {small.spectrum.num_draws} draws, to {number(error, 2)} of the largest; their mass is
      {number(float(mean))} ± {number(float(stderr), 2)}, exactly
      {number(values.size / small.n)}."""),
    verdict=Verdict.AGREES if error < 1e-6 else Verdict.DIFFERS,
    reason="The heights of the peaks are random; the deflated estimate below has them exactly.",
    numbers=numbers,
    pictures={"figure_16.png": "Estimated and exact density of the outliers"},
  )


def measure(small, /):
  """Returns the distances between estimated and exact densities: a dict."""
  numbers = _errors_of_draws(small) | _mean_error(small)
  return numbers | {
    "l1_draw_90": max(numbers["l1_draws_by_steps"][90]),
    "l1_draw_120": max(numbers["l1_draws_by_steps"][120]),
  }


def leading_rules(small, steps, /):
  """Returns each draw's quadrature after its first `steps` steps: a leading block of its matrix."""
  estimate = small.spectrum
  pairs = zip(estimate.diagonals, estimate.off_diagonals, strict=True)
  return [quadrature.gauss_quadrature(d[:steps], e[: steps - 1]) for d, e in pairs]


def smooth_all(rules, grid, variance):
  """Returns the density of each of the (nodes, weights), (k, g) float64."""
  return np.array([density.smooth(t, w, grid, variance) for t, w in rules])


def _errors_of_draws(small):
  """L1 distance of each draw's density to the exact density of that draw, over m and sigma^2."""
  relative = density.kernel_variance([small.eigenvalues], SIGMA_SQUARED, relative=True)

  def errors(steps, variance):
    rules = [(q.nodes, q.weights) for q in leading_rules(small, steps)]
    grid = density.density_grid([small.eigenvalues, *(t for t, _ in rules)], variance)
    estimated = smooth_all(rules, grid, variance)
    return density.l1_distance(grid, estimated, smooth_all(small.draws, grid, variance)).tolist()

  return {
    "l1_draws_by_steps": {m: errors(m, SIGMA_SQUARED) for m in ALL_STEPS},
    "l1_draws_by_steps_relative": {m: errors(m, relative) for m in ALL_STEPS},
    "l1_draws_by_sigma_squared": {v: errors(STEPS, v) for v in KERNEL_VARIANCES},
    "relative_sigma_squared": relative,
  }


def _mean_error(small):
  """L1 distance of the mean over draws to the exact density, at m = 90."""
  grid = density.density_grid([small.eigenvalues, *small.spectrum.nodes], SIGMA_SQUARED)
  expected = density.smooth(small.eigenvalues, small.weights, grid, SIGMA_SQUARED)
  draws = smooth_all(
    [(q.nodes, q.weights) for q in leading_rules(small, STEPS)], grid, SIGMA_SQUARED
  )
  distance = float(density.l1_distance(grid, draws.mean(axis=0), expected))
  predicted = density.predicted_l1(small.eigenvalues, grid, SIGMA_SQUARED, len(draws))
  return {
    "l1_mean": distance,
    "l1_mean_predicted": predicted,
    "l1_mean_over_predicted": distance / predicted,
    "l1_mean_paper": PAPER_L1,
    "l1_single_draws": density.l1_distance(grid, draws, expected).tolist(),
  }


def draw_densities(small, folder, /, *, figures=("1", "16")):
  """Draws the estimated and the exact density, of the bulk (1) and of the outliers (16)."""
  rules = leading_rules(small, STEPS)
  grid = density.density_grid([small.eigenvalues], SIGMA_SQUARED)
  mean = density.density(
    [q.nodes for q in rules], [q.weights for q in rules], SIGMA_SQUARED, grid=grid
  )
  limits = {"1": BULK, "16": (BULK[1], grid[-1])}
  for name in figures:
    figure, axes = plotting.new_figure()
    plotting.draw_density(axes, mean, exact=small.eigenvalues, limits=limits[name])
    inside = (grid >= limits[name][0]) & (grid <= limits[name][1])
    axes.set_ylim(top=10 * mean.values[inside].max())
    axes.set_title(f"{len(rules)} draws of {STEPS} steps, $\\sigma^2$ = 1e-5", fontsize="medium")
    plotting.save_figure(figure, folder / f"figure_{name}.png")


def draw_errors(numbers, path, /):
  """Draws Figure 15 from the numbers of `measure`."""
  figure, (left, right) = plotting.new_figure(10.0, 4.0, ncols=2)
  curves = [
    (left, numbers["l1_draws_by_steps"], "$\\sigma^2$ = 1e-5", "C0"),
    (left, numbers["l1_draws_by_steps_relative"], "relative $\\sigma^2$", "C1"),
    (right, numbers["l1_draws_by_sigma_squared"], f"m = {STEPS}", "C0"),
  ]
  for axes, table, label, color in curves:
    middle = [np.median(d) for d in table.values()]
    axes.plot(list(table), middle, "o-", color=color, ms=4, label=f"{label}, median of the draws")
    axes.plot(list(table), [max(d) for d in table.values()], "x:", color=color, label="largest")
  for axes, label in ((left, "Lanczos steps m"), (right, "$\\sigma^2$")):
    axes.set(yscale="log", xlabel=label, ylabel="$L_1$ distance to the draw's exact density")
    axes.legend(frameon=False, fontsize="small")
  right.set_xscale("log")
  plotting.save_figure(figure, path)
