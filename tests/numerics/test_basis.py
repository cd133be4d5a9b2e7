"""All kinds of basis hold the same rows and do the same sums; what rounding to float32 costs."""

import errno
import io
import mmap
import os

import numpy as np
import pytest
import scipy.fft

from tf_hessian.numerics import basis as basis_module
from tf_hessian.numerics.basis import (
  DiskBasis,
  MemoryBasis,
  aligned,
  as_basis,
  buffer_bytes,
  file_bytes,
  mapped,
  orthogonalize,
)
from tf_hessian.numerics.density import density_grid, l1_distance, smooth
from tf_hessian.numerics.lanczos import Lanczos, ritz_pairs
from tf_hessian.numerics.probes import probe
from tf_hessian.numerics.quadrature import gauss_quadrature
from tf_hessian.numerics.results import LanczosStatus

EPS = np.finfo(np.float64).eps
HALF_ULP = 2.0**-24  # of float32
# One piece; several pieces in two blocks of a file, the last ones not full; several in memory only.
SIZES = [100, 5000, 70_001, 20_000]
STEPS = 7


@pytest.fixture
def new(tmp_path):
  """Returns a function that makes a basis of a kind, and closes them all at the end."""
  made = []

  def make(kind, steps, n, path="basis", **options):
    dtype = np.float32 if "float32" in kind else np.float64
    if "memory" in kind:
      made.append(MemoryBasis(np.empty((steps, n), dtype)))
    else:
      if "resident" in kind:  # its first block, which may be the only one
        options["resident_bytes"] = file_bytes(steps, min(n, 2**15), dtype) + 2**20
      made.append(DiskBasis(tmp_path / path, steps, n, dtype=dtype, **options))
    return made[-1]

  yield make
  for basis in made:
    basis.close()


FLOAT64 = ["memory", "disk", "disk resident"]
FLOAT32 = ["memory float32", "disk float32", "disk float32 resident"]
KINDS = pytest.mark.parametrize("kind", FLOAT64 + FLOAT32)


def random_rows(steps, n):
  """Returns orthonormal rows (steps, n)."""
  q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((n, steps)))
  return q.T.copy()


def fill(basis, rows):
  for j, row in enumerate(rows):
    basis.store(j, row)
  return basis


def stored(basis, count):
  return np.array([basis.row(j) for j in range(count)])


def run(basis, matvec, draw=0):
  basis.store(0, probe(0, draw, basis.n))
  lanczos = Lanczos(basis)
  lanczos.run(matvec)
  return lanczos


def assert_same_tridiagonal(first, second):
  np.testing.assert_array_equal(first.alphas, second.alphas)
  np.testing.assert_array_equal(first.betas, second.betas)
  assert (first.scale, first.status) == (second.scale, second.status)


# Rows.


@KINDS
@pytest.mark.parametrize("n", SIZES)
def test_rows_are_those_that_were_stored(new, kind, n):
  rows = random_rows(STEPS, n)
  basis = fill(new(kind, STEPS, n), rows)
  np.testing.assert_array_equal(stored(basis, STEPS), rows.astype(basis.dtype))


@KINDS
def test_row_is_float64_and_read_only(new, kind):
  row = fill(new(kind, STEPS, 100), random_rows(STEPS, 100)).row(3)
  assert row.dtype == np.float64
  with pytest.raises(ValueError, match="read-only"):
    row[0] = 1


@KINDS
def test_row_can_be_stored_again(new, kind):
  rows = random_rows(STEPS, 20_000)
  basis = fill(new(kind, STEPS, 20_000), rows)
  basis.store(2, rows[0])
  np.testing.assert_array_equal(basis.row(2), basis.row(0))
  np.testing.assert_array_equal(basis.row(3), rows[3].astype(basis.dtype))


@KINDS
@pytest.mark.parametrize("n", SIZES)
def test_combinations_are_those_of_the_rows(new, kind, n):
  basis = fill(new(kind, STEPS, n), random_rows(STEPS, n))
  coefficients = np.random.default_rng(1).standard_normal((3, 5))
  expected = coefficients @ stored(basis, 5)
  np.testing.assert_allclose(basis.combine(coefficients), expected, rtol=0, atol=50 * EPS)


# Orthogonalization.


