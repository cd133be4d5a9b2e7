"""Measurements in `fit`, against those of operators made by hand, and training without them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_hessian
from tf_hessian.callback import SpectrumCallback

RNG = np.random.default_rng(0)
X = RNG.standard_normal((24, 4)).astype(np.float32)
Y = RNG.integers(0, 3, 24)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build():
  keras.utils.set_random_seed(0)
  model = keras.Sequential(
    [
      keras.Input((4,)),
      keras.layers.Dense(5, "tanh"),
      keras.layers.BatchNormalization(),
      keras.layers.Dropout(0.2),
      keras.layers.Dense(3),
    ]
  )
  model.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS, metrics=["accuracy"])
  return model


def dataset():
  return tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)


def fit(callbacks, epochs=3, model=None, **options):
  model = build() if model is None else model
  history = model.fit(
    X, Y, batch_size=8, epochs=epochs, verbose=0, callbacks=callbacks, **options
  ).history
  return model, history


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
  """A training with a callback that measures all there is: (callback, model, history, folder)."""
  folder = tmp_path_factory.mktemp("run")
  callback = SpectrumCallback(
    dataset(),
    top=2,
    smallest=1,
    draws=2,
    lanczos_steps=10,
    workdir=folder / "spectra",
    log_dir=folder / "logs",
  )
  csv = keras.callbacks.CSVLogger(folder / "log.csv")
  return callback, *fit([callback, csv]), folder


@pytest.fixture(scope="module")
def plain():
  return fit([])


def test_training_is_bitwise_what_it_is_without(measured, plain):
  _, model, history, _ = measured
  for a, b in zip(model.variables, plain[0].variables, strict=True):
    np.testing.assert_array_equal(a, b, err_msg=a.path)
  for a, b in zip(model.optimizer.variables, plain[0].optimizer.variables, strict=True):
    np.testing.assert_array_equal(a, b)
  for name, values in plain[1].items():
    assert history[name] == values


def test_history_has_the_eigenvalues_of_the_last_point(measured):
  _, model, history, _ = measured
  operator = tf_hessian.HessianOperator(model, LOSS, dataset())
  values = np.linalg.eigvalsh(tf_hessian.dense_hessian(operator))
  # An eigenvalue is as near as its residual, here a thousandth of the largest.
  atol = 1e-3 * np.abs(values).max()
  found = [history[f"hessian_{name}"][-1] for name in ("top_1", "top_2", "smallest_1")]
  np.testing.assert_allclose(found, values[[-1, -2, 0]], rtol=0, atol=atol)
  assert history["hessian_top_1_times_lr"][-1] == pytest.approx(0.1 * found[0], rel=1e-6)
  assert all(len(values) == 3 for values in history.values())


def test_measurements_have_eigenpairs_and_spectra(measured):
  callback, _, history, _ = measured
  assert [m.step for m in callback.measurements] == [3, 6, 9]
  last = callback.measurements[-1]
  assert last.logs["hessian_trace"] == last.spectrum.trace()[0] == history["hessian_trace"][-1]
  assert last.eigenpairs.values.shape == (3,)


def test_functions_are_traced_once_in_all_of_fit(measured):
  program = measured[0].operator.program
  passes = [program.product, program.loss, *program._columns.values()]
  assert [p.tracing_count for p in passes] == [1] * len(passes)


def test_spectra_are_saved_by_step(measured):
  callback, _, _, folder = measured
  names = [f"step_{n}.npz" for n in (3, 6, 9)]
  assert sorted(p.name for p in (folder / "spectra").glob("*.npz")) == names
  found = tf_hessian.Spectrum.load(folder / "spectra" / "step_9.npz")
  np.testing.assert_array_equal(found.diagonals[0], callback.measurements[-1].spectrum.diagonals[0])


def test_folder_of_another_training_is_refused_before_it_begins(measured):
  folder = measured[3] / "spectra"
  before = {p.name: p.read_bytes() for p in folder.iterdir()}
  model = build()
  with pytest.raises(ValueError, match="holds spectra of steps up to 9, and training is at step 0"):
    fit([SpectrumCallback(dataset(), draws=1, workdir=folder)], model=model)
  assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.slow
def test_folder_of_another_model_is_refused(tmp_path):
  options = {"top": 0, "draws": 1, "lanczos_steps": 2, "workdir": tmp_path}
  inputs = keras.Input((4,))
  other = keras.Model(inputs, keras.layers.Dense(3)(inputs))
  other.compile("sgd", LOSS)
  fit([SpectrumCallback(dataset(), **options)], epochs=1, model=other)
  model = build()
  fit([], epochs=1, model=model)
  with pytest.raises(ValueError, match="spectra of another model: names .*clear_session"):
    fit([SpectrumCallback(dataset(), **options)], epochs=1, model=model)


@pytest.mark.slow
def test_next_fit_goes_on_in_the_folder(tmp_path):
  callback = SpectrumCallback(dataset(), top=0, draws=1, lanczos_steps=2, workdir=tmp_path)
  model, _ = fit([callback], epochs=1)
  fit([callback], epochs=1, model=model)
  assert sorted(p.name for p in tmp_path.glob("*.npz")) == ["step_3.npz", "step_6.npz"]


def test_csv_logger_has_them(measured):
  lines = (measured[3] / "log.csv").read_text().splitlines()
  assert "hessian_top_1" in lines[0] and len(lines) == 4


def test_tensorboard_has_numbers_and_pictures(measured):
  from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

  events = EventAccumulator(str(measured[3] / "logs"))
  events.Reload()
  found = {
    tag: [(e.step, tf.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)]
    for tag in events.Tags()["tensors"]
  }
  assert [step for step, _ in found["hessian_top_1"]] == [3, 6, 9]
  np.testing.assert_allclose(
    [float(v) for _, v in found["hessian_top_1"]], measured[2]["hessian_top_1"], rtol=1e-6
  )
  step, (width, height, picture) = found["hessian_density"][-1]
  assert step == 9 and picture.startswith(b"\x89PNG") and int(width) > 500 < int(height)


@pytest.mark.slow
def test_it_measures_every_so_many_steps():
  callback = SpectrumCallback(dataset(), freq=4)
  _, history = fit([callback])
  assert [m.step for m in callback.measurements] == [4, 8]
  # The first epoch ends before the first measurement.
  assert [len(history[k]) for k in ("loss", "hessian_top_1")] == [3, 2]


@pytest.mark.slow
def test_searches_begin_at_the_last_eigenvectors(monkeypatch):
  from tf_hessian import callback as lib

  starts = []
  search = lib.top_eigenpairs
  monkeypatch.setattr(
    lib,
    "top_eigenpairs",
    lambda *a, start, **k: starts.append(start) or search(*a, start=start, **k),
  )
  callback = SpectrumCallback(dataset(), top=2)
  fit([callback], epochs=2)
  assert starts[0] is None
  share = callback.measurements[0].eigenpairs.project(starts[1]).sum()
  assert 0.2 < share < 0.9  # as much is random, so that others are found too


@pytest.mark.slow
def test_compiled_loss_or_another_one(measured):
  other = SpectrumCallback(dataset(), loss=keras.losses.SparseCategoricalCrossentropy(True))
  _, history = fit([other], epochs=1)
  assert history["hessian_top_1"][0] == pytest.approx(measured[2]["hessian_top_1"][0], rel=2e-3)


@pytest.mark.slow
def test_nan_weights_are_said_once_and_training_goes_on(caplog):
  model = build()
  model.optimizer.learning_rate = np.inf
  callback = SpectrumCallback(dataset())
  _, history = fit([callback], model=model)
  assert callback.measurements == [] and len(history["loss"]) == 3
  assert caplog.text.count("SpectrumCallback: not measured from step 3 on") == 1


@pytest.mark.slow
def test_it_measures_a_model_on_replicas():
  devices = [d.name for d in tf.config.list_logical_devices("CPU")[:2]]
  with tf.distribute.MirroredStrategy(devices).scope():
    model = build()
  callback = SpectrumCallback(dataset())
  _, history = fit([callback], epochs=1, model=model)
  operator = tf_hessian.HessianOperator(model, LOSS, dataset())
  values = np.linalg.eigvalsh(tf_hessian.dense_hessian(operator))
  assert history["hessian_top_1"][0] == pytest.approx(values[-1], rel=2e-3)


@pytest.mark.parametrize(
  "options, message",
  [
    ({"freq": 0}, "freq"),
    ({"freq": "step"}, "freq: expected 'epoch' or a number"),
    ({"top": 0}, "nothing to measure"),
    ({"top": -1}, "top"),
    ({"workdir": "spectra"}, "workdir: is for spectra"),
    ({"tolerance": 0.0}, "tolerance"),
    ({"seed": -1}, "seed"),
  ],
)
def test_bad_arguments_are_refused(options, message):
  with pytest.raises((TypeError, ValueError), match=message):
    SpectrumCallback(dataset(), **options)


@pytest.mark.parametrize(
  "data, options, message",
  [
    (lambda: dataset().repeat(), {}, "infinite"),
    (lambda: dataset().shuffle(24), {"cache_bytes": 0}, "shuffle"),
    (dataset, {"top": 1000}, "expected at most n"),
    (dataset, {"loss": "no_such_loss"}, "no loss 'no_such_loss'"),
  ],
)
def test_what_can_not_be_measured_is_refused_before_training(data, options, message):
  model = build()
  with pytest.raises((TypeError, ValueError), match=message):
    fit([SpectrumCallback(data(), **options)], model=model)
  assert int(model.optimizer.iterations.numpy()) == 0


class Penalty(keras.layers.Layer):
  beta = 0.0

  def call(self, inputs):
    self.add_loss(self.beta * keras.ops.mean(inputs**4))
    return inputs


class Anneal(keras.callbacks.Callback):
  """Raises a factor that Python reads."""

  def on_epoch_begin(self, epoch, logs=None):
    del logs
    self.model.layers[1].beta = 2.0 * epoch


@pytest.mark.parametrize("eagerly", [pytest.param(False, marks=pytest.mark.slow), True])
def test_model_that_python_changes_is_measured_as_fit_trains_it(eagerly):
  keras.utils.set_random_seed(0)
  parts = [keras.layers.Dense(4, "tanh"), Penalty(), keras.layers.Dense(3)]
  model = keras.Sequential([keras.Input((4,)), *parts])
  model.compile(keras.optimizers.SGD(0.0), LOSS, run_eagerly=eagerly)
  callback = SpectrumCallback([(X, Y)], freq="epoch", top=1, tolerance=1e-6)
  _, history = fit([Anneal(), callback], epochs=2, model=model)
  expected = []
  for beta in (0.0, 2.0 if eagerly else 0.0):
    model.layers[1].beta = beta
    operator = tf_hessian.HessianOperator(model, LOSS, [(X, Y)])
    expected.append(
      tf_hessian.top_eigenpairs(operator, 1, tolerance=1e-6, progress=False).values[0]
    )
  np.testing.assert_allclose(history["hessian_top_1"], expected, rtol=1e-5)


def test_eigenvalues_of_alike_outputs_count_once_for_an_output():
  rng = np.random.default_rng(0)
  x, y = (rng.standard_normal((40, n)).astype("f4") for n in (20, 3))
  model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(3, use_bias=False)])
  model.compile(keras.optimizers.SGD(0.01), "mse")
  callbacks = [SpectrumCallback([(x, y)], top=3, repeated=r) for r in (True, False)]
  history = model.fit(x, y, epochs=2, verbose=0, callbacks=callbacks[:1]).history
  model.fit(x, y, verbose=0, callbacks=callbacks[1:])
  # The loss is a mean over the outputs: each has the matrix 2 / 3 X'X / B of its own.
  block = np.linalg.eigvalsh(2 / 3 * x.astype(float).T @ x / len(x))[-1]
  found = [history[f"hessian_top_{k + 1}"][-1] for k in range(3)]
  # A residual r at a gap g is an error of r^2 / g; the gap is a tenth of the largest here.
  np.testing.assert_allclose(found, block, rtol=1e-5)
  first, alone = (c.measurements[0].eigenpairs.num_products for c in callbacks)
  assert alone < first


def test_without_tensorboard_the_remedy_is_said(monkeypatch, tmp_path):
  from tf_hessian import callback

  monkeypatch.setattr(callback.importlib.util, "find_spec", lambda _: None)
  with pytest.raises(ImportError, match="pip install tensorboard"):
    SpectrumCallback(dataset(), log_dir=tmp_path)


def test_unknown_arguments_are_named_before_training():
  with pytest.raises(TypeError, match="neither it nor HessianOperator takes num_draws, step "):
    SpectrumCallback([], num_draws=3, step=1, training=True)


def test_training_that_diverges_goes_on():
  rng = np.random.default_rng(0)
  x, y = rng.standard_normal((64, 5)).astype("f4"), rng.standard_normal((64, 1)).astype("f4")
  callback = SpectrumCallback([(x, y)], freq=1, draws=1, lanczos_steps=3)
  losses = []
  for callbacks in ([], [callback]):
    keras.utils.set_random_seed(0)
    denses = [keras.layers.Dense(n, use_bias=False) for n in (4, 1)]
    model = keras.Sequential([keras.Input((5,)), *denses])
    model.compile(keras.optimizers.SGD(3.0), "mse")
    fitted = model.fit(x, y, batch_size=64, epochs=8, verbose=0, callbacks=callbacks)
    losses.append(fitted.history["loss"])
  np.testing.assert_array_equal(losses[1], losses[0])
  assert np.isinf(losses[0]).any() and callback.measurements


class OwnOptimizer(keras.Model):
  """Trains by an optimizer that it is not compiled with."""

  def __init__(self):
    super().__init__()
    self.dense, self.own = keras.layers.Dense(3), keras.optimizers.SGD(0.1)

  def call(self, inputs):
    return self.dense(inputs)

  def train_step(self, data):
    with tf.GradientTape() as tape:
      loss = LOSS(data[1], self(data[0]))
    self.own.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
    return {"l": loss}


@pytest.mark.parametrize("options", [{}, {"optimizer": None}])
@pytest.mark.parametrize("freq, steps", [(2, [2, 4, 6]), ("epoch", [3, 6])])
def test_steps_by_another_optimizer_are_counted(freq, steps, options):
  model = OwnOptimizer()
  model(X[:1])
  model.compile(**options)
  callback = SpectrumCallback(dataset(), loss=LOSS, freq=freq)
  _, history = fit([callback], epochs=2, model=model)
  assert [m.step for m in callback.measurements] == steps
  assert "hessian_top_1" in history and "hessian_top_1_times_lr" not in history


class Freezing(keras.callbacks.Callback):
  def on_epoch_begin(self, epoch, logs=None):
    del logs
    if epoch == 1:
      self.model.layers[0].trainable = False


def test_layers_may_be_frozen_in_training_that_runs_eagerly():
  model = build()
  model.compile("sgd", LOSS, run_eagerly=True)
  callback = SpectrumCallback(dataset())
  fit([Freezing(), callback], epochs=2, model=model)
  sizes = [m.eigenpairs.vectors.shape[1] for m in callback.measurements]
  assert sizes[1] == sizes[0] - 25 == callback.operator.shape[0]
