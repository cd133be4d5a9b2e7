"""The same weights with batch and with moving statistics (section G).

Networks that were trained with batch normalization are measured twice: in training mode, where each
batch normalizes by its own statistics, and outside of it, by the moving ones.
"""

from __future__ import annotations

import math

from absl import logging
import numpy as np

from tf_hessian import plotting
from tf_hessian.experiments import experiment
from tf_hessian.slq import digests
from tf_hessian.studies import drawing, intervals, pieces
from tf_hessian.studies.chapter import Chapter, Table, Verdict, number, prose
from tf_hessian.studies.context import Context
from tf_hessian.studies.gradient_energy import of_top_space
from tf_hessian.studies.normalization import BATCH, SETTLING, settle
from tf_hessian.training import checkpoints

SEEDS = tuple(range(intervals.CLAIM_SEEDS))
STEPS = (1200, 400, 100, 0)  # the first is judged
IMAGES, EARLIER_IMAGES = 512, 256  # of the step that is judged, and of others
TOP = 10
TOLERANCE = 1e-3  # of the ten pairs, as in the study of batch normalization
MOVING = "moving"  # statistics, as the training has left them; it ends with small steps
POPULATION = "population"  # of the step's weights: before the end, moving ones lag behind
SIZES = (128, 32, 512)  # batches: the first at every step, others at the last
CLAIMS = {
  "ratio": "lambda_1 / lambda_10",
  "gradient_share": "energy of the full gradient in the top ten",
  "batch_share": "energy of mini-batch gradients in the top ten",
}


def measure(context: Context) -> dict:
  """Measures the same weights with both statistics, for each seed and step."""
  operators: dict[tuple[str, int], _Operator] = {}
  steps: dict[str, dict] = {}
  for step, kind in _cells():
    rows = [_piece(context, operators, seed, step, kind) for seed in SEEDS]
    steps.setdefault(str(step), {})[kind] = _columns(rows)
  numbers = {
    "images": IMAGES,
    "earlier_images": EARLIER_IMAGES,
    "settling": SETTLING,
    "seeds": list(SEEDS),
    "steps": steps,
  }
  _draw(numbers, context.out / "figure_swap.png")
  return numbers


def _cells():
  """Yields (step, kind of statistics), what is judged first."""
  for step in STEPS:
    yield from ((step, kind) for kind in (_fixed(step), str(SIZES[0])))
    if step == STEPS[0]:
      yield from ((step, str(size)) for size in SIZES[1:])


def _fixed(step):
  """Returns the kind of statistics that don't depend on a batch."""
  return MOVING if step == STEPS[0] else POPULATION


def _columns(rows):
  """Returns dict: name -> values of the seeds."""
  return {key: [row[key] for row in rows] for key in rows[0]}


def _piece(context, operators, seed, step, kind):
  """Measures one network with one kind of statistics, or reads that."""
  folder = BATCH.train(context, seed)
  path = context.work / "swap" / f"seed_{seed}_step_{step}_{kind}.json"
  images = IMAGES if step == STEPS[0] else EARLIER_IMAGES
  setting = {"top": TOP, "tolerance": TOLERANCE, "images": images, "kind": kind, "step": step}
  setting["config"] = experiment.check(BATCH.config(context, seed))
  setting |= {"settling": SETTLING} if kind == POPULATION else {}

  def measured():
    logging.info("swap: seed %d, step %d, %s", seed, step, kind)
    if (kind, images) not in operators:
      operators[kind, images] = _Operator(context, kind, images)
    return operators[kind, images](checkpoints.step_path(folder, step))

  return pieces.numbers_of(path, setting, measured, context.costs)


class _Operator:
  """The Hessian of one kind of statistics, at any checkpoint."""

  def __init__(self, context, kind, images):
    config = BATCH.config(context, SEEDS[0])
    section = {"training": _size(kind) > 0, "num_examples": images}
    config.hessian.update(section | {"batch_size": _size(kind) or SIZES[0]})
    self._setup = experiment.build(config, data_dir=context.data_dir)
    self._settles = kind == POPULATION
    self._progress = context.progress
    self._model = self._setup.new_model()
    self._operator = self._setup.operator(self._model)

  def __call__(self, path):
    """Measures the ten largest eigenvalues, and gradients in their space."""
    self._model.set_weights(checkpoints.load_model(path).get_weights())
    if self._settles:
      settle(self._model, self._setup)
    found = of_top_space(self._operator, TOP, TOLERANCE, progress=self._progress)
    end = checkpoints.load_model(path.parent.parent / "model.keras")
    # Which tells trainings of the same seed on machines that round otherwise.
    return found | {"training": digests.of_arrays(end.get_weights())}


