"""What can be tried of the contenders without PyTorch."""

import math

import numpy as np
import pytest

from benchmarks.peers import kernels, making, ours, worker
from benchmarks.peers.problem import LABEL_SMOOTHING, split


@pytest.mark.parametrize(("low", "high", "steps"), [(-0.5, 8.0, 90), (-3.0, -1.0, 3)])
def test_kernel_of_curvlinops_has_the_width(low, high, steps):
  sigma = (high - low) / 50
  arguments = kernels.curvlinops_kernel(low, high, steps, sigma)
  # What its documentation says of margin and kappa.
  half = (high - low) * (1 + 2 * arguments["margin"]) / 2
  width = 2 / (steps - 1) / math.sqrt(8 * math.log(arguments["kappa"]))
  assert width * half == pytest.approx(sigma, rel=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-13)])
def test_our_contender_has_the_loss_of_the_problem(dtype, tolerance):
  problem = making.make_mlp()
  hidden, bias, logits, last = split(problem.parameters.astype(np.float64), problem.shapes)
  scores = np.maximum(problem.images @ hidden + bias, 0) @ logits + last
  logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
  targets = np.eye(10)[problem.labels] * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / 10
  expected = -(targets * logs).sum(axis=1).mean()
  assert ours.TfHessian(problem, dtype).mean_loss() == pytest.approx(expected, rel=tolerance)


def gauss_newton_product(problem, v):
  """Returns J' (diag(p) - p p') J v / examples: targets that add up to 1 are not in it."""
  hidden, bias, logits, last = split(problem.parameters.astype(np.float64), problem.shapes)
  v_hidden, v_bias, v_logits, v_last = split(v, problem.shapes)
  x = problem.images.astype(np.float64)
  active = (x @ hidden + bias > 0).astype(np.float64)
  h = active * (x @ hidden + bias)
  scores = h @ logits + last
  p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
  tangent = (active * (x @ v_hidden + v_bias)) @ logits + h @ v_logits + v_last
  back = p * (tangent - (p * tangent).sum(axis=1, keepdims=True)) / len(x)
  through = active * (back @ logits.T)
  parts = [x.T @ through, through.sum(axis=0), h.T @ back, back.sum(axis=0)]
  return np.concatenate([a.ravel() for a in parts])


def test_our_contender_has_the_gauss_newton_products_of_the_formula():
  problem = making.make_mlp()
  v = np.random.default_rng(0).standard_normal((3, len(problem.parameters)))
  expected = [gauss_newton_product(problem, row) for row in v]
  contender = ours.TfHessian(problem, "float64", "gauss_newton")
  contender.set_vectors(v)
  contender.set_vector(v[0])
  # Sums of 1,000 examples in float64, of which 2e-15 was seen.
  for product, other in zip(
    [contender.product(), *contender.products()], [expected[0], *expected], strict=True
  ):
    assert np.abs(product - other).max() <= 1e-13 * np.abs(other).max()


class Doubling:
  """A contender whose matrix is twice the identity, and a little more in float32."""

  versions = {"doubling": "1.0"}
  shares_passes = True

  def __init__(self, problem, dtype):  # noqa: ARG002
    self.factor = 2 if dtype == "float64" else 2.25

  def set_up(self, draws):
    self.draws = draws

  def set_vector(self, v):
    self.v = v

  def mean_loss(self):
    return 1.5

  def gradient(self):
    return 3 * self.v

  def product(self):
    return self.factor * self.v

  def set_vectors(self, vectors):
    self.vectors = vectors

  def products(self):
    return [self.factor * v for v in self.vectors]

  def to_keras(self, result):
    return result

  def density(self, *, steps):
    return np.arange(steps), np.ones(steps)


@pytest.fixture
def doubling(tmp_path):
  made = worker.Worker(Doubling, making.make_mlp(), tmp_path)
  made.set_up(3)
  return made


def test_worker_writes_what_contenders_are_compared_by(doubling, tmp_path):
  doubling.agree("agree.npz")
  with np.load(tmp_path / "agree.npz") as saved:
    v = saved["gradient"] / 3
    assert v.shape == (15_910,) and np.linalg.norm(v) == pytest.approx(1, rel=1e-12)
    assert saved["loss"] == 1.5
    np.testing.assert_allclose(saved["product"], 2 * v, rtol=1e-15)
    np.testing.assert_allclose(saved["float32_product"], 2.25 * v, rtol=1e-15)


def test_worker_writes_a_density_and_says_its_seconds(doubling, tmp_path):
  answer = doubling.density("density.npz", steps=4)
  assert answer["seconds"] > 0
  with np.load(tmp_path / "density.npz") as saved:
    assert saved["grid"].shape == saved["values"].shape == (4,)


def test_worker_writes_products_one_by_one_and_together(doubling, tmp_path):
  doubling.agree("agree.npz")
  doubling.agree_products("products.npz", 3)
  with np.load(tmp_path / "agree.npz") as saved:
    first = saved["product"]
  with np.load(tmp_path / "products.npz") as saved:
    assert saved["single"].shape == (3, 15_910)
    np.testing.assert_allclose(np.linalg.norm(saved["single"], axis=1), 2, rtol=1e-12)
    np.testing.assert_array_equal(saved["single"], saved["shared"])
    assert len(np.unique(saved["single"][:, 0])) == 3  # they are different vectors
    # The vector that is timed alone is the first.
    np.testing.assert_allclose(saved["single"][0], first, rtol=1e-15)


def test_worker_writes_single_products_where_none_share_a_pass(doubling, tmp_path, monkeypatch):
  monkeypatch.setattr(Doubling, "shares_passes", False)
  doubling.agree_products("products.npz", 2)
  with np.load(tmp_path / "products.npz") as saved:
    assert set(saved) == {"single"}
  assert doubling.prepare_products(2) == {"shares_passes": False}


def test_worker_times_products_of_so_many_vectors(doubling):
  assert doubling.prepare_products(4) == {"shares_passes": True}
  assert doubling.products(2)["seconds"] > 0
  assert len(doubling._contender.vectors) == 4
