"""Of variables with a copy on each replica, one value is used everywhere."""

import json
import sys

import pytest

SECONDS = 900  # of what hangs
SCRIPT = """
import json
import keras
import numpy as np
import tensorflow as tf
from absl import logging

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import tf_hessian

lines = []
logging.warning = lambda text, *values: lines.append(text % values)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
layers, rng = keras.layers, np.random.default_rng(0)
with strategy.scope():
  parts = [layers.Dense(4), layers.BatchNormalization(), layers.Dense(1)]
  model = keras.Sequential([keras.Input((3,)), *parts])
  model.compile("sgd", "mse")
x, y = rng.standard_normal((8, 3)).astype("f4"), rng.standard_normal((8, 1)).astype("f4")
model.fit(x, y, batch_size=8, verbose=0)
copies = [v.numpy().tolist() for v in model.layers[1].moving_mean.value.values]
data = [(x[:4], y[:4]), (x[4:], y[4:])]
found = []
for s in (strategy, None):
  operator = tf_hessian.HessianOperator(model, "mse", data, strategy=s)
  found.append([operator.loss(), (operator @ np.ones(operator.shape[0])).tolist()])
expected = float(np.mean((np.array(model(x)) - y) ** 2))
print(json.dumps({"copies": copies, "found": found, "expected": expected, "lines": lines}))
"""


@pytest.fixture(scope="module")
def result(forked):
  process = forked([sys.executable, "-c", SCRIPT])
  out, err = process.communicate(timeout=SECONDS)
  assert process.returncode == 0, err[-2000:]
  return json.loads(out.splitlines()[-1])


def test_copies_of_moving_statistics_differ_after_training_on_replicas(result):
  assert result["copies"][0] != result["copies"][1]


def test_replicas_measure_the_model_that_one_device_measures(result):
  (loss, product), (loss_alone, product_alone) = result["found"]
  # Sums over batches in float64, of the same float32 numbers.
  assert loss == pytest.approx(loss_alone, rel=1e-12)
  assert product == pytest.approx(product_alone, rel=1e-12)
  assert loss == pytest.approx(result["expected"], rel=1e-6)  # a mean in float32


def test_which_copy_is_used_is_said_once_an_operator(result):
  said = [line for line in result["lines"] if "copies on the replicas differ" in line]
  assert len(said) == 2
  assert all("moving_mean" in line and "first replica" in line for line in said)
