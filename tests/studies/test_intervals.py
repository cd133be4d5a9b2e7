"""Intervals over seeds, against SciPy's distributions and simulations."""

import math

import numpy as np
import pytest
import scipy.stats

from tf_hessian.studies import intervals

# Sleep after two drugs (Student, 1908): the paired difference is 1.58, t = 4.0621, p = 0.002833.
FIRST = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
SECOND = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]


def test_mean_has_students_interval():
  found = intervals.mean(FIRST)
  error = np.std(FIRST, ddof=1) / 10**0.5
  half = scipy.stats.t.ppf(0.975, 9) * error
  assert found.mean == pytest.approx(np.mean(FIRST), rel=1e-12)
  assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), rel=1e-9)
  assert found.dof == 9
  assert found.p == pytest.approx(2 * scipy.stats.t.sf(found.mean / error, 9), rel=1e-9)


def test_paired_difference_is_that_of_students_paper():
  found = intervals.paired(FIRST, SECOND)
  assert found.mean == pytest.approx(1.58)
  assert found.p == pytest.approx(0.002833, abs=5e-7)
  assert (found.low, found.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-6)
  assert found.dof == 9 and found.above and not found.below


def test_tests_are_those_of_scipy():
  for found, expected in (
    (intervals.paired(FIRST, SECOND), scipy.stats.ttest_rel(FIRST, SECOND)),
    (intervals.mean(FIRST), scipy.stats.ttest_1samp(FIRST, 0)),
  ):
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.dof == pytest.approx(expected.df, rel=1e-9)
    assert (found.low, found.high) == pytest.approx(expected.confidence_interval(0.95), rel=1e-9)


def test_values_that_do_not_vary_have_an_interval_of_one_point():
  found = intervals.paired([2.0, 3.0], [1.0, 2.0])
  assert (found.low, found.mean, found.high, found.p) == (1, 1, 1, 0)
  assert intervals.paired([2.0, 2.0], [2.0, 2.0]).p == 1


@pytest.mark.parametrize("count", [2, 5])
def test_interval_holds_the_mean_in_95_of_100_samples(count):
  samples = np.random.default_rng(0).normal(3.0, 2.0, (1500, count))
  found = [intervals.mean(s) for s in samples]
  inside = np.mean([i.low <= 3.0 <= i.high for i in found])
  assert abs(inside - 0.95) <= 4 * (0.95 * 0.05 / 1500) ** 0.5


def test_factor_is_the_geometric_mean_of_the_ratios():
  found = intervals.factor([2.0, 8.0, 4.0], [1.0, 1.0, 2.0])
  assert found.mean == pytest.approx(32 ** (1 / 3))
  log = intervals.mean(np.log([2.0, 8.0, 2.0]))
  assert (found.low, found.high) == pytest.approx((math.exp(log.low), math.exp(log.high)))
  assert found.p == pytest.approx(log.p)


def test_single_value_has_no_interval():
  found = intervals.mean([3.0])
  assert math.isnan(found.low) and math.isnan(found.high) and math.isnan(found.p)
  assert not found.above and not found.below
  assert found.text() == "3.00"


def test_text_has_both_ends_in_the_unit_that_is_asked_for():
  found = intervals.Interval(0.5, 0.25, 0.75, 4, 0.01)
  assert found.text() == "0.500 (0.250 to 0.750)"
  assert found.text(2, scale=100) == "50 (25 to 75)"


def test_change_is_said_with_its_direction():
  found = intervals.Interval(0.5, -0.25, 1.25, 4, 0.2)
  assert found.change(2) == "higher by 0.50 (-0.25 to 1.2)"
  found = intervals.Interval(-0.5, -1.25, 0.25, 4, 0.2)
  assert found.change(2) == "lower by 0.50 (-0.25 to 1.2)"


def test_interval_of_a_standard_error_is_that_of_the_values():
  values = np.array([1.0, 2.0, 4.0])
  stderr = values.std(ddof=1) / 3**0.5
  expected, found = intervals.mean(values), intervals.of_error(values.mean(), stderr, 3)
  assert (found.low, found.high, found.p) == pytest.approx(
    (expected.low, expected.high, expected.p)
  )


def test_paired_values_of_other_seeds_are_refused():
  with pytest.raises(ValueError, match="expected as many values, got 2 and 3"):
    intervals.paired([1.0, 2.0], [1.0, 2.0, 3.0])


@pytest.mark.parametrize("p, text", [(0.0123, "p = 0.012"), (2e-4, "p < 0.001")])
def test_p_is_written_briefly(p, text):
  assert intervals.p_text(p) == text
