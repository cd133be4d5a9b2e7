"""Flags of how a pass over the data is computed; docs/cluster.md."""

from absl import flags

DETERMINISTIC = flags.DEFINE_bool("deterministic", True, "Bitwise the same product every time.")
JIT_COMPILE = flags.DEFINE_bool("jit_compile", False, "Compile a batch's function by XLA.")
BLOCKS = flags.DEFINE_integer(
  "recompute_blocks", None, "Blocks whose activations are computed again, to save memory.", 1, 10**6
)

DRAWS = flags.DEFINE_integer(
  "vectors_per_pass",
  None,
  "Draws whose products share a pass; default: as many as have room.",
  1,
  10**6,
)
BASIS = flags.DEFINE_enum(
  "basis",
  "auto",
  ["auto", "memory", "workers", "disk", "float32", "float32_disk"],
  "Where the Lanczos vectors live; auto: where there is room. docs/design/basis.md",
)
MEMORY = flags.DEFINE_float(
  "memory_budget", None, "GB that vectors may take; default: 70 % of what there is."
)
flags.register_validator(
  "memory_budget", lambda gb: gb is None or 0 < gb <= 1e9, "a number of GB above 0 is expected"
)


def options():
  """Returns the flags as arguments of `commands.spectrum`."""
  return {
    "deterministic": DETERMINISTIC.value,
    "jit_compile": JIT_COMPILE.value,
    "recompute_blocks": BLOCKS.value,
    "vectors_per_pass": DRAWS.value,
    "basis": BASIS.value,
    "memory_budget": MEMORY.value and 1e9 * MEMORY.value,
  }
