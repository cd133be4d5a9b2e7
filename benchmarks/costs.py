"""Seconds and memory of gradients, products and density runs: python -m benchmarks.costs

Each network is measured in processes of its own, with random images of the shape of its data (speed
does not depend on what they show). Figures with a bound are marked, and the command ends with exit
code 1 if one misses it. `--write=docs/benchmarks.md` puts the tables there. About 40 minutes.
"""

import argparse
import ctypes
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np

from benchmarks.memory import GIVE_BACK

DRAWS = 10  # of the paper
SECTION = "costs"


@dataclasses.dataclass(frozen=True)
class Case:
  """A network, its data, and how long it is measured."""

  build: str  # model and its arguments, as in a config
  options: dict
  shape: tuple  # of an image
  classes: int
  batch_size: int
  batches: int
  steps: int  # of a draw
  rounds: int


_SIDE = (224, 224, 3)  # of ImageNet
CASES = {
  "MLP, MNIST": Case("mlp", {}, (784,), 10, 1000, 1, 90, 20),
  "ResNet-32, CIFAR-10": Case("cifar_resnet", {"depth": 32}, (32, 32, 3), 10, 128, 2, 3, 5),
  "VGG-11, CIFAR-10": Case("vgg11", {}, (32, 32, 3), 10, 128, 1, 2, 3),
  "ResNet-18, ImageNet": Case(
    "imagenet_resnet18", {"input_shape": _SIDE}, _SIDE, 1000, 16, 1, 2, 3
  ),
}
# Of a convolution, forward, by input and by kernel: a gradient makes 3. A product makes 8, as its
# gradient by the kernel is not needed, and products that share a pass make 2 and 6 each.
SHARED_FLOPS = (2 + 6 * DRAWS) / (8 * DRAWS)
# (network, figure) -> bound
BOUNDS = {
  ("ResNet-32, CIFAR-10", "product / gradient"): 3.1,
  ("ResNet-32, CIFAR-10", "shared product / gradient"): 2.2,
  ("ResNet-32, CIFAR-10", "10 draws / 10 single draws"): SHARED_FLOPS,
  ("ResNet-32, CIFAR-10", "memory, product / gradient"): 2.2,
  # Vectors that share a pass take memory: of eleven million parameters, gigabytes.
  ("VGG-11, CIFAR-10", "shared product / product"): 0.95,
  ("ResNet-18, ImageNet", "shared product / product"): 0.95,
}


def operator(case, *, batches=None, **changed):
  """Returns the `HessianOperator` of a case."""
  import keras

  import tf_hessian
  from tf_hessian.experiments import experiment

  keras.utils.set_random_seed(0)
  model = experiment.MODELS[case.build](**case.options | changed)
  rng = np.random.default_rng(0)
  data = [
    (
      rng.standard_normal((case.batch_size, *case.shape), np.float32),
      rng.integers(0, case.classes, case.batch_size),
    )
    for _ in range(batches or case.batches)
  ]
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  return tf_hessian.HessianOperator(model, loss, data, training=True)


def seconds(function):
  begin = time.perf_counter()
  function()
  return time.perf_counter() - begin


def run(op, draws, steps, vectors_per_pass=None):
  """A density run without checks, which don't grow with it."""
  import tf_hessian

  return tf_hessian.spectral_density(
    op,
    num_draws=draws,
    lanczos_steps=steps,
    storage=tf_hessian.Storage(vectors_per_pass=vectors_per_pass),
    check=False,
    progress=False,
  )


def times(case):
  """Returns the medians of interleaved measurements, and of their ratios: name -> number."""
  op = operator(case)
  v = np.random.default_rng(1).standard_normal((DRAWS, op.shape[0]))
  functions = {
    "gradient": op.gradient,
    "product": lambda: op @ v[0],
    "shared": lambda: op.products(v, vectors_per_pass=DRAWS),
  }
  first = {name: seconds(f) for name, f in functions.items()}
  rows = np.array([[seconds(f) for f in functions.values()] for _ in range(case.rounds)])
  gradient, product, shared = rows.T
  result = {
    "parameters": op.shape[0],
    "first product": first["product"],
    "gradient": np.median(gradient),
    "product": np.median(product),
    "shared product": np.median(shared) / DRAWS,
    "product / gradient": np.median(product / gradient),
    "shared product / product": np.median(shared / product) / DRAWS,
    "shared product / gradient": np.median(shared / gradient) / DRAWS,
  }
  run(op, DRAWS, 1)
  together, alone = [], []
  for _ in range(min(case.rounds, 3)):
    together.append(seconds(lambda: run(op, DRAWS, case.steps)))
    alone.append(seconds(lambda: run(op, DRAWS, case.steps, 1)))
  diagonal = np.linspace(-1.0, 1.0, op.shape[0])
  lanczos = lanczos_seconds(diagonal, 90)
  result |= {
    "density run": np.median(together),
    "10 draws / 10 single draws": np.median(np.divide(together, alone)),
    "Lanczos share": lanczos / (lanczos + 90 * result["shared product"]),
  }
  return {k: float(x) for k, x in result.items()}


def lanczos_seconds(diagonal, steps):
  """Returns the seconds of a draw's Lanczos steps with products that cost next to nothing."""
  from tf_hessian.numerics import probes
  from tf_hessian.numerics.lanczos import Lanczos

  state = Lanczos.start(probes.probe(0, 0, diagonal.size), steps)
  return seconds(lambda: state.run(lambda v: diagonal * v))


