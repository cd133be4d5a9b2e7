"""The command that has all others: tf-hessian COMMAND ..., or python -m tf_hessian."""

from __future__ import annotations

from collections.abc import Sequence
import runpy
import subprocess
import sys

from tf_hessian.bin import parsing
from tf_hessian.numerics import checks

# Command -> (module, arguments that come first, what it does).
COMMANDS: dict[str, tuple[str, tuple[str, ...], str]] = {
  "train": ("train", (), "trains the model of a config"),
  "spectrum": ("spectrum", (), "measures the spectrum of a config's model"),
  "plan": ("spectrum", ("--plan",), "says what that will take"),
  "eigenpairs": ("eigenpairs", (), "finds the largest eigenvalues with their eigenvectors"),
  "plot": ("plot", (), "draws spectra that were measured"),
  "curves": ("curves", (), "draws how runs trained"),
  "verify": ("verify", (), "compares products and a density with exact ones"),
  "reproduce": ("reproduce", (), "makes the paper's figures"),
  "local-cluster": ("local_cluster", (), "runs a command with a whole cluster on this machine"),
}
_DEMO = "trains a small network on 1,000 digits, and draws its spectrum"
_DEMO_FOLDER = "runs/mnist_mlp"


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the command that the first argument names.

  Args:
    arguments: words of the command; None for those of the process.
  """
  name, *rest = arguments or sys.argv[1:] or ["help"]
  if name in ("help", "-h", "--help", "--helpshort", "--helpfull"):
    print(usage())
  elif name == "demo":
    _demo(rest)
  elif name not in COMMANDS:
    known = [*COMMANDS, "demo"]
    near = checks.nearest(name, known)
    parsing.fail(f"unknown command {name!r}{near}; there are {', '.join(known)}")
  else:
    module, first, _ = COMMANDS[name]
    sys.argv = [f"tf-hessian {name}", *first, *rest]
    runpy.run_module(f"tf_hessian.bin.{module}", run_name="__main__")


def usage() -> str:
  """Returns what the commands do: text of a few lines."""
  lines = [f"  {name:15s}{text}" for name, (_, _, text) in COMMANDS.items()]
  lines.insert(0, f"  {'demo':15s}{_DEMO}")
  head = "tf-hessian COMMAND ...: the eigenvalue density of a neural network's Hessian"
  tail = "tf-hessian COMMAND --help lists the flags of a command."
  return "\n".join([head, "", *lines, "", tail])


def _demo(arguments):
  """Trains, and measures, each in a process of its own."""
  if not any(a.lstrip("-").startswith("workdir") for a in arguments):
    arguments = [f"--workdir={_DEMO_FOLDER}", *arguments]
  for command in ("train", "spectrum"):
    words = [sys.executable, "-m", "tf_hessian", command, "--config=mnist_mlp", *arguments]
    done = subprocess.run(words)
    if done.returncode:
      sys.exit(done.returncode)


if __name__ == "__main__":
  main()
