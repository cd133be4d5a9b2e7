"""Damages what runs and trainings leave on disk: python -m benchmarks.faults [--seconds=60]

Each trial takes a folder of a run or a training, damages a file, puts a user's files into the
folder, or kills the process at a random moment, and starts again. It must end with bitwise the
undisturbed result, or with one error that names the file or folder. Nothing of the user's and no
good result may be touched. Prints what became of the trials; fails if one ended otherwise.
"""

import argparse
import sys
import tempfile
import time

from benchmarks.faults.trials import Trials


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--seconds", type=float, default=60.0)
  parser.add_argument("--seed", type=int, default=0)
  options = parser.parse_args()
  from absl import logging

  logging.set_verbosity(logging.ERROR)  # what is damaged is said, many times over
  end = time.monotonic() + options.seconds
  with tempfile.TemporaryDirectory() as root:
    trials = Trials(root, options.seed)
    while time.monotonic() < end:
      trials.one()
  print(f"seed {options.seed}: {trials.report()}")
  for line in trials.bad:
    print(line)
  sys.exit(bool(trials.bad))


if __name__ == "__main__":
  main()
