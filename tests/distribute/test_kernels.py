"""Whether processes round alike, by the bits of a fixed small problem."""

import json
import os
import subprocess
import sys

import pytest

from tf_hessian.distribute import coordinator, kernels, members

SAY = "import json; from tf_hessian.distribute import kernels; print(json.dumps(kernels.digest()))"
OLD = {"ONEDNN_MAX_CPU_ISA": "SSE41"}


@pytest.fixture(scope="module")
def found(forked):
  """Digests of processes: two equal ones, one of an older instruction set."""
  command = [sys.executable, "-c", SAY]
  old = subprocess.Popen(command, env=os.environ | OLD, stdout=subprocess.PIPE, text=True)
  processes = [forked(command), forked(command), old]
  try:
    return [json.loads(p.communicate(timeout=120)[0].splitlines()[-1]) for p in processes]
  finally:
    for process in processes:
      process.kill()
      process.wait()


def test_equal_processes_have_equal_digests(found):
  assert found[0] == found[1]
  assert len(found[0]) == 8


def test_kernels_of_another_instruction_set_are_told_apart(found):
  if found[0]["matmul_float32"] == found[2]["matmul_float32"]:
    pytest.skip("this processor has no newer instruction set")
  assert found[0]["convolution_float32"] != found[2]["convolution_float32"]
  assert found[0]["reduction_float64"] == found[2]["reduction_float64"]  # not oneDNN's


A, B, C = ({"matmul": x} for x in "abc")


@pytest.mark.parametrize(
  "workers, chief, expected",
  [
    ([A, A, B], B, A),
    ([B, A, A], B, A),
    ([A, B], B, B),
    ([A, B], A, A),
    ([A, B], C, A),  # as of a chief without the workers' accelerators
    ([B], C, B),
    ([], C, C),
  ],
)
def test_kernels_are_those_of_most_workers_then_the_chiefs(workers, chief, expected):
  assert kernels.most_common(workers, chief) == expected


class Told(list):
  """What workers were told."""

  def __call__(self, device, reason, start):
    self.append((device, reason, start))


@pytest.fixture
def told(monkeypatch):
  told = Told()
  monkeypatch.setattr(members, "end", told)
  return told


def chief(wanted):
  engine = object.__new__(coordinator.Coordinator)
  engine._identity, engine._kernels = {"code": 1}, wanted
  engine._refused, engine._starts = set(), {}
  return engine


def note(start, **identity):
  return json.dumps({"task": "worker 1", "start": start, "identity": {"code": 1} | identity})


def test_worker_with_other_kernels_is_refused_with_the_remedy_and_told_once(told):
  engine = chief(A)
  assert engine.admits(note("first", kernels=A))
  assert not engine.admits(note("again", kernels=B))
  assert not engine.admits(note("again", kernels=B))
  ((device, reason, start),) = told
  assert (device, start) == ("/job:worker/replica:0/task:1", "again")
  assert reason.startswith("worker 1 rounds otherwise than the other workers (matmul), ")
  assert kernels.REMEDY in reason


def test_worker_that_was_started_without_determinism_is_refused(told):
  assert not chief(A).admits(note("first"))
  assert "was started with --nodeterministic" in told[0][1]


def test_all_kernels_are_welcome_where_sums_need_not_be_bitwise(told):
  assert chief(None).admits(note("first", kernels=B))
  assert told == []
