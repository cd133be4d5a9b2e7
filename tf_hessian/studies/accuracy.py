"""Accuracy with and without label smoothing and augmentation (section F)."""

from __future__ import annotations

import functools

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
from tf_hessian.studies.normalization import CONFIG, trained
from tf_hessian.training import record

SEEDS = tuple(range(intervals.CLAIM_SEEDS))
IMAGES = 2500  # so few that the network learns them by heart where they are not augmented
STEPS = 1200
DECAY_STEPS = (800, 1050)
TEST_EVERY = 100
SAME = 0.01  # accuracies nearer than this are the same
DATA_SET = 50_000  # images of training
CLAIM = prose("""label smoothing of 0.1 does not affect the accuracy on new images; a ResNet-32
  attains 92 % with augmentation and about 85 % without.""")
BOTH, UNSMOOTHED, UNCHANGED = "smoothed, augmented", "not smoothed", "not augmented"
# Way of training -> overrides of the config's sections
WAYS: dict[str, dict[str, dict]] = {
  BOTH: {},
  UNSMOOTHED: {"loss": {"label_smoothing": 0.0}},
  UNCHANGED: {"data": {"augment": False}},
}


def measure(context: Context) -> dict:
  """Trains each way from each seed; returns the accuracies over training."""
  curves = {}
  for way in WAYS:
    found = [_curve(context, way, seed) for seed in SEEDS]
    curves[way] = {"steps": found[0]["steps"]}
    curves[way] |= {name: [c[name] for c in found] for name in ("test", "training")}
  numbers = {"seeds": list(SEEDS), "images": IMAGES, "steps": STEPS, "curves": curves}
  _draw(numbers, context.out / "figure_accuracy.png")
  return numbers


def _curve(context, way, seed):
  """Trains one network; returns its accuracies on new images and old ones."""
  changed = {section: dict(fields) for section, fields in WAYS[way].items()}
  changed["data"] = {"num_examples": IMAGES} | changed.get("data", {})
  schedule = {"steps": STEPS, "test_every": TEST_EVERY, "test_examples": 0}
  config = context.config(CONFIG, seed=seed, train=schedule, **changed)
  with config.unlocked():
    config.train.update({"decay_steps": DECAY_STEPS, "checkpoint_steps": ()})
  name = way.replace(",", "").replace(" ", "_")
  rows = record.read(trained(context, config, context.work / "accuracy" / f"{name}_seed_{seed}"))
  tested = [r for r in rows if "test_accuracy" in r]
  return {
    "steps": [r["step"] for r in tested],
    "test": [r["test_accuracy"] for r in tested],
    "training": [r["accuracy"] for r in tested],
  }


def ends(numbers: dict, way: str, which: str = "test", /) -> list[float]:
  """Returns each seed's accuracy at the end of a training."""
  return [curve[-1] for curve in numbers["curves"][way][which]]


def judge(numbers: dict, /) -> list[tuple[str, str, Verdict]]:
  """Judges both claims by differences that are paired over the seeds.

  Returns:
    List of (claim, finding, verdict).
  """
  verdict = functools.partial(judged, enough=len(numbers["seeds"]) >= intervals.CLAIM_SEEDS)
  smoothing, augmentation = (
    intervals.paired(ends(numbers, BOTH), ends(numbers, without))
    for without in (UNSMOOTHED, UNCHANGED)
  )

  return [
    (
      "label smoothing does not affect the accuracy",
      f"with it, it is {_points(smoothing)}",
      verdict(
        smoothing.low > -SAME and smoothing.high < SAME,
        smoothing.low > SAME or smoothing.high < -SAME,
      ),
    ),
    (
      "augmentation makes the accuracy higher",
      f"with it, it is {_points(augmentation)}",
      verdict(augmentation.above, augmentation.below),
    ),
  ]


def _points(difference):
  return f"{difference.change(scale=100.0)} points, {intervals.p_text(difference.p)}"


def describe(numbers: dict) -> Chapter:
  """Describes both claims, with a verdict for each."""
  rows = judge(numbers)
  last = numbers["curves"][BOTH]["steps"][-1]
  by_heart = {w: intervals.mean(ends(numbers, w, "training")).mean for w in WAYS}
  return Chapter(
    title="Label smoothing, augmentation and accuracy",
    section="F",
    claim=CLAIM,
    found=prose(f"""{"; ".join(f"{v.value}: {claim}: {found}" for claim, found, v in rows)}."""),
    verdict=together(v for *_, v in rows),
    reason=prose(f"""A narrow ResNet-14, {numbers["steps"]:,} steps on {numbers["images"]:,} images
      of CIFAR-10, {len(numbers["seeds"])} seeds, tested on all 10,000 new ones, the last time
      at step {last:,}, which is the end here. In the batches just before it is right about
      {number(100 * by_heart[UNCHANGED])} % of the images without augmentation, and about
      {number(100 * by_heart[BOTH])} % of augmented ones. Accuracies count as the same if the whole
      interval of their difference is within {number(100 * SAME)} point. The paper's networks are
      larger, and train longer on {number(DATA_SET / numbers["images"])} times the images. Its 85 %
      of a ResNet-32 without augmentation is open."""),
    pictures={
      "figure_accuracy.png": "Accuracy on new images; bands are all seeds, lines their means"
    },
    tables=(
      claims(rows),
      _table(numbers),
    ),
  )


def _table(numbers):
  both = ("test", "training")
  rows = [
    (way, *(intervals.mean(ends(numbers, way, which)).text(scale=100.0) for which in both))
    for way in WAYS
  ]
  return Table(
    ("", "new images, %", "last batches of the training, %"),
    tuple(rows),
    prose(f"""Accuracy at the end: mean (95 % t-interval) of {len(numbers["seeds"])} seeds. Batches
      of a training are augmented as it is, in training mode, and weights move between them."""),
  )


def _draw(numbers, path):
  figure, axes = plotting.new_figure(6.0, 3.8)
  for i, (way, curve) in enumerate(numbers["curves"].items()):
    x, y = np.array(curve["steps"]), 100 * np.array(curve["test"])
    drawing.band(axes, x, y, f"C{i}", way)
  axes.set_xlabel("steps")
  axes.set_ylabel("accuracy on new images, %")
  axes.legend(frameon=False, loc="lower right")
  plotting.save_figure(figure, path)
