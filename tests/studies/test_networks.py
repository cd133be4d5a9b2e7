"""Sizes of the networks and the lowest loss."""

import math
import pathlib

import pytest

from tf_hessian.studies import networks
from tf_hessian.studies.chapter import Verdict
from tf_hessian.studies.context import Context

# As counted from the architectures by the tests of the models.
KNOWN = {
  "mnist_mlp": 15_910,
  "cifar10_resnet32": 464_154,
  "cifar10_vgg11": 11_386_250,
  "imagenet_resnet18": 11_692_329,
  "imagenet_inception_v3": 27_145_970,
}
LOWEST = -(0.91 * math.log(0.91) + 9 * 0.01 * math.log(0.01))


@pytest.fixture
def figure(root, tmp_path, monkeypatch, make_study):
  """Returns a function: rows of PAPER -> the study of these networks."""

  def make(paper=networks.PAPER[:2]):
    monkeypatch.setattr(networks, "PAPER", paper)
    return make_study("networks", Context(tmp_path, root / "configs"))

  return make


def test_known_counts_fit_the_papers_words():
  assert [row[0] for row in networks.PAPER] == list(KNOWN)
  for config, _, _, (low, high) in networks.PAPER:
    assert low <= KNOWN[config] <= high


def test_networks_have_configs(root):
  for config, *_ in networks.PAPER:
    assert pathlib.Path(root, "configs", f"{config}.py").is_file()


def test_parameters_of_the_small_networks_are_counted(figure):
  made = figure()
  assert made.numbers["parameters"] == {c: KNOWN[c] for c in ("mnist_mlp", "cifar10_resnet32")}
  assert [row[2] for row in made.tables[0].rows] == ["15,910", "464,154", f"{LOWEST:.4f}"]
  assert "2 of 2 networks" in made.found


@pytest.mark.parametrize("bounds", [(15_911, 16_500), (15_000, 15_909)])
def test_network_of_another_size_does_not_fit(figure, bounds):
  made = figure((("mnist_mlp", "small model", "16k", bounds),))
  assert "0 of 1 networks" in made.found


def test_lowest_loss_is_the_entropy_of_the_smoothed_targets(figure):
  made = figure(networks.PAPER[:1])
  assert made.numbers["lowest_loss"] == pytest.approx(LOWEST, rel=1e-6)
  assert abs(LOWEST - networks.PAPER_LOWEST) > 5e-4
  assert made.verdict is Verdict.DIFFERS
