"""Figure 19: training with population statistics (section G of the paper)."""

from __future__ import annotations

import numpy as np

from tf_hessian import plotting
from tf_hessian.studies.chapter import Chapter, Verdict, number, prose
from tf_hessian.studies.context import Context
from tf_hessian.studies.normalization import BATCH, POPULATION, SLOW_BATCH
from tf_hessian.training import record

SEED = 0


def measure(context: Context) -> dict:
  """Compares the loss of training with mini-batch and with population statistics."""
  curves, ends = {}, {}
  for variant in (BATCH, SLOW_BATCH, POPULATION):
    rows = record.read(variant.train(context, SEED))
    steps = np.array([row["step"] for row in rows]) - variant.zero_steps
    losses = np.array([row["loss"] for row in rows])
    curves[_curve(variant)] = (steps, losses)
    ends[variant.name] = float(losses[steps > steps[-1] - 100].mean())
  plotting.plot_curves(curves, context.out / "figure_19.png", log=True)
  first = {name: float(losses[0]) for name, (_, losses) in curves.items()}
  return {"last_100_steps": ends, "first": first}


def _curve(variant):
  """Returns what the curve of a training is called."""
  return f"{variant.name}, learning rate {variant.learning_rate}"


def describe(numbers: dict) -> Chapter:
  """Describes the learning rate's part of the slower progress."""
  variants = (BATCH, SLOW_BATCH, POPULATION)
  batch, slow, population = (numbers["last_100_steps"][v.name] for v in variants)
  return Chapter(
    title="Training with population statistics",
    section="G, Figure 19",
    claim=prose("""population statistics are hard to train with, need a hundredth of the learning
      rate and 400 steps at learning rate 0 first, and make slower progress than mini-batch
      statistics."""),
    found=prose(f"""after the same number of steps that learn, the loss of the last 100 is
      {number(batch)} with mini-batch statistics at 0.1, {number(slow)} with them at 0.001, and
      {number(population)} with population statistics at 0.001."""),
    verdict=Verdict.AGREES if population > batch else Verdict.DIFFERS,
    reason=prose(f"""Of the distance to mini-batch statistics at 0.1, {number(slow - batch, 2)} is
      the learning rate's and {number(population - slow, 2)} the statistics'. Why the 400 steps are
      needed shows in the first ones: the statistics begin at mean 0 and variance 1, and the loss
      with them at {number(numbers["first"][_curve(POPULATION)])}. Steps below 0 are those at
      learning rate 0. Whether a larger learning rate could be used once the network has trained for
      a while was not tried. One seed."""),
    pictures={"figure_19.png": "Loss of training"},
  )
