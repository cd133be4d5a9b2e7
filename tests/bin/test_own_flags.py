"""A model, data and a loss of the user's own, without a config."""

import os
import pathlib
import sys

import keras
import numpy as np
import pytest

from tf_hessian import Eigenpairs, exact_spectrum
from tf_hessian.bin import own_flags
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.spectrum import Spectrum

ROOT = pathlib.Path(__file__).resolve().parents[2]
CODE = """
import keras, numpy as np, tensorflow as tf
rng = np.random.default_rng(0)
x = rng.standard_normal((90, 4)).astype("float32")
y = np.eye(3, dtype="float32")[rng.integers(3, size=90)]
arrays = lambda: (x, y)
batched = lambda: tf.data.Dataset.from_tensor_slices((x, y)).batch(40)
dropping = lambda: tf.data.Dataset.from_tensor_slices((x, y)).batch(45, drop_remainder=True)
class Pages(keras.utils.PyDataset):
  def __len__(self):
    return 3
  def __getitem__(self, b):
    return x[30 * b : 30 * b + 30], y[30 * b : 30 * b + 30]
def loss(targets, outputs):
  return keras.ops.sum((targets - outputs) ** 2, -1)
class Loss(keras.losses.Loss):
  def call(self, targets, outputs):
    return loss(targets, outputs)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("own")
  (folder / "mypackage").mkdir()
  (folder / "mypackage" / "__init__.py").write_text("")
  (folder / "mypackage" / "data.py").write_text(CODE)
  keras.utils.set_random_seed(0)
  layers = [keras.layers.Dense(3, "tanh"), keras.layers.Dense(3)]
  model = keras.Sequential([keras.Input((4,)), *layers])
  model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
  model.save(folder / "m.keras")
  return folder


@pytest.fixture(scope="module")
def own(folder):
  """The user's own names, and the model."""
  names = {}
  exec(CODE, names)
  return names | {"model": keras.models.load_model(folder / "m.keras")}


