"""Groups of flags that several commands share.

Each command defines the groups that it has.

Flags of Lanczos vectors are made of the fields of `slq.storage.Storage`.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from absl import flags

from tf_hessian.bin import kinds
from tf_hessian.distribute import STRATEGIES
from tf_hessian.slq.storage import Storage

_LARGEST = {int: 10**6, float: 1e15}

Values = Callable[[], dict[str, Any]]


@functools.cache
def define_data() -> Values:
  """Defines the flags of data sets; returns their reader."""
  data_dir = kinds.define_path(
    "data_dir", None, "Folder with TFDS data sets; default: TFDS's own, ~/tensorflow_datasets."
  )
  download = flags.DEFINE_bool("download", False, "Fetch a data set that isn't there, by TFDS.")
  return lambda: {"data_dir": data_dir.value, "download": download.value}


@functools.cache
def define_cluster() -> Values:
  """Defines the flags of devices and clusters; returns their reader."""
  found = {
    "strategy": flags.DEFINE_enum(
      "strategy", "one_device", STRATEGIES, "Who computes. The last two read TF_CONFIG."
    ),
    "num_devices": flags.DEFINE_integer(
      "num_devices", 0, "Replicas of mirrored; 0: all accelerators.", 0, 1024
    ),
    "patience": flags.DEFINE_float(
      "patience",
      600.0,
      "Seconds that the tasks of a cluster wait for each other.",
      lower_bound=1.0,
    ),
  }
  flags.register_validator(
    "patience", lambda seconds: seconds <= 1e7, "a number of seconds up to 1e7 is expected"
  )
  return lambda: {name: holder.value for name, holder in found.items()}


@functools.cache
def define_passes() -> Values:
  """Defines the flags of the compilation of passes; returns their reader."""
  found = {
    "deterministic": flags.DEFINE_bool(
      "deterministic", True, "Bitwise the same product every time."
    ),
    "jit_compile": flags.DEFINE_bool("jit_compile", False, "Compile a batch's function by XLA."),
    "recompute_blocks": flags.DEFINE_integer(
      "recompute_blocks",
      None,
      "Blocks whose activations are computed again, to save memory.",
      1,
      10**6,
    ),
  }
  return lambda: {name: holder.value for name, holder in found.items()}


@functools.cache
def define_storage() -> Callable[[], Storage]:
  """Defines the flags of Lanczos vectors; returns their reader."""
  found = {f.name: _define_field(f) for f in dataclasses.fields(Storage)}
  return lambda: Storage(**{name: holder.value for name, holder in found.items()})


def _define_field(field):
  """Defines the flag of a field of a dataclass; returns its holder."""
  name, text = field.metadata["flag"], field.metadata["text"]
  if "choices" in field.metadata:
    return flags.DEFINE_enum(name, field.default, field.metadata["choices"], text)
  if field.type.startswith("int"):
    return flags.DEFINE_integer(name, field.default, text, 1, _LARGEST[int])
  return flags.DEFINE_float(name, field.default, text, 1.0, _LARGEST[float])
