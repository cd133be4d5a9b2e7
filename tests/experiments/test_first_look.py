"""What is wrong with a command's files is said without TensorFlow."""

import os
import pathlib
import subprocess
import sys

import pytest

from tf_hessian.experiments import configs, first_look
from tf_hessian.experiments.weights import Weights

ROOT = pathlib.Path(__file__).parents[2]


def own_model(**fields):
  config = configs.load_config(ROOT / "configs" / "own_model.py")
  for name, value in fields.items():
    section = "model" if name == "path" else "data"
    config[section][name] = str(value)
  return config


@pytest.fixture
def there(tmp_path):
  """A folder with a model and a function's file."""
  (tmp_path / "mine.keras").touch()
  (tmp_path / "data.py").touch()
  return tmp_path


def training(config, workdir):
  first_look.look_at_training(config, workdir)


def measurement(config, workdir, strategy="one_device", **choices):
  first_look.look_at_measurement(config, workdir, Weights(**choices), strategy=strategy)


@pytest.mark.parametrize("look", [training, measurement])
def test_files_that_are_there_are_found(there, look):
  config = own_model(path=there / "mine.keras", function=f"{there / 'data.py'}:examples")
  look(config, there / "runs" / "new")
  assert {p.name for p in there.iterdir()} == {"mine.keras", "data.py"}


@pytest.mark.parametrize("look", [training, measurement])
def test_missing_model_is_named_with_the_nearest(there, look):
  config = own_model(path=there / "mime.keras", function=f"{there / 'data.py'}:examples")
  message = (
    "config.model.path: there is no such checkpoint: .*mime.keras; did you mean .*mine.keras"
  )
  with pytest.raises(FileNotFoundError, match=message):
    look(config, there)


@pytest.mark.parametrize("look", [training, measurement])
def test_missing_data_are_named_with_the_nearest(there, look):
  config = own_model(path=there / "mine.keras", function=f"{there / 'dat.py'}:examples")
  message = "config.data.function: there is no file .*dat.py; did you mean .*data.py"
  with pytest.raises(FileNotFoundError, match=message):
    look(config, there)


@pytest.mark.parametrize("look", [training, measurement])
def test_bad_field_is_named(config, tmp_path, look):
  config.lanczos.draws = 0
  with pytest.raises(ValueError, match="config.lanczos.draws: expected"):
    look(config, tmp_path)


@pytest.mark.parametrize("look", [training, measurement])
@pytest.mark.parametrize("inside", [(), ("a",), ("a", "b")])
def test_file_in_the_place_of_the_folder_is_named(config, tmp_path, look, inside):
  (tmp_path / "file").touch()
  with pytest.raises(NotADirectoryError, match=f"expected a folder, got a file: {tmp_path}/file"):
    look(config, (tmp_path / "file").joinpath(*inside))


def test_link_to_nothing_in_the_place_of_the_folder_is_named(config, tmp_path):
  (tmp_path / "link").symlink_to(tmp_path / "none")
  with pytest.raises(NotADirectoryError, match="workdir: expected a folder"):
    training(config, tmp_path / "link")


def test_folder_as_a_checkpoint_is_refused(config, there):
  with pytest.raises(ValueError, match="checkpoint: expected a .keras file, got a folder"):
    measurement(config, there, checkpoint=str(there))


@pytest.mark.parametrize(
  "options, message",
  [
    ({}, "model.keras: there is no such checkpoint; train the model first"),
    ({"checkpoint": "none.keras"}, "checkpoint: there is no such checkpoint: none.keras"),
    ({"step": 3}, "there are no checkpoints of steps"),
    ({"all_steps": True}, "there are no checkpoints of steps"),
  ],
)
def test_missing_checkpoint_is_named(config, tmp_path, options, message):
  with pytest.raises(FileNotFoundError, match=message):
    measurement(config, tmp_path, **options)
  measurement(config, tmp_path, **options, strategy="parameter_server")  # it is the chief's


def test_missing_step_is_named_with_those_that_are_there(config, tmp_path):
  (tmp_path / "checkpoints").mkdir()
  for step in (2, 4):
    (tmp_path / "checkpoints" / f"step_{step:08d}.keras").touch()
  measurement(config, tmp_path, step=4)
  measurement(config, tmp_path, all_steps=True)
  with pytest.raises(FileNotFoundError, match="no checkpoint of step 3; there are 2, 4"):
    measurement(config, tmp_path, step=3)


def test_initial_weights_need_no_file(config, tmp_path):
  measurement(config, tmp_path, initial=True)


def test_initial_weights_of_a_file_are_refused_as_they_are_its_own(there):
  config = own_model(path=str(there / "mine.keras"), function=f"{there / 'data.py'}:examples")
  with pytest.raises(ValueError, match="initial: .* the weights are those of the file; leave this"):
    measurement(config, there, initial=True)
  measurement(config, there)


def test_finished_training_needs_no_other_file(there):
  (there / "model.keras").touch()
  training(own_model(path="none.keras", function="none.py:examples"), there)


def test_checkpoint_takes_the_place_of_the_configs_model(there):
  config = own_model(path="none.keras", function=f"{there / 'data.py'}:examples")
  measurement(config, there, checkpoint=str(there / "mine.keras"))


@pytest.mark.parametrize("command", ["spectrum", "train", "verify"])
def test_command_looks_before_tensorflow_is_imported(tmp_path, command):
  code = f"""
import sys
sys.modules["tensorflow"] = sys.modules["keras"] = None  # importing them fails
sys.argv = ["{command}", "--config=configs/own_model.py", "--workdir={tmp_path}"]
import tf_hessian.bin.{command} as command
from tf_hessian.bin import flags
flags.run(command.main)
"""
  done = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    cwd=ROOT,
    timeout=900,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
  )
  assert done.returncode == 1
  assert done.stderr.startswith("error: config.") and "there is no" in done.stderr