@KINDS
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("recent", [None, 2])
def test_what_is_left_of_a_vector_is_orthogonal_to_the_rows(new, kind, n, recent):
  basis = fill(new(kind, STEPS, n), random_rows(STEPS, n))
  w = np.random.default_rng(2).standard_normal(n)
  basis.orthogonalize(w, 5, 0.0, recent=recent)
  # What the only pass over all rows leaves of overlaps of about 1 is what rows in float32 lack in
  # being orthonormal; in a recurrence they are rounding errors before that pass.
  atol = 10 * np.sqrt(n) * EPS * np.linalg.norm(w)
  if basis.dtype == np.float32:
    atol += 10 * (HALF_ULP if recent else HALF_ULP**2)
  np.testing.assert_allclose(stored(basis, 5) @ w, 0, rtol=0, atol=atol)


@KINDS
@pytest.mark.parametrize("n", SIZES)
def test_vector_is_its_overlaps_and_what_is_left(new, kind, n):
  basis = fill(new(kind, STEPS, n), random_rows(STEPS, n))
  before = np.random.default_rng(2).standard_normal(n)
  w = before.copy()
  overlaps, length = basis.orthogonalize(w, 5, 0.0, recent=2)
  np.testing.assert_allclose(w + overlaps @ stored(basis, 5), before, rtol=0, atol=1e-13)
  assert abs(length - np.linalg.norm(w)) <= 100 * EPS * length


@pytest.mark.parametrize("n", SIZES)
def test_overlaps_are_those_of_the_dense_product(new, n):
  rows = random_rows(STEPS, n)
  w = np.random.default_rng(2).standard_normal(n)
  expected = rows @ w
  overlaps, _ = fill(new("disk", STEPS, n), rows).orthogonalize(w, STEPS, 0.0)
  np.testing.assert_allclose(overlaps, expected, rtol=0, atol=n * EPS)


def test_vector_in_the_span_is_passed_over_until_nothing_but_rounding_is_left(new):
  rows = random_rows(STEPS, 100)
  w = np.ones(STEPS) @ rows
  overlaps, length = fill(new("memory", STEPS, 100), rows).orthogonalize(w, STEPS, 1e-13, recent=2)
  assert length <= 1e-13
  np.testing.assert_allclose(overlaps, 1, rtol=0, atol=100 * EPS)


def test_recent_pass_alone_is_never_trusted(new):
  # Nothing of the last two rows is in w, so the first pass removes nothing.
  rows = random_rows(STEPS, 100)
  w = probe(0, 0, 100)
  w -= (rows[-2:] @ w) @ rows[-2:]
  w += 0.1 * rows[0]
  fill(new("memory", STEPS, 100), rows).orthogonalize(w, STEPS, 0.0, recent=2)
  assert np.abs(rows @ w).max() <= 100 * EPS


def test_pass_that_removes_most_of_a_vector_is_not_trusted(new):
  # What is left after it has the rounding errors of the whole, and is 1e-9 of it.
  rows = random_rows(STEPS + 1, 100)
  basis, w = fill(new("memory", STEPS, 100), rows[:-1]), rows[0] + 1e-9 * rows[-1]
  _, length = basis.orthogonalize(w, STEPS, 0.0, recent=2)
  assert abs(length - 1e-9) <= 100 * EPS
  assert np.abs(rows[:-1] @ w).max() <= 100 * EPS * length


def test_plain_array_without_rows_leaves_the_vector():
  w = np.arange(3.0)
  overlaps, length = orthogonalize(w, np.empty((0, 3)), 0.0)
  assert (overlaps.size, length) == (0, np.sqrt(5))
  np.testing.assert_array_equal(w, np.arange(3.0))


@pytest.mark.parametrize("kind", ["memory", "disk float32"])
def test_no_rows_leave_the_vector(new, kind):
  w = np.ones(70_001)
  overlaps, length = new(kind, STEPS, w.size).orthogonalize(w, 0, 0.0)
  assert overlaps.size == 0
  assert length == pytest.approx(np.sqrt(w.size), rel=1e-14)
  np.testing.assert_array_equal(w, 1.0)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("kind", ["memory", "disk float32"])
