"""Training: it fits, goes on after an interruption, and says what went wrong."""

import csv
import json
import random
import shutil
import warnings
import zipfile

import keras
import numpy as np
import pytest

from tf_hessian.data import source
from tf_hessian.models.mlp import mlp
from tf_hessian.training import checkpoints, record, task
from tf_hessian.training import train as training
from tf_hessian.training.steps import saved_steps

LOSS = keras.losses.CategoricalCrossentropy(from_logits=True)
CONFIG = {
  "batch_size": 15,
  "per_replica": False,
  "learning_rate": 0.3,
  "momentum": 0.9,
  "schedule": "constant",
  "decay_steps": (),
  "decay_factor": 0.1,
  "zero_steps": 0,
  "steps": 20,
  "until_accuracy": 0.0,
  "max_steps": 0,
  "checkpoint_steps": (),
  "log_every": 4,
  "test_every": 0,
  "test_examples": 0,
}


def points(count=60):
  """Returns separable points of 3 classes, and their one-hot classes."""
  rng = np.random.default_rng(0)
  labels = np.arange(count) % 3
  x = 4 * np.eye(3)[labels] + 0.3 * rng.standard_normal((count, 3))
  return x.astype(np.float32), np.eye(3, dtype=np.float32)[labels]


def new_model():
  random.seed(1)
  return mlp(input_shape=(3,), hidden_units=(8,), num_classes=3)


def run(workdir, *, seed=0, verbose=False, loss=LOSS, test=None, model=new_model, **changes):
  """Returns the result of a training."""
  classes = task.Task(loss, classes=3)
  data = source.in_memory(*points(), test=test)
  return training.train(model, classes, data, CONFIG | changes, workdir, seed=seed, verbose=verbose)


def rows(workdir):
  """Returns the rows of the log, dicts of strings."""
  with open(workdir / "train.csv") as file:
    return list(csv.DictReader(file))


def steps_logged(workdir):
  return [int(row["step"]) for row in rows(workdir)]


def weights(workdir):
  return checkpoints.load_model(workdir / "model.keras").get_weights()


def assert_same(first, second):
  for a, b in zip(first, second, strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.fixture
def interrupt(monkeypatch):
  """Returns a function that lets an exception come after the row of a step."""
  return lambda last, error=KeyboardInterrupt: interrupt_at(monkeypatch, last, error)


def interrupt_at(patch, last, error=KeyboardInterrupt):
  original = training._Training._advance

  def advance(self, step):
    step = original(self, step)
    if step == last:
      patch.setattr(training._Training, "_advance", original)
      raise error("interrupted")
    return step

  patch.setattr(training._Training, "_advance", advance)
  patch.setattr(training, "_SAVE_SECONDS", 0.0)
  patch.setattr(training, "_SAVE_FACTOR", 0.0)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
  """A training of 20 steps, which no test changes: (its folder, its result)."""
  folder = tmp_path_factory.mktemp("plain")
  return folder, run(folder)


# Results.


def test_separable_problem_is_fitted(tmp_path):
  result = run(tmp_path, steps=60)
  assert result["accuracy"] == 1
  assert result["loss"] < 0.1


def test_training_gives_no_warning(tmp_path):
  with warnings.catch_warnings():
    warnings.simplefilter("error", UserWarning)
    run(tmp_path, steps=4)


def test_result_is_on_disk(plain):
  folder, result = plain
  assert json.loads((folder / "train.json").read_text()) == result
  assert steps_logged(folder) == [4, 8, 12, 16, 20]


def test_result_is_that_of_the_saved_model(plain):
  folder, result = plain
  x, y = points()
  found = checkpoints.load_model(folder / "model.keras")
  assert float(LOSS(y, found(x))) == pytest.approx(result["loss"], rel=1e-5)


def test_steps_are_those_of_gradient_descent_with_momentum(tmp_path):
  # The whole set is one batch, so its order changes the sums by rounding only.
  run(tmp_path, batch_size=60, steps=3, learning_rate=0.1, momentum=0.5)
  model = new_model()
  x, y = points()
  optimizer = keras.optimizers.SGD(0.1, momentum=0.5)
  model.compile(optimizer, loss=LOSS)
  model.fit(x, y, batch_size=60, epochs=3, shuffle=False, verbose=0)
  for a, b in zip(weights(tmp_path), model.get_weights(), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_losses_that_layers_add_are_trained_on(tmp_path):
  def regularized():
    random.seed(1)
    layer = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(10.0))
    return keras.Sequential([keras.Input((3,)), layer])

  run(tmp_path, model=regularized, learning_rate=0.01, momentum=0.0, steps=60)
  assert np.abs(weights(tmp_path)[0]).max() < 0.1


def test_steps_without_learning_only_move_the_statistics(tmp_path):
  def normalized():
    random.seed(1)
    layers = [keras.layers.BatchNormalization(momentum=0.5), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((3,)), *layers])

  run(tmp_path, model=normalized, steps=12, zero_steps=12)
  found = checkpoints.load_model(tmp_path / "model.keras")
  assert_same(
    [v.numpy() for v in found.trainable_variables],
    [v.numpy() for v in normalized().trainable_variables],
  )
  x = points()[0]
  np.testing.assert_allclose(found.layers[0].moving_mean, x.mean(0), rtol=0.3)


