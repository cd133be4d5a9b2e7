"""Mistakes in the flags end a command before it does anything: by a line, with exit code 1.

All flags of all commands are given all kinds of wrong values, in this process; a sample of them is
given to the commands themselves.
"""

import importlib
import os
import pathlib
import re
import sys

from absl import app, flags
from absl.testing import flagsaver
import numpy as np
import pytest

from tf_hessian.bin import flags as shared
from tf_hessian.bin import kinds, parsing

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = "--config=configs/synthetic_quadratic.py"
COMMANDS = sorted(
  p.stem for p in (ROOT / "tf_hessian" / "bin").glob("*.py") if "__main__" in p.read_text("utf-8")
)
for _module in (ROOT / "tf_hessian" / "bin").glob("[a-z]*.py"):
  importlib.import_module(f"tf_hessian.bin.{_module.stem}")
OURS = {
  flag.name: flag
  for module, known in flags.FLAGS.flags_by_module_dict().items()
  if module.startswith("tf_hessian.bin.")
  for flag in known
}
HUGE = "100000000000000000000"
WRONG = ("many", "", "-1", "0", HUGE, "1e308", "nan", "inf", "-inf", "none.npz", "\0")


def parse(*arguments):
  """Returns (what a command says of its flags, None if they are right, and their values)."""
  argv = ["command", *arguments]
  with flagsaver.flagsaver(), pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "argv", argv)
    patch.chdir(ROOT)
    try:
      parsing.parse(argv)
    except SystemExit as e:
      return str(e.code), {}
    return None, {name: flag.value for name, flag in OURS.items()}


def is_a_line(text):
  return text.startswith("error: ") and "\n" not in text and "Traceback" not in text


# All flags.

# Of what is not refused: flag -> what it may be, since it means something.
MEANT = {
  "num_devices": {"0"},  # all there are
  "intra_op_threads": {"0"},  # TensorFlow's choice
  "inter_op_threads": {"0"},
  "largest": {"0"},
  "ps": {"0"},
  "smallest": {"0"},
  "step": {"0"},
}
SENTENCES = {
  "column",
  "data",
  "figure",
  "limits",
  "loss",
}  # any text may be one; what it names is looked up later
PATHS = {
  "checkpoint", "configs", "data_dir", "exact", "input", "model", "out", "output", "page",
  "picture", "results", "workdir",
}  # fmt: skip


def test_there_are_all_commands_and_flags():
  assert COMMANDS == [
    "curves", "document", "eigenpairs", "local_cluster", "plot", "reproduce", "spectrum", "train",
    "verify",
  ]  # fmt: skip
  assert {"config", "workdir", "recompute_blocks", "storage_memory", "patience"} <= OURS.keys()
  assert OURS.keys() >= PATHS and len(OURS) > 40


@pytest.mark.parametrize("name", sorted(OURS))
def test_wrong_value_is_refused_in_a_line_that_names_the_flag(name):
  """Or it means something: a number within the flag's bounds, a path."""
  for text in WRONG:
    said, values = parse(f"--{name}={text}")
    if said is not None:
      assert is_a_line(said) and f"--{name}" in said, (text, said)
      continue
    value = values[name]
    if isinstance(value, bool):
      assert text in ("0", "")  # by absl, which takes --flag= for --noflag
    elif isinstance(value, int):
      assert text in MEANT.get(name, ())
    elif isinstance(value, float):
      pytest.fail(f"--{name}={text} is taken for {value}")
    elif name in PATHS:
      assert text.strip("\0")
    else:
      assert name in SENTENCES


@pytest.mark.parametrize("name", sorted(n for n, f in OURS.items() if f.flag_type() == "int"))
def test_number_beyond_all_sizes_is_refused(name):
  for text in (HUGE, "1000000000000000", "-1"):
    said, _ = parse(f"--{name}={text}")
    assert is_a_line(said) and f"--{name}={text}" in said


@pytest.mark.parametrize("name", sorted(n for n, f in OURS.items() if f.flag_type() == "float"))
@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e308", "-1", "0", ""])
def test_number_that_none_can_mean_is_refused(name, text):
  said, _ = parse(f"--{name}={text}")
  assert is_a_line(said) and f"--{name}" in said


# Paths.


@pytest.mark.parametrize("name", sorted(PATHS))
def test_tilde_is_the_home_folder(name, monkeypatch):
  monkeypatch.setenv("HOME", "/home/of-mine")
  _, values = parse(f"--{name}=~/x.npz")
  assert values[name] in ("/home/of-mine/x.npz", ["/home/of-mine/x.npz"])


