"""Flags of how a pass over the data is computed; docs/cluster.md."""

from absl import flags

DETERMINISTIC = flags.DEFINE_bool("deterministic", True, "Bitwise the same product every time.")
JIT_COMPILE = flags.DEFINE_bool("jit_compile", False, "Compile a batch's function by XLA.")
BLOCKS = flags.DEFINE_integer(
  "recompute_blocks", None, "Blocks whose activations are computed again, to save memory.", 1
)


def options():
  """Returns the flags as arguments of `commands.spectrum`."""
  return {
    "deterministic": DETERMINISTIC.value,
    "jit_compile": JIT_COMPILE.value,
    "recompute_blocks": BLOCKS.value,
  }
