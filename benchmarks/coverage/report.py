"""The page docs/coverage.md: what became of each layer, loss, activation and operation."""

import collections
from collections.abc import Sequence

import keras
import tensorflow as tf

from benchmarks.coverage import catalog, measure

COMMAND = "python -m benchmarks.coverage --write=docs/coverage.md"
_TITLES = {
  "layers": "Layers",
  "losses": "Losses",
  "activations": "Activations",
  "ops": "Operations (`keras.ops`)",
}


def counts(outcomes: Sequence[measure.Outcome], /) -> list[tuple[str, int]]:
  """Counts the outcomes that occur, in the order of `measure.OUTCOMES`."""
  found = collections.Counter(o.outcome for o in outcomes)
  return [(name, found[name]) for name in measure.OUTCOMES if found[name]]


def summary(outcomes: Sequence[measure.Outcome], /) -> str:
  """Returns a line with the number of each outcome."""
  return ", ".join(f"{count} {name}" for name, count in counts(outcomes))


def read(text: str, /) -> list[measure.Outcome]:
  """Returns the list of outcomes that a page has."""
  sections = text.split("\n## ")[1:]
  return [
    measure.Outcome(f"{kind}.{cells[0]}", *cells[1:])
    for kind, section in zip(catalog.KINDS, sections, strict=True)
    for line in section.splitlines()
    if len(cells := [c.strip() for c in line.strip("|").split("|")]) == 3
    and cells[1] in measure.OUTCOMES
  ]


def page(outcomes: Sequence[measure.Outcome], /) -> str:
  """Returns the page, of the outcomes of all items."""
  lines = [
    "# Coverage",
    "",
    f"Written by `{COMMAND}`,",
    f"with TensorFlow {tf.__version__} and Keras {keras.__version__} on CPU.",
    "Each public layer, loss, activation and operation of Keras stands between layers with",
    "parameters in a small model. Products with its Hessian are compared with central",
    "differences of float64 gradients (to 1e-7; to 1e-2 where something computes in float32),",
    "and gradients with differences of losses.",
    "",
    f"{len(outcomes)} measurements: {summary(outcomes)}.",
    "",
    "- *right by the other mode*: the operator chose `backward_over_backward` by itself.",
    "- *refused*: with an error that names the layer, the operation or the loss.",
    "- *no float way*: no derivative of a floating-point output by a floating-point input or",
    "  variable exists, by TensorFlow's first gradient.",
    "- *fails in Keras*: Keras itself can't run it on TensorFlow in a graph, as `fit` does.",
  ]
  for kind in catalog.KINDS:
    lines += ["", f"## {_TITLES[kind]}"]
    of_kind = [o for o in outcomes if o.name.startswith(f"{kind}.")]
    lines += ["", summary(of_kind) + ".", "", "| name | outcome | reason |", "|---|---|---|"]
    for o in of_kind:
      name = o.name.removeprefix(f"{kind}.")
      lines.append(f"| {name} | {o.outcome} | {o.reason} |")
  return "\n".join(lines) + "\n"
