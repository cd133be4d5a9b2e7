"""What equal workers know of each other, and how they tell what comes next."""

import types

import pytest
import tensorflow as tf

from tf_hessian.distribute import errors, workers


def make(*addresses, index=0):
  """Returns the engine of one worker of a cluster that is not there."""
  resolver = types.SimpleNamespace(
    task_id=index,
    task_type="worker",
    cluster_spec=lambda: tf.train.ClusterSpec({"worker": list(addresses)}),
  )
  return workers.Workers(types.SimpleNamespace(cluster_resolver=resolver, num_replicas_in_sync=3))


def test_workers_on_the_same_host_are_counted():
  addresses = ("a:1", "b:1", "a:2")
  assert [make(*addresses, index=i).neighbours for i in range(3)] == [2, 1, 2]
  assert make(*addresses).size == 3


def test_worker_alone_has_no_followers():
  engine = make("a:1")
  assert (engine.size, engine.neighbours, engine.followers) == (1, 1, False)


def test_passes_with_other_numbers_are_announced_otherwise():
  names = ["loss", "columns 3", "columns 4", "columns", "basis 4 0 3 -7 1 2"]
  assert len({tuple(workers._numbers(name)) for name in names}) == len(names)
  word, count, *numbers = workers._numbers("columns 3")
  assert (word, count, numbers[0]) == (workers._numbers("columns")[0], 1, 3)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_chief_that_fails_while_others_wait_for_it_tells_them_nothing(monkeypatch, error):
  # They are in another reduction than that of the end, and both would wait for ever.
  engine, sent = make("a:1", "b:1"), []
  monkeypatch.setattr(engine, "add", lambda value: sent.append(value) or value)
  with pytest.raises(error), engine.committed():
    raise error
  engine.finish(b"", "why")
  assert sent == []


@pytest.mark.parametrize("size", [0, 1, 8, 15, 16, 17, 40])
def test_bytes_arrive_in_pieces(monkeypatch, size):
  monkeypatch.setattr(workers, "_PIECE", 16)
  content = bytes(range(size))
  sender, receiver, sent = make("a:1", "b:1"), make("a:1", "b:1", index=1), []
  monkeypatch.setattr(sender, "add", lambda value: sent.append(value) or value)
  assert sender.broadcast_bytes(content) == content
  arriving = iter(sent)
  monkeypatch.setattr(receiver, "add", lambda zeros: zeros + next(arriving))
  assert receiver.broadcast_bytes(b"") == content
  assert not list(arriving) and len(sent) == 1 + -(-size // 16)


def test_failure_is_an_error_of_the_cluster():
  assert isinstance(make("a:1").failure("no room"), errors.ClusterError)
