"""Batch and moving statistics at the same weights."""

import re

import numpy as np
import pytest

from tf_hessian.data import tfds
from tf_hessian.experiments import experiment
from tf_hessian.studies import intervals, swap
from tf_hessian.studies.chapter import Verdict
from tf_hessian.studies.context import Context
from tf_hessian.studies.normalization import BATCH, Variant, settle
from tf_hessian.training import checkpoints

SHORT = """
from tf_hessian.experiments.configs import load_config


def get_config():
  return load_config(
    {original!r},
    model={{"depth": 8, "width": 1}},
    train={{"batch_size": 8, "steps": 3, "decay_steps": (2,), "checkpoint_steps": (0, 3)}}
    | {{"log_every": 1, "test_examples": 8}},
  ).unlock()
"""


def row(ratio, share, seeds=5):
  """Returns made-up numbers of one kind of statistics, which differ a little between seeds."""
  spread = np.linspace(0.99, 1.01, seeds)
  keys = {"ratio": ratio, "gradient_share": share, "batch_share": share, "loss": 1.3, "first": 2.0}
  made = {key: (value * spread).tolist() for key, value in keys.items()}
  made["largest_residual"] = [1e-3] * seeds
  return made | {"training": [f"training of {seed}" for seed in range(seeds)]}


def numbers_of(moving, batch, seeds=5):
  kinds = {swap.MOVING: row(*moving, seeds), "128": row(*batch, seeds), "32": row(*batch, seeds)}
  earlier = {swap.POPULATION: row(*moving, seeds), "128": row(*batch, seeds)}
  numbers = {"images": 512, "earlier_images": 256, "settling": 50, "seeds": list(range(seeds))}
  return numbers | {"steps": {"1200": kinds, "0": earlier}}


@pytest.mark.parametrize(
  "moving, batch, seeds, verdict",
  [
    ((13.0, 0.9), (1.7, 0.3), 5, Verdict.AGREES),
    ((13.0, 0.9), (1.7, 0.3), 4, Verdict.OPEN),
    ((13.0, 0.3), (1.7, 0.9), 5, Verdict.DIFFERS),
    ((1.0, 0.9), (1.7, 0.3), 5, Verdict.DIFFERS),
    ((1.7, 0.9), (1.7, 0.3), 5, Verdict.OPEN),
  ],
)
def test_verdict_is_that_of_all_paired_intervals(moving, batch, seeds, verdict):
  chapter = swap.describe(numbers_of(moving, batch, seeds))
  assert chapter.verdict is verdict


def test_differences_are_those_of_the_same_seeds():
  _, tests = swap.judge({swap.MOVING: row(13.0, 0.9), "128": row(1.7, 0.3)})
  assert tests["ratio"].mean == pytest.approx(13 / 1.7)
  expected = intervals.paired(row(13.0, 0.9)["batch_share"], row(1.7, 0.3)["batch_share"])
  assert tests["batch_share"] == expected


def test_residuals_of_the_last_step_and_of_earlier_ones_are_named():
  numbers = numbers_of((13.0, 0.9), (1.7, 0.3))
  numbers["steps"]["0"]["128"]["largest_residual"][2] = 0.0104
  assert "is 0.001 at the last step, and 0.01 before" in describe(numbers)
  del numbers["steps"]["0"]
  assert "and none before" in describe(numbers)


def test_factor_of_each_size_is_named():
  numbers = numbers_of((13.0, 0.9), (1.7, 0.3))
  numbers["steps"]["1200"]["32"]["ratio"] = [26.0 / r for r in (12.9, 13.0, 13.0, 13.0, 13.1)]
  found = re.search(r"by the size of batches: (\S+) .* of 32, (\S+) .* of 128\.", describe(numbers))
  assert [float(x) for x in found.groups()] == pytest.approx([6.5, 7.65], rel=0.01)
  assert "all images at once" not in describe(numbers)
  assert "batch of 128 is all images at once" in describe(numbers | {"images": 128})
  del numbers["steps"]["1200"]["32"]
  assert "by the size" not in describe(numbers)


def test_earlier_steps_have_a_factor_and_their_images():
  numbers = numbers_of((13.0, 0.9), (1.7, 0.3))
  numbers["steps"]["0"]["population"]["ratio"] = [2 * 1.7] * 5
  assert "on the first 256 images" in describe(numbers)
  assert re.search(r"So the factor is 2.00 \(.* at step 0, at losses", describe(numbers))
  del numbers["steps"]["0"]
  assert "Earlier" not in describe(numbers)