def test_number_of_threads_changes_no_bit(new, monkeypatch, kind, threads):
  rows, w = random_rows(STEPS, 70_001), np.random.default_rng(2).standard_normal(70_001)

  def result(number, path):
    monkeypatch.setattr(basis_module, "num_threads", lambda: number)
    x = w.copy()
    return *fill(new(kind, STEPS, 70_001, path), rows).orthogonalize(x, 6, 0.0), x

  for a, b in zip(result(1, "one"), result(threads, "more"), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("columns", [1, 2047, 2048, 2049, 8192, 5000, 8193, 20_000])
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8, 11])
def test_products_in_tiles_are_the_products(rows, columns):
  rng = np.random.default_rng(3)
  piece = rng.standard_normal((rows, columns + 7))[:, :columns]  # as a part of longer rows
  x, part = rng.standard_normal(columns), rng.standard_normal(rows)
  atol = columns * EPS * 10
  sums = basis_module._times(piece, x)
  np.testing.assert_allclose(sums.sum(axis=0), piece @ x, rtol=0, atol=atol)
  expected = x - part @ piece
  basis_module._subtract_times(x, part, piece)
  np.testing.assert_allclose(x, expected, rtol=0, atol=rows * EPS * 20)


def test_basis_is_its_own_basis(new):
  basis = new("memory", STEPS, 100)
  assert as_basis(basis) is basis


# Recurrences.


@pytest.mark.parametrize("kinds", [FLOAT64, FLOAT32], ids=["float64", "float32"])
@pytest.mark.parametrize("n", SIZES)
def test_kinds_of_one_dtype_give_bitwise_the_same_recurrence(new, kinds, n):
  h = np.linspace(-1, 3, n)
  expected, *others = (run(new(k, STEPS, n, k), lambda v: h * v) for k in kinds)
  for lanczos in others:
    assert_same_tridiagonal(lanczos, expected)
    np.testing.assert_array_equal(stored(lanczos.vectors, STEPS), stored(expected.vectors, STEPS))


@KINDS
def test_recurrence_repeats_bitwise(new, kind):
  h = np.linspace(-1, 3, 70_001)
  first, second = (run(new(kind, STEPS, h.size, path), lambda v: h * v) for path in "ab")
  assert_same_tridiagonal(first, second)


def test_plain_array_is_the_basis_in_memory(symmetric):
  h = symmetric(np.linspace(-1, 3, 100))
  array = np.empty((20, 100))
  array[0] = probe(0, 0, 100)
  plain = Lanczos(array)
  plain.run(lambda v: h @ v)
  wrapped = run(MemoryBasis(np.empty((20, 100))), lambda v: h @ v)
  assert plain.basis is array
  assert_same_tridiagonal(plain, wrapped)


@pytest.mark.parametrize("kind", FLOAT64)
def test_basis_of_a_long_recurrence_is_orthonormal(new, kind):
  n, steps = 20_000, 60
  h = np.append(np.linspace(0, 1, n - 3), [10, 30, 100])  # which converge and would come back
  q = stored(run(new(kind, steps, n), lambda v: h * v).vectors, steps)
  assert np.abs(q @ q.T - np.eye(steps)).max() <= np.sqrt(n) * EPS


@pytest.mark.parametrize("kind", FLOAT64 + FLOAT32)
def test_n_steps_give_the_eigenvalues_of_a_dense_matrix(symmetric, new, kind):
  h = symmetric(np.linspace(-1, 3, 40))
  nodes = gauss_quadrature(*run(new(kind, 40, 40), lambda v: h @ v).tridiagonal()).nodes
  atol = 40 * 3 * (HALF_ULP if "float32" in kind else EPS)
  np.testing.assert_allclose(nodes, np.linspace(-1, 3, 40), rtol=0, atol=atol)


def test_products_that_are_not_quite_symmetric_leave_the_basis_orthonormal(symmetric):
  # Their overlaps with all rows, not the last two alone, have to be removed.
  h = symmetric(np.linspace(-1, 3, 200)) + 1e-6 * np.random.default_rng(0).standard_normal(
    (200,) * 2
  )
  q = stored(run(MemoryBasis(np.empty((100, 200))), lambda v: h @ v).vectors, 100)
  assert np.abs(q @ q.T - np.eye(100)).max() <= 200 * EPS


@KINDS
def test_ritz_pairs_are_the_same_from_each_kind(new, kind):
  n = 20_000
  h = np.append(np.linspace(0, 1, n - 1), 5.0)
  pairs = ritz_pairs(run(new(kind, 20, n), lambda v: h * v), -1)
  tolerance = 1e-7 if "float32" in kind else 1e-13
  assert abs(pairs.values[0] - 5) <= tolerance
  assert np.linalg.norm(h * pairs.vectors[0] - 5 * pairs.vectors[0]) <= 10 * tolerance


# The cost of float32.


