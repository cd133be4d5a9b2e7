"""From a config to an experiment; mistakes are named with what was probably meant."""

import dataclasses
import pathlib

import keras
import numpy as np
import pytest

import tf_hessian
from tf_hessian.experiments import experiment, fields

CONFIGS = sorted(p.stem for p in (pathlib.Path(__file__).parents[2] / "configs").glob("*.py"))
BUNDLED = ["mnist_mlp", "synthetic_quadratic"]


@pytest.mark.parametrize("name", CONFIGS)
def test_config_has_known_fields_and_is_not_changed(read_config, name):
  config = read_config(name)
  assert experiment.check(config)["seed"] == 0
  assert config == read_config(name)


@pytest.mark.parametrize("name", [n for n in CONFIGS if n not in ("own_model", "mnist_mlp")])
def test_model_of_the_config_is_built(read_config, name):
  fields = dict(experiment.check(read_config(name))["model"])
  model = experiment.MODELS[fields.pop("name")](**fields)
  expected = {
    "cifar10_resnet32": 464_154,
    "cifar10_resnet32_population_bn": 464_154,
    "cifar10_small_resnet": 43_634,
    "cifar10_vgg11": 11_386_250,
    "imagenet_inception_v3": 27_145_970,
    "imagenet_resnet18": 11_692_329,
    "mnist_mlp_early": 15_910,
    "synthetic_quadratic": 100,
  }
  assert sum(w.value.shape.num_elements() for w in model.trainable_variables) == expected[name]


@pytest.mark.parametrize("name", BUNDLED)
def test_config_builds_from_a_clone_alone(read_config, name):
  assert experiment.build(read_config(name)).source.num_examples > 0


def test_data_that_are_not_there_are_named_with_the_remedy(read_config, tmp_path):
  with pytest.raises(FileNotFoundError, match="cifar10: not in .*; point --data_dir .*--download"):
    experiment.build(read_config("cifar10_resnet32"), data_dir=str(tmp_path))


def test_shorter_schedule_is_on_record(read_config):
  config = read_config("cifar10_resnet32")
  config.schedule_scale = 0.01
  train = experiment.check(config)["train"]
  assert (train["steps"], train["decay_steps"]) == (1000, (400, 600, 800))


def test_where_the_data_are_is_no_field(config):
  config.data.data_dir = "here"
  with pytest.raises(ValueError, match="config.data: unknown field 'data_dir'"):
    experiment.check(config)


def test_schedule_without_a_step_that_learns_is_refused(read_config):
  config = read_config("cifar10_resnet32_population_bn")
  config.schedule_scale = 0.004
  with pytest.raises(ValueError, match="zero_steps: 400 of 400 steps .* nothing would be trained"):
    experiment.check(config)


# What is measured.


def test_first_examples_are_measured(config):
  config.hessian.num_examples = 7
  setup = experiment.build(config)
  found = list(setup.measured().as_numpy_iterator())
  expected = list(setup.source.examples.as_numpy_iterator())[:7]
  assert len(found) == 7
  for (x, y), (a, b) in zip(found, expected, strict=True):
    np.testing.assert_array_equal(x, a)
    np.testing.assert_array_equal(y, b)


def test_more_examples_than_there_are_are_refused(config):
  config.hessian.num_examples = 21
  with pytest.raises(ValueError, match="config.hessian.num_examples: expected at most 20, got 21"):
    experiment.build(config).measured()


def test_augmentation_that_the_data_do_not_have_is_refused(config):
  config.hessian.augment = True
  with pytest.raises(ValueError, match="config.hessian.augment: .*isn't augmented"):
    experiment.build(config).measured()


def test_batches_instead_of_examples_are_refused(config):
  setup = experiment.build(config)
  batched = dataclasses.replace(setup.source, examples=setup.source.examples.batch(5))
  with pytest.raises(ValueError, match="it looks batched; say --batched"):
    dataclasses.replace(setup, source=batched).operator(setup.new_model())


def test_frozen_augmentation_is_of_the_seed(config):
  config.hessian.augment = True
  setup = experiment.build(config)
  augmented = dataclasses.replace(
    setup.source, augmented=lambda seed: setup.source.examples.map(lambda x, y: (x + seed, y))
  )
  setup = dataclasses.replace(setup, source=augmented, config=setup.config | {"seed": 5})
  plain = next(iter(setup.source.examples))[0]
  np.testing.assert_allclose(next(iter(setup.measured()))[0], plain + 5)


def test_targets_are_given_to_each_output(config):
  config.loss = {"name": "MeanSquaredError", "weights": (1.0, 0.4)}
  _, targets = next(iter(experiment.build(config).measured()))
  assert len(targets) == 2
  np.testing.assert_array_equal(*targets)


def test_hessian_of_two_outputs_is_the_weighted_sum(config):
  def two_heads(**_):
    inputs = keras.Input((6,))
    heads = [keras.layers.Dense(1, use_bias=False, name=name)(inputs) for name in "ab"]
    return keras.Model(inputs, heads)

  config.loss = {"name": "MeanSquaredError", "weights": (1.0, 0.4)}
  setup = experiment.build(config)
  found = tf_hessian.dense_hessian(setup.operator(two_heads()))
  x = np.array([x for x, _ in setup.source.examples.as_numpy_iterator()], np.float64)
  one = 2 * x.T @ x / len(x)
  np.testing.assert_allclose(found, np.kron(np.diag([1, 0.4]), one), atol=1e-5)


def test_normalized_filters_are_measured(config):
  config.hessian.filter_normalization = True
  setup = experiment.build(config)
  with pytest.raises(ValueError, match="filter normalization: .*no convolution"):
    setup.operator(setup.new_model())


@pytest.mark.parametrize(
  "section, field, nearest",
  [
    ("model", "hiden_units", "hidden_units"),
    ("model", "num_clases", "num_classes"),
    ("data", "num_exampels", "num_examples"),
    ("loss", "reductoin", "reduction"),
    ("train", "learning_rte", "learning_rate"),
    ("train", "max_step", "max_steps"),
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


FIELDS = [
  (section, field, value)
  for section, known in fields.SECTIONS.items()
  for field, (value, _) in known.items()
]
REQUIRED = [(s, f) for s, f, value in FIELDS if value is fields.REQUIRED]
OPTIONAL = [(s, f, value) for s, f, value in FIELDS if value is not fields.REQUIRED]


@pytest.mark.parametrize("section, field", REQUIRED)
def test_missing_field_is_named(config, section, field):
  del config[section][field]
  with pytest.raises(ValueError, match=f"config.{section}: missing field '{field}'"):
    experiment.build(config)


@pytest.mark.parametrize("section, field, value", OPTIONAL)
def test_field_that_may_be_left_out_has_its_value_on_record(config, section, field, value):
  if field in config[section]:
    del config[section][field]
  assert experiment.build(config).config[section][field] == value


@pytest.mark.parametrize("section", ["seed", "model", "data", "loss", "hessian", "lanczos"])
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

  def synthetic(num_examples, num_parameters, outliers, bulk):
    pytest.fail(f"read {num_examples, num_parameters, outliers, bulk}")

  monkeypatch.setitem(experiment.DATA, "synthetic", synthetic)
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
