"""Peak memory of dense matrices and their spectra: python -m benchmarks.dense [--rows=3000]

Of a symmetric matrix whose products cost next to nothing (a diagonal and a part of rank 32), each
case in a process of its own: the peak of the resident memory above what there was before, in units
of the matrix. Pages of a file that is mapped into memory count too, which the system takes back
when it needs them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time

RANK = 32
CASES = {
  "matrix": ("dense_hessian", {}),
  "matrix, in a folder": ("dense_hessian", {"workdir": True}),
  "eigenvalues": ("exact_spectrum", {}),
  "eigenvalues, in a folder": ("exact_spectrum", {"workdir": True}),
  "with eigenvectors": ("exact_spectrum", {"eigenvectors": True}),
}


def case(rows, function, workdir=False, **options):
  """Returns (peak over the matrix, CPU seconds, error of the trace over the largest eigenvalue)."""
  import numpy as np
  import scipy.sparse.linalg

  import tf_hessian
  from tf_hessian.distribute import memory

  compute = getattr(tf_hessian, function)
  rng = np.random.default_rng(0)
  diagonal, factor = rng.standard_normal(rows), rng.standard_normal((rows, RANK))

  def products(x):
    return diagonal[:, None] * x + factor @ (factor.T @ x)

  operator = scipy.sparse.linalg.LinearOperator(
    (rows, rows), lambda x: products(x.reshape(-1, 1)), matmat=products, dtype=np.float64
  )
  with tempfile.TemporaryDirectory(dir=".") as folder:
    if workdir:
      options["workdir"] = folder
    memory.reset_peak()
    before, begin = memory.resident(), time.process_time()
    found = compute(operator, progress=False, **options)
    seconds = time.process_time() - begin
    peak = memory.peak() - before
    dense = function == "dense_hessian"
    trace = np.trace(found) if dense else found.eigenvalues.sum()
  largest = (factor**2).sum(axis=0).max()  # of the matrix, to some percent
  error = abs(trace - diagonal.sum() - (factor**2).sum()) / largest
  return peak / (8 * rows**2), seconds, float(error)


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--rows", type=int, default=3000)
  parser.add_argument("--case")
  flags = parser.parse_args()
  if flags.case:
    function, options = CASES[flags.case]
    print(json.dumps(case(flags.rows, function, **options)))
    return
  print(f"{flags.rows:,} rows: a matrix of {8 * flags.rows**2 / 1e9:.3g} GB", flush=True)
  for name in CASES:
    command = [sys.executable, "-m", "benchmarks.dense", f"--rows={flags.rows}", f"--case={name}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
      sys.exit(done.stderr[-3000:])
    peak, seconds, error = json.loads(done.stdout.splitlines()[-1])
    print(
      f"{name:25} {peak:5.2f} times the matrix, {seconds:7.1f} s of CPU, trace off by {error:.1g} "
      "of the largest",
      flush=True,
    )


if __name__ == "__main__":
  main()
