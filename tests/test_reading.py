"""What is said while data are read for the first time, by a clock of the test's own."""

import logging

import pytest

from tf_hessian.reading import FIRST_SECONDS, Reading


class Clock:
  """Seconds that a test sets."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock():
  return Clock()


def read(reading, clock, count, seconds, **what):
  for _ in range(count):
    clock.now += seconds
    reading.add(10, 1000, batches=1, **what)


@pytest.fixture
def lines(caplog):
  with caplog.at_level(logging.INFO, logger="absl"):
    yield lambda: [r.getMessage() for r in caplog.records]


def test_nothing_is_said_of_what_is_read_soon(clock, lines):
  read(Reading("n=", clock=clock), clock, 100, FIRST_SECONDS / 101)
  assert lines() == []


def test_lines_come_at_intervals_that_double(clock, lines):
  reading, seen = Reading("n=", clock=clock), []
  for second in range(1, 200):
    read(reading, clock, 1, 1.0)
    if len(lines()) > len(seen):
      seen.append(second)
  assert seen == [10, 20, 40, 80, 160]


def test_interval_that_has_passed_without_a_batch_is_not_made_up_for(clock, lines):
  reading = Reading("n=", clock=clock)
  read(reading, clock, 1, 1000.0)
  read(reading, clock, 5, 50.0)
  assert len(lines()) == 1


def test_line_has_what_was_read_and_what_to_give(clock, lines, caplog):
  read(Reading("num_batches=", clock=clock), clock, 10, 1.0)
  assert lines() == [
    "reading the data set for the first time: 10 batches, 100 examples, 1e-05 GB so far, in 10 s; "
    "if there is no end to it, interrupt (Ctrl-C) and give num_batches="
  ]
  assert caplog.records[0].levelno == logging.WARNING


def test_line_of_what_has_an_end_says_how_far_it_is(clock, lines, caplog):
  read(Reading("num_batches=", total=1000, clock=clock), clock, 10, 1.0)
  assert lines()[0].endswith("10 batches, 100 examples, 1e-05 GB of 1,000")
  assert caplog.records[0].levelno == logging.INFO


def test_sums_are_kept(clock):
  reading = Reading("n=", clock=clock)
  read(reading, clock, 7, 0.5)
  assert (reading.batches, reading.examples, reading.bytes) == (7, 70, 7000)
  assert reading.seconds == 3.5
