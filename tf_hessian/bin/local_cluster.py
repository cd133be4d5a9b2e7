"""Measures a checkpoint, or trains, with a whole cluster on this machine.

python -m tf_hessian.bin.local_cluster --workers=2 --ps=1 -- --config=... --workdir=...

With --ps it is a parameter-server cluster (chief, workers, servers), else one of equal workers.
What follows -- are the flags of tf_hessian.bin.spectrum, or with --command=train of
tf_hessian.bin.train. Ends when the chief does, with its exit
code; started again, the run goes on where it was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
import sys

from absl import flags as absl_flags
from absl import logging

from tf_hessian.bin import flags

WORKERS = absl_flags.DEFINE_integer("workers", 2, "Number of workers.", 1, 256)
PS = absl_flags.DEFINE_integer("ps", 0, "Number of parameter servers.", 0, 64)
COMMAND = absl_flags.DEFINE_enum(
  "command", "spectrum", ["spectrum", "train"], "What the cluster does."
)
PRIVATE = absl_flags.DEFINE_bool(
  "private_network",
  True,
  "Run the cluster where no other machine can be reached, nor reach it; not with --download.",
)


def main(arguments: Sequence[str]) -> None:
  """Runs the cluster, and ends with the exit code of its chief."""
  from tf_hessian.distribute import isolation, local

  if PRIVATE.value and not any(a.lstrip("-").split("=")[0] == "download" for a in arguments):
    try:
      isolation.enter()
    except OSError as e:
      logging.warning("the cluster has no network of its own: %s", e)
  sys.exit(local.run(arguments, workers=WORKERS.value, ps=PS.value, command=COMMAND.value))


if __name__ == "__main__":
  flags.run_plain(main, arguments=True)
