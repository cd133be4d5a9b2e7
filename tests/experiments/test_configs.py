"""Configs are read as the commands read them."""

import pathlib

import pytest

from tf_hessian.experiments.configs import fields_named, load_config

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"


def test_config_is_that_of_the_file():
  assert load_config(CONFIGS / "mnist_mlp.py").train.steps == 7500


def test_overrides_change_fields_and_leave_their_neighbours():
  config = load_config(CONFIGS / "mnist_mlp.py", seed=3, train={"steps": 5})
  assert (config.seed, config.train.steps, config.train.batch_size) == (3, 5, 8)


def test_each_call_gives_a_new_config():
  load_config(CONFIGS / "mnist_mlp.py").train.steps = 1
  assert load_config(CONFIGS / "mnist_mlp.py").train.steps == 7500


def test_unknown_field_is_refused():
  with pytest.raises(KeyError, match="step"):
    load_config(CONFIGS / "mnist_mlp.py", train={"stepz": 5})


def test_config_is_locked():
  with pytest.raises(AttributeError, match="more"):
    load_config(CONFIGS / "mnist_mlp.py").more = 1


def test_missing_file_is_named_with_the_remedy(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"none\.py.*folder configs"):
    load_config(tmp_path / "none.py")


def test_file_without_a_config_is_named(tmp_path):
  (tmp_path / "empty.py").write_text("x = 1\n")
  with pytest.raises(ValueError, match=r"empty\.py: expected a Python file with a function get"):
    load_config(tmp_path / "empty.py")


def test_fields_are_found_in_all_sections():
  config = load_config(CONFIGS / "mnist_mlp.py")
  assert fields_named(config, "steps") == ["lanczos.steps", "train.steps"]
  assert fields_named(config, "none") == fields_named({}, "steps") == []


def test_fields_that_a_config_leaves_out_are_there_to_be_overridden(tmp_path):
  path = tmp_path / "short.py"
  path.write_text(
    "import ml_collections\n"
    "def get_config():\n"
    "  return ml_collections.ConfigDict({'lanczos': dict(draws=1, steps=2), 'hessian': 3})\n"
  )
  config = load_config(path, lanczos={"target_error": 0.5})
  assert config.lanczos.to_dict() == {"draws": 1, "steps": 2, "target_error": 0.5}
  assert config.hessian == 3 and "schedule_scale" not in config  # there is nothing to scale
