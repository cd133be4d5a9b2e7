"""Measures a checkpoint: python -m tf_hessian.bin.spectrum --config=... --workdir=...

Writes <workdir>/spectrum: the state after each step, spectrum.npz, spectrum.json, spectrum.png.
Started again, it goes on where it was interrupted. As a task of a cluster (TF_CONFIG, --strategy)
it does that task's part; see docs/cluster.md.
"""

from absl import flags as absl_flags

from tf_hessian.bin import flags, machine_flags

STRATEGIES = ["one_device", "mirrored", "multi_worker", "parameter_server"]

CHECKPOINT = absl_flags.DEFINE_string(
  "checkpoint", None, "Model to measure (.keras); default: <workdir>/model.keras."
)
INITIAL = absl_flags.DEFINE_bool(
  "initial", False, "Measure the model with its initial weights, before any training."
)
CHECK = absl_flags.DEFINE_bool(
  "check", True, "First check that products repeat and that H is symmetric."
)
STRATEGY = absl_flags.DEFINE_enum("strategy", "one_device", STRATEGIES, "Who computes.")
DEVICES = absl_flags.DEFINE_integer(
  "num_devices", 0, "Replicas of mirrored; 0: all accelerators.", lower_bound=0
)
PATIENCE = absl_flags.DEFINE_float(
  "patience", 600.0, "Seconds that tasks of parameter_server wait for each other.", lower_bound=1.0
)
DETERMINISTIC = absl_flags.DEFINE_bool("deterministic", True, "Bitwise the same every time.")
JIT_COMPILE = absl_flags.DEFINE_bool("jit_compile", False, "Compile a batch's function by XLA.")


def main():
  machine_flags.apply(DETERMINISTIC.value)
  from tf_hessian.experiments import commands

  report = commands.spectrum(
    flags.CONFIG.value,
    flags.WORKDIR.value,
    checkpoint=CHECKPOINT.value,
    initial=INITIAL.value,
    check=CHECK.value,
    strategy=STRATEGY.value,
    num_devices=DEVICES.value,
    patience=PATIENCE.value,
    deterministic=DETERMINISTIC.value,
    jit_compile=JIT_COMPILE.value,
  )
  print(report)


if __name__ == "__main__":
  flags.run(main)
