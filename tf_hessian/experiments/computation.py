"""Choices of the devices and the compilation of a config's operator."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Computation:
  """Choices of devices and compilation of the passes over the data.

  Attributes:
    strategy: name of a `distribute.STRATEGIES`; `TF_CONFIG` says which task of it this is.
    num_devices: number of replicas of "mirrored"; 0 for all accelerators.
    patience: seconds that the tasks of a cluster wait for each other.
    deterministic: make products bitwise repeatable.
    jit_compile: compile the function of a batch by XLA.
    recompute_blocks: number of blocks whose activations are computed again, to save memory; None
      for none.
  """

  strategy: str = "one_device"
  num_devices: int = 0
  patience: float = 600.0
  deterministic: bool = True
  jit_compile: bool = False
  recompute_blocks: int | None = None

  def passes(self) -> dict[str, Any]:
    """Returns what concerns the passes, as arguments of `HessianOperator`."""
    return {
      "deterministic": self.deterministic,
      "jit_compile": self.jit_compile,
      "recompute_blocks": self.recompute_blocks,
    }
