"""A task of a cluster in which worker 1 computes NaN: python nan_member.py OUTPUT"""

import json
import pathlib
import sys
import time

import tensorflow as tf

from tf_hessian import HessianOperator
from tf_hessian.distribute import cluster

FACTOR = "ram://test/factor"


def loss(parameters, batch):
  # Each process has its own file of this name.
  factor = tf.strings.to_number(tf.io.read_file(FACTOR), tf.float64)
  return factor * tf.reduce_sum((batch * parameters[0]) ** 2, 1)


def main(output):
  here = cluster.task()
  tf.io.write_file(FACTOR, "nan" if here.name == "worker 1" else "1")
  if cluster.serves("parameter_server"):
    cluster.serve()
    return
  strategy = cluster.make_strategy("parameter_server")
  with cluster.released("parameter_server"):
    batches = [tf.ones((2, 3), tf.float64)] * 16
    operator = HessianOperator([tf.ones(3, tf.float64)], loss, batches, strategy=strategy)
    error = ""
    deadline = time.monotonic() + 60
    while not error and time.monotonic() < deadline:  # until worker 1 has been handed a shard
      try:
        operator.gradient()
      except ValueError as e:
        error = str(e)
  (pathlib.Path(output) / "error.json").write_text(json.dumps({"error": error}))


if __name__ == "__main__":
  main(*sys.argv[1:])
