"""Figure 19: training with population statistics (section G of the paper).

Learning rates, with batch or population statistics, the latter with and without 400 steps at
learning rate 0 first. With batch statistics such steps change nothing that training sees.
"""

from __future__ import annotations

import functools
import math

from absl import logging
import numpy as np

from tf_hessian import plotting
from tf_hessian.studies import drawing, intervals
from tf_hessian.studies.chapter import (
  Chapter,
  Table,
  Verdict,
  claims,
  judged,
  number,
  prose,
  together,
)
from tf_hessian.studies.context import Context
from tf_hessian.studies.normalization import CONFIG, log, trained
from tf_hessian.training.train import DivergedError

SEEDS = tuple(range(intervals.CURVE_SEEDS))
RATES = (0.1, 0.03, 0.01, 0.001)
ZERO_STEPS = 400
STEPS = 160  # that learn
EVERY = 20  # steps, a loss is recorded
LAST = 60  # whose mean loss is judged
CHANCE = math.log(10)
HIGHEST = 3.0  # loss in the picture
SAME = 0.1  # losses nearer than this are the same
CLAIM = prose("""population statistics are hard to train with, need a hundredth of the learning rate
  and 400 steps at learning rate 0 first, and make slower progress than mini-batch statistics.""")
BATCH, DIRECT, DELAYED = "batch", "population, at once", "population, after 400 steps at rate 0"


def measure(context: Context) -> dict:
  """Trains the grid; returns the losses of each training."""
  curves: dict[str, dict[str, dict]] = {kind: {} for kind in (BATCH, DELAYED, DIRECT)}
  for kind, rates in curves.items():
    for rate in RATES:
      losses = [_curve(context, kind, rate, seed) for seed in SEEDS]
      rates[str(rate)] = {"steps": losses[0]["steps"], "losses": [c["loss"] for c in losses]}
  numbers = {"seeds": list(SEEDS), "steps": STEPS, "last": LAST, "curves": curves}
  _draw(numbers, context.out / "figure_19.png")
  return numbers


def _curve(context, kind, rate, seed):
  """Trains one network; returns its losses by the steps that learn.

  They are NaN after it has diverged.
  """
  zero = ZERO_STEPS if kind == DELAYED else 0
  normalization = "batch" if kind == BATCH else "population"
  config = context.config(
    CONFIG,
    seed=seed,
    model={"normalization": normalization},
    train={"learning_rate": rate, "zero_steps": zero, "steps": STEPS + zero, "log_every": EVERY},
  )
  with config.unlocked():
    config.train.update({"schedule": "constant", "decay_steps": (), "checkpoint_steps": ()})
    config.train.test_examples = 500
  folder = context.work / "figure_19" / f"{normalization}_{rate:g}_zero_{zero}_seed_{seed}"
  logging.info("Figure 19: %s, rate %g, seed %d", kind, rate, seed)
  try:
    trained(context, config, folder)
  except DivergedError as e:
    logging.info("it has diverged: %s", e)
  losses = {r["step"]: r["loss"] for r in log(folder)}
  steps = range(EVERY, STEPS + zero + 1, EVERY)
  return {"steps": [s - zero for s in steps], "loss": [losses.get(s, math.nan) for s in steps]}


def ends(numbers: dict, kind: str, rate: float | str, /) -> list[float]:
  """Returns each seed's mean loss over the last steps of a training.

  It is NaN where the training has diverged.
  """
  curve = numbers["curves"][kind][str(rate)]
  last = np.array(curve["steps"]) > max(curve["steps"]) - numbers["last"]
  return np.array(curve["losses"], np.float64)[:, last].mean(axis=1).tolist()


def trains(losses: list[float], /) -> bool:
  """Returns whether no seed has diverged, and all are better than chance.

  Their whole interval is to be below it by `SAME`.
  """
  return not np.isnan(losses).any() and intervals.mean(losses).high < CHANCE - SAME


def _fails(losses):
  """Returns whether each seed has diverged or is at chance."""
  return all(math.isnan(x) or x > CHANCE - SAME for x in losses)


def _cell(losses):
  """Returns how many have diverged, and the others' losses."""
  count = int(np.isnan(losses).sum())
  if not count:
    return intervals.mean(losses).text()
  rest = [number(x, zeros=True) for x in losses if not math.isnan(x)]
  return ", ".join([f"{count} of {len(losses)} diverged", *rest])


