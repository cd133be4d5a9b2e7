"""A density run whose processes are killed at random; longer as `make chaos`."""

import pytest

from benchmarks import chaos

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
  """Returns (undisturbed run with one worker, run with kills)."""
  size = {"draws": 3, "steps": 20}
  calm = chaos.undisturbed(tmp_path_factory.mktemp("calm"), **size)
  folder = tmp_path_factory.mktemp("wild")
  wild = chaos.disturbed(folder, workers=3, worker_kills=6, chief_kills=2, seed=1, **size)
  return calm, wild


def test_processes_were_killed_in_the_middle_of_the_run(outcomes):
  _, wild = outcomes
  assert (wild.worker_kills, wild.chief_kills) == (6, 2)
  assert all(0 < step < 60 for _, step in wild.killed_at)


def test_tridiagonals_are_bitwise_those_of_an_undisturbed_run_with_one_worker(outcomes):
  calm, wild = outcomes
  assert len(calm.tridiagonals) == 3
  assert all(len(diagonal) == 20 for diagonal, _ in calm.tridiagonals)
  assert chaos.equal(calm, wild)
