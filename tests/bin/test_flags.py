"""Mistakes in the flags end a command before it does anything."""

import pytest

CONFIG = "--config=configs/synthetic_quadratic.py"


@pytest.fixture(scope="module")
def workdir_of_mistakes(tmp_path_factory):
  return tmp_path_factory.mktemp("flags") / "run"


@pytest.fixture(scope="module")
def outcomes(run_all, workdir_of_mistakes):
  """What commands with mistakes said: a dict."""
  workdir = f"--workdir={workdir_of_mistakes}"
  return run_all(
    {
      "misspelt field": ("spectrum", CONFIG, workdir, "--config.lanczos.stepz=3"),
      "misspelt section": ("train", CONFIG, workdir, "--config.trainn.steps=3"),
      "wrong type": ("train", CONFIG, workdir, "--config.train.steps=many"),
      "misspelt flag": ("spectrum", CONFIG, workdir, "--inital"),
      "field as a flag": ("spectrum", CONFIG, workdir, "--target_error=0.1"),
      "no memory": ("spectrum", CONFIG, workdir, "--memory_budget=0"),
      "no config": ("train", workdir),
      "no workdir": ("train", CONFIG),
      "missing config": ("train", "--config=configs/none.py", workdir),
      "argument": ("train", CONFIG, workdir, "more"),
    }
  )


@pytest.mark.parametrize(
  "name, message",
  [
    ("misspelt field", '"steps"'),
    ("misspelt section", '"train"'),
    ("wrong type", "train.steps"),
    ("misspelt flag", "initial"),
    ("field as a flag", "there is --config.lanczos.target_error"),
    ("no memory", "--memory_budget=0.0: a number of GB above 0 is expected"),
    ("no config", "--config"),
    ("no workdir", "--workdir"),
    ("missing config", "configs/none.py"),
    ("argument", "unknown argument 'more'"),
  ],
)
def test_mistake_is_named(outcomes, workdir_of_mistakes, name, message):
  assert outcomes[name].returncode != 0
  assert message in outcomes[name].stderr
  assert not workdir_of_mistakes.exists()


@pytest.mark.parametrize("name", ["misspelt field", "misspelt section", "wrong type"])
def test_mistake_in_an_override_ends_without_a_traceback(outcomes, name):
  assert "Traceback" not in outcomes[name].stderr
