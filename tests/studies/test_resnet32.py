"""ResNet-32: what is measured of which network, and the words about it."""

import copy
import json
import re

import numpy as np
import pytest

from tf_hessian.data import tfds
from tf_hessian.experiments import experiment
from tf_hessian.numerics import density
from tf_hessian.slq.density import spectral_density
from tf_hessian.studies import resnet32
from tf_hessian.studies.chapter import Verdict
from tf_hessian.studies.context import Context
from tf_hessian.studies.normalization import settle
from tf_hessian.studies.resnet32 import BATCH, WITHOUT
from tf_hessian.training import checkpoints

LAST = resnet32.STEPS
STEPS = [round(LAST * part) for part in resnet32.MEASURED]


@pytest.fixture(scope="module")
def place(root, tmp_path_factory):
  return Context(tmp_path_factory.mktemp("resnet32"), root / "configs", progress=False)


@pytest.fixture(scope="module")
def measured(place, small):
  """(numbers, configs and steps of the operators): all are of the network of 163 parameters."""
  asked = []

  def operator(way, config, step):
    asked.append((experiment.check(config), way.normalization, step))
    return small.operator

  def train(_):
    return {"steps": [100, LAST], "loss": [2.0, 1.0], "test_accuracy": 0.75}

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(resnet32._Way, "_operator", operator)
    patch.setattr(resnet32._Way, "train", train)
    for name, value in {"DRAWS": {BATCH: 3, WITHOUT: 1}, "LANCZOS_STEPS": 12}.items():
      patch.setattr(resnet32, name, value)
    numbers = resnet32.measure(place)
    again = resnet32.measure(place)
  assert json.loads(json.dumps(again)) == json.loads(json.dumps(numbers))
  return numbers, asked


@pytest.fixture
def numbers(measured):
  return copy.deepcopy(measured[0])


def test_each_checkpoint_is_measured_once_with_the_statistics_and_images_of_its_name(measured):
  found = [
    (n, step, c["hessian"]["training"], c["hessian"]["num_examples"], c["hessian"]["batch_size"])
    for c, n, step in measured[1]
  ]
  top = [(n, s, n == BATCH, 256, 128) for n in (BATCH, WITHOUT) for s in STEPS]
  population = [(BATCH, s, False, 256, 128) for s in STEPS]
  densities = [(WITHOUT, LAST, False, 128, 128), (BATCH, LAST, True, 128, 128)]
  subsets = [(BATCH, LAST, True, images, 128) for images in (128,)]
  assert found == top + population + subsets + densities
  assert all(c["model"]["normalization"] == n for c, n, _ in measured[1])


def test_schedule_is_the_papers_scaled_and_checkpoints_are_of_it(place):
  for name, rate in {BATCH: 0.1, WITHOUT: 0.01}.items():
    values = experiment.check(resnet32._Way(place, name).config())
    train = values["train"]
    assert train["decay_steps"] == tuple(round(LAST * x) for x in (0.4, 0.6, 0.8))
    assert (train["steps"], train["learning_rate"], values["data"]["augment"]) == (LAST, rate, True)
    assert {*STEPS} <= {*train["checkpoint_steps"], LAST}
    assert train["schedule"] == ("steps" if name == BATCH else "constant")
    assert values["model"]["depth"] == 32 and values["model"].get("width", 16) == 16


def test_curves_are_those_of_the_run(measured, small):
  run = spectral_density(small.operator, num_draws=3, lanczos_steps=12, check=False, progress=False)
  found = measured[0]["densities"][BATCH]
  plain = {k: np.array(v) for k, v in found["plain"].items()}
  sigma = (resnet32.KERNEL * max(map(np.max, run.nodes))) ** 2
  draws = [
    density.smooth(n, w, plain["grid"], sigma) for n, w in zip(run.nodes, run.weights, strict=True)
  ]
  np.testing.assert_allclose(plain["values"], np.mean(draws, axis=0), rtol=1e-9, atol=1e-12)
  stderr = np.std(draws, axis=0, ddof=1) / np.sqrt(3)
  np.testing.assert_allclose(plain["stderr"], stderr, rtol=1e-7, atol=1e-10)
  expected = 163 * np.array(run.mass(run.largest(1)[0] / 10))
  np.testing.assert_allclose(found["above_a_tenth"], expected)
  np.testing.assert_array_equal(found["known"], run.deflated().eigenvalues)
  assert found["largest"][0] == pytest.approx(small.eigenvalues[-1], rel=1e-3)


def test_pictures_are_drawn(measured, place):
  for name in resnet32.describe(measured[0]).pictures:
    assert (place.out / name).read_bytes().startswith(b"\x89PNG")


def test_ways_are_compared_where_their_losses_are_nearest(numbers):
  for name, losses in {BATCH: (1.2, 0.8, 0.7), WITHOUT: (1.9, 1.6, 1.29)}.items():
    for step, loss in zip(STEPS, losses, strict=True):
      numbers["top"][name][str(step)]["loss"] = loss
  without, batch = resnet32.at_equal_loss(numbers)
  assert (without["loss"], batch["loss"]) == (1.29, 1.2)
  (_, finding, verdict), *_ = resnet32.judge(numbers)[1:]
  assert re.search(
    rf"step {LAST:,} and the loss 1\.29: .* step {STEPS[0]:,} and the loss 1\.2:", finding
  )
  assert verdict is Verdict.OPEN


def test_one_network_is_no_evidence_for_a_claim_about_training(numbers):
  assert resnet32.describe(numbers).verdict is Verdict.OPEN
  numbers["trainings"][BATCH]["test_accuracy"] = 0.925
  assert [v for *_, v in resnet32.judge(numbers)] == [Verdict.OPEN] * 3


def test_tables_have_each_checkpoint_and_each_number_of_images(measured):
  _, top, subsets = resnet32.describe(measured[0]).tables
  assert [row[1] for row in top.rows] == [f"{s:,}" for s in 3 * STEPS]
  assert [row[0] for row in subsets.rows] == ["128", "256"]


@pytest.mark.slow
def test_training_is_measured_at_its_checkpoints(root, tmp_path, monkeypatch):
  original = str(root / "configs" / "cifar10_resnet32.py")
  (tmp_path / "cifar10_resnet32.py").write_text(
    "from tf_hessian.experiments.configs import load_config\n\n"
    "def get_config():\n"
    f"  return load_config({original!r}, model={{'depth': 8}},\n"
    "    train={'batch_size': 8, 'log_every': 2, 'test_examples': 8}).unlock()\n"
  )

  def images(_, split, *, num_examples=0, **__):
    rng = np.random.default_rng(len(split))
    count = num_examples or 48
    return rng.integers(256, size=(count, 32, 32, 3), dtype=np.uint8), rng.integers(10, size=count)

  monkeypatch.setattr(tfds, "arrays", images)
  monkeypatch.setattr(resnet32, "STEPS", 10)
  way = resnet32._Way(Context(tmp_path / "out", tmp_path, progress=False), BATCH)
  made = way.train()
  assert made["steps"][-1] == 10 and 0 <= made["test_accuracy"] <= 1
  monkeypatch.setattr(resnet32, "TOP", 2)
  found = way.top(4, 16, population=True)
  setup = experiment.build(way.config())
  model = checkpoints.load_model(checkpoints.step_path(way.folder, 4))
  settle(model, setup)
  (batch,) = setup.source.examples.take(16).batch(16)
  expected = setup.task.loss(batch[1], model(batch[0], training=False)).numpy()
  assert found["loss"] == pytest.approx(float(expected), rel=1e-5)
