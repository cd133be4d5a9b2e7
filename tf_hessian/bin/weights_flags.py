"""Flags of the weights that are measured."""

from __future__ import annotations

from collections.abc import Callable

from absl import flags

from tf_hessian.bin import kinds
from tf_hessian.experiments.weights import Weights

CHECKPOINT = kinds.define_path(
  "checkpoint", None, "Model to measure (.keras); default: <workdir>/model.keras."
)
INITIAL = flags.DEFINE_bool(
  "initial", False, "Measure the model with its initial weights, before any training."
)
STEP = flags.DEFINE_integer(
  "step", None, "Measure the checkpoint of that step of training, into <workdir>/spectra.", 0
)
ALL_STEPS = flags.DEFINE_bool("all_steps", False, "Measure the checkpoints of all steps.")
CHECK = flags.DEFINE_bool("check", True, "First look whether products repeat, and symmetry.")


def define() -> Callable[[], Weights]:
  """Returns the reader of the flags."""
  return lambda: Weights(CHECKPOINT.value, INITIAL.value, STEP.value, ALL_STEPS.value)
