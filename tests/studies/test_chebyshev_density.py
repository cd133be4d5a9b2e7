"""Figure 17: Chebyshev polynomials in the place of Gauss quadrature."""

import numpy as np
from numpy.polynomial import chebyshev as np_chebyshev
import pytest

from tf_hessian.numerics import probes
from tf_hessian.studies import chebyshev_density
from tf_hessian.studies.chapter import Verdict

SIGMA = 1e-5**0.5
DEGREE = 24  # and so many Lanczos steps: few enough for Lanczos to be off
SETTINGS = {"DEGREE": DEGREE, "MAX_DEGREE": 1500}


def coefficients(grid, degree, variance, center, half):
  """Returns c_j(t) of the kernel at each point, (degree + 1, g), by cosine sums.

  2,500 points: of those that are mixed with j, the coefficients are below rounding.
  """
  angles = np.pi * (np.arange(2500) + 0.5) / 2500
  x = center + half * np.cos(angles)
  cosines = np.cos(np.arange(degree + 1)[:, None] * angles) * 2 / 2500
  cosines[0] /= 2
  kernel = np.exp(-((x[:, None] - grid) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
  return cosines @ kernel


def chebyshev_moments(values, weights, degree, center, half):
  """Returns sum_i w_i T_j((lambda_i - c) / r) for j = 0 .. degree."""
  return weights @ np_chebyshev.chebvander((values - center) / half, degree)


def jackson(degree):
  """Returns the factors of Jackson's kernel, by the convolution that defines them.

  They are the autocorrelation of a half wave of the sine, which is why the kernel is positive.
  """
  wave = np.sin(np.pi * np.arange(1, degree + 2) / (degree + 2))
  correlation = np.correlate(wave, wave, "full")[degree:]
  return correlation / correlation[0]


@pytest.fixture(scope="module")
def interval(eigen):
  """(center, half width) of the interval: 1 % more than the spectrum."""
  values = eigen[0]
  return (values[0] + values[-1]) / 2, 1.01 * (values[-1] - values[0]) / 2


@pytest.fixture(scope="module")
def made(context, make_study):
  """The study of Figure 17 at a low degree."""
  with pytest.MonkeyPatch.context() as patch:
    for name, value in SETTINGS.items():
      patch.setattr(chebyshev_density, name, value)
    return make_study("17", context)


@pytest.fixture(scope="module")
def grid(interval):
  """12 points a sigma, over the interval."""
  center, half = interval
  return np.linspace(center - half, center + half, int(24 * half / SIGMA))


@pytest.fixture(scope="module")
def exact(eigen, grid, gaussians):
  """The exact density."""
  n = len(eigen[0])
  return gaussians(eigen[0], np.full(n, 1 / n), grid, SIGMA**2)


@pytest.fixture(scope="module")
def polynomial(grid, interval):
  """Returns a function: moments -> their density."""
  table = coefficients(grid, 2 * DEGREE, SIGMA**2, *interval)
  return lambda moments: moments @ table[: len(moments)]


@pytest.fixture(scope="module")
def draws(small, exact_draw):
  """Nodes and weights of the exact measures of the draws."""
  starts = [probes.probe(0, i, small.n) for i in range(small.spectrum.num_draws)]
  return [exact_draw(v) for v in starts]


@pytest.fixture(scope="module")
def moments(eigen, draws, interval):
  """Moments up to 2 x DEGREE: the exact ones, and the mean over the draws."""
  n = len(eigen[0])
  of_draws = [chebyshev_moments(t, w, 2 * DEGREE, *interval) for t, w in draws]
  return {
    "exact": chebyshev_moments(eigen[0], np.full(n, 1 / n), 2 * DEGREE, *interval),
    "estimated": np.mean(of_draws, axis=0),
  }


# Figure 17. Grids differ: of |f - g|, which has kinks, the trapezoid's error is below 1 %.


@pytest.mark.parametrize(
  "name, source, degree",
  [
    ("l1_exact_moments", "exact", DEGREE),
    ("l1_estimated_moments", "estimated", DEGREE),
    ("l1_doubled_moments", "estimated", 2 * DEGREE),
  ],
)
@pytest.mark.parametrize("damped", [False, True])
def test_distance_is_that_of_the_truncated_expansion(
  made, moments, polynomial, grid, exact, l1, name, source, degree, damped
):
  mu = moments[source][: degree + 1] * (jackson(degree) if damped else 1)
  expected = l1(grid, polynomial(mu), exact)
  assert made.numbers[name + damped * "_jackson"] == pytest.approx(expected, rel=0.01)


def test_distance_of_lanczos_is_that_of_the_leading_blocks(
  made, small, leading_rule, gaussians, grid, exact, l1
):
  rules = [leading_rule(small.spectrum, i, DEGREE) for i in range(small.spectrum.num_draws)]
  mean = np.mean([gaussians(t, w, grid, SIGMA**2) for t, w in rules], axis=0)
  assert made.numbers["l1_lanczos"] == pytest.approx(l1(grid, mean, exact), rel=0.01)


def test_most_negative_value_is_that_of_the_expansion(made, moments, polynomial):
  lowest = polynomial(moments["exact"][: DEGREE + 1]).min()
  # Between two points of a grid the polynomial changes by about (degree / 450)^2.
  assert made.numbers["most_negative"] == pytest.approx(lowest, rel=0.01)
  assert lowest < 0


def test_interval_and_number_of_products_are_on_record(made, interval):
  center, half = interval
  np.testing.assert_allclose(made.numbers["interval"], [center - half, center + half], rtol=1e-12)
  assert made.numbers["products"] == 3 * DEGREE


@pytest.mark.parametrize("which", ["draw", "mean"])
def test_degree_that_is_needed_reaches_the_distance_and_the_one_before_does_not(
  made, draws, eigen, interval, grid, exact, gaussians, l1, which
):
  degree = made.numbers[f"degree_for_the_{which}"]
  if which == "draw":
    (nodes, weights), target = draws[0], made.numbers["l1_of_a_draw_lanczos"]
    truth = gaussians(nodes, weights, grid, SIGMA**2)
  else:
    nodes, weights = eigen[0], np.full(len(eigen[0]), 1 / len(eigen[0]))
    truth, target = exact, made.numbers["l1_lanczos"]
  mu = chebyshev_moments(nodes, weights, degree + 1, *interval)
  table = coefficients(grid, degree + 1, SIGMA**2, *interval)
  off = [l1(grid, mu[: d + 1] @ table[: d + 1], truth) for d in (degree - 2, degree + 1)]
  # Neighbours, for what a grid changes is about what a degree changes.
  assert off[1] <= 1.005 * target and 0.995 * target <= off[0]


def test_distance_of_a_draw_is_that_to_its_own_density(
  made, small, draws, leading_rule, gaussians, grid, l1
):
  found = gaussians(*leading_rule(small.spectrum, 0, DEGREE), grid, SIGMA**2)
  expected = l1(grid, found, gaussians(*draws[0], grid, SIGMA**2))
  assert made.numbers["l1_of_a_draw_lanczos"] == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_distance_is_right_in_an_interval_of_200_sigma(
  context, eigen, interval, gaussians, l1, monkeypatch
):
  for name, value in (SETTINGS | {"SIGMA_SQUARED": 1e-4}).items():
    monkeypatch.setattr(chebyshev_density, name, value)
  center, half = interval
  assert 18 < 2 * half / 0.01 < 434
  grid = np.linspace(center - half, center + half, 4000)
  n = len(eigen[0])
  truth = gaussians(eigen[0], np.full(n, 1 / n), grid, 1e-4)
  mu = chebyshev_moments(eigen[0], np.full(n, 1 / n), DEGREE, *interval)
  expected = l1(grid, mu @ coefficients(grid, DEGREE, 1e-4, *interval), truth)
  found = chebyshev_density.measure(context)["l1_exact_moments"]
  assert found == pytest.approx(expected, rel=0.02)


def test_figure_17_has_picture_and_table(made, context):
  assert set(made.pictures) == {"figure_17.png"}
  assert (context.out / "figure_17.png").read_bytes().startswith(b"\x89PNG")
  table = made.tables[1]
  assert {len(row) for row in table.rows} == {len(table.columns)}
  assert [float(row[2]) for row in table.rows] == pytest.approx(
    [
      made.numbers[f"l1_{name}"]
      for name in (
        "lanczos",
        "exact_moments",
        "exact_moments_jackson",
        "estimated_moments",
        "estimated_moments_jackson",
        "doubled_moments",
        "doubled_moments_jackson",
      )
    ],
    rel=5e-3,
  )


@pytest.mark.parametrize(
  "lanczos, degree, verdict",
  [(1.0, 2400, Verdict.DIFFERS), (1e-9, 2399, Verdict.DIFFERS), (1e-9, 2400, Verdict.AGREES)],
)
def test_figure_17_agrees_where_lanczos_is_better_and_many_times_the_degree_is_needed(
  made, monkeypatch, lanczos, degree, verdict
):
  for name, value in SETTINGS.items():
    monkeypatch.setattr(chebyshev_density, name, value)
  changed = {"l1_lanczos": lanczos, "degree_for_the_draw": degree, "degree_for_the_mean": 1}
  assert chebyshev_density.describe(made.numbers | changed).verdict is verdict


def test_distance_that_is_not_reached_needs_more_than_all_degrees(made):
  chapter = chebyshev_density.describe(made.numbers | {"degree_for_the_draw": None})
  assert f"needs degree {chebyshev_density.MAX_DEGREE:,};" in chapter.found


# The smallest degree.


@pytest.fixture(scope="module")
def distances(l1):
  """(moments, grid, exact density, its distance at every degree) of a random spectrum."""
  nodes = np.random.default_rng(0).uniform(-1, 1, 50)
  weights = np.full(50, 1 / 50)
  grid = np.linspace(-1, 1, 1500)
  kernel = np.exp(-((grid[:, None] - nodes) ** 2) / 0.02) / np.sqrt(0.02 * np.pi)
  exact = kernel @ weights
  mu = chebyshev_moments(nodes, weights, 60, 0, 1)
  table = coefficients(grid, 60, 0.01, 0, 1)
  found = [l1(grid, mu[: d + 1] @ table[: d + 1], exact) for d in range(61)]
  return mu, grid, exact, np.array(found)


def smallest(distances, target):
  mu, grid, exact, _ = distances
  where = {"center": 0.0, "half_width": 1.0}
  return chebyshev_density.smallest_degree(mu, grid, exact, target, where)


@pytest.mark.parametrize("target", [0.3, 0.1, 1e-3, 1e-5, 1e-7])
def test_smallest_degree_is_the_first_that_reaches_the_distance(distances, monkeypatch, target):
  monkeypatch.setattr(chebyshev_density, "SIGMA_SQUARED", 0.01)
  reached = distances[3] <= target
  first = int(np.argmax(reached))
  assert reached[first:].all()  # no ripples here
  assert smallest(distances, target) == first > 0


def test_distance_that_no_degree_reaches_has_none(distances, monkeypatch):
  monkeypatch.setattr(chebyshev_density, "SIGMA_SQUARED", 0.01)
  assert smallest(distances, 1e-20) is None


def test_degree_0_is_the_smallest_where_it_reaches_the_distance(distances, monkeypatch):
  monkeypatch.setattr(chebyshev_density, "SIGMA_SQUARED", 0.01)
  assert smallest(distances, 1.01 * distances[3][0]) == 0
