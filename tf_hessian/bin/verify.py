"""Compares a small model's estimated and exact spectrum (section B).

Both are in float64.

python -m tf_hessian.bin.verify --config=configs/mnist_mlp.py --workdir=runs/verify
"""

from __future__ import annotations

import sys

from tf_hessian.bin import flags, machine_flags
from tf_hessian.experiments import first_look


def main() -> None:
  """Prints the comparison; ends with exit code 1 if it fails."""
  first_look.look_at_training(flags.CONFIG.value, flags.WORKDIR.value)
  machine_flags.apply(True)
  from tf_hessian.studies import small_model

  numbers = small_model.verify(flags.CONFIG.value, flags.WORKDIR.value)
  print(small_model.report(numbers, flags.WORKDIR.value))
  if numbers["failed"]:
    sys.exit(1)


if __name__ == "__main__":
  flags.run(main)
