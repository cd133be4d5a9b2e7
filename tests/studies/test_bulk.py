"""Figure 1: the bulk against the exact spectrum."""

import numpy as np
import pytest

from tf_hessian.studies import bulk
from tf_hessian.studies.chapter import Verdict

VARIANCE = 1e-5


@pytest.fixture(scope="module")
def made(context, make_study):
  """The study."""
  return make_study("1", context)


@pytest.fixture(scope="module")
def grid(eigen):
  """16 points a sigma, without a gap."""
  sigma = np.sqrt(VARIANCE)
  return np.arange(eigen[0][0] - 9 * sigma, eigen[0][-1] + 9 * sigma, sigma / 16)


# Grids differ: of |f - g|, which has kinks, the trapezoid's error is below 1 %.


def test_distance_of_the_mean_is_that_to_the_exact_density(
  made, small, eigen, grid, leading_rule, gaussians, l1
):
  exact = gaussians(eigen[0], np.full(163, 1 / 163), grid, VARIANCE)
  draws = [gaussians(*leading_rule(small.spectrum, i, 90), grid, VARIANCE) for i in range(3)]
  numbers = made.numbers
  assert numbers["l1_mean"] == pytest.approx(l1(grid, np.mean(draws, axis=0), exact), rel=0.01)
  assert numbers["l1_single_draws"] == pytest.approx([l1(grid, d, exact) for d in draws], rel=0.01)


def test_predicted_distance_is_the_mean_over_many_sets_of_three_draws(
  made, eigen, grid, gaussians, l1
):
  kernel = gaussians(eigen[0], np.eye(163), grid, VARIANCE)
  squares = np.random.default_rng(0).standard_normal((60, 3, 163)) ** 2
  weights = (squares / squares.sum(axis=-1, keepdims=True)).mean(axis=1)
  found = [l1(grid, kernel @ w, kernel.mean(axis=1)) for w in weights]
  numbers = made.numbers
  # Taking the errors as normal adds less than the 17 % of a single draw at an isolated eigenvalue.
  stderr = np.std(found, ddof=1) / 60**0.5
  expected = np.mean(found)
  assert expected - 4 * stderr <= numbers["l1_mean_predicted"] <= 1.17 * expected + 4 * stderr
  ratio = numbers["l1_mean"] / numbers["l1_mean_predicted"]
  assert numbers["l1_mean_over_predicted"] == pytest.approx(ratio, rel=1e-12)


def test_share_of_the_bulk_is_counted(made, eigen):
  values = eigen[0]
  expected = np.mean((values >= -0.2) & (values <= 0.4))
  assert made.numbers["share_of_the_bulk"] == pytest.approx(expected, rel=1e-12)
  assert expected < 1


def test_study_has_its_picture(made, context):
  assert set(made.pictures) == {"figure_1.png"}
  assert (context.out / "figure_1.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
  "plain, relative, verdict",
  [
    (0.0012, 0.0001, Verdict.AGREES),
    (0.00081, 0.0001, Verdict.AGREES),
    (0.00079, 0.0001, Verdict.DIFFERS),
    (0.0042, 0.0012, Verdict.EXPLAINED),
    (0.0042, 0.0019, Verdict.DIFFERS),
  ],
)
def test_figure_1_agrees_where_the_papers_distance_is_to_be_expected(
  made, plain, relative, verdict
):
  expected = {"l1_mean_predicted": plain, "l1_mean_predicted_relative": relative}
  assert bulk.describe(made.numbers | expected).verdict is verdict


def test_distances_are_measured_with_both_kernels(made, small, eigen):
  width = eigen[0][-1] - eigen[0][0]
  assert made.numbers["relative_sigma_squared"] == pytest.approx(1e-5 * max(1, width + 0.02))
  again = bulk.mean_error(small, made.numbers["relative_sigma_squared"])
  assert made.numbers["l1_mean_relative"] == again["l1_mean"]
