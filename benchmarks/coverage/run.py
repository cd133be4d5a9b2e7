"""All items of Keras, each with its outcomes."""

from collections.abc import Iterator
import fnmatch
import gc

from benchmarks.coverage import catalog, layers, losses, measure, operations
from benchmarks.coverage.problems import Problem

_COLLECT = 20  # items, between which models and graphs are thrown away: half a second each time
_PROBLEMS = {
  "layers": layers.problems_of,
  "losses": losses.problems_of,
  "activations": operations.problems_of,
  "ops": operations.problems_of,
}


def problems_of(item: catalog.Item, /) -> list[Problem] | measure.Outcome:
  """Returns an item's problems, or an `Outcome` without a measurement."""
  why = catalog.takes_no_tensors(item)
  if why:
    return measure.Outcome(item.name, measure.NO_WAY, why)
  return _PROBLEMS[item.kind](item)


def names() -> list[str]:
  """Lists the names of all outcomes in the order of the page."""
  result = []
  for item in catalog.public_items():
    found = problems_of(item)
    result += [x.name for x in ([found] if isinstance(found, measure.Outcome) else found)]
  return result


def outcomes(only: str | None = None, /) -> Iterator[measure.Outcome]:
  """Yields the outcomes of items or problems whose names match."""
  for i, item in enumerate(catalog.public_items()):
    if i % _COLLECT == 0:
      gc.collect()
    found = problems_of(item)
    if isinstance(found, measure.Outcome):
      if _matches(found.name, only):
        yield found
      continue
    for problem in found:
      if _matches(item.name, only) or _matches(problem.name, only):
        yield measure.measure(problem)


def _matches(name, only):
  return only is None or fnmatch.fnmatchcase(name, only)
