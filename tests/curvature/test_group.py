"""The chief computes and the others follow, in whatever way that ends."""

import types

import pytest

from tf_hessian.curvature.group import lead
from tf_hessian.distribute import errors, interrupts


class Engine:
  """Notes what the chief lets its followers go with."""

  def __init__(self, leads=True, followers=True):
    self.leads, self.followers, self.finished = leads, followers, []

  def finish(self, content=b"", error="", /):
    self.finished.append((content, error))


def led(engine, compute):
  operator = types.SimpleNamespace(engine=engine, follow=lambda: b"7")
  return lead(operator, compute, lambda result: b"%d" % result, int)


def fail(error):
  raise error


def test_the_chief_computes_and_hands_on_the_result():
  engine = Engine()
  assert led(engine, lambda: 5) == 5
  assert engine.finished == [(b"5", "")]


def test_the_others_get_what_the_chief_hands_on():
  assert led(Engine(leads=False), lambda: fail(AssertionError("computed by a follower"))) == 7


def test_nothing_is_encoded_for_nobody():
  engine = Engine(followers=False)
  assert lead(types.SimpleNamespace(engine=engine), lambda: 5, fail, int) == 5
  assert engine.finished == [(b"", "")]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(3)])
def test_the_others_are_told_of_an_error(error):
  engine = Engine()
  with pytest.raises(type(error)):
    led(engine, lambda: fail(error))
  assert engine.finished == [(b"", f"{type(error).__name__}: {error}")]


def test_error_of_the_chief_is_said_though_the_others_are_gone_once_they_have_heard_it(monkeypatch):
  engine, ended = Engine(), []
  monkeypatch.setattr(engine, "finish", lambda *_: fail(errors.ClusterError("gone")))
  monkeypatch.setattr(interrupts, "end_at_once_at_exit", ended.append)
  with pytest.raises(ValueError, match="bad"):
    led(engine, lambda: fail(ValueError("bad")))
  assert ended == [1]


@pytest.mark.parametrize("error", [errors.ClusterError("gone"), errors.DisagreementError("other")])
def test_nobody_is_told_of_what_all_know_or_none_can_hear(error):
  engine = Engine()
  with pytest.raises(type(error)):
    led(engine, lambda: fail(error))
  assert engine.finished == []
