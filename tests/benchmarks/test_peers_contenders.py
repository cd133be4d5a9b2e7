"""What can be tried of the contenders without PyTorch."""

import dataclasses
import math
import time

import numpy as np
import pytest
import scipy.special

from benchmarks.peers import kernels, making, ours, usage, worker
from benchmarks.peers.problem import BLOCKS, LABEL_SMOOTHING, LAYER_EPSILON, split


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
  scores = np.maximum(problem.inputs @ hidden + bias, 0) @ logits + last
  logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
  targets = np.eye(10)[problem.labels] * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / 10
  expected = -(targets * logs).sum(axis=1).mean()
  assert ours.TfHessian(problem, dtype).mean_loss() == pytest.approx(expected, rel=tolerance)


def transformer_loss(problem):
  """Returns the mean loss over tokens, by the formulas, in float64."""
  parts = split(problem.parameters.astype(np.float64), problem.shapes)
  p = dict(zip(problem.names, parts, strict=True))

  def norm(name, x):
    x = x - x.mean(-1, keepdims=True)
    scale = np.sqrt((x**2).mean(-1, keepdims=True) + LAYER_EPSILON)
    return x / scale * p[f"{name}/gamma"] + p[f"{name}/beta"]

  def dense(name, x):
    return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]

  def attention(name, x):
    q, k, v = (
      np.einsum("btd,dhe->bthe", x, p[f"{name}/{n}/kernel"]) + p[f"{name}/{n}/bias"]
      for n in ("query", "key", "value")
    )
    scores = np.einsum("bthe,bshe->bhts", q, k) / np.sqrt(q.shape[-1])
    scores = np.where(np.tri(x.shape[1], dtype=bool), scores, -np.inf)
    mixed = np.einsum("bhts,bshe->bthe", scipy.special.softmax(scores, -1), v)
    out = np.einsum("bthe,hed->btd", mixed, p[f"{name}/attention_output/kernel"])
    return out + p[f"{name}/attention_output/bias"]

  x = p["tokens/embeddings"][problem.inputs] + p["positions/embeddings"]
  for i in range(1, BLOCKS + 1):
    x = x + attention(f"block{i}_attention", norm(f"block{i}_norm_1", x))
    y = dense(f"block{i}_up", norm(f"block{i}_norm_2", x))
    x = x + dense(f"block{i}_down", y * scipy.special.ndtr(y))
  logs = scipy.special.log_softmax(dense("logits", norm("norm", x)), -1)
  targets = np.eye(logs.shape[-1])[problem.labels] * (1 - LABEL_SMOOTHING)
  return -((targets + LABEL_SMOOTHING / logs.shape[-1]) * logs).sum(-1).mean()


@pytest.mark.slow
def test_transformer_has_the_loss_of_its_formulas():
  # The first weights are small and the biases 0, with which wrong ones would hardly show.
  problem = making.make_transformer(2, 2)
  moved = problem.parameters + 0.1 * np.random.default_rng(0).standard_normal(1_058_536, np.float32)
  problem = dataclasses.replace(problem, parameters=moved)
  found = ours.TfHessian(problem, "float64").mean_loss()
  # Sums of some hundreds of numbers in float64, one after the other, of which 1e-15 was seen.
  assert found == pytest.approx(transformer_loss(problem), rel=1e-13)


def gauss_newton_product(problem, v):
  """Returns J' (diag(p) - p p') J v / examples: targets that add up to 1 are not in it."""
  hidden, bias, logits, last = split(problem.parameters.astype(np.float64), problem.shapes)
  v_hidden, v_bias, v_logits, v_last = split(v, problem.shapes)
  x = problem.inputs.astype(np.float64)
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

  def set_up(self, draws, steps):
    self.draws, self.steps = draws, steps

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


def test_worker_writes_a_density_and_says_what_it_takes(doubling, tmp_path):
  answer = doubling.density("density.npz", steps=4)
  assert answer["seconds"] > 0 and answer["cpu_seconds"] >= 0 and answer["peak_mib"] > 0
  with np.load(tmp_path / "density.npz") as saved:
    assert saved["grid"].shape == saved["values"].shape == (4,)


def test_worker_sets_up_for_the_numbers_of_a_run(doubling):
  answer = doubling.set_up(draws=5, steps=7)
  assert (doubling._contender.draws, doubling._contender.steps) == (5, 7)
  assert answer["seconds"] > 0 and answer["failure"] == ""


def test_worker_times_gradients_and_products_when_they_are_prepared(doubling):
  doubling.prepare()
  assert doubling.gradient(2)["seconds"] > 0 and doubling.product(2)["seconds"] > 0


def test_peak_of_memory_begins_anew():
  def take():
    usage.reset_peak()
    np.ones(2**24)  # 128 MiB, of which every page is written
    return usage.peak_mib()

  usage.reset_peak()
  before = usage.peak_mib()
  assert take() >= before + 120
  usage.reset_peak()
  assert usage.peak_mib() < before + 60


def test_seconds_of_cpu_are_those_of_work():
  before, end = usage.cpu_seconds(), time.process_time() + 0.05
  while time.process_time() < end:
    pass
  # The clock of `os.times` has ticks of 10 ms.
  assert usage.cpu_seconds() - before >= 0.03


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
