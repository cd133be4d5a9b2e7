"""The command that measures, with other strategies and settings of the machine."""

import numpy as np
import pytest

from tf_hessian.spectrum import Spectrum

CONFIG = "--config=configs/synthetic_quadratic.py"
SMALL = ("--initial", "--config.lanczos.draws=2", "--config.lanczos.steps=25")
CLUSTER = ("--config.hessian.batch_size=50",)  # of one shape, and enough for all
COMMANDS = {
  "mirrored": (
    "spectrum",
    "--strategy=mirrored",
    "--num_devices=2",
    "--noremapping",
    "--layout_optimizer",
    "--tf32",
    "--intra_op_threads=1",
    *CLUSTER,
  ),
  "compiled": (
    "spectrum",
    "--jit_compile",
    "--nodeterministic",
    "--arithmetic_optimization",
    *CLUSTER,
  ),
  "contradiction": ("spectrum", "--arithmetic_optimization"),
  "unknown strategy": ("spectrum", "--strategy=mirored"),
  "no cluster": ("spectrum", "--strategy=multi_worker"),
  "plan": ("spectrum", "--strategy=mirrored", "--num_devices=2", "--plan", *CLUSTER),
  "plan of too many": ("spectrum", "--plan_workers=99999999999999999999"),
  "endless patience": ("spectrum", "--patience=nan"),
  "plan of a cluster": ("spectrum", "--strategy=parameter_server", "--plan_workers=4"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  return {name: tmp_path_factory.mktemp("run") for name in COMMANDS}


@pytest.fixture(scope="module")
def done(run_all, folders):
  return run_all(
    {
      name: (command, CONFIG, f"--workdir={folders[name]}", *SMALL, *flags)
      for name, (command, *flags) in COMMANDS.items()
    }
  )


def result(folders, name):
  return Spectrum.load(folders[name] / "spectrum_initial" / "spectrum.npz")


@pytest.mark.parametrize("name", ["mirrored", "compiled"])
def test_largest_eigenvalues_are_found(done, folders, name):
  assert done[name].returncode == 0, done[name].stderr
  np.testing.assert_allclose(result(folders, name).largest(3), [5, 2, 1], rtol=1e-5)


def test_result_records_strategy_and_machine(done, folders):
  assert done["mirrored"].returncode == 0
  config = result(folders, "mirrored").config
  assert (config["strategy"], config["replicas"]) == ("mirrored", 2)
  machine = config["machine"]
  assert machine["grappler"]["remapping"] is False
  assert machine["grappler"]["layout_optimizer"] is True
  assert "constant_folding" not in machine["grappler"]
  assert (machine["tf32"], machine["intra_op_threads"]) == (True, 1)


def test_plan_is_printed_and_nothing_is_written(done, folders):
  assert done["plan"].returncode == 0, done["plan"].stderr
  lines = done["plan"].stdout.splitlines()
  assert "400 examples in 8 batches" in lines[1]
  assert "56 products" in next(x for x in lines if x.startswith("passes"))  # 2 draws of 25, and 6
  assert not list(folders["plan"].iterdir())


def test_tf32_is_off_by_default(done, folders):
  assert done["compiled"].returncode == 0
  config = result(folders, "compiled").config
  assert config["machine"]["tf32"] is False
  assert config["jit_compile"] is True
  assert config["deterministic"] is False


@pytest.mark.parametrize(
  "name, message",
  [
    ("contradiction", "error: arithmetic_optimization makes sums whose order varies"),
    ("unknown strategy", "one_device|mirrored|multi_worker|parameter_server"),
    ("no cluster", "error: strategy multi_worker: set TF_CONFIG in each process"),
    ("plan of a cluster", "error: plan: it is made in one process"),
    ("plan of too many", "error: flag --plan_workers=99999999999999999999"),
    ("endless patience", "error: flag --patience=nan: a number of seconds up to 1e7 is expected"),
  ],
)
def test_mistake_is_explained(done, name, message):
  assert done[name].returncode == 1
  assert message in done[name].stdout + done[name].stderr
  assert "Traceback" not in done[name].stderr


@pytest.mark.parametrize("flag", ["--workers=99999999999999999999", "--workers=257", "--ps=65"])
def test_cluster_of_too_many_processes_is_refused(run, flag, tmp_path):
  ended = run("local_cluster", flag, "--", CONFIG, f"--workdir={tmp_path}", *SMALL, really=True)
  assert ended.returncode == 1
  assert ended.stderr.startswith(f"error: flag {flag}: ")
  assert len(ended.stderr.splitlines()) == 1
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_cluster_on_this_machine_measures(run, tmp_path):
  flags = [CONFIG, f"--workdir={tmp_path}", *SMALL, *CLUSTER]
  ended = run("local_cluster", "--workers=1", "--ps=1", "--", *flags, really=True)
  assert ended.returncode == 0, ended.stdout + ended.stderr
  assert "[chief 0] largest Ritz values   5 " in ended.stdout
  config = Spectrum.load(tmp_path / "spectrum_initial" / "spectrum.npz").config
  assert config["strategy"] == "parameter_server"
