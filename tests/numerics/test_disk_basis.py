"""Bases in files: what they hold, what they take, and whose the files are."""

import errno
import mmap
import os

import numpy as np
import pytest

from tf_hessian.numerics.disk_basis import DiskBasis, aligned, buffer_bytes, file_bytes
from tf_hessian.numerics.lanczos import Lanczos
from tf_hessian.numerics.memory_basis import mapped
from tf_hessian.numerics.probes import probe
from tf_hessian.numerics.results import LanczosStatus

# One piece; several pieces in two blocks of a file, the last ones not full; several in memory only.
SIZES = [100, 5000, 70_001, 20_000]
STEPS = 7
IN_FILES = ["disk", "disk resident", "disk float32", "disk float32 resident"]
KINDS = pytest.mark.parametrize("kind", ["memory", "memory float32", *IN_FILES])


# What files hold.


@pytest.mark.parametrize("kind", IN_FILES)
@pytest.mark.parametrize("n", [100, 70_001])
def test_recurrence_goes_on_from_its_file_bitwise(new, kind, n, run, assert_same_tridiagonal):
  h = np.linspace(-1, 3, n)
  expected = run(new(kind, STEPS, n, "whole"), lambda v: h * v)
  basis = new(kind, STEPS, n)
  basis.store(0, probe(0, 0, n))
  lanczos = Lanczos(basis)
  while lanczos.status is LanczosStatus.RUNNING:
    lanczos.step(lambda v: h * v)
    coefficients = lanczos.coefficients()
    lanczos.vectors.flush()
    lanczos.vectors.close()
    lanczos = Lanczos(new(kind, STEPS, n))
    lanczos.restore(coefficients)
  assert_same_tridiagonal(lanczos, expected)


def test_file_written_with_resident_blocks_is_read_without(new, random_rows, fill, stored):
  rows = random_rows(STEPS, 70_001)
  fill(new("disk resident", STEPS, 70_001), rows).close()
  np.testing.assert_array_equal(stored(new("disk", STEPS, 70_001), STEPS), rows)


