"""Costs of a Hessian-vector product of ResNet-32, and of its repeatability.

  python -m benchmarks.products

Prints each figure with the bound that it should keep, and ends with exit code 1 if one does not.
The images are random: speed and repeatability don't depend on what they show. About 7 minutes.
"""

from concurrent import futures
import hashlib
import multiprocessing
import sys
import tempfile
import time

from absl import app, flags, logging
import keras
import numpy as np
import scipy.sparse.linalg
import tensorflow as tf

import tf_hessian
from tf_hessian.curvature import products
from tf_hessian.models import cifar_resnet

NUM_BATCHES = flags.DEFINE_integer("num_batches", 10, "Batches of a pass.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Examples of a batch.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 7, "Measurements, of which the median counts.")

STEPS = 90  # of a draw, in the paper


def main(_):
  logging.set_verbosity(logging.WARNING)
  rows = [
    *_products(NUM_BATCHES.value, BATCH_SIZE.value, ROUNDS.value),
    *_watching(BATCH_SIZE.value, ROUNDS.value),
    *_repeatability(BATCH_SIZE.value),
    *_small_model(),
  ]
  if any(bound is not None and not value <= bound for _, value, bound in rows):
    sys.exit("failed: a figure is above its bound")


def _row(name, value, bound=None, *, unit=""):
  """Prints a figure as soon as it is known; returns (name, value, bound)."""
  limit = "" if bound is None else f"  (bound: {bound:g})"
  print(f"{name:64s}{value:10.4g} {unit:4s}{limit}", flush=True)
  return name, value, bound


def _resnet(num_batches, batch_size, **options):
  """ResNet-32 with dropout, in training mode, on random images."""
  keras.utils.set_random_seed(0)
  model = cifar_resnet.cifar_resnet(depth=32, dropout_rate=0.1)
  rng = np.random.default_rng(0)
  images = rng.standard_normal((num_batches * batch_size, 32, 32, 3), dtype=np.float32)
  labels = rng.integers(0, 10, len(images))
  return tf_hessian.HessianOperator(
    model,
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch_size),
    training=True,
    **options,
  )


def _probe(operator):
  return np.random.default_rng(1).standard_normal(operator.shape[0])


def _seconds(function):
  begin = time.perf_counter()
  function()
  return time.perf_counter() - begin


def _interleaved(functions, rounds):
  """Returns each function's times (functions, rounds), measured in turn after a warm-up."""
  for function in functions:
    function()
  return np.array([[_seconds(f) for f in functions] for _ in range(rounds)]).T


def _products(num_batches, batch_size, rounds):
  """A product against a gradient, against a product without the guarantee, and Lanczos."""
  operator = _resnet(num_batches, batch_size)
  free = _resnet(num_batches, batch_size, deterministic=False)
  v = _probe(operator)
  times = _interleaved([operator.gradient, lambda: operator @ v, lambda: free @ v], rounds)
  gradient, product, without = np.median(times, axis=1)
  lanczos, quadrature = _lanczos_seconds(operator.shape[0])
  share = (lanczos + quadrature) / (lanczos + quadrature + STEPS * product)
  where = f"ResNet-32, n = {operator.shape[0]}, {num_batches} batches of {batch_size}"
  return [
    _row(f"{where}: gradient", gradient, unit="s"),
    _row("  product", product, unit="s"),
    # Ratios of the same round, so that a slow moment of the machine is in both.
    _row("  product / gradient", np.median(times[1] / times[0]), 3.3),
    _row("  product without bitwise repeatability", without, unit="s"),
    _row("  time with repeatability / without", np.median(times[1] / times[2]), 1.05),
    _row("  Lanczos, 90 steps with the state on disk, without products", lanczos, unit="s"),
    _row("  quadrature and density of a draw", quadrature, unit="s"),
    _row("  their share of a density run", share, 0.02),
  ]