def test_tilde_after_a_name_is_the_home_folder(monkeypatch):
  monkeypatch.setenv("HOME", "/home/of-mine")
  _, values = parse("--input=a=~/x.npz,b=y~.npz")
  assert values["input"] == ["a=/home/of-mine/x.npz", "b=y~.npz"]


@pytest.mark.parametrize("text", ["", " ", "\0", "a\0b"])
def test_empty_path_is_refused(text):
  with pytest.raises(ValueError, match="a path is expected"):
    kinds.expanded(text)


@pytest.mark.parametrize("text", ["runs/a", "/a b", "lr=0.1/x", "a~", "name=runs/~"])
def test_other_paths_are_left_as_they_are(text):
  assert kinds.expanded(text) == text


# The config file.


@pytest.fixture
def user_file(tmp_path):
  """Returns a function: (name, content) -> path of a new file."""

  def write(name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path

  return write


@pytest.mark.parametrize(
  "name, content, message",
  [
    ("text.txt", "some words of a note", "expected a Python file: (Syntax|Value)Error"),
    ("binary", bytes(range(256)), "expected a Python file: (Syntax|Value)Error"),
    ("data.npz", np.arange(9.0).tobytes(), "expected a Python file: (Syntax|Value)Error"),
    ("empty.py", "", "with a function get_config, and it has none"),
    ("value.py", "get_config = 3", "with a function get_config, and it has none"),
    ("raises.py", "x = 1\n1 / 0", "it fails: ZeroDivisionError: division by zero, in line 2"),
    ("ends.py", "raise SystemExit(3)", "it fails: SystemExit: 3, in line 1"),
    ("missing.py", "import nothing_like_it", "it fails: ModuleNotFoundError: No module named"),
    ("opens.py", "open('/none/there')", "it fails: FileNotFoundError"),
    ("lines.py", "raise ValueError('a\\nb')", "it fails: ValueError: a b, in line 1"),
    ("fails.py", "def get_config():\n  return nope", "get_config fails: NameError: .*, in line 2"),
    ("wants.py", "def get_config(x):\n  return x", "get_config fails: TypeError"),
    (
      "none.py",
      "def get_config():\n  pass",
      "a ml_collections.ConfigDict|ConfigDict, got NoneType",
    ),
    ("dict.py", "def get_config():\n  return {}", "ConfigDict, got dict"),
  ],
)
@pytest.mark.parametrize("override", [(), ("--config.seed=1",)])
def test_bad_config_file_is_refused_in_a_line(user_file, name, content, message, override):
  path = user_file(name, content)
  said, _ = parse(f"--config={path}", *override)
  assert is_a_line(said) and str(path) in said
  assert re.search(message, said)


@pytest.mark.parametrize(
  "path, message",
  [
    ("", "a path is expected"),
    ("configs", "got a folder (of cifar10_resnet32.py, "),
    ("configs/none.py", "configs/none.py: there is no such config"),
    ("configs/mnist_mpl.py", "did you mean configs/mnist_mlp.py?"),
    ("README.md/x.py", "there is no such config"),
    ("~/none.py", "none.py: there is no such config"),
    ("configs/mnist_mlp.py:large", "its get_config fails: TypeError"),
  ],
)
@pytest.mark.parametrize("override", [(), ("--config.seed=1",)])
def test_path_of_no_config_is_refused_in_a_line(path, message, override):
  said, _ = parse(f"--config={path}", *override)
  assert is_a_line(said) and f"--config={path}" in said and message in said


def test_argument_of_a_config_is_given_to_it(user_file):
  body = (
    "from ml_collections import ConfigDict\ndef get_config(name):\n  return ConfigDict({'a': name})"
  )
  _, values = parse(f"--config={user_file('with.py', body)}:large")
  assert values["config"].a == "large"


@pytest.mark.parametrize(
  "override, message",
  [
    ("lanczos.draw=3", "did you mean lanczos.draws"),
    ("lanczos.stepz=3", "did you mean lanczos.steps"),
    ("trainn.steps=3", "did you mean train.steps"),
    ("steps=3", "did you mean lanczos.steps or train.steps?"),
    ("lanczos.batch_sise=3", "did you mean"),
    ("nope=1", "the config has no such field; it has data.bulk, "),
    ("=1", "the config has no such field; it has data.bulk, "),
    ("seed.x=1", "did you mean seed?"),
    ("seed=many", "--config.seed=many: "),
    ("seed=", "--config.seed=: "),
    ("train.steps=2.5", "--config.train.steps=2.5: "),
    ("hessian.training=3", "--config.hessian.training=3: "),
    ("density.sigma_squared=small", "--config.density.sigma_squared=small: "),
    ("lanczos=3", "--config.lanczos=3: "),
    ("data.outliers[7]=1", "an override of a config's field can't be read"),
    ("data.outliers[x]=1", ""),
  ],
)
def test_bad_override_is_refused_in_a_line(override, message):
  said, _ = parse(CONFIG, f"--config.{override}")
  assert is_a_line(said) and message in said


def test_override_before_its_config_is_refused_in_a_line():
  said, _ = parse("--config.seed=1", CONFIG)
  assert is_a_line(said) and "before a value for --config" in said


def test_overrides_are_those_of_the_config():
  said, values = parse(CONFIG, "--config.lanczos.draws=3", "--noconfig.model.use_bias")
  assert said is None
  assert values["config"].lanczos.draws == 3 and values["config"].model.use_bias is False


# Other flags.


@pytest.mark.parametrize(
  "flag", ["--help", "--helpshort", "--helpfull", "--helpxml", "-?", "--only_check_flags"]
)
@pytest.mark.usefixtures("help_flags")
def test_help_is_no_error(flag, capsys):
  if flag == "--only_check_flags" and flag.lstrip("-") not in flags.FLAGS:
    pytest.skip("an earlier absl")
  said, _ = parse(flag)
  assert said == "0"
  assert capsys.readouterr().out


@pytest.fixture
def help_flags():
  app.define_help_flags()


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--inital"], "Did you mean: initial"),
    ([CONFIG, "--target_error=0.1"], "there is --config.lanczos.target_error"),
    (["--storage_memory=0"], "--storage_memory=0: "),
    (["--recompute_blocks=99999999999999999999"], "--recompute_blocks=99999999999999999999: "),
    (["--plan_workers=99999999999999999999"], "--plan_workers=99999999999999999999: "),
    (["--patience=nan"], "--patience=nan: "),
    (["--storage=tape"], "--storage=tape: "),
    (["--config.hessian.matrix=fisher"], "with --model and --data give --config=own_model too"),
    (["--memory_budget=12"], "it is --storage_memory, in bytes, now"),
    (["--basis=disk"], "it is --storage and --storage_dtype now"),
    (["--flagfile=none"], "none"),
    (["--workdir"], "workdir"),
  ],
)
def test_mistake_is_named(arguments, message):
  said, _ = parse(*arguments)
  assert is_a_line(said) and message in said


