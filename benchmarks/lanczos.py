"""Costs of Lanczos vectors in time, memory and exactness.

  python -m benchmarks.lanczos

Prints each figure with the bound that it should keep, and ends with exit code 1 if one does not.
The last part is a draw of the size of Inception-v3, in a process that may not take more than 8 GB:
the limit is on its address space (RLIMIT_AS), so that an allocation beyond it is an error. Its
matrix is diagonal. It needs 20 GB of disk, and takes 10 minutes with rows in float32 and 25
in float64; --n makes it smaller, and --kinds= leaves it out. Ten draws of a hundred million:

  python -m benchmarks.lanczos --parts=large --n=100000000 --draws=10 --kinds=none

--taken=20 takes only so many steps of each draw, and prints what all would take: the seconds of
steps grow with the rows that they read.
"""

from concurrent import futures
import multiprocessing
import os
import pathlib
import resource
import sys
import tempfile
import time

from absl import app, flags
import numpy as np
import scipy.fft

from tf_hessian.numerics.columns import num_threads
from tf_hessian.numerics.density import density_grid, l1_distance, smooth
from tf_hessian.numerics.disk_basis import DiskBasis, aligned
from tf_hessian.numerics.lanczos import Lanczos
from tf_hessian.numerics.memory_basis import MemoryBasis
from tf_hessian.numerics.probes import probe
from tf_hessian.numerics.quadrature import distinct, gauss_quadrature
from tf_hessian.slq import storage

N = flags.DEFINE_integer("n", 27_200_000, "Parameters of the large draw.", lower_bound=1000)
STEPS = flags.DEFINE_integer("steps", 90, "Its Lanczos steps.", lower_bound=2)
TAKEN = flags.DEFINE_integer("taken", None, "Steps that are taken of them; all by default.", 4)
DRAWS = flags.DEFINE_integer("draws", 1, "Draws, one after the other.", lower_bound=1)
PARTS = flags.DEFINE_multi_enum("parts", ["small", "large"], ["small", "large"], "What to measure.")
MEMORY_GB = flags.DEFINE_float("memory_gb", 8.0, "Address space of its process, in GB.")
KINDS = flags.DEFINE_list(
  "kinds", ["none", "float32_disk", "disk"], "Its bases, one after the other."
)
FOLDER = flags.DEFINE_string("folder", None, "Where its files are for a while; the system's.")
ROUNDS = flags.DEFINE_integer("rounds", 9, "Measurements, of which the median counts.")

_RESNET32 = 464_154  # parameters: 334 MB in 90 rows, ten times the last cache
_WARM_UP = 10  # measurements
_OUTLIERS = np.geomspace(1, 100, 10)
_READINGS = 2  # of the basis in a step: once for the overlaps, once to subtract


def main(_):
  rows = []
  if "small" in PARTS.value:
    rows += [*_speed(ROUNDS.value), *_exactness(), *_spread(), *_choices()]
  for kind in KINDS.value if "large" in PARTS.value else ():
    rows += _large(kind)
  if any(bound is not None and not value <= bound for _, value, bound in rows):
    sys.exit("failed: a figure is above its bound")


def _row(name, value, bound=None, *, unit=""):
  """Prints a figure as soon as it is known; returns (name, value, bound)."""
  limit = "" if bound is None else f"  (bound: {bound:.3g})"
  print(f"{name:72s}{value:10.4g} {unit:4s}{limit}", flush=True)
  return name, value, bound


def _seconds(function):
  begin = time.perf_counter()
  function()
  return time.perf_counter() - begin


def _bandwidth_test(size=60_000_000):
  """Returns (function that reads memory by the threads of a basis, bytes that it reads)."""
  threads = num_threads()
  parts = np.array_split(np.ones(size), threads)
  pool = futures.ThreadPoolExecutor(threads)
  return lambda: list(pool.map(np.sum, parts)), 8 * size


