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
from tf_hessian.studies.chapter import Chapter, Table, Verdict, judged, number, prose, together
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

  It is that of chance where the training has diverged.
  """
  curve = numbers["curves"][kind][str(rate)]
  last = np.array(curve["steps"]) > max(curve["steps"]) - numbers["last"]
  losses = np.array(curve["losses"])[:, last].mean(axis=1)
  return np.where(np.isnan(losses), CHANCE, losses).tolist()


def _diverged(numbers):
  """Yields (kind, rate, how many trainings) of those that have diverged."""
  for kind, rates in numbers["curves"].items():
    for rate, curve in rates.items():
      if count := int(np.isnan(np.array(curve["losses"], float)).any(axis=1).sum()):
        yield kind, rate, count


def judge(numbers: dict, /) -> list[tuple[str, str, Verdict]]:
  """Judges each necessity that section G names, and the slower progress.

  Differences are paired over the seeds, with 95 % t-intervals.

  Returns:
    List of (claim, finding, verdict).
  """
  slowest = RATES[-1]
  delayed = {rate: ends(numbers, DELAYED, rate) for rate in RATES}
  at_once, batch = ({rate: ends(numbers, kind, rate) for rate in RATES} for kind in (DIRECT, BATCH))
  verdict = functools.partial(judged, enough=len(numbers["seeds"]) >= intervals.CURVE_SEEDS)

  fast = intervals.mean(delayed[RATES[0]])
  gains = {r: intervals.paired(delayed[slowest], delayed[r]) for r in RATES[:-1]}
  best = max(gains, key=lambda r: gains[r].low)
  without = {r: intervals.paired(at_once[r], delayed[r]) for r in (slowest, best)}
  slower = {r: intervals.paired(delayed[r], batch[r]) for r in (slowest, best)}
  return [
    (
      f"at the rate of batch statistics, {RATES[0]}, population statistics do not train",
      f"their loss is {fast.text()}; chance is {number(CHANCE)}",
      verdict(fast.low > CHANCE - SAME, fast.high < CHANCE - SAME),
    ),
    (
      f"the rate has to be divided by 100, to {slowest}",
      f"the loss at {slowest} is higher than at {best} by {_text(gains[best])}",
      verdict(all(g.below for g in gains.values()), gains[best].above),
    ),
    (
      f"{ZERO_STEPS} steps at rate 0 are needed first",
      "without them the loss is higher by "
      + " and ".join(f"{_text(d)} at {r}" for r, d in without.items()),
      verdict(
        all(d.low > 0 and d.mean > SAME for d in without.values()),
        all(d.high < SAME for d in without.values()),
      ),
    ),
    (
      "progress is slower than with batch statistics",
      "at equal rates the loss is higher by "
      + " and ".join(f"{_text(d)} at {r}" for r, d in slower.items()),
      verdict(all(d.above for d in slower.values()), any(d.below for d in slower.values())),
    ),
  ]


def _text(difference):
  return f"{difference.text()}, {intervals.p_text(difference.p)},"


def describe(numbers: dict) -> Chapter:
  """Describes each of the paper's necessities, with a verdict of its own."""
  if "curves" not in numbers:
    return _describe_one_seed(numbers)
  rows = judge(numbers)
  names = [f"{v.value}: {claim}" for claim, _, v in rows]
  diverged = [f"{n} of {kind}, rate {rate}" for kind, rate, n in _diverged(numbers)]
  return Chapter(
    title="Training with population statistics",
    section="G, Figure 19",
    claim=CLAIM,
    found=prose(f"""the four parts of the claim have verdicts of their own. {"; ".join(names)}."""),
    verdict=together(v for *_, v in rows),
    reason=prose(f"""A narrow ResNet-14, {numbers["steps"]} steps that learn of each of
      {len(RATES)} rates, {len(numbers["seeds"])} seeds: the beginning of training only. Loss is the
      mean of the last {numbers["last"]} steps; differences are paired over the seeds, with 95 %
      t-intervals and their p, {len(numbers["seeds"]) - 1} degrees of freedom. With and without the
      steps at rate 0 counts as the same if the whole interval is below {SAME}. With batch
      statistics such steps change nothing that training sees, and are left out. The paper's
      networks are larger, and train longer. Trainings whose loss became infinite or NaN count as at
      chance, {number(CHANCE)}: {", ".join(diverged) or "none"}."""),
    pictures={
      "figure_19.png": prose("""Loss of training by the steps that learn; bands are all seeds that
        have not diverged, lines their means""")
    },
    tables=(
      Table(("the paper says", "here", ""), tuple((c, f, v.value) for c, f, v in rows)),
      _table(numbers),
    ),
  )


def _describe_one_seed(numbers):
  """Describes an earlier file, of one seed at two rates."""
  slow = "batch statistics, same rate"
  batch, same, population = (
    numbers["last_100_steps"][k] for k in ("batch statistics", slow, "population statistics")
  )
  return Chapter(
    title="Training with population statistics",
    section="G, Figure 19",
    claim=CLAIM,
    found=prose(f"""after 1,200 steps that learn, the loss of the last 100 is {number(batch)} with
      mini-batch statistics at 0.1, {number(same)} with them at 0.001, and {number(population)} with
      population statistics at 0.001, after 400 steps at rate 0."""),
    verdict=Verdict.OPEN,
    reason=prose(f"""One seed, and a curve needs {intervals.CURVE_SEEDS}. Whether a hundredth of the
      rate and the 400 steps are necessary is not tested by these trainings. The command below now
      trains {len(RATES)} rates with both statistics, with and without the 400 steps, from
      {len(SEEDS)} seeds, and gives each part of the claim a verdict; its computing is not done
      yet."""),
    pictures={"figure_19.png": "Loss of training"},
  )


def _table(numbers):
  rows = [
    (kind, *(intervals.mean(ends(numbers, kind, rate)).text() for rate in rates))
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
      steps, losses = np.array(curve["steps"]), np.array(curve["losses"])
      shown = (steps > 0) & np.isfinite(losses).any(axis=0)
      x, y = steps[shown], losses[:, shown]
      drawing.band(axes, x, y, f"C{i}", f"rate {rate}")
    axes.axhline(CHANCE, color="0.5", lw=0.8, ls="--")
    axes.set_title(kind, fontsize="medium")
    axes.set_xlabel("steps that learn")
  panels[0].set_ylabel("loss (dashed: chance)")
  lows = [min(line.get_ydata()) for axes in panels for line in axes.lines if len(line.get_ydata())]
  panels[0].set_ylim(min(lows) - 0.1, HIGHEST)  # trainings that diverge are far above
  figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
  plotting.save_figure(figure, path)
