"""The command that draws."""

import numpy as np
import pytest

from tf_hessian.spectrum import Spectrum

MAGIC = {"png": b"\x89PNG", "pdf": b"%PDF"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder with a spectrum in both layouts and exact eigenvalues."""
  path = tmp_path_factory.mktemp("plot")
  rng = np.random.default_rng(0)
  spectrum = Spectrum(
    diagonals=tuple(rng.standard_normal(6) for _ in range(2)),
    off_diagonals=tuple(rng.random(5) for _ in range(2)),
    residuals=np.zeros(2),
    statuses=("COMPLETE",) * 2,
    num_parameters=20,
  )
  spectrum.save(path / "spectrum.npz")
  spectrum.save_original(path / "tridiag_2")
  np.save(path / "exact.npy", np.linspace(-1, 2, 20))
  return path


def plot(source, picture, *arguments):
  return "plot", f"--input={source}", f"--output={picture}", "--sigma_squared=1e-3", *arguments


@pytest.fixture(scope="module")
def outcomes(folder, run_all):
  """What the command said: a dict."""
  ours = folder / "spectrum.npz"
  (folder / "damaged.npz").write_bytes(ours.read_bytes()[:-100])
  (folder / "a, b=1.npz").write_bytes(ours.read_bytes())
  options = (f"--exact={folder / 'exact.npy'}", "--limits=-1,2", "--linear", "--relative")
  return run_all(
    {
      "pdf": plot(ours, folder / "b.pdf", *options),
      "original": plot(folder / "tridiag_2", folder / "c.png", "--num_parameters=20"),
      "damaged": plot(folder / "damaged.npz", folder / "damaged.png"),
      "comma": plot(folder / "a, b=1.npz", folder / "d.png"),
      "twice": plot(ours, folder / "twice.png", f"--input={ours}"),
      "no input": ("plot", f"--output={folder / 'no input.png'}"),
    }
  )


@pytest.mark.parametrize(
  "name, picture", [("pdf", "b.pdf"), ("original", "c.png"), ("comma", "d.png")]
)
def test_picture_is_written(outcomes, folder, name, picture):
  assert outcomes[name].returncode == 0, outcomes[name].stderr
  assert (folder / picture).read_bytes().startswith(MAGIC[picture[-3:]])
  assert str(folder / picture) in outcomes[name].stdout


@pytest.mark.parametrize(
  "name, message",
  [("damaged", "damaged.npz"), ("no input", "--input"), ("twice", "already defined")],
)
def test_mistake_is_explained_without_a_traceback(outcomes, folder, name, message):
  assert outcomes[name].returncode != 0
  assert message in outcomes[name].stderr
  assert "Traceback" not in outcomes[name].stderr
  assert not list(folder.glob(f"{name}.*[!z]"))