def _speed(rounds):
  """Orthogonalization against reading the basis from memory as often as it has to be."""
  read, size = _bandwidth_test()
  _seconds(read)
  rows = [_row("memory bandwidth", size / min(_seconds(read) for _ in range(7)) / 1e9, unit="GB/s")]
  for n, steps in ((_RESNET32, 90), (4_000_000, 60)):
    array = np.random.default_rng(0).standard_normal((steps, n), np.float32)
    array /= np.linalg.norm(array, axis=1)[:, None]
    for dtype in (np.float64, np.float32):
      basis = MemoryBasis(array.astype(dtype, copy=False))
      # In turn, and medians, since others may use the machine too. All cores are busy before, as
      # by the products of a run: those that rest are slow for the next tenth of a second.
      w = probe(1, 0, n)
      both = (lambda b=basis, w=w: b.orthogonalize(w, b.steps, np.inf)), read
      times = np.array([[_seconds(f) for f in both] for _ in range(_WARM_UP + rounds)])[_WARM_UP:]
      seconds = float(np.median(times[:, 0]))
      ratio = float(np.median(times[:, 0] / times[:, 1])) * size / (_READINGS * basis.nbytes)
      name = f"n = {n}, {steps} rows of {np.dtype(dtype)}"
      rows.append(_row(f"orthogonalization, {name}", 1e3 * seconds, unit="ms"))
      if dtype == np.float64:
        rows.append(_row("  time / reading the bytes twice", ratio, 1.5))
      else:
        rows.append(_row("  time / reading the bytes twice", ratio))
        rows.append(_row("  time / reading as many float64 twice", ratio / 2))
      basis.close()
  small = probe(0, 0, 15_910)
  state = [_seconds(lambda: _run(MemoryBasis(np.empty((90, small.size))), small)) for _ in range(9)]
  return [*rows, _row("Lanczos, n = 15910, 90 steps", 1e3 * np.median(state), unit="ms")]


def _run(basis, diagonal, matvec=None):
  basis.store(0, probe(0, 0, basis.n))
  lanczos = Lanczos(basis)
  lanczos.run(matvec or (lambda v: diagonal * v))
  return lanczos


def _spectrum(n):
  """Returns a bulk with outliers, in a few entries: the worst for rows in float32."""
  diagonal = np.random.default_rng(2).standard_normal(n)
  diagonal *= 0.01
  diagonal[: _OUTLIERS.size] = _OUTLIERS
  return diagonal


def _exactness():
  """Orthogonality and densities of each kind, with n of ResNet-32."""
  steps, diagonal = 90, _spectrum(_RESNET32)
  rows, rules = [], {}
  with tempfile.TemporaryDirectory(dir=FOLDER.value) as folder:
    for dtype in (np.float64, np.float32):
      name = str(np.dtype(dtype))
      bound = np.sqrt(_RESNET32) * np.finfo(dtype).eps if dtype == np.float64 else 2.0**-23
      kinds = {
        "memory": MemoryBasis(np.empty((steps, _RESNET32), dtype)),
        "disk": DiskBasis(pathlib.Path(folder) / name, steps, _RESNET32, dtype=dtype),
      }
      for kind, basis in kinds.items():
        lanczos = _run(basis, diagonal)
        error = _orthogonality(basis)
        rows.append(_row(f"largest entry of |Q Q' - I|, {name}, {kind}", error, bound))
        rules[name, kind] = gauss_quadrature(*lanczos.tridiagonal())
        basis.close()
      same = np.array_equal(rules[name, "memory"].nodes, rules[name, "disk"].nodes)
      rows.append(_row(f"  nodes differ between memory and disk, {name}", float(not same), 0))
  distance = _distance(rules["float64", "memory"], rules["float32", "memory"])
  rows.append(_row("L1 distance of densities, float32 and float64", distance, 1e-5))
  return rows


def _distance(exact, other):
  """Returns the L1 distance of densities whose kernel is a thousandth of the range wide."""
  variance = (1e-3 * np.ptp(exact.nodes)) ** 2
  grid = density_grid([exact.nodes], variance)
  return l1_distance(grid, *(smooth(q.nodes, q.weights, grid, variance) for q in (exact, other)))


def _spread(steps=90):
  """Rows in float32 where eigenvectors have their energy in few entries, and in all."""
  rows = []
  for n in (2000, 100_000, 1_000_000):
    diagonal = 0.01 * np.random.default_rng(5).standard_normal(n)

    def in_all(v, diagonal=diagonal):
      return scipy.fft.idct(diagonal * scipy.fft.dct(v, norm="ortho"), norm="ortho")

    for name, matvec in (("one entry", None), ("all entries", in_all)):
      basis = _run(MemoryBasis(np.empty((steps, n), np.float32)), diagonal, matvec).vectors
      label = f"|Q Q' - I|, float32, n = {n}, eigenvectors in {name}"
      rows.append(_row(label, _orthogonality(basis), 2.0**-23))
  return rows


