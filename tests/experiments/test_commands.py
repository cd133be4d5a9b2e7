"""What the commands do, without their flags."""

import pytest

from tf_hessian.experiments import commands


@pytest.fixture
def failing(read_config):
  """A config whose training does not reach the accuracy it asks for."""
  config = read_config("mnist_mlp")
  config.data.num_examples = 50
  config.train.learning_rate = 1e-6
  config.train.epochs = 1
  config.train.max_epochs = 2
  return config


def test_training_that_failed_does_not_pass_when_started_again(failing, tmp_path):
  for _ in range(2):
    with pytest.raises(ValueError, match="max_epochs"):
      commands.train(failing, tmp_path)


def test_max_epochs_can_be_raised_as_the_error_says(failing, tmp_path):
  with pytest.raises(ValueError, match="raise max_epochs to go on"):
    commands.train(failing, tmp_path)
  failing.train.max_epochs = 60
  failing.train.until_accuracy = 0.01
  commands.train(failing, tmp_path)


@pytest.mark.parametrize(
  "section, field, value",
  [("density", "sigma_squared", 0.0), ("lanczos", "steps", 0), ("lanczos", "draws", -1)],
)
def test_bad_value_is_refused_before_anything_is_computed(config, tmp_path, section, field, value):
  config[section][field] = value
  with pytest.raises(ValueError, match=f"config.{section}.{field}"):
    commands.spectrum(config, tmp_path)
  assert not list(tmp_path.iterdir())


def test_initial_weights_are_measured_without_a_checkpoint(config, tmp_path):
  text = commands.spectrum(config, tmp_path, initial=True, progress=False)
  assert "largest Ritz values   5 2 1" in text
  assert (tmp_path / "spectrum_initial" / "spectrum.png").exists()


def test_checkpoint_of_another_run_is_measured(config, tmp_path):
  commands.train(config, tmp_path / "a")
  checkpoint = tmp_path / "a" / "model.keras"
  text = commands.spectrum(config, tmp_path / "b", checkpoint=checkpoint, progress=False)
  assert str(tmp_path / "b" / "spectrum" / "spectrum.png") in text


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null"])
def test_damaged_record_of_the_config_is_refused(config, tmp_path, content):
  (tmp_path / "config.json").write_text(content)
  with pytest.raises(ValueError, match=f"{tmp_path}/config.json: damaged"):
    commands.train(config, tmp_path)


@pytest.mark.parametrize("content", ["", "{"])
def test_damaged_result_of_training_is_named_or_made_again(config, tmp_path, content):
  commands.train(config, tmp_path)
  (tmp_path / "train.json").write_text(content)
  try:
    assert commands.train(config, tmp_path)["epochs"] == 3
  except ValueError as e:
    assert str(tmp_path / "train.json") in str(e)


def test_config_with_a_mistake_does_not_claim_the_folder(config, tmp_path):
  config.model.hiden_units = (3,)
  with pytest.raises(ValueError, match="hiden_units"):
    commands.train(config, tmp_path)
  del config.model.hiden_units
  assert commands.train(config, tmp_path)["epochs"] == 3


@pytest.mark.parametrize("section, value", [("seed", 1), ("train", {"epochs": 2})])
def test_folder_of_another_config_is_refused(config, tmp_path, section, value):
  commands.train(config, tmp_path)
  config.update({section: value})
  with pytest.raises(ValueError, match=f"another config \\({section}\\)"):
    commands.train(config, tmp_path)


def test_folder_is_free_after_training_that_did_not_begin(read_config, tmp_path, monkeypatch):
  def fail(*_, **__):
    raise ValueError("stopped before the first epoch")

  config = read_config("synthetic_quadratic")
  with monkeypatch.context() as patch, pytest.raises(ValueError, match="stopped"):
    patch.setattr(commands.training, "train", fail)
    commands.train(config, tmp_path)
  config.train.learning_rate = 0.01
  assert commands.train(config, tmp_path)["epochs"] > 0


@pytest.mark.parametrize(
  "section, field, value", [("model", "use_bias", True), ("train", "epochs", 2)]
)
def test_config_that_the_checkpoint_was_not_trained_with_is_refused(
  config, tmp_path, section, field, value
):
  commands.train(config, tmp_path)
  config[section][field] = value
  with pytest.raises(ValueError, match=f"was trained with another config \\({section}\\)"):
    commands.spectrum(config, tmp_path, progress=False)
