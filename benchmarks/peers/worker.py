"""A process that holds one contender and answers requests, each a line of JSON, by a line of JSON.

  python -m benchmarks.peers.worker CONTENDER PROBLEM.npz THREADS FOLDER

Contenders have, besides their constructor of a problem and a dtype: `set_up(draws)`, `mean_loss()`,
`gradient()`, `set_vector(v)`, `product()`, `to_keras(result)`, `density(...)`, `versions`.
Seconds are of what the package does; conversions for comparison are outside them. Arrays go to
files in the folder.
"""

import json
import os
import pathlib
import sys
import time

import numpy as np

from benchmarks.peers import problem as problem_lib

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

  def set_up(self, draws):
    begin = time.perf_counter()
    self._contender.set_up(draws)
    seconds = self._seconds + time.perf_counter() - begin
    self._contender.set_vector(self._probe())
    self._contender.gradient()  # which a density run doesn't need, before it is timed
    failure = getattr(self._contender, "own_density_error", str)()
    return {"seconds": seconds, "versions": self._contender.versions, "failure": failure}

  def agree(self, file):
    """Writes what contenders are compared by: loss, gradient and a product, in float64.

    The product in float32 is written too, for what rounding does to it.
    """
    exact = self._make(self._problem, "float64")
    exact.set_vector(self._probe())
    np.savez(
      self._folder / file,
      loss=exact.mean_loss(),
      gradient=exact.to_keras(exact.gradient()),
      product=exact.to_keras(exact.product()),
      float32_product=self._contender.to_keras(self._contender.product()),
    )
    return {}

  def gradient(self, repeats):
    return {"seconds": _mean_seconds(self._contender.gradient, repeats)}

  def product(self, repeats):
    return {"seconds": _mean_seconds(self._contender.product, repeats)}

  def density(self, file, **setting):
    seconds, (grid, values, *spectrum) = _seconds(lambda: self._contender.density(**setting))
    np.savez(self._folder / file, grid=grid, values=values)
    if spectrum:
      spectrum[0].save(self._folder / f"spectrum_{file}")
    return {"seconds": seconds}

  def _probe(self):
    """Returns the vector (n,) of length 1 of the products that are timed and compared."""
    v = np.random.default_rng(1).standard_normal(len(self._problem.parameters))
    return v / np.linalg.norm(v)


def _contender_class(name, threads):
  """Returns the class of a contender, after setting its framework's number of threads."""
  if name == OURS:
    from benchmarks.peers import ours

    ours.set_threads(threads)
    return ours.TfHessian
  import torch

  from benchmarks.peers import contenders

  torch.set_num_threads(threads)
  return contenders.CONTENDERS[name]


def _seconds(function):
  begin = time.perf_counter()
  result = function()
  return time.perf_counter() - begin, result


def _mean_seconds(function, repeats):
  return _seconds(lambda: [function() for _ in range(repeats)])[0] / repeats


def main():
  name, path, threads, folder = sys.argv[1:]
  # What packages print must not get among the answers.
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)
  worker = Worker(_contender_class(name, int(threads)), problem_lib.load(path), folder)
  for line in sys.stdin:
    request = json.loads(line)
    answer = getattr(worker, request.pop("do"))(**request)
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
  main()
