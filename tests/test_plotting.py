"""Pictures are written, in the format of the suffix, whole or not at all."""

import os
import sys
import types

import numpy as np
import pytest

from tf_hessian import plotting
from tf_hessian.numerics.dense import symmetric_spectrum
from tf_hessian.spectrum import Spectrum

MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF-", "svg": b"<?xml"}
EXACT = np.linspace(-2, 6, 40)


def make(draws, num_parameters=40):
  rng = np.random.default_rng(0)
  return Spectrum(
    diagonals=tuple(rng.standard_normal(6) for _ in range(draws)),
    off_diagonals=tuple(rng.random(5) for _ in range(draws)),
    residuals=np.zeros(draws),
    statuses=("COMPLETE",) * draws,
    num_parameters=num_parameters,
  )


@pytest.fixture
def lines():
  """Returns a function: (draws, options) -> the lines that `draw_density` draws, and the axes."""

  def draw(draws=3, **options):
    axes = plotting.new_figure()[1]
    plotting.draw_density(axes, make(draws).density(1e-2), **options)
    return axes.get_lines(), axes

  return draw


def written(path):
  """Returns the content of a picture after checking its kind."""
  content = path.read_bytes()
  assert content.startswith(MAGIC[path.suffix[1:]])
  assert len(content) > 2000
  return content


@pytest.mark.parametrize("draw", [plotting.plot_spectra, plotting.plot_by_depth])
def test_picture_of_nothing_is_refused(tmp_path, draw):
  with pytest.raises(ValueError, match="spectra: expected at least one"):
    draw({}, tmp_path / "none.png")


def test_limits_without_a_density_are_refused_with_where_it_is(tmp_path):
  with pytest.raises(ValueError, match="limits: there is no density from 100 to 200; it reaches"):
    plotting.plot_spectrum(make(3), tmp_path / "none.png", sigma_squared=1e-2, limits=(100, 200))


def test_limits_of_several_pictures_may_leave_one_empty(tmp_path):
  plotting.plot_spectra(
    {"here": make(2), "elsewhere": make(3)}, tmp_path / "two.png", limits=(100, 200)
  )
  written(tmp_path / "two.png")


@pytest.mark.parametrize("exact", [EXACT[:-1], np.diag(EXACT), np.append(EXACT[1:], np.nan)])
def test_exact_eigenvalues_of_another_matrix_are_refused(tmp_path, exact):
  with pytest.raises(ValueError, match=f"exact: expected {len(EXACT)} finite eigenvalues"):
    plotting.plot_spectrum(make(3), tmp_path / "none.png", sigma_squared=1e-2, exact=exact)


@pytest.mark.parametrize("suffix", sorted(MAGIC))
@pytest.mark.parametrize("exact", [None, EXACT], ids=["estimate", "exact"])
@pytest.mark.parametrize("log", [True, False], ids=["log", "linear"])
def test_picture_has_the_format_of_its_suffix(tmp_path, suffix, exact, log):
  path = tmp_path / f"spectrum.{suffix}"
  plotting.plot_spectrum(make(3), path, sigma_squared=1e-2, exact=exact, log=log)
  written(path)


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"limits": (-1, 2)},
    {"relative": True},
    {"title": "a title"},
    {"floor": 1e-3},
    {"limits": (-1, 2), "log": False, "exact": EXACT.tolist()},
    {"exact": EXACT[::-1]},
  ],
  ids=lambda options: "-".join(options) or "default",
)
@pytest.mark.parametrize("draws", [1, 3])
def test_picture_is_written_with_options(tmp_path, draws, options):
  plotting.plot_spectrum(make(draws), tmp_path / "spectrum.png", sigma_squared=1e-3, **options)
  written(tmp_path / "spectrum.png")


def test_picture_is_written_where_n_is_not_known(tmp_path):
  plotting.plot_spectrum(make(2, None), tmp_path / "spectrum.png", sigma_squared=1e-2)
  written(tmp_path / "spectrum.png")


def test_spectrum_plots_itself_and_makes_the_folder(tmp_path):
  make(2).plot(str(tmp_path / "folder" / "spectrum.png"), sigma_squared=1e-2)
  written(tmp_path / "folder" / "spectrum.png")


def test_picture_is_the_same_twice(tmp_path):
  for name in ("a.png", "b.png"):
    make(2).plot(tmp_path / name, sigma_squared=1e-2)
  assert written(tmp_path / "a.png") == written(tmp_path / "b.png")


