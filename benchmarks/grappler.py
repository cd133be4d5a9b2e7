"""What each rewrite of Grappler costs or saves: python -m benchmarks.grappler

A Hessian-vector product of ResNet-32 on one batch, with the rewrites that are off by default
switched on, together and one by one, and with none at all; each case in a process of its own.
Seconds are the processor's: of the first product, which has the rewriting in it, and of the best of
some others. The peak is that of the resident memory during a product, above what there was before,
without oneDNN (benchmarks.memory).
"""

import ctypes
import json
import sys
import time

from benchmarks.memory import GIVE_BACK, run_case

DEPTH = 32
BATCH_SIZE = 128
REPEATS = 3
# Rewrites of what a product has: no collectives, no plugins, no mixed precision.
ON = (
  "layout_optimizer",
  "shape_optimization",
  "dependency_optimization",
  "loop_optimization",
  "function_optimization",
)
CASES = {
  "as it is": {},
  "all of these": dict.fromkeys(ON, True),
  "none at all": {"disable_meta_optimizer": True},
  "as it is, again": {},  # how far two runs of the same differ
  **{f"--{name}": {name: True} for name in ON},
}


def case(chosen):
  """Returns (MiB above the baseline, seconds of the first product, of the best) of one case."""
  import keras
  import numpy as np

  from tf_hessian import HessianOperator
  from tf_hessian.distribute import machine, memory
  from tf_hessian.models.cifar_resnet import cifar_resnet

  machine.set_threads(1, 1)
  machine.set_grappler(chosen)
  keras.utils.set_random_seed(0)
  rng = np.random.default_rng(0)
  images = rng.standard_normal((BATCH_SIZE, 32, 32, 3), np.float32)
  labels = rng.integers(0, 10, BATCH_SIZE)
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  operator = HessianOperator(cifar_resnet(depth=DEPTH), loss, [(images, labels)], training=True)
  v = rng.standard_normal(operator.shape[0])
  seconds, peaks = [], []
  for _ in range(1 + REPEATS):
    ctypes.CDLL(None).malloc_trim(0)
    memory.reset_peak()
    before, begin = memory.resident(), time.process_time()
    operator @ v
    seconds.append(time.process_time() - begin)
    peaks.append(memory.peak() - before)
  return min(peaks[1:]) / 2**20, seconds[0], min(seconds[1:])


def main():
  print(f"ResNet-{DEPTH}, one batch of {BATCH_SIZE} images, float32, one thread", flush=True)
  print(f"{'':32} {'peak':>10} {'first':>8} {'another product':>16}", flush=True)
  for text, chosen in CASES.items():
    peak, first, seconds = run_case("grappler", chosen, **GIVE_BACK)
    print(f"{text:32} {peak:6.0f} MiB {first:6.1f} s {seconds:14.2f} s", flush=True)


if __name__ == "__main__":
  if sys.argv[1:2] == ["--case"]:
    print(json.dumps(case(json.loads(sys.argv[2]))))
  else:
    main()
