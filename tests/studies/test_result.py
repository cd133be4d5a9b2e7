"""What a study leaves on disk, and its numbers as text."""

import json

import numpy as np
import pytest

from tf_hessian.studies import result
from tf_hessian.studies.result import Table, Verdict, load, number, prose, with_error


@pytest.fixture
def full(new_study):
  """A study that has all fields."""
  return new_study(
    "theorem",
    verdict=Verdict.OPEN,
    reason="σ² is ours.",
    numbers={"l1": 0.0061, "draws": [1, 2.5], "nothing": None, "rows": [{"t": 0.5}]},
    pictures={"figure_theorem.png": "A caption"},
    tables=(Table(("a", "b"), (("1", "2 | 3"), ("4", "5")), "Above"), Table(("c",), (("6",),))),
    command="python -m tf_hessian.bin.reproduce --figure=theorem",
    seconds=1.5,
    versions={"numpy": "2"},
    device="CPU",
  )


def change(path, **fields):
  """Changes fields of a saved study; None takes one away."""
  content = json.loads(path.read_text()) | fields
  path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


@pytest.fixture
def saved(full, tmp_path):
  """The file of a study."""
  full.save(tmp_path)
  return result.path(tmp_path, "theorem")


# Files.


def test_saved_study_is_read_as_it_was(full, saved):
  assert load(saved) == full


def test_study_is_one_file_named_by_its_figure(full, tmp_path):
  full.save(tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == ["figure_theorem.json"]


def test_study_that_json_cannot_hold_leaves_the_former_file(full, saved, new_study):
  with pytest.raises(TypeError):
    new_study("theorem", numbers={"x": object()}).save(saved.parent)
  assert load(saved) == full


def test_missing_file_is_an_os_error(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"figure_15\.json"):
    load(result.path(tmp_path, "15"))


def test_newer_format_is_refused(saved):
  change(saved, format_version=result.FORMAT_VERSION + 1)
  with pytest.raises(ValueError, match=r"figure_theorem\.json.*install a newer tf_hessian"):
    load(saved)


def test_newer_format_is_refused_as_such_whatever_else_it_has(saved):
  change(saved, format_version=result.FORMAT_VERSION + 1, mood="good", verdict="BETTER")
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
  [{"verdict": "MAYBE"}, {"verdict": None}, {"claim": None}, {"mood": "good"}, {"tables": [1]}],
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


# Text.


@pytest.mark.parametrize(
  "x, digits, text",
  [
    (0, 3, "0"),
    (0.5, 3, "0.5"),
    (3.14159, 3, "3.14"),
    (-3.14159, 2, "-3.1"),
    (0.001234, 3, "0.00123"),
    (0.0001, 3, "1e-4"),
    (-2.54e-7, 2, "-2.5e-7"),
    (100, 3, "100"),
    (2345.6, 3, "2,346"),
    (2345.6, 2, "2,346"),
    (12.4, 2, "12"),
    (15910, 3, "15,910"),
    (1.0e6, 3, "1e6"),
    (1.234e10, 3, "1.23e10"),
    (2e-5, 1, "2e-5"),
  ],
)
def test_number_is_written_briefly(x, digits, text):
  assert number(x, digits) == text


@pytest.mark.parametrize("digits", [1, 2, 3, 5])
def test_number_is_right_to_its_digits(digits):
  rng = np.random.default_rng(0)
  x = rng.choice([-1, 1], 2000) * 10 ** rng.uniform(-12, 12, 2000)
  read = np.array([float(number(v, digits).replace(",", "")) for v in x])
  # Half a unit of the last digit is at most so much of the number.
  assert (np.abs(read / x - 1) <= 0.5 * 10.0 ** (1 - digits) + 1e-12).all()


@pytest.mark.parametrize("x", [np.nan, np.inf, -np.inf])
def test_number_that_is_not_finite_is_written(x):
  assert number(x)


def test_error_has_two_digits():
  assert with_error(0.123456, 0.0123456) == "0.123 ± 0.012"


def test_error_that_is_not_known_is_left_out():
  assert with_error(0.123456, np.nan) == "0.123"


def test_prose_is_one_line():
  assert prose("  one\n    two three\n\nfour ") == "one two three four"


@pytest.mark.parametrize("section, source", [("B, Figure 15", "paper"), ("", "to show")])
@pytest.mark.parametrize("verdict, word", [(Verdict.DIFFERS, "differs"), (Verdict.OPEN, "open")])
def test_line_has_claim_finding_and_verdict(new_study, section, source, verdict, word):
  made = new_study("15", section=section, verdict=verdict)
  line = f"Title of 15: {source}: claim of 15. Here: found for 15. -> {word} (the page says why)"
  assert made.line() == line
