"""Figure 17: Chebyshev polynomials in the place of Gauss quadrature."""

from __future__ import annotations

from typing import Any

import numpy as np

from tf_hessian import plotting
from tf_hessian.numerics import chebyshev, density, probes
from tf_hessian.studies import drawing
from tf_hessian.studies.chapter import (
  Chapter,
  Table,
  claims,
  judged,
  number,
  prose,
  together,
)
from tf_hessian.studies.comparison import leading_rules, smooth_all
from tf_hessian.studies.context import Context

SIGMA_SQUARED = 1e-5  # paper
DEGREE = 90  # paper
MAX_DEGREE = 20_000
FAILS = 10  # times the error: what "fails" says at least
ORDERS = 100  # times the products: what "orders of magnitude" says at least
LIMITS = (-0.2, 0.4)  # of the picture, as in Figure 1


def measure(context: Context) -> dict:
  """Compares densities from Chebyshev moments and from Lanczos, at equal cost."""
  small = context.small_model
  center, half = chebyshev.interval(small.eigenvalues[0], small.eigenvalues[-1])
  where = {"center": center, "half_width": half}
  step = np.sqrt(SIGMA_SQUARED) / 12  # as `density_grid`, but polynomials are nowhere zero
  grid = np.arange(center - half, center + half + step, step)
  exact = density.smooth(small.eigenvalues, small.weights, grid, SIGMA_SQUARED)
  lanczos = smooth_all(leading_rules(small, DEGREE), grid, SIGMA_SQUARED)  # of each draw
  moments = {
    "exact": chebyshev.moments(small.eigenvalues, small.weights, DEGREE, **where),
    "doubled": _estimated_moments(small, where),
  }
  moments["estimated"] = moments["doubled"][: DEGREE + 1]
  curves = {}
  for name in ("exact", "estimated", "doubled"):
    for end, jackson in (("", False), ("_jackson", True)):
      curve = chebyshev.density(moments[name], grid, SIGMA_SQUARED, jackson=jackson, **where)
      curves[f"{name}_moments{end}"] = curve
  curves["lanczos"] = lanczos.mean(axis=0)
  numbers: dict[str, Any] = {
    **{f"l1_{k}": float(density.l1_distance(grid, f, exact)) for k, f in curves.items()},
    "most_negative": float(curves["exact_moments"].min()),
    "interval": [center - half, center + half],
    "products": DEGREE * small.spectrum.num_draws,
  }
  numbers |= _degrees_needed(small, grid, lanczos, numbers["l1_lanczos"], where)
  numbers["curves"] = _draw(grid, exact, curves, context.out)
  return numbers


def _estimated_moments(small, where):
  """Estimates moments up to 2 x DEGREE, the mean over draws."""
  draws = [
    chebyshev.estimated_moments(
      small.operator.matvec, probes.probe(small.spectrum.seed, i, small.n), DEGREE, **where
    )
    for i in range(small.spectrum.num_draws)
  ]
  return np.mean(draws, axis=0)


def _degrees_needed(small, grid, lanczos, mean_error, where):
  """Finds the degrees at which exact moments are as good as Lanczos."""
  nodes, weights = small.draws[0]
  of_draw = density.smooth(nodes, weights, grid, SIGMA_SQUARED)
  target = float(density.l1_distance(grid, lanczos[0], of_draw))
  exact = density.smooth(small.eigenvalues, small.weights, grid, SIGMA_SQUARED)
  draw_moments = chebyshev.moments(nodes, weights, MAX_DEGREE, **where)
  moments = chebyshev.moments(small.eigenvalues, small.weights, MAX_DEGREE, **where)
  return {
    "l1_of_a_draw_lanczos": target,
    "degree_for_the_draw": smallest_degree(draw_moments, grid, of_draw, target, where),
    "degree_for_the_mean": smallest_degree(moments, grid, exact, mean_error, where),
  }


def smallest_degree(
  moments: np.ndarray,
  grid: np.ndarray,
  exact: np.ndarray,
  target: float,
  where: dict[str, float],
  /,
) -> int | None:
  """Returns the degree at which the L1 distance reaches the target.

  By bisection: it is the smallest where the distance falls with the degree, as it does but for
  ripples. None if not even all moments reach the target.
  """

  def reaches(degree):
    found = chebyshev.density(moments[: degree + 1], grid, SIGMA_SQUARED, **where)
    return density.l1_distance(grid, found, exact) <= target

  low, high = -1, len(moments) - 1
  if not reaches(high):
    return None
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (low, middle) if reaches(middle) else (middle, high)
  return high


