"""Products of the ImageNet models at full size: python -m benchmarks.imagenet --data_dir=...

For ResNet-18 and Inception V3 with its auxiliary head, on two images of 299 x 299 of the TFDS set
imagenet2012, each in a process of its own: seconds of the first product (which traces) and of
another, the peak of the resident memory, and the relative distance of the product to central
differences of gradients. The gradients are a plain `tf.GradientTape`'s, of a float64 copy. Exits
with 1 if a float64 product differs from them by more than it may.
"""

import json
import pathlib
import resource
import subprocess
import sys
import time

from absl import app, flags

DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder with the TFDS set imagenet2012.")
CASE = flags.DEFINE_string("case", None, "Used by the command itself.")

CONFIGS = ("imagenet_resnet18", "imagenet_inception_v3")
NUM_IMAGES = 2
# Along a unit vector. The fewer of the millions of ReLUs change sides, the better (one that does
# adds its jump over the step), until rounding errors of the gradients over the step are larger: the
# best of these counts.
STEPS = (1e-6, 1e-7, 1e-8)
# Differences in float64 have about half of its digits. What float32 loses is printed, without a
# bound: statistics of two images make it large, as those of the 1 x 1 map of the auxiliary head,
# which normalise two numbers.
BOUND = 1e-5
ROOT = pathlib.Path(__file__).resolve().parents[1]


def case(name, training, data_dir):
  """Returns the figures of one model: a dict."""
  import keras
  import numpy as np

  from tf_hessian.curvature.precision import float64_model
  from tf_hessian.experiments import experiment

  setup = experiment.build(_config(name, training), data_dir=data_dir)
  model = setup.new_model()
  operator = setup.operator(model)
  rng = np.random.default_rng(0)
  v = rng.standard_normal(operator.shape[0])
  v /= np.linalg.norm(v)
  seconds = []
  for _ in range(3):
    begin = time.monotonic()
    product = operator @ v
    seconds.append(time.monotonic() - begin)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  exact_model = float64_model(model)
  keras.config.set_floatx("float64")  # of the loss
  exact = setup.operator(exact_model, dtype="float64") @ v
  (batch,) = setup.measured().batch(NUM_IMAGES)
  differences = min(
    _differences(exact_model, setup.task, batch, training, v),
    key=lambda d: np.linalg.norm(d - exact),
  )
  length = np.linalg.norm(differences)
  return {
    "parameters": operator.shape[0],
    "first": seconds[0],
    "seconds": min(seconds[1:]),
    "peak_gib": peak,
    "float64": float(np.linalg.norm(exact - differences) / length),
    "float32": float(np.linalg.norm(product - differences) / length),
  }


def _config(name, training):
  from tf_hessian.experiments.configs import load_config

  config = load_config(ROOT / "configs" / f"{name}.py")
  config.hessian.training = training
  config.hessian.num_examples = config.hessian.batch_size = NUM_IMAGES
  if "dropout_rate" in config.model:
    config.model.dropout_rate = 0.0  # a plain model would draw anew in each gradient
  return config


def _differences(model, task, batch, training, v):
  """Returns the central differences of the gradient along v, with each of `STEPS`."""
  import numpy as np
  import tensorflow as tf

  images, targets = tf.nest.map_structure(lambda t: tf.cast(t, tf.float64), batch)
  targets = tf.nest.flatten(targets)[0]
  variables = [w.value for w in model.trainable_variables]

  @tf.function
  def gradient():
    with tf.GradientTape() as tape:
      loss, _ = task.measure(model, images, targets, training=training)
    return tf.concat([tf.reshape(g, [-1]) for g in tape.gradient(loss, variables)], 0)

  point = [w.numpy() for w in variables]
  parts = np.split(v, np.cumsum([w.size for w in point])[:-1])

  def at(step):
    for w, value, part in zip(variables, point, parts, strict=True):
      w.assign(value + step * part.reshape(value.shape))
    return gradient().numpy()

  return [(at(step) - at(-step)) / (2 * step) for step in STEPS]


def main(_):
  if CASE.value:
    name, training = json.loads(CASE.value)
    print(json.dumps(case(name, training, DATA_DIR.value)))
    return
  failed = False
  for name in CONFIGS:
    for training in (True, False):
      found = _run(name, training)
      failed |= not found["float64"] <= BOUND
      print(
        f"{name}, {'batch' if training else 'moving'} statistics, n = {found['parameters']:,}: "
        f"first product {found['first']:.1f} s, another {found['seconds']:.2f} s, peak "
        f"{found['peak_gib']:.2f} GiB; to differences of gradients: {found['float64']:.1e} in "
        f"float64, {found['float32']:.1e} in float32",
        flush=True,
      )
  if failed:
    sys.exit(f"FAILED: expected at most {BOUND} in float64")


def _run(name, training):
  command = [sys.executable, "-m", "benchmarks.imagenet", "--case", json.dumps([name, training])]
  if DATA_DIR.value:
    command.append(f"--data_dir={DATA_DIR.value}")
  done = subprocess.run(command, capture_output=True, text=True)
  if done.returncode:
    sys.exit(done.stderr[-3000:])
  return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
  app.run(main)
