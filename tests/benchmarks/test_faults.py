"""Damages of what runs and trainings leave on disk, of every kind and at random."""

import random
import shutil

import pytest

from benchmarks.faults import damages, folders, outcomes
from benchmarks.faults.trials import Trials


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  return folders.Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
  return folders.Trainings(tmp_path_factory.mktemp("trainings"))


def bad_outcomes(folders, cases, scratch, seed=1):
  """Returns case -> what became of it, of those that did not end well."""
  result = {}
  for number, case in enumerate(cases):
    empty = scratch / str(number)
    empty.mkdir()
    outcome = outcomes.damaged(folders, case, empty, random.Random(number), seed=seed)
    shutil.rmtree(empty)
    if outcome not in outcomes.GOOD:
      result[str(case)] = outcome
  return result


FILES = ("run.json", "draw_000.npz", "step_001.npz", "basis_001", "lock")


@pytest.mark.parametrize("file", FILES)
def test_damaged_file_of_a_run_is_survived_or_named(runs, tmp_path, file):
  cases = [c for c in outcomes.cases(runs) if (c.state, c.file) == ("half", file)]
  assert len(cases) >= len(damages.ANY)
  assert not bad_outcomes(runs, cases, tmp_path)


def test_every_file_of_a_run_is_damaged(runs):
  assert {c.file for c in outcomes.cases(runs) if c.state == "half"} == set(FILES)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("folders", ["runs", "trainings"])
def test_damaged_file_is_survived_or_named(request, tmp_path, folders, seed):
  folders = request.getfixturevalue(folders)
  assert not bad_outcomes(folders, outcomes.cases(folders), tmp_path, seed)


@pytest.mark.parametrize("name", outcomes.USERS)
def test_folder_of_the_users_is_refused_and_left_as_it_is(runs, tmp_path, name):
  assert outcomes.users_folder(runs, [name], tmp_path) == "refused by name"


@pytest.mark.slow
@pytest.mark.parametrize("name", outcomes.USERS)
def test_folder_of_the_users_is_not_trained_in(trainings, tmp_path, name):
  assert outcomes.users_folder(trainings, [name], tmp_path) == "refused by name"


@pytest.mark.parametrize("number", [0, 2, 5, 11])
@pytest.mark.parametrize("call", ["replace", "unlink"])
def test_run_that_was_killed_goes_on(runs, tmp_path, call, number):
  assert outcomes.killed(runs, call, number, tmp_path) == "survived"


@pytest.mark.slow
@pytest.mark.parametrize("call", outcomes.CALLS)
def test_run_that_was_killed_at_any_call_goes_on(runs, tmp_path, call):
  for number in range(30):
    scratch = tmp_path / str(number)
    scratch.mkdir()
    assert outcomes.killed(runs, call, number, scratch) == "survived", number


def test_trials_at_random_end_well(tmp_path):
  trials = Trials(tmp_path, 0, training=0.0)
  for _ in range(30):
    trials.one()
  assert not trials.bad
  assert trials.report().startswith("tried 30, survived ")


@pytest.mark.slow
def test_trials_of_trainings_end_well(tmp_path):
  trials = Trials(tmp_path, 1, training=0.5)
  for _ in range(60):
    trials.one()
  assert not trials.bad


# That the trials notice what they are for.


def broken(outcome):
  """Returns something like `Runs` that has lost, believed or raised something."""

  class Broken:
    def again(self, workdir, _=1):
      if outcome == "lost":
        (workdir / "notes.txt").unlink()
      if outcome == "tracebacks":
        raise KeyError("alphas")
      if outcome == "hangs":
        raise outcomes.HangError
      return outcome == "survived"

  return Broken()


@pytest.mark.parametrize("outcome", outcomes.BAD)
def test_trial_that_ends_badly_is_noticed(tmp_path, outcome):
  assert outcomes.users_folder(broken(outcome), ["notes.txt"], tmp_path) == outcome


def test_error_that_names_no_path_is_a_traceback(tmp_path):
  class Vague:
    def again(self, *_):
      raise ValueError("something is wrong")

  assert outcomes.users_folder(Vague(), ["notes.txt"], tmp_path) == "tracebacks"
