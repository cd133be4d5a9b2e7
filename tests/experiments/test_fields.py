"""Each field of each config is given all kinds of wrong values, and says which is wrong."""

import inspect
import math
import pathlib

from ml_collections import config_dict
import pytest

from tf_hessian.experiments import configs, experiment, fields

FOLDER = pathlib.Path(__file__).parents[2] / "configs"
CONFIGS = sorted(p.stem for p in FOLDER.glob("*.py"))
HUGE = 10**20


def wrong_types(value):
  """Returns values of other types than a field has."""
  if isinstance(value, bool):
    return ["yes", 3, None, (True,)]
  if isinstance(value, int):
    return ["many", 2.5, None, True, (1,)]
  if isinstance(value, float):
    return ["small", None, True, (0.5,)]
  if isinstance(value, str):
    return [3, 2.5, None, True]
  return ["text", 3, None, ("text",), (None,), ({},)]


def out_of_range(value):
  """Returns values of a field's own type that it can't have, and no other field either."""
  if isinstance(value, bool):
    return []
  if isinstance(value, int):
    return [-1, -HUGE, HUGE]
  if isinstance(value, float):
    return [math.nan, math.inf, -math.inf]
  if isinstance(value, str):
    return ["\0"]
  return [(math.nan,), (-math.inf,)]


def doubtful(value):
  """Returns values that some fields may have."""
  if isinstance(value, bool):
    return []
  if isinstance(value, int):
    return [0]
  if isinstance(value, float):
    return [0.0, -1.0, -1e-300, 1e308]
  if isinstance(value, str):
    return ["", "no such name", "none.keras"]
  return [(), (0,), (-1,), (HUGE,), (1e308,)]


# Which of these there may be.
ZERO = {"seed", "num_examples", "max_steps", "test_every", "test_examples", "zero_steps"}
ZERO |= {"decay_steps", "checkpoint_steps", "outliers", "hidden_units", "weights"}  # or empty
MEANT = {
  0.0: {"target_error", "momentum", "until_accuracy", "bulk", "label_smoothing", "dropout_rate"},
  -1.0: set(),
  -1e-300: set(),
  1e308: {"learning_rate", "sigma_squared", "target_error", "bulk"},  # numbers, though of no use
  "": {"mode", "variables"},
  "no such name": {"variables", "function", "path"},  # which files are there is looked up later
  "none.keras": {"variables", "function", "path"},
  (0,): {"checkpoint_steps", "outliers", "weights"},
  (-1,): {"weights"},
  (HUGE,): {"outliers", "weights"},
  (1e308,): {"outliers", "weights"},
}


def may_be(field, value):
  if not isinstance(value, bool) and value in (0, ()) and not isinstance(value, float):
    return field in ZERO
  return field in MEANT[value]


def said(config, name, value):
  """Returns what is said of a config in which a field has a value; None if nothing is wrong."""
  section, _, field = name.rpartition(".")
  plain = config.to_dict()
  (plain[section] if section else plain)[field] = value
  try:
    found = experiment.check(config_dict.ConfigDict(plain))
    if section == "model":
      experiment.check_model(found)
  except (TypeError, ValueError) as e:
    return str(e)
  return None


@pytest.mark.parametrize("values", [wrong_types, out_of_range, doubtful])
@pytest.mark.parametrize("name", CONFIGS)
def test_value_that_can_not_be_right_is_refused_by_the_name_of_its_field(name, values):
  config = configs.load_config(FOLDER / f"{name}.py")
  tried, wrong = 0, []
  for field in configs.field_names(config):
    section, _, last = field.rpartition(".")
    for value in values((config[section] if section else config)[last]):
      text = said(config, field, value)
      tried += 1
      if text is None:
        if values is not doubtful or not may_be(last, value):
          wrong.append(f"{field} = {value!r} is taken")
      elif "\n" in text or not (f"config.{field}" in text or f"config.{section}: " in text):
        wrong.append(f"{field} = {value!r}: {text}")
  assert tried > 20 and not wrong


