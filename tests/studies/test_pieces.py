"""Pieces of studies, and what they cost."""

import json
import time

import pytest

from tf_hessian.studies import pieces


@pytest.fixture
def measure(tmp_path):
  """Returns a function: (setting, value) -> (numbers of the piece, whether it was measured)."""
  path = tmp_path / "folder" / "piece.json"

  def run(setting, value=1.0, costs=None):
    calls = []
    numbers = pieces.numbers_of(
      path, setting, lambda: calls.append(1) or {"x": value}, costs or pieces.Costs()
    )
    return numbers, bool(calls)

  run.path = path
  return run


def test_piece_is_measured_once(measure):
  assert measure({"top": (1, 2)}, 1.0) == ({"x": 1.0}, True)
  assert measure({"top": [1, 2]}, 2.0) == ({"x": 1.0}, False)


def test_piece_of_another_setting_is_measured_again(measure):
  measure({"top": 3})
  assert measure({"top": 4}, 2.0) == ({"x": 2.0}, True)


@pytest.mark.parametrize("text", ['{"setting": ', "[]", '{"setting": {"top": 3}}'])
def test_damaged_piece_is_measured_again(measure, text):
  measure({"top": 3})
  measure.path.write_text(text)
  assert measure({"top": 3}, 2.0) == ({"x": 2.0}, True)


def test_piece_costs_what_its_making_took_whenever_that_was(measure):
  measure({})
  content = json.loads(measure.path.read_text())
  measure.path.write_text(json.dumps(content | {"seconds": 500.0}))
  costs = pieces.Costs()
  measure({}, costs=costs)
  measure({}, costs=costs)  # a piece counts once
  assert 500.0 <= costs.total() < 600.0


def test_time_inside_of_a_piece_is_not_counted_twice():
  costs = pieces.Costs()
  costs.take("slow", lambda: time.sleep(0.2), lambda _: 0.0)
  assert costs.total() < 0.2
