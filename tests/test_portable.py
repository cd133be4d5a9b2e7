"""On systems without some of Linux's calls, results are the same."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests import operators
import tf_hessian
from tf_hessian import portable
from tf_hessian.distribute import memory

ROOT = pathlib.Path(__file__).parents[1]
RUN = {"num_draws": 2, "lanczos_steps": 4, "seed": 1}

# Programs that take calls from the system before tf_hessian is imported, and measure then.
MACOS = """
import mmap, os
for module, name in ((os, "sched_getaffinity"), (os, "posix_fallocate"), (os, "O_DIRECT"),
                     (mmap, "MADV_HUGEPAGE")):
  delattr(module, name)
"""
WINDOWS = """
import signal, sys, types
found = types.SimpleNamespace(rss=2**28, vms=2**30, peak_wset=2**28)
psutil.Process = lambda: types.SimpleNamespace(memory_info=lambda: found)
sys.modules["fcntl"] = sys.modules["resource"] = None
for module, name in ((os, "O_NOFOLLOW"), (os, "O_DIRECTORY"),
                     (os, "getuid"), (os, "fork"), (os, "register_at_fork"),
                     (os, "preadv"), (os, "pwritev"), (os, "sysconf"), (mmap, "MAP_PRIVATE"),
                     (mmap, "MAP_ANONYMOUS"), (signal, "SIGALRM"), (signal, "setitimer")):
  delattr(module, name)
"""
NO_TABLES = """
exists = pathlib.Path.exists
pathlib.Path.exists = lambda path: not str(path).startswith("/proc/self") and exists(path)
"""
MEASURE = """
import sys
from tests import operators
import tf_hessian
operator = operators.make_operator()
options = %r
folder, place = sys.argv[1:]
tf_hessian.plan(operator, workdir=folder, **options)
spectra = []
for _ in range(2):  # the second one finds what there is
  storage = tf_hessian.Storage(place)
  spectra.append(tf_hessian.spectral_density(
    operator, workdir=folder, storage=storage, progress=False, **options))
import json
spectrum, again = ([x.tolist() for x in s.nodes] for s in spectra)
assert again == spectrum
print(json.dumps(spectrum))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  "system, place",
  [
    (MACOS + NO_TABLES, "disk"),
    (MACOS + WINDOWS + NO_TABLES, "disk"),
    (MACOS + WINDOWS + NO_TABLES, "memory"),
  ],
  ids=["macos", "windows", "windows in memory"],
)
def test_run_is_bitwise_the_same_without_calls_that_others_lack(system, place, tmp_path):
  first = "import pathlib, tempfile, keras, tensorflow, filelock, matplotlib, psutil\n"
  done = subprocess.run(
    [sys.executable, "-c", first + system + MEASURE % RUN, str(tmp_path / "run"), place],
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  options = RUN | {"storage": tf_hessian.Storage(place), "progress": False}
  expected = tf_hessian.spectral_density(operators.make_operator(), **options)
  assert json.loads(done.stdout.splitlines()[-1]) == [x.tolist() for x in expected.nodes]
  assert {p.name for p in tmp_path.iterdir()} == {"run"}  # no temporary folder or lock is left


def test_link_is_refused_where_opening_does_not(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("")
  (tmp_path / "link").symlink_to("file")
  monkeypatch.setattr(portable, "_NO_LINK", 0)
  with pytest.raises(OSError, match="symbolic links"):
    portable.open_no_link(tmp_path / "link", os.O_RDWR)
  os.close(portable.open_no_link(tmp_path / "file", os.O_RDWR))


def test_place_of_a_transfer_holds_without_calls_for_it(tmp_path, monkeypatch):
  monkeypatch.delattr(os, "preadv")
  monkeypatch.delattr(os, "pwritev")
  file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
  assert portable.write_at(file, [memoryview(b"abc")], 5) == 3
  found = bytearray(4)
  assert portable.read_at(file, [memoryview(found)], 4) == 4
  assert bytes(found) == b"\0abc"
  os.close(file)


def test_peak_of_memory_is_known_without_tables_of_the_kernel(monkeypatch, tmp_path):
  monkeypatch.setattr(memory, "_PROCESS", tmp_path / "none")
  assert memory.peak() > 0  # kilobytes count as bytes here, as this is not macOS
  before = memory.resident()
  held = np.ones(2 * 10**6)
  assert memory.resident() - before > 0.9 * held.nbytes
