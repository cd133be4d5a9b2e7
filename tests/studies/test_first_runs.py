"""First runs of large networks: a process each, and memory beside the plan."""

import concurrent.futures
import os
import resource

import numpy as np
import pytest

from tf_hessian.experiments import experiment
from tf_hessian.studies import first_runs
from tf_hessian.studies.chapter import Verdict
from tf_hessian.studies.context import Context


def row(peak=1.0, planned=1.0):
  return {
    "parameters": 11_692_329,
    "planned_bytes": planned * 1e9,
    "peak_bytes": peak * 1e9,
    "pass_seconds": 8.0,
    "loss": 7.0,
    "largest": [3.0, 2.0, 1.0],
    "smallest": [-1.0],
    "accuracy": 0.2,
    "images": 16,
    "lanczos_steps": 20,
    "threads": [1, 1],
    "blocks": None,
    "training_steps": 0,
  }


def numbers_of(**changes):
  return {"networks": {name: row(**changes) for name in first_runs.NETWORKS}}


@pytest.mark.parametrize(
  "peak, planned, verdict",
  [
    (1.0, 1.0, Verdict.AGREES),
    (0.3, 1.0, Verdict.AGREES),
    (1.19, 1.0, Verdict.AGREES),
    (1.25, 1.0, Verdict.DIFFERS),
  ],
)
def test_verdict_is_whether_the_plan_had_room(peak, planned, verdict):
  assert first_runs.describe(numbers_of(peak=peak, planned=planned)).verdict is verdict


def test_one_network_that_takes_more_than_planned_differs():
  numbers = numbers_of()
  numbers["networks"]["VGG-11"] = row(peak=2.0)
  chapter = first_runs.describe(numbers)
  assert chapter.verdict is Verdict.DIFFERS and "at most 2 times" in chapter.found


def test_seconds_are_scaled_to_all_of_imagenet():
  assert first_runs._hours({"ResNet-18": row()}) == pytest.approx(8.0 / 16 * 1_281_167 / 3600)


def test_training_is_named_in_the_table():
  numbers = numbers_of()
  numbers["networks"]["VGG-11"]["training_steps"] = 200
  (table,) = first_runs.describe(numbers).tables
  said = dict(zip(first_runs.NETWORKS, (r[4] for r in table.rows), strict=True))
  assert said["VGG-11"] == "200 steps, test accuracy 20 %"
  assert said["ResNet-18"] == "initial weights"


@pytest.fixture
def few(monkeypatch):
  """One network, of 784-20-10, trained for two steps."""
  network = first_runs.Network("mnist_mlp", 30, lanczos_steps=3, training_steps=2)
  monkeypatch.setattr(first_runs, "NETWORKS", {"Small, model": network})


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_network_is_measured_once_in_a_process_of_its_own(root, tmp_path, monkeypatch):
  context = Context(tmp_path, root / "configs", progress=False)
  np.ones(2**28)  # 2 GB, which are not of the others
  numbers = first_runs.measure(context)
  found = numbers["networks"]["Small, model"]
  assert found["parameters"] == 15_910
  assert found["peak_bytes"] < resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - 1e9
  assert found["planned_bytes"] == pytest.approx(found["peak_bytes"], rel=0.2)
  setup = experiment.build(context.config("mnist_mlp", hessian={"num_examples": 30}))
  model = setup.load(tmp_path / "work" / "first_runs" / "small_model" / "model.keras")
  assert found["loss"] == pytest.approx(setup.operator(model).loss(), rel=1e-6)

  def refuse(*_, **__):
    raise AssertionError(f"another process of {os.getpid()}")

  monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", refuse)
  assert first_runs.measure(context) == numbers
