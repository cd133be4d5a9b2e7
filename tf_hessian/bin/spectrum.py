"""Measures a checkpoint: python -m tf_hessian.bin.spectrum --config=... --workdir=...

Writes <workdir>/spectrum: the state after each step, spectrum.npz, spectrum.json, spectrum.png.
Started again, it goes on where it was interrupted. With --plan it only says what that will take. As
a task of a cluster (TF_CONFIG, --strategy) it does that task's part; see docs/cluster.md.
"""

from absl import flags as absl_flags

from tf_hessian.bin import cluster_flags as cluster
from tf_hessian.bin import data_flags, flags, kinds, machine_flags, pass_flags, plan_flags
from tf_hessian.experiments import first_look

CHECKPOINT = kinds.define_path(
  "checkpoint", None, "Model to measure (.keras); default: <workdir>/model.keras."
)
INITIAL = absl_flags.DEFINE_bool(
  "initial", False, "Measure the model with its initial weights, before any training."
)
STEP = absl_flags.DEFINE_integer(
  "step", None, "Measure the checkpoint of that step of training, into <workdir>/spectra.", 0
)
ALL_STEPS = absl_flags.DEFINE_bool(
  "all_steps", False, "Measure the checkpoints of all steps, and draw them together."
)
GRADIENT = absl_flags.DEFINE_bool(
  "gradient", False, "Begin at the gradient: its energy by eigenvalue, into <...>_gradient."
)
CHECK = absl_flags.DEFINE_bool(
  "check", True, "First check that products repeat and that H is symmetric."
)


def main():
  run = (flags.CONFIG.value, flags.WORKDIR.value)
  of = {
    "checkpoint": CHECKPOINT.value,
    "initial": INITIAL.value,
    "step": STEP.value,
    "all_steps": ALL_STEPS.value,
  }
  first_look.look_at_measurement(*run, **of, strategy=cluster.STRATEGY.value)
  machine_flags.apply(pass_flags.DETERMINISTIC.value)
  from tf_hessian.experiments import commands

  options = {"gradient": GRADIENT.value, "check": CHECK.value, **cluster.options()}
  options |= data_flags.options() | pass_flags.options() | plan_flags.options()
  print(commands.spectrum(*run, **of, **options))


if __name__ == "__main__":
  flags.run(main)
