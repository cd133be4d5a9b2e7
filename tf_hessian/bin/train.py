"""Trains a config's model: python -m tf_hessian.bin.train --config=... --workdir=...

Writes <workdir>/model.keras, the checkpoints of named steps, train.csv and train.json. Started
again, it goes on where it was interrupted. As a task of a cluster (TF_CONFIG, --strategy) it does
that task's part; see docs/cluster.md.
"""

from __future__ import annotations

from tf_hessian.bin import flags, machine_flags, run_flags
from tf_hessian.experiments import first_look

DATA, CLUSTER = run_flags.define_data(), run_flags.define_cluster()


def main() -> None:
  """Trains, and prints what was reached."""
  first_look.look_at_training(flags.CONFIG.value, flags.WORKDIR.value)
  machine_flags.apply()
  from tf_hessian.experiments.train import train

  result = train(flags.CONFIG.value, flags.WORKDIR.value, **CLUSTER(), **DATA())
  if result is None:
    print("the chief has finished, and has the model")
    return
  numbers = ", ".join(f"{k} {v:.6g}" for k, v in result.items())
  print(
    f"trained: {numbers} (out of training mode); the model is {flags.WORKDIR.value}/model.keras"
  )


if __name__ == "__main__":
  flags.run(main)