@pytest.fixture(scope="module")
def run(folder, forked):
  """Returns a function that runs a command in the folder: (exit code, output, errors)."""

  def run(command, *flags):
    process = forked(
      [sys.executable, "-m", f"tf_hessian.bin.{command}", *flags],
      cwd=folder,
      env=os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    said = process.communicate(timeout=900)
    return process.returncode, *said

  return run


def exact(own, loss, batch_size=128):
  x, y = own["x"], own["y"]
  batches = [(x[i : i + batch_size], y[i : i + batch_size]) for i in range(0, len(x), batch_size)]
  return exact_spectrum(HessianOperator(own["model"], loss, batches)).eigenvalues[::-1]


FORMS = {  # data, loss, further flags; the first is the only one that is not slow
  "pages": (
    "mypackage.data:Pages",
    "compiled",
    ["--loss=compiled", "--num_draws=2", "--lanczos_steps=27"],
  ),
  "arrays": ("mypackage/data.py:arrays", "compiled", []),
  "batched": ("mypackage.data:batched", "compiled", ["--batch_size=20"]),
  "dropping": ("mypackage.data:dropping", "compiled", ["--batched"]),
  "function": ("mypackage.data:batched", "function", ["--loss=mypackage.data:loss"]),
  "class": ("mypackage.data:arrays", "function", ["--loss=mypackage/data.py:Loss"]),
  "of Keras": ("mypackage.data:arrays", "mse", ["--loss=MeanSquaredError"]),
}


@pytest.mark.parametrize(
  "form", [pytest.param(f, marks=[] if f == "pages" else pytest.mark.slow) for f in FORMS]
)
def test_spectrum_is_that_of_the_model_and_its_loss_on_the_data(run, own, folder, form):
  data, loss, flags = FORMS[form]
  loss = {"compiled": None, "function": own["loss"], "mse": "mse"}[loss]
  workdir = folder / form
  model = ["--model=m.keras", f"--data={data}", f"--workdir={workdir}"]
  code, out, err = run("spectrum", *model, *flags)
  assert code == 0, out + err
  found = Spectrum.load(workdir / "spectrum" / "spectrum.npz")
  np.testing.assert_allclose(found.largest(3), exact(own, loss)[:3], rtol=1e-4)
  config = found.config["config"]
  assert config["model"] == {"name": "keras_file", "path": "m.keras"}
  said = dict(flag.removeprefix("--").split("=") for flag in flags if "=" in flag)
  assert len(found.nodes) == config["lanczos"]["draws"] == int(said.get("num_draws", 10))
  assert config["lanczos"]["steps"] == int(said.get("lanczos_steps", 90))


@pytest.mark.slow
def test_eigenpairs_are_those_of_the_model(run, own, folder):
  flags = ["--model=m.keras", "--data=mypackage.data:arrays", "--workdir=pairs"]
  code, out, err = run("eigenpairs", *flags, "--largest=2", "--smallest=1")
  assert code == 0, out + err
  found = Eigenpairs.load(folder / "pairs" / "eigenpairs" / "eigenpairs.npz")
  np.testing.assert_allclose(found.values, exact(own, None)[[0, 1, -1]], rtol=0, atol=1e-5)
  lines = out.splitlines()
  assert [float(line.split()[0]) for line in lines[1:4]] == pytest.approx(found.values, rel=1e-7)
  assert run("eigenpairs", *flags, "--largest=2", "--smallest=1")[1] == out  # nothing anew
  code, _, err = run("eigenpairs", *flags, "--largest=3")
  assert code == 1 and "it holds another run" in err


@pytest.mark.parametrize(
  "flags, problem",
  [
    (["--model=m.keras"], "--config is needed, or --model and --data"),
    ([], "--config is needed, or --model and --data"),
    (["--gradient", "--num_draws=2"], "--num_draws=2: the gradient is one start vector"),
    (["--model=none.keras", "--data=mypackage.data:arrays"], "there is no such checkpoint"),
    (["--model=m.keras", "--data=nothing:x"], "there is no module nothing"),
    (["--model=m.keras", "--data=mypackage.none:x"], "there is no module mypackage.none"),
    (["--model=m.keras", "--data=mypackage.data:none"], "mypackage.data has no 'none'"),
    (["--model=m.keras", "--data=none.py:x"], "there is no file none.py"),
    (["--model=m.keras", "--data=mypackage.data:dropping"], "say --batched"),
    (["--model=m.keras", "--data=mypackage.data:x"], "expected a function that can be called"),
    (["--model=m.keras", "--data=mypackage.data:loss"], "without arguments, got function (missing"),
    (
      ["--model=m.keras", "--data=mypackage.data:arrays", "--loss=mypackage.data:x"],
      "expected a loss of Keras or a function",
    ),
  ],
  ids=lambda x: x[-1] if isinstance(x, list) and x else "",
)
def test_what_is_missing_is_named_in_a_line(run, flags, problem):
  code, _, err = run("spectrum", "--workdir=refused", *flags)
  assert code == 1 and "Traceback" not in err
  (line,) = [x for x in err.splitlines() if x.startswith("error: ")]
  assert problem in line


@pytest.mark.parametrize(
  "text, section",
  [
    ("compiled", {"name": "compiled"}),
    ("MeanSquaredError", {"name": "MeanSquaredError"}),
    ("Huber(delta=2.0)", {"name": "Huber", "delta": 2.0}),
    ("my.module:loss", {"name": "my.module:loss"}),
  ],
)
def test_loss_is_read_from_its_text(text, section):
  assert own_flags.loss_section(text) == section


@pytest.mark.parametrize("text", ["", "a b", "Huber(2.0)", "Huber(delta=f())", "x.y", "1", "Hub("])
def test_text_that_is_no_loss_is_refused(text):
  with pytest.raises(ValueError, match="flag --loss: expected 'Name'"):
    own_flags.loss_section(text)
