"""Measures a checkpoint with a whole cluster on this machine.

python -m tf_hessian.bin.local_cluster --workers=2 --ps=1 -- --config=... --workdir=...

With --ps it is a parameter-server cluster (chief, workers, servers), else one of equal workers.
What follows -- are the flags of tf_hessian.bin.spectrum. Ends when the chief does, with its exit
code; started again, the run goes on where it was interrupted.
"""

import sys

from absl import flags as absl_flags

from tf_hessian.bin import flags

WORKERS = absl_flags.DEFINE_integer("workers", 2, "Number of workers.", lower_bound=1)
PS = absl_flags.DEFINE_integer("ps", 0, "Number of parameter servers.", lower_bound=0)


def main(arguments):
  from tf_hessian.distribute import local

  sys.exit(local.run(arguments, workers=WORKERS.value, ps=PS.value))


if __name__ == "__main__":
  flags.run_plain(main, arguments=True)
