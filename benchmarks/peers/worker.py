"""A process that holds one contender and answers requests, each a line of JSON, by a line of JSON.

  python -m benchmarks.peers.worker CONTENDER MATRIX PROBLEM.npz THREADS FOLDER

Contenders have, besides their constructor of a problem, a dtype and a matrix: `mean_loss()`,
`gradient()`, `set_vector(v)`, `product()`, `to_keras(result)`, `density(...)`, `versions`, and
`set_up(draws, steps)` for density runs of such numbers; those with `shares_passes` also
`set_vectors(vectors)` and `products()`, the results for rows of a matrix. Those that have
`builds_while_running` build their functions in the first density run.
Seconds are of what the package does; conversions for comparison are outside them. Arrays go to
files in the folder.
"""

import functools
import importlib
import json
import os
import pathlib
import sys
import time

import numpy as np

from benchmarks.peers import problem as problem_lib
from benchmarks.peers import usage

OURS = "tf_hessian"


class Worker:
  """Answers requests; each method is one."""

  def __init__(self, make, problem, folder):
    """Takes a function (problem, dtype) -> contender."""
    self._folder = pathlib.Path(folder)
    self._make = make
    self._problem = problem
    begin = time.perf_counter()
    self._contender = make(problem, "float32")
    self._seconds = time.perf_counter() - begin

  def set_up(self, draws, steps=1):
    begin = time.perf_counter()
    self._contender.set_up(draws, steps)
    seconds = self._seconds + time.perf_counter() - begin
    failure = getattr(self._contender, "own_density_error", str)()
    return {
      "seconds": seconds,
      "versions": self._contender.versions,
      "failure": failure,
      "builds_while_running": getattr(self._contender, "builds_while_running", False),
    }

  def prepare(self):
    """Takes a gradient and a product before they are timed."""
    self._contender.set_vector(self._probe())
    self._contender.gradient()
    self._contender.product()
    return {}

  def agree(self, file):
    """Writes what contenders are compared by: loss, gradient and a product, in float64.

    The product in float32 is written too, for what rounding does to it.
    """
    exact = self._make(self._problem, "float64")
    for contender in (exact, self._contender):
      contender.set_vector(self._probe())
    np.savez(
      self._folder / file,
      loss=exact.mean_loss(),
      gradient=exact.to_keras(exact.gradient()),
      product=exact.to_keras(exact.product()),
      float32_product=self._contender.to_keras(self._contender.product()),
    )
    return {}

  def agree_products(self, file, vectors):
    """Writes products with so many vectors in float64: one by one, and those that share passes."""
    exact, probes = self._make(self._problem, "float64"), self._probes(vectors)
    found = {"single": []}
    for v in probes:
      exact.set_vector(v)
      found["single"].append(exact.to_keras(exact.product()))
    if exact.shares_passes:
      exact.set_vectors(probes)
      found["shared"] = [exact.to_keras(r) for r in exact.products()]
    np.savez(self._folder / file, **found)
    return {}

  def prepare_products(self, vectors):
    """Runs products before they are timed: one, and so many that share passes if it has that."""
    self._contender.set_vector(self._probe())
    self._contender.product()
    if self._contender.shares_passes:
      self._contender.set_vectors(self._probes(vectors))
      self._contender.products()
    return {"shares_passes": self._contender.shares_passes}

  def gradient(self, repeats):
    return {"seconds": _mean_seconds(self._contender.gradient, repeats)}

  def product(self, repeats):
    return {"seconds": _mean_seconds(self._contender.product, repeats)}

  def products(self, repeats):
    """Takes the seconds of all vectors of `prepare_products` together."""
    return {"seconds": _mean_seconds(self._contender.products, repeats)}

  def density(self, file, **setting):
    """Makes a run, and writes its density; says what the run takes."""
    usage.reset_peak()
    cpu = usage.cpu_seconds()
    seconds, (grid, values, *spectrum) = _seconds(lambda: self._contender.density(**setting))
    answer = {
      "seconds": seconds,
      "cpu_seconds": usage.cpu_seconds() - cpu,
      "peak_mib": usage.peak_mib(),
    }
    np.savez(self._folder / file, grid=grid, values=values)
    if spectrum:
      spectrum[0].save(self._folder / f"spectrum_{file}")
    return answer

  def _probe(self):
    """Returns the vector (n,) of length 1 of the products that are timed and compared."""
    return self._probes(1)[0]

  def _probes(self, count):
    """Returns (count, n) vectors of length 1, of which the first is always the same."""
    v = np.random.default_rng(1).standard_normal((count, len(self._problem.parameters)))
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def _contender_class(name, threads):
  """Returns the class of a contender, after setting its framework's number of threads.

  Its package is imported then, so that this is not part of its set-up, as it isn't of ours.
  """
  if name == OURS:
    from benchmarks.peers import ours

    ours.set_threads(threads)
    return ours.TfHessian
  if name.startswith("JAX"):  # which has its number of threads from the environment
    from benchmarks.peers import jax_contenders

    return jax_contenders.CONTENDERS[name]
  import torch

  from benchmarks.peers import contenders

  torch.set_num_threads(threads)
  found = contenders.CONTENDERS[name]
  importlib.import_module(found.package)
  return found


def _seconds(function):
  begin = time.perf_counter()
  result = function()
  return time.perf_counter() - begin, result


def _mean_seconds(function, repeats):
  return _seconds(lambda: [function() for _ in range(repeats)])[0] / repeats


def main():
  name, matrix, path, threads, folder = sys.argv[1:]
  # What packages print must not get among the answers.
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)
  make = functools.partial(_contender_class(name, int(threads)), matrix=matrix)
  worker = Worker(make, problem_lib.load(path), folder)
  for line in sys.stdin:
    request = json.loads(line)
    answer = getattr(worker, request.pop("do"))(**request)
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
  main()
