"""Seconds of a pass and of steps, by a clock that the tests advance."""

import types

import numpy as np
import pytest

from tf_hessian.planning import timing
from tf_hessian.planning.timing import TimedLanczos, largest_part, time_lanczos, time_pass
from tf_hessian.slq.storage import plan_basis


class Clock:
  """A clock for `timing`, and a pass that takes 2 s, 3 s more with batches, 5 s more at first."""

  def __init__(self):
    self.now = 0.0
    self.batches = types.SimpleNamespace(idle=False)
    self.passes = 0
    self.pace = 1.0

  def monotonic(self):
    return self.now

  def run(self):
    self.passes += 1
    self.now += self.pace * (2.0 + 3.0 * (not self.batches.idle) + 5.0 * (self.passes == 1))


@pytest.fixture
def clock(monkeypatch):
  result = Clock()
  monkeypatch.setattr(timing, "time", result)
  monkeypatch.setattr(timing, "_MOST", 15)
  return result


def test_pass_is_told_apart_from_its_building_and_its_batches(clock):
  timed = time_pass(clock.run, clock.batches)
  assert (timed.build, timed.once, timed.batches) == (5.0, 2.0, 3.0)
  assert timed.seconds(10) == 32.0
  assert not clock.batches.idle


@pytest.mark.parametrize("pace, passes", [(1e-3, 1 + 2 * 15), (0.04, 1 + 2 * 4), (1.0, 1 + 2 * 3)])
def test_short_passes_are_timed_for_a_second_or_fifteen_times(clock, pace, passes):
  clock.pace = pace
  time_pass(clock.run, clock.batches)
  assert clock.passes == passes


def test_pass_that_needs_its_batches_takes_as_long_as_they(clock):
  timed = time_pass(clock.run)
  assert (timed.build, timed.once, timed.batches) == (5.0, 0.0, 5.0)


def test_batches_are_read_again_after_an_error(clock):
  def failing():
    if clock.batches.idle:
      raise ValueError

  with pytest.raises(ValueError):
    time_pass(failing, clock.batches)
  assert not clock.batches.idle


@pytest.mark.parametrize("parts, expected", [(1, 18), (2, 12), (3, 8), (5, 4), (9, 4), (10**20, 4)])
def test_largest_part_is_that_of_whole_batches(parts, expected):
  assert largest_part(np.array([4, 2, 4, 4, 4]), parts) == expected


def test_seconds_of_further_steps_grow_as_those_of_the_first():
  seconds = 0.5 + 0.1 * np.arange(90)
  assert timing._all_steps(seconds[:8], 90) == pytest.approx(np.sum(seconds), rel=1e-12)


def test_seconds_of_steps_that_are_all_known_are_their_sum():
  assert timing._all_steps(np.arange(6.0), 6) == 15.0


def test_first_step_says_nothing_about_the_others():
  assert timing._all_steps(np.array([100.0, 1, 1, 1]), 10) == pytest.approx(109.0)


def test_steps_are_forced_to_the_disk_once_in_a_while():
  timed = TimedLanczos(steps=3.0, sync=0.5)
  assert timed.seconds(90, lasting=20.0) == 5.0  # every five seconds
  assert timed.seconds(2, lasting=20.0) == 4.0  # and not more often than there are steps


@pytest.mark.parametrize("kind", ["memory", "disk", "float32", "float32_disk"])
@pytest.mark.parametrize("recorded", [False, True])
def test_lanczos_steps_are_timed_on_bases_of_each_kind(kind, recorded):
  basis = plan_basis(500, 12, 2, kinds=(kind,), memory=10**8, disk=10**8)
  timed = time_lanczos(basis, recorded=recorded)
  assert timed.steps > 0
  assert (timed.sync > 0) is recorded


@pytest.mark.parametrize("parts", [5, 6, 10**20])
def test_largest_of_more_parts_than_batches_is_the_largest_batch(parts):
  assert largest_part(np.array([4, 2, 7, 4, 4]), parts) == 7