def test_nothing_else_is_left(tmp_path):
  make(2).plot(tmp_path / "spectrum.png", sigma_squared=1e-2)
  assert os.listdir(tmp_path) == ["spectrum.png"]


# What is drawn.


def test_line_is_the_density(lines):
  estimate = make(3).density(1e-2)
  np.testing.assert_array_equal(lines()[0][0].get_xdata(), estimate.grid)
  np.testing.assert_array_equal(lines()[0][0].get_ydata(), estimate.values)


def test_exact_density_is_a_second_line_of_mass_one(lines):
  estimate = make(3).density(1e-2)
  (_, exact), _ = lines(exact=np.full(5, np.median(estimate.grid)))
  assert np.trapezoid(exact.get_ydata(), exact.get_xdata()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("draws, bands", [(1, 0), (3, 1)])
def test_band_of_a_standard_error_needs_two_draws(lines, draws, bands):
  assert len(lines(draws)[1].collections) == bands


def test_limits_are_those_of_the_axis(lines):
  assert lines(limits=(-1, 2))[1].get_xlim() == (-1, 2)


@pytest.mark.parametrize("log, scale", [(True, "log"), (False, "linear")])
def test_density_axis_has_the_scale_asked_for(lines, log, scale):
  assert lines(log=log)[1].get_yscale() == scale


# Errors.


@pytest.mark.parametrize("name", ["spectrum.xyz", "spectrum", "spectrum."])
def test_unknown_suffix_is_refused(tmp_path, name):
  with pytest.raises(ValueError, match="(?i)format.*png"):
    make(2).plot(tmp_path / name, sigma_squared=1e-2)
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("sigma_squared", [0, -1, np.nan, np.inf, "wide"])
@pytest.mark.parametrize("exact", [None, EXACT], ids=["estimate", "exact"])
def test_bad_variance_is_refused(tmp_path, sigma_squared, exact):
  with pytest.raises(ValueError, match="sigma_squared"):
    make(2).plot(tmp_path / "spectrum.png", sigma_squared=sigma_squared, exact=exact)
  assert os.listdir(tmp_path) == []


def test_picture_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(OSError, match=str(tmp_path / "file" / "spectrum.png")):
    make(2).plot(tmp_path / "file" / "spectrum.png", sigma_squared=1e-2)


def test_exact_spectrum_is_overlaid_like_its_eigenvalues(tmp_path):
  paths = tmp_path / "a.png", tmp_path / "b.png"
  spectrum = symmetric_spectrum(np.diag(EXACT))
  for path, exact in zip(paths, (EXACT, spectrum), strict=True):
    plotting.plot_spectrum(make(3), path, sigma_squared=1e-2, exact=exact)
  assert written(paths[0]) == written(paths[1])


@pytest.mark.parametrize("name", ["plot", "plot.xyz"])
def test_unknown_suffix_is_refused_with_those_there_are(tmp_path, name):
  with pytest.raises(ValueError, match=r"expected a suffix of .*png"):
    plotting.plot_spectrum(make(3), tmp_path / name, sigma_squared=1e-2)


# Without a file.


def test_density_is_drawn_into_axes():
  _, axes = plotting.new_figure()
  assert make(2).plot(ax=axes, sigma_squared=1e-2) is axes
  assert len(axes.lines) == 1 and axes.get_xlabel() == "eigenvalue"


def test_density_in_axes_is_saved_too(tmp_path):
  _, axes = plotting.new_figure()
  make(2).plot(tmp_path / "spectrum.png", ax=axes, sigma_squared=1e-2)
  assert (tmp_path / "spectrum.png").stat().st_size > 1000


def test_notebook_shows_the_density(monkeypatch):
  shown = []
  ipython = types.SimpleNamespace(
    get_ipython=lambda: object(),
    version_info=(9, 0),
    display=types.SimpleNamespace(display=shown.append, Image=lambda data: data),
  )
  monkeypatch.setitem(sys.modules, "IPython", ipython)
  make(2).plot(sigma_squared=1e-2)
  assert len(shown) == 1 and shown[0].startswith(b"\x89PNG")


def test_script_shows_nothing(monkeypatch):
  monkeypatch.setitem(
    sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None, version_info=(9, 0))
  )
  assert make(2).plot(sigma_squared=1e-2).get_ylabel() == "density"
