"""What the commands do, without their flags."""

import json
import shutil

import pytest

from tf_hessian.experiments import experiment
from tf_hessian.experiments import train as train_lib
from tf_hessian.experiments.measure import measure
from tf_hessian.experiments.train import train
from tf_hessian.experiments.weights import Weights
from tf_hessian.slq import lock_step
from tf_hessian.spectrum import Spectrum
from tf_hessian.training import checkpoints
from tf_hessian.training.steps import saved_steps


@pytest.fixture(scope="module")
def train_once(tmp_path_factory):
  """Returns a function that makes a folder what training in it would, by that of an equal config.

  Training writes nothing of where it is.
  """
  done = {}

  def train_in(config, folder):
    key = config.to_json()
    if key not in done:
      done[key] = tmp_path_factory.mktemp("trained")
      train(config, done[key])
    shutil.copytree(done[key], folder, dirs_exist_ok=True)

  return train_in


@pytest.fixture
def failing(read_config):
  """A config whose training does not reach the accuracy it asks for."""
  config = read_config("mnist_mlp")
  config.data.num_examples = 50
  config.train.learning_rate = 1e-6
  config.train.steps = 1
  config.train.max_steps = 2
  return config


def test_training_that_failed_does_not_pass_when_started_again(failing, tmp_path):
  for _ in range(2):
    with pytest.raises(ValueError, match="max_steps"):
      train(failing, tmp_path)


def test_max_steps_can_be_raised_as_the_error_says(failing, tmp_path):
  with pytest.raises(ValueError, match="raise max_steps to go on"):
    train(failing, tmp_path)
  failing.train.max_steps = 60
  failing.train.until_accuracy = 0.01
  train(failing, tmp_path)


@pytest.mark.parametrize(
  "section, field, value",
  [("density", "sigma_squared", 0.0), ("lanczos", "steps", 0), ("lanczos", "draws", -1)],
)
def test_bad_value_is_refused_before_anything_is_computed(config, tmp_path, section, field, value):
  config[section][field] = value
  with pytest.raises(ValueError, match=f"config.{section}.{field}"):
    measure(config, tmp_path)
  assert not list(tmp_path.iterdir())


def test_initial_weights_are_measured_without_a_checkpoint(config, tmp_path):
  text = measure(config, tmp_path, Weights(initial=True), progress=False)
  assert "largest Ritz values   5 2 1" in text
  assert (tmp_path / "spectrum_initial" / "spectrum.png").exists()


@pytest.mark.slow
def test_energy_of_the_gradient_is_measured_beside_the_spectrum(config, tmp_path, train_once):
  train_once(config, tmp_path)
  for gradient in (False, True):
    text = measure(config, tmp_path, gradient=gradient, progress=False)
    assert ("energy of the gradient" in text) is gradient
    assert ("trace" in text) is not gradient
  found = Spectrum.load(tmp_path / "spectrum_gradient" / "spectrum.npz")
  assert (found.num_draws, found.start) == (1, "gradient")
  assert (tmp_path / "spectrum" / "spectrum.npz").exists()


@pytest.mark.slow
def test_energies_of_the_gradients_of_all_steps_are_measured(config, tmp_path):
  config.train.checkpoint_steps = (1,)
  train(config, tmp_path)
  measure(config, tmp_path, Weights(all_steps=True), gradient=True, progress=False)
  assert (tmp_path / "spectra" / "spectra_gradient.png").exists()
  assert (tmp_path / "spectra" / "step_00000001_gradient" / "spectrum.npz").exists()


