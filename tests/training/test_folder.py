"""The folder of a training: whose it is, and what is believed in it."""

import json
import os
import random
import shutil
import zipfile

import keras
import pytest

from tf_hessian.experiments import fields
from tf_hessian.models.mlp import mlp
from tf_hessian.training import checkpoints, folder

IDENTITY = {"seed": 1, "train": {"steps": 4, "until_accuracy": 0.0, "max_steps": 0}}
OTHER = IDENTITY | {"seed": 2}
RESULT = {"steps": 4, "loss": 0.5}
ROWS = [{"step": 2, "loss": 1.5, "seconds": 0.25}, {"step": 4, "loss": 0.5, "seconds": 0.5}]


@pytest.fixture(scope="module")
def model():
  random.seed(1)
  model = mlp(input_shape=(3,), hidden_units=(2,), num_classes=2)
  optimizer = keras.optimizers.SGD(0.1)
  optimizer.build(model.trainable_variables)
  model.compile(optimizer)
  return model


@pytest.fixture
def finished(model, tmp_path):
  """A folder of a finished training."""
  with folder.TrainingFolder(tmp_path / "run", IDENTITY) as made:
    made.save_step(model, 4)
    made.save_state(model, ROWS)
    made.finish(model, RESULT, ROWS)
  return tmp_path / "run"


