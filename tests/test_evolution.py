"""Spectra of many checkpoints, by one operator."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_hessian
from tf_hessian import plotting
from tf_hessian.evolution import load_into, spectra, take_weights

RNG = np.random.default_rng(0)
DATA = [(RNG.standard_normal((6, 3)).astype(np.float32), RNG.integers(0, 2, 6))]
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
OPTIONS = {"num_draws": 1, "lanczos_steps": 5, "progress": False}


def build(seed, units=4):
  keras.utils.set_random_seed(seed)
  inputs = keras.Input((3,))
  hidden = keras.layers.Dense(units, "tanh", name="hidden")(inputs)
  return keras.Model(inputs, keras.layers.Dense(2, name="last")(hidden), name="net")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """Files of three trained models, of both kinds: name -> path."""
  folder = tmp_path_factory.mktemp("checkpoints")
  paths = {"step_1": folder / "step_1.keras", "step_2": folder / "step_2.keras"}
  build(1).save(paths["step_1"])
  build(2).save(paths["step_2"])
  paths["step_3"] = folder / "step_3.weights.h5"
  build(3).save_weights(paths["step_3"])
  return paths


@pytest.fixture(scope="module")
def operator():
  return tf_hessian.HessianOperator(build(0), LOSS, DATA)


def test_each_is_the_spectrum_of_an_operator_of_its_own(operator, saved):
  found = spectra(operator, saved.values(), **OPTIONS)
  assert list(found) == list(saved)
  for seed, spectrum in enumerate(found.values(), 1):
    alone = tf_hessian.HessianOperator(build(seed), LOSS, DATA)
    expected = tf_hessian.spectral_density(alone, **OPTIONS)
    np.testing.assert_array_equal(spectrum.diagonals[0], expected.diagonals[0])
    assert spectrum.loss == expected.loss


def test_functions_are_traced_once(operator, saved):
  spectra(operator, saved, **OPTIONS)
  assert operator.program.product.tracing_count == 1


def test_model_has_its_own_weights_again_however_it_ends(operator, saved, tmp_path):
  before = operator.parameters()
  spectra(operator, saved, **OPTIONS)
  np.testing.assert_array_equal(operator.parameters(), before)
  (tmp_path / "damaged.keras").write_bytes(b"PK")
  with pytest.raises(ValueError, match="damaged.keras"):
    spectra(operator, [saved["step_1"], tmp_path / "damaged.keras"], **OPTIONS)
  np.testing.assert_array_equal(operator.parameters(), before)


def adapted(data):
  keras.utils.set_random_seed(0)
  inputs = keras.Input((3,))
  normal = keras.layers.Normalization()
  hidden = keras.layers.Dense(4, "tanh")(normal(inputs))
  model = keras.Model(inputs, keras.layers.Dense(2)(hidden))
  if data is not None:
    normal.adapt(data)
  return model


@pytest.mark.parametrize("suffix", [".keras", pytest.param(".weights.h5", marks=pytest.mark.slow)])
def test_statistics_of_adapted_layers_are_those_of_each_file(tmp_path, suffix):
  x = DATA[0][0]
  for name, data in (("near", x), ("far", 10 * x + 3)):
    save = adapted(data).save if suffix == ".keras" else adapted(data).save_weights
    save(tmp_path / f"{name}{suffix}")
  model = adapted(2 * x)
  before = model(x).numpy()
  found = spectra(
    tf_hessian.HessianOperator(model, LOSS, DATA),
    [tmp_path / f"{name}{suffix}" for name in ("near", "far")],
    **OPTIONS,
  )
  np.testing.assert_array_equal(model(x), before)
  for spectrum, data in zip(found.values(), (x, 10 * x + 3), strict=True):
    alone = tf_hessian.HessianOperator(adapted(data), LOSS, DATA)
    expected = tf_hessian.spectral_density(alone, **OPTIONS)
    np.testing.assert_array_equal(spectrum.diagonals[0], expected.diagonals[0])
    # The files' own weights by Keras.
    value = float(LOSS(DATA[0][1], adapted(data)(x)))
    assert spectrum.loss == expected.loss == pytest.approx(value, rel=1e-6)


def test_operator_follows_layers_that_are_adapted_anew():
  x = DATA[0][0]
  model = adapted(x)
  operator = tf_hessian.HessianOperator(model, LOSS, DATA)
  operator.loss()
  model.layers[1].adapt(10 * x + 3)
  assert operator.loss() == pytest.approx(float(LOSS(DATA[0][1], model(x))), rel=1e-6)


@pytest.mark.slow
def test_states_of_optimizer_and_seeds_stay_whatever_the_file_has(tmp_path):
  inputs = keras.Input((3,))
  hidden = keras.layers.Dropout(0.5)(keras.layers.Dense(4, "tanh")(inputs))
  model = keras.Model(inputs, keras.layers.Dense(2)(hidden))
  model.compile(keras.optimizers.Adam(0.01), LOSS, metrics=["accuracy"])
  model.fit(*DATA[0], verbose=0)
  model.save_weights(tmp_path / "early.weights.h5")
  model.fit(*DATA[0], epochs=3, verbose=0)
  model.optimizer.learning_rate = 1e-4
  variables = [*model.variables, *model.optimizer.variables]
  before = [v.numpy() for v in variables]
  spectra(tf_hessian.HessianOperator(model, LOSS, DATA), [tmp_path / "early.weights.h5"], **OPTIONS)
  for variable, value in zip(variables, before, strict=True):
    np.testing.assert_array_equal(variable, value, err_msg=variable.path)


def test_run_goes_on_in_its_folders(operator, saved, tmp_path, monkeypatch):
  whole = spectra(operator, saved, workdir=tmp_path, **OPTIONS)
  assert sorted(p.name for p in tmp_path.iterdir()) == list(saved)
  product = operator.runner.product
  made = []
  monkeypatch.setattr(operator.runner, "product", lambda x: made.append(1) or product(x))
  again = spectra(operator, saved, workdir=tmp_path, check=False, **OPTIONS)
  assert len(made) == len(saved)  # by which a matrix is known
  for name in whole:
    np.testing.assert_array_equal(again[name].diagonals[0], whole[name].diagonals[0])


def test_other_models_are_refused_by_shape(operator, tmp_path):
  build(0, units=5).save(tmp_path / "other.keras")
  with pytest.raises(ValueError, match=r"other.keras.*variable 0 has shape \(3, 5\) instead of"):
    spectra(operator, [tmp_path / "other.keras"], **OPTIONS)
  build(0, units=5).save_weights(tmp_path / "other.weights.h5")
  with pytest.raises(ValueError, match="other.weights.h5: not weights of model 'net'"):
    spectra(operator, [tmp_path / "other.weights.h5"], **OPTIONS)


def test_missing_file_is_named_before_anything_is_measured(operator, saved, monkeypatch):
  monkeypatch.setattr(type(operator), "loss", None)
  with pytest.raises(FileNotFoundError, match="no such file|there is no file nowhere.keras"):
    spectra(operator, [saved["step_1"], "nowhere.keras"], **OPTIONS)


@pytest.mark.parametrize("name", ["step_2.keras", "step_2.weights.h5"])
def test_damaged_file_is_named_before_anything_is_measured(
  operator, saved, monkeypatch, tmp_path, name
):
  monkeypatch.setattr(type(operator), "loss", None)
  (tmp_path / name).write_text("junk")
  with pytest.raises(ValueError, match=f"{name}: .*damaged"):
    spectra(operator, [saved["step_1"], tmp_path / name], **OPTIONS)


def test_folder_of_another_run_is_named_before_anything_is_measured(
  operator, saved, monkeypatch, tmp_path
):
  last = {"step_2": saved["step_2"]}
  spectra(operator, last, workdir=tmp_path, **OPTIONS)
  monkeypatch.setattr(type(operator), "loss", None)
  with pytest.raises(ValueError, match="step_2: it holds a run .*lanczos_steps: 5 there, 4 now"):
    spectra(operator, saved, workdir=tmp_path, **OPTIONS | {"lanczos_steps": 4})


@pytest.mark.parametrize(
  "checkpoints, error, message",
  [
    ([], ValueError, "at least one"),
    ("a.keras", TypeError, "a list of paths"),
    (["a/x.keras", "b/x.keras"], ValueError, "two files have one name"),
  ],
)
def test_bad_lists_are_refused(operator, checkpoints, error, message):
  with pytest.raises(error, match=message):
    spectra(operator, checkpoints)


def test_plain_functions_have_no_checkpoints(saved):
  point = [tf.Variable([1.0])]
  operator = tf_hessian.HessianOperator(
    point, lambda p, b: b * p[0][0] ** 2, [np.ones(1, "float32")]
  )
  with pytest.raises(TypeError, match="expected one of a keras.Model"):
    spectra(operator, saved)


@pytest.mark.parametrize("steps", [None, [0, 10, 100]])
def test_evolution_is_drawn(operator, saved, tmp_path, steps):
  found = spectra(operator, saved, **OPTIONS)
  plotting.plot_evolution(found, tmp_path / "evolution.png", steps=steps, learning_rate=0.1)
  assert (tmp_path / "evolution.png").stat().st_size > 5000


def test_steps_that_do_not_fit_are_refused(operator, saved, tmp_path):
  found = spectra(operator, saved, **OPTIONS)
  with pytest.raises(ValueError, match="steps: expected 3"):
    plotting.plot_evolution(found, tmp_path / "evolution.png", steps=[1])


# Models of equal shapes that compute differently.


def varied(activation="tanh", rate=0.1, factor=0.0, slope=0.3):
  inputs = keras.Input((3,))
  inner = keras.Sequential(
    [keras.Input((3,)), keras.layers.Dense(4, activation), keras.layers.LeakyReLU(slope)]
  )
  x = keras.layers.Dropout(rate)(inner(inputs))
  regularizer = keras.regularizers.L2(factor)
  return keras.Model(inputs, keras.layers.Dense(2, kernel_regularizer=regularizer)(x))


@pytest.mark.parametrize(
  "change, word",
  [
    ({}, None),
    ({"activation": "relu"}, 'activation="relu" there, "tanh" here'),
    ({"rate": 0.2}, "rate=0.2 there, 0.1 here"),
    ({"factor": 0.5}, "kernel_regularizer="),
    ({"slope": 0.2}, "negative_slope=0.2 there"),
  ],
  ids=str,
)
def test_layer_that_computes_otherwise_in_the_file_is_warned_of(change, word, tmp_path, caplog):
  model, path = varied(), tmp_path / "other.keras"
  varied(**change).save(path)
  with caplog.at_level("WARNING", logger="absl"):
    load_into(model, path)
  found = [r.getMessage() for r in caplog.records]
  assert len(found) == (word is not None)
  if word:
    assert word in found[0] and str(path) in found[0]


def test_other_sort_of_layer_of_the_same_shapes_is_warned_of(tmp_path, caplog):
  first, second = (
    keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(1)])
    for layer in (keras.layers.ReLU(), keras.layers.Softmax())
  )
  second.save(tmp_path / "other.keras")
  with caplog.at_level("WARNING", logger="absl"):
    load_into(first, tmp_path / "other.keras")
  assert "is Softmax there, ReLU here" in caplog.text


class Unsaved(keras.layers.Layer):
  """A layer whose settings can't be told."""

  def __init__(self, function):
    super().__init__()
    self.function = function

  def call(self, x):
    return self.function(x)


def test_layer_that_cannot_be_saved_is_no_obstacle(caplog):
  first, second = (
    keras.Sequential([keras.Input((4,)), Unsaved(keras.ops.tanh), keras.layers.Dense(1)])
    for _ in range(2)
  )
  with caplog.at_level("WARNING", logger="absl"):
    take_weights(first, second, "another")
  assert not caplog.records
  np.testing.assert_array_equal(first.get_weights()[0], second.get_weights()[0])


@pytest.mark.parametrize("name", ["", ".", "..", "../other", "a/b", "/tmp/x"])
def test_names_that_lead_out_of_the_folder_are_refused(operator, saved, name, tmp_path):
  with pytest.raises(ValueError, match="expected names of folders inside of workdir"):
    spectra(operator, {name: saved["step_1"]}, workdir=tmp_path, **OPTIONS)
  assert not list(tmp_path.iterdir())


def test_names_that_are_one_as_text_are_refused(operator, saved):
  with pytest.raises(ValueError, match="two names are the same as text"):
    spectra(operator, {1: saved["step_1"], "1": saved["step_2"]}, **OPTIONS)
