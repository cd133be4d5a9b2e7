"""Peak memory of a product with and without recomputed blocks: python -m benchmarks.memory

A Hessian-vector product of a deep residual network on one batch, each case in a process of its own:
the peak of the resident memory during a second product, above what there was before it, with large
blocks of memory given back to the system as soon as they are free (and without oneDNN, whose
allocator does not do that). The seconds are from another process, with TensorFlow's defaults.
"""

import ctypes
import json
import os
import subprocess
import sys
import time

DEPTH = 56
BATCH_SIZE = 128
BLOCKS = (None, 2, 4, 8, 16)
# TensorFlow's allocator for oneDNN keeps what it once had, and so does malloc for small blocks.
_GIVE_BACK = {"TF_ENABLE_ONEDNN_OPTS": "0", "MALLOC_MMAP_THRESHOLD_": "524288"}


def case(blocks):
  """Returns (MiB above the baseline, seconds, norm of the product) of one case."""
  import keras
  import numpy as np

  from tf_hessian import HessianOperator
  from tf_hessian.distribute import memory
  from tf_hessian.models.cifar_resnet import cifar_resnet

  keras.utils.set_random_seed(0)
  rng = np.random.default_rng(0)
  images = rng.standard_normal((BATCH_SIZE, 32, 32, 3), np.float32)
  labels = rng.integers(0, 10, BATCH_SIZE)
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  operator = HessianOperator(
    cifar_resnet(depth=DEPTH), loss, [(images, labels)], training=True, recompute_blocks=blocks
  )
  v = rng.standard_normal(operator.shape[0])
  first = operator @ v
  ctypes.CDLL(None).malloc_trim(0)
  memory.reset_peak()
  before = memory.resident()
  begin = time.monotonic()
  second = operator @ v
  seconds = time.monotonic() - begin
  assert np.array_equal(first, second)
  return (memory.peak() - before) / 2**20, seconds, float(np.linalg.norm(first))


def _run(blocks, **environment):
  command = [sys.executable, "-m", "benchmarks.memory", "--case", json.dumps(blocks)]
  done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
  if done.returncode:
    sys.exit(done.stderr[-3000:])
  return json.loads(done.stdout.splitlines()[-1])


def main():
  print(f"ResNet-{DEPTH}, one batch of {BATCH_SIZE} images of 32 x 32, float32", flush=True)
  plain = None
  for blocks in BLOCKS:
    memory, _, norm = _run(blocks, **_GIVE_BACK)
    _, seconds, _ = _run(blocks)
    plain = plain or memory
    name = "no recomputation" if blocks is None else f"{blocks} blocks"
    print(
      f"{name:17} {memory:7.0f} MiB ({memory / plain:.2f} of the first), {seconds:5.2f} s a "
      f"product, |Hv| {norm:.6g}",
      flush=True,
    )


if __name__ == "__main__":
  if sys.argv[1:2] == ["--case"]:
    print(json.dumps(case(json.loads(sys.argv[2]))))
  else:
    main()
