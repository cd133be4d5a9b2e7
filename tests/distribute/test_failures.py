"""Processes die, hang, or were started for something else: what the others do, and say."""

import contextlib
import json
import pathlib
import re
import sys
import time

import numpy as np
import pytest

from tests import forked as forking
from tf_hessian.distribute import local

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECONDS = 180
# Long enough that whatever happens to it happens in the middle.
LONG = {"draws": 20, "steps": 60}
SHORT = {"draws": 2, "steps": 10}


class Cluster(forking.ForkedCluster):
  """A cluster that runs the command `spectrum` on the synthetic config, and is listened to."""

  def __init__(self, forked, workdir, strategy, workers, *flags, draws, steps, patience=60):
    self.lines = []
    self.folder = workdir / "spectrum_initial"
    self.commandline = [
      *(sys.executable, "-m", "tf_hessian.bin.spectrum", "--config=configs/synthetic_quadratic.py"),
      *("--initial", "--nocheck", f"--workdir={workdir}", f"--strategy={strategy}"),
      *("--config.hessian.batch_size=50", f"--config.lanczos.draws={draws}"),
      *(f"--config.lanczos.steps={steps}", f"--patience={patience}", "--vectors_per_pass=2"),
      *flags,
    ]
    ps = 1 if strategy == "parameter_server" else 0
    listen = lambda *line: self.lines.append(line)  # noqa: E731
    super().__init__(forked, self.commandline, workers=workers, ps=ps, output=listen)
    self.leader = self.tasks[0]

  def said(self, task):
    """Returns all that a process has said."""
    name = "{} {}".format(*task)
    return "\n".join(line for who, line in list(self.lines) if who == name)

  def until(self, condition, what):
    deadline = time.monotonic() + SECONDS
    while not condition():
      assert time.monotonic() < deadline, f"{what}: {self.lines[-20:]}"
      time.sleep(0.02)

  def until_said(self, task, words):
    self.until(lambda: words in self.said(task), words)

  def until_step(self, count):
    self.until(lambda: self.steps() >= count, f"step {count}")

  def steps(self):
    """Returns how many steps of all draws are on disk."""
    steps = {}
    for path in [*self.folder.glob("step_*.npz"), *self.folder.glob("draw_*.npz")]:
      with contextlib.suppress(FileNotFoundError), np.load(path) as file:
        steps[path.stem[-3:]] = len(file["alphas"])
    return sum(steps.values())

  def code(self, task):
    """Waits for a process's end; returns its exit code."""
    code = self.processes[task].wait(SECONDS)
    time.sleep(0.1)  # for the thread that reads what it said
    return code


@pytest.fixture
def start(forked, tmp_path):
  """Returns a function that starts a cluster, which is ended after the test."""
  clusters = []

  def start(strategy, workers, *flags, size=LONG, **options):
    cluster = Cluster(forked, tmp_path, strategy, workers, *flags, **size, **options)
    clusters.append(cluster)
    for task in cluster.tasks:
      cluster.start(*task)
    return cluster

  yield start
  for cluster in clusters:
    cluster.end()


@pytest.mark.slow
def test_chief_waits_for_workers_that_are_all_gone_up_to_its_patience(start):
  cluster = start("parameter_server", 1, patience=30)
  cluster.until_step(5)
  cluster.kill("worker", 0)
  cluster.until_said(cluster.leader, "all workers are gone")
  cluster.start("worker", 0)
  cluster.until_said(cluster.leader, "worker 0 is back")
  cluster.kill("worker", 0)
  assert cluster.code(cluster.leader) == 1
  address = re.escape(cluster.jobs["worker"][0])
  said = cluster.said(cluster.leader)
  assert re.search(rf"error: all workers are gone for 3\d s \({address}\)", said)
  assert cluster.code(("ps", 0)) == 1
  assert "the chief has ended: ClusterError" in cluster.said(("ps", 0))


@pytest.mark.slow
def test_death_of_a_parameter_server_ends_the_run_with_the_remedy(start):
  cluster = start("parameter_server", 1)
  cluster.until_step(5)
  cluster.kill("ps", 0)
  assert cluster.code(cluster.leader) == 1
  message = f"error: no answer from parameter server {cluster.jobs['ps'][0]}"
  assert message in cluster.said(cluster.leader)
  assert "Start all tasks again" in cluster.said(cluster.leader)
  assert cluster.code(("worker", 0)) == 1
  assert "no answer from parameter server" in cluster.said(("worker", 0))
  before = cluster.steps()
  again = start("parameter_server", 1)
  again.until_step(before + 1)
  assert "begins again" not in again.said(again.leader)