def judge(last: dict, /) -> tuple[Verdict, dict[str, intervals.Interval]]:
  """Judges the three claims at the same weights.

  Each says that a number is larger with moving than with batch statistics. It holds where the whole
  95 % interval of the paired difference, of the ratio in its logarithm, is above 0.

  Args:
    last: dict: kind of statistics -> name -> values of the seeds.

  Returns:
    The verdict: agrees where all hold, differs where one interval is below 0, else open, as with
    too few seeds; and dict: name -> `Interval` of the difference, of the ratio that of the factor.
  """
  moving, batch = last[MOVING], last[str(SIZES[0])]
  factor = intervals.factor(moving["ratio"], batch["ratio"])
  found = {k: intervals.paired(moving[k], batch[k]) for k in CLAIMS if k != "ratio"}
  lows = [factor.low - 1, *(test.low for test in found.values())]
  highs = [factor.high - 1, *(test.high for test in found.values())]
  verdict = Verdict.OPEN
  if len(batch["ratio"]) >= intervals.CLAIM_SEEDS:
    if min(lows) > 0:
      verdict = Verdict.AGREES
    elif min(highs) < 0:
      verdict = Verdict.DIFFERS
  return verdict, {"ratio": factor} | found


def describe(numbers: dict) -> Chapter:
  """Describes what the statistics alone change."""
  last = numbers["steps"][str(max(map(int, numbers["steps"])))]
  verdict, tests = judge(last)
  seeds = len(numbers["seeds"])
  moving, batch = last[MOVING], last[str(SIZES[0])]
  means = {
    k: [intervals.mean(kind[k]).text(scale=1 if k == "ratio" else 100) for kind in (batch, moving)]
    for k in CLAIMS
  }
  p = {k: intervals.p_text(test.p) for k, test in tests.items()}
  loss = intervals.paired(moving["loss"], batch["loss"])
  return Chapter(
    title="The same weights with batch and with moving statistics",
    section="the main text",
    claim=prose("""it is the mini-batch statistics of batch normalization that keep large
      eigenvalues from standing apart and the gradient out of their space: with population
      statistics both return."""),
    found=prose(f"""only the statistics in the loss are swapped, and so in its Hessian and its
      gradients. At the last step
      lambda_1 / lambda_10 is {means["ratio"][0]} with those of batches of {SIZES[0]} and
      {means["ratio"][1]} with moving ones, a factor of {tests["ratio"].text()}, {p["ratio"]}; the
      full gradient has {means["gradient_share"][0]} % and {means["gradient_share"][1]} % of its
      energy in the top ten, {p["gradient_share"]}; single mini-batches' gradients
      {means["batch_share"][0]} % and {means["batch_share"][1]} %, {p["batch_share"]}."""),
    verdict=verdict,
    reason=prose(f"""This is the control that the paper does not have: weights and images are the
      same, and nearly so the loss (moving less batch: {loss.text(2)}), so that no other learning
      rate or training stands between them. Mean and 95 % t-interval over {seeds} seeds of a
      narrow ResNet-14 trained with batch normalization, {seeds - 1} degrees of freedom; differences
      are paired, the ratio's in its logarithm. The verdict is on these differences: even with
      statistics of batches the top ten hold far more of the gradient than a random direction has
      there. All seeds are measured on the same first {numbers["images"]} images, so the intervals
      say nothing of other images. Of the ten eigenvalues the largest residual, over lambda_1, is
      {_residual(last)} at the last step, and {_residual(*_before(numbers))} before.
      {_of_sizes(last, numbers["images"])} {_of_earlier(numbers)} A larger network follows below
      (ResNet-32)."""),
    pictures={
      "figure_swap.png": prose("""The same trained weights with statistics of mini-batches and with
        moving ones; a line for each seed. Lower right: over training, with population statistics
        before the last step; lines are geometric means""")
    },
    tables=(_table(numbers),),
  )


def _of_sizes(last, images):
  """Compares each size of batches with moving statistics, where there are several."""
  sizes = sorted(_size(kind) for kind in last if kind != MOVING)
  if len(sizes) == 1:
    return ""
  moving = last[MOVING]["ratio"]
  factors = (f"{intervals.factor(moving, last[str(s)]['ratio']).text()} of {s}" for s in sizes)
  text = f"The factor by the size of batches: {', '.join(factors)}."
  if sizes[-1] < images:
    return text
  return prose(f"""{text} A batch of {sizes[-1]} is all images at once, whose statistics do not
    vary: that suggests that the derivative through the statistics makes the difference. These and
    the moving ones have other values too, though.""")


def _before(numbers):
  """Returns the rows of the steps before the last."""
  return [kinds for _, kinds in sorted(numbers["steps"].items(), key=lambda x: int(x[0]))[:-1]]