def _watching(batch_size, rounds):
  """The cost of comparing the checksum of each batch that is streamed with the first one."""
  watched, free = (_resnet(3, batch_size, cache_bytes=0) for _ in range(2))
  free.batches.changed = lambda *_: tf.constant(False)
  v = _probe(watched)
  times = _interleaved([lambda: watched @ v, lambda: free @ v], rounds)
  ratio = np.median(times[0] / times[1])
  return [_row("ResNet-32, streamed data: time with watching / without", ratio, 1.02)]


def _lanczos_seconds(n):
  """Returns what a draw of n parameters takes beside its products: (Lanczos, quadrature)."""
  diagonal = np.random.default_rng(2).standard_normal(n)
  operator = scipy.sparse.linalg.LinearOperator((n, n), matvec=lambda v: diagonal * v)
  with tempfile.TemporaryDirectory() as folder:
    begin = time.perf_counter()
    spectrum = tf_hessian.spectral_density(
      operator, num_draws=1, lanczos_steps=STEPS, workdir=folder, progress=False
    )
    lanczos = time.perf_counter() - begin
  return lanczos, _seconds(lambda: spectrum.density(sigma_squared=1e-5))


def _repeatability(batch_size):
  """Ten products in this process and ten in another: how many different ones there are."""
  here = _digests(2, batch_size)
  spawn = multiprocessing.get_context("spawn")
  with futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
    there = pool.submit(_digests, 2, batch_size).result()
  plain = _plain_digests(batch_size)
  return [
    _row("ten products: different results in this process", len(set(here)), 1),
    _row("ten products: different results in this and a fresh process", len({*here, *there}), 1),
    _row("ten products of one batch as TensorFlow runs them: different", len(set(plain))),
  ]


def _plain_digests(batch_size):
  """Ten products of one batch, by the same function without what makes it repeatable."""
  operator = _resnet(1, batch_size)
  objective = operator.objective
  product = products.hessian_product(objective, operator.mode)
  function = tf.function(products.of_one(product), autograph=False)
  rng = np.random.default_rng(1)
  arguments = [
    [tf.constant(p) for p in objective.parameters],
    [tf.constant(c) for c in objective.context],
    next(iter(operator.batches)),
    tf.constant([0, 0]),
    tf.ones(len(objective.coefficients), tf.float64),
    [
      tf.constant(rng.standard_normal(s), p.dtype)
      for s, p in zip(objective.shapes, objective.parameters, strict=True)
    ],
  ]
  results = [function(*arguments) for _ in range(10)]
  return [hashlib.sha256(b"".join(t.numpy().tobytes() for t in r)).hexdigest() for r in results]


def _digests(num_batches, batch_size):
  operator = _resnet(num_batches, batch_size)
  v = _probe(operator)
  return [hashlib.sha256((operator @ v).tobytes()).hexdigest() for _ in range(10)]


def _small_model():
  """The cost of a product that has next to no arithmetic, and memory over 200 products."""
  keras.utils.set_random_seed(0)
  model = keras.Sequential([keras.Input((9,)), keras.layers.Dense(10)])
  rng = np.random.default_rng(0)
  data = [(rng.standard_normal((8, 9), np.float32), rng.standard_normal((8, 10), np.float32))]
  operator = tf_hessian.HessianOperator(model, "mse", data)
  v = _probe(operator)
  times = _interleaved([lambda: operator @ v], 200)
  rows = [_row("product of 100 parameters, one batch", 1e3 * np.median(times), 3, unit="ms")]
  for name, big in (("100 parameters", operator), ("ResNet-32", _resnet(1, 16))):
    v = _probe(big)
    _interleaved([lambda v=v, big=big: big @ v], 5)
    before = _resident_bytes()
    for _ in range(200):
      big @ v
    grown = (_resident_bytes() - before) / 1e6
    rows.append(_row(f"resident memory grown over 200 products, {name}", grown, 5, unit="MB"))
  return rows


def _resident_bytes():
  with open("/proc/self/status") as status:
    line = next(line for line in status if line.startswith("VmRSS:"))
  return int(line.split()[1]) * 1024


if __name__ == "__main__":
  app.run(main)
