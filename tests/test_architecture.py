"""Who may import whom, and what importing alone must not do."""

import ast
import functools
import gc
import importlib
import os
import pathlib
import subprocess
import sys

import pytest

import tf_hessian

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tf_hessian"
MODULES = sorted(PACKAGE.rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").glob("*.py"))

# The parts of the package that each part may import, besides itself; docs/ has the reasons.
MAY_IMPORT = {
  "": set(),
  "numerics": set(),
  "models": set(),
  "data": {"reading"},
  "distribute": {"numerics", "records"},
  "files": set(),
  "folders": {"files"},
  "reading": set(),
  "records": set(),
  "curvature": {"distribute", "numerics", "reading"},
  "training": {"distribute", "files", "folders", "records"},
  "plotting": {"files", "numerics", "spectrum"},  # the last in annotations alone
  "spectrum": {"files", "numerics", "plotting", "spectrum_file"},
  "spectrum_file": {"files"},
  "slq": {
    "",
    "curvature",
    "distribute",
    "files",
    "folders",
    "numerics",
    "records",
    "spectrum",
  },
  "planning": {"curvature", "distribute", "folders", "numerics", "slq"},
  "experiments": {
    "curvature",
    "data",
    "distribute",
    "files",
    "folders",
    "models",
    "numerics",
    "planning",
    "plotting",
    "slq",
    "spectrum",
    "training",
  },
  "studies": {
    "curvature",
    "experiments",
    "files",
    "numerics",
    "plotting",
    "slq",
    "spectrum",
    "training",
  },
  "bin": {"distribute", "experiments", "plotting", "slq", "spectrum", "studies"},
}


def name(path):
  return str(path.relative_to(ROOT))


def part(module):
  """Returns the part of the package that a dotted name belongs to; "" is the package itself."""
  names = module.split(".")[1:]
  return names[0] if names and names[0] in MAY_IMPORT else ""


def part_of_file(path):
  return path.relative_to(PACKAGE).with_suffix("").parts[0].replace("__init__", "")


@functools.cache
def tree(path):
  """Returns the syntax tree of a file."""
  # A finalizer that parses too, run meanwhile, makes Python 3.11 miscount the depth of the tree.
  gc.disable()
  try:
    return ast.parse(path.read_text())
  finally:
    gc.enable()


def imports(path):
  """Yields the dotted name of everything that a file imports, also inside functions."""
  for node in ast.walk(tree(path)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


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
def test_module_imports_only_the_parts_that_its_own_may(path):
  own = part_of_file(path)
  assert own in MAY_IMPORT, f"{own}: a part of the package that the table does not know"
  assert {part(i) for i in ours(path)} - {own} <= MAY_IMPORT[own]


@pytest.mark.parametrize("path", sorted((PACKAGE / "numerics").rglob("*.py")), ids=name)
def test_numerics_import_numpy_scipy_and_the_standard_library_only(path):
  assert others(path) <= {"numpy", "scipy"} | sys.stdlib_module_names


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_config_imports_ml_collections_only(path):
  assert {i.split(".")[0] for i in imports(path)} == {"ml_collections"}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_only_commands_know_flags(path):
  found = {"flags", "app", "config_flags"} & {i.split(".")[-1] for i in imports(path)}
  assert not found or part_of_file(path) == "bin"


@pytest.mark.parametrize("path", MODULES + CONFIGS, ids=name)
def test_module_has_a_docstring(path):
  assert ast.get_docstring(tree(path))


@pytest.mark.parametrize("path", sorted((PACKAGE / "bin").glob("*.py")), ids=name)
def test_command_is_under_sixty_lines_and_its_flags_under_a_hundred(path):
  text = path.read_text()
  limit = 60 if "__main__" in text else 100
  assert len(text.splitlines()) < limit


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


def test_importing_every_module_initialises_no_device_and_parses_no_flags():
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
  assert python(code) == "2"


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
