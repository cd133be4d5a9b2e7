"""Measures products with all layers, losses and operations of Keras.

  python -m benchmarks.coverage --write=docs/coverage.md

All that Keras has in public is measured in a small model of its own, and compared with differences
of gradients: `problems` makes the models, `measure` compares, `layers`, `losses` and `operations`
know the arguments. Prints a line for each that is not plainly right, and ends with exit code 1 if
a product is wrong, an error names nothing, or something of Keras can't be called for want of an
example.
"""

import pathlib
import sys
import time

from absl import app, flags, logging

from benchmarks.coverage import measure, report, run

WRITE = flags.DEFINE_string("write", None, "The page to write; with --only, its other rows stay.")
ONLY = flags.DEFINE_string("only", None, "A pattern of names, such as 'layers.Random*'.")


def main(_):
  logging.set_verbosity(logging.ERROR)
  begin = time.monotonic()
  outcomes = []
  for outcome in run.outcomes(ONLY.value):
    outcomes.append(outcome)
    if outcome.outcome != measure.RIGHT or ONLY.value:
      print(f"{outcome.name}: {outcome.outcome}. {outcome.reason}", flush=True)
  print(f"{len(outcomes)} measurements: {report.summary(outcomes)}")
  print(f"{time.monotonic() - begin:.0f} s")
  if WRITE.value:
    page = pathlib.Path(WRITE.value)
    before = report.read(page.read_text()) if ONLY.value and page.exists() else []
    table = {o.name: o for o in [*before, *outcomes]}
    page.write_text(report.page([table[n] for n in run.names() if n in table]))
  sys.exit(any(o.outcome in measure.BAD for o in outcomes))


if __name__ == "__main__":
  app.run(main)