def test_progress_is_logged(tmp_path, caplog):
  caplog.set_level("INFO")
  run(tmp_path, verbose=True)
  assert "step 4: learning_rate 0.3, loss " in caplog.text


def test_excess_over_the_entropy_of_smoothed_targets_is_logged(tmp_path, caplog):
  caplog.set_level("INFO")
  loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
  result = run(tmp_path, loss=loss, verbose=True)
  lowest = task.smoothed_entropy(0.1, 3)
  assert result["loss"] - result["excess"] == pytest.approx(lowest)
  assert "excess" in caplog.text
  for row in rows(tmp_path):
    assert float(row["loss"]) - float(row["excess"]) == pytest.approx(lowest)


def test_test_set_is_measured_at_its_steps_and_at_the_end(tmp_path):
  result = run(tmp_path, test=points(30), test_every=8)
  assert result["test_accuracy"] == 1
  assert [row["step"] for row in rows(tmp_path) if row["test_loss"]] == ["8", "16"]


def test_measuring_changes_nothing(tmp_path, plain):
  run(tmp_path, test=points(30), test_every=4)
  assert_same(weights(tmp_path), weights(plain[0]))


def test_same_seed_gives_bitwise_the_same_weights(tmp_path, plain):
  run(tmp_path)
  assert_same(weights(tmp_path), weights(plain[0]))


def test_other_seed_gives_another_order(tmp_path, plain):
  run(tmp_path, seed=1)
  assert not np.array_equal(weights(tmp_path)[0], weights(plain[0])[0])


def test_how_many_steps_are_run_at_a_time_changes_nothing(tmp_path, plain, monkeypatch):
  monkeypatch.setattr(training, "_BAR_SECONDS", 0.0)  # one
  run(tmp_path)
  assert_same(weights(tmp_path), weights(plain[0]))
  first, second = ([row | {"seconds": ""} for row in rows(f)] for f in (tmp_path, plain[0]))
  assert first == second


