"""Costs of Gauss-Newton and Fisher products, and a picture of H, G and H - G.

  python -m benchmarks.matrices
  python -m benchmarks.matrices --workdir=runs/mnist_mlp --picture=docs/images/matrices.png

The first prints products of each matrix against the Hessian's, medians of interleaved rounds, and
ends with exit code 1 if a Gauss-Newton product of a network with a bound costs more. Images and
tokens are random, as speed does not depend on them. The second draws the densities of the small
model that `make demo` has trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import pathlib
import sys
import time
from typing import Any

import keras
from keras import layers
import numpy as np

import tf_hessian
from tf_hessian import plotting
from tf_hessian.experiments import configs, experiment
from tf_hessian.models.cifar_resnet import cifar_resnet
from tf_hessian.models.mlp import mlp
from tf_hessian.training import checkpoints

BOUND = 0.8  # of a Gauss-Newton product to a Hessian product
_SHARED = 10  # vectors that share a pass
_CONFIG = pathlib.Path(__file__).resolve().parents[1] / "configs" / "mnist_mlp.py"


def _transformer() -> keras.Model:
  """Returns 2 blocks of width 64, 4 heads, on sequences of 32 of 100 tokens."""
  inputs = keras.Input((32,), dtype="int32")
  x = layers.Embedding(100, 64)(inputs)
  for _ in range(2):
    y = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(4, 16)(y, y, use_causal_mask=True)])
    y = layers.Dense(256, "gelu")(layers.LayerNormalization()(x))
    x = layers.Add()([x, layers.Dense(64)(y)])
  return keras.Model(inputs, layers.Dense(100)(x))


def _images(rng, count, shape):
  return rng.standard_normal((count, *shape), np.float32), rng.integers(0, 10, count)


def _tokens(rng, count, _):
  return rng.integers(0, 100, (count, 32)), rng.integers(0, 100, (count, 32))


# Name -> (model, data, batches, batch size, shape of an image, whether the bound holds).
_NETWORKS: dict[str, tuple[Callable, Callable, int, int, Any, bool]] = {
  "784-20-10": (
    lambda: mlp(input_shape=(784,), hidden_units=(20,), num_classes=10),
    _images, 4, 250, (784,), False,
  ),
  "ResNet-32": (lambda: cifar_resnet(depth=32), _images, 1, 128, (32, 32, 3), True),
  "transformer": (_transformer, _tokens, 1, 16, None, True),
}  # fmt: skip
_MATRICES: dict[str, Callable] = {
  "Hessian": tf_hessian.HessianOperator,
  "Gauss-Newton": tf_hessian.GaussNewtonOperator,
  "Fisher, exact": tf_hessian.FisherOperator,
  "Fisher, empirical": lambda *a: tf_hessian.FisherOperator(*a, kind="empirical"),
}


def measure(name: str, rounds: int) -> dict[str, list[float]]:
  """Returns seconds of a product, and of one of ten that share a pass, by matrix."""
  keras.utils.set_random_seed(0)
  make, data, batches, size, shape, _ = _NETWORKS[name]
  model, rng = make(), np.random.default_rng(0)
  data = [data(rng, size, shape) for _ in range(batches)]
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  operators = {k: matrix(model, loss, data) for k, matrix in _MATRICES.items()}
  v = np.random.default_rng(1).standard_normal((_SHARED, operators["Hessian"].shape[0]))
  ways = {
    k: (
      lambda o=o: o @ v[0],
      lambda o=o: o.products(v, vectors_per_pass=_SHARED),
    )
    for k, o in operators.items()
  }
  found: dict[str, list[list[float]]] = {k: [[], []] for k in ways}
  for function in (f for functions in ways.values() for f in functions):
    function()  # builds the functions
  # Of short products more, as their noise is larger.
  rounds *= 1 if _seconds(ways["Hessian"][0])[0] > 0.1 else 10
  for _ in range(rounds):
    for k, functions in ways.items():
      for seconds, function in zip(found[k], functions, strict=True):
        seconds.append(_seconds(function)[0])
  single = {k: float(np.median(s[0])) for k, s in found.items()}
  shared = {k: float(np.median(s[1])) / _SHARED for k, s in found.items()}
  compare_parts(name, operators["Hessian"], rounds)
  return {k: [single[k], shared[k]] for k in ways}


def compare_parts(name: str, hessian: tf_hessian.HessianOperator, rounds: int) -> None:
  """Prints what traces of all layers cost against one, and eigenvalues against their products."""
  hessian.vectors_per_pass = _SHARED
  options = {"progress": False}
  ways = {
    "all layers": lambda: tf_hessian.block_traces(hessian, num_probes=_SHARED, **options),
    "whole trace": lambda: tf_hessian.trace(hessian, _SHARED, method="hutchinson", **options),
  }
  seconds = {k: [] for k in ways}
  for _ in range(rounds):
    for k, way in ways.items():
      seconds[k].append(_seconds(way)[0])
  layers_of, whole = (float(np.median(seconds[k])) for k in ways)
  print(f"{name}: traces of all layers {layers_of:.3g} s, the whole trace {whole:.3g} s", end=" ")
  print(f"({layers_of / whole:.2f}), {_SHARED} products each")
  found = tf_hessian.batch_eigenvalues(hessian, **options)  # builds what is not there
  v = np.ones(hessian.shape[0]) / hessian.shape[0] ** 0.5

  def products():
    for batch in hessian.runner.single_batches():
      for _ in range(int(found.products[batch.number])):
        batch.product(v)

  both = [
    (_seconds(lambda: tf_hessian.batch_eigenvalues(hessian, **options))[0], _seconds(products)[0])
    for _ in range(rounds)
  ]
  taken, alone = np.median(both, axis=0)
  print(
    f"{name}: largest eigenvalue of each of {len(found.values)} batches {taken:.3g} s, their "
    f"{found.products.sum()} products {alone:.3g} s ({taken / alone:.2f})",
    flush=True,
  )


def _seconds(function: Callable) -> tuple[float, Any]:
  begin = time.perf_counter()
  result = function()
  return time.perf_counter() - begin, result


def compare(rounds: int) -> bool:
  """Prints a line for each network and matrix; returns whether all bounds hold."""
  good = True
  print(f"{'':12s}{'':20s}{'one product':>22s}{'one of ten':>22s}")
  for name, (*_, bounded) in _NETWORKS.items():
    found = measure(name, rounds)
    for matrix, seconds in found.items():
      ratios = [s / h for s, h in zip(seconds, found["Hessian"], strict=True)]
      columns = [f"{s:12.4g} s ({r:4.2f})" for s, r in zip(seconds, ratios, strict=True)]
      limit = bounded and matrix == "Gauss-Newton"
      good &= not limit or max(ratios) <= BOUND
      print(
        f"{name:12s}{matrix:20s}{columns[0]:>22s}{columns[1]:>22s}"
        + (f"  (bound: {BOUND})" if limit else ""),
        flush=True,
      )
  return good


def draw(options: argparse.Namespace) -> None:
  """Draws the densities of H, G and H - G of a trained model, and prints their extremes."""
  config = configs.load_config(options.config)
  if options.examples:
    config["hessian"]["num_examples"] = options.examples
  setup = experiment.build(config, data_dir=options.data_dir)
  model = checkpoints.load_model(pathlib.Path(options.workdir, "model.keras"))
  h = setup.operator(model)
  setup.config["hessian"]["matrix"] = "gauss_newton"
  g = setup.operator(model)
  spectra = {}
  for name, operator in (("H", h), ("G", g), ("H - G", h - g)):
    result = tf_hessian.spectral_density(
      operator, num_draws=options.draws, lanczos_steps=options.steps
    )
    spectra[name] = result
    largest, smallest = result.largest(10), result.smallest(1)
    print(f"{name:6s} largest {np.array2string(largest, precision=4)}")
    print(f"{'':6s} smallest {float(smallest[0]):.4g}, trace {result.trace()}", flush=True)
  plotting.plot_spectra(spectra, options.picture, sigma_squared=options.sigma_squared)
  layers_of = tf_hessian.block_traces(h, num_probes=options.draws)
  print(layers_of)


def main() -> int:
  """Reads the arguments; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=7, help="measurements, their median counts")
  parser.add_argument("--workdir", help="folder of a trained model, for the picture")
  parser.add_argument("--picture", default="matrices.png", help="where the picture goes")
  parser.add_argument("--config", default=str(_CONFIG), help="that the model was trained by")
  parser.add_argument("--data_dir", help="folder of TFDS data")
  parser.add_argument("--examples", type=int, default=0, help="the first so many; 0 for all")
  parser.add_argument("--draws", type=int, default=10)
  parser.add_argument("--steps", type=int, default=90)
  parser.add_argument("--sigma_squared", type=float, default=1e-5)
  options = parser.parse_args()
  if options.workdir:
    draw(options)
    return 0
  good = compare(options.rounds)
  print("all bounds hold" if good else "a bound does NOT hold")
  return 0 if good else 1


if __name__ == "__main__":
  sys.exit(main())