def judge(numbers: dict, /) -> list[tuple[str, str, Verdict]]:
  """Judges each necessity that section G names, and the slower progress.

  Differences are paired over the seeds, with 95 % t-intervals.

  Returns:
    List of (claim, finding, verdict).
  """
  fastest, slowest = RATES[0], RATES[-1]
  delayed = {rate: ends(numbers, DELAYED, rate) for rate in RATES}
  at_once, batch = ({rate: ends(numbers, kind, rate) for rate in RATES} for kind in (DIRECT, BATCH))
  verdict = functools.partial(judged, enough=len(numbers["seeds"]) >= intervals.CURVE_SEEDS)

  training = [r for r in RATES[1:] if trains(delayed[r])]
  stable = [r for r in RATES if not np.isnan(delayed[r]).any()]
  without = {r: _difference(at_once[r], delayed[r]) for r in stable}
  best = [min(RATES, key=lambda r: _least(of[r])) for of in (delayed, batch)]
  slower = [
    _difference(delayed[slowest], batch[fastest]),
    _difference(delayed[best[0]], batch[best[1]]),
  ]
  return [
    (
      f"at the rate of batch statistics, {fastest}, population statistics do not train",
      f"loss at {fastest}: {_cell(delayed[fastest])}; chance is {number(CHANCE)}",
      verdict(_fails(delayed[fastest]), trains(delayed[fastest])),
    ),
    (
      f"the rate has to be divided by 100, to {slowest}",
      "; ".join(f"loss at {r}: {_cell(delayed[r])}" for r in RATES[1:]),
      verdict(training == [slowest], any(r > slowest for r in training)),
    ),
    (
      f"{ZERO_STEPS} steps at rate 0 are needed first",
      "the loss without them: "
      + "; ".join(f"at {r} {_text(d, at_once[r])}" for r, d in without.items()),
      verdict(
        all(d is None or d.low > 0 and d.mean > SAME for d in without.values()),
        all(d is not None and d.high < SAME for d in without.values()),
      ),
    ),
    (
      "progress is slower than with batch statistics",
      prose(f"""at the rates that go with each, {slowest} and {fastest}, the loss is
        {_text(slower[0], delayed[slowest])}; at the best of each, {best[0]} and {best[1]}, it is
        {_text(slower[1], delayed[best[0]])}"""),
      verdict(all(d and d.above for d in slower), any(d and d.below for d in slower)),
    ),
  ]


def _least(losses):
  """Returns the mean loss, or infinity where a seed has diverged."""
  return math.inf if np.isnan(losses).any() else float(np.mean(losses))


def _difference(first, second):
  """Returns the paired difference, or None where a training has diverged."""
  return None if np.isnan([first, second]).any() else intervals.paired(first, second)


def _text(difference, losses):
  if difference is None:
    return _cell(losses)
  return f"{difference.change()}, {intervals.p_text(difference.p)}"


def describe(numbers: dict) -> Chapter:
  """Describes each of the paper's necessities, with a verdict of its own."""
  rows = judge(numbers)
  names = [f"{v.value}: {claim}" for claim, _, v in rows]
  return Chapter(
    title="Training with population statistics",
    section="G, Figure 19",
    claim=CLAIM,
    found=prose(f"""the four parts of the claim have verdicts of their own. {"; ".join(names)}."""),
    verdict=together(v for *_, v in rows),
    reason=prose(f"""A narrow ResNet-14, {numbers["steps"]} steps that learn of each of
      {len(RATES)} rates, {len(numbers["seeds"])} seeds, as of a curve: the beginning of training
      only, which says nothing of whether a rate is stable later. Loss is the mean of the last
      {numbers["last"]} steps; differences are paired over the seeds, with 95 % t-intervals and
      their p, {len(numbers["seeds"]) - 1} degrees of freedom. A rate trains if no seed diverges, to
      an infinite loss or NaN, and the whole interval of the loss is below chance by {SAME}. Losses
      count as the same if the whole interval of their difference is below {SAME}. With batch
      statistics the steps at rate 0 change nothing that training sees, and are left out. The best
      rates are those of the lowest mean of the same losses. The text says "important"; that these
      are necessities, and what slower means, are our readings. The paper's networks are larger, and
      train longer."""),
    pictures={
      "figure_19.png": prose("""Loss of training by the steps that learn; bands are all seeds that
        have not diverged, lines their means; crosses: a seed diverges""")
    },
    tables=(
      claims(rows),
      _table(numbers),
    ),
  )


def _table(numbers):
  rows = [
    (kind, *(_cell(ends(numbers, kind, rate)) for rate in rates))
    for kind, rates in numbers["curves"].items()
  ]
  return Table(
    ("statistics", *(f"rate {r}" for r in RATES)),
    tuple(rows),
    f"Loss at the end: mean (95 % t-interval) of {len(numbers['seeds'])} seeds",
  )


def _draw(numbers, path):
  figure, panels = plotting.new_figure(10.0, 3.8, ncols=3, sharey=True)
  for axes, (kind, rates) in zip(panels, numbers["curves"].items(), strict=True):
    for i, (rate, curve) in enumerate(rates.items()):
      learn = np.array(curve["steps"]) > 0
      x, y = np.array(curve["steps"])[learn], np.array(curve["losses"], np.float64)[:, learn]
      some = np.isfinite(y).any(axis=0)
      drawing.band(axes, x[some], y[:, some], f"C{i}", f"rate {rate}")
      for losses in y[np.isnan(y[:, -1])]:
        first = int(np.isnan(losses).argmax())
        height = losses[first - 1] if first else HIGHEST
        axes.plot(x[first], min(height, HIGHEST - 0.03), "x", ms=7, mew=2, color=f"C{i}")
    axes.axhline(CHANCE, color="0.5", lw=0.8, ls="--")
    axes.set_title(kind, fontsize="medium")
    axes.set_xlabel("steps that learn")
  panels[0].set_ylabel("loss (dashed: chance)")
  lows = [np.min(line.get_ydata()) for axes in panels for line in axes.lines]
  panels[0].set_ylim(min(lows) - 0.1, HIGHEST)  # trainings that diverge are far above
  figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
  plotting.save_figure(figure, path)