def contents(path):
  return {p.name: p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_finished_folder_has_its_files_and_no_states(finished):
  files = {"config.json", "lock", "model.keras", "train.json", "train.csv", "step_00000004.keras"}
  assert set(contents(finished)) == files


def test_result_is_found_again(finished):
  assert folder.finished(finished, IDENTITY) == RESULT


@pytest.mark.parametrize("content", [None, "", "[]", "{}", "text", "3", '{"steps": 5}'])
@pytest.mark.parametrize("name", ["train.json", "train.csv"])
def test_result_and_log_are_written_again_from_the_model(finished, name, content):
  before = (finished / name).read_text()
  if content is None:
    (finished / name).unlink()
  else:
    (finished / name).write_text(content)
  assert folder.finished(finished, IDENTITY, leads=False) == RESULT
  assert content is None or (finished / name).read_text() == content
  assert folder.finished(finished, IDENTITY) == RESULT
  assert (finished / name).read_text() == before


def test_states_that_a_killed_process_left_are_removed_once_all_is_finished(finished, model):
  checkpoints.save_model(model, finished / "training.keras", compiled=True)
  assert folder.finished(finished, IDENTITY) == RESULT
  assert not (finished / "training.keras").exists()


def test_end_of_a_finished_training_is_on_record_too(finished):
  later = {"seed": 1, "train": IDENTITY["train"] | {"max_steps": 9}}
  with pytest.raises(ValueError, match="train.max_steps: 0 there, 9 now"):
    folder.finished(finished, later)


@pytest.mark.parametrize("function", [folder.finished, folder.TrainingFolder])
def test_other_training_is_refused_and_changes_nothing(finished, function):
  before = contents(finished)
  with pytest.raises(ValueError, match=f"{finished}: a model was .* .seed: 1 there, 2 now"):
    function(finished, OTHER)
  assert contents(finished) == before


@pytest.mark.parametrize("function", [folder.finished, folder.TrainingFolder])
def test_lost_record_is_not_made_up_for_another_training(finished, function):
  (finished / "config.json").unlink()
  before = contents(finished)
  with pytest.raises(ValueError, match=f"{finished}: it holds checkpoints, model.keras, train"):
    function(finished, OTHER)
  assert contents(finished) == before


def test_record_of_something_else_is_left_as_it_is(tmp_path):
  (tmp_path / "config.json").write_text('{"architectures": ["T5"]}')
  (tmp_path / "model.keras").write_text("mine")
  before = contents(tmp_path)
  with pytest.raises(ValueError, match="config.json: damaged .*, or not of a training"):
    folder.TrainingFolder(tmp_path, IDENTITY)
  assert contents(tmp_path) == before


def test_record_whose_values_were_changed_is_damaged(finished):
  about = json.loads((finished / "config.json").read_text())
  (finished / "config.json").write_text(json.dumps(about | {"seed": 2}))
  with pytest.raises(ValueError, match="config.json: damaged .its digest is wrong"):
    folder.TrainingFolder(finished, OTHER)


@pytest.mark.parametrize(
  "name",
  [
    f"{kind}{'' if matrix == 'hessian' else f'_{matrix}'}{start}"
    for kind in ("spectrum", "spectrum_initial", "eigenpairs", "eigenpairs_initial")
    for matrix in fields.MATRICES
    for start in ("", "_gradient")
  ]
  + ["spectra", "eigenpairs_of_steps"],
)
def test_model_may_be_trained_beside_what_was_measured(tmp_path, name):
  (tmp_path / name).mkdir()
  folder.TrainingFolder(tmp_path, IDENTITY).close()


def test_file_of_that_name_is_the_users(tmp_path):
  (tmp_path / "spectrum").write_text("mine")
  with pytest.raises(ValueError, match="it holds spectrum, but no config.json"):
    folder.TrainingFolder(tmp_path, IDENTITY)


# Models of others.


@pytest.mark.parametrize("name", ["model.keras", "checkpoints/step_00000004.keras"])
def test_model_of_another_training_is_kept_under_another_name(finished, model, tmp_path, name):
  with folder.TrainingFolder(tmp_path / "other", OTHER) as other:
    other.save_step(model, 4)
    other.finish(model, RESULT, ROWS)
  content = (tmp_path / "other" / name).read_bytes()
  shutil.copy(tmp_path / "other" / name, finished / name)
  with folder.TrainingFolder(finished, IDENTITY) as made:
    digest = folder.digest_of(OTHER)
  assert made.digest != digest
  path = finished / name
  assert not path.exists()
  assert path.with_name(f"{path.stem}_of_{digest}.keras").read_bytes() == content


def test_model_of_another_training_is_no_result(finished, model, tmp_path):
  with folder.TrainingFolder(tmp_path / "other", OTHER) as other:
    other.finish(model, RESULT, ROWS)
  shutil.copy(tmp_path / "other" / "model.keras", finished)
  assert folder.finished(finished, IDENTITY) is None
  with pytest.raises(ValueError, match="model.keras: not what .* is of .it is of another training"):
    folder.load(finished, finished / "model.keras")


def test_checkpoint_of_another_step_is_not_measured(finished):
  path = finished / "checkpoints" / "step_00000002.keras"
  shutil.copy(finished / "checkpoints" / "step_00000004.keras", path)
  with pytest.raises(ValueError, match=f"{path}: not what .*it is of step 4"):
    folder.load(finished, path)


def test_damaged_model_is_not_trained_over(finished):
  (finished / "model.keras").write_bytes((finished / "model.keras").read_bytes()[:-40])
  assert folder.finished(finished, IDENTITY) is None
  with pytest.raises(ValueError, match="model.keras: .*damaged.*checkpoints of the steps 4, of wh"):
    folder.TrainingFolder(finished, IDENTITY)
  os.unlink(finished / "model.keras")
  folder.TrainingFolder(finished, IDENTITY).close()


def test_weights_that_were_changed_under_the_note_are_damage(finished):
  path = finished / "model.keras"
  with zipfile.ZipFile(path) as archive:
    content = {name: archive.read(name) for name in archive.namelist()}
  content["model.weights.h5"] += b"\0"
  with zipfile.ZipFile(path, "w") as archive:
    for name, data in content.items():
      archive.writestr(name, data)
  with pytest.raises(ValueError, match="its weights were changed"):
    checkpoints.read_note(path)
  assert folder.finished(finished, IDENTITY) is None


def test_model_without_a_record_is_measured(model, tmp_path):
  checkpoints.save_model(model, tmp_path / "model.keras")
  found = folder.load(tmp_path, tmp_path / "model.keras")
  assert found.count_params() == model.count_params()


# Earlier versions: a record without a digest, models without notes.


@pytest.fixture
def old(model, tmp_path):
  path = tmp_path / "old"
  path.mkdir()
  (path / "config.json").write_text(json.dumps(IDENTITY, indent=2))
  (path / "train.json").write_text(json.dumps(RESULT))
  checkpoints.save_model(model, path / "model.keras")
  return path


def test_finished_folder_of_an_earlier_version_is_finished(old):
  before = contents(old)
  assert folder.finished(old, IDENTITY) == RESULT
  assert contents(old) == before
  assert folder.load(old, old / "model.keras").count_params() == 14


def test_folder_of_an_earlier_version_stays_one(old):
  folder.TrainingFolder(old, IDENTITY).close()
  assert json.loads((old / "config.json").read_text()) == IDENTITY
  assert folder.finished(old, IDENTITY) == RESULT


@pytest.mark.parametrize("content", ["", "[]", "{}", "text", '{"steps": "4"}'])
def test_damaged_result_of_an_earlier_version_is_named(old, content):
  (old / "train.json").write_text(content)
  with pytest.raises(ValueError, match="train.json: damaged .*; delete it to train again"):
    folder.finished(old, IDENTITY)


def test_model_without_a_note_is_not_believed_beside_a_newer_record(finished, model):
  checkpoints.save_model(model, finished / "model.keras")
  assert folder.finished(finished, IDENTITY) is None
  folder.TrainingFolder(finished, IDENTITY).close()
  assert (finished / "model_of_another.keras").exists()


@pytest.mark.parametrize("value, same", [(0, True), (None, True), ("", True), (5, False)])
def test_a_field_that_is_new_since_the_record_is_the_same_at_its_off_value(value, same):
  before, now = {"data": {"name": "x"}}, {"data": {"name": "x", "new": value}}
  assert (folder.differences(before, now, ["data"]) == []) is same
