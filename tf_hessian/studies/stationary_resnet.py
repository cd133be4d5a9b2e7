"""Theorem E.1 on a small ResNet: the stationary end of SGD at a constant rate."""

from __future__ import annotations

from ml_collections import ConfigDict

from tf_hessian.studies import stationary
from tf_hessian.studies.chapter import Chapter, Verdict, number, prose
from tf_hessian.studies.context import Context
from tf_hessian.studies.normalization import CONFIG

IMAGES = 1024  # more outputs than parameters: noise is left where the loss is lowest
STEPS = 20_000
BATCH_SIZE = 16


def _config(context: Context, seed: int) -> ConfigDict:
  config = context.config(
    CONFIG,
    seed=seed,
    model={"normalization": "none", "depth": 8, "width": 4},
    data={"num_examples": IMAGES, "augment": False},
    train={"learning_rate": 0.05, "momentum": 0.0, "batch_size": BATCH_SIZE, "steps": STEPS},
    hessian={"training": False, "num_examples": IMAGES, "num_shards": 1},
  )
  with config.unlocked():
    config.train.update({"schedule": "constant", "decay_steps": (), "checkpoint_steps": ()})
    config.train.log_every = 2000
  return config


CHAINS = stationary.Chains("stationary_resnet", _config, (8, 32, 128), steps=2000, parts=10)


def measure(context: Context) -> dict:
  """Measures steps of SGD along the top eigenvectors, for each seed."""
  about = {"images": IMAGES, "training_steps": STEPS, "batch_size": BATCH_SIZE}
  return stationary.measure_chains(context, CHAINS) | about


def describe(numbers: dict) -> Chapter:
  """Describes measured steps beside those of the theorem, at each batch size."""
  verdict, found = stationary.judge(numbers)
  why = prose("""In small batches a chain wanders far, where Hessian and noise are others: the
    theorem takes one of each. So its numbers do not carry over to this network.""")
  size, largest = list(found.items())[-1]
  if largest.high > stationary.MARGIN or largest.low < 1 / stationary.MARGIN:
    why += " " + prose(f"""That is not all: batches of {int(size):,}, in which it wanders least,
      are not within 1.1 for sure either; why not, was not looked into.""")
  return stationary.describe_chains(
    numbers,
    title="Theorem E.1 on a small ResNet",
    network=prose(f"""a ResNet-8 of width 4 without normalization (n = 4,946), trained for
      {numbers["training_steps"]:,} steps at the rate {number(numbers["rate"])} in batches of
      {numbers["batch_size"]} on {numbers["images"]:,} images of CIFAR-10"""),
    picture="figure_stationary_resnet.png",
    more="" if verdict is Verdict.AGREES else why,
  )