@pytest.mark.parametrize("name", CONFIGS)
def test_values_of_the_config_itself_are_right(name):
  config = configs.load_config(FOLDER / f"{name}.py")
  found = experiment.check(config)
  experiment.check_model(found)
  assert found["seed"] == config.seed


@pytest.mark.parametrize("section", ["model", "data", "loss", "train", "hessian", "lanczos"])
@pytest.mark.parametrize("value", [3, "text", None, (1, 2)])
def test_section_that_is_none_is_refused(config, section, value):
  config = config_dict.ConfigDict(config.to_dict() | {section: value}, type_safe=False)
  with pytest.raises(TypeError, match=f"^config.{section}: expected a section of fields, got "):
    experiment.check(config)


@pytest.mark.parametrize("kind", ["MODELS", "DATA"])
def test_each_argument_of_models_and_data_has_its_check(kind):
  for name, function in getattr(experiment, kind).items():
    known = set(inspect.signature(function).parameters) - experiment._MACHINE
    assert known <= fields.ARGUMENTS.keys(), name


def test_each_scaled_field_stays_in_its_range(config):
  config.schedule_scale = 1e300
  with pytest.raises(ValueError, match="^config.schedule_scale: expected at most 4.16667e.07, "):
    experiment.check(config)


def test_rate_that_overflows_is_refused(config):
  config.train.update(
    {"schedule": "steps", "decay_steps": tuple(range(1, 60)), "decay_factor": 1e6}
  )
  with pytest.raises(ValueError, match="^config.train.decay_factor: the learning rate overflows"):
    experiment.check(config)


@pytest.mark.parametrize("field", ["path", "function"])
def test_tilde_in_a_path_is_the_home_folder(monkeypatch, field):
  monkeypatch.setenv("HOME", "/home/of-mine")
  config = configs.load_config(FOLDER / "own_model.py")
  section = "model" if field == "path" else "data"
  config[section][field] = "~/mine.py:examples"
  assert fields.check(config)[section][field] == "/home/of-mine/mine.py:examples"


# Models, data and batches that have no room.


@pytest.mark.parametrize(
  "field, value",
  [("hidden_units", (10**6, 10**9)), ("hidden_units", (10**9,) * 2), ("input_shape", (10**9,))],
)
def test_model_that_has_no_room_is_refused_with_its_largest_field(config, field, value):
  config.model.hidden_units = (10**6,)
  config.model[field] = value
  with pytest.raises(ValueError, match=rf"parameters, .* take .* GB; lower config.model.{field}"):
    experiment.check_model(experiment.check(config))


def test_model_that_can_not_be_built_is_refused(config):
  config.model.hidden_units = (3,)
  config.model.activation = "no such activation"
  with pytest.raises(ValueError, match="^config.model: it can't be built: .*no such activation"):
    experiment.check_model(experiment.check(config))


def test_model_that_was_looked_at_leaves_no_trace_in_names_or_weights(config):
  config.model.hidden_units = (3,)
  setup = experiment.build(config)
  expected = setup.new_model()
  experiment.check_model(setup.config)
  found = setup.new_model()
  assert [v.path for v in found.variables] == [v.path for v in expected.variables]
  for a, b in zip(found.get_weights(), expected.get_weights(), strict=True):
    assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("section", ["train", "hessian"])
def test_batch_that_has_no_room_is_refused_with_what_has(config, monkeypatch, section):
  setup = experiment.build(config)
  monkeypatch.setattr(experiment, "available_memory", lambda: 150)
  size = min(setup.config[section]["batch_size"], 20)
  message = rf"config.{section}.batch_size: {size} examples of 28 bytes .*: at most 5"
  with pytest.raises(ValueError, match=message):
    setup.check_training() if section == "train" else setup.measured()


def test_larger_batches_than_there_are_examples_are_refused_for_training(config):
  config.train.batch_size = 21
  with pytest.raises(ValueError, match="config.train.batch_size: .* examples, 20, got 21"):
    experiment.build(config).check_training()


def test_data_that_are_made_have_a_largest_size(config):
  config.data.num_examples = 10**9
  with pytest.raises(ValueError, match="num_examples, num_parameters: .* at most 100,000,000"):
    experiment.build(config)
