"""Figure 16: the outliers of the small model, estimated and exact."""

from __future__ import annotations

import numpy as np

from tf_hessian.numerics import quadrature
from tf_hessian.studies.chapter import Chapter, Verdict, number, prose
from tf_hessian.studies.comparison import BULK, STEPS, draw_densities, leading_rules
from tf_hessian.studies.context import Context


def measure(context: Context) -> dict:
  """Compares Ritz values above the bulk with eigenvalues, and their mass.

  Raises:
    ValueError: if the network has no eigenvalue above the bulk.
  """
  small = context.small_model
  curves = draw_densities(small, context.out, figures=("16",))
  values = small.eigenvalues[small.eigenvalues > BULK[1]][::-1]
  if not values.size:
    raise ValueError(f"Figure 16: this network has no eigenvalue above {BULK[1]}")
  rules = leading_rules(small, STEPS)
  found = np.array([q.nodes for q in rules])[:, ::-1][:, : values.size]
  mean, stderr = quadrature.mean_and_stderr([q.weights[q.nodes > BULK[1]].sum() for q in rules])
  return {
    "curves": curves,
    "outliers": values.tolist(),
    "largest_relative_error": float(np.abs(found - values).max() / values[0]),
    "mass_exact": values.size / small.n,
    "mass_estimated": float(mean),
    "mass_stderr": float(stderr),
    "draws": small.spectrum.num_draws,
  }


def describe(numbers: dict) -> Chapter:
  """Describes whether every draw has found the outliers, and their mass."""
  error = numbers["largest_relative_error"]
  return Chapter(
    title="Outliers of the small model",
    section="B, Figure 16",
    claim="the estimate detects the outlier eigenvalues above 0.4.",
    found=prose(f"""the {len(numbers["outliers"])} eigenvalues above 0.4 and the largest Ritz values
      of each of the {numbers["draws"]} draws differ by at most {number(error, 2)} of the largest;
      their mass is {number(numbers["mass_estimated"])} ± {number(numbers["mass_stderr"], 2)} (a
      standard error), exactly {number(numbers["mass_exact"])}."""),
    verdict=Verdict.AGREES if error < 1e-6 else Verdict.DIFFERS,
    reason=prose("""The heights of the peaks are random. Deflation removes that: see the deflated
      estimate below, of the network that is trained to its end."""),
    pictures={"figure_16.png": "Estimated and exact density of the outliers"},
  )