class _AllRows(MemoryBasis):
  """Takes all rows in the first pass too."""

  def orthogonalize(self, w, count, smallest, /, *, recent=None):
    del recent
    return super().orthogonalize(w, count, smallest)


class _Unrounded(MemoryBasis):
  """Keeps the newest row as it was before it was rounded, for the product."""

  def store(self, j, vector, /):
    super().store(j, vector)
    self._newest = j, np.array(vector)

  def row(self, j, /):
    return self._newest[1] if j == self._newest[0] else super().row(j)


def _choices(n=100_000, steps=90):
  """Measures the first pass, and the vector that H is multiplied by."""
  diagonal, rows = _spectrum(n), []
  single = diagonal.astype(np.float32)

  def in_float32(v):
    return single * v.astype(np.float32)

  for name, kind in (("last two rows", MemoryBasis), ("all rows", _AllRows)):
    for products, matvec in (("exact", lambda v: diagonal * v), ("float32", in_float32)):
      lanczos = _run(kind(np.empty((steps, n))), diagonal, matvec)
      error = _orthogonality(lanczos.vectors)
      rows.append(_row(f"|Q Q' - I|, first pass with {name}, {products} products", error, 1e-13))
  exact = _run(MemoryBasis(np.empty((steps, n))), diagonal)
  variants = {
    "float32 rows, H times the rounded vector": (MemoryBasis, np.float32, None),
    "float32 rows, H times the vector before rounding": (_Unrounded, np.float32, None),
    "float64 rows, products in float32": (MemoryBasis, np.float64, in_float32),
  }
  for name, (kind, dtype, matvec) in variants.items():
    lanczos = _run(kind(np.empty((steps, n), dtype)), diagonal, matvec)
    a, b = (gauss_quadrature(*x.tridiagonal()) for x in (exact, lanczos))
    top = abs(a.nodes[-1] - b.nodes[-1]) / a.nodes[-1]
    entries = np.abs(exact.alphas - lanczos.alphas).max() / a.nodes[-1]
    rows.append(_row(f"{name}: L1 of densities", _distance(a, b), 1e-5))
    rows.append(_row("  tridiagonal matrix, largest change / |H|", entries, 1e-5))
    rows.append(_row("  largest Ritz value, relative change", top, 2.0**-22))
  return rows


def _orthogonality(basis):
  """Returns the largest entry of |Q Q' - I|."""
  q = np.array([basis.row(j) for j in range(basis.steps)])
  return np.abs(q @ q.T - np.eye(basis.steps)).max()


def _large(kind):
  """A whole draw in a process of its own, which may not take more memory than it is allowed."""
  spawn = multiprocessing.get_context("spawn")
  with (
    tempfile.TemporaryDirectory(dir=FOLDER.value) as folder,
    futures.ProcessPoolExecutor(1, mp_context=spawn) as pool,
  ):
    taken = min(TAKEN.value or STEPS.value, STEPS.value)
    arguments = kind, N.value, STEPS.value, taken, DRAWS.value, int(1e9 * MEMORY_GB.value), folder
    result = pool.submit(_limited_draws, *arguments).result()
  print(
    f"n = {N.value}, {DRAWS.value} draws of {STEPS.value} steps, of which {taken} are taken, "
    f"{MEMORY_GB.value:g} GB: {result['reason']}"
  )
  seconds, read = result["seconds"], result["read_gb"]
  tolerance = 2.0**-23 if "float32" in kind else np.sqrt(N.value) * np.finfo(np.float64).eps
  rows = [
    _row("  the steps that were taken", seconds, unit="s"),
    _row("  in products and start vectors", result["product_seconds"], unit="s"),
    _row("  most memory resident", result["peak_gb"], MEMORY_GB.value, unit="GB"),
  ]
  if taken < STEPS.value:
    rows.append(_row("  all steps, by a line through these", result["all"], unit="s"))
  if read:
    rows += [
      _row("  read from disk", read, unit="GB"),
      # Beside them there are those of few rows: the last two, and the vector of the product.
      _row(
        "  times that a row on disk is read in a step", result["readings"], _most_readings(taken)
      ),
      _row("  speed of reading, with all that is computed meanwhile", read / seconds, unit="GB/s"),
      _row("  speed of the disk: readings of 16 MiB of the same file", result["disk"], unit="GB/s"),
    ]
  # Without a basis, nothing but the last two rows is orthogonal.
  rows.append(
    _row("  largest overlap of the last row with the others", result["overlap"], tolerance)
  )
  if taken == STEPS.value:
    rows.append(
      _row("  error of the 5 largest eigenvalues / the largest", result["ritz"], 10 * tolerance)
    )
  return rows


