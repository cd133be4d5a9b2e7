"""The one list of studies, and a study in words.

A study is a module with two functions:

  measure(context: Context) -> dict     computes numbers, and leaves pictures in `context.out`
  describe(numbers: dict) -> Chapter    puts them into words: no measurement, no file

Numbers come to `describe` through JSON: keys are text, and what is not known is NaN.
"""

from __future__ import annotations

import importlib
import math
import types

from tf_hessian.studies import result as result_lib
from tf_hessian.studies.chapter import Chapter, Verdict

# Name, as --figure and files have it -> module of this folder; in the order of the page.
STUDIES = {
  "14": "concentration",
  "1": "bulk",
  "15": "quadrature_error",
  "16": "outliers",
  "17": "chebyshev_density",
  "18": "chebyshev_kernel",
  "theorem": "gradient_noise",
  "stationary": "stationary",
  "stationary_resnet": "stationary_resnet",
  "gradient": "gradient_energy",
  "networks": "networks",
  "swap": "swap",
  "resnet32": "resnet32",
  "batch_norm": "batch_norm",
  "19": "population_statistics",
  "accuracy": "accuracy",
  "first_runs": "first_runs",
  "deflation": "deflated",
  "traces": "traces",
}
# Those that need CIFAR-10, the last ImageNet too, and take hours: made after all others.
NEED_CIFAR = (
  "stationary_resnet",
  "19",
  "swap",
  "batch_norm",
  "accuracy",
  "resnet32",
  "first_runs",
)
ALL = "all"


def making_order() -> list[str]:
  """Returns the names of all studies, the cheap ones first."""
  costly = [name for name in NEED_CIFAR if name in STUDIES]
  return [name for name in STUDIES if name not in costly] + costly


def module(name: str, /) -> types.ModuleType:
  """Returns the module of a study, with `measure` and `describe`."""
  return importlib.import_module(f"tf_hessian.studies.{STUDIES[name]}")


def describe(result: result_lib.Result, /) -> Chapter:
  """Describes a result in words, or by its name where unknown.

  Raises:
    ValueError: if its numbers are not those that the study describes.
  """
  name = f"figure_{result.figure}.json"
  if result.figure not in STUDIES:
    return Chapter(
      title=f"Figure {result.figure}",
      section="",
      claim="not known: this version of tf_hessian has no study of this name.",
      found=f"its numbers are in {name}.",
      verdict=Verdict.OPEN,
      reason="The version that has made it can describe it.",
    )
  try:
    return module(result.figure).describe(_with_nan(result.numbers))
  except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as e:
    raise ValueError(
      f"{name}: its numbers are not those that this version describes "
      f"({type(e).__name__}: {e}); make the figure again"
    ) from e


def _with_nan(value):
  """Returns plain values with NaN for None, as which JSON has it."""
  if isinstance(value, dict):
    return {k: _with_nan(v) for k, v in value.items()}
  if isinstance(value, list):
    return [_with_nan(v) for v in value]
  return math.nan if value is None else value
