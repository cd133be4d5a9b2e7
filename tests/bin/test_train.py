"""The command that trains."""

import json

import pytest

CONFIG = "--config=configs/synthetic_quadratic.py"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """The folder that the model is trained in."""
  return tmp_path_factory.mktemp("train") / "quadratic"


@pytest.fixture(scope="module")
def trained(run, workdir):
  """The finished training."""
  return run("train", CONFIG, f"--workdir={workdir}", really=True)


@pytest.fixture(scope="module")
def afterwards(trained, run_all, workdir):
  """What commands said that were given once the folder was finished: a dict."""
  assert trained.returncode == 0, trained.stderr
  again = "train", CONFIG, f"--workdir={workdir}"
  return run_all({"again": again, "another config": (*again, "--config.train.learning_rate=0.01")})


def test_training_ends_well(trained):
  assert trained.returncode == 0, trained.stderr


@pytest.mark.parametrize("name", ["model.keras", "train.csv", "train.json", "config.json"])
def test_output_is_there(trained, workdir, name):
  assert trained.returncode == 0
  assert (workdir / name).stat().st_size > 0


def test_result_is_printed(trained, workdir):
  loss = json.loads((workdir / "train.json").read_text())["loss"]
  assert f"loss {loss:.6g}" in trained.stdout
  assert f"{workdir}/model.keras" in trained.stdout


def test_second_start_says_that_nothing_is_left(afterwards, trained):
  assert afterwards["again"].returncode == 0
  assert "already trained" in afterwards["again"].stderr
  assert afterwards["again"].stdout == trained.stdout


@pytest.mark.usefixtures("afterwards")
def test_second_start_trains_nothing(workdir):
  lines = (workdir / "train.csv").read_text().splitlines()[1:]
  assert [line.split(",")[0] for line in lines] == ["8", "16", "24"]


def test_folder_of_another_config_is_refused(afterwards, workdir):
  done = afterwards["another config"]
  assert done.returncode == 1
  assert (
    f"error: {workdir}: a model was trained there with another config (train.learning_rate: "
    in done.stderr
  )
  assert "Traceback" not in done.stderr