def test_what_is_no_flag_is_handed_on():
  with flagsaver.flagsaver():
    assert parsing.parse(["command", "--linear", "a", "b"]) == ["command", "a", "b"]


# What main raises.


@pytest.fixture
def outcome(monkeypatch):
  """Returns a function: main -> what the process ends with."""
  monkeypatch.setattr(sys, "argv", ["command"])

  def run(main, **options):
    def app_run(guarded, flags_parser):
      with flagsaver.flagsaver():
        guarded(flags_parser(sys.argv))

    monkeypatch.setattr(shared.app, "run", app_run)
    with pytest.raises(SystemExit) as e:
      shared.run_plain(main, **options)
    return e.value.code

  return run


class ResourceExhaustedError(Exception):
  """Named as TensorFlow's."""


@pytest.mark.parametrize(
  "error, message",
  [
    (ValueError("a\nb"), "error: a b"),
    (TypeError("x: expected"), "error: x: expected"),
    (FileNotFoundError("no file"), "error: no file"),
    (KeyboardInterrupt(), "interrupted; the same command goes on from here"),
    (MemoryError("of 8 GB"), "error: out of memory (of 8 GB): give it more, or make it smaller: "),
    (OSError(12, "Cannot allocate"), "error: out of memory ([Errno 12] Cannot allocate): "),
    (ImportError("x.so: failed to map segment"), "error: out of memory (x.so: failed to map"),
    (ResourceExhaustedError("OOM when"), "error: out of memory (OOM when): "),
  ],
)
@pytest.mark.usefixtures("streams")
def test_error_is_a_line(outcome, error, message):
  def main():
    raise error

  said = outcome(main)
  assert said.startswith(message) and "\n" not in said


