"""Pictures of spectra and of training curves."""

import shutil

import numpy as np
import pytest

from tf_hessian.experiments import pictures
from tf_hessian.spectrum import Spectrum


@pytest.fixture
def runs(tmp_path):
  """Two folders with logs."""
  rows = {
    "a": "step,loss,excess,test_loss\n4,2.0,1.5,\n8,1.0,0.5,3.0\n",
    "b": "step,loss,excess\n4,3.0,2.5\n8,2.5,2.0\n12,2.75,2.25\n",
  }
  for name, text in rows.items():
    (tmp_path / name).mkdir()
    (tmp_path / name / "train.csv").write_text(text)
  return [str(tmp_path / "a"), f"second={tmp_path / 'b'}"]


def test_values_are_printed_and_drawn(runs, tmp_path):
  text = pictures.draw_curves(runs, tmp_path / "loss.png")
  assert "a: step 4 2, step 8 1, smallest 1 at step 8" in text
  assert "second: step 4 3, step 12 2.75, smallest 2.5 at step 8" in text
  assert (tmp_path / "loss.png").stat().st_size > 1000


def test_column_is_drawn_where_there_are_values(runs, tmp_path):
  assert "a: step 8 3, step 8 3" in pictures.draw_curves(
    runs[:1], tmp_path / "c.png", column="test_loss", log=True
  )


def test_column_that_a_run_does_not_have_is_refused(runs, tmp_path):
  with pytest.raises(ValueError, match="b: its log has no column 'test_loss'; there are excess"):
    pictures.draw_curves(runs, tmp_path / "c.png", column="test_loss")


def test_no_runs_are_refused(tmp_path):
  with pytest.raises(ValueError, match="at least one folder"):
    pictures.draw_curves([], tmp_path / "c.png")


# Spectra.


@pytest.fixture
def spectra(tmp_path):
  """Two files of spectra."""
  rng = np.random.default_rng(0)
  for name in "ab":
    Spectrum(
      diagonals=(rng.standard_normal(6),),
      off_diagonals=(rng.random(5),),
      residuals=np.zeros(1),
      statuses=("COMPLETE",),
      num_parameters=20,
    ).save(tmp_path / f"{name}.npz")
  return [f"{name}={tmp_path / name}.npz" for name in "ab"]


def test_spectra_are_drawn_one_below_the_other(spectra, tmp_path):
  pictures.draw_spectra(spectra, tmp_path / "both.png", sigma_squared=1e-2, limits=["-1", "1"])
  assert (tmp_path / "both.png").stat().st_size > 1000


def test_spectra_without_names_are_refused(spectra, tmp_path):
  files = [s.partition("=")[2] for s in spectra]
  with pytest.raises(ValueError, match="expected name=path for each of several"):
    pictures.draw_spectra(files, tmp_path / "both.png")


def test_exact_eigenvalues_of_several_spectra_are_refused(spectra, tmp_path):
  with pytest.raises(ValueError, match="exact: is for a single spectrum"):
    pictures.draw_spectra(spectra, tmp_path / "both.png", exact=np.zeros(3))


@pytest.mark.parametrize(
  "limits, message",
  [(["1"], "limits: expected two numbers low,high, got 1"), (["low", "high"], "limits: expected")],
)
def test_limits_that_are_no_two_numbers_are_refused(spectra, tmp_path, limits, message):
  with pytest.raises(ValueError, match=message):
    pictures.draw_spectra(spectra[:1], tmp_path / "a.png", limits=limits)
  assert not (tmp_path / "a.png").exists()


def test_file_that_is_not_there_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"none\.npz"):
    pictures.draw_spectra([str(tmp_path / "none.npz")], tmp_path / "a.png")


@pytest.mark.parametrize(
  "limits, message",
  [
    (["nan", "1"], "finite numbers"),
    (["1", "-1"], "in this order"),
    (["1", "1"], "in this order"),
    (["0", "inf"], "finite numbers"),
    (["a", "b"], "two numbers"),
    (["1"], "two numbers"),
  ],
)
def test_limits_that_are_none_are_refused(limits, message):
  with pytest.raises(ValueError, match=f"^limits: .*{message}"):
    pictures.draw_spectra(["none.npz"], "none.png", limits=limits)


# Exact eigenvalues.


def test_exact_eigenvalues_are_read(tmp_path):
  np.save(tmp_path / "exact.npy", np.array([1, 2, 3]))
  found = pictures.read_eigenvalues(tmp_path / "exact.npy")
  assert found.tolist() == [1.0, 2.0, 3.0] and found.dtype == np.float64


@pytest.mark.parametrize("name", ["none.npy", "folder"])
def test_exact_eigenvalues_that_can_not_be_read_are_named(tmp_path, name):
  (tmp_path / "folder").mkdir()
  with pytest.raises(OSError, match=f"exact: {tmp_path / name}: it can't be read"):
    pictures.read_eigenvalues(tmp_path / name)


@pytest.mark.parametrize(
  "values",
  [np.eye(3), np.array(3.0), np.array([1j]), np.array(["a"]), np.array([1, np.nan]), np.empty(0)],
)
def test_what_is_no_row_of_eigenvalues_is_refused(tmp_path, values):
  np.save(tmp_path / "exact.npy", values)
  with pytest.raises(ValueError, match="exact.npy: expected .*eigenvalues"):
    pictures.read_eigenvalues(tmp_path / "exact.npy")


@pytest.mark.parametrize("content", [b"", b"text", b"\x93NUMPY", bytes(range(256))])
def test_other_files_than_eigenvalues_are_refused(tmp_path, content):
  (tmp_path / "exact.npy").write_bytes(content)
  with pytest.raises(ValueError, match="exact.npy: expected an array of np.save"):
    pictures.read_eigenvalues(tmp_path / "exact.npy")


def test_runs_of_one_name_are_refused(runs, tmp_path):
  first = runs[0]
  with pytest.raises(ValueError, match="another name for each, got .* twice: give name=path"):
    pictures.draw_curves([str(first), str(first)], tmp_path / "curves.png")
  with pytest.raises(ValueError, match="got 'a' twice"):
    pictures.draw_curves([f"a={first}", f"a={first}"], tmp_path / "curves.png")


@pytest.mark.parametrize("named", [False, True])
def test_folder_may_have_an_equals_sign(runs, tmp_path, named):
  first = runs[0]
  folder = tmp_path / "lr=0.1"
  shutil.copytree(first, folder)
  said = pictures.draw_curves([f"a={folder}" if named else str(folder)], tmp_path / "curves.png")
  assert said.startswith("a: " if named else "lr=0.1: ")


def test_spectra_of_one_name_are_refused(spectra, tmp_path):
  with pytest.raises(ValueError, match="got 'a' twice"):
    pictures.draw_spectra([spectra[0]] * 2, tmp_path / "picture.png")
