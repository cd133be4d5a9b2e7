"""CPU seconds before the first Lanczos step: python -m benchmarks.start --baseline=335cb3a

Checks a commit out beside this one (335cb3a is version 0.1.0) and lets both, in turns and in
processes of their own, take ten draws of two steps. Set-up is what the run takes more than the same
run again, whose functions are built. Prints it for each network with the ratio, beside the first
call of the network's own gradient in a tf.function, less the second.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
import time

_SCRIPT = pathlib.Path(__file__).resolve()
APPLICATIONS = ("MobileNetV2", "EfficientNetB0", "DenseNet121", "ResNet50V2")
# At 299 pixels; --networks names it, since 0.1.0 takes minutes.
LARGE = "InceptionV3"
NETWORKS = ("resnet32", "lstm", "transformer", "dense", *APPLICATIONS)
_RUN = {"num_draws": 10, "lanczos_steps": 2, "progress": False}


def network(name: str):
  """Returns a model, its loss and a list of batches."""
  import keras
  from keras import layers
  import numpy as np

  from tf_hessian.models.cifar_resnet import cifar_resnet
  from tf_hessian.models.mlp import mlp

  keras.utils.set_random_seed(0)
  rng = np.random.default_rng(0)
  shape, size, classes = (32, 32, 3), 16, 10
  if name == "resnet32":
    model, size = cifar_resnet(depth=32), 8  # a run takes less than its set-up, and varies less
  elif name == "dense":
    model, shape, size = mlp(input_shape=(784,), hidden_units=(20,), num_classes=10), (784,), 250
  elif name == "lstm":
    shape, size = (20, 3), 64
    model = keras.Sequential(
      [keras.Input(shape), layers.Bidirectional(layers.LSTM(8)), layers.Dense(classes)]
    )
  elif name == "transformer":
    shape, size = (64,), 8
    model = transformer()
  else:
    if name == LARGE:
      shape, size = (299, 299, 3), 4
    model = getattr(keras.applications, name)(
      weights=None, input_shape=shape, classes=classes, classifier_activation=None
    )
  x = rng.standard_normal((size, *shape), np.float32)
  if name == "transformer":
    x = rng.integers(1000, size=(size, *shape))
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  return model, loss, [(x, rng.integers(classes, size=size))]


def transformer():
  """Returns four blocks of width 128 and 8 heads, for 64 tokens of a vocabulary of 1,000."""
  import keras
  from keras import layers

  x = inputs = keras.Input((64,), dtype="int32")
  x = layers.Embedding(1000, 128)(x)
  for _ in range(4):
    h = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(8, 16)(h, h)
    h = layers.LayerNormalization()(x)
    x = x + layers.Dense(128)(layers.Dense(512, "gelu")(h))
  return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


def child(name: str) -> dict[str, float]:
  """Measures a network by the version that can be imported here."""
  import tensorflow as tf

  import tf_hessian

  make = tf_hessian.HessianOperator
  run = getattr(tf_hessian, "estimate_spectrum", None) or tf_hessian.spectral_density
  tf.constant(0.0)  # devices are there
  model, loss, data = network(name)

  def gradient():
    with tf.GradientTape() as tape:
      value = loss(data[0][1], model(data[0][0], training=False))
    return tape.gradient(value, model.trainable_variables)

  function = tf.function(gradient, autograph=False)
  first = _seconds(function) - _seconds(function)
  begin = time.process_time()
  operator = make(model, loss, data)
  built = time.process_time() - begin
  setup = built + _seconds(lambda: run(operator, **_RUN)) - _seconds(lambda: run(operator, **_RUN))
  return {"gradient": first, "setup": setup}


def _seconds(function):
  begin = time.process_time()
  function()
  return time.process_time() - begin


def compare(tree: pathlib.Path, names: list[str], rounds: int) -> None:
  """Prints a line for each network."""
  from benchmarks.baseline import ROOT, run_python

  installed = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tree / "bytecode")}
  print("CPU seconds    gradient, first    before       now   ratio    now / gradient", flush=True)
  for name in names:
    found: dict = {tree: [], ROOT: []}
    for _ in range(rounds):
      for where, results in found.items():
        said = run_python(where, [_SCRIPT, "--child", name], **installed)
        results.append(json.loads(said.strip().split("\n")[-1]))
    before, now = (statistics.median(r["setup"] for r in x) for x in found.values())
    gradient = statistics.median(r["gradient"] for x in found.values() for r in x)
    print(
      f"{name:15s}{gradient:15.2f}{before:10.2f}{now:10.2f}{now / before:8.2f}"
      f"{now / gradient:18.1f}",
      flush=True,
    )


def main() -> int:
  """Reads the arguments; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--baseline", default="335cb3a", help="commit to compare with")
  parser.add_argument("--rounds", type=int, default=1, help="processes of each version")
  parser.add_argument("--networks", default=",".join(NETWORKS), help="which, with commas")
  parser.add_argument("--child", help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.child:
    print(json.dumps(child(options.child)))
    return 0
  from benchmarks.baseline import checked_out

  with checked_out(options.baseline) as tree:
    compare(tree, options.networks.split(","), options.rounds)
  return 0


if __name__ == "__main__":
  sys.exit(main())
