"""Where the studies find what they share."""

import pathlib
import types

import pytest

from tf_hessian.studies import context as context_lib
from tf_hessian.studies.context import Context


def test_work_is_a_folder_of_the_results():
  assert Context(pathlib.Path("results")).work == pathlib.Path("results/work")


def test_config_has_the_values_that_are_asked_for(root):
  made = Context(pathlib.Path("results"), root / "configs")
  config = made.config("mnist_mlp", seed=7, train={"steps": 3})
  assert (config.seed, config.train.steps) == (7, 3)
  assert config.train.batch_size == made.config("mnist_mlp").train.batch_size


def test_config_that_is_missing_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"mnist_mlp\.py"):
    Context(tmp_path, tmp_path).config("mnist_mlp")


def test_small_model_is_prepared_once_from_its_config_in_the_folder_of_work(
  configs, tmp_path, monkeypatch
):
  calls = []

  def prepare(config, workdir, *, progress):
    calls.append((config.data.name, workdir, progress))
    return types.SimpleNamespace(seconds=7000.0)

  monkeypatch.setattr(context_lib.small_model_lib, "prepare", prepare)
  made = Context(tmp_path, configs, progress=False)
  assert made.trained_model is made.trained_model
  assert calls == [("function", tmp_path / "work" / "small_model", False)]
  assert 7000 <= made.costs.total() < 7100  # counted once, whenever it was made
