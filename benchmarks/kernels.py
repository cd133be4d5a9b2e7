"""Time of a pass by operations: python -m benchmarks.kernels

TensorFlow's profiler records every operation of a pass; printed are the shares of convolutions and
matrix products, and of the ten operations that take longest, of the time of all operations, and how
often each kind of convolution and matrix product runs. The rest of a pass, when no operation runs,
is printed too: with --threads=1 it is what is lost to input pipelines, copies and Python, and what
XLA's loops take, which are not recorded.
"""

import argparse
import collections
import glob
import os
import tempfile
import timeit

ARITHMETIC = ("Conv", "MatMul", "Einsum")


def resnet():
  from tf_hessian.models.cifar_resnet import cifar_resnet

  return cifar_resnet(depth=32), (128, 32, 32, 3), 10


def mlp():
  from tf_hessian.models.mlp import mlp as build

  return build(), (1000, 784), 10


def language_model():
  """That of `make bench-peers`: four blocks of width 128 on 64 tokens of 1,000."""
  from benchmarks.peers.transformer import transformer as build

  return build(), (16, 64), 1000


def transformer():
  """A small encoder: two blocks of attention and a dense layer, on 32 tokens of 64 numbers."""
  import keras

  layers = keras.layers
  x = inputs = keras.Input((32, 64))
  for _ in range(2):
    y = layers.MultiHeadAttention(4, 16)(layers.LayerNormalization()(x), x)
    x = layers.Add()([x, y])
    y = layers.Dense(64)(layers.Dense(256, activation="gelu")(layers.LayerNormalization()(x)))
    x = layers.Add()([x, y])
  logits = layers.Dense(10)(layers.GlobalAveragePooling1D()(x))
  return keras.Model(inputs, logits), (128, 32, 64), 10


MODELS = {
  "resnet32": resnet,
  "mlp": mlp,
  "transformer": transformer,
  "language_model": language_model,
}
BATCHES = 4


def operator(name, batches):
  """Returns the `HessianOperator` of a model on so many batches of random data."""
  import keras
  import numpy as np

  import tf_hessian

  keras.utils.set_random_seed(0)
  model, shape, classes = MODELS[name]()
  tokens = model.input.dtype == "int32"
  rng = np.random.default_rng(0)
  data = [
    (
      rng.integers(classes, size=shape) if tokens else rng.standard_normal(shape, np.float32),
      rng.integers(classes, size=shape if tokens else shape[:1]),
    )
    for _ in range(batches)
  ]
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  return tf_hessian.HessianOperator(model, loss, data, training=True)


def profile(function):
  """Returns (least seconds of a call, operation type -> seconds, operation type -> runs)."""
  import tensorflow as tf
  from tensorflow.tsl.profiler.protobuf import xplane_pb2

  function()
  wall = min(timeit.repeat(function, repeat=3, number=1))
  with tempfile.TemporaryDirectory() as folder:
    tf.profiler.experimental.start(folder)
    function()
    tf.profiler.experimental.stop()
    (path,) = glob.glob(os.path.join(folder, "**", "*.xplane.pb"), recursive=True)
    space = xplane_pb2.XSpace()
    with open(path, "rb") as file:
      space.ParseFromString(file.read())
  spent, runs = collections.Counter(), collections.Counter()
  for plane in space.planes:
    if plane.name != "/host:CPU":
      continue
    for line in plane.lines:
      for event in line.events:
        name = plane.event_metadata[event.metadata_id].name
        kind = _kind(name)
        if kind:
          spent[kind] += event.duration_ps / 1e12
          runs[kind] += 1
  return wall, spent, runs


def _kind(name):
  """Returns the type of the operation of an event, or None for events that hold others."""
  if ":" not in name or "::" in name or "#" in name or name.startswith("$"):
    return None
  kind = name.split(":")[-1].strip()
  return None if kind.startswith("__") or kind in ("While", "StatefulPartitionedCall") else kind


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--models", nargs="*", choices=list(MODELS), default=list(MODELS))
  parser.add_argument("--threads", type=int, default=1, help="of an operation, and for several")
  parser.add_argument("--inter_op_threads", type=int, help="for several, where not --threads")
  parser.add_argument("--batches", type=int, default=BATCHES)
  options = parser.parse_args()
  import numpy as np
  import tensorflow as tf

  tf.config.threading.set_intra_op_parallelism_threads(options.threads)
  tf.config.threading.set_inter_op_parallelism_threads(options.inter_op_threads or options.threads)
  for name in options.models:
    op = operator(name, options.batches)
    v = np.random.default_rng(1).standard_normal((10, op.shape[0]))
    functions = {
      "gradient": op.gradient,
      "product": lambda v=v, op=op: op @ v[0],
      "ten products": lambda v=v, op=op: op.products(v, vectors_per_pass=10),
    }
    for what, function in functions.items():
      wall, spent, runs = profile(function)
      total = sum(spent.values())
      arithmetic = [k for k, _ in spent.most_common() if any(a in k for a in ARITHMETIC)]
      share = sum(spent[k] for k in arithmetic) / total
      listed = ", ".join(f"{k} {t / total:.0%}" for k, t in spent.most_common(10))
      print(
        f"{name}, {what}: {wall:.3g} s; {share:.0%} of {total:.3g} s of operations are "
        f"convolutions and matrix products; {listed}; runs a batch: "
        + ", ".join(f"{k} {runs[k] / options.batches:g}" for k in arithmetic),
        flush=True,
      )


if __name__ == "__main__":
  main()