def spread(eigenvalues):
  """Returns the product with a matrix whose eigenvectors are spread over all entries."""

  def matvec(v):
    return scipy.fft.idct(eigenvalues * scipy.fft.dct(v, norm="ortho"), norm="ortho")

  return matvec


SPECTRUM = np.append(
  0.01 * np.random.default_rng(0).standard_normal(19_990), np.geomspace(1, 9, 10)
)


@pytest.mark.parametrize(
  "matvec, most",
  [(lambda v: SPECTRUM * v, HALF_ULP), (spread(SPECTRUM), 5 * HALF_ULP / np.sqrt(20_000))],
  ids=["concentrated", "spread"],
)
def test_rows_in_float32_are_orthonormal_to_its_rounding(new, matvec, most):
  q = stored(run(new("memory float32", 60, 20_000), matvec).vectors, 60)
  assert np.abs(q @ q.T - np.eye(60)).max() <= 2 * most


def test_rounding_of_rows_to_float32_does_not_add_up(new):
  # Copies of converged eigenvalues would appear if it did.
  nodes = gauss_quadrature(
    *run(new("memory float32", 80, 20_000), spread(SPECTRUM)).tridiagonal()
  ).nodes
  np.testing.assert_allclose(nodes[-10:], np.geomspace(1, 9, 10), rtol=0, atol=9 * 2 * HALF_ULP)
  assert nodes[-11] < 0.05


def test_density_from_float32_rows_is_that_of_float64_up_to_rounding(new):
  exact, rounded = (
    gauss_quadrature(*run(new(kind, 60, 20_000), spread(SPECTRUM)).tridiagonal())
    for kind in ("memory", "memory float32")
  )
  variance = 1e-3**2 * 9**2
  grid = density_grid([exact.nodes], variance)
  a, b = (smooth(q.nodes, q.weights, grid, variance) for q in (exact, rounded))
  assert l1_distance(grid, a, b) <= 1e-6


@pytest.mark.parametrize(
  "eigenvalues", [np.ones(100), np.repeat([-1.1, 0.3], 50)], ids=["I", "two"]
)
def test_invariant_space_is_harmless_in_float32(new, eigenvalues):
  # Rounding leads out of the space, to further vectors of the same eigenspaces.
  q = gauss_quadrature(
    *run(new("memory float32", 20, 100), lambda v: eigenvalues * v).tridiagonal()
  )
  distances = np.abs(q.nodes[:, None] - np.unique(eigenvalues))
  assert distances.min(axis=1)[q.weights > 1e-12].max() <= 4 * HALF_ULP
  for value in np.unique(eigenvalues):
    near = np.abs(q.nodes - value) < 1e-6
    expected = np.sum(probe(0, 0, 100)[eigenvalues == value] ** 2)
    assert abs(q.weights[near].sum() - expected) <= 4 * HALF_ULP


@pytest.mark.parametrize(
  "eigenvalues", [np.ones(100), np.repeat([-1.1, 0.3], 50)], ids=["I", "two"]
)
def test_tolerance_of_float32_ends_an_invariant_space_in_float32(new, eigenvalues):
  basis = new("memory float32", 20, 100)
  basis.store(0, probe(0, 0, 100))
  lanczos = Lanczos(basis, tolerance=2.0**-23)
  assert lanczos.run(lambda v: eigenvalues * v) is LanczosStatus.INVARIANT
  assert lanczos.num_steps == np.unique(eigenvalues).size


# State on disk.


@pytest.mark.parametrize("kind", [k for k in FLOAT64 + FLOAT32 if "disk" in k])
@pytest.mark.parametrize("n", [100, 70_001])
def test_recurrence_goes_on_from_its_file_bitwise(new, kind, n):
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


def test_file_written_with_resident_blocks_is_read_without(new):
  rows = random_rows(STEPS, 70_001)
  fill(new("disk resident", STEPS, 70_001), rows).close()
  np.testing.assert_array_equal(stored(new("disk", STEPS, 70_001), STEPS), rows)


