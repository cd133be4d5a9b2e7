"""A command that ends with the process that started it.

It is run by python tether.py PID COMMAND... Imports nothing of ours, to begin quickly. The command
replaces this program.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: str, *command: str) -> None:
  """Becomes the command, which ends with the process whose number `parent` is."""
  if sys.platform == "linux":
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it has ended before
      sys.exit(1)
  os.execvp(command[0], command)


if __name__ == "__main__":
  main(*sys.argv[1:])
