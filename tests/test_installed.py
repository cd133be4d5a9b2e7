"""Packages that are too old are named before they fail."""

from importlib import metadata
import subprocess
import sys

import pytest

import tf_hessian
from tf_hessian import installed

NEEDED = ["keras>=3.8.0", "numpy>=2.0.0", 'pytest>=8; extra == "test"']


@pytest.fixture
def versions(monkeypatch):
  """Versions that are there, of packages that are needed."""
  found = {"keras": "3.8.0", "numpy": "2.10.1"}

  def version(name):
    if name not in found:
      raise metadata.PackageNotFoundError(name)
    return found[name]

  monkeypatch.setattr(metadata, "requires", lambda _: NEEDED)
  monkeypatch.setattr(metadata, "version", version)
  installed.check.cache_clear()
  yield found
  installed.check.cache_clear()


@pytest.mark.parametrize("keras", ["3.8", "3.8.0", "3.8.1", "3.10.0", "4", "3.9.0rc1", "3.8.dev1"])
def test_new_ones_will_do(versions, keras):
  versions["keras"] = keras
  installed.check()


@pytest.mark.parametrize("keras", ["3.7.9", "2.15", "3", "3.7.0.dev20", "0"])
def test_old_one_is_named_with_what_is_needed_at_first_use(versions, keras):
  versions["keras"] = keras
  with pytest.raises(ImportError, match=f"needs keras 3.8.0 or newer, and {keras} is installed"):
    tf_hessian.spectral_density  # noqa: B018


def test_package_of_another_name_is_not_looked_for(versions):
  del versions["keras"]
  installed.check()


def test_package_itself_may_be_on_the_path_only(versions, monkeypatch):  # noqa: ARG001
  def requires(name):
    raise metadata.PackageNotFoundError(name)

  monkeypatch.setattr(metadata, "requires", requires)
  installed.check()


def test_command_says_it_in_a_line():
  code = (
    "from importlib import metadata\n"
    "metadata.requires, metadata.version = lambda _: ['keras>=3.8'], lambda _: '3.7'\n"
    "import runpy; runpy.run_module('tf_hessian.bin.plot', run_name='__main__')"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
  assert done.returncode == 1
  assert done.stderr.startswith("error: tf_hessian needs keras 3.8 or newer, and 3.7 is installed")
  assert len(done.stderr.splitlines()) == 1
