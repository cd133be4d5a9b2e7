"""The command that has all others."""

import pathlib
import subprocess
import sys

import pytest

from tf_hessian import __main__ as lib
from tf_hessian.experiments.configs import load_config

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_every_command_is_a_module_of_the_folder():
  modules = {p.stem for p in (ROOT / "tf_hessian" / "bin").glob("*.py")}
  assert {module for module, _, _ in lib.COMMANDS.values()} <= modules


@pytest.mark.parametrize("arguments", [["help"], ["--help"], ["-h"]])
def test_help_lists_the_commands(arguments, capsys):
  lib.main(arguments)
  text = capsys.readouterr().out
  assert all(f"  {name}" in text for name in [*lib.COMMANDS, "demo"])


def test_without_a_command_there_is_help(capsys, monkeypatch):
  monkeypatch.setattr(sys, "argv", ["tf-hessian"])
  lib.main()
  assert "tf-hessian COMMAND" in capsys.readouterr().out


def test_unknown_command_is_answered_with_the_nearest():
  with pytest.raises(SystemExit, match="unknown command 'spectrm'; did you mean 'spectrum'"):
    lib.main(["spectrm"])


@pytest.mark.parametrize("name", ["spectrum", "plan", "local-cluster"])
def test_command_gets_its_arguments(name, monkeypatch):
  ran = []
  monkeypatch.setattr(sys, "argv", ["before"])
  monkeypatch.setattr(
    lib.runpy, "run_module", lambda module, run_name: ran.append((module, run_name, sys.argv))
  )
  lib.main([name, "--x=1"])
  module, first, _ = lib.COMMANDS[name]
  expected = [f"tf-hessian {name}", *first, "--x=1"]
  assert ran == [(f"tf_hessian.bin.{module}", "__main__", expected)]


def test_plot_shows_its_flags_without_tensorflow():
  code = (
    "import sys\n"
    "from tf_hessian.__main__ import main\n"
    "try:\n  main(['plot', '--help'])\n"
    "except SystemExit as e:\n  assert not e.code\n"
    "print('tensorflow' in sys.modules)"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
  assert "--input" in done.stdout and done.stdout.endswith("False\n"), done.stderr


def test_demo_trains_and_measures_in_one_folder(monkeypatch):
  words = []
  run = lambda w: words.append(w[3:]) or subprocess.CompletedProcess(w, 0)  # noqa: E731
  monkeypatch.setattr(lib.subprocess, "run", run)
  lib.main(["demo"])
  rest = ["--config=mnist_mlp", "--workdir=runs/mnist_mlp"]
  assert words == [["train", *rest], ["spectrum", *rest]]


def test_demo_ends_with_the_training_that_fails(monkeypatch):
  monkeypatch.setattr(lib.subprocess, "run", lambda w: subprocess.CompletedProcess(w, 3))
  with pytest.raises(SystemExit) as error:
    lib.main(["demo", "--workdir=elsewhere"])
  assert error.value.code == 3


def test_configs_of_the_package_are_known_by_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert load_config("mnist_mlp").to_dict() == load_config(ROOT / "configs/mnist_mlp.py").to_dict()


def test_files_come_before_configs_of_the_package(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "mnist_mlp").mkdir()
  with pytest.raises(ValueError, match="got a folder"):
    load_config("mnist_mlp")
