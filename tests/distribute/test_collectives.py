"""Calls that wait for other workers."""

import threading
import types

import pytest
import tensorflow as tf

from tf_hessian.distribute import collectives, errors

GONE = "127.0.0.1:1"  # where nobody listens


@pytest.fixture
def aborted(monkeypatch):
  """An event that is set when collectives are aborted."""
  event = threading.Event()
  context = types.SimpleNamespace(abort_collective_ops=lambda *_: event.set())
  monkeypatch.setattr(collectives.context, "context", lambda: context)
  return event


def waits(event):
  if event.wait(60):
    raise tf.errors.UnavailableError(None, None, "aborted")


def test_worker_that_does_not_answer_is_waited_for_as_long_as_the_patience_lasts(aborted):
  guard = collectives.Guard([GONE], 0.1, "the last step")
  with pytest.raises(errors.ClusterError, match=f"no answer from {GONE}.*after the last step"):
    guard.call(waits, aborted)
  assert guard.broken


def test_time_between_calls_does_not_count(aborted):
  guard = collectives.Guard([GONE], 0.1, "the last step")
  for _ in range(3):
    assert guard.call(lambda: 1) == 1
    guard.look()
  assert not aborted.is_set()
  assert not guard.broken


def test_worker_alone_waits_for_nobody():
  assert collectives.Guard([], 1, "").call(lambda a: a + 1, 1) == 2


@pytest.mark.parametrize("error, broken", [(KeyboardInterrupt(), True), (ValueError("bad"), False)])
def test_other_errors_are_passed_on(error, broken):
  guard = collectives.Guard([GONE], 1, "")

  def fail():
    raise error

  with pytest.raises(type(error)):
    guard.call(fail)
  assert guard.broken is broken
