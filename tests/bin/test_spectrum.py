"""The command that measures, also when it is interrupted and killed."""

import json
import pathlib
import resource

import numpy as np
import pytest

from tf_hessian.spectrum import Spectrum

CONFIG = "--config=configs/synthetic_quadratic.py"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """The folder that the model is trained and measured in."""
  return tmp_path_factory.mktemp("spectrum") / "quadratic"


@pytest.fixture(scope="module")
def measured(run, workdir):
  """The finished measurement of what was trained."""
  here = CONFIG, f"--workdir={workdir}"
  trained = run("train", *here)
  assert trained.returncode == 0, trained.stderr
  return run("spectrum", *here, "--config.lanczos.draws=3", really=True)


@pytest.fixture(scope="module")
def afterwards(measured, run_all, workdir, tmp_path_factory):
  """What commands said that were given once the folder was finished: a dict."""
  assert measured.returncode == 0, measured.stderr
  none = tmp_path_factory.mktemp("afterwards") / "none"
  here = f"--workdir={workdir}"
  return run_all(
    {
      "again": ("spectrum", CONFIG, here, "--config.lanczos.draws=3"),
      "other steps": ("spectrum", CONFIG, here, "--config.lanczos.steps=30"),
      "no checkpoint": ("spectrum", CONFIG, f"--workdir={none}"),
    }
  )


def test_measurement_ends_well(measured):
  assert measured.returncode == 0, measured.stderr


@pytest.mark.parametrize("name", ["spectrum.npz", "spectrum.json", "spectrum.png", "run.json"])
def test_output_is_there(measured, workdir, name):
  assert measured.returncode == 0
  assert (workdir / "spectrum" / name).stat().st_size > 0


def test_report_has_the_largest_eigenvalues(measured):
  line = next(x for x in measured.stdout.splitlines() if x.startswith("largest"))
  found = [float(x) for x in line.split()[-10:]]
  np.testing.assert_allclose(found[:3], [5, 2, 1], rtol=1e-5)
  assert found[3] < 0.1001


@pytest.mark.parametrize("word", ["smallest", "trace", "loss", "spectrum.png"])
def test_report_has_the_other_numbers(measured, word):
  assert word in measured.stdout


@pytest.mark.usefixtures("measured")
def test_result_records_the_config(workdir):
  config = Spectrum.load(workdir / "spectrum" / "spectrum.npz").config
  assert "MeanSquaredError" in json.dumps(config)
  assert config["lanczos_steps"] == 40


def test_second_start_gives_the_same_report(afterwards, measured):
  assert afterwards["again"].returncode == 0
  assert afterwards["again"].stdout == measured.stdout


def test_second_start_says_that_nothing_is_left(afterwards):
  said = afterwards["again"].stderr
  assert "already" in said or "finished" in said
  assert "products" not in said


def test_folder_of_other_steps_is_refused(afterwards, workdir):
  done = afterwards["other steps"]
  assert done.returncode == 1
  assert "lanczos_steps: 40 there, 30 now" in done.stderr
  assert str(workdir) in done.stderr
  assert "Traceback" not in done.stderr


def test_missing_checkpoint_is_named(afterwards):
  done = afterwards["no checkpoint"]
  assert done.returncode == 1
  assert "none/model.keras: there is no such checkpoint; train the model first" in done.stderr
  assert "Traceback" not in done.stderr


# Interrupted and killed.


@pytest.mark.slow
def test_kills_hit_a_run_in_progress(killed):
  assert len(killed[2]) == 3


@pytest.mark.slow
def test_killed_run_ends_with_bitwise_the_same_tridiagonal_matrices(killed):
  whole, disturbed = (Spectrum.load(folder / "spectrum.npz") for folder in killed[:2])
  assert whole.num_draws == disturbed.num_draws == 18
  for a, b in zip(whole.tridiagonals, disturbed.tridiagonals, strict=True):
    assert a.tobytes() == b.tobytes()
  np.testing.assert_array_equal(whole.residuals, disturbed.residuals)
  assert whole.statuses == disturbed.statuses


@pytest.mark.slow
def test_killed_run_goes_on_after_its_last_step(killed):
  assert killed[2] == sorted(set(killed[2]))


@pytest.mark.slow
def test_run_that_memory_has_ended_goes_on_to_bitwise_the_same_result(
  killed, start_long, finish, run, long, tmp_path
):
  process = start_long(tmp_path)
  folder = tmp_path / "spectrum_initial"
  size = int(pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[0])
  # Less than it has: the next file that is mapped, or the next thread, fails.
  limit = size * resource.getpagesize() - 10**9
  resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, limit))
  ended = finish(process)
  assert ended.returncode not in (0, None)
  assert not (folder / "spectrum.npz").exists() and list(folder.glob("*_000.npz"))
  if ended.returncode == 1:  # TensorFlow's own threads abort instead
    assert "error: out of memory" in ended.stderr and "--vectors_per_pass=1" in ended.stderr
  last = run("spectrum", *long(tmp_path))
  assert last.returncode == 0, last.stderr
  whole, found = (Spectrum.load(f / "spectrum.npz") for f in (killed[1], folder))
  for a, b in zip(whole.tridiagonals, found.tridiagonals, strict=True):
    assert a.tobytes() == b.tobytes()


@pytest.mark.slow
def test_interrupted_run_says_how_to_go_on(killed):
  done = killed[3]
  assert done.returncode == 1
  assert "interrupted; the same command goes on from here" in done.stderr
  assert "Traceback" not in done.stderr
