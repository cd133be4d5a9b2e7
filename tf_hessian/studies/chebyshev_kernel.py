"""Figure 18: polynomials that approximate the kernel (section D of the paper)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tf_hessian import plotting
from tf_hessian.numerics import chebyshev, density
from tf_hessian.studies import drawing
from tf_hessian.studies.chapter import Chapter, Table, Verdict, number, prose
from tf_hessian.studies.context import Context

SIGMA_SQUARED = 1e-5  # paper
DEGREES = (90, 200, 500, 1000, 2000, 4000)  # the paper shows up to 500
PAPER_HALF_WIDTH = 5.1  # of -0.2 to 10, the range of the paper's network
_KINDS = {"l1": "L1", "largest": "largest / height"}


def measure(context: Context) -> dict:
  """Measures the errors of the kernel's Chebyshev approximations, in two ranges."""
  small = context.small_model
  _, half = chebyshev.interval(small.eigenvalues[0], small.eigenvalues[-1])
  numbers: dict[str, Any] = {"half_width": half}
  for end, width in (("", half), ("_paper_range", PAPER_HALF_WIDTH)):
    errors = {d: kernel_error(d, width) for d in DEGREES}
    for i, kind in enumerate(_KINDS):
      numbers[f"{kind}_by_degree{end}"] = {d: e[i] for d, e in errors.items()}
  numbers["curves"] = _draw(half, context.out)
  return numbers


def kernel_error(degree: int, half_width: float, /) -> tuple[float, float]:
  """Returns the L1 and the largest relative error of the kernel's expansion."""
  coefficients = chebyshev.kernel_coefficients(0.0, SIGMA_SQUARED, degree, half_width=half_width)
  sigma = np.sqrt(SIGMA_SQUARED)
  x = np.linspace(-half_width, half_width, 24 * int(half_width / sigma) + 1)
  exact = np.exp(-(x**2) / (2 * SIGMA_SQUARED)) / np.sqrt(2 * np.pi * SIGMA_SQUARED)
  found = np.polynomial.chebyshev.chebval(x / half_width, coefficients)
  return (
    float(density.l1_distance(x, found, exact)),
    float(np.abs(found - exact).max() / exact.max()),
  )


def _draw(half, folder):
  sigma = np.sqrt(SIGMA_SQUARED)
  x = np.linspace(-15 * sigma, 15 * sigma, 2001)
  figure, axes = plotting.new_figure()
  axes.plot(
    x, np.exp(-((x / sigma) ** 2) / 2) / np.sqrt(2 * np.pi) / sigma, "k", lw=1.6, label="kernel"
  )
  for degree in DEGREES[:5]:
    coefficients = chebyshev.kernel_coefficients(0.0, SIGMA_SQUARED, degree, half_width=half)
    values = np.polynomial.chebyshev.chebval(x / half, coefficients)
    axes.plot(x, values, lw=1.0, label=f"degree {degree:,}")
  axes.set(xlabel="distance to the kernel's mean", ylabel="value")
  axes.legend(frameon=False, fontsize="small", loc="upper left")
  axes.set_title(f"$\\sigma^2$ = 1e-5, interval of width {2 * half:.3g}", fontsize="medium")
  return drawing.save(figure, folder / "figure_18.png")


def describe(numbers: dict) -> Chapter:
  """Describes the errors by degree, in our range and in the paper's."""
  l1 = _by_degree(numbers["l1_by_degree"])
  paper = _by_degree(numbers["l1_by_degree_paper_range"])
  widths = {"": numbers["half_width"], "_paper_range": PAPER_HALF_WIDTH}
  rows = [
    (
      f"{name}, range {number(2 * width)}",
      *(number(x, 2) for x in numbers[f"{kind}_by_degree{end}"].values()),
    )
    for end, width in widths.items()
    for kind, name in _KINDS.items()
  ]
  return Chapter(
    title="Chebyshev approximation of the kernel",
    section="D, Figure 18",
    claim="with sigma² = 1e-5 even degree 500 differs significantly from the kernel.",
    found=prose(f"""in the middle of our network's range of {number(2 * widths[""])} the L1 distance
      is {number(l1[500], 2)} at degree 500, {number(l1[1000], 2)} at 1,000 and
      {number(l1[4000], 2)} at 4,000; in a range of {2 * PAPER_HALF_WIDTH:.3g}, the paper's,
      {number(paper[500], 2)} at 500."""),
    verdict=Verdict.AGREES if l1[500] > 0.1 else Verdict.DIFFERS,
    reason=prose("""The text does not say on which interval, and it decides: what counts is the
      degree times sigma over the half width. Near the ends of the interval polynomials resolve more
      than in the middle."""),
    pictures={"figure_18.png": "The kernel and its Chebyshev approximations, in our range"},
    tables=(Table(("degree", *(f"{d:,}" for d in l1)), tuple(rows)),),
  )


def _by_degree(table):
  """Returns a table whose keys are degrees, and no text."""
  return {int(degree): x for degree, x in table.items()}
