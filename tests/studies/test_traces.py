"""Errors of traces against the exact one of the small model."""

import numpy as np
import pytest
import scipy.stats

from tf_hessian.numerics.traces import METHODS
from tf_hessian.studies import traces
from tf_hessian.studies.chapter import Verdict

SETTINGS = {"SEEDS": 10, "COUNTS": (10, 40)}


@pytest.fixture(scope="module")
def made(context, make_study):
  with pytest.MonkeyPatch.context() as patch:
    for name, value in SETTINGS.items():
      patch.setattr(traces, name, value)
    return make_study("traces", context)


def test_trace_is_the_sum_of_the_exact_eigenvalues(made, eigen):
  assert made.numbers["trace"] == pytest.approx(eigen[0].sum(), rel=1e-12)


def test_theory_is_that_of_random_signs(made, eigen, dense):
  off = np.sum(eigen[0] ** 2) - np.sum(np.diag(dense) ** 2)
  for count, found in made.numbers["theory"].items():
    # The diagonal is that of the top eigenvectors only.
    assert found == pytest.approx(np.sqrt(2 * off / int(count)) / eigen[0].sum(), rel=0.02)


def test_hutchinsons_error_is_that_of_theory(made):
  for count, error in made.numbers["errors"]["hutchinson"].items():
    # Of ten seeds: known to 22 %, and one in a thousand is three times farther off.
    assert 0.4 < error / made.numbers["theory"][count] < 1.7


def test_xtrace_is_nearer(made):
  errors = made.numbers["errors"]
  assert set(errors) == set(METHODS)
  assert errors["xtrace"]["40"] < 0.5 * errors["hutchinson"]["40"]


def test_study_has_picture_and_table(made, context):
  assert made.section == "" and made.verdict in (Verdict.AGREES, Verdict.OPEN)
  assert (context.out / "figure_traces.png").read_bytes().startswith(b"\x89PNG")
  table = made.tables[0]
  assert table.columns == ("products", "10", "40")
  assert [row[0] for row in table.rows][:3] == ["Hutchinson", "Hutch++", "XTrace"]


@pytest.mark.parametrize(
  "factors, verdict",
  [
    ((0.5, 0.5), Verdict.AGREES),
    ((1.0, 0.5), Verdict.OPEN),
    ((0.5, 0.9), Verdict.OPEN),  # no more than chance, of 20 seeds
    ((0.5, 2.0), Verdict.DIFFERS),
  ],
)
def test_verdict_is_that_of_an_f_test_of_both_methods_at_all_counts(made, factors, verdict):
  hutchinson = made.numbers["errors"]["hutchinson"]
  others = {
    method: {count: factor * x for count, x in hutchinson.items()}
    for method, factor in zip(traces.OTHERS, factors, strict=True)
  }
  numbers = dict(made.numbers, seeds=20, errors={"hutchinson": hutchinson} | others)
  assert traces.describe(numbers).verdict is verdict


def test_probability_is_that_of_the_f_distribution(made):
  errors = made.numbers["errors"]
  seeds = made.numbers["seeds"]
  for count, p in traces.probabilities(made.numbers, "xtrace").items():
    ratio = (errors["hutchinson"][count] / errors["xtrace"][count]) ** 2
    tail = scipy.stats.f(seeds, seeds).sf(ratio)
    assert p == pytest.approx(2 * min(tail, 1 - tail), rel=1e-6)
