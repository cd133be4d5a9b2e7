"""A network of 163 parameters in the place of the small model, and ways to its exact numbers."""

import dataclasses
import pathlib

import numpy as np
import pytest
import scipy.integrate
import scipy.sparse.linalg
import scipy.stats

from tf_hessian.experiments.configs import load_config
from tf_hessian.studies import catalog, small_model
from tf_hessian.studies.chapter import Chapter, Verdict
from tf_hessian.studies.context import FOLDERS, Context
from tf_hessian.studies.result import Result, plain

ROOT = pathlib.Path(__file__).resolve().parents[2]
DRAWS = 3
SIGMA = 1e-5**0.5

# The last three of 16 inputs are always 0, as dark pixels are: 24 rows of the Hessian are zero.
DATA = """
import numpy as np


def examples():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((60, 16)) * np.logspace(0.75, -0.7, 16)
  x[:, 13:] = 0
  classes = np.argmax(x[:, :3] + 0.3 * rng.standard_normal((60, 3)), axis=1)
  return x.astype(np.float32), np.eye(3, dtype=np.float32)[classes]
"""
CONFIG = """
from tf_hessian.experiments.configs import load_config


def get_config():
  config = load_config(
    {original!r},
    model={{"input_shape": (16,), "hidden_units": (8,), "num_classes": 3}},
    train={{"batch_size": 12, "steps": 60, "until_accuracy": 0.0, "log_every": 20}},
    hessian={{"batch_size": 20}},
  )
  with config.unlocked():
    config.data = {{"name": "function", "function": {data!r}}}
  return config.unlock()
"""


@pytest.fixture(scope="session")
def root():
  """The folder of the repository."""
  return ROOT


@dataclasses.dataclass(frozen=True)
class Study:
  """What a study has measured, and what it says of that."""

  result: Result
  chapter: Chapter

  @property
  def numbers(self):
    return self.result.numbers

  def __getattr__(self, name):
    return getattr(self.chapter, name)


@pytest.fixture(scope="session")
def new_study():
  """Returns a function: (figure, fields) -> a `Study` with values for the fields left out."""

  def make(figure="15", **fields):
    about = {f.name for f in dataclasses.fields(Result)}
    known = {
      "title": f"Title of {figure}",
      "section": "B",
      "claim": f"claim of {figure}.",
      "found": f"found for {figure}.",
      "verdict": Verdict.AGREES,
    }
    known |= {k: v for k, v in fields.items() if k not in about}
    fields = {"numbers": {}} | {k: v for k, v in fields.items() if k in about}
    return Study(Result(figure, **fields), Chapter(**known))

  return make


@pytest.fixture(scope="session")
def make_study():
  """Returns a function: (figure, context) -> what the study has measured and says: a `Study`."""

  def make(figure, context):
    module = catalog.module(figure)
    numbers = module.measure(context)
    made = Study(Result(figure, numbers), module.describe(numbers))
    # The words are the same when the numbers come from a file.
    assert catalog.describe(Result(figure, plain(numbers))) == made.chapter
    return made

  return make


@pytest.fixture(scope="session")
def configs(tmp_path_factory):
  """A folder of configs of which those of small models are of the network of 163 parameters."""
  folder = tmp_path_factory.mktemp("configs")
  (folder / "data_of_163.py").write_text(DATA)
  data = f"{folder / 'data_of_163.py'}:examples"
  original = str(ROOT / "configs" / "mnist_mlp.py")
  for name in FOLDERS:
    (folder / f"{name}.py").write_text(CONFIG.format(original=original, data=data))
  return folder


@pytest.fixture(scope="session")
def config(configs):
  """The config of the network of 163 parameters."""
  return load_config(configs / "mnist_mlp.py")


@pytest.fixture(scope="session")
def context(configs, config, tmp_path_factory):
  """A `Context` whose small models are the network of 163 parameters, with three draws."""
  made = Context(tmp_path_factory.mktemp("figures"), configs, progress=False)
  found = small_model.prepare(config, made.work / "small_model", num_draws=DRAWS, progress=False)
  made._models.update(dict.fromkeys(FOLDERS, found))
  return made


@pytest.fixture(scope="session")
def with_model(context):
  """Returns a function: `SmallModel` -> the context with it in the place of its own."""
  return lambda small: dataclasses.replace(context, _models=dict.fromkeys(FOLDERS, small))


@pytest.fixture(scope="session")
def small(context):
  """The `SmallModel` of the network of 163 parameters."""
  return context.small_model


