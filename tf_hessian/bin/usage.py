"""The text of --help: a command's own flags, then those it shares.

Grappler's are many, and left to --helpfull.
"""

from __future__ import annotations

from collections.abc import Sequence
import sys

from absl import flags

_SHARED = {  # modules of shared flags, in the order in which they are listed
  "config_flag": "Config",
  "flags": "Folder",
  "own_flags": "Your own model, without a config",
  "weights_flags": "Weights that are measured",
  "run_flags": "Data, devices, passes over the data, Lanczos vectors",
  "machine_flags": "Threads and memory",
}
_ASKED = frozenset(("-h", "-?", "-help", "--help", "-helpshort", "--helpshort"))


def is_asked_for(argv: Sequence[str], /) -> bool:
  """Returns whether the words of a command ask for help."""
  return any(word in _ASKED for word in argv[1:])


def text(doc: str, /, *, own: bool = True) -> str:
  """Returns the help of this process's command.

  Args:
    doc: the docstring of its module.
    own: whether it has a config and a folder.
  """
  known = flags.FLAGS.flags_by_module_dict()
  titles = {sys.argv[0]: "Flags of the command"}
  shared = {k: v for k, v in _SHARED.items() if own or k not in ("config_flag", "flags")}
  titles |= {f"tf_hessian.bin.{name}": title for name, title in shared.items()}
  parts = [doc.strip(), ""]
  for module, title in titles.items():
    if module in known:
      lines = flags.FLAGS.module_help(module).strip("\n").split("\n")
      parts += [f"{title}:", *lines[1:], ""]
  return "\n".join([*parts, "--helpfull lists the flags of all modules, Grappler's among them."])
