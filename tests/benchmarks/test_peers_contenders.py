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


class Doubling:
  """A contender whose matrix is twice the identity, and a little more in float32."""

  versions = {"doubling": "1.0"}

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