def numpy_gradient(point, x, y):
  """Returns the gradient of the network's mean loss at a point (163,), without TensorFlow."""
  kernel, bias, kernel_2, bias_2 = np.split(point, np.cumsum([128, 8, 24]))
  kernel, kernel_2 = kernel.reshape(16, 8), kernel_2.reshape(8, 3)
  before = x @ kernel + bias
  hidden = np.maximum(before, 0)
  logits = hidden @ kernel_2 + bias_2
  p = np.exp(logits - logits.max(axis=1, keepdims=True))
  p /= p.sum(axis=1, keepdims=True)
  outer = (p - (0.9 * y + 0.1 / 3)) / len(x)  # label smoothing 0.1 over three classes
  inner = outer @ kernel_2.T * (before > 0)
  parts = [x.T @ inner, inner.sum(axis=0), hidden.T @ outer, outer.sum(axis=0)]
  return np.concatenate([np.ravel(part) for part in parts])


@pytest.fixture(scope="session")
def examples():
  """The network's data: (60, 16) and (60, 3) float64."""
  scope = {}
  exec(DATA, scope)
  return tuple(a.astype(np.float64) for a in scope["examples"]())


@pytest.fixture(scope="session")
def gradient_of():
  """Returns a function: (point (163,), x, y) -> gradient of the network, by NumPy alone."""
  return numpy_gradient


@pytest.fixture(scope="session")
def gradient_at(examples):
  """Returns a function: point (163,) -> gradient of the network's loss on all its data."""
  return lambda point: numpy_gradient(point, *examples)


@pytest.fixture(scope="session")
def hessian_at(gradient_at):
  """Returns a function: point (163,) -> the network's Hessian, by differences of NumPy's gradients.

  Their error is about h^2 + eps / h = 1e-10 of the third derivatives and of the gradient's terms.
  """

  def hessian(point, h=1e-5):
    steps = h * np.eye(len(point))
    columns = [(gradient_at(point + s) - gradient_at(point - s)) / (2 * h) for s in steps]
    return np.stack(columns, axis=1)

  return hessian


@pytest.fixture(scope="session")
def dense(small):
  """The network's Hessian, one product a column, (163, 163)."""
  return np.stack([small.operator.matvec(e) for e in np.eye(small.operator.shape[0])], axis=1)


@pytest.fixture(scope="session")
def eigen(dense):
  """(eigenvalues ascending, eigenvectors as columns) of the network's Hessian, by NumPy."""
  return np.linalg.eigh((dense + dense.T) / 2)


@pytest.fixture(scope="session")
def gaussians():
  """Returns a function: (nodes, weights, grid, variance) -> their density, by scipy.stats."""

  def density(nodes, weights, grid, variance):
    return scipy.stats.norm.pdf(grid[:, None], nodes, np.sqrt(variance)) @ weights

  return density


@pytest.fixture(scope="session")
def leading_rule():
  """Returns a function: (spectrum, draw, m) -> nodes and weights of its first m Lanczos steps."""

  def rule(spectrum, draw, steps):
    d, e = spectrum.diagonals[draw][:steps], spectrum.off_diagonals[draw][: steps - 1]
    nodes, vectors = np.linalg.eigh(np.diag(d) + np.diag(e, 1) + np.diag(e, -1))
    return nodes, vectors[0] ** 2

  return rule


@pytest.fixture(scope="session")
def l1():
  """Returns a function: (grid, first, second) -> the integral of |first - second|."""
  return lambda grid, f, g: float(scipy.integrate.trapezoid(np.abs(f - g), grid))


@pytest.fixture(scope="session")
def exact_draw(eigen):
  """Returns a function: unit vector (163,) -> nodes and weights of its exact measure."""
  values, vectors = eigen
  return lambda v: (values, (v @ vectors) ** 2)


class Dense(scipy.sparse.linalg.LinearOperator):
  """A matrix as an operator, with a gradient."""

  def __init__(self, matrix, gradient):
    super().__init__(np.dtype(np.float64), matrix.shape)
    self._matrix = matrix
    self._gradient = gradient

  def _matvec(self, x):
    return self._matrix @ x

  def _matmat(self, x):
    return self._matrix @ x

  def gradient(self):
    return self._gradient


@pytest.fixture(scope="session")
def as_operator():
  """Returns a function: (matrix, gradient) -> an operator of which products cost nothing."""
  return Dense
