"""One process of a test: makes an operator with a strategy, and writes what it computes.

python member.py STRATEGY DEVICES OUTPUT [OPTION=JSON ...]
"""

import functools
import json
import pathlib
import sys
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from tf_hessian import (
  FisherOperator,
  GaussNewtonOperator,
  GradientCovarianceOperator,
  HessianOperator,
  Storage,
  dense_hessian,
  exact_spectrum,
  spectral_density,
  top_eigenpairs,
)
from tf_hessian.distribute import cluster, machine, workers
from tf_hessian.numerics import memory_basis
from tf_hessian.slq import provenance


def model():
  """Returns a net with all that could depend on how batches are handed out, in float64."""
  keras.config.set_floatx("float64")
  keras.utils.set_random_seed(0)
  return keras.Sequential(
    [
      keras.Input((6, 6, 2)),
      keras.layers.Conv2D(4, 3, activation="tanh"),
      keras.layers.BatchNormalization(),
      keras.layers.MaxPooling2D(2, padding="valid"),
      keras.layers.Flatten(),
      keras.layers.Dropout(0.3),
      keras.layers.Dense(3),
    ]
  )


def dataset(examples=52, seed=0):
  """Returns batches, of 52 examples 7, the last one short."""
  rng = np.random.default_rng(seed)
  x, y = rng.standard_normal((examples, 6, 6, 2)), rng.integers(0, 3, examples)
  return tf.data.Dataset.from_tensor_slices((x, y)).batch(8)


MATRICES = {
  "hessian": HessianOperator,
  "gauss_newton": GaussNewtonOperator,
  "sampled_fisher": functools.partial(FisherOperator, kind="sampled"),
  "empirical_fisher": functools.partial(FisherOperator, kind="empirical"),
  "gradient_covariance": GradientCovarianceOperator,
}


def operator(
  strategy=None, seed=0, vectors_per_pass=None, matrix="hessian", examples=52, **options
):
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  result = MATRICES[matrix](
    model(), loss, dataset(examples, seed), training=True, strategy=strategy, **options
  )
  if vectors_per_pass is not None:
    result.vectors_per_pass = vectors_per_pass
  return result


def vectors(n):
  return np.random.default_rng(1).standard_normal((2, n))


def compute(op, columns):
  """Returns what is compared: the loss, the gradient, and products, one of them again."""
  v = vectors(op.shape[0])
  return {
    **({"columns": op @ v.T} if columns else {}),
    "loss": op.loss(),
    "gradient": op.gradient(),
    "products": np.stack([op @ x for x in v]),
    "again": op @ v[0],
    "traces": op.program.product.tracing_count,
  }


def compute_top(op, folder):
  """Returns eigenpairs, the energy of the gradient by eigenvalue, and dense matrices."""
  run = spectral_density(op, num_draws=1, lanczos_steps=8, start="gradient", progress=False)
  pairs = top_eigenpairs(op, 2, 1, progress=False)
  return {
    "eigenvalues": pairs.values,
    "residuals": pairs.residuals,
    "energies": np.stack([run.nodes[0], run.weights[0]]),
    **compute_dense(op, folder),
  }


def compute_dense(op, folder):
  """Returns dense matrices with and without a folder, all eigenvalues, and their files."""
  rows = np.arange(0, op.shape[0], 3)
  result = {
    "alone": dense_hessian(op, rows=rows, progress=False),
    "by_folder": dense_hessian(op, rows=rows, workdir=folder / "dense", progress=False),
    "all_eigenvalues": exact_spectrum(op, workdir=folder / "exact", progress=False).eigenvalues,
  }
  return result | {"files": len(list(folder.rglob("*")))}


def compute_spectrum(op, **options):
  """Returns two draws, in passes of their own and in shared ones, and what that took.

  That is the most bytes that an array of Lanczos vectors has in this process, and how many vectors
  of full length went through it beside the passes.
  """
  held, vectors, original, add = [0], [], memory_basis.MemoryBasis.__init__, workers.Workers.add

  def noted(self, array, /):
    held.append(array.nbytes)
    original(self, array)

  def counted(self, value, /):
    if np.asarray(value).dtype == np.float64 and np.size(value) >= op.shape[0]:
      vectors.append(value)
    return add(self, value)

  def run(storage):
    run = spectral_density(op, num_draws=2, lanczos_steps=12, storage=storage, progress=False)
    return np.concatenate([*run.diagonals, *run.off_diagonals, run.residuals])

  result = {"n": op.shape[0]}
  with (
    mock.patch.object(memory_basis.MemoryBasis, "__init__", noted),
    mock.patch.object(workers.Workers, "add", counted),
  ):
    for vectors_per_pass in (1, 2):
      found = run(Storage(vectors_per_pass=vectors_per_pass, **options))
      result[f"{vectors_per_pass} in a pass"] = found
      result["scale"] = np.abs(found).max()
  result["without a basis"] = run(Storage("none", vectors_per_pass=2))
  return result | {"held": max(held), "vectors": len(vectors)}


def main(strategy, devices, output, *options):
  options = {k: json.loads(v) for k, v in (o.split("=", 1) for o in options)}
  columns, top = options.pop("columns", False), options.pop("top", False)
  spectrum = options.pop("spectrum", None)
  machine.set_threads(1, 1)
  if cluster.serves(strategy):
    cluster.serve(provenance.identity())
    return
  # The servers are not told to end: the next chief goes on with them.
  op = operator(cluster.make_strategy(strategy, num_devices=int(devices)), **options)
  task = cluster.task()
  name = task.name if task else "alone"
  output = pathlib.Path(output)
  if spectrum is not None:
    result = compute_spectrum(op, **spectrum)
  else:
    result = compute_top(op, output / f"of_{name}") if top else compute(op, columns)
  np.savez(output / f"{name}.npz", **result)


if __name__ == "__main__":
  main(*sys.argv[1:])