@pytest.mark.parametrize("every", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_how_often_is_logged_changes_nothing(tmp_path, plain, every):
  run(tmp_path, log_every=every)
  assert_same(weights(tmp_path), weights(plain[0]))


# Checkpoints of steps.


def test_named_steps_and_the_last_are_kept(tmp_path):
  run(tmp_path, checkpoint_steps=(0, 6), steps=10)
  found = saved_steps(tmp_path)
  assert list(found) == [0, 6, 10]
  assert_same(checkpoints.load_model(found[0]).get_weights(), new_model().get_weights())
  assert_same(checkpoints.load_model(found[10]).get_weights(), weights(tmp_path))


def test_checkpoint_is_what_a_shorter_training_ends_with(tmp_path):
  run(tmp_path / "long", checkpoint_steps=(6,), steps=10)
  run(tmp_path / "short", steps=6)
  found = saved_steps(tmp_path / "long")[6]
  assert_same(checkpoints.load_model(found).get_weights(), weights(tmp_path / "short"))


# Interruptions.


@pytest.mark.parametrize(
  "step, error",
  [
    (4, KeyboardInterrupt),
    *(
      pytest.param(*p, marks=pytest.mark.slow)
      for p in [(12, KeyboardInterrupt), (20, KeyboardInterrupt), (4, RuntimeError)]
    ),
    *(pytest.param(step, RuntimeError, marks=pytest.mark.slow) for step in (12, 20)),
  ],
)
def test_interrupted_training_runs_only_the_steps_that_are_left(tmp_path, interrupt, step, error):
  interrupt(step, error)
  with pytest.raises(error):
    run(tmp_path)
  assert not (tmp_path / "train.json").exists()
  result = run(tmp_path)
  assert result["steps"] == 20
  assert steps_logged(tmp_path) == [4, 8, 12, 16, 20]


@pytest.mark.slow
@pytest.mark.parametrize("step", [pytest.param(4, marks=pytest.mark.slow), 12])
def test_interrupted_training_ends_with_the_weights_of_an_undisturbed_one(
  tmp_path, interrupt, step
):
  options = {"schedule": "steps", "decay_steps": (10,), "zero_steps": 2}
  interrupt(step)
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path / "a", **options)
  run(tmp_path / "a", **options)
  run(tmp_path / "whole", **options)
  assert_same(weights(tmp_path / "a"), weights(tmp_path / "whole"))


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
  """A folder of a training after 8 of 20 steps, with states of steps 4 and 8."""
  folder = tmp_path_factory.mktemp("interrupted")
  with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
    interrupt_at(patch, 8)
    run(folder)
  return folder


@pytest.fixture
def half(interrupted, tmp_path):
  """A copy of the folder of a training after 8 of 20 steps."""
  return shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)


def test_last_two_states_are_kept_while_training_lasts(half):
  steps = [
    int(checkpoints.load_model(half / name, compiled=True).optimizer.iterations)
    for name in ("training.keras", "training_before.keras")
  ]
  assert steps == [8, 4]
  run(half)
  assert not list(half.glob("training*"))


@pytest.mark.parametrize("content", ["", "text"])
def test_damaged_states_are_said_and_training_begins_again(half, caplog, content):
  for name in ("training.keras", "training_before.keras"):
    (half / name).write_text(content)
  assert run(half)["steps"] == 20
  assert f"{half / 'training.keras'} is not used: not a Keras model, or damaged" in caplog.text
  assert "training begins again" in caplog.text
  assert steps_logged(half) == [4, 8, 12, 16, 20]


def test_damaged_state_is_not_kept_in_place_of_the_good_one_before(half, interrupt):
  (half / "training.keras").write_text("text")
  interrupt(8)
  with pytest.raises(KeyboardInterrupt):
    run(half)
  for name, step in (("training.keras", 8), ("training_before.keras", 4)):
    found = checkpoints.load_model(half / name, compiled=True)
    assert int(found.optimizer.iterations) == step


def test_state_of_an_earlier_version_goes_on_without_its_log(half, caplog):
  make_old(half)
  (half / "train.csv").write_text("step,loss\n4,x\n")
  assert run(half)["steps"] == 20
  assert "the log up to step 8 is lost" in caplog.text
  assert steps_logged(half) == [12, 16, 20]


def make_old(folder):
  """Makes a folder one of an earlier version: without digests, and with one state."""
  about = json.loads((folder / "config.json").read_text())
  del about["digest"]
  (folder / "config.json").write_text(json.dumps(about, indent=2))
  (folder / "training_before.keras").unlink(missing_ok=True)
  (folder / "lock").unlink()
  for path in folder.rglob("*.keras"):
    forget_note(path)


def forget_note(path):
  """Takes the note out of a `.keras` file."""
  with zipfile.ZipFile(path) as archive:
    content = {name: archive.read(name) for name in archive.namelist()}
  with zipfile.ZipFile(path, "w") as archive:
    for name, data in content.items():
      if name != "tf_hessian.json":
        archive.writestr(name, data)


