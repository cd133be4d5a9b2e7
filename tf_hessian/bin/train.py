"""Trains a config's model: python -m tf_hessian.bin.train --config=... --workdir=...

Writes <workdir>/model.keras, the checkpoints of named steps, train.csv and train.json. Started
again, it goes on where it was interrupted. As a task of a cluster (TF_CONFIG, --strategy) it does
that task's part; see docs/cluster.md.
"""

from tf_hessian.bin import cluster_flags, data_flags, flags, machine_flags
from tf_hessian.experiments import first_look


def main():
  first_look.look_at_training(flags.CONFIG.value, flags.WORKDIR.value)
  machine_flags.apply()
  from tf_hessian.experiments import commands

  options = cluster_flags.options() | data_flags.options()
  result = commands.train(flags.CONFIG.value, flags.WORKDIR.value, **options)
  if result is None:
    print("the chief has finished, and has the model")
    return
  numbers = ", ".join(f"{k} {v:.6g}" for k, v in result.items())
  print(
    f"trained: {numbers} (out of training mode); the model is {flags.WORKDIR.value}/model.keras"
  )


if __name__ == "__main__":
  flags.run(main)