def test_another_training_of_other_steps_is_said():
  numbers = numbers_of((13.0, 0.9), (1.7, 0.3))
  assert "another training" not in describe(numbers)
  numbers["steps"]["0"]["128"]["training"][3] = "another one"
  assert "of another training from the same seeds" in describe(numbers)


def describe(numbers):
  return swap.describe(numbers).reason


def test_table_has_a_row_of_each_step_and_kind():
  (table,) = swap.describe(numbers_of((13.0, 0.9), (1.7, 0.3))).tables
  kinds = ["batches of 32", "batches of 128", "moving"]
  earlier = [("0", "batches of 128"), ("0", "population")]
  assert [r[:2] for r in table.rows] == earlier + [("1,200", k) for k in kinds]
  assert table.rows[-1][3].startswith("13.0 (") and table.rows[-1][4].startswith("90.0 (")


def images(_, split, *, num_examples=0, **__):
  """Takes the place of TFDS: returns 48 random images, or so many, and labels."""
  rng = np.random.default_rng(len(split))
  count = num_examples or 48
  return rng.integers(256, size=(count, 32, 32, 3), dtype=np.uint8), rng.integers(10, size=count)


@pytest.fixture
def fake(monkeypatch):
  """Measurements that say what they are of, and how often they were made."""
  calls = []

  class Fake:
    def __init__(self, _, kind, images):
      self._kind, self._images = kind, images

    def __call__(self, path):
      assert self._images == (512 if path.stem == "step_00001200" else 256)
      calls.append((self._kind, path.parts[-3][-1], path.stem))
      numbers = row(2.0 + len(calls) % 3, 0.5, 1)
      return {k: v[0] for k, v in numbers.items()} | {"kind": self._kind}

  monkeypatch.setattr(swap, "_Operator", Fake)
  monkeypatch.setattr(Variant, "train", Variant.folder)
  for name, value in {
    "SEEDS": (0, 1),
    "STEPS": (1200, 400, 100, 0),
    "SIZES": (128, 32, 512),
  }.items():
    monkeypatch.setattr(swap, name, value)
  return calls


def test_every_seed_step_and_kind_is_measured_once(fake, root, tmp_path):
  context = Context(tmp_path, root / "configs", progress=False)
  found = swap.measure(context)
  assert found == swap.measure(context)
  folder = tmp_path / "work" / "swap"
  assert len(list(folder.glob("*.json"))) == len(fake) == 20
  steps = [(k, f"step_{s:08d}") for s in (100, 400, 0) for k in ("population", "128")]
  steps += [(k, "step_00001200") for k in ("moving", "128", "32", "512")]
  assert sorted(fake) == sorted((k, seed, step) for k, step in steps for seed in "01")
  # The step that is judged comes first.
  judged = [(k, s, "step_00001200") for k in ("moving", "128") for s in "01"]
  assert fake[:4] == judged
  for kinds in found["steps"].values():
    assert all(row["kind"] == [kind] * 2 for kind, row in kinds.items())
  assert (tmp_path / "figure_swap.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize(
  "kind, training, size", [("moving", False, 16), ("population", False, 16), ("8", True, 8)]
)
def test_loss_is_that_of_the_named_statistics(root, tmp_path, monkeypatch, kind, training, size):
  original = str(root / "configs" / "cifar10_small_resnet.py")
  (tmp_path / "cifar10_small_resnet.py").write_text(SHORT.format(original=original))
  context = Context(tmp_path / "out", tmp_path, progress=False)
  monkeypatch.setattr(tfds, "arrays", images)
  for name, value in {"SIZES": (8,), "TOP": 2}.items():
    monkeypatch.setattr(swap, name, value)
  path = checkpoints.step_path(BATCH.train(context, 1), 3)
  found = swap._Operator(context, kind, 16)(path)
  setup = experiment.build(BATCH.config(context, 1))
  model = checkpoints.load_model(path)
  if kind == "population":
    settle(model, setup)
  batches = list(setup.source.examples.take(16).batch(size))
  losses = [setup.task.loss(y, model(x, training=training)).numpy() for x, y in batches]
  assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
  assert found["largest_residual"] <= 0.01
  assert found["first"] >= found["tenth"]
