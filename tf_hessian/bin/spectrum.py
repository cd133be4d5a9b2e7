"""Measures a checkpoint: python -m tf_hessian.bin.spectrum --config=... --workdir=...

Writes <workdir>/spectrum (spectrum_initial with --initial): the state after each step, and the
result as spectrum.npz, .json and .png. Started again, it goes on from there. With --plan it only
says what that takes. As a task of a cluster (TF_CONFIG, --strategy) it does that task's part.
"""

from __future__ import annotations

from absl import flags as absl_flags

from tf_hessian.bin import flags, kinds, machine_flags, run_flags
from tf_hessian.experiments import first_look
from tf_hessian.experiments.computation import Computation
from tf_hessian.experiments.weights import Weights

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
CHECK = absl_flags.DEFINE_bool("check", True, "First look whether products repeat, and symmetry.")
PLAN = absl_flags.DEFINE_bool(
  "plan", False, "Say what the run will take, by timing two batches, and write nothing."
)
PLAN_WORKERS = absl_flags.DEFINE_integer(
  "plan_workers", None, "The same for so many equal machines that share the batches.", 1, 10**6
)
DATA, CLUSTER = run_flags.define_data(), run_flags.define_cluster()
PASSES, STORAGE = run_flags.define_passes(), run_flags.define_storage()


def main() -> None:
  """Measures, or plans it, and prints the report."""
  run = (flags.CONFIG.value, flags.WORKDIR.value)
  weights = Weights(CHECKPOINT.value, INITIAL.value, STEP.value, ALL_STEPS.value)
  computation = Computation(**CLUSTER(), **PASSES())
  storage = STORAGE()
  first_look.look_at_measurement(*run, weights, strategy=computation.strategy)
  machine_flags.apply(computation.deterministic)
  from tf_hessian.experiments.measure import measure

  how = {"gradient": GRADIENT.value, "check": CHECK.value, **DATA()}
  how["plan_workers"] = PLAN_WORKERS.value or (1 if PLAN.value else None)
  print(measure(*run, weights, computation=computation, storage=storage, **how))


if __name__ == "__main__":
  flags.run(main)
