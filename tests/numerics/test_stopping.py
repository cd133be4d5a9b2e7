"""When a run has enough steps and enough draws, against densities computed directly."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from tf_hessian.numerics.lanczos import Lanczos
from tf_hessian.numerics.probes import probe
from tf_hessian.numerics.quadrature import gauss_quadrature
from tf_hessian.numerics.stopping import FIRST_DRAWS, WINDOW, Reached, Target, last_change

N, SIGMA_SQUARED = 60, 0.01
# Where any density of the matrix below is, at 40 points a sigma: the trapezoid rule is within 1e-3
# of an L1 distance, whose integrand has kinks.
GRID = np.linspace(-2.2, 2.2, 1761)
MARGIN = 1e-2


@pytest.fixture(scope="module")
def draws():
  """Tridiagonal matrices (diagonal, off-diagonal) of 6 draws of 40 steps on one matrix."""
  a = np.random.default_rng(0).standard_normal((N, N))
  q = np.linalg.qr(a)[0]
  h = (q * np.linspace(-1, 1, N)) @ q.T
  result = []
  for i in range(6):
    state = Lanczos.start(probe(0, i, N), 40)
    state.run(lambda v: h @ v)
    result.append(state.tridiagonal())
  return result


def direct(diagonal, off_diagonal, variance=SIGMA_SQUARED):
  """Returns the density of a tridiagonal matrix on the grid."""
  nodes, vectors = scipy.linalg.eigh_tridiagonal(diagonal, off_diagonal)
  return scipy.stats.norm.pdf(GRID[:, None], nodes, np.sqrt(variance)) @ vectors[0] ** 2


def change(diagonal, off_diagonal, m):
  """Returns the L1 distance of the densities after m - 10 and after m steps."""
  first, second = (
    direct(diagonal[:k], off_diagonal[: k - 1], SIGMA_SQUARED) for k in (m - WINDOW, m)
  )
  return np.trapezoid(np.abs(first - second), GRID)


def direct_stderr(draws, variance=SIGMA_SQUARED):
  samples = np.array([direct(*d, variance) for d in draws])
  return np.trapezoid(samples.std(axis=0, ddof=1) / np.sqrt(len(draws)), GRID)


def rules(draws):
  return [gauss_quadrature(*d) for d in draws]


@pytest.mark.parametrize("m", [20, 30, 40])
@pytest.mark.parametrize("draw", [0, 1])
def test_steps_are_enough_once_the_last_ten_change_the_density_less_than_the_target(draws, draw, m):
  diagonal, off_diagonal = draws[draw]
  distance = change(diagonal, off_diagonal, m)
  leading = diagonal[:m], off_diagonal[: m - 1]
  assert Target(distance * (1 + MARGIN), SIGMA_SQUARED).enough_steps(*leading)
  assert not Target(distance * (1 - MARGIN), SIGMA_SQUARED).enough_steps(*leading)


def test_change_of_the_density_falls_with_the_steps(draws):
  changes = [change(*draws[0], m) for m in (20, 30, 40)]
  assert changes[0] > 3 * changes[1] > 9 * changes[2]


@pytest.mark.parametrize("m", [1, 2, 9, 10, 11, 19, 21, 25, 29, 39])
def test_steps_are_looked_at_in_tens_and_never_before_twenty(draws, m):
  diagonal, off_diagonal = draws[0]
  assert not Target(3.0, SIGMA_SQUARED).enough_steps(diagonal[:m], off_diagonal[: m - 1])


@pytest.mark.parametrize("count", [2, 4, 6])
def test_stderr_is_the_integral_of_the_standard_error(draws, count):
  found = Target(0.1, SIGMA_SQUARED).stderr(rules(draws[:count]))
  assert found == pytest.approx(direct_stderr(draws[:count]), rel=1e-3)


def test_relative_variance_is_multiplied_by_the_range(draws):
  nodes = [q.nodes for q in rules(draws)]
  spread = np.mean([t[-1] - t[0] for t in nodes]) + 0.02
  found = Target(0.1, SIGMA_SQUARED, relative=True).stderr(rules(draws))
  assert found == pytest.approx(direct_stderr(draws, SIGMA_SQUARED * spread), rel=1e-3)
  assert found < 0.9 * Target(0.1, SIGMA_SQUARED).stderr(rules(draws))


def test_stderr_of_a_single_draw_is_not_known(draws):
  assert np.isnan(Target(0.1, SIGMA_SQUARED).stderr(rules(draws[:1])))


@pytest.mark.parametrize("count", range(FIRST_DRAWS))
@pytest.mark.parametrize("most", [1, 3, 4, 100])
def test_first_draws_are_not_fewer_than_four(draws, count, most):
  expected = min(FIRST_DRAWS, most)
  assert Target(10.0, SIGMA_SQUARED).next_draws(rules(draws[:count]), most) == expected


@pytest.mark.parametrize("count", [4, 5, 6])
def test_no_draw_is_added_once_the_error_is_reached(draws, count):
  error = direct_stderr(draws[:count]) * (1 + MARGIN)
  assert Target(error, SIGMA_SQUARED).next_draws(rules(draws[:count]), 100) == count


@pytest.mark.parametrize("count", [4, 6])
@pytest.mark.parametrize("factor", [1.3, 2.0, 3.7])
def test_draws_grow_with_the_square_of_the_error(draws, count, factor):
  target = Target(direct_stderr(draws[:count]) / factor, SIGMA_SQUARED)
  found = target.next_draws(rules(draws[:count]), 1000)
  assert found == pytest.approx(count * factor**2, rel=0.01, abs=1)
  # With so many, each like these, the error is reached.
  assert direct_stderr(draws[:count]) * np.sqrt(count / found) <= target.error * (1 + MARGIN)


def test_one_draw_is_added_at_least(draws):
  error = direct_stderr(draws[:4]) * (1 - MARGIN)
  assert Target(error, SIGMA_SQUARED).next_draws(rules(draws[:4]), 100) == 5


@pytest.mark.parametrize("most", [4, 5, 6, 50])
def test_draws_are_never_more_than_allowed(draws, most):
  assert Target(1e-6, SIGMA_SQUARED).next_draws(rules(draws[:4]), most) == most


def test_more_draws_than_allowed_are_cut_to_those(draws):
  assert Target(1e-6, SIGMA_SQUARED).next_draws(rules(draws), 5) == 5


@pytest.mark.parametrize("error", [0, 0.0, -0.1, np.nan, np.inf, "0.1", True, None])
def test_error_that_is_no_number_above_zero_is_refused(error):
  with pytest.raises(ValueError, match="target_error: expected a finite number above 0, got"):
    Target(error)


@pytest.mark.parametrize("variance", [0, -1e-5, np.nan])
def test_variance_that_is_no_number_above_zero_is_refused(variance):
  with pytest.raises(ValueError, match="sigma_squared: expected a finite number above 0, got"):
    Target(0.1, variance)


@pytest.mark.parametrize("steps", [0, 1, WINDOW])
def test_change_of_too_few_steps_is_refused(steps):
  with pytest.raises(ValueError, match=f"expected more than 10, got {steps}"):
    last_change(np.zeros(steps), np.zeros(max(0, steps - 1)), SIGMA_SQUARED)


@pytest.mark.parametrize("m", [11, 14])
def test_change_is_the_distance_between_the_densities_before_and_after(draws, m):
  diagonal, off_diagonal = draws[0]
  expected = change(diagonal, off_diagonal, m)
  assert expected > MARGIN
  found = last_change(diagonal[:m], off_diagonal[: m - 1], SIGMA_SQUARED)
  assert found == pytest.approx(expected, abs=MARGIN * expected)


def test_change_of_several_draws_is_the_mean_of_theirs_and_zero_of_invariant_spaces(draws):
  given = [(d[:14], e[:13], False) for d, e in draws[:2]] + [(*draws[2], True)]
  expected = np.mean([*(last_change(d, e, SIGMA_SQUARED) for d, e, _ in given[:2]), 0.0])
  assert Target(0.1, SIGMA_SQUARED).change(given) == pytest.approx(expected, rel=1e-12)


def test_change_is_not_known_if_a_draw_has_too_few_steps(draws):
  few = draws[1][0][:WINDOW], draws[1][1][: WINDOW - 1], False
  assert Target(0.1, SIGMA_SQUARED).change([(*draws[0], False), few]) == np.inf


# The judgement.


def judge(draws, error, *, steps=40, invariant=False):
  rules = [(d[:steps], e[: steps - 1], invariant) for d, e in draws]
  return Target(error, SIGMA_SQUARED).judge(iter(rules))


def test_judgement_has_both_errors_and_what_they_took(draws):
  found = judge(draws[:4], 0.1, steps=14)
  assert found.stderr == pytest.approx(
    direct_stderr([(d[:14], e[:13]) for d, e in draws[:4]]), 1e-3
  )
  expected = np.mean([change(d, e, 14) for d, e in draws[:4]])
  assert found.change == pytest.approx(expected, rel=MARGIN)
  assert (found.error, found.draws, found.products, found.saved) == (0.1, 4, 4 * 14, 900 - 4 * 14)


@pytest.mark.parametrize(
  "stderr, change, missing",
  [
    (0.1, 0.1, ()),
    (0.0, 0.0, ()),
    (0.2, 0.01, ("draws",)),
    (np.nextafter(0.1, 1), 0.1, ("draws",)),
    (0.01, 0.2, ("steps",)),
    (0.01, np.inf, ("steps",)),
    (0.2, 0.2, ("draws", "steps")),
    (np.nan, 0.01, ("draws",)),  # a single draw
    (np.nan, np.inf, ("draws", "steps")),
  ],
)
def test_target_is_reached_if_both_errors_are_at_most_its_own(stderr, change, missing):
  found = Reached(0.1, stderr, change, 4, 40)
  assert (found.missing, found.reached) == (missing, not missing)


def test_target_is_judged_reached_at_the_errors_that_its_draws_have(draws):
  found = judge(draws, 1.0)
  largest = max(found.stderr, found.change)
  assert judge(draws, largest).reached
  assert not judge(draws, largest * (1 - 1e-9)).reached


def test_invariant_spaces_have_no_change(draws):
  assert judge(draws, 0.1, steps=5, invariant=True).change == 0.0


def test_few_steps_and_a_single_draw_are_not_judged_to_be_enough(draws):
  assert judge(draws[:1], 10.0, steps=WINDOW).missing == ("draws", "steps")


def test_no_draw_is_refused():
  with pytest.raises(ValueError, match="expected at least one draw"):
    Target(0.1).judge([])


@pytest.mark.parametrize("steps", [8, 14])
def test_judgement_goes_on_record_and_comes_back(draws, steps):
  found, target = judge(draws, 0.1, steps=steps), Target(0.1, SIGMA_SQUARED)
  record = dataclasses.asdict(target) | found.to_dict()
  assert found.to_dict() == {
    "stderr": found.stderr,
    "change": None if steps == 8 else found.change,
    "reached": False,
    "products": 6 * steps,
    "saved": 900 - 6 * steps,
  }
  back = json.loads(json.dumps(record, allow_nan=False))
  assert Reached.from_dict(back, len(draws)) == found


@pytest.mark.parametrize(
  "stderr, change, remedy",
  [
    (0.2, 0.01, "NOT reached: allow more draws:"),
    (0.01, 0.2, "NOT reached: allow more steps:"),
    (0.01, np.inf, "NOT reached: allow more steps:"),
    (0.2, 0.2, "NOT reached: allow more draws and steps:"),
    (0.1, 0.1, "reached:"),
  ],
)
def test_sentence_says_what_is_missing(stderr, change, remedy):
  assert str(Reached(0.1, stderr, change, 4, 40)).startswith(f"0.1 {remedy} L1 standard error ")


def test_sentence_has_all_numbers():
  assert str(Reached(0.08, 0.0712, 0.0123, 5, 225)) == (
    "0.08 reached: L1 standard error 0.0712 of 5 draws, change 0.0123 by the last 10 steps; "
    "225 products, 675 (75 %) fewer than 10 draws of 90 steps"
  )
  more = str(Reached(0.08, np.nan, np.inf, 1, 990))
  assert "nan of 1 draw, change inf" in more
  assert more.endswith("990 products, 90 (10 %) more than 10 draws of 90 steps")
