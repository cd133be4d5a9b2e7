"""Trains a config's model: python -m tf_hessian.bin.train --config=... --workdir=..."""

from tf_hessian.bin import flags, machine_flags


def main():
  machine_flags.apply()
  from tf_hessian.experiments import commands

  result = commands.train(flags.CONFIG.value, flags.WORKDIR.value)
  numbers = ", ".join(f"{k} {v:.6g}" for k, v in result.items())
  print(f"trained: {numbers}; the model is {flags.WORKDIR.value}/model.keras")


if __name__ == "__main__":
  flags.run(main)
