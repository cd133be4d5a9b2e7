"""Lanczos vectors of the chief alone, and of two workers: python -m benchmarks.distributed_basis

A draw with a diagonal Hessian of n parameters in float64, by two workers with one thread each, on
this machine. Passes over so simple a data set are short, so what vectors cost beside them shows.
Prints the most memory that each process has had resident above what it had before the draw, and
the seconds of a step and of a pass; exits with 1 if a spread draw takes a worker more than its
share of the rows and vectors for the passes, or if its tridiagonal matrix is another.

  python -m benchmarks.distributed_basis --workers=4 --planned --parameters=1000000000 --machines=64

compares what `planning.vectors` foretells for four processes with what they take, prints what it
foretells for a billion parameters on 64 machines, and exits with 1 if memory or seconds are off by
more than a quarter.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import time

from tf_hessian.distribute.local import LocalCluster

N, STEPS = 4_000_000, 60
WORKERS = 2
_OFF = 0.25
KINDS = ("memory", "workers")
# Vectors (n,) of a pass with one draw, of float64: what TensorFlow has of arguments and sums.
_VECTORS = 12
_LIMIT = 1800.0


def member(kind, n, steps, folder, workers, planned):
  """Runs one process, which writes its measurements."""
  import numpy as np
  import tensorflow as tf

  from tf_hessian import HessianOperator, Storage, spectral_density
  from tf_hessian.distribute import cluster, machine, memory
  from tf_hessian.numerics.distributed_basis import DistributedBasis
  from tf_hessian.planning.vectors import plan_vectors

  machine.set_threads(1, 1)
  strategy = cluster.make_strategy("multi_worker")
  scales = tf.linspace(tf.constant(0.0, tf.float64), 1.0, n)
  point = tf.Variable(tf.zeros(n, tf.float64))

  def loss(parameters, batch):
    return 0.5 * batch * tf.reduce_sum(scales * parameters[0] ** 2)

  data = [np.ones(1) for _ in range(workers)]
  operator = HessianOperator([point], loss, data, strategy=strategy)
  engine = operator.engine
  v = np.full(n, n**-0.5)
  passes = []
  for _ in range(4):
    begin = time.monotonic()
    operator.matvec(v)
    passes.append(time.monotonic() - begin)
  foretold = {}
  if planned:  # by all at once, as they share the machine in the run
    options = {"num_draws": 1, "lanczos_steps": steps, "storage": Storage(kind)}
    plan = plan_vectors(n, workers=workers, **options)
    foretold = {
      "memory": plan.memory_bytes,
      "rows": plan.rows_bytes,
      "seconds": plan.orthogonalization_seconds,
    }
    operator.matvec(v)  # until then
  spent = _timed(DistributedBasis, "orthogonalize", "extend")
  before = memory.resident()
  memory.reset_peak()
  begin = time.monotonic()
  spectrum = spectral_density(
    operator,
    num_draws=1,
    lanczos_steps=steps,
    storage=Storage(kind),
    check=False,
    progress=False,
  )
  result = {
    "peak": memory.peak() - before,
    "step": float(spectrum.wall_times[0]) / steps,
    "run": time.monotonic() - begin,
    "pass": min(passes),
    "diagonal": spectrum.diagonals[0].tolist(),
    "orthogonalization": sum(spent),
    "foretold": foretold,
  }
  pathlib.Path(folder, f"{engine.rank}.json").write_text(json.dumps(result))


def _timed(kind, *names):
  """Returns the list to which methods of a class append their seconds from now on."""
  spent = []
  for name in names:
    original = getattr(kind, name)

    def timed(self, *arguments, original=original, **options):
      start = time.monotonic()
      result = original(self, *arguments, **options)
      spent.append(time.monotonic() - start)
      return result

    setattr(kind, name, timed)
  return spent


def measure(kind, n, steps, workers=WORKERS, planned=False):
  """Returns what the chief and the other workers have measured."""
  with tempfile.TemporaryDirectory() as folder:
    arguments = ["--member", kind, str(n), str(steps), folder, str(workers), str(int(planned))]
    command = [sys.executable, "-m", "benchmarks.distributed_basis", *arguments]
    lines = []
    with LocalCluster(command, workers=workers, output=lambda *line: lines.append(line)) as cluster:
      for process in cluster.processes.values():
        if process.wait(_LIMIT):
          raise RuntimeError("\n".join(f"[{name}] {line}" for name, line in lines[-50:]))
    return [json.loads(pathlib.Path(folder, f"{r}.json").read_text()) for r in range(workers)]


def planned(options):
  """Compares a plan with a run; returns 1 if it is off."""
  from tf_hessian import Storage
  from tf_hessian.planning.vectors import plan_vectors

  n, steps, workers = options.n, options.steps, options.workers
  found = measure("workers", n, steps, workers, planned=True)
  chief = found[0]
  pairs = {
    "most memory of a worker (GB)": (
      chief["foretold"]["memory"] / 1e9,
      max(f["peak"] for f in found) / 1e9,
    ),
    "seconds of orthogonalization": (
      max(f["foretold"]["seconds"] for f in found),
      chief["orthogonalization"],
    ),
  }
  print(f"n = {n:,}, {steps} steps, {workers} processes on this machine: foretold, measured, ratio")
  failed = False
  for name, (expected, measured) in pairs.items():
    failed |= abs(measured / expected - 1) > _OFF
    print(f"  {name:32s}{expected:10.3f}{measured:10.3f}{measured / expected:8.2f}", flush=True)
  if options.parameters:
    size, count = options.parameters, options.machines
    memory = 8 * (8 * size + 90 * size // count)  # for as many vectors as it takes
    plan = plan_vectors(size, workers=count, storage=Storage("workers", memory=memory))
    print(f"n = {size:,}, 10 draws of 90 steps on {count} machines like this one, each:")
    print(
      f"  rows of a draw {plan.rows_bytes / 1e9:.3g} GB, memory {plan.memory_bytes / 1e9:.3g} GB"
    )
    print(f"  network in all products {plan.network_bytes / 1e12:.3g} TB")
    print(f"  orthogonalization {plan.orthogonalization_seconds:.3g} s")
  return int(failed)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--n", type=int, default=N)
  parser.add_argument("--steps", type=int, default=STEPS)
  parser.add_argument("--workers", type=int, default=WORKERS)
  parser.add_argument("--planned", action="store_true")
  parser.add_argument("--parameters", type=int, default=0)
  parser.add_argument("--machines", type=int, default=64)
  options = parser.parse_args()
  if options.planned:
    sys.exit(planned(options))
  n, steps = options.n, options.steps
  rows = 8 * n * steps
  print(f"n = {n:,}, {steps} steps: {rows / 1e9:.3g} GB of rows, {8 * n / 1e9:.3g} GB a vector")
  diagonals, failed = {}, False
  for kind in KINDS:
    found = measure(kind, n, steps)
    diagonals[kind] = found[0]["diagonal"]
    chief, other = (f["peak"] for f in found)
    print(
      f"{kind:8} chief {chief / 1e9:6.2f} GB, other worker {other / 1e9:6.2f} GB; "
      f"{found[0]['step']:.3f} s a step, {found[0]['pass']:.3f} s a pass alone",
      flush=True,
    )
    if kind == "workers":
      failed |= max(chief, other) > rows / WORKERS + _VECTORS * 8 * n
  change = max(abs(a - b) for a, b in zip(*diagonals.values(), strict=True))
  print(f"largest change of the tridiagonal matrix's diagonal: {change:.2g}")
  sys.exit(1 if failed or change > 1e-12 else 0)


if __name__ == "__main__":
  if sys.argv[1:2] == ["--member"]:
    kind, *numbers, folder, workers, planned_too = sys.argv[2:]
    member(kind, *map(int, numbers), folder, int(workers), planned_too == "1")
  else:
    main()
