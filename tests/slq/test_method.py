"""The method's choices are checked when they are made, and are what is recorded."""

import dataclasses
import json

import numpy as np
import pytest

import tf_hessian
from tf_hessian.numerics import stopping
from tf_hessian.slq.method import SLQ, make_target


@pytest.mark.parametrize("name", ["num_draws", "lanczos_steps"])
@pytest.mark.parametrize("value, error", [(0, ValueError), (-3, ValueError), (2.0, TypeError)])
def test_bad_counts_are_refused_by_name(name, value, error):
  with pytest.raises(error, match=f"{name}: expected an integer of at least 1"):
    SLQ(**{name: value})


def test_start_of_its_own_is_for_a_single_draw():
  with pytest.raises(ValueError, match="num_draws: expected 1 with a start vector of its own"):
    SLQ(num_draws=2, start="gradient")


def test_misspelt_start_is_refused_with_the_nearest():
  with pytest.raises(ValueError, match="start: .*'gradient'"):
    SLQ(num_draws=1, start="gradiant")


@pytest.mark.parametrize("vector", [np.zeros(4), [1.0, 2.0, np.nan, 0.0], [np.inf] * 4])
def test_start_without_a_direction_is_refused(vector):
  with pytest.raises(ValueError, match="start: expected a vector of finite numbers that is not"):
    SLQ(num_draws=1, start=vector).of_order(4)


def test_start_of_another_length_is_refused():
  with pytest.raises(ValueError, match=r"start: expected shape \(5,\)"):
    SLQ(num_draws=1, start=np.ones(4)).of_order(5)


@pytest.mark.parametrize("steps, expected", [(3, 3), (5, 5), (6, 5)])
def test_steps_are_at_most_the_order(steps, expected):
  assert SLQ(lanczos_steps=steps).of_order(5).lanczos_steps == expected


def test_target_needs_two_draws():
  with pytest.raises(ValueError, match="num_draws: expected at least 2 with target_error, got 1"):
    SLQ(num_draws=1, target=make_target(0.1, 1e-5, False))


@pytest.mark.parametrize("draws, first", [(2, 2), (4, 4), (9, stopping.FIRST_DRAWS)])
def test_run_with_a_target_begins_with_few_draws(draws, first):
  assert SLQ(num_draws=draws, target=make_target(0.1, 1e-5, False)).first_draws == first
  assert SLQ(num_draws=draws).first_draws == draws


@pytest.mark.parametrize(
  "method",
  [SLQ(), SLQ(1, 3, start="gradient"), SLQ(1, start=[1, 2]), SLQ(target=make_target(1, 2, True))],
)
def test_description_is_plain_and_tells_methods_apart(method):
  text = json.dumps(method.description())
  longer = dataclasses.replace(method, lanczos_steps=method.lanczos_steps + 1)
  assert json.dumps(longer.description()) != text
  assert "seed" not in method.description()


def test_descriptions_of_start_vectors_differ_by_a_bit():
  a, b = (SLQ(1, start=[1.0, x]).description() for x in (1.0, np.nextafter(1.0, 2.0)))
  assert a != b


def test_choices_are_frozen():
  with pytest.raises(dataclasses.FrozenInstanceError):
    SLQ().seed = 3


def test_complex_start_is_refused():
  with pytest.raises(TypeError, match="start: expected real numbers"):
    SLQ(num_draws=1, start=1j * np.ones(4))


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_start_of_any_size_is_a_direction(scale):
  matrix, v = np.diag([1.0, 2.0, 3.0]), np.array([3.0, -4.0, 0.0])
  options = {"num_draws": 1, "lanczos_steps": 2, "progress": False, "check": False}
  usual, found = (tf_hessian.spectral_density(matrix, start=x, **options) for x in (v, scale * v))
  np.testing.assert_allclose(found.diagonals[0], usual.diagonals[0], rtol=1e-14)
  np.testing.assert_allclose(found.off_diagonals[0], usual.off_diagonals[0], rtol=1e-14)
