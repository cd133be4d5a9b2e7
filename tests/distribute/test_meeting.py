"""Tasks that wait for each other before TensorFlow takes their ports."""

import contextlib
import http.server
import socket
import threading

import pytest

from tf_hessian.distribute import cluster, errors, meeting

PATIENCE = 0.5


def free_ports(count):
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
    for s in sockets:
      s.bind(("127.0.0.1", 0))
    return [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]


@pytest.fixture
def tasks():
  """Three workers that are not there."""
  jobs = {"worker": free_ports(3)}
  return [cluster.Task(jobs, "worker", i) for i in range(3)]


@contextlib.contextmanager
def held(task, *, speaks):
  """Another program that holds a task's port, and says something or nothing."""
  host, port = task.address.split(":")
  if speaks:
    server = http.server.HTTPServer((host, int(port)), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield
    server.shutdown()
    thread.join()
    server.server_close()
  else:
    with socket.socket() as mine:
      mine.bind((host, int(port)))
      mine.listen()
      yield


@pytest.mark.slow
def test_task_that_is_missing_is_named_and_no_other(tasks):
  with meeting.point(tasks[0]), meeting.point(tasks[1]), pytest.raises(errors.ClusterError) as e:
    meeting.wait_for(tasks[0], PATIENCE)
  assert f" s from worker 2 ({tasks[2].address}): a cluster begins when" in str(e.value)
  assert "worker 1" not in str(e.value)
  assert "Start all tasks again" in str(e.value)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize("speaks", [False, True])
def test_program_that_holds_a_port_is_not_taken_for_a_task(monkeypatch, tasks, speaks):
  monkeypatch.setattr(meeting, "_ANSWER_SECONDS", 0.3)
  with (
    meeting.point(tasks[1]),
    held(tasks[2], speaks=speaks),
    pytest.raises(errors.ClusterError, match="worker 2 .*, where another program answers"),
  ):
    meeting.wait_for(tasks[0], PATIENCE)


def test_tasks_that_come_at_different_times_meet(tasks):
  met = []

  def come(task):
    with meeting.point(task):
      meeting.wait_for(task, 60)
      met.append(task.name)
      together.wait(60)  # as TensorFlow's servers stay

  together = threading.Barrier(3)
  threads = [threading.Thread(target=come, args=(task,)) for task in tasks]
  for thread in threads:
    thread.start()
    thread.join(0.2)
  for thread in threads:
    thread.join(60)
  assert sorted(met) == ["worker 0", "worker 1", "worker 2"]


def test_port_that_is_held_is_refused_in_one_line(tasks):
  match = f"worker 1 can't serve at {tasks[1].address}: "
  with held(tasks[1], speaks=False), pytest.raises(OSError, match=match) as e:
    meeting.point(tasks[1]).__enter__()
  assert "give this task another one in the TF_CONFIG of all tasks" in str(e.value)


def test_port_is_free_again_afterwards(tasks):
  for _ in range(2):
    with meeting.point(tasks[0]):
      assert errors.silent([tasks[0].address], served=True) == []
  assert errors.silent([tasks[0].address]) == [tasks[0].address]


def test_process_that_is_stopped_is_silent_to_who_asks_for_the_protocol(tasks):
  # The system's kernel accepts connections for it.
  with held(tasks[0], speaks=False):
    assert errors.silent([tasks[0].address]) == []
    assert errors.silent([tasks[0].address], seconds=0.2, served=True) == [tasks[0].address]