def test_checkpoint_of_another_run_is_measured(config, tmp_path, train_once):
  train_once(config, tmp_path / "a")
  checkpoint = tmp_path / "a" / "model.keras"
  text = measure(config, tmp_path / "b", Weights(checkpoint=checkpoint), progress=False)
  assert str(tmp_path / "b" / "spectrum" / "spectrum.png") in text


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null"])
def test_damaged_record_of_the_config_is_refused(config, tmp_path, content):
  (tmp_path / "config.json").write_text(content)
  with pytest.raises(ValueError, match=f"{tmp_path}/config.json: damaged"):
    train(config, tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_checkpoint_beside_a_damaged_record_is_not_measured(config, tmp_path, content):
  (tmp_path / "config.json").write_text(content)
  with pytest.raises(ValueError, match=f"{tmp_path}/config.json: damaged"):
    measure(config, tmp_path)


@pytest.mark.parametrize("content", ["", "{"])
def test_damaged_result_of_training_is_named_or_made_again(config, tmp_path, content, train_once):
  train_once(config, tmp_path)
  (tmp_path / "train.json").write_text(content)
  try:
    assert train(config, tmp_path)["steps"] == 24
  except ValueError as e:
    assert str(tmp_path / "train.json") in str(e)


def test_config_with_a_mistake_does_not_claim_the_folder(config, tmp_path):
  config.model.hiden_units = (3,)
  with pytest.raises(ValueError, match="hiden_units"):
    train(config, tmp_path)
  del config.model.hiden_units
  assert train(config, tmp_path)["steps"] == 24


@pytest.mark.parametrize("section, value", [("seed", 1), ("train", {"steps": 2})])
def test_folder_of_another_config_is_refused(config, tmp_path, section, value, train_once):
  train_once(config, tmp_path)
  config.update({section: value})
  with pytest.raises(ValueError, match=f"another config \\({section}"):
    train(config, tmp_path)


def test_folder_is_free_after_training_that_did_not_begin(read_config, tmp_path, monkeypatch):
  def fail(*_, **__):
    raise ValueError("stopped before the first epoch")

  config = read_config("synthetic_quadratic")
  with monkeypatch.context() as patch, pytest.raises(ValueError, match="stopped"):
    patch.setattr(train_lib.training, "train", fail)
    train(config, tmp_path)
  config.train.learning_rate = 0.01
  assert train(config, tmp_path)["steps"] > 0


@pytest.mark.parametrize(
  "section, field, value", [("model", "use_bias", True), ("train", "steps", 2)]
)
def test_config_that_the_checkpoint_was_not_trained_with_is_refused(
  config, tmp_path, section, field, value, train_once
):
  train_once(config, tmp_path)
  config[section][field] = value
  with pytest.raises(
    ValueError, match=f"was trained with another config \\({section}.{field}: .* there, {value} now"
  ):
    measure(config, tmp_path, progress=False)


def test_config_that_does_not_say_how_to_train_is_refused(config, tmp_path):
  del config.train
  with pytest.raises(ValueError, match="missing field 'train'"):
    train(config, tmp_path)


# Checkpoints of steps.


@pytest.fixture
def stepwise(config, tmp_path, train_once):
  """A config whose model was trained in tmp_path, with checkpoints of three steps."""
  config.lanczos.draws, config.lanczos.steps = 2, 4
  config.train.steps, config.train.checkpoint_steps = 4, (0, 2)
  train_once(config, tmp_path)
  return config


@pytest.mark.slow
def test_all_steps_are_measured_and_drawn(stepwise, tmp_path):
  text = measure(stepwise, tmp_path, Weights(all_steps=True), progress=False)
  folders = sorted(p.name for p in (tmp_path / "spectra").iterdir() if p.is_dir())
  assert folders == ["step_00000000", "step_00000002", "step_00000004"]
  assert (tmp_path / "spectra" / "spectra.png").stat().st_size > 0
  numbers = json.loads((tmp_path / "spectra" / "spectra.json").read_text())
  assert list(numbers) == ["0", "2", "4"]
  for step, loss in ((n, s["loss"]) for n, s in numbers.items()):
    assert f"step {step}\n" in text
    assert f"loss                  {loss:.8g}" in text
  assert numbers["0"]["loss"] > numbers["2"]["loss"] > numbers["4"]["loss"]


def test_one_step_is_measured(stepwise, tmp_path):
  measure(stepwise, tmp_path, Weights(step=2), progress=False)
  found = Spectrum.load(tmp_path / "spectra" / "step_00000002" / "spectrum.npz")
  model = checkpoints.load_model(saved_steps(tmp_path)[2])
  expected = experiment.build(stepwise).operator(model)
  assert found.loss == pytest.approx(expected.loss(), rel=1e-6)
  assert not (tmp_path / "spectra" / "step_00000000").exists()


@pytest.mark.slow
def test_steps_that_were_measured_before_are_not_measured_again(stepwise, tmp_path, monkeypatch):
  measure(stepwise, tmp_path, Weights(step=0), progress=False)
  measure(stepwise, tmp_path, Weights(step=2), progress=False)
  measured = []
  original = lock_step.LockStep.run

  def run(self, draws, bases):
    measured.extend(draws)
    return original(self, draws, bases)

  monkeypatch.setattr(lock_step.LockStep, "run", run)
  measure(stepwise, tmp_path, Weights(all_steps=True), progress=False)
  assert measured == [0, 1]  # of the last step alone


def test_what_is_wrong_with_a_later_step_is_said_before_any_is_measured(
  stepwise, tmp_path, monkeypatch
):
  measure(stepwise, tmp_path, Weights(step=4), progress=False)
  monkeypatch.setattr(lock_step.LockStep, "run", None)
  stepwise.lanczos.steps = 3
  with pytest.raises(ValueError, match="step_00000004: it holds a run .*lanczos_steps: 4 there, 3"):
    measure(stepwise, tmp_path, Weights(all_steps=True), progress=False)
  saved_steps(tmp_path)[2].write_text("junk")
  with pytest.raises(ValueError, match="step_00000002.keras: .*damaged"):
    measure(stepwise, tmp_path, Weights(all_steps=True), progress=False)


def test_step_without_a_checkpoint_is_refused_with_those_there_are(stepwise, tmp_path):
  with pytest.raises(FileNotFoundError, match="no checkpoint of step 3; there are 0, 2, 4"):
    measure(stepwise, tmp_path, Weights(step=3))


def test_folder_without_checkpoints_of_steps_is_refused(config, tmp_path):
  with pytest.raises(FileNotFoundError, match="no checkpoints of steps; .*checkpoint_steps"):
    measure(config, tmp_path, Weights(all_steps=True))


@pytest.mark.parametrize(
  "options", [{"initial": True, "step": 0}, {"all_steps": True, "checkpoint": "a.keras"}]
)
def test_contradictory_choices_of_a_checkpoint_are_refused(options):
  with pytest.raises(ValueError, match="exclude each other"):
    Weights(**options)


@pytest.mark.parametrize("field, value", [("log_every", 3), ("checkpoint_steps", (1,))])
def test_fields_that_the_weights_do_not_depend_on_may_differ(
  config, tmp_path, field, value, train_once
):
  train_once(config, tmp_path)
  config.train[field] = value
  assert train(config, tmp_path)["steps"] == 24
  measure(config, tmp_path, progress=False)


def test_mistakes_are_found_before_the_data_are_read(stepwise, tmp_path, monkeypatch):
  monkeypatch.setattr(experiment, "build", lambda *_, **__: pytest.fail("read"))
  assert train(stepwise, tmp_path)["steps"] == 4
  with pytest.raises(FileNotFoundError, match="no checkpoint of step 3"):
    measure(stepwise, tmp_path, Weights(step=3))
  stepwise.train.learning_rate = 0.5
  with pytest.raises(ValueError, match="train.learning_rate: 0.05 there, 0.5 now"):
    measure(stepwise, tmp_path)