def _most_readings(steps):
  return _READINGS + 5.5 / ((steps + 1) / 2)


def _limited_draws(kind, n, steps, taken, draws, memory, folder):
  """Returns the figures of draws; runs in a process of its own, whose memory it limits."""
  resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
  disk = storage.free_disk(folder)
  # Of what is left of the limit, the matrix and a product of it need two vectors.
  room = max(storage.default_memory(), storage.available_memory() - 2 * 8 * n)
  plan = storage.plan_basis(n, steps, kinds=(kind,), disk=disk, memory=min(room, memory))
  path = pathlib.Path(folder) / "basis"
  basis = plan.open(path if plan.on_disk else None)
  begin = time.perf_counter()
  diagonal = _spectrum(n)
  seconds, products, overlap, ritz, read = [], time.perf_counter() - begin, 0.0, 0.0, 0
  for draw in range(draws):
    before, begin = _kernel_value("io", "read_bytes:"), time.perf_counter()
    basis.store(0, probe(0, draw, n))
    products += time.perf_counter() - begin
    lanczos = Lanczos(basis)
    for _ in range(taken):
      start = time.perf_counter()
      product = diagonal * lanczos.vector
      middle = time.perf_counter()
      lanczos.update(product)
      products += middle - start
      seconds.append(time.perf_counter() - start)
      del product  # or there would be two of them
    read += _kernel_value("io", "read_bytes:") - before
    first = basis.first_kept(taken)
    overlaps, _ = basis.orthogonalize(basis.row(taken - 1).copy(), taken - 1, np.inf)
    overlap = max(overlap, np.abs(overlaps[first:]).max(initial=0.0))
    rule = distinct(gauss_quadrature(*lanczos.tridiagonal()), 2.0**-52)
    ritz = max(ritz, np.abs(rule.nodes[-5:] - _OUTLIERS[-5:]).max() / _OUTLIERS[-1])
  # What reading all rows in use once in each step would read.
  held = plan.disk_bytes - getattr(basis, "resident_bytes", 0)
  total = draws * held * taken / steps * (taken + 1) / 2
  each = np.reshape(seconds, (draws, taken)).mean(axis=0)
  slope, first = np.polyfit(np.arange(1, taken), each[1:], 1)
  return {
    "reason": plan.reason,
    "seconds": sum(seconds),
    "all": draws * float(np.sum(first + max(slope, 0.0) * np.arange(steps))),
    "product_seconds": products,
    "read_gb": read / 1e9 if plan.on_disk else 0.0,
    "readings": read / total if total else 0.0,
    "disk": _disk_speed(path) if plan.on_disk else np.nan,
    "peak_gb": 1024 * _kernel_value("status", "VmHWM:") / 1e9,
    "overlap": overlap,
    "ritz": ritz,
  }


def _kernel_value(table, name):
  """Returns a number that the kernel keeps of this process."""
  with open(f"/proc/self/{table}") as lines:
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def _disk_speed(path, most=2**32, at_once=2**24):
  """Returns GB/s of the threads of a basis that read a file past the system's page cache."""
  file = os.open(path, os.O_RDONLY | os.O_DIRECT)
  threads = num_threads()
  count = min(most, path.stat().st_size) // at_once

  def read(thread):
    buffer = aligned(at_once, np.uint8)
    for i in range(thread, count, threads):
      os.preadv(file, [buffer], i * at_once)

  with futures.ThreadPoolExecutor(threads) as pool:
    seconds = _seconds(lambda: list(pool.map(read, range(threads))))
  os.close(file)
  return count * at_once / seconds / 1e9


if __name__ == "__main__":
  app.run(main)
