"""Figure 14 and the Monte-Carlo test of its bound."""

import functools
import math

import numpy as np
import pytest

from tf_hessian.studies import concentration
from tf_hessian.studies.chapter import Verdict
from tf_hessian.studies.context import Context

TRIALS = 2000
VARIANCE = 1e-2  # of the Monte-Carlo test
POINTS = (0.0, 0.3, 2.0)


def eq_11(a, b, n, draws, probability):
  """Returns 2 a sqrt(x) / (n sqrt(k)) + 2 b x / (k n), where 2 exp(-x) is the probability."""
  x = math.log(2 / probability)
  return 2 * a * math.sqrt(x) / (n * math.sqrt(draws)) + 2 * b * x / (draws * n)


def eq_12(n, draws, sigma, probability):
  b = 1 / (math.sqrt(2 * math.pi) * sigma)
  return eq_11(math.sqrt(n) * b, b, n, draws, probability)


@pytest.fixture(scope="module")
def rows():
  """What the Monte-Carlo test finds in few trials."""
  return concentration.monte_carlo(trials=TRIALS)


@pytest.fixture(scope="module")
def kernels(gaussians):
  """The kernel's value at each eigenvalue of the test, for each of its points."""
  values = concentration.spectrum_of_the_trials()
  return {t: gaussians(values, np.eye(values.size), np.array([t]), VARIANCE)[0] for t in POINTS}


@pytest.fixture(scope="module")
def made(rows, make_study, tmp_path_factory):
  """(the study of Figure 14, its folder), of few trials."""
  folder = tmp_path_factory.mktemp("14")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(concentration, "monte_carlo", lambda: rows)
    return make_study("14", Context(folder)), folder


# The Monte-Carlo test.


def test_spectrum_of_the_trials_is_a_bulk_and_ten_outliers():
  values = concentration.spectrum_of_the_trials()
  assert values.shape == (400,)
  assert (np.diff(values) >= 0).all()
  np.testing.assert_allclose(values[-10:], np.linspace(1, 3, 10), rtol=1e-15)
  # The standard error of the deviation is 0.1 / sqrt(2 x 390) = 0.0036.
  assert values[:-10].std() == pytest.approx(0.1, abs=4 * 0.0036)


def test_there_is_a_row_for_each_point_number_of_draws_and_probability(rows):
  found = {(r["t"], r["draws"], r["probability"]) for r in rows}
  assert found == {(t, k, p) for t in POINTS for k in (1, 10) for p in (0.5, 0.1, 0.01)}
  assert len(rows) == len(found)


def test_bound_is_not_exceeded_more_often_than_it_says(rows):
  for r in rows:
    assert 0 <= r["frequency"] <= r["probability"]
    assert 0 <= r["frequency_on_the_sphere"] <= r["probability"]
  assert max(r["frequency"] for r in rows) > 0


def test_quantile_of_the_distance_is_below_both_bounds(rows):
  for r in rows:
    assert 0 < r["quantile"] <= r["epsilon_of_eq_11"] <= r["epsilon_of_eq_12"]


def test_bounds_are_those_of_the_kernels_norms(rows, kernels):
  for r in rows:
    f = kernels[r["t"]]
    a, b = np.linalg.norm(np.diag(f)), np.linalg.norm(np.diag(f), 2)
    expected = eq_11(a, b, 400, r["draws"], r["probability"])
    assert r["epsilon_of_eq_11"] == pytest.approx(expected, rel=1e-12)
    expected = eq_12(400, r["draws"], 0.1, r["probability"])
    assert r["epsilon_of_eq_12"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("sphere", [False, True])
def test_frequencies_are_those_of_draws_on_a_matrix_that_is_not_diagonal(rows, kernels, sphere):
  rng = np.random.default_rng(5)
  q = np.linalg.qr(rng.standard_normal((400, 400)))[0]
  v = rng.standard_normal((400, TRIALS)) / 20  # one draw a trial, of variance 1 / n
  if sphere:
    v /= np.linalg.norm(v, axis=0)
  key = "frequency_on_the_sphere" if sphere else "frequency"
  for r in rows:
    if r["draws"] == 1:
      f = kernels[r["t"]]
      estimates = np.sum(v * ((q * f) @ (q.T @ v)), axis=0)
      found = np.mean(np.abs(estimates - f.mean()) > r["epsilon_of_eq_11"])
      # Both are binomial; 1 / TRIALS for those that are near 0.
      p = (found + r[key]) / 2 + 1 / TRIALS
      assert abs(found - r[key]) <= 4.5 * math.sqrt(2 * p / TRIALS)


@pytest.mark.parametrize("draws", [1, 10])
def test_quantile_far_from_all_outliers_is_that_of_a_normal_variable(rows, kernels, draws):
  f = kernels[0.0]  # of which hundreds of terms matter
  # 2 sum f^2 / n^2 / k is the variance; the 0.5 quantile of |N| is 0.6745. The density there is
  # 0.64 over the deviation, so the standard error is 0.5 / sqrt(TRIALS) / 0.64.
  deviation = math.sqrt(2 * np.sum(f**2) / draws) / 400
  found = next(
    r["quantile"] for r in rows if (r["t"], r["draws"], r["probability"]) == (0.0, draws, 0.5)
  )
  assert found / deviation == pytest.approx(0.6745, abs=4 * 0.5 / math.sqrt(TRIALS) / 0.64)


def test_monte_carlo_is_repeatable_and_depends_on_its_seed():
  run = functools.partial(concentration.monte_carlo, trials=20)
  assert run(seed=1) == run(seed=1)
  assert run(seed=1) != run(seed=2)


# Figure 14.


def test_figure_14_quotes_eq_12(made):
  numbers = made[0].numbers
  assert numbers["epsilon"] == pytest.approx(eq_12(500_000, 20, 0.01, 1e-3), rel=1e-12)
  assert numbers["kernel_height"] == pytest.approx(100 / math.sqrt(2 * math.pi), rel=1e-12)


def test_figure_14_has_the_fewest_draws_for_a_tenth(made):
  numbers = made[0].numbers
  draws, target = numbers["draws_for_a_tenth"], numbers["epsilon"] / 10
  assert eq_12(500_000, draws, 0.01, 1e-3) <= target < eq_12(500_000, draws - 1, 0.01, 1e-3)


def test_figure_14_has_picture_and_table(made, rows):
  study, folder = made
  assert set(study.pictures) == {p.name for p in folder.iterdir()} == {"figure_14.png"}
  (table,) = study.tables
  assert len(table.rows) == len(rows)
  for row, r in zip(table.rows, rows, strict=True):
    assert len(row) == len(table.columns)
    assert float(row[-2]) == pytest.approx(r["epsilon_of_eq_11"] / r["quantile"], abs=0.0051)
    assert float(row[-1]) == pytest.approx(r["epsilon_of_eq_12"] / r["quantile"], abs=0.0051)


@pytest.mark.parametrize("frequency, verdict", [(0.0099, Verdict.OPEN), (0.0101, Verdict.DIFFERS)])
def test_figure_14_is_open_where_the_bound_holds_and_differs_elsewhere(
  made, rows, frequency, verdict
):
  assert rows[-1]["probability"] == 0.01
  changed = [*rows[:-1], rows[-1] | {"frequency": frequency}]
  numbers = made[0].numbers | {"monte_carlo": changed}
  assert concentration.describe(numbers).verdict is verdict
