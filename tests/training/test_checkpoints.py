"""Models on disk: whole, checked, and named by their step."""

import os
import random

import numpy as np
import pytest

from tf_hessian.models.mlp import mlp
from tf_hessian.training import checkpoints
from tf_hessian.training.steps import saved_steps


def new_model():
  random.seed(1)
  return mlp(input_shape=(3,), hidden_units=(8,), num_classes=3)


def test_model_that_cannot_be_written_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "model.keras"
  model = new_model()
  checkpoints.save_model(model, path)
  before = path.read_bytes()

  def save(file, *_, **__):
    with open(file, "wb") as out:
      out.write(b"half")
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(model, "save", save)
  with pytest.raises(OSError, match="No space left"):
    checkpoints.save_model(model, path)
  assert path.read_bytes() == before
  assert os.listdir(tmp_path) == ["model.keras"]


def test_saving_leaves_no_other_file(tmp_path):
  checkpoints.save_model(new_model(), tmp_path / "model.keras")
  assert os.listdir(tmp_path) == ["model.keras"]


def test_missing_checkpoint_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=f"{tmp_path}/model.keras.*train the model first"):
    checkpoints.load_model(tmp_path / "model.keras")


def test_note_is_carried_along(tmp_path):
  path = tmp_path / "model.keras"
  checkpoints.save_model(new_model(), path, note={"run": "0123", "rows": [{"step": 1}]})
  assert checkpoints.read_note(path) == {"run": "0123", "rows": [{"step": 1}]}
  for a, b in zip(
    checkpoints.load_model(path).get_weights(), new_model().get_weights(), strict=True
  ):
    np.testing.assert_array_equal(a, b)


def test_model_without_a_note_has_none(tmp_path):
  checkpoints.save_model(new_model(), tmp_path / "model.keras")
  assert checkpoints.read_note(tmp_path / "model.keras") is None


def test_model_is_written_in_the_place_of_a_link(tmp_path):
  (tmp_path / "target").write_text("mine")
  (tmp_path / "model.keras").symlink_to(tmp_path / "target")
  checkpoints.save_model(new_model(), tmp_path / "model.keras")
  assert (tmp_path / "target").read_text() == "mine"
  assert checkpoints.load_model(tmp_path / "model.keras").count_params() == 59


def test_variable_that_is_not_finite_is_named():
  model = new_model()
  model.weights[1].assign(np.nan * model.weights[1])
  with pytest.raises(ValueError, match="file: hidden_1/bias is not finite"):
    checkpoints.check_finite(model.variables, "file")


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_truncated_checkpoint_is_refused(tmp_path, part):
  path = tmp_path / "model.keras"
  checkpoints.save_model(new_model(), path)
  content = path.read_bytes()
  path.write_bytes(content[: int(part * len(content))])
  with pytest.raises(ValueError, match=str(path)):
    checkpoints.load_model(path)


@pytest.mark.parametrize("part", [0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
def test_checkpoint_with_a_flipped_byte_is_refused_or_does_no_harm(tmp_path, part):
  path = tmp_path / "model.keras"
  model = new_model()
  checkpoints.save_model(model, path)
  content = bytearray(path.read_bytes())
  content[int(part * len(content))] ^= 0xFF
  path.write_bytes(content)
  try:
    found = checkpoints.load_model(path)
  except ValueError as e:
    assert str(path) in str(e)
  else:
    for a, b in zip(found.get_weights(), model.get_weights(), strict=True):
      np.testing.assert_array_equal(a, b)


def test_model_in_hdf5_is_refused_with_the_format_that_is_read(tmp_path):
  new_model().save(tmp_path / "model.h5")
  with pytest.raises(ValueError, match="model.h5: expected a .keras file, got HDF5"):
    checkpoints.load_model(tmp_path / "model.h5")


@pytest.mark.parametrize("name", ["model.keras", "model"])
def test_file_that_is_no_model_is_refused(tmp_path, name):
  (tmp_path / name).write_text("text")
  with pytest.raises(ValueError, match=f"{tmp_path}/{name}: not a Keras model"):
    checkpoints.load_model(tmp_path / name)


def test_checkpoints_of_steps_are_listed_in_their_order(tmp_path):
  for step in (200, 0, 30_000_000, 9):
    checkpoints.save_model(new_model(), checkpoints.step_path(tmp_path, step))
  (tmp_path / "checkpoints" / "step_x.keras").write_text("")
  found = saved_steps(tmp_path)
  assert list(found) == [0, 9, 200, 30_000_000]
  assert checkpoints.load_model(found[9]).count_params() == 59


def test_folder_without_checkpoints_has_none(tmp_path):
  assert saved_steps(tmp_path / "nowhere") == {}
