"""Compares the cost of two versions: python -m benchmarks.versions --baseline=335cb3a

Checks a commit out beside this one (335cb3a is version 0.1.0) and lets both, in turns and in
processes of their own, make an operator and products. Prints seconds of a product, of CPU for the
imports and from there to the first product, and peak memory, and the ratios; exits with 1 if one is
above the bound. Of seconds the least of all processes counts, since other work on the machine only
adds to them, and of memory the median. Imports are the same for both networks.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import statistics
import sys
import time

_SCRIPT = pathlib.Path(__file__).resolve()
MODELS = ("dense", "resnet")
_SECONDS = 1.0  # that products are repeated for


def child(name: str) -> dict[str, float]:
  """Measures a model by the version that can be imported here.

  Args:
    name: "dense", a 784-20-10 network with four batches of 250, or "resnet", a ResNet-14 with a
      batch of 64.
  """
  import keras
  import numpy as np
  import tensorflow as tf

  import tf_hessian
  from tf_hessian.models.cifar_resnet import cifar_resnet
  from tf_hessian.models.mlp import mlp

  make = tf_hessian.HessianOperator  # which is imported when it is asked for
  imports = time.process_time()
  tf.constant(0.0)  # devices are there
  keras.utils.set_random_seed(0)
  shape, batches, size = ((784,), 4, 250) if name == "dense" else ((32, 32, 3), 1, 64)
  rng = np.random.default_rng(0)
  data = [
    (rng.standard_normal((size, *shape), np.float32), rng.integers(0, 10, size))
    for _ in range(batches)
  ]
  model = (
    mlp(input_shape=shape, hidden_units=(20,), num_classes=10)
    if name == "dense"
    else cifar_resnet(depth=14)
  )
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  begin = time.process_time()
  operator = make(model, loss, data)
  v = np.ones(operator.shape[0])
  operator @ v
  start, seconds, end = time.process_time() - begin, [], time.monotonic() + _SECONDS
  while time.monotonic() < end or len(seconds) < 5:
    begin = time.perf_counter()
    operator @ v
    seconds.append(time.perf_counter() - begin)
  peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return {
    "product, seconds": min(seconds),
    "imports, CPU seconds": imports,
    "start, CPU seconds": start,
    "memory, bytes": peak,
  }


def compare(tree: pathlib.Path, rounds: int, bound: float) -> bool:
  """Prints a line for each figure; returns whether all ratios are within the bound."""
  from benchmarks.baseline import ROOT, run_python

  # Modules are compiled once, as if both were installed.
  installed = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tree / "bytecode")}
  imports = {tree: [], ROOT: []}
  ratios = []
  for name in MODELS:
    found = {tree: [], ROOT: []}
    for _ in range(rounds):
      for where, results in found.items():
        said = run_python(where, [_SCRIPT, "--child", name], **installed)
        results.append(json.loads(said.split("\n")[-2]))
        imports[where].append(results[-1].pop("imports, CPU seconds"))
    for figure in found[tree][0]:
      chosen = statistics.median if figure.startswith("memory") else min
      each = (chosen(r[figure] for r in results) for results in found.values())
      ratios.append(_ratio(name, figure, *each))
  ratios.append(_ratio("any", "imports, CPU seconds", *map(min, imports.values())))
  return max(ratios) <= bound


def _ratio(name, figure, before, now):
  """Prints a figure of both versions; returns its ratio."""
  print(f"{name:8s} {figure:20s} {before:12.4g} {now:12.4g}   ratio {now / before:.3f}", flush=True)
  return now / before


def main() -> int:
  """Reads the arguments; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--baseline", default="335cb3a", help="commit to compare with")
  parser.add_argument("--rounds", type=int, default=15, help="processes of each version")
  parser.add_argument("--bound", type=float, default=1.03, help="largest ratio")
  parser.add_argument("--child", help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.child:
    print(json.dumps(child(options.child)))
    return 0
  from benchmarks.baseline import checked_out

  with checked_out(options.baseline) as tree:
    good = compare(tree, options.rounds, options.bound)
  print(f"all ratios are at most {options.bound}" if good else f"NOT all at most {options.bound}")
  return 0 if good else 1


if __name__ == "__main__":
  sys.exit(main())
