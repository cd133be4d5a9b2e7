"""A task of equal workers, one of which reads other data later: python changing_member.py OUTPUT"""

import json
import pathlib
import sys

import numpy as np
import tensorflow as tf

from tf_hessian import HessianOperator
from tf_hessian.distribute import cluster

CHANGE = [False]


def batches():
  for b in range(6):
    x = np.full((2, 3), b + 1.0)
    x[0, 0] += 1e-9 * (CHANGE[0] and b == 4)
    yield x


def loss(parameters, batch):
  return tf.reduce_sum((batch * parameters[0]) ** 2, 1)


def main(output):
  here = cluster.task()
  strategy = cluster.make_strategy("multi_worker")
  data = tf.data.Dataset.from_generator(batches, output_signature=tf.TensorSpec((2, 3), tf.float64))
  operator = HessianOperator([tf.ones(3, tf.float64)], loss, data, strategy=strategy, cache_bytes=1)
  v = np.ones(3)
  before = (operator @ v).tolist()
  CHANGE[0] = here.name == "worker 1"
  errors = []
  for _ in range(2):
    try:
      operator @ v
    except ValueError as e:
      errors.append(f"{type(e).__name__}: {e}")
  path = pathlib.Path(output) / f"{here.name}.json"
  path.write_text(json.dumps({"before": before, "errors": errors}))


if __name__ == "__main__":
  main(*sys.argv[1:])
