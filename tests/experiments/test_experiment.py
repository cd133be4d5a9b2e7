"""From a config to an experiment; mistakes are named with what was probably meant."""

import pathlib

import numpy as np
import pytest

from tf_hessian.experiments import experiment

CONFIGS = sorted(p.stem for p in (pathlib.Path(__file__).parents[2] / "configs").glob("*.py"))
SECTIONS = ["train", "hessian", "lanczos", "density"]


@pytest.mark.parametrize("name", CONFIGS)
def test_config_builds(read_config, name):
  assert experiment.build(read_config(name)).config["seed"] == 0


@pytest.mark.parametrize("name", CONFIGS)
def test_config_is_not_changed(read_config, name):
  config = read_config(name)
  experiment.build(config)
  assert config == read_config(name)


@pytest.mark.parametrize(
  "section, field, nearest",
  [
    ("model", "hiden_units", "hidden_units"),
    ("model", "num_clases", "num_classes"),
    ("data", "num_exampels", "num_examples"),
    ("loss", "reductoin", "reduction"),
    ("train", "learning_rte", "learning_rate"),
    ("train", "max_epoch", "max_epochs"),
    ("hessian", "batchsize", "batch_size"),
    ("lanczos", "stepz", "steps"),
    ("density", "sigma_sqared", "sigma_squared"),
  ],
)
def test_unknown_field_suggests_the_nearest(config, section, field, nearest):
  config[section][field] = 1
  message = f"config.{section}: unknown field '{field}'; did you mean '{nearest}'"
  with pytest.raises(ValueError, match=message):
    experiment.build(config)


def test_unknown_field_that_is_like_no_other_is_named(config):
  config.train.lr = 0.1
  with pytest.raises(ValueError, match="config.train: unknown field 'lr'"):
    experiment.build(config)


def test_unknown_section_suggests_the_nearest(config):
  config.lanczoz = 1
  with pytest.raises(ValueError, match="config: unknown field 'lanczoz'; did you mean 'lanczos'"):
    experiment.build(config)


@pytest.mark.parametrize(
  "section, field", [(s, f) for s in SECTIONS for f in sorted(experiment._SECTIONS[s])]
)
def test_missing_field_is_named(config, section, field):
  del config[section][field]
  with pytest.raises(ValueError, match=f"config.{section}: missing field '{field}'"):
    experiment.build(config)


@pytest.mark.parametrize("section", sorted(experiment._SECTIONS))
def test_missing_section_is_named(config, section):
  del config[section]
  with pytest.raises(ValueError, match=f"config: missing field '{section}'"):
    experiment.build(config)


def build_all(config):
  setup = experiment.build(config)
  setup.new_model()


@pytest.mark.parametrize(
  "section, name, nearest",
  [
    ("model", "cifar_resnt", "cifar_resnet"),
    ("data", "synthetik", "synthetic"),
    ("loss", "MeanSquareError", "MeanSquaredError"),
  ],
)
def test_unknown_name_suggests_the_nearest(config, section, name, nearest):
  config[section].name = name
  message = f"config.{section}.name: .*got '{name}'; did you mean '{nearest}'"
  with pytest.raises(ValueError, match=message):
    build_all(config)


@pytest.mark.parametrize("section", ["model", "data", "loss"])
def test_missing_name_is_named(config, section):
  del config[section].name
  with pytest.raises(ValueError, match=f"config.{section}.name"):
    build_all(config)


@pytest.mark.parametrize("section, field", [("model", "hiden_units"), ("model", "lr")])
def test_mistake_in_the_model_is_found_before_the_data_are_read(
  config, monkeypatch, section, field
):
  config[section][field] = 1

  def dataset(num_examples, num_parameters, outliers, bulk):
    pytest.fail(f"read {num_examples, num_parameters, outliers, bulk}")

  monkeypatch.setitem(experiment.DATA, "synthetic", dataset)
  with pytest.raises(ValueError, match=field):
    experiment.build(config)


def test_same_seed_gives_bitwise_the_same_initial_weights(config):
  setup = experiment.build(config)
  first, second = setup.new_model().get_weights(), setup.new_model().get_weights()
  for a, b in zip(first, second, strict=True):
    np.testing.assert_array_equal(a, b)


def test_other_seed_gives_other_initial_weights(config):
  first = experiment.build(config).new_model().get_weights()
  config.seed = 1
  second = experiment.build(config).new_model().get_weights()
  assert not np.array_equal(first[0], second[0])


def test_operator_is_the_hessian_of_the_prescribed_spectrum(config):
  setup = experiment.build(config)
  operator = setup.operator(setup.new_model())
  found = np.linalg.eigvalsh(operator @ np.eye(6))
  np.testing.assert_allclose(found, [0, 0.05, 0.1, 1, 2, 5], rtol=0, atol=1e-5)


def test_variables_choose_a_block(config):
  config.model.hidden_units = (5,)
  config.hessian.variables = "hidden_1/*"
  setup = experiment.build(config)
  assert setup.operator(setup.new_model()).shape == (30, 30)


@pytest.mark.parametrize(
  "section, field, value",
  [
    ("train", "batch_size", 0),
    ("train", "learning_rate", -0.1),
    ("hessian", "batch_size", 0),
    ("lanczos", "steps", 0),
    ("density", "sigma_squared", 0.0),
  ],
)
def test_a_value_out_of_range_is_named(config, section, field, value):
  config[section][field] = value
  with pytest.raises(ValueError, match=f"config.{section}.{field}: expected"):
    experiment.build(config)
