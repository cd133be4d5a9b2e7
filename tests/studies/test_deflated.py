"""Isolated eigenvalues with their exact weight, against plain draws."""

import dataclasses

import numpy as np
import pytest

from tf_hessian.numerics import probes
from tf_hessian.studies import deflated
from tf_hessian.studies.chapter import Verdict

SETTINGS = {"SEEDS": 3, "DRAWS": 3, "STEPS": 50}
VARIANCE = 1e-5


@pytest.fixture(scope="module")
def cheap(context, with_model, as_operator, dense):
  """The context, with the small model's matrix in the place of its network."""
  return with_model(
    dataclasses.replace(context.small_model, operator=as_operator((dense + dense.T) / 2, None))
  )


@pytest.fixture(scope="module")
def made(cheap, make_study):
  """The study, of fewer seeds, draws and steps."""
  with pytest.MonkeyPatch.context() as patch:
    for name, value in SETTINGS.items():
      patch.setattr(deflated, name, value)
    return make_study("deflation", cheap)


def lanczos_rule(matrix, v, steps):
  """Returns nodes and weights of Lanczos with full orthogonalization."""
  basis = [v]
  for _ in range(steps - 1):
    w = matrix @ basis[-1]
    for _ in range(2):
      w -= np.array(basis).T @ (np.array(basis) @ w)
    basis.append(w / np.linalg.norm(w))
  basis = np.array(basis)
  nodes, vectors = np.linalg.eigh(basis @ matrix @ basis.T)
  return nodes, vectors[0] ** 2


@pytest.fixture(scope="module")
def rules(dense):
  """Nodes and weights of each seed's draws."""
  matrix = (dense + dense.T) / 2
  return [
    [lanczos_rule(matrix, probes.probe(seed, i, 163), 50) for i in range(3)] for seed in range(3)
  ]


@pytest.fixture(scope="module")
def known(eigen, rules):
  """The eigenvalues that are nodes of all draws of all seeds."""
  nodes = [t for draws in rules for t, _ in draws]
  return [v for v in eigen[0] if all(np.abs(t - v).min() < 1e-9 for t in nodes)]


def test_outliers_are_those_of_the_exact_spectrum(made, eigen):
  count = int(np.sum(eigen[0] > 0.4))
  assert made.numbers["outliers"] == count > 1
  assert made.numbers["mass_exact"] == pytest.approx(count / 163, rel=1e-12)


def test_plain_error_of_the_mass_is_that_of_the_draws(made, eigen, exact_draw):
  above = eigen[0] > 0.4
  masses = [
    np.mean([exact_draw(probes.probe(s, i, 163))[1][above].sum() for i in range(3)])
    for s in range(3)
  ]
  expected = np.sqrt(np.mean((np.array(masses) - above.sum() / 163) ** 2))
  assert made.numbers["plain"]["mass_error"] == pytest.approx(expected, rel=1e-6)


def test_deflated_and_projected_masses_are_exact(made):
  for name in ("deflated", "projected"):
    assert made.numbers[name]["mass_error"] < 1e-12


def test_plain_distances_are_those_of_lanczos_by_hand(made, eigen, rules, gaussians, l1):
  sigma = VARIANCE**0.5
  grid = np.arange(eigen[0][0] - 9 * sigma, eigen[0][-1] + 9 * sigma, sigma / 12)
  exact = gaussians(eigen[0], np.full(163, 1 / 163), grid, VARIANCE)
  above = grid > 0.4
  whole, outliers = [], []
  for draws in rules:
    mean = np.mean([gaussians(t, w, grid, VARIANCE) for t, w in draws], axis=0)
    whole.append(l1(grid, mean, exact))
    outliers.append(l1(grid[above], mean[above], exact[above]))
  # Of the grids: the trapezoid's error of |f - g|, which has kinks, is below 1 %.
  for key, values in (("l1", whole), ("l1_outliers", outliers)):
    mean, stderr = made.numbers["plain"][key]
    assert mean == pytest.approx(np.mean(values), rel=0.01)
    assert stderr == pytest.approx(np.std(values, ddof=1) / 3**0.5, rel=0.05)


def test_deflated_distance_above_the_threshold_is_rounding(made):
  for name in ("deflated", "projected"):
    assert made.numbers[name]["l1_outliers"][0] < 1e-9
  assert made.numbers["plain"]["l1_outliers"][0] > 1e-4


def test_gain_is_the_mean_difference(made):
  numbers = made.numbers
  gain = numbers["plain"]["l1"][0] - numbers["deflated"]["l1"][0]
  assert numbers["gain"] == pytest.approx(gain, rel=1e-9)
  assert numbers["gain_stderr"] > 0


def test_known_eigenvalues_are_at_least_those_that_all_draws_have_found(made, known):
  # A seed may know more than all seeds together.
  assert min(made.numbers["isolated_eigenvalues"]) >= 0.8 * len(known) > 5


def test_draws_pay_for_the_search_of_eigenpairs(made):
  numbers = made.numbers
  products = numbers["eigenpair_products"]
  left = numbers["draws_after_projection"]
  assert left * 50 + products <= numbers["products"] == 150 < (left + 1) * 50 + products


def test_study_has_picture_and_table(made, cheap):
  assert made.section == ""
  assert set(made.pictures) == {"figure_deflation.png"}
  assert (cheap.out / "figure_deflation.png").read_bytes().startswith(b"\x89PNG")
  (table,) = made.tables
  assert [row[0] for row in table.rows] == ["plain", "deflated", "projected"]
  assert {len(row) for row in table.rows} == {len(table.columns)}


def test_study_agrees_where_deflation_is_better(made):
  assert made.verdict is Verdict.AGREES


def test_study_differs_where_deflation_changes_nothing(cheap, make_study, monkeypatch):
  for name, value in SETTINGS.items():
    monkeypatch.setattr(deflated, name, value)
  original = deflated.deflation.deflate

  def useless(quadratures, residuals, n):
    found = original(quadratures, residuals, n)
    return dataclasses.replace(found, quadratures=quadratures)

  monkeypatch.setattr(deflated.deflation, "deflate", useless)
  monkeypatch.setattr(deflated, "_draw", lambda *_: None)
  study = make_study("deflation", cheap)
  assert study.verdict is Verdict.OPEN
  assert study.numbers["gain"] == 0


def test_theory_of_the_mass_is_that_of_gaussian_start_vectors(made, eigen, monkeypatch):
  monkeypatch.setattr(deflated, "DRAWS", 3)
  # A weight of a unit vector is chi-square of one degree over n: its variance is 2 / n^2.
  expected = np.sqrt(2 * np.sum(eigen[0] > 0.4) / 3) / 163
  text = deflated.describe(made.numbers).found.split("(theory ")[1].split(")")[0]
  assert float(text) == pytest.approx(expected, rel=0.05)  # two digits