def test_folder_of_an_earlier_version_goes_on_bitwise(half, plain):
  make_old(half)
  run(half)
  assert steps_logged(half) == [4, 8, 12, 16, 20]
  assert_same(weights(half), weights(plain[0]))
  assert "digest" not in json.loads((half / "config.json").read_text())


def test_second_training_in_a_folder_is_refused_while_the_first_lasts(tmp_path, monkeypatch):
  original, messages = training._Training._advance, []

  def advance(self, step):
    if not messages:
      with pytest.raises(
        ValueError, match=f"{tmp_path}: another process is working in this f"
      ) as e:
        run(tmp_path, seed=1) if step else run(tmp_path)
      messages.append(str(e.value))
    return original(self, step)

  monkeypatch.setattr(training._Training, "_advance", advance)
  run(tmp_path)
  assert messages


def test_finished_training_is_not_done_again(plain, monkeypatch):
  folder, result = plain
  monkeypatch.setattr(training, "_Training", None)
  assert run(folder) == result


# Until an accuracy is reached.


def test_training_goes_on_until_the_accuracy_is_reached(tmp_path):
  result = run(tmp_path, steps=1, until_accuracy=1.0, max_steps=500)
  assert result["accuracy"] == 1
  assert 1 < result["steps"] < 500
  assert list(saved_steps(tmp_path))[-1] == result["steps"]


@pytest.mark.slow
def test_accuracy_that_is_not_reached_is_an_error_and_keeps_the_model(tmp_path):
  options = {"learning_rate": 1e-6, "steps": 1, "until_accuracy": 1.0}
  with pytest.raises(ValueError, match="max_steps = 8, expected 1.0; the model is saved"):
    run(tmp_path, max_steps=8, **options)
  assert len(weights(tmp_path)) == 4
  with pytest.raises(ValueError, match="max_steps = 12"):
    run(tmp_path, max_steps=12, **options)
  assert steps_logged(tmp_path) == [1, 4, 8, 12]


# Training that fails.


def test_loss_that_is_not_finite_names_the_steps(tmp_path):
  with pytest.raises(ValueError, match="loss is nan in steps 0 to 3; lower the learning rate"):
    run(tmp_path, learning_rate=float("nan"))
  assert not (tmp_path / "model.keras").exists()


def test_log_is_kept_up_to_the_loss_that_is_not_finite(tmp_path):
  # Nothing is learned up to step 8; a state is not saved before the end.
  with pytest.raises(training.DivergedError, match="steps 8 to 11"):
    run(tmp_path, learning_rate=1e30, zero_steps=8, log_every=4)
  assert [row["step"] for row in record.read(tmp_path)] == [4, 8]


def test_last_good_checkpoint_outlives_a_loss_that_is_not_finite(tmp_path):
  # Up to step 8 nothing is learned; then the weights explode.
  options = {"learning_rate": 1e30, "zero_steps": 8, "checkpoint_steps": (0, 8)}
  with pytest.raises(ValueError, match="The last good checkpoint is .*training.keras"):
    run(tmp_path, **options)
  for path in [tmp_path / "training.keras", *saved_steps(tmp_path).values()]:
    assert_same(checkpoints.load_model(path).get_weights(), new_model().get_weights())


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
  # The loss of the only step, before it, is finite.
  with pytest.raises(ValueError, match="hidden_1/kernel is not finite after step 1; lower the"):
    run(tmp_path, learning_rate=float("inf"), steps=1)
  assert not (tmp_path / "model.keras").exists()


@pytest.mark.parametrize("value", [61, 1000])
def test_batch_that_is_larger_than_the_data_is_refused(tmp_path, value):
  with pytest.raises(ValueError, match=f"at most the number of examples, 60, got {value}"):
    run(tmp_path, batch_size=value)


def test_folder_below_a_file_is_an_error(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(OSError, match="file"):
    run(tmp_path / "file" / "run")
