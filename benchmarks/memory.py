"""Peak memory of a product with and without recomputed blocks: python -m benchmarks.memory

A Hessian-vector product of a deep residual network on one batch, each case in a process of its own,
and one of a network whose logits are 30,000 words for 8 x 128 tokens, by its width: the peak of the
resident memory during a second product, above what there was before it, with large blocks of memory
given back to the system as soon as they are free (and without oneDNN, whose allocator does not do
that). The seconds are from another process, with TensorFlow's defaults.
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
WORDS, TOKENS, WIDTHS = 30_000, (8, 128), (8, 32, 64)
# Two tensors like the logits, and what is of the size of the parameters and of inner layers.
_MOST_LOGITS = {8: 2.5, 32: 2.5, 64: None}
GIVE_BACK = {"TF_ENABLE_ONEDNN_OPTS": "0", "MALLOC_MMAP_THRESHOLD_": "524288"}


def case(blocks, width=None):
  """Returns (MiB above the baseline, seconds, norm of the product) of one case."""
  import keras
  import numpy as np

  from tf_hessian import HessianOperator
  from tf_hessian.distribute import memory
  from tf_hessian.models.cifar_resnet import cifar_resnet

  keras.utils.set_random_seed(0)
  rng = np.random.default_rng(0)
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  if width:
    inputs = keras.Input(TOKENS[1:], dtype="int32")
    x = keras.layers.Embedding(WORDS, width)(inputs)
    x = keras.layers.Dense(width, activation="gelu")(x)
    model = keras.Model(inputs, keras.layers.Dense(WORDS)(x))
    data = rng.integers(0, WORDS, TOKENS), rng.integers(0, WORDS, TOKENS)
  else:
    model = cifar_resnet(depth=DEPTH)
    images = rng.standard_normal((BATCH_SIZE, 32, 32, 3), np.float32)
    data = images, rng.integers(0, 10, BATCH_SIZE)
  operator = HessianOperator(
    model, loss, [data], training=not width, recompute_blocks=None if width else blocks
  )
  v = rng.standard_normal(operator.shape[0])
  first = operator @ v
  operator @ v
  ctypes.CDLL(None).malloc_trim(0)
  memory.reset_peak()
  before = memory.resident()
  begin = time.monotonic()
  second = operator @ v
  seconds = time.monotonic() - begin
  assert np.array_equal(first, second)
  return (memory.peak() - before) / 2**20, seconds, float(np.linalg.norm(first))


def run_case(module, argument, /, **environment):
  """Returns what a module of benchmarks prints of a case, in a process of its own."""
  command = [sys.executable, "-m", f"benchmarks.{module}", "--case", json.dumps(argument)]
  done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
  if done.returncode:
    sys.exit(done.stderr[-3000:])
  return json.loads(done.stdout.splitlines()[-1])


def main():
  failed = _of_words()
  _of_blocks()
  if failed:
    sys.exit("failed: a figure is above its bound")


def _of_words():
  """Prints the memory of products of large vocabularies; returns whether it is too much."""
  logits = 4 * WORDS * TOKENS[0] * TOKENS[1] / 2**20
  print(
    f"{WORDS:,} words, {TOKENS[0]} x {TOKENS[1]} tokens: logits of {logits:.0f} MiB", flush=True
  )
  failed = False
  for width in WIDTHS:
    memory, _, norm = run_case("memory", (None, width), **GIVE_BACK)
    most = _MOST_LOGITS[width]
    bound = "" if most is None else f" (bound: {most})"
    print(
      f"width {width:3}: {memory:4.0f} MiB, {memory / logits:.2f} times the logits{bound}, "
      f"|Hv| {norm:.6g}",
      flush=True,
    )
    failed |= most is not None and memory > most * logits
  return failed


def _of_blocks():
  print(f"ResNet-{DEPTH}, one batch of {BATCH_SIZE} images of 32 x 32, float32", flush=True)
  plain = None
  for blocks in BLOCKS:
    memory, _, norm = run_case("memory", (blocks,), **GIVE_BACK)
    _, seconds, _ = run_case("memory", (blocks,))
    plain = plain or memory
    name = "no recomputation" if blocks is None else f"{blocks} blocks"
    print(
      f"{name:17} {memory:7.0f} MiB ({memory / plain:.2f} of the first), {seconds:5.2f} s a "
      f"product, |Hv| {norm:.6g}",
      flush=True,
    )


if __name__ == "__main__":
  if sys.argv[1:2] == ["--case"]:
    print(json.dumps(case(*json.loads(sys.argv[2]))))
  else:
    main()