@pytest.mark.slow
def test_shard_of_a_worker_that_hangs_is_handed_out_once_more(start):
  cluster = start("parameter_server", 2, size={"draws": 2, "steps": 20}, patience=30)
  cluster.until_step(3)
  cluster.processes["worker", 1].send_signal(19)  # SIGSTOP
  cluster.until_said(cluster.leader, "is handed out once more")
  assert cluster.code(cluster.leader) == 0
  assert cluster.code(("worker", 0)) == cluster.code(("ps", 0)) == 0


@pytest.mark.slow
def test_worker_of_another_config_is_refused_with_the_difference(start):
  cluster = start("parameter_server", 2, size=SHORT)
  cluster.kill("worker", 1)
  cluster.start(
    "worker", 1, command=[*cluster.commandline, "--config.lanczos.steps=11", "--config.seed=5"]
  )
  assert cluster.code(("worker", 1)) == 1
  words = "config.lanczos.steps: the chief has 10, this has 11"
  assert words in cluster.said(("worker", 1))
  assert "config.seed: the chief has 0, this has 5" in cluster.said(("worker", 1))
  assert words in cluster.said(cluster.leader)
  assert cluster.code(cluster.leader) == 0  # with the other worker alone


# The oldest instruction set that oneDNN has kernels for.
OLD_KERNELS = ("env", "ONEDNN_MAX_CPU_ISA=SSE41")


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA=SSE41", "TF_ENABLE_ONEDNN_OPTS=0"])
def test_worker_that_rounds_otherwise_is_refused_and_the_run_goes_on(start, variable):
  cluster = start("parameter_server", 2, size=SHORT)
  cluster.kill("worker", 1)
  cluster.start("worker", 1, command=["env", variable, *cluster.commandline])
  assert cluster.code(("worker", 1)) == 1
  for task in (cluster.leader, ("worker", 1)):
    assert "worker 1 rounds otherwise than the other workers (" in cluster.said(task)
    assert "the same variables ONEDNN_*" in cluster.said(task)
  assert cluster.code(cluster.leader) == 0  # with the other worker alone
  assert cluster.code(("worker", 0)) == 0


@pytest.mark.slow
def test_workers_that_round_otherwise_compute_nothing_together(start):
  cluster = start("multi_worker", 2, size=SHORT)
  cluster.kill("worker", 1)
  cluster.start("worker", 1, command=[*OLD_KERNELS, *cluster.commandline])
  for task in cluster.tasks:
    assert cluster.code(task) == 1
    assert "kernels.matmul_float32: the chief has" in cluster.said(task)
    assert "the same variables ONEDNN_*" in cluster.said(task)
  assert cluster.steps() == 0


@pytest.mark.slow
def test_workers_that_round_otherwise_are_welcome_without_determinism(start):
  cluster = start("parameter_server", 2, "--nodeterministic", size=SHORT)
  cluster.kill("worker", 1)
  cluster.start("worker", 1, command=[*OLD_KERNELS, *cluster.commandline])
  for task in cluster.tasks:
    assert cluster.code(task) == 0


@pytest.mark.slow
def test_parameter_server_that_hangs_is_named(start):
  cluster = start("parameter_server", 1, patience=30)
  cluster.until_step(5)
  cluster.processes["ps", 0].send_signal(19)  # SIGSTOP
  assert cluster.code(cluster.leader) == 1
  address = cluster.jobs["ps"][0]
  assert f"s from parameter server {address}: Start all tasks again" in cluster.said(cluster.leader)


@pytest.mark.slow
def test_server_ends_when_no_chief_comes(forked):
  command = Cluster(forked, pathlib.Path("unused"), "parameter_server", 1, **SHORT, patience=1)
  command.start("worker", 0)
  try:
    assert command.code(("worker", 0)) == 1
  finally:
    command.end()
  assert "has not answered for 1 s" in command.said(("worker", 0))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_death_of_a_worker_ends_all_workers_in_time_and_the_run_can_go_on(start, victim):
  cluster = start("multi_worker", 2)
  cluster.until_step(5)
  cluster.kill("worker", victim)
  begin = time.monotonic()
  other = "worker", 1 - victim
  assert cluster.code(other) == 1
  assert time.monotonic() - begin < 30
  assert f"no answer from {cluster.jobs['worker'][victim]}" in cluster.said(other)
  assert "goes on after the last finished Lanczos step" in cluster.said(other)
  if victim == 0:
    before = cluster.steps()
    again = start("multi_worker", 2)
    again.until_step(before + 1)


def parts(folder):
  """Returns the files of spread vectors by the worker they are of."""
  return {r: sorted(folder.glob(f"basis_*_{r}_of_2")) for r in range(2)}


def tridiagonals(folder):
  with np.load(folder / "spectrum.npz") as file:
    return {k: v.tobytes() for k, v in file.items() if "diagonal" in k or "residual" in k}


