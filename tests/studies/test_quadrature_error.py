"""Figure 15: the quadrature of draws against their exact measures."""

import numpy as np
import pytest

from tf_hessian.numerics import probes
from tf_hessian.studies import quadrature_error
from tf_hessian.studies.chapter import Verdict

VARIANCE = 1e-5
# Of kernels; small ones need large grids. The smallest is that of the grid, see the test of gaps.
FEW = (1e-5, 1e-4, 1e-3)


@pytest.fixture(scope="module")
def made(context, make_study):
  """The study."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(quadrature_error, "KERNEL_VARIANCES", FEW)
    return make_study("15", context)


def equidistant(values, variance):
  """Returns a grid of 16 points a sigma that leaves no gap."""
  sigma = np.sqrt(variance)
  return np.arange(values[0] - 9 * sigma, values[-1] + 9 * sigma, sigma / 16)


@pytest.fixture(scope="module")
def draw_error(small, eigen, exact_draw, leading_rule, gaussians, l1):
  """Returns a function: (draw, m, variance) -> distance to the draw's exact density."""

  def error(draw, steps, variance):
    grid = equidistant(eigen[0], variance)
    nodes, weights = exact_draw(probes.probe(0, draw, 163))
    found = gaussians(*leading_rule(small.spectrum, draw, steps), grid, variance)
    return l1(grid, found, gaussians(nodes, weights, grid, variance))

  return error


# Grids differ: of |f - g|, which has kinks, the trapezoid's error is below 1 %.


@pytest.mark.parametrize("steps", [20, 30, 40])
def test_error_at_few_steps_is_the_distance_to_the_draws_exact_density(made, draw_error, steps):
  found = made.numbers["l1_draws_by_steps"][steps]
  assert found == pytest.approx([draw_error(i, steps, VARIANCE) for i in range(3)], rel=0.01)


def test_error_at_few_steps_counts_what_is_between_the_eigenvalues(small, draw_error, monkeypatch):
  monkeypatch.setattr(quadrature_error, "ALL_STEPS", (10,))
  monkeypatch.setattr(quadrature_error, "KERNEL_VARIANCES", (1e-7,))  # as in Figure 15
  found = quadrature_error.errors_of_draws(small)["l1_draws_by_steps"][10]
  assert found == pytest.approx([draw_error(i, 10, VARIANCE) for i in range(3)], rel=0.02)


def test_error_falls_to_rounding_with_the_steps(made):
  table = made.numbers["l1_draws_by_steps"]
  assert list(table) == list(range(10, 121, 10))
  largest = [max(d) for d in table.values()]
  assert largest[0] > largest[2] > largest[4] > 1e-10
  # 163 weights and nodes, each off by its rounding over the kernel's width.
  assert max(largest[8:]) < 1e-12


def test_relative_variance_is_multiplied_by_the_range(made, eigen):
  spread = eigen[0][-1] - eigen[0][0] + 0.02
  assert spread > 1
  found = made.numbers["relative_sigma_squared"]
  assert found == pytest.approx(VARIANCE * spread, rel=1e-12)


def test_error_with_the_relative_variance_is_the_distance_at_that_variance(made, draw_error):
  numbers = made.numbers
  found = numbers["l1_draws_by_steps_relative"][20]
  expected = [draw_error(i, 20, numbers["relative_sigma_squared"]) for i in range(3)]
  assert found == pytest.approx(expected, rel=0.01)


def test_error_over_the_variance_is_that_at_90_steps(made):
  found = made.numbers["l1_draws_by_sigma_squared"]
  assert list(found) == list(FEW)
  np.testing.assert_allclose(found[VARIANCE], made.numbers["l1_draws_by_steps"][90], rtol=1e-12)


@pytest.mark.parametrize("variance", [1e-4, 1e-3])
def test_error_over_the_variance_is_the_distance_at_that_variance(
  small, draw_error, monkeypatch, variance
):
  monkeypatch.setattr(quadrature_error, "STEPS", 20)
  monkeypatch.setattr(quadrature_error, "ALL_STEPS", ())
  monkeypatch.setattr(quadrature_error, "KERNEL_VARIANCES", (variance,))
  (found,) = quadrature_error.errors_of_draws(small)["l1_draws_by_sigma_squared"].values()
  assert found == pytest.approx([draw_error(i, 20, variance) for i in range(3)], rel=0.01)


def test_study_has_its_picture(made, context):
  assert set(made.pictures) == {"figure_15.png"}
  assert (context.out / "figure_15.png").read_bytes().startswith(b"\x89PNG")


def test_tables_have_a_row_for_each_number_of_steps(made):
  _, steps, variances = made.tables
  assert [int(row[0]) for row in steps.rows] == list(range(10, 121, 10))
  median = np.median(made.numbers["l1_draws_by_steps"][20])
  assert float(steps.rows[1][1]) == pytest.approx(median, rel=0.05)
  assert [float(c) for c in variances.columns[1:]] == pytest.approx(FEW)


@pytest.mark.parametrize(
  "plain, relative, wide, verdict",
  [
    (1e-8, 1e-12, 1e-15, Verdict.DIFFERS),
    (1e-8, 5e-14, 1e-15, Verdict.EXPLAINED),
    (5e-14, 1e-12, 1e-15, Verdict.AGREES),
    (5e-14, 1e-12, 2.0, Verdict.DIFFERS),
  ],
)
def test_figure_15_agrees_where_80_steps_reach_rounding_and_errors_fall(
  context, make_study, monkeypatch, plain, relative, wide, verdict
):
  def errors(_):
    steps = range(10, 121, 10)
    # Half of the draws are worse, which the median of three does not see.
    return {
      "l1_draws_by_steps": {m: [plain, plain, 1.0] for m in steps},
      "l1_draws_by_steps_relative": {m: [relative, relative, 1.0] for m in steps},
      "l1_draws_by_sigma_squared": {1e-7: [1.0], 1e-2: [wide]},
      "relative_sigma_squared": 2e-5,
    }

  monkeypatch.setattr(quadrature_error, "errors_of_draws", errors)
  monkeypatch.setattr(quadrature_error, "draw_errors", lambda *_: None)
  study = make_study("15", context)
  assert study.verdict is verdict
  assert [row[2] for row in study.tables[0].rows][1] == ("agrees" if wide < 1 else "differs")
  assert study.numbers["degree_of_1e-13"] == (10 if plain < 1e-13 else None)
  assert ("is reached at m = 10 with the printed kernel" in study.reason) == (plain < 1e-13)
