"""TF_CONFIG, and which strategy fits it."""

import json
import pathlib
import re
import subprocess

import pytest

from tf_hessian.distribute import cluster

ROOT = pathlib.Path(__file__).resolve().parents[2]
JOBS = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "ps": ["d:1"]}


def tf_config(jobs=JOBS, job="worker", index=1):
  return json.dumps({"cluster": jobs, "task": {"type": job, "index": index}})


def test_task_is_read_from_tf_config():
  task = cluster.task({"TF_CONFIG": tf_config()})
  assert (task.jobs, task.job, task.index) == (JOBS, "worker", 1)
  assert task.name == "worker 1"
  assert task.address == "c:1"


@pytest.mark.parametrize("environment", [{}, {"TF_CONFIG": ""}])
def test_there_is_no_task_without_tf_config(environment):
  assert cluster.task(environment) is None


@pytest.mark.parametrize(
  "text, message",
  [
    ("{", "expected JSON like"),
    ('{"cluster": {}}', "expected JSON like.*KeyError"),
    ('{"cluster": [], "task": {}}', "expected JSON like"),
    (tf_config(index=2), "has no task 2 of job 'worker'"),
    (tf_config(job="evaluator"), "has no task 1 of job 'evaluator'"),
    (tf_config(jobs={"master": ["a:1"]}), "unknown job 'master'; expected chief, worker, ps"),
    (tf_config(jobs={"worker": ["a", "b:1"]}), "expected addresses host:port, got 'a'"),
    (tf_config(jobs={"worker": [1, 2]}), "expected addresses host:port, got 1"),
  ],
)
def test_bad_tf_config_is_explained(text, message):
  with pytest.raises(ValueError, match=f"TF_CONFIG: .*{message}"):
    cluster.task({"TF_CONFIG": text})


@pytest.mark.parametrize(
  "strategy, config, message",
  [
    ("mirored", None, "expected one of one_device, .*got 'mirored'"),
    ("one_device", tf_config(), "TF_CONFIG describes a cluster"),
    ("mirrored", None, "no accelerator.*--num_devices"),
    ("multi_worker", None, "set TF_CONFIG in each process"),
    ("multi_worker", tf_config(), "has a job 'ps'"),
    ("parameter_server", None, "set TF_CONFIG in each process"),
    ("parameter_server", tf_config({"worker": ["a:1", "b:1"]}), "no task of job 'chief'"),
    ("parameter_server", tf_config(), "a worker serves; only the chief has it"),
  ],
)
def test_strategy_that_does_not_fit_is_explained(monkeypatch, strategy, config, message):
  monkeypatch.delenv("TF_CONFIG", raising=False)
  if config is not None:
    monkeypatch.setenv("TF_CONFIG", config)
  with pytest.raises(ValueError, match=message):
    cluster.make_strategy(strategy)


def test_number_of_devices_is_for_mirrored_only(monkeypatch):
  monkeypatch.delenv("TF_CONFIG", raising=False)
  with pytest.raises(ValueError, match="number of devices: is for the strategy mirrored"):
    cluster.make_strategy("one_device", num_devices=2)


@pytest.mark.parametrize("job, expected", [("worker", True), ("ps", True), ("chief", False)])
def test_workers_and_servers_serve(monkeypatch, job, expected):
  monkeypatch.setenv("TF_CONFIG", tf_config(job=job, index=0))
  assert cluster.serves("parameter_server") is expected
  assert not cluster.serves("multi_worker")


def test_serving_needs_a_task_that_serves(monkeypatch):
  monkeypatch.setenv("TF_CONFIG", tf_config(job="chief", index=0))
  with pytest.raises(ValueError, match="expected a worker or ps of a cluster with a chief"):
    cluster.serve()


def test_releasing_servers_needs_a_cluster(monkeypatch):
  monkeypatch.delenv("TF_CONFIG", raising=False)
  with pytest.raises(ValueError, match="TF_CONFIG"):
    cluster.release()


def test_port_that_is_taken_is_an_error(monkeypatch):
  import socket

  with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    address = f"127.0.0.1:{taken.getsockname()[1]}"
    jobs = {"chief": ["127.0.0.1:1"], "worker": [address], "ps": ["127.0.0.1:2"]}
    monkeypatch.setenv("TF_CONFIG", tf_config(jobs, index=0))
    with pytest.raises(OSError, match=f"worker 0 can't serve at {address}"):
      cluster.serve()


# The examples of docs/cluster.md make a TF_CONFIG that is understood.

PAGE = (ROOT / "docs/cluster.md").read_text()


def run(script, **environment):
  done = subprocess.run(
    ["bash", "-c", f"{script}\necho $TF_CONFIG"],
    env={"PATH": "/usr/bin:/bin:/usr/local/bin", **environment},
    capture_output=True,
    text=True,
    check=True,
  )
  return cluster.task({"TF_CONFIG": done.stdout})


@pytest.mark.parametrize(
  "index, name", [(0, "chief 0"), (1, "ps 0"), (2, "worker 0"), (5, "worker 3")]
)
def test_kubernetes_example_makes_a_tf_config(index, name):
  (script,) = re.findall(r"( *export TF_CONFIG=.*?\)\n)(?= *python -m)", PAGE, re.DOTALL)[:1]
  indent = len(script) - len(script.lstrip())
  script = "\n".join(line[indent:] for line in script.splitlines())
  task = run(script, TASKS="6", JOB_COMPLETION_INDEX=str(index))
  assert task.name == name
  assert task.address == f"hessian-{index}.hessian:2222"
  assert len(task.jobs["worker"]) == 4


def test_slurm_example_makes_a_tf_config():
  (script,) = re.findall(r"bash -c '\n(export TF_CONFIG=.*?)\nexec", PAGE, re.DOTALL)
  task = run(script, HOSTS="n1,n2,n3", SLURM_PROCID="2")
  assert task.name == "worker 2"
  assert task.address == "n3:2222"


def test_json_example_is_a_tf_config():
  (text,) = re.findall(r"```\n(\{\"cluster\".*?)```", PAGE, re.DOTALL)
  assert cluster.task({"TF_CONFIG": text}).address == "host1:2222"