def _residual(*steps):
  """Returns the largest residual of some steps, as text."""
  found = [x for kinds in steps for row in kinds.values() for x in row["largest_residual"]]
  return number(max(found), 2) if found else "none"


def _of_earlier(numbers):
  """Compares earlier steps, where there are any."""
  steps = sorted(map(int, numbers["steps"]))[:-1]
  if not steps:
    return ""
  factors = []
  for step in steps:
    kinds = numbers["steps"][str(step)]
    factor = intervals.factor(kinds[POPULATION]["ratio"], kinds[str(SIZES[0])]["ratio"])
    factors.append(f"{factor.text()} at step {step:,}")
  return prose(f"""Earlier steps are measured on the first {numbers["earlier_images"]} images, and
    with population statistics instead, means over {numbers["settling"]} batches at the weights of
    the step: there moving ones lag behind. So the factor is {", ".join(factors)}, at losses that
    the table has. {_of_trainings(numbers)}""")


def _of_trainings(numbers):
  """Says where steps are of other trainings than the last one."""
  rows = [row["training"] for kinds in numbers["steps"].values() for row in kinds.values()]
  if all(row == rows[0] for row in rows):
    return ""
  return prose("""Their networks are of another training from the same seeds than those of the last
    step, with other rounding.""")


def _table(numbers):
  rows = []
  for step, kinds in sorted(numbers["steps"].items(), key=lambda item: int(item[0])):
    for kind, row in sorted(kinds.items(), key=lambda item: _size(item[0]) or math.inf):
      shares = (intervals.mean(row[k]).text(scale=100) for k in ("gradient_share", "batch_share"))
      rest = (intervals.mean(row[k]).text() for k in ("first", "ratio"))
      name = f"batches of {kind}" if _size(kind) else kind
      rows.append((f"{int(step):,}", name, *rest, *shares, intervals.mean(row["loss"]).text()))
  columns = ("step", "statistics", "lambda_1", "lambda_1 / lambda_10")
  shares = ("full gradient in top 10, %", "mini-batch gradients, %", "loss")
  return Table(
    (*columns, *shares),
    tuple(rows),
    prose(f"""Mean (95 % t-interval) over {len(numbers["seeds"])} seeds. Mini-batch gradients are of
      batches of the size that is named, with other statistics of {SIZES[0]}."""),
  )


def _size(kind):
  """Returns the batch size of a kind of statistics, or 0."""
  return 0 if kind in (MOVING, POPULATION) else int(kind)


def _draw(numbers, path):
  last = numbers["steps"][str(STEPS[0])]
  kinds = [*map(str, sorted(SIZES)), MOVING]
  figure, grid = plotting.new_figure(10.0, 6.8, nrows=2, ncols=2)
  *panels, over_training = grid.flat
  labels = (
    "$\\lambda_1 / \\lambda_{10}$",
    "full gradient in top ten, %",
    "mini-batches in top ten, %",
  )
  for axes, key, label in zip(panels, CLAIMS, labels, strict=True):
    values = np.array([last[kind][key] for kind in kinds]) * (1 if key == "ratio" else 100)
    axes.plot(kinds, values, "-", color="0.7", lw=0.8)
    for place, kind in enumerate(values):
      color = "C3" if kinds[place] == MOVING else "C0"
      axes.plot([place] * len(kind), kind, "o", ms=4, color=color)
    axes.set_title(label, fontsize="medium")
    axes.set_xlim(-0.4, len(kinds) - 0.6)
    axes.set_xlabel("statistics: batch size, or moving")
    if key == "ratio":
      drawing.plain_log(axes, "y")
    else:
      axes.set_ylim(0, 100)
  _draw_steps(numbers, over_training)
  plotting.save_figure(figure, path)


def _draw_steps(numbers, axes):
  """Draws the ratio at each step, with both kinds of statistics."""
  steps = sorted(map(int, numbers["steps"]))
  for which, color, label in (
    (str(SIZES[0]), "C0", f"batches of {SIZES[0]}"),
    (None, "C3", "population, at the end moving"),
  ):
    rows = [numbers["steps"][str(s)][which or _fixed(s)]["ratio"] for s in steps]
    places = np.arange(len(steps))
    axes.plot(places, np.exp(np.log(rows).mean(axis=1)), "-", color=color, lw=1.2, label=label)
    axes.plot(places, rows, "o", ms=3, color=color)
  axes.set_xticks(places, [f"{s:,}" for s in steps])
  axes.set_xlabel("step")
  axes.set_title("$\\lambda_1 / \\lambda_{10}$ over training", fontsize="medium")
  drawing.plain_log(axes, "y")
  axes.legend(frameon=False, fontsize="small", loc="center right")
