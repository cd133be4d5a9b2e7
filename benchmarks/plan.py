"""A plan against the run that it is of: python -m benchmarks.plan [case ...] [--rounds=3]

Each case is planned in a process and run in another, in turn. Prints the seconds and the peak of
resident memory that were predicted and that the run took, medians over the rounds, and exits with 1
if their ratio is outside 0.8 .. 1.25. The images are random but for the digits'.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from tf_hessian.slq.storage import Storage

BOUNDS = (0.8, 1.25)


def digits():
  """The 784-20-10 network on 1,000 digits, ten draws of 90 steps, ten draws a pass."""
  from tf_hessian.experiments import experiment
  from tf_hessian.experiments.configs import load_config

  setup = experiment.build(load_config("configs/mnist_mlp.py"))
  return setup.new_model(), setup.task.loss, setup.measured().batch(250), {}


def resnet():
  """ResNet-14 on six batches of 128 images of 32 x 32, two draws of 6 steps that share passes."""
  from tf_hessian.models.cifar_resnet import cifar_resnet

  options = {
    "training": True,
    "num_draws": 2,
    "lanczos_steps": 6,
    "storage": Storage(vectors_per_pass=2),
  }
  return cifar_resnet(depth=14), *_images((32, 32, 3), 6, 128), options


def streamed():
  """The same of batches of 32, one by one, made anew in each pass instead of kept in memory."""
  model, loss, data, _ = resnet()
  options = {"num_draws": 1, "lanczos_steps": 12, "cache_bytes": 0}
  return model, loss, data.unbatch().map(_distorted).batch(32), options


def wide():
  """A 784-2000-1000-10 network, n = 3.6 million, whose Lanczos vectors matter: in memory."""
  import keras

  sizes = (2000, 1000)
  layers = [keras.layers.Dense(size, "tanh") for size in sizes] + [keras.layers.Dense(10)]
  model = keras.Sequential([keras.Input((784,)), *layers])
  options = {"num_draws": 2, "lanczos_steps": 40, "storage": Storage("memory")}
  return model, *_images((784,), 4, 64), options


def wide_on_disk():
  """The same on disk, with 0.6 GB of memory for vectors."""
  model, loss, data, options = wide()
  storage = Storage("disk", memory=0.6e9, vectors_per_pass=2)
  return model, loss, data, options | {"storage": storage}


def wide_recorded():
  """The same in memory, with its state in a folder after each step."""
  model, loss, data, options = wide()
  return model, loss, data, options | {"workdir": tempfile.mkdtemp()}


CASES = {f.__name__: f for f in (digits, resnet, streamed, wide, wide_on_disk, wide_recorded)}


def _images(shape, num_batches, size):
  import keras
  import numpy as np
  import tensorflow as tf

  rng = np.random.default_rng(0)
  images = rng.standard_normal((num_batches * size, *shape), np.float32)
  labels = rng.integers(0, 10, len(images))
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  return loss, tf.data.Dataset.from_tensor_slices((images, labels)).batch(size)


def _distorted(image, label):
  """Stands for the decoding of an image."""
  import tensorflow as tf

  for _ in range(20):
    image = tf.math.tanh(tf.image.flip_left_right(image))
  return image, label


def case(name, what):
  """Plans or runs a case; returns (seconds, bytes, seconds that this took)."""
  import keras

  import tf_hessian

  keras.utils.set_random_seed(0)
  model, loss, data, options = CASES[name]()
  begin = time.monotonic()
  training = options.pop("training", False)
  operator = tf_hessian.HessianOperator(model, loss, data, training=training)
  if what == "plan":
    plan = tf_hessian.plan(operator, **options)
    print(plan, file=sys.stderr)
    return plan.total_seconds, plan.host_bytes, time.monotonic() - begin
  tf_hessian.spectral_density(operator, progress=False, **options)
  seconds = time.monotonic() - begin
  return seconds, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, seconds


def _process(name, what, verbose):
  command = [sys.executable, "-m", "benchmarks.plan", name, f"--what={what}"]
  done = subprocess.run(command, capture_output=True, text=True)
  if done.returncode:
    sys.exit(done.stderr[-3000:])
  if verbose:
    print(done.stderr)
  return json.loads(done.stdout.splitlines()[-1])


def main(options):
  failed = False
  for name in options.cases:
    found = {"plan": [], "run": []}
    for _ in range(options.rounds):
      for what, results in found.items():
        results.append(_process(name, what, options.verbose))
    predicted, taken = (
      [statistics.median(x) for x in zip(*r, strict=True)] for r in found.values()
    )
    for figure, unit, size in ((0, "s", 1), (1, "GB", 1e9)):
      ratio = predicted[figure] / taken[figure]
      inside = BOUNDS[0] <= ratio <= BOUNDS[1]
      failed |= not inside
      print(
        f"{name:14} predicted {predicted[figure] / size:8.3g} {unit:2}, took "
        f"{taken[figure] / size:8.3g} {unit:2}: ratio {ratio:.3f} "
        f"({'within' if inside else 'OUTSIDE'} {BOUNDS[0]} .. {BOUNDS[1]})"
        + (f"; planned in {predicted[2]:.3g} s" if figure == 0 else ""),
        flush=True,
      )
  sys.exit(1 if failed else 0)


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("cases", nargs="*", default=list(CASES))
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--verbose", action="store_true", help="show the plans")
  parser.add_argument("--what", choices=["plan", "run"], help="used by the command itself")
  arguments = parser.parse_args()
  if arguments.what:
    print(json.dumps(case(arguments.cases[0], arguments.what)))
  else:
    main(arguments)
