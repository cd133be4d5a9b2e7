"""The figures of compared products: printed, bounded, and in docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

from benchmarks.peers import report
from benchmarks.peers.worker import OURS

_TITLES = {"hessian": "Hessian", "gauss_newton": "generalized Gauss-Newton matrix"}
_WAYS = ("single", "shared")
_NONE = "-"


@dataclasses.dataclass
class ProductFigures:
  """Measurements of one contender.

  Attributes:
    versions: dict: package -> version.
    difference: greatest relative difference of its products from ours, in float64.
    shares_passes: whether several products can share a pass.
    seconds: dict: "single", "shared" -> list of seconds of one product, one a round; "shared" is
      empty for those that can't.
  """

  versions: dict[str, str]
  difference: float = np.nan
  shares_passes: bool = False
  seconds: dict[str, list[float]] = dataclasses.field(
    default_factory=lambda: {way: [] for way in _WAYS}
  )


class ProductsOutcome(dict):
  """Contender -> `ProductFigures` of one problem.

  Attributes:
    network: of the problem.
    title: of the problem.
    matrix: whose products they are.
    repeats: products in one measurement.
  """

  def __init__(self, network: str, title: str, matrix: str, repeats: int):
    super().__init__()
    self.network, self.title, self.matrix, self.repeats = network, title, matrix, repeats

  def ratios(self, name: str, way: str) -> np.ndarray:
    """Returns a contender's times over ours, one a round; empty if it doesn't have that way."""
    theirs = self[name].seconds[way]
    return np.divide(theirs, self[OURS].seconds[way][: len(theirs)])


def print_figures(outcome: ProductsOutcome) -> None:
  """Prints a line for each contender."""
  print(f"{outcome.network}: products with the {_TITLES[outcome.matrix]}", flush=True)
  for name, figures in outcome.items():
    words = [
      f"{what} {seconds} s, time / ours {ratio}; "
      for what, (seconds, ratio) in zip(
        ("a product", "one of ten"), _costs(outcome, name), strict=True
      )
      if seconds != _NONE
    ]
    print(
      f"  {name:35} {''.join(words)}greatest difference {figures.difference:.1e} "
      f"(bound: {report.LARGEST_DIFFERENCE:g})",
      flush=True,
    )


def failures(outcome: ProductsOutcome) -> list[str]:
  """Returns a line for each contender whose products are not ours."""
  return [
    f"{outcome.network}: {name}: its {outcome.matrix} products differ by "
    f"{figures.difference:.2g} (bound: {report.LARGEST_DIFFERENCE:g})"
    for name, figures in outcome.items()
    if not figures.difference <= report.LARGEST_DIFFERENCE
  ]


def markdown(about: report.About, outcomes: Sequence[ProductsOutcome]) -> str:
  """Returns the section, with the machine and each problem's table."""
  parts = [report.preamble(about, outcomes)]
  for outcome in outcomes:
    images = f"; {about.images}" if outcome.network == "resnet32" else ""
    parts += [f"#### {outcome.title}{images}", _figures(outcome)]
  return "\n\n".join(parts)


def _figures(outcome):
  rows = [
    [name, *_costs(outcome, name)[0], *_costs(outcome, name)[1], f"{figures.difference:.1e}"]
    for name, figures in outcome.items()
  ]
  head = ["", "product, s", "time / ours", "one of ten, s", "time / ours", "greatest difference"]
  return report.table(head, rows)


def _costs(outcome, name):
  """Returns, for each way, (median seconds, median ratio to ours with its range) as words."""
  costs = []
  for way in _WAYS:
    seconds, ratios = outcome[name].seconds[way], outcome.ratios(name, way)
    if not seconds:
      costs.append((_NONE, _NONE))
      continue
    spread = "" if name == OURS else f" ({ratios.min():.2f} to {ratios.max():.2f})"
    costs.append((f"{np.median(seconds):.3g}", f"{np.median(ratios):.2f}{spread}"))
  return costs
