"""Label smoothing and augmentation: trainings that differ in one thing, and two verdicts."""

import numpy as np
import pytest

from tf_hessian.experiments import experiment
from tf_hessian.studies import accuracy
from tf_hessian.studies.accuracy import BOTH, UNCHANGED, UNSMOOTHED
from tf_hessian.studies.chapter import Verdict
from tf_hessian.studies.context import Context


def numbers_of(smoothing=0.0, augmentation=0.05, spread=0.002, seeds=5):
  """Returns numbers of these gains in accuracy, which vary by seed."""
  noise = spread * np.linspace(-1.0, 1.0, seeds)
  ends = {BOTH: 0.6 + noise, UNSMOOTHED: 0.6 - smoothing + 0 * noise}
  ends[UNCHANGED] = 0.6 - augmentation + 0 * noise
  curves = {
    way: {
      "steps": [200, 2000],
      "test": [[0.3, float(x)] for x in end],
      "training": [[0.4, 0.9]] * seeds,
    }
    for way, end in ends.items()
  }
  return {"seeds": list(range(seeds)), "images": 5000, "steps": 2000, "curves": curves}


def verdicts(**changes):
  return [v for *_, v in accuracy.judge(numbers_of(**changes))]


def test_both_claims_agree_where_they_are_so():
  assert verdicts() == [Verdict.AGREES] * 2
  assert accuracy.describe(numbers_of()).verdict is Verdict.AGREES


@pytest.mark.parametrize(
  "changes, expected",
  [
    ({"smoothing": 0.03}, [Verdict.DIFFERS, Verdict.AGREES]),
    ({"smoothing": -0.03}, [Verdict.DIFFERS, Verdict.AGREES]),
    ({"smoothing": 0.009}, [Verdict.OPEN, Verdict.AGREES]),  # the interval leaves what is the same
    ({"augmentation": -0.05}, [Verdict.AGREES, Verdict.DIFFERS]),
    ({"augmentation": 0.001}, [Verdict.AGREES, Verdict.OPEN]),
    ({"spread": 0.1}, [Verdict.OPEN, Verdict.OPEN]),
    ({"seeds": 4}, [Verdict.OPEN, Verdict.OPEN]),
  ],
)
def test_verdict_is_by_the_interval_of_the_paired_differences(changes, expected):
  assert verdicts(**changes) == expected


def test_findings_are_in_points_with_their_p():
  (_, smoothing, _), (_, augmentation, _) = accuracy.judge(numbers_of())
  assert smoothing.startswith("with it, it is ") and "points, p = " in smoothing
  assert augmentation.startswith("with it, it is higher by 5.00 (") and "p < 0.001" in augmentation


@pytest.fixture
def trained(root, tmp_path, monkeypatch):
  """(what the study has measured, configs of the trainings by folder)."""
  configs = {}

  def train(_, config, folder):
    configs[folder.name] = experiment.check(config)
    return folder

  def read(folder):
    steps = configs[folder.name]["train"]["steps"]
    seed = configs[folder.name]["seed"]
    log = [{"step": s, "accuracy": s / steps} for s in range(20, steps + 1, 20)]
    return [r | ({"test_accuracy": 0.1 * seed} if r["step"] % 100 == 0 else {}) for r in log]

  monkeypatch.setattr(accuracy, "trained", train)
  monkeypatch.setattr(accuracy.record, "read", read)
  return accuracy.measure(Context(tmp_path, root / "configs", progress=False)), configs


def test_trainings_differ_in_one_thing_and_in_seeds(trained):
  configs = trained[1]
  assert len(configs) == 3 * 5
  for name, config in configs.items():
    assert config["loss"]["label_smoothing"] == (0.0 if name.startswith("not_smoothed") else 0.1)
    assert config["data"]["augment"] is not name.startswith("not_augmented")
    assert config["data"]["num_examples"] == accuracy.IMAGES
    assert name.endswith(f"seed_{config['seed']}")
  rest = [(c["train"], c["model"]) for c in configs.values()]
  assert all(r == rest[0] for r in rest)


def test_accuracies_are_those_of_the_steps_that_were_tested(trained, tmp_path):
  numbers = trained[0]
  curve = numbers["curves"][UNSMOOTHED]
  assert curve["steps"] == list(range(100, accuracy.STEPS + 1, 100))
  assert accuracy.ends(numbers, UNSMOOTHED) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
  assert accuracy.ends(numbers, BOTH, "training") == [1.0] * 5
  assert (tmp_path / "figure_accuracy.png").read_bytes().startswith(b"\x89PNG")