def test_resident_blocks_are_whole_and_at_most_as_large_as_asked(new):
  size = file_bytes(STEPS, 70_001, np.float64)
  for asked, expected in [(0, 0), (size // 2 - 1, 0), (size - 1, size // 2), (2 * size, size)]:
    assert new("disk", STEPS, 70_001, resident_bytes=asked).resident_bytes == expected


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_file_has_the_size_that_is_foretold(tmp_path, n, dtype):
  DiskBasis(tmp_path / "basis", STEPS, n, dtype=dtype).close()
  size = (tmp_path / "basis").stat().st_size
  assert size == file_bytes(STEPS, n, dtype)
  # At most a page or a piece more than the rows, for each of them and each block.
  assert STEPS * n * np.dtype(dtype).itemsize <= size
  assert size <= STEPS * (n + max(1024, n // 4)) * np.dtype(dtype).itemsize


def test_file_system_without_direct_access_will_do(new, monkeypatch, random_rows, fill, stored):
  original = os.open

  def refusing(path, flags, *args):
    if flags & os.O_DIRECT:
      raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return original(path, flags, *args)

  monkeypatch.setattr(os, "open", refusing)
  rows = random_rows(STEPS, 5000)
  np.testing.assert_array_equal(stored(fill(new("disk", STEPS, 5000), rows), STEPS), rows)


def test_interrupted_transfers_go_on_where_they_ended(new, monkeypatch, random_rows, fill, stored):
  original = {"preadv": os.preadv, "pwritev": os.pwritev}
  monkeypatch.setattr(
    os, "preadv", lambda f, b, at: original["preadv"](f, [b[0][: -(-len(b[0]) // 8192) * 4096]], at)
  )
  monkeypatch.setattr(
    os,
    "pwritev",
    lambda f, b, at: original["pwritev"](f, [b[0][: -(-len(b[0]) // 8192) * 4096]], at),
  )
  rows = random_rows(STEPS, 5000)
  np.testing.assert_array_equal(stored(fill(new("disk", STEPS, 5000), rows), STEPS), rows)


def test_system_without_huge_pages_will_do(new, monkeypatch, random_rows, fill, stored):
  class Refusing(mmap.mmap):
    def madvise(self, *_):
      raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

  monkeypatch.setattr(mmap, "mmap", Refusing)
  rows = random_rows(STEPS, 5000)
  np.testing.assert_array_equal(stored(fill(new("disk", STEPS, 5000), rows), STEPS), rows)


# Mistakes.


def test_no_room_on_the_disk_is_an_error_before_anything(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, "posix_fallocate", full)
  with pytest.raises(OSError, match=f"{tmp_path}/basis: no room for the Lanczos basis of .* GiB"):
    DiskBasis(tmp_path / "basis", 90, 10**7)


def test_path_that_can_not_be_written_is_named(tmp_path):
  with pytest.raises(OSError, match=f"can't write {tmp_path}/none/basis"):
    DiskBasis(tmp_path / "none" / "basis", 3, 100)


def test_file_that_shrinks_is_an_error_with_its_name(new, tmp_path, random_rows, fill):
  basis = fill(new("disk", STEPS, 5000), random_rows(STEPS, 5000))
  os.truncate(tmp_path / "basis", 0)
  with pytest.raises(OSError, match=f"{tmp_path}/basis: the file has become shorter"):
    basis.row(0)


def test_error_of_the_disk_names_the_file(new, tmp_path, monkeypatch, random_rows, fill):
  basis = fill(new("disk", STEPS, 70_001), random_rows(STEPS, 70_001))

  def failing(*_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  monkeypatch.setattr(os, "preadv", failing)
  with pytest.raises(OSError, match=f"{tmp_path}/basis: Input/output error"):
    basis.orthogonalize(np.ones(70_001), 3, 0.0)


def test_no_room_in_the_temporary_folder_names_it(tmp_path, monkeypatch):
  monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

  def full(*_):
    raise OSError(errno.ENOSPC, "full")

  monkeypatch.setattr(os, "posix_fallocate", full)
  with pytest.raises(OSError, match=f"a file in {tmp_path}: no room for the Lanczos basis"):
    DiskBasis(None, 3, 5)


# Memory.


@KINDS
def test_buffers_take_what_is_foretold(new, kind, random_rows, fill):
  basis = fill(new(kind, STEPS, 70_001), random_rows(STEPS, 70_001))
  basis.orthogonalize(np.ones(70_001), 3, 0.0)
  held = [basis._scratch.get() for _ in range(basis._scratch.qsize())]
  allocated = sum(a.nbytes for scratch in held for a in scratch if a is not None)
  assert allocated == buffer_bytes(STEPS, 70_001, basis.dtype, disk="disk" in kind)


@pytest.mark.skipif(not os.path.exists("/sys/kernel/mm/transparent_hugepage"), reason="none here")
def test_memory_that_the_disk_fills_is_to_be_of_huge_pages():
  array = aligned((3, 2**20), np.float64)
  assert array.ctypes.data % 2**21 == 0
  flags = next(flags for span, flags in mappings() if span[0] <= array.ctypes.data < span[1])
  assert "hg" in flags


def mappings():
  """Yields (begin and end, flags) of each mapping of this process."""
  with open("/proc/self/smaps") as lines:
    for line in lines:
      first, *rest = line.split()
      if "-" in first:
        span = [int(x, 16) for x in first.split("-")]
      elif first == "VmFlags:":
        yield span, rest


# Whose files they are.


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("make", [lambda p: DiskBasis(p, 3, 5), lambda p: mapped(p, 3, 5, float)])
def test_file_of_another_name_is_not_opened(tmp_path, link, make):
  (tmp_path / "target").write_text("mine")
  link(tmp_path / "target", tmp_path / "basis")
  with pytest.raises(OSError, match=f"can't write {tmp_path}/basis: it is .*remove it"):
    make(tmp_path / "basis")
  assert (tmp_path / "target").read_text() == "mine"


def test_pipe_is_not_opened(tmp_path):
  os.mkfifo(tmp_path / "basis")
  with pytest.raises(OSError, match=f"can't write {tmp_path}/basis: it is not a file"):
    DiskBasis(tmp_path / "basis", 3, 5)


def test_basis_without_a_file_is_in_one_that_has_no_name(tmp_path, monkeypatch):
  monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
  basis = DiskBasis(None, 3, 5)
  basis.store(1, np.arange(5.0))
  assert not list(tmp_path.iterdir())
  np.testing.assert_array_equal(basis.row(1), np.arange(5.0))
  basis.close()
