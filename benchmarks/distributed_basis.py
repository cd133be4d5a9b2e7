"""Lanczos vectors of the chief alone, and of two workers: python -m benchmarks.distributed_basis

A draw with a diagonal Hessian of n parameters in float64, by two workers with one thread each, on
this machine. Passes over so simple a data set are short, so what vectors cost beside them shows.
Prints the most memory that each process has had resident above what it had before the draw, and
the seconds of a step and of a pass; exits with 1 if a spread draw takes a worker more than its
share of the rows and vectors for the passes, or if its tridiagonal matrix is another.
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
KINDS = ("memory", "workers")
# Vectors (n,) of a pass with one draw, of float64: what TensorFlow has of arguments and sums.
_VECTORS = 12
_LIMIT = 1800.0


def member(kind, n, steps, folder):
  """Runs one process, which writes its measurements."""
  import numpy as np
  import tensorflow as tf

  from tf_hessian import HessianOperator, Storage, spectral_density
  from tf_hessian.distribute import cluster, machine, memory

  machine.set_threads(1, 1)
  strategy = cluster.make_strategy("multi_worker")
  scales = tf.linspace(tf.constant(0.0, tf.float64), 1.0, n)
  point = tf.Variable(tf.zeros(n, tf.float64))

  def loss(parameters, batch):
    return 0.5 * batch * tf.reduce_sum(scales * parameters[0] ** 2)

  data = [np.ones(1) for _ in range(WORKERS)]
  operator = HessianOperator([point], loss, data, strategy=strategy)
  engine = operator.engine
  v = np.full(n, n**-0.5)
  passes = []
  for _ in range(4):
    begin = time.monotonic()
    operator.matvec(v)
    passes.append(time.monotonic() - begin)
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
  }
  pathlib.Path(folder, f"{engine.rank}.json").write_text(json.dumps(result))


def measure(kind, n, steps):
  """Returns what the chief and the other worker have measured."""
  with tempfile.TemporaryDirectory() as folder:
    arguments = ["--member", kind, str(n), str(steps), folder]
    command = [sys.executable, "-m", "benchmarks.distributed_basis", *arguments]
    lines = []
    with LocalCluster(command, workers=WORKERS, output=lambda *line: lines.append(line)) as cluster:
      for process in cluster.processes.values():
        if process.wait(_LIMIT):
          raise RuntimeError("\n".join(f"[{name}] {line}" for name, line in lines[-50:]))
    return [json.loads(pathlib.Path(folder, f"{r}.json").read_text()) for r in range(WORKERS)]


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--n", type=int, default=N)
  parser.add_argument("--steps", type=int, default=STEPS)
  options = parser.parse_args()
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
    member(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
  else:
    main()