def _draw(grid, exact, curves, folder):
  polynomial = curves["exact_moments"]
  styles = {
    "lanczos": {"color": "C0", "ls": "--", "label": f"Lanczos, m = {DEGREE}"},
    "exact_moments": {"color": "C1", "label": f"Chebyshev, degree {DEGREE}"},
    "exact_moments_jackson": {"color": "C2", "ls": ":", "label": "with Jackson's damping"},
  }
  figure, panels = plotting.new_figure(10.0, 4.2, ncols=2)
  for axes, log in zip(panels, (False, True), strict=True):
    axes.plot(grid, exact, color="k", lw=1.4, label="exact")
    for name, style in styles.items():
      axes.plot(grid, curves[name], lw=1.0, **style)
    axes.set(xlim=LIMITS, xlabel="eigenvalue", ylabel="density")
    if log:
      axes.set_ylim(1e-6, 3 * exact.max())
      drawing.plain_log(axes, "y")
    else:
      axes.set_ylim(1.2 * polynomial.min(), 1.3 * polynomial.max())
    axes.legend(frameon=False, fontsize="small")
  return drawing.save(figure, folder / "figure_17.png")


def describe(numbers: dict) -> Chapter:
  """Describes the errors of both methods, and the degree that polynomials need."""
  draws = numbers["products"] // DEGREE
  ratio = numbers["l1_exact_moments"] / numbers["l1_lanczos"]
  needed, same = (_degree(numbers[f"degree_for_the_{which}"]) for which in ("draw", "mean"))
  fails, more = ratio > FAILS, needed >= ORDERS * DEGREE
  rows = [
    (
      "at equal cost it fails",
      f"{number(ratio)} times the L1 of Lanczos",
      judged(fails, not fails),
    ),
    (
      "it needs orders of magnitude more products",
      f"{needed / DEGREE:.0f} times the products",
      judged(more, not more),
    ),
  ]
  return Chapter(
    title="Chebyshev polynomials at equal cost",
    section="D, Figure 17",
    claim=prose("""with the same number of products, degree 90, the Chebyshev method fails where
      Gauss quadrature succeeds, even with exact moments; it is expected to need orders of magnitude
      more products."""),
    found=prose(f"""L1 = {number(numbers["l1_exact_moments"], 2)} with exact moments of degree
      {DEGREE}, {number(numbers["l1_lanczos"], 2)} by Lanczos with m = {DEGREE} and {draws}
      draws. The error of Lanczos on the first draw, {number(numbers["l1_of_a_draw_lanczos"], 2)},
      needs degree {needed:,}; as good as ten draws of Lanczos are to the exact density is degree
      {same:,} with exact moments."""),
    verdict=together(v for *_, v in rows),
    reason=prose(f"""The interval is the exact one and 1 % more; a user would have to estimate it
      first. Two moments can be had of each product (T_i T_j = (T_i+j + T_|i-j|) / 2), which the
      paper does not count: degree {2 * DEGREE} from the same products gives
      {number(numbers["l1_doubled_moments"], 2)}. Jackson's damping removes the negative values,
      down to {number(numbers["most_negative"], 2)}, and widens the kernel:
      {number(numbers["l1_exact_moments_jackson"], 2)}. An L1 distance of {FAILS} times that of ten
      draws of Lanczos counts as failing. With two moments a product, what it needs is
      {needed / DEGREE / 2:.0f} times the products. "Orders of magnitude" is taken as
      {ORDERS} times at least."""),
    pictures={
      "figure_17.png": "Density of the bulk from exact Chebyshev moments of degree 90, linear and "
      "logarithmic"
    },
    tables=(
      claims(rows),
      _table(numbers, draws),
    ),
  )


def _degree(degree):
  """Returns a degree; where it is not known, the largest tried."""
  return degree if degree is not None and degree == degree else MAX_DEGREE


def _table(numbers, draws):
  methods = {
    f"Lanczos, m = {DEGREE}, {draws} draws": "lanczos",
    f"Chebyshev, degree {DEGREE}, exact moments": "exact_moments",
    f"Chebyshev, degree {DEGREE}, {draws} draws": "estimated_moments",
    f"Chebyshev, degree {2 * DEGREE} by doubling, {draws} draws": "doubled_moments",
  }
  rows = []
  for text, name in methods.items():
    products = "-" if name == "exact_moments" else str(DEGREE)
    rows.append((text, products, number(numbers[f"l1_{name}"])))
    if name != "lanczos":
      rows.append(("the same, Jackson", products, number(numbers[f"l1_{name}_jackson"])))
  return Table(("method", "products a draw", "L1 distance to the exact density"), tuple(rows))
