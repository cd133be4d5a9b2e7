"""The numbers that a study leaves on disk."""

import dataclasses
import json
import math

import pytest

from tf_hessian.studies import result
from tf_hessian.studies.result import Result, load, plain


@pytest.fixture
def full():
  """A result that has all fields."""
  return Result(
    "theorem",
    numbers={"l1": 0.0061, "draws": [1, 2.5], "nothing": None, "rows": [{"t": 0.5}]},
    command="python -m tf_hessian.bin.reproduce --figure=theorem",
    seconds=1.5,
    versions={"numpy": "2"},
    device="CPU",
  )


def change(path, **fields):
  """Changes fields of a saved result; None takes one away."""
  content = json.loads(path.read_text()) | fields
  path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


@pytest.fixture
def saved(full, tmp_path):
  """The file of a result."""
  full.save(tmp_path)
  return result.path(tmp_path, "theorem")


# Files.


def test_saved_result_is_read_as_it_was(full, saved):
  assert load(saved) == full


def test_result_is_one_file_named_by_its_figure(full, tmp_path):
  full.save(tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == ["figure_theorem.json"]


def test_result_that_json_cannot_hold_leaves_the_former_file(full, saved):
  with pytest.raises(TypeError):
    Result("theorem", {"x": object()}).save(saved.parent)
  assert load(saved) == full


def test_missing_file_is_an_os_error(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"figure_15\.json"):
    load(result.path(tmp_path, "15"))


def test_newer_format_is_refused(saved):
  change(saved, format_version=result.FORMAT_VERSION + 1)
  with pytest.raises(ValueError, match=r"figure_theorem\.json.*install a newer tf_hessian"):
    load(saved)


def test_newer_format_is_refused_as_such_whatever_else_it_has(saved):
  change(saved, format_version=result.FORMAT_VERSION + 1, mood="good", numbers="BETTER")
  with pytest.raises(ValueError, match="install a newer tf_hessian"):
    load(saved)


@pytest.mark.parametrize("content", ["{}", "[]", '{"format": "tf_hessian.spectrum"}'])
def test_other_kind_of_file_is_refused(saved, content):
  saved.write_text(content)
  with pytest.raises(ValueError, match=r"figure_theorem\.json.*another kind of file"):
    load(saved)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_file_that_is_no_json_is_refused_as_damaged(saved, content):
  saved.write_bytes(content)
  with pytest.raises(ValueError, match=r"figure_theorem\.json: damaged.*make the figure again"):
    load(saved)


@pytest.mark.parametrize("size", [0.3, 0.6, 0.99])
def test_file_that_was_cut_is_refused_as_damaged(saved, size):
  content = saved.read_text()
  saved.write_text(content[: int(size * len(content))])
  with pytest.raises(ValueError, match=r"figure_theorem\.json: damaged"):
    load(saved)


@pytest.mark.parametrize(
  "fields",
  [{"numbers": None}, {"numbers": [1]}, {"figure": None}, {"mood": "good"}, {"verdict": "OPEN"}],
)
def test_file_with_other_fields_is_refused_as_damaged(saved, fields):
  change(saved, **fields)
  with pytest.raises(ValueError, match=r"figure_theorem\.json: damaged"):
    load(saved)


@pytest.mark.parametrize("content", ["null", "3", "[1]"])
def test_json_that_is_no_object_is_refused_with_the_name_of_the_file(saved, content):
  saved.write_text(content)
  with pytest.raises(ValueError, match=r"figure_theorem\.json"):
    load(saved)


def test_version_that_is_no_number_is_refused_with_the_name_of_the_file(saved):
  change(saved, format_version="1")
  with pytest.raises(ValueError, match=r"figure_theorem\.json"):
    load(saved)


def test_file_holds_numbers_and_what_made_them_alone(saved):
  about = {"figure", "numbers", "command", "seconds", "versions", "device"}
  assert set(json.loads(saved.read_text())) == about | {"format", "format_version"}


@pytest.mark.parametrize(
  "numbers, expected",
  [
    ({1: 2, 0.5: 3.25}, {"1": 2, "0.5": 3.25}),
    ({"a": (1, 2.5), "b": [(3,)]}, {"a": [1, 2.5], "b": [[3]]}),
    ({"a": math.nan, "b": [math.inf, -math.inf]}, {"a": None, "b": [None, None]}),
  ],
)
def test_plain_numbers_are_those_that_a_file_gives_back(tmp_path, numbers, expected):
  assert plain(numbers) == plain(plain(numbers)) == expected
  Result("15", plain(numbers)).save(tmp_path)
  assert load(result.path(tmp_path, "15")).numbers == expected


def test_floats_are_read_bit_for_bit(tmp_path):
  numbers = {"x": [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, 2.0**-1074 * 3]}
  Result("15", numbers).save(tmp_path)
  assert load(result.path(tmp_path, "15")).numbers == numbers


# The format that had sentences too.

SENTENCES = {
  "title": "Title",
  "section": "B",
  "claim": "a claim.",
  "found": "something.",
  "verdict": "AGREES",
  "reason": "",
  "pictures": {"figure_1.png": "A caption"},
  "tables": [{"columns": ["eigenvalue"], "rows": [["2.3121"], ["0.8999"]], "caption": ""}],
}


@pytest.fixture
def earlier(full):
  """Returns a function: (folder, figure, fields) -> the file of a result in format 1."""

  def write(folder, figure="theorem", **fields):
    dataclasses.replace(full, figure=figure).save(folder)
    file = result.path(folder, figure)
    change(file, format_version=1, **SENTENCES | fields)
    return file

  return write


def test_earlier_format_is_read_without_its_sentences(full, earlier, tmp_path):
  assert load(earlier(tmp_path)) == full


@pytest.mark.parametrize(
  "figure, added", [("16", {"draws": 10}), ("gradient", {"eigenvalues": [2.3121, 0.8999]})]
)
def test_numbers_that_the_earlier_format_had_in_words_are_added(
  full, earlier, tmp_path, figure, added
):
  assert load(earlier(tmp_path, figure)).numbers == full.numbers | added


@pytest.mark.parametrize("fields", [{"claim": None}, {"numbers": 3}, {"mood": "good"}])
def test_damaged_file_of_the_earlier_format_is_refused(earlier, tmp_path, fields):
  with pytest.raises(ValueError, match=r"figure_theorem\.json: damaged.*make the figure again"):
    load(earlier(tmp_path, **fields))


@pytest.mark.parametrize("tables", [[], [3], [{}], [{"rows": [["many"]]}]])
def test_earlier_table_that_has_no_eigenvalues_is_damaged(earlier, tmp_path, tables):
  with pytest.raises(ValueError, match=r"figure_gradient\.json: damaged.*make the figure again"):
    load(earlier(tmp_path, "gradient", tables=tables))
