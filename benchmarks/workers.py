"""Times two workers against one: python -m benchmarks.workers [strategy]

A pass of Hessian-vector products of ResNet-32 over 40 batches of 128 images of 32 x 32, by workers
with one thread each, on this machine. Prints the seconds and exits with 1 if two workers take more
than 0.6 of the time of one, with either strategy.
"""

import json
import pathlib
import sys
import tempfile
import time

from tf_hessian.distribute.local import LocalCluster

NUM_BATCHES = 40
NUM_SHARDS = 20
BATCH_SIZE = 128
PASSES = 2  # timed, after one to warm up; the shortest counts, since machines are shared
BOUND = 0.6
_LIMIT = 1800.0


def member(strategy, output):
  """Runs one process; the chief writes the seconds of the passes."""
  import keras
  import numpy as np
  import tensorflow as tf

  from tf_hessian import HessianOperator, Sharing
  from tf_hessian.distribute import cluster, machine
  from tf_hessian.models.cifar_resnet import cifar_resnet

  machine.set_threads(1, 1)
  if cluster.serves(strategy):
    cluster.serve()
    return
  tf_strategy = cluster.make_strategy(strategy)
  with cluster.released(strategy):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((NUM_BATCHES * BATCH_SIZE, 32, 32, 3), np.float32)
    labels = rng.integers(0, 10, len(images))
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(BATCH_SIZE)
    keras.utils.set_random_seed(0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sharing = Sharing(tf_strategy, num_shards=NUM_SHARDS)
    operator = HessianOperator(cifar_resnet(), loss, data, training=True, strategy=sharing)
    v = rng.standard_normal(operator.shape[0])
    seconds = []
    for _ in range(PASSES + 1):
      begin = time.monotonic()
      operator @ v  # noqa: B018
      seconds.append(time.monotonic() - begin)
  if operator.engine.leads:
    pathlib.Path(output).write_text(json.dumps(seconds[1:]))


def measure(strategy, workers):
  """Returns the shortest seconds of a pass."""
  with tempfile.TemporaryDirectory() as folder:
    output = pathlib.Path(folder) / "seconds.json"
    arguments = ["--member", strategy, str(output)]
    command = [sys.executable, "-m", "benchmarks.workers", *arguments]
    ps = 1 if strategy == "parameter_server" else 0
    lines = []
    with LocalCluster(
      command, workers=workers, ps=ps, output=lambda *line: lines.append(line)
    ) as cluster:
      if cluster.wait(_LIMIT):
        raise RuntimeError("\n".join(f"[{name}] {line}" for name, line in lines[-50:]))
    return min(json.loads(output.read_text()))


def main():
  strategies = sys.argv[1:] or ("multi_worker", "parameter_server")
  print(f"ResNet-32, {NUM_BATCHES} batches of {BATCH_SIZE}, workers of one thread each", flush=True)
  failed = False
  for strategy in strategies:
    one, two = (measure(strategy, count) for count in (1, 2))
    ratio = two / one
    failed |= ratio > BOUND
    print(
      f"{strategy:17} one worker {one:6.2f} s a pass, two {two:6.2f} s: ratio {ratio:.3f} "
      f"(bound {BOUND})",
      flush=True,
    )
  sys.exit(1 if failed else 0)


if __name__ == "__main__":
  if sys.argv[1:2] == ["--member"]:
    member(sys.argv[2], sys.argv[3])
  else:
    main()
