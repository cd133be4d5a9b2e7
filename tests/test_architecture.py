"""Who may import whom, and what importing alone must not do."""

import ast
import importlib
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks import rooms
import tf_hessian

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tf_hessian"
MODULES = sorted(PACKAGE.rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def name(path):
  return str(path.relative_to(ROOT))


def imports(path):
  """Yields the dotted name of everything that a file imports, also inside functions."""
  return (dotted for dotted, _ in rooms.imports(path))


def ours(path):
  return {i for i in imports(path) if i.split(".")[0] == "tf_hessian"}


def others(path):
  return {i.split(".")[0] for i in imports(path)} - {"tf_hessian"}


def python(code):
  """Runs code in a new interpreter; returns what it printed."""
  env = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, timeout=900, cwd=ROOT, env=env
  )
  assert done.returncode == 0, done.stderr
  return done.stdout.strip()


# Imports, as they are written.


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_module_imports_only_the_rooms_that_its_own_may(path):
  own = rooms.room_of(path, PACKAGE)
  assert own in rooms.MAY_IMPORT, f"{own}: a room of the package that the table does not know"
  assert {rooms.room(i) for i in ours(path)} - {own} <= rooms.MAY_IMPORT[own]
  assert not list(rooms.against_the_arrows(path, PACKAGE))


@pytest.mark.parametrize("path", sorted((PACKAGE / "numerics").rglob("*.py")), ids=name)
def test_numerics_import_numpy_scipy_and_the_standard_library_only(path):
  assert others(path) <= {"numpy", "scipy"} | sys.stdlib_module_names


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_config_imports_ml_collections_only(path):
  assert {i.split(".")[0] for i in imports(path)} == {"ml_collections"}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_only_commands_know_flags(path):
  found = {"flags", "app", "config_flags"} & {i.split(".")[-1] for i in imports(path)}
  assert not found or rooms.room_of(path, PACKAGE) == "bin"


@pytest.mark.parametrize("path", MODULES + CONFIGS, ids=name)
def test_module_has_a_docstring(path):
  assert ast.get_docstring(rooms.tree(path))


@pytest.mark.parametrize("path", sorted((PACKAGE / "bin").glob("*.py")), ids=name)
def test_command_is_under_sixty_lines_and_its_flags_under_a_hundred(path):
  text = path.read_text()
  assert len(text.splitlines()) < (60 if "__main__" in text else 100)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_module_uses_no_global_state_of_matplotlib(path):
  assert not any("pyplot" in i or "pylab" in i for i in imports(path))


# What importing does.


def test_importing_the_numerics_loads_neither_tensorflow_nor_keras_nor_matplotlib():
  code = (
    "import sys, tf_hessian, tf_hessian.numerics.lanczos\n"
    "print(*{'tensorflow', 'keras', 'matplotlib'} & set(sys.modules))"
  )
  assert python(code) == ""


def test_pictures_of_results_need_no_tensorflow():
  code = (
    "import sys, tf_hessian.bin.plot, tf_hessian.bin.curves\n"
    "from tf_hessian.experiments import pictures\n"
    "print([m for m in ('tensorflow', 'keras', 'scipy.stats') if m in sys.modules])"
  )
  assert python(code) == "[]"


def test_importing_every_module_initialises_no_device_and_parses_no_flags(forked):
  # The process that it is forked from has imported most of them, and nothing else.
  code = """
import importlib, pkgutil, tf_hessian
for m in pkgutil.walk_packages(tf_hessian.__path__, "tf_hessian."):
  importlib.import_module(m.name)
from absl import flags
import tensorflow as tf
assert not flags.FLAGS.is_parsed()
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
print(len(tf.config.list_logical_devices("CPU")))
"""
  process = forked([sys.executable, "-c", code], cwd=ROOT)
  said, error = process.communicate(timeout=900)
  assert (process.returncode, said.strip()) == (0, "2"), error


# The public names.


@pytest.mark.parametrize("public", tf_hessian.__all__)
def test_public_name_exists_and_is_documented(public):
  found = getattr(tf_hessian, public)
  assert found.__name__ == public
  # The docstring that a dataclass makes of its fields is none.
  assert found.__doc__ and not found.__doc__.startswith(f"{public}(")


@pytest.mark.parametrize("public", tf_hessian.__all__)
def test_public_name_is_found_where_it_is_defined(public):
  found = getattr(tf_hessian, public)
  assert getattr(importlib.import_module(found.__module__), public) is found


def test_public_names_are_listed():
  assert set(tf_hessian.__all__) <= set(dir(tf_hessian))


def test_unknown_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match="spectral_densety"):
    _ = tf_hessian.spectral_densety