def test_resident_blocks_are_whole_and_at_most_as_large_as_asked(new):
  size = file_bytes(STEPS, 70_001, np.float64)
  for asked, expected in [(0, 0), (size // 2 - 1, 0), (size - 1, size // 2), (2 * size, size)]:
    assert new("disk", STEPS, 70_001, resident_bytes=asked).resident_bytes == expected


@pytest.mark.parametrize("kind", ["memory", "memory float32"])
def test_recurrence_saved_from_any_dtype_goes_on_bitwise(new, kind):
  h = np.linspace(-1, 3, 100)
  expected = run(new(kind, STEPS, 100), lambda v: h * v)
  basis = new(kind, STEPS, 100)
  basis.store(0, probe(0, 0, 100))
  lanczos, file = Lanczos(basis), io.BytesIO()
  for _ in range(3):
    lanczos.step(lambda v: h * v)
  lanczos.save(file)
  file.seek(0)
  loaded = Lanczos.load(file)
  assert loaded.vectors.dtype == basis.dtype
  loaded.run(lambda v: h * v)
  assert_same_tridiagonal(loaded, expected)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_file_has_the_size_that_is_foretold(tmp_path, n, dtype):
  DiskBasis(tmp_path / "basis", STEPS, n, dtype=dtype).close()
  size = (tmp_path / "basis").stat().st_size
  assert size == file_bytes(STEPS, n, dtype)
  # At most a page or a piece more than the rows, for each of them and each block.
  assert STEPS * n * np.dtype(dtype).itemsize <= size
  assert size <= STEPS * (n + max(1024, n // 4)) * np.dtype(dtype).itemsize


def test_file_system_without_direct_access_will_do(new, monkeypatch):
  original = os.open

  def refusing(path, flags, *args):
    if flags & os.O_DIRECT:
      raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return original(path, flags, *args)

  monkeypatch.setattr(os, "open", refusing)
  rows = random_rows(STEPS, 5000)
  np.testing.assert_array_equal(stored(fill(new("disk", STEPS, 5000), rows), STEPS), rows)


def test_interrupted_transfers_go_on_where_they_ended(new, monkeypatch):
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


def test_system_without_huge_pages_will_do(new, monkeypatch):
  class Refusing(mmap.mmap):
    def madvise(self, *_):
      raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

  monkeypatch.setattr(basis_module.mmap, "mmap", Refusing)
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


def test_file_that_shrinks_is_an_error_with_its_name(new, tmp_path):
  basis = fill(new("disk", STEPS, 5000), random_rows(STEPS, 5000))
  os.truncate(tmp_path / "basis", 0)
  with pytest.raises(OSError, match=f"{tmp_path}/basis: the file has become shorter"):
    basis.row(0)


def test_error_of_the_disk_names_the_file(new, tmp_path, monkeypatch):
  basis = fill(new("disk", STEPS, 70_001), random_rows(STEPS, 70_001))

  def failing(*_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  monkeypatch.setattr(os, "preadv", failing)
  with pytest.raises(OSError, match=f"{tmp_path}/basis: Input/output error"):
    basis.orthogonalize(np.ones(70_001), 3, 0.0)


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.complex128])
def test_other_dtypes_are_refused(dtype):
  with pytest.raises(ValueError, match="dtype: expected one of"):
    MemoryBasis(np.empty((2, 3), dtype))


def test_plain_array_in_float32_is_refused():
  with pytest.raises(TypeError, match="basis: expected float64, got float32"):
    as_basis(np.empty((2, 3), np.float32))


def test_array_of_another_shape_is_refused():
  with pytest.raises(ValueError, match=r"basis: expected shape \(steps, n\), got \(3,\)"):
    MemoryBasis(np.empty(3))


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_more_steps_than_the_length_are_refused_by_the_recurrence(new, kind):
  with pytest.raises(ValueError, match="steps: expected at most n = 5, got 6"):
    Lanczos(new(kind, 6, 5))


@pytest.mark.parametrize("kind", ["memory float32", "disk float32"])
def test_start_vector_in_float32_has_length_1_to_its_rounding(new, kind):
  basis = new(kind, 3, 100)
  basis.store(0, probe(0, 0, 100))
  Lanczos(basis)
  basis.store(0, probe(0, 0, 100) * (1 + 1e-6))
  with pytest.raises(ValueError, match="start vector: expected length 1"):
    Lanczos(basis)


# Memory.


@KINDS
def test_buffers_take_what_is_foretold(new, kind):
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


def test_no_room_in_the_temporary_folder_names_it(tmp_path, monkeypatch):
  monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

  def full(*_):
    raise OSError(errno.ENOSPC, "full")

  monkeypatch.setattr(os, "posix_fallocate", full)
  with pytest.raises(OSError, match=f"a file in {tmp_path}: no room for the Lanczos basis"):
    DiskBasis(None, 3, 5)
