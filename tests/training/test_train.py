"""Training: it fits, goes on after an interruption, and says what went wrong."""

import json
import os
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.models.mlp import mlp
from tf_hessian.training import train as training

LOSS = keras.losses.CategoricalCrossentropy(from_logits=True)
CONFIG = {
  "batch_size": 16,
  "learning_rate": 0.3,
  "momentum": 0.9,
  "epochs": 5,
  "until_accuracy": 1.0,
  "max_epochs": 50,
}


def toy():
  """Returns 60 separable points of 3 classes."""
  rng = np.random.default_rng(0)
  labels = np.arange(60) % 3
  x = 4 * np.eye(3)[labels] + 0.3 * rng.standard_normal((60, 3))
  y = np.eye(3)[labels]
  return tf.data.Dataset.from_tensor_slices((x.astype(np.float32), y.astype(np.float32)))


def new_model():
  keras.utils.set_random_seed(1)
  return mlp(input_shape=(3,), hidden_units=(8,), num_classes=3)


def run(workdir, **changes):
  """Returns (result, model) of a training."""
  model = new_model()
  options = {"seed": changes.pop("seed", 0), "verbose": changes.pop("verbose", False)}
  return training.train(model, LOSS, toy(), CONFIG | changes, workdir, **options), model


def epochs_logged(workdir):
  lines = (workdir / "train.csv").read_text().splitlines()
  return [int(line.split(",")[0]) for line in lines[1:]]


@pytest.fixture
def interrupt(monkeypatch):
  """Returns a function that lets an exception come at the end of an epoch, counted from 0."""

  def at(last, error=KeyboardInterrupt):
    original = training._epoch

    def epoch(model, examples, config, seed, now):
      row = original(model, examples, config, seed, now)
      if now == last:
        monkeypatch.setattr(training, "_epoch", original)
        raise error("interrupted")
      return row

    monkeypatch.setattr(training, "_epoch", epoch)
    monkeypatch.setattr(training, "_SAVE_SECONDS", 0.0)

  return at


# Results.


def test_separable_problem_is_fitted(tmp_path):
  result, _ = run(tmp_path)
  assert result["accuracy"] == 1
  assert result["loss"] < 0.1
  assert 5 <= result["epochs"] < 50


def test_training_gives_no_warning(tmp_path):
  with warnings.catch_warnings():
    warnings.simplefilter("error", UserWarning)
    run(tmp_path, epochs=1, max_epochs=1, until_accuracy=0.0)


def test_result_is_on_disk(tmp_path):
  result, _ = run(tmp_path)
  assert json.loads((tmp_path / "train.json").read_text()) == result
  assert epochs_logged(tmp_path) == list(range(result["epochs"]))


def test_saved_model_is_the_trained_one(tmp_path):
  _, model = run(tmp_path)
  found = training.load_model(tmp_path / "model.keras")
  for a, b in zip(found.get_weights(), model.get_weights(), strict=True):
    np.testing.assert_array_equal(a, b)


def test_result_is_that_of_the_saved_model(tmp_path):
  result, _ = run(tmp_path)
  found = training.load_model(tmp_path / "model.keras")
  x, y = next(iter(toy().batch(60)))
  assert float(LOSS(y, found(x))) == pytest.approx(result["loss"], rel=1e-5)


@pytest.mark.parametrize("epochs", [1, 4])
def test_without_an_accuracy_all_epochs_are_run_and_no_more(tmp_path, epochs):
  result, _ = run(tmp_path, epochs=epochs, until_accuracy=0.0)
  assert result["epochs"] == epochs
  assert "accuracy" not in result


def test_progress_is_logged(tmp_path, caplog):
  caplog.set_level("INFO")
  run(tmp_path, verbose=True)
  assert "epoch 1: " in caplog.text


def test_same_seed_gives_bitwise_the_same_weights(tmp_path):
  first, second = run(tmp_path / "a")[1], run(tmp_path / "b")[1]
  for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
    np.testing.assert_array_equal(a, b)


def test_other_seed_gives_another_order(tmp_path):
  first, second = run(tmp_path / "a")[1], run(tmp_path / "b", seed=1)[1]
  assert not np.array_equal(first.get_weights()[0], second.get_weights()[0])


