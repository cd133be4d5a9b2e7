"""The fields in which two records differ."""

import itertools
import json

import numpy as np
import pytest

from tf_hessian.records import Difference, as_plain, differences


def named(first, second, **options):
  return {d.name: (d.first, d.second) for d in differences(first, second, **options)}


@pytest.mark.parametrize("record", [{}, {"a": 1}, {"a": {"b": {"c": [1, {"d": None}]}}}])
def test_equal_records_have_no_differences(record):
  assert named(record, json.loads(json.dumps(record))) == {}


def test_fields_are_named_at_any_depth():
  first = {"a": 1, "b": {"c": 2, "d": {"e": 3, "f": 4}}}
  second = {"a": 5, "b": {"c": 2, "d": {"e": 6, "f": 4}}}
  assert named(first, second) == {"a": (1, 5), "b.d.e": (3, 6)}


@pytest.mark.parametrize(
  "depth, expected",
  [
    (0, {"a": ({"b": {"c": 1}}, {"b": {"c": 2}})}),
    (1, {"a.b": ({"c": 1}, {"c": 2})}),
    (2, {"a.b.c": (1, 2)}),
    (None, {"a.b.c": (1, 2)}),
  ],
)
def test_dicts_below_the_depth_are_compared_as_a_whole(depth, expected):
  assert named({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, depth=depth) == expected


def test_field_that_one_record_lacks_counts_as_none():
  assert named({"a": None, "b": 1}, {"c": None, "d": 2}) == {"b": (1, None), "d": (None, 2)}


def test_new_field_is_told_from_one_that_was_none():
  assert list(differences({"a": None}, {"a": 1, "b": 1})) == [
    Difference("a", None, 1, False),
    Difference("b", None, 1, True),
  ]


@pytest.mark.parametrize("one, other", itertools.permutations([{"x": 1}, {}, 1, [1], "1", None], 2))
def test_values_of_another_kind_differ(one, other):
  if (one, other) in (({"x": 1}, {}), ({}, {"x": 1})):
    assert list(named({"a": one}, {"a": other})) == ["a.x"]
  else:
    assert named({"a": one}, {"a": other}) == {"a": (one, other)}


def test_differences_are_in_the_order_of_their_names():
  first = {name: {"z": 0, "a": 0} for name in "cab"}
  second = {name: {"z": 1, "a": 1} for name in "bca"}
  assert list(named(first, second)) == ["a.a", "a.z", "b.a", "b.z", "c.a", "c.z"]


def test_records_are_left_as_they_are():
  first, second = {"a": {"b": 1}}, {"a": {"c": 2}}
  list(differences(first, second))
  assert (first, second) == ({"a": {"b": 1}}, {"a": {"c": 2}})


def test_numbers_of_numpy_are_plain_numbers():
  record = {"a": np.int64(3), "b": [np.float32(0.5)], "c": np.bool_(True), "d": np.array(2)}
  found = as_plain(record)
  assert found == {"a": 3, "b": [0.5], "c": True, "d": 2}
  assert json.dumps(found) == '{"a": 3, "b": [0.5], "c": true, "d": 2}'


@pytest.mark.parametrize("value", [np.ones(2), {1, 2}, object()])
def test_other_values_are_refused(value):
  with pytest.raises(TypeError, match="expected plain values"):
    as_plain({"a": value})