@pytest.mark.parametrize("options", [{}, {"arguments": True}])
@pytest.mark.parametrize("flag", [CONFIG, "--workdir=x"])
@pytest.mark.usefixtures("streams")
def test_flag_that_would_do_nothing_is_refused(outcome, monkeypatch, flag, options):
  monkeypatch.setattr(sys, "argv", ["command", flag])
  said = outcome(lambda *_: None, **options)
  assert said.startswith(f"error: {flag.partition('=')[0]}: this command has no such flag")
  assert ("after --" in said) == bool(options)


@pytest.mark.usefixtures("streams")
def test_mistake_of_ours_has_a_traceback(monkeypatch):
  monkeypatch.setattr(sys, "argv", ["command"])

  def app_run(guarded, flags_parser):
    with flagsaver.flagsaver():
      guarded(flags_parser(sys.argv))

  monkeypatch.setattr(shared.app, "run", app_run)

  def main():
    raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    shared.run_plain(main)


@pytest.mark.usefixtures("streams")
def test_unknown_argument_is_refused(outcome, monkeypatch):
  monkeypatch.setattr(sys, "argv", ["command", "more"])
  assert outcome(lambda: None).startswith("error: unknown argument 'more'")


@pytest.fixture
def streams(monkeypatch):
  """Leaves the streams and logs of this process as they are."""
  monkeypatch.setattr(shared.logs, "make_printable", lambda: None)
  monkeypatch.setattr(shared.logs, "set_up", lambda: None)


# The commands themselves.

REAL = {
  "misspelt field": ("spectrum", CONFIG, "{}", "--config.lanczos.stepz=3"),
  "huge number": ("spectrum", CONFIG, "{}", "--initial", "--config.lanczos.draws=1000000000"),
  "huge blocks": ("spectrum", CONFIG, "{}", "--initial", "--recompute_blocks=1000000"),
  "many machines": ("spectrum", CONFIG, "{}", "--initial", "--plan_workers=10000000000"),
  "huge model": ("train", CONFIG, "{}", "--config.model.hidden_units=(1000000000,)"),
  "huge data": ("train", CONFIG, "{}", "--config.data.num_examples=1000000000"),
  "huge batch": ("train", CONFIG, "{}", "--config.train.batch_size=1000000000"),
  "no checkpoint": ("spectrum", CONFIG, "{}"),
  "no step": ("spectrum", CONFIG, "{}", "--step=3"),
  "no data": ("train", "--config=configs/cifar10_resnet32.py", "{}", "--data_dir=/none/there"),
  "no activation": (
    "train",
    CONFIG,
    "{}",
    "--config.model.num_classes=10000",
    "--strategy=mirrored",
  ),
  "empty exact": ("plot", "--input=a.npz", "--output=a.png", "--exact="),
  "no input": ("plot", "--input=none.npz", "--output=a.png"),
  "no figure": ("reproduce", "--figure=99", "--out={}"),
  "no results": ("document", "--results=/none/there", "--page=/none/there.md"),
  "no curves": ("curves", "--picture=a.png", "/none/there"),
  "no config": ("train", "{}"),
  "argument": ("train", CONFIG, "{}", "more"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_command_ends_with_a_line_and_exit_code_1(run, tmp_path, name):
  folder = tmp_path / "run"
  command, *arguments = REAL[name]
  arguments = [f"--workdir={folder}" if a == "{}" else a.format(folder) for a in arguments]
  done = run(command, *arguments, really=True)
  assert done.returncode == 1, done.stderr
  lines = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
  assert len(lines) == 1 and "Traceback" not in done.stderr
  assert not list(folder.glob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_ends_well(run, command):
  done = run(command, "--help", really=True)
  assert done.returncode == 0 and "python -m tf_hessian.bin" in done.stdout


@pytest.mark.slow
def test_run_ends_well_where_nothing_but_ascii_can_be_shown(run, tmp_path, monkeypatch):
  monkeypatch.setitem(os.environ, "PYTHONIOENCODING", "ascii")
  monkeypatch.setitem(os.environ, "LC_ALL", "C")
  arguments = "--initial", "--nocheck", "--config.lanczos.draws=2", "--config.lanczos.steps=5"
  done = run("spectrum", CONFIG, f"--workdir={tmp_path / 'größe'}", *arguments, really=True)
  assert done.returncode == 0, done.stderr
  assert " +- " in done.stdout and "gr\\xf6\\xdfe" in done.stdout
  assert (tmp_path / "größe" / "spectrum_initial" / "spectrum.png").exists()


def test_memory_of_large_machines_can_be_given():
  said, values = parse("--storage_memory=4e12")
  assert said is None and values["storage_memory"] == 4e12
