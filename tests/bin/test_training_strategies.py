"""The command that trains, on replicas and on clusters of real processes."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from tests import forked as forking
from tf_hessian.spectrum import Spectrum
from tf_hessian.training import checkpoints
from tf_hessian.training.steps import saved_steps

CONFIG = "--config=configs/synthetic_quadratic.py"
COMMANDS = {
  "one device": ("train",),
  "mirrored": ("train", "--strategy=mirrored", "--num_devices=2"),
}
CLUSTERS = {
  "equal workers": ("multi_worker", {"workers": 2}, ()),
  # With one thread, a server's request and its operations must not wait for each other.
  "free workers": ("parameter_server", {"workers": 2, "ps": 1}, ("--inter_op_threads=1",)),
}
NAMES = (*COMMANDS, *(pytest.param(n, marks=pytest.mark.slow) for n in CLUSTERS))
IN_STEP = ("mirrored", pytest.param("equal workers", marks=pytest.mark.slow))
STEPS = "--config.train.steps=80"
SECONDS = 900  # of what hangs


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  return {name: tmp_path_factory.mktemp("run") for name in (*COMMANDS, *CLUSTERS)}


@pytest.fixture(scope="module")
def done(run_all, run_cluster, folders):
  """Returns a function: name -> how its training ended, each once, clusters when asked for."""
  flags = {n: (CONFIG, f"--workdir={folder}", STEPS) for n, folder in folders.items()}
  ended = run_all({name: (*command, *flags[name]) for name, command in COMMANDS.items()})

  def of(name):
    if name not in ended:
      strategy, size, more = CLUSTERS[name]
      ended[name] = run_cluster(*flags[name], f"--strategy={strategy}", *more, **size)
    return ended[name]

  return of


@pytest.fixture(scope="module")
def run_cluster(forked):
  """Returns a function that trains with all processes of a cluster, as local_cluster does."""

  def train(*flags, **size):
    lines = []
    command = [sys.executable, "-m", "tf_hessian.bin.train", *flags]
    with forking.ForkedCluster(
      forked, command, **size, output=lambda name, line: lines.append((name, line))
    ) as cluster:
      code = cluster.wait(SECONDS)
    said = "".join(f"[{name}] {line}\n" for name, line in lines)
    return subprocess.CompletedProcess(command, code, said, "")

  return train


def weights(folder):
  return checkpoints.load_model(folder / "model.keras").get_weights()


@pytest.mark.parametrize("name", NAMES)
def test_training_ends_well_and_once(done, name):
  assert done(name).returncode == 0, done(name).stdout + done(name).stderr
  assert done(name).stdout.count("trained: steps 80") == 1


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_of_the_named_steps_are_kept(done, folders, name):
  assert done(name).returncode == 0
  assert list(saved_steps(folders[name])) == [0, 8, 80]


@pytest.mark.parametrize("name", IN_STEP)
def test_replicas_in_step_train_the_same_network(done, folders, name):
  assert done(name).returncode == 0
  for a, b in zip(weights(folders[name]), weights(folders["one device"]), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", IN_STEP)
def test_losses_of_replicas_are_those_of_the_whole_batch(done, folders, name):
  assert done(name).returncode == 0
  tables = []
  for folder in (folders[name], folders["one device"]):
    with open(folder / "train.csv") as file:
      tables.append([float(row["loss"]) for row in csv.DictReader(file)])
  np.testing.assert_allclose(*tables, rtol=1e-5)


@pytest.mark.slow
def test_free_workers_lower_the_loss(done, folders):
  assert done("free workers").returncode == 0
  # Gradient descent from the same weights for as many steps; each worker has batches of its own.
  found, alone = (
    json.loads((folders[name] / "train.json").read_text())["loss"]
    for name in ("free workers", "one device")
  )
  with open(folders["one device"] / "train.csv") as file:
    first = float(next(csv.DictReader(file))["loss"])
  assert found < first
  assert found - alone < 0.5 * (first - alone)


@pytest.mark.slow
def test_checkpoint_of_free_workers_is_measured(done, folders, run):
  assert done("free workers").returncode == 0
  folder = folders["free workers"]
  measured = run("spectrum", CONFIG, f"--workdir={folder}", STEPS)
  assert measured.returncode == 0, measured.stderr
  found = Spectrum.load(folder / "spectrum" / "spectrum.npz")
  np.testing.assert_allclose(found.largest(3), [5, 2, 1], rtol=1e-5)
  assert found.loss == pytest.approx(json.loads((folder / "train.json").read_text())["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("size", [("--workers=2",), ("--workers=2", "--ps=1")])
def test_command_trains_with_a_cluster_of_started_processes(run, tmp_path, size):
  flags = CONFIG, f"--workdir={tmp_path}"
  ended = run("local_cluster", "--command=train", *size, "--", *flags, really=True)
  assert ended.returncode == 0, ended.stdout + ended.stderr
  assert ended.stdout.count("trained: steps 24") == 1