# Interruptions.


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("epoch", [0, 3, 5])
def test_interrupted_training_runs_only_the_epochs_that_are_left(tmp_path, interrupt, epoch, error):
  options = {"epochs": 6, "until_accuracy": 0.0}
  interrupt(epoch, error)
  with pytest.raises(error):
    run(tmp_path, **options)
  assert not (tmp_path / "train.json").exists()
  result, _ = run(tmp_path, **options)
  assert result["epochs"] == 6
  assert epochs_logged(tmp_path) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("epoch", [1, 3])
def test_interrupted_training_ends_with_the_weights_of_an_undisturbed_one(
  tmp_path, interrupt, epoch
):
  interrupt(epoch)
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, epochs=4, until_accuracy=0.0)
  model = run(tmp_path, epochs=4, until_accuracy=0.0)[1]
  whole = run(tmp_path / "whole", epochs=4, until_accuracy=0.0)[1]
  for a, b in zip(model.get_weights(), whole.get_weights(), strict=True):
    np.testing.assert_array_equal(a, b)


# Training that fails.


def test_loss_that_is_not_finite_names_the_epoch(tmp_path):
  with pytest.raises(ValueError, match="loss is nan after epoch 1; lower the learning rate"):
    run(tmp_path, learning_rate=float("nan"))
  assert not (tmp_path / "model.keras").exists()


def test_accuracy_that_is_not_reached_is_an_error_and_keeps_the_model(tmp_path):
  with pytest.raises(ValueError, match="max_epochs = 2, expected 1.0; the model is saved"):
    run(tmp_path, learning_rate=1e-6, epochs=1, max_epochs=2)
  assert training.load_model(tmp_path / "model.keras").count_params() == 59


def test_raising_max_epochs_goes_on(tmp_path):
  options = {"learning_rate": 1e-6, "epochs": 1}
  for max_epochs in (2, 4):
    with pytest.raises(ValueError, match="raise max_epochs to go on"):
      run(tmp_path, max_epochs=max_epochs, **options)
  assert epochs_logged(tmp_path) == [0, 1, 2, 3]


def test_folder_below_a_file_is_an_error(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(OSError, match="file"):
    run(tmp_path / "file" / "run")


# The model's file.


def test_model_that_cannot_be_written_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "model.keras"
  model = new_model()
  training.save_model(model, path)
  before = path.read_bytes()

  def save(file, *_, **__):
    with open(file, "wb") as out:
      out.write(b"half")
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(model, "save", save)
  with pytest.raises(OSError, match="No space left"):
    training.save_model(model, path)
  assert path.read_bytes() == before
  assert os.listdir(tmp_path) == ["model.keras"]


def test_saving_leaves_no_other_file(tmp_path):
  training.save_model(new_model(), tmp_path / "model.keras")
  assert os.listdir(tmp_path) == ["model.keras"]


def test_missing_checkpoint_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=f"{tmp_path}/model.keras.*train the model first"):
    training.load_model(tmp_path / "model.keras")


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_truncated_checkpoint_is_refused(tmp_path, part):
  path = tmp_path / "model.keras"
  training.save_model(new_model(), path)
  content = path.read_bytes()
  path.write_bytes(content[: int(part * len(content))])
  with pytest.raises(ValueError, match=str(path)):
    training.load_model(path)


@pytest.mark.parametrize("part", [0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
def test_checkpoint_with_a_flipped_byte_is_refused_or_does_no_harm(tmp_path, part):
  path = tmp_path / "model.keras"
  model = new_model()
  training.save_model(model, path)
  content = bytearray(path.read_bytes())
  content[int(part * len(content))] ^= 0xFF
  path.write_bytes(content)
  try:
    found = training.load_model(path)
  except ValueError as e:
    assert str(path) in str(e)
  else:
    for a, b in zip(found.get_weights(), model.get_weights(), strict=True):
      np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model"])
def test_file_that_is_no_model_is_refused(tmp_path, name):
  (tmp_path / name).write_text("text")
  with pytest.raises(ValueError, match=f"{tmp_path}/{name}: not a Keras model"):
    training.load_model(tmp_path / name)
