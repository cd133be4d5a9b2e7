"""Measures a checkpoint: python -m tf_hessian.bin.spectrum --config=... --workdir=...

Or a model of your own: --model=model.keras --data=module:function --workdir=...

Writes <workdir>/spectrum (spectrum_initial with --initial): the state after each step, and the
result as spectrum.npz, .json and .png. Started again, it goes on from there. With --plan it only
says what that takes. As a task of a cluster (TF_CONFIG, --strategy) it does that task's part.
"""

from __future__ import annotations

from absl import flags as absl_flags

from tf_hessian.bin import flags, machine_flags, own_flags, run_flags, weights_flags
from tf_hessian.experiments import first_look
from tf_hessian.experiments.computation import Computation

GRADIENT = absl_flags.DEFINE_bool(
  "gradient", False, "Begin at the gradient: its energy by eigenvalue, into <...>_gradient."
)
PLAN = absl_flags.DEFINE_bool(
  "plan", False, "Say what the run will take, by timing two batches, and write nothing."
)
PLAN_WORKERS = absl_flags.DEFINE_integer(
  "plan_workers", None, "The same for so many equal machines that share the batches.", 1, 10**6
)
NUM_DRAWS = absl_flags.DEFINE_integer(
  "num_draws", None, "Number of start vectors; default: the config's, or 10.", 1, 10**6
)
LANCZOS_STEPS = absl_flags.DEFINE_integer(
  "lanczos_steps", None, "Lanczos steps of each; default: the config's, or 90.", 1, 10**6
)
WEIGHTS = weights_flags.define()
DATA, CLUSTER = run_flags.define_data(), run_flags.define_cluster()
PASSES, STORAGE = run_flags.define_passes(), run_flags.define_storage()


def main() -> None:
  """Measures, or plans it, and prints the report."""
  if GRADIENT.value and (NUM_DRAWS.value or 1) != 1:
    raise ValueError(
      f"--num_draws={NUM_DRAWS.value}: the gradient is one start vector; leave one of them out"
    )
  config = own_flags.config(draws=NUM_DRAWS.value, steps=LANCZOS_STEPS.value)
  run = (config, flags.WORKDIR.value)
  weights = WEIGHTS()
  computation = Computation(**CLUSTER(), **PASSES())
  storage = STORAGE()
  first_look.look_at_measurement(*run, weights, strategy=computation.strategy)
  machine_flags.apply(computation.deterministic)
  from tf_hessian.experiments.measure import measure

  how = {"gradient": GRADIENT.value, "check": weights_flags.CHECK.value, **DATA()}
  how["plan_workers"] = PLAN_WORKERS.value or (1 if PLAN.value else None)
  print(measure(*run, weights, computation=computation, storage=storage, **how))


if __name__ == "__main__":
  flags.run(main, needed=["workdir"])
