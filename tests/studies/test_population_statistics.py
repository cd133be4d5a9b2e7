"""Figure 19: a grid of trainings, and a verdict for each part of the claim."""

import numpy as np
import pytest

from tf_hessian.experiments import experiment
from tf_hessian.studies import population_statistics as figure_19
from tf_hessian.studies.chapter import Verdict
from tf_hessian.studies.context import Context
from tf_hessian.studies.population_statistics import BATCH, DELAYED, DIRECT
from tf_hessian.training.train import DivergedError

RATES = figure_19.RATES


def numbers_of(batch, delayed, at_once, seeds=3):
  """Returns numbers whose curves end at these losses of the rates, a little apart by seed."""
  steps = list(range(20, 161, 20))

  def curves(losses):
    spread = 0.004 * np.arange(seeds)[:, None]
    return {
      str(rate): {"steps": steps, "losses": (loss + spread + 0 * np.array(steps)).tolist()}
      for rate, loss in zip(RATES, losses, strict=True)
    }

  kinds = {BATCH: curves(batch), DELAYED: curves(delayed), DIRECT: curves(at_once)}
  return {"seeds": list(range(seeds)), "steps": 160, "last": 60, "curves": kinds}


AS_CLAIMED = {
  "batch": (1.5, 1.6, 1.7, 1.9),
  "delayed": (2.31, 2.3, 2.28, 2.1),
  "at_once": (2.45, 2.45, 2.45, 2.45),
}


def verdicts(seeds=3, **changes):
  return [v for *_, v in figure_19.judge(numbers_of(**AS_CLAIMED | changes, seeds=seeds))]


def test_all_parts_agree_where_they_are_so():
  # Without the steps, losses end a tenth or more above those with them.
  assert verdicts() == [Verdict.AGREES] * 4
  assert figure_19.describe(numbers_of(**AS_CLAIMED)).verdict is Verdict.AGREES


@pytest.mark.parametrize(
  "part, changes",
  [
    (0, {"delayed": (1.9, 2.3, 2.28, 1.85), "batch": (1.5, 1.6, 1.7, 1.8)}),
    (1, {"delayed": (2.31, 2.3, 1.76, 2.1)}),
    (2, {"at_once": (2.31, 2.3, 2.28, 2.1)}),
    (3, {"batch": (2.5, 2.5, 2.5, 2.5)}),
  ],
)
def test_part_that_is_not_so_differs_and_leaves_the_others(part, changes):
  found = verdicts(**changes)
  assert found[part] is Verdict.DIFFERS
  assert found.count(Verdict.DIFFERS) == 1
  assert figure_19.describe(numbers_of(**AS_CLAIMED | changes)).verdict is Verdict.DIFFERS


def test_two_seeds_leave_every_part_open():
  assert verdicts(seeds=2) == [Verdict.OPEN] * 4


def test_end_is_the_mean_of_the_last_steps_of_each_seed():
  numbers = numbers_of(**AS_CLAIMED)
  numbers["curves"][BATCH]["0.1"]["losses"] = np.arange(24.0).reshape(3, 8).tolist()
  assert figure_19.ends(numbers, BATCH, 0.1) == [6.0, 14.0, 22.0]


def diverging(kind, rate, seeds):
  """Returns numbers in which these seeds have diverged."""
  numbers = numbers_of(**AS_CLAIMED)
  for seed in seeds:
    numbers["curves"][kind][str(rate)]["losses"][seed][-2:] = [None] * 2  # NaN, in JSON
  return numbers


def test_training_that_diverges_is_counted_and_enters_no_interval():
  numbers = diverging(DELAYED, 0.1, [1])
  assert np.isnan(figure_19.ends(numbers, DELAYED, 0.1)).tolist() == [False, True, False]
  chapter = figure_19.describe(numbers)
  assert chapter.tables[1].rows[1][1] == "1 of 3 diverged, 2.31, 2.32"
  assert figure_19.judge(numbers)[0][2] is Verdict.AGREES  # the others are at chance


def test_rate_that_diverges_for_a_seed_does_not_train():
  changes = {"delayed": (2.31, 1.9, 2.28, 2.1)}
  assert verdicts(**changes)[1] is Verdict.DIFFERS
  numbers = numbers_of(**AS_CLAIMED | changes)
  numbers["curves"][DELAYED]["0.03"]["losses"][0][-1] = float("nan")
  assert figure_19.judge(numbers)[1][2] is Verdict.AGREES


def test_steps_at_rate_0_are_needed_where_a_seed_diverges_without_them():
  found = figure_19.judge(diverging(DIRECT, 0.01, [2]))[2]
  assert "at 0.01 1 of 3 diverged" in found[1]
  assert found[2] is Verdict.AGREES


DIVERGED = "population_0.1_zero_0_seed_1"


@pytest.fixture
def trained(root, tmp_path, monkeypatch):
  """(what the study has measured, configs of the trainings by folder)."""
  configs = {}

  def train(_, config, folder):
    configs[folder.name] = experiment.check(config)
    if folder.name == DIVERGED:
      raise DivergedError("training: the loss is nan")
    return folder

  def log(folder):
    if folder.name == DIVERGED:
      return [{"step": 20, "loss": 5.0}]
    values = configs[folder.name]["train"]
    return [
      {"step": s, "loss": 2.0 + 0.1 * values["learning_rate"] + 1 / s}
      for s in range(20, values["steps"] + 1, 20)
    ]

  monkeypatch.setattr(figure_19, "trained", train)
  monkeypatch.setattr(figure_19, "log", log)
  return figure_19.measure(Context(tmp_path, root / "configs", progress=False)), configs


def test_every_training_is_of_its_rate_statistics_and_steps(trained):
  numbers, configs = trained
  assert len(configs) == 3 * len(RATES) * 3
  for name, config in configs.items():
    train = config["train"]
    zero = 400 if "zero_400" in name else 0
    assert (train["zero_steps"], train["steps"]) == (zero, figure_19.STEPS + zero)
    assert name.startswith(f"{config['model']['normalization']}_{train['learning_rate']:g}_")
    assert name.endswith(f"seed_{config['seed']}")
  assert not any("batch" in name and "zero_400" in name for name in configs)


def test_curves_are_by_the_steps_that_learn(trained, tmp_path):
  curves = trained[0]["curves"]
  assert curves[DELAYED]["0.1"]["steps"][0] == -380
  assert curves[DIRECT]["0.1"]["steps"][0] == curves[BATCH]["0.1"]["steps"][0] == 20
  assert {c["steps"][-1] for rates in curves.values() for c in rates.values()} == {figure_19.STEPS}
  assert (tmp_path / "figure_19.png").read_bytes().startswith(b"\x89PNG")


def test_losses_after_divergence_are_not_numbers(trained):
  losses = np.array(trained[0]["curves"][DIRECT]["0.1"]["losses"])
  assert losses[1, 0] == 5.0
  assert np.isnan(losses[1, 1:]).all()
  assert np.isfinite(losses[[0, 2]]).all()
