"""Figure 16: the outliers against the exact spectrum."""

import dataclasses

import numpy as np
import pytest

from tf_hessian.numerics import probes
from tf_hessian.studies import outliers
from tf_hessian.studies.chapter import Verdict


@pytest.fixture(scope="module")
def made(context, make_study):
  """The study."""
  return make_study("16", context)


def test_outliers_are_the_eigenvalues_above_the_bulk(made, eigen):
  values = eigen[0][eigen[0] > 0.4][::-1]
  numbers = made.numbers
  np.testing.assert_allclose(numbers["outliers"], values, rtol=1e-12)
  assert numbers["mass_exact"] == pytest.approx(values.size / 163, rel=1e-12)
  assert numbers["largest_relative_error"] < 1e-12


def test_mass_of_the_outliers_is_that_of_the_draws(made, exact_draw):
  masses = []
  for i in range(3):
    values, weights = exact_draw(probes.probe(0, i, 163))
    masses.append(weights[values > 0.4].sum())
  numbers = made.numbers
  assert numbers["mass_estimated"] == pytest.approx(np.mean(masses), rel=1e-9)
  assert numbers["mass_stderr"] == pytest.approx(np.std(masses, ddof=1) / 3**0.5, rel=1e-8)


def test_draws_are_counted(made):
  assert made.numbers["draws"] == 3
  assert "each of the 3 draws" in made.found


def test_study_has_its_picture(made, context):
  assert set(made.pictures) == {"figure_16.png"}
  assert (context.out / "figure_16.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("off, verdict", [(0.0, Verdict.AGREES), (1e-5, Verdict.DIFFERS)])
def test_figure_16_agrees_where_the_outliers_are_nodes(
  context, with_model, make_study, monkeypatch, off, verdict
):
  small = context.small_model
  values = small.eigenvalues.copy()
  values[-2] += off
  other = with_model(dataclasses.replace(small, eigenvalues=values))
  monkeypatch.setattr(outliers, "draw_densities", lambda *_, **__: None)
  assert make_study("16", other).verdict is verdict


def test_network_without_outliers_is_refused(context, with_model, monkeypatch):
  small = context.small_model
  other = with_model(dataclasses.replace(small, eigenvalues=small.eigenvalues * 1e-3))
  monkeypatch.setattr(outliers, "draw_densities", lambda *_, **__: None)
  with pytest.raises(ValueError, match=r"Figure 16: this network has no eigenvalue above 0\.4"):
    outliers.measure(other)
