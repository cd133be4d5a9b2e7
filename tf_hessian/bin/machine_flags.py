"""Flags of the machine: threads, memory, Grappler, TF32."""

from __future__ import annotations

from absl import flags, logging

from tf_hessian import portable
from tf_hessian.distribute import grappler

_ROOMY = 8e9  # bytes of address space

INTRA_THREADS = flags.DEFINE_integer(
  "intra_op_threads", 0, "Threads inside one operation; 0: TensorFlow's choice.", 0, 1024
)
INTER_THREADS = flags.DEFINE_integer(
  "inter_op_threads", 0, "Operations at the same time; 0: TensorFlow's choice.", 0, 1024
)
MEMORY_GROWTH = flags.DEFINE_bool(
  "memory_growth", None, "Take an accelerator's memory as it is needed; default: leave alone."
)
MEMORY_LIMIT = flags.DEFINE_integer(
  "memory_limit", None, "MiB of each accelerator for this process.", 1, 10**9
)
TF32 = flags.DEFINE_bool("tf32", False, "Allow TF32 (10 bits of mantissa) on accelerators.")
_GRAPPLER_MODULE = f"{__name__}.grappler"  # which --helpfull lists
_DEFAULTS = dict.fromkeys(grappler.OF_NO_USE, "off in products without a GPU")
GRAPPLER = {
  name: flags.DEFINE_bool(
    name,
    None,
    f"Grappler: {what}; default: {_DEFAULTS.get(name, 'leave alone')}.",
    module_name=_GRAPPLER_MODULE,
  )
  for name, what in grappler.GRAPPLER.items()
}


def given() -> list[str]:
  """Returns the given ones of these flags: a list of text."""
  by_module = flags.FLAGS.flags_by_module_dict()
  known = [*by_module[__name__], *by_module[_GRAPPLER_MODULE]]
  return [flag.serialize() for flag in known if flag.present]


def apply(deterministic: bool = False, /) -> None:
  """Applies the flags; before TensorFlow has initialised its devices."""
  limit = portable.address_space()
  if limit is not None and limit < _ROOMY:
    logging.warning(
      "the address space is limited to %.2g GB (ulimit -v), of which TensorFlow takes about 3; "
      "where it meets the limit it aborts without a word; what is on disk is kept then, too",
      limit / 1e9,
    )
  from tf_hessian.distribute import machine

  machine.set_threads(INTRA_THREADS.value, INTER_THREADS.value)
  machine.set_memory(MEMORY_GROWTH.value, MEMORY_LIMIT.value)
  chosen = {name: f.value for name, f in GRAPPLER.items() if f.value is not None}
  machine.set_grappler(chosen, deterministic=deterministic)
  machine.set_tf32(TF32.value)