@pytest.mark.slow
@pytest.mark.parametrize("missing", [None, 1])
def test_spread_vectors_outlast_their_workers(start, tmp_path, missing):
  size = {"draws": 3, "steps": 30}
  cluster = start("multi_worker", 2, "--storage=workers", size=size)
  cluster.until_step(5)
  cluster.kill("worker", 1)
  assert cluster.code(cluster.leader) == 1
  assert "this run can't go on without it" in cluster.said(cluster.leader)
  before = parts(cluster.folder)
  assert before[0] and len(before[0]) == len(before[1])
  for path in before[missing] if missing else ():
    path.unlink()
  again = start("multi_worker", 2, "--storage=workers", size=size)
  assert again.code(again.leader) == 0
  assert ("begins again" in again.said(again.leader)) == (missing is not None)
  assert parts(again.folder) == {0: [], 1: []}
  found = tridiagonals(again.folder)
  whole = start(
    "multi_worker", 2, f"--workdir={tmp_path / 'whole'}", "--storage=workers", size=size
  )
  assert whole.code(whole.leader) == 0
  assert found == tridiagonals(tmp_path / "whole" / "spectrum_initial")


@pytest.mark.slow
def test_worker_without_room_for_its_vectors_ends_all_workers(start):
  cluster = start("multi_worker", 2, "--storage=workers")
  cluster.kill("worker", 1)
  # Files of 4 KiB at most: its part of one draw has 24,000 bytes.
  limited = ["bash", "-c", 'ulimit -f 4; exec "$@"', "limited", *cluster.commandline]
  cluster.start("worker", 1, command=limited)
  for task in cluster.tasks:
    assert cluster.code(task) == 1
    assert "worker 1 can't go on with its part of a Lanczos basis" in cluster.said(task)
    assert "basis_000_1_of_2" in cluster.said(task)


@pytest.mark.slow
def test_worker_that_hangs_ends_the_others_in_time(start):
  cluster = start("multi_worker", 2)
  cluster.until_step(5)
  cluster.processes["worker", 1].send_signal(19)  # SIGSTOP
  begin = time.monotonic()
  assert cluster.code(cluster.leader) == 1
  assert time.monotonic() - begin < 60
  assert f"error: no answer from {cluster.jobs['worker'][1]}" in cluster.said(cluster.leader)


@pytest.mark.slow
def test_workers_with_different_configs_all_say_the_difference(start):
  cluster = start("multi_worker", 2, size=SHORT)
  cluster.kill("worker", 1)
  cluster.start("worker", 1, command=[*cluster.commandline, "--config.data.num_examples=300"])
  for task in cluster.tasks:
    assert cluster.code(task) == 1
    assert "config.data.num_examples: the chief has 400, this has 300" in cluster.said(task)
    assert "data_fingerprint" in cluster.said(task)


def test_error_of_the_chief_reaches_the_other_workers(start, tmp_path):
  folder = tmp_path / "spectrum_initial"
  folder.mkdir()
  (folder / "run.json").write_text('{"format_version": 1, "n": 3}')
  cluster = start("multi_worker", 2, size=SHORT)
  for task in cluster.tasks:
    assert cluster.code(task) == 1
    assert "it holds a run of something else" in cluster.said(task)


@pytest.mark.slow
def test_worker_that_computes_nan_is_named(tmp_path):
  # A worker of which a file makes what the others have as 1 into NaN.
  member = [sys.executable, str(pathlib.Path(__file__).with_name("nan_member.py")), str(tmp_path)]
  lines = []
  with local.LocalCluster(
    member, workers=2, ps=1, output=lambda *line: lines.append(line)
  ) as cluster:
    assert cluster.wait(SECONDS) == 0, lines
  found = json.loads((tmp_path / "error.json").read_text())
  assert "computed by worker 1 (shard " in found["error"]
  assert "worker 0" not in found["error"]


@pytest.mark.slow
def test_worker_whose_streamed_data_change_stops_all_of_them_by_the_batch(tmp_path):
  member = str(pathlib.Path(__file__).with_name("changing_member.py"))
  lines = []
  with local.LocalCluster(
    [sys.executable, member, str(tmp_path)], workers=2, output=lambda *line: lines.append(line)
  ) as cluster:
    assert cluster.wait(SECONDS) == 0, lines
    assert cluster.processes["worker", 1].wait(SECONDS) == 0, lines
  for path in (tmp_path / "worker 0.json", tmp_path / "worker 1.json"):
    found = json.loads(path.read_text())
    np.testing.assert_allclose(found["before"], np.full(3, 2 * np.mean(np.arange(1, 7.0) ** 2)))
    assert len(found["errors"]) == 2
    assert all(e.startswith("DataChangedError: product: batch 4 of") for e in found["errors"])