def memory(case, what):
  """Returns the peak of resident memory in MiB above what was there before, of the second call."""
  from tf_hessian.distribute import memory as process

  op = operator(case, batches=1)
  v = np.random.default_rng(1).standard_normal((DRAWS, op.shape[0]))
  function = {
    "gradient": op.gradient,
    "product": lambda: op @ v[0],
    "shared": lambda: op.products(v, vectors_per_pass=DRAWS),
  }[what]
  function()
  ctypes.CDLL(None).malloc_trim(0)
  process.reset_peak()
  before = process.resident()
  function()
  return (process.peak() - before) / 2**20


def growth():
  """Yields (what grows, list of sizes, list of seconds)."""
  case = CASES["MLP, MNIST"]
  sizes = [1, 2, 4, 8]
  ops = {b: operator(case, batches=b) for b in sizes}
  yield "examples (thousands), one product", sizes, _products(ops)
  widths = [20, 40, 80, 160]
  ops = {w: operator(case, hidden_units=(w,)) for w in widths}
  yield (
    "parameters (thousands), one product",
    [op.shape[0] // 1000 for op in ops.values()],
    (_products(ops)),
  )
  op = operator(case)
  counts = [1, 2, 4, 8, 16]
  yield (
    "draws, density run of 90 steps",
    counts,
    [_best(lambda k=k: run(op, k, 90)) for k in counts],
  )
  steps = [15, 30, 60, 120]
  yield "steps, density run of 10 draws", steps, [_best(lambda m=m: run(op, 10, m)) for m in steps]


def _products(ops):
  return [_best(lambda op=op: op @ np.ones(op.shape[0]), 20) for op in ops.values()]


def _best(function, rounds=3):
  """Returns the median of some measurements after a first call."""
  function()
  return float(np.median([seconds(function) for _ in range(rounds)]))


def _child(part, *arguments, **environment):
  """Runs a part of this program in a process of its own; returns what it prints as JSON."""
  command = [sys.executable, "-m", "benchmarks.costs", "--part", part, *arguments]
  done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
  if done.returncode:
    sys.exit(done.stderr[-3000:])
  return json.loads(done.stdout.splitlines()[-1])


def measure(names):
  """Returns (figures of each network, rows of growth), printing them as they come."""
  figures = {}
  for name in names:
    found = _child("times", name)
    for what in ("gradient", "product", "shared"):
      found[f"memory, {what}"] = _child("memory", name, what, **GIVE_BACK)
    found["memory, product / gradient"] = found["memory, product"] / found["memory, gradient"]
    figures[name] = found
    print(name)
    for key, value in found.items():
      bound = BOUNDS.get((name, key))
      mark = "" if bound is None else f"  (bound: {bound:g})"
      print(f"  {key:30s}{value:12.4g}{mark}", flush=True)
  rows = _child("growth")
  print("growth, MLP")
  for what, sizes, spent in rows:
    print(f"  {what:40s}" + "  ".join(f"{s}: {t:.3g} s" for s, t in zip(sizes, spent, strict=True)))
  return figures, rows


def failures(figures):
  """Returns the (network, figure) whose bound is missed."""
  return [
    (name, key)
    for (name, key), bound in BOUNDS.items()
    if name in figures and not figures[name][key] <= bound
  ]


def markdown(figures, rows, machine):
  """Returns the tables."""
  lines = [
    f"`make bench`, {machine}. Seconds are medians of a pass over the batches given. Memory is the "
    "peak of resident memory in a second call with one batch, above what was there before, without "
    "oneDNN. A shared product is a tenth of the pass that makes ten. The Lanczos share is that of "
    "the recurrence in 90 steps of shared products.",
    "",
    "| | " + " | ".join(figures) + " |",
    "|---" * (1 + len(figures)) + "|",
    "| batches | " + " | ".join(f"{c.batches} of {c.batch_size}" for c in _cases(figures)) + " |",
    "| steps of the density run | " + " | ".join(str(c.steps) for c in _cases(figures)) + " |",
  ]
  for key in next(iter(figures.values())):
    unit = " (MiB)" if key in ("memory, gradient", "memory, product", "memory, shared") else ""
    values = [
      f"{f[key]:,.0f}" if key == "parameters" else f"{f[key]:.3g}" for f in figures.values()
    ]
    lines.append(f"| {key}{unit} | " + " | ".join(values) + " |")
  lines += ["", "| what grows (MLP) | seconds |", "|---|---|"]
  for what, sizes, spent in rows:
    listed = ", ".join(f"{s}: {t:.3g}" for s, t in zip(sizes, spent, strict=True))
    lines.append(f"| {what} | {listed} |")
  return "\n".join(lines)


def _cases(figures):
  return [CASES[name] for name in figures]


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--networks", nargs="*", choices=list(CASES), default=list(CASES))
  parser.add_argument("--write", type=pathlib.Path, help="file whose section is replaced")
  parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.part:
    part, *arguments = options.part
    if part == "growth":
      found = list(growth())
    else:
      case, *what = arguments
      found = {"times": times, "memory": memory}[part](CASES[case], *what)
    print(json.dumps(found))
    return
  figures, rows = measure(options.networks)
  if options.write:
    from benchmarks.peers import report
    from tf_hessian import files

    text = options.write.read_text()
    body = markdown(figures, rows, report.machine())
    files.write_text(options.write, report.replace_section(text, SECTION, body))
  missed = failures(figures)
  if missed:
    sys.exit("failed: " + "; ".join(f"{name}: {key}" for name, key in missed))


if __name__ == "__main__":
  main()
