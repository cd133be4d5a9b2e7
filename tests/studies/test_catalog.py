"""The list of studies, and results in words."""

import inspect
import pathlib

import pytest

from tf_hessian.studies import catalog
from tf_hessian.studies.chapter import Verdict
from tf_hessian.studies.result import Result, load, path


@pytest.fixture(params=catalog.STUDIES)
def committed(request, root):
  """A result of docs/figures."""
  return load(path(root / "docs" / "figures", request.param))


@pytest.mark.parametrize("name", catalog.STUDIES)
def test_study_measures_a_context_and_describes_numbers(name):
  module = catalog.module(name)
  assert list(inspect.signature(module.measure).parameters) == ["context"]
  assert list(inspect.signature(module.describe).parameters) == ["numbers"]
  assert module.measure.__doc__ and module.describe.__doc__


def test_studies_have_a_module_each(root):
  names = list(catalog.STUDIES.values())
  assert len(set(names)) == len(names)
  known = {p.stem for p in (root / "tf_hessian" / "studies").glob("*.py")}
  assert set(names) <= known


def test_module_that_describes_is_listed(root):
  files = (root / "tf_hessian" / "studies").glob("*.py")
  found = {p.stem for p in files if "\ndef describe(numbers" in p.read_text()}
  assert found == set(catalog.STUDIES.values())


def test_names_of_studies_stand_in_one_list(root):
  for file in ("tf_hessian/bin/reproduce.py", "tf_hessian/studies/document.py"):
    text = pathlib.Path(root, file).read_text()
    assert not [n for n in catalog.STUDIES if f'"{n}"' in text or f", {n}," in text]


def test_figures_that_need_cifar_are_made_last():
  small = {"19", "swap", "batch_norm", "accuracy", "stationary_resnet"}
  assert set(catalog.NEED_CIFAR) == small | {"resnet32", "first_runs"}
  order = catalog.making_order()
  assert sorted(order) == sorted(catalog.STUDIES)
  count = len(catalog.NEED_CIFAR)
  assert tuple(order[-count:]) == catalog.NEED_CIFAR
  assert order[:-count] == [n for n in catalog.STUDIES if n not in catalog.NEED_CIFAR]


def test_result_of_another_version_has_a_chapter_by_its_name():
  chapter = catalog.describe(Result("zebra", {"x": 1}))
  assert chapter.title == "Figure zebra" and chapter.verdict is Verdict.OPEN
  assert "figure_zebra.json" in chapter.found


@pytest.mark.parametrize("name", catalog.STUDIES)
@pytest.mark.parametrize("numbers", [{}, {"monte_carlo": 3}])
def test_numbers_of_something_else_are_refused_by_name(name, numbers):
  with pytest.raises(ValueError, match=rf"figure_{name}\.json: .*make the figure again"):
    catalog.describe(Result(name, numbers))


def test_committed_numbers_are_needed(committed):
  """Without any one of the numbers, a chapter is the same or refused: never another."""
  chapter = catalog.describe(committed)
  needed = 0
  for key in committed.numbers:
    left = {k: v for k, v in committed.numbers.items() if k != key}
    try:
      assert catalog.describe(Result(committed.figure, left)) == chapter
    except ValueError as e:
      assert "make the figure again" in str(e)
      needed += 1
  assert needed


def test_number_that_is_not_known_is_described_as_such(root):
  result = load(path(root / "docs" / "figures", "17"))
  unknown = Result("17", result.numbers | {"degree_for_the_draw": None})
  assert "needs degree 20,000" in catalog.describe(unknown).found
