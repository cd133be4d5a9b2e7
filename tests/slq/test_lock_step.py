"""Draws in lock step are the draws alone, whatever interrupts them and wherever they live."""

import functools
import json
import os

import numpy as np
import pytest
import scipy.sparse.linalg
import tensorflow as tf
import threadpoolctl

from tf_hessian.curvature import widths
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.numerics.lanczos import Lanczos
from tf_hessian.numerics.probes import probe
from tf_hessian.slq import layout as layout_lib
from tf_hessian.slq import lock_step, shared_products, storage
from tf_hessian.slq.bases import Bases
from tf_hessian.slq.density import spectral_density
from tf_hessian.slq.lock_step import LockStep
from tf_hessian.slq.matrix import as_matrix
from tf_hessian.slq.method import SLQ
from tf_hessian.slq.progress import Progress
from tf_hessian.slq.run_folder import RunFolder

N, STEPS, DRAWS = 20, 6, 4
KINDS = ("memory", "disk", "float32", "float32_disk", "none")
MODES = ("stacked", "one by one")


def function_loss(parameters, batch):
  """A function of (20,) in float64 that is not quadratic."""
  outputs = tf.linalg.matvec(batch, parameters[0])
  return tf.math.softplus(outputs) + 0.1 * outputs**2


def make(stacked, loss=function_loss, size=N, batches=2):
  rng = np.random.default_rng(0)
  w = tf.Variable(rng.standard_normal(size), dtype=tf.float64)
  data = [rng.standard_normal((8, size)) for _ in range(batches)]
  operator = HessianOperator([w], loss, data)
  if not stacked:
    operator.vectorized = False
  return operator


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  """Forces nothing to the disk, for which a busy one takes most of the time."""
  monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def operators():
  """Operators in float64, n = 20, that differ in how they make the products of a pass."""
  return {name: make(name == "stacked") for name in MODES}


@pytest.fixture
def plain(operators):
  return operators["one by one"]


@pytest.fixture
def stacked(operators):
  return operators["stacked"]


def stored(basis="auto", memory=None, vectors_per_pass=None):
  """Returns the `Storage` that gives a kind of basis."""
  pairs = {"float32": ("memory", "float32"), "float32_disk": ("disk", "float32")}
  return storage.Storage(*pairs.get(basis, (basis, "auto")), memory, vectors_per_pass)


def plan_layout(operator, draws, steps, *, folder=None, workers=None, **options):
  """Returns the layout of a run, of which `options` are those of `stored`."""
  method = SLQ(draws, steps)
  return layout_lib.plan_layout(
    as_matrix(operator), method, stored(**options), folder=folder, workers=workers
  )


def run(
  operator, *, draws=DRAWS, steps=STEPS, basis="auto", memory=None, vectors_per_pass=None, **options
):
  return spectral_density(
    operator,
    num_draws=draws,
    lanczos_steps=steps,
    seed=1,
    storage=stored(basis, memory, vectors_per_pass),
    **{"progress": False, "check": False} | options,
  )


@functools.cache
def undisturbed(operator, **options):
  """Returns the `Spectrum` of a run in memory."""
  return run(operator, **options)


@functools.cache
def alone(operator, draws=DRAWS):
  """Returns the recurrences of draws by themselves, in memory."""
  result = []
  for draw in range(draws):
    state = Lanczos.start(probe(1, draw, operator.shape[0]), STEPS)
    state.run(operator.matvec)
    result.append(state)
  return result


def coefficients(result):
  """Returns the numbers of a `Spectrum` in one array for each draw."""
  parts = zip(result.diagonals, result.off_diagonals, result.residuals, strict=True)
  return [np.concatenate([d, e, [r]]) for d, e, r in parts]


def assert_same(first, second):
  """Asserts that two spectra's draws are bitwise the same."""
  for a, b in zip(coefficients(first), coefficients(second), strict=True):
    assert a.tobytes() == b.tobytes()
  assert first.statuses == second.statuses


def assert_close(result, operator, tolerance, draws=DRAWS):
  """Asserts that the draws are those alone up to a tolerance relative to the norm."""
  for found, state in zip(coefficients(result), alone(operator, draws), strict=True):
    expected = np.concatenate([state.alphas, state.betas])
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * state.scale)


@pytest.fixture
def passes(monkeypatch):
  """Returns a function that lists the vectors of each pass of an operator from then on."""

  def watch(operator):
    counts, original = [], operator.runner.run

    def counted(what, data_pass, *arguments):
      if what == "product":
        counts.append(1 if len(arguments[1].shape) == 1 else int(arguments[2]))
      return original(what, data_pass, *arguments)

    monkeypatch.setattr(operator.runner, "run", counted)
    return counts

  return watch


# The same as draws alone.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("vectors_per_pass", [None, 1, 2, 3, 4, 7])
def test_lock_step_gives_the_draws_alone(operators, mode, vectors_per_pass):
  result = run(operators[mode], vectors_per_pass=vectors_per_pass)
  assert_close(result, operators[mode], 1e-12)


@pytest.mark.parametrize("vectors_per_pass", [None, 1, 2, 3, 4, 7])
def test_products_one_by_one_give_bitwise_the_draws_alone(plain, vectors_per_pass):
  assert_close(run(plain, vectors_per_pass=vectors_per_pass), plain, 0.0)


@pytest.mark.parametrize("on_disk", [False, True])
def test_one_draw_per_pass_is_bitwise_the_draw_alone(stacked, tmp_path, on_disk):
  folder = tmp_path if on_disk else None
  assert_close(run(stacked, vectors_per_pass=1, workdir=folder), stacked, 0.0)


@pytest.mark.parametrize("mode", MODES)
def test_folder_makes_no_difference(operators, mode, tmp_path):
  options = {"vectors_per_pass": 3}
  assert_same(
    run(operators[mode], workdir=tmp_path, **options), undisturbed(operators[mode], **options)
  )


@pytest.mark.parametrize(
  "mode, expected",
  # The draw that is left over has a place among three, where products are made together.
  [("stacked", [3] * 2 * STEPS), ("one by one", [3] * STEPS + [1] * STEPS)],
)
def test_a_step_of_all_draws_is_one_pass_over_the_data(operators, passes, mode, expected):
  counts = passes(operators[mode])
  run(operators[mode], vectors_per_pass=3)
  assert counts == expected


def test_product_that_tells_the_matrix_from_others_is_made_for_folders_alone(
  stacked, passes, tmp_path
):
  counts = passes(stacked)
  run(stacked, vectors_per_pass=3, workdir=tmp_path)
  assert counts == [1] + [3] * 2 * STEPS


def test_small_models_share_passes_by_default(stacked, passes):
  counts = passes(stacked)
  result = run(stacked)
  assert counts == [DRAWS] * STEPS
  assert result.config["draws_per_pass"] == DRAWS


def blas_threads():
  return [m["num_threads"] for m in threadpoolctl.threadpool_info() if m["user_api"] == "blas"]


@pytest.mark.parametrize("n, alone", [(N, True), (2**14 + 1, False)])
def test_threads_of_blas_leave_the_processor_to_passes_of_small_models(n, alone, monkeypatch):
  operator, seen = make(True, size=n, batches=1), []
  original = operator.products
  monkeypatch.setattr(
    operator, "products", lambda *a, **k: seen.append(blas_threads()) or original(*a, **k)
  )
  with threadpoolctl.threadpool_limits(2, user_api="blas"):
    run(operator, vectors_per_pass=DRAWS)
    assert set(blas_threads()) == {2}
  assert seen and all(set(threads) == ({1} if alone else {2}) for threads in seen)


def test_wall_times_of_a_pass_are_shared(monkeypatch):
  clock = Clock(monkeypatch)
  result = run(Timed(clock, each=2.0), draws=3, vectors_per_pass=3)
  np.testing.assert_allclose(result.wall_times, [2.0 * STEPS] * 3)


# Draws that end early.


def diagonal_loss(parameters, batch):
  values = tf.range(1, N + 1, dtype=tf.float64)
  return tf.reduce_sum(values * parameters[0] ** 2) / 2 + 0.0 * tf.reduce_sum(batch)


@pytest.fixture(scope="module")
def diagonal_operators():
  """Operators of diag(1, ..., 20)."""
  return {name: make(name == "stacked", diagonal_loss, batches=1) for name in MODES}


def in_lock_step(operator, starts, folder=None):
  """Returns (`Lanczos.coefficients`, seconds) of draws that begin at these vectors."""
  layout = plan_layout(operator, len(starts), STEPS, vectors_per_pass=len(starts))
  draws = list(range(len(starts)))
  with Progress(1, enabled=False) as progress, Bases(layout.basis, folder) as bases:
    machine = LockStep(
      as_matrix(operator),
      layout,
      folder=folder,
      first=lambda draw: starts[draw],
      target=None,
      progress=progress,
    )
    return machine.run(draws, bases.open(draws))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("end", [1, 3])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_draw_that_ends_early_does_not_disturb_the_others(diagonal_operators, mode, end, place):
  operator = diagonal_operators[mode]
  starts = [probe(0, i, N) for i in range(3)]
  before = in_lock_step(operator, starts)
  starts[place] = np.zeros(N)
  starts[place][:end] = 1 / np.sqrt(end)  # of so many eigenvectors
  after = in_lock_step(operator, starts)
  ended = after.pop(place)[0]
  del before[place]
  assert (str(ended["status"]), len(ended["alphas"])) == ("INVARIANT", end)
  for (a, _), (b, _) in zip(before, after, strict=True):
    assert str(b["status"]) == "COMPLETE"
    assert a["alphas"].tobytes() == b["alphas"].tobytes()
    assert a["betas"].tobytes() == b["betas"].tobytes()


def test_pass_is_made_for_the_draws_that_go_on(diagonal_operators, passes):
  operator = diagonal_operators["one by one"]
  counts = passes(operator)
  starts = [probe(0, 0, N), probe(0, 1, N), np.eye(N)[3]]
  in_lock_step(operator, starts)
  assert counts == [3] + [2] * (STEPS - 1)


def test_draws_that_all_end_early_end_the_run():
  result = run(np.diag([1.0, 1.0, 2.0, 2.0, 3.0, 3.0]), vectors_per_pass=2, draws=3)
  assert result.statuses == ("INVARIANT",) * 3
  assert [len(d) for d in result.diagonals] == [3] * 3


# Interrupted.


class Stop(Exception):
  """What a test interrupts a run by."""


def interrupt(monkeypatch, operator, folder, save, **options):
  """Starts a run that ends at its save number `save` of a step."""
  count, original = [], RunFolder.save_step

  def limited(self, *arguments):
    count.append(arguments)
    if len(count) == save:
      raise Stop
    original(self, *arguments)

  with monkeypatch.context() as patch:
    patch.setattr(RunFolder, "save_step", limited)
    with pytest.raises(Stop):
      run(operator, workdir=folder, **options)


# Three draws save their starts, then each step: whole passes, and in the midst of one; and in the
# second group, of one draw.
SAVES = [1, 4, 5, 6, 7, 3 + 3 * STEPS, 3 + 3 * STEPS + 3]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("save", SAVES)
def test_interrupted_run_goes_on_bitwise(operators, tmp_path, monkeypatch, mode, save):
  operator = operators[mode]
  interrupt(monkeypatch, operator, tmp_path, save, vectors_per_pass=3)
  result = run(operator, workdir=tmp_path, vectors_per_pass=3)
  assert_same(result, undisturbed(operator, vectors_per_pass=3))


@pytest.mark.parametrize("mode", MODES)
def test_finished_steps_are_not_computed_again(operators, tmp_path, monkeypatch, passes, mode):
  operator = operators[mode]
  interrupt(monkeypatch, operator, tmp_path, 3 + 3 * 4 + 1, vectors_per_pass=3, draws=3)
  counts = passes(operator)
  run(operator, workdir=tmp_path, vectors_per_pass=3, draws=3)
  assert len(counts) == 1 + STEPS - 4


@pytest.mark.parametrize("save", [1, 6, 8, 3 + 3 * STEPS + 3])
@pytest.mark.parametrize("later", [None, 1, 2, 4])
def test_number_of_draws_in_a_pass_may_change_one_by_one(plain, tmp_path, monkeypatch, save, later):
  interrupt(monkeypatch, plain, tmp_path, save, vectors_per_pass=3)
  result = run(plain, workdir=tmp_path, vectors_per_pass=later)
  assert_close(result, plain, 0.0)
  assert not list(tmp_path.glob("step*")) and not list(tmp_path.glob("basis*"))


@pytest.mark.parametrize("draws", [2, DRAWS, 7])
def test_number_of_draws_in_a_stacked_pass_is_kept(stacked, tmp_path, monkeypatch, draws):
  interrupt(monkeypatch, stacked, tmp_path, 8, vectors_per_pass=3)
  result = run(stacked, workdir=tmp_path, draws=draws)
  assert result.config["draws_per_pass"] == 3
  assert_same(result, undisturbed(stacked, vectors_per_pass=3, draws=draws))


def test_other_number_of_draws_in_a_stacked_pass_is_refused(stacked, tmp_path, monkeypatch):
  interrupt(monkeypatch, stacked, tmp_path, 8, vectors_per_pass=3)
  with pytest.raises(ValueError, match="vectors_per_pass: 3 there, 2 now.*use another folder"):
    run(stacked, workdir=tmp_path, vectors_per_pass=2)


@pytest.mark.parametrize("mode", MODES)
def test_draw_with_a_damaged_basis_begins_again_among_others(
  operators, tmp_path, monkeypatch, caplog, mode
):
  operator = operators[mode]
  interrupt(monkeypatch, operator, tmp_path, 12, vectors_per_pass=3)
  path = tmp_path / "basis_001"
  content = bytearray(path.read_bytes())
  content[8 * N + 3] ^= 1
  path.write_bytes(content)
  result = run(operator, workdir=tmp_path, vectors_per_pass=3)
  assert "draw 1 begins again" in caplog.text
  assert_same(result, undisturbed(operator, vectors_per_pass=3))


@pytest.mark.parametrize("mode", MODES)
def test_wall_times_go_on(operators, tmp_path, monkeypatch, mode):
  interrupt(monkeypatch, operators[mode], tmp_path, 12, vectors_per_pass=3)
  before = []
  for draw in range(3):
    with np.load(tmp_path / f"step_00{draw}.npz") as step:
      before.append(float(step["wall_time"]))
  result = run(operators[mode], workdir=tmp_path, vectors_per_pass=3)
  assert all(result.wall_times[:3] > before) and min(before) > 0


def test_draws_of_a_model_that_changes_are_not_kept(stacked, tmp_path, monkeypatch):
  operator = make(True)
  variable, original, count = operator.model[0], operator.products, []
  weights = variable.numpy()

  def products(vectors, **options):
    count.append(vectors)
    if len(count) == STEPS + 2:  # of the second group
      variable.assign(2 * weights)
    return original(vectors, **options)

  monkeypatch.setattr(operator, "products", products)
  with pytest.raises(ValueError, match="variables changed during the run"):
    run(operator, workdir=tmp_path, vectors_per_pass=2)
  assert sorted(p.name for p in tmp_path.glob("*_0*")) == ["draw_000.npz", "draw_001.npz"]
  variable.assign(weights)
  result = run(operator, workdir=tmp_path, vectors_per_pass=2)
  assert_same(result, undisturbed(stacked, vectors_per_pass=2))


@pytest.mark.parametrize("mode", MODES)
def test_bases_of_finished_draws_are_removed(operators, tmp_path, monkeypatch, mode):
  operator, seen = operators[mode], []
  original = operator.products

  def products(vectors, **options):
    seen.append({p.name for p in tmp_path.glob("*_0*")})
    return original(vectors, **options)

  monkeypatch.setattr(operator, "products", products)
  run(operator, workdir=tmp_path, vectors_per_pass=2)
  progress = [f"{name}_00{d}{end}" for d in (0, 1) for name, end in PROGRESS_FILES]
  assert all(names == set(progress) for names in seen[:STEPS])
  progress = [f"{name}_00{d}{end}" for d in (2, 3) for name, end in PROGRESS_FILES]
  assert all(names == {"draw_000.npz", "draw_001.npz", *progress} for names in seen[STEPS:])
  assert sorted(p.name for p in tmp_path.glob("*_0*")) == [f"draw_00{d}.npz" for d in range(4)]


PROGRESS_FILES = (("step", ".npz"), ("basis", ""))


# Folders of format version 1.


def make_old(folder):
  """Makes a finished folder one of version 1 that has draw 2 in progress and no draw 3."""
  path = folder / "run.json"
  about = json.loads(path.read_text()) | {"format_version": 1}
  for key in ("basis", "draws_per_pass", "target", "digest"):
    del about[key]
  path.write_text(json.dumps(about))
  for draw in folder.glob("draw_*.npz"):
    state = dict(np.load(draw))
    del state["run"], state["draw"]
    np.savez(draw, **state)
  for draw in (2, 3):
    (folder / f"draw_00{draw}.npz").unlink()
  for name in ("spectrum.npz", "spectrum.json"):
    (folder / name).unlink()
  (folder / "basis.f64").write_bytes(bytes(8 * N * STEPS))
  (folder / "step.npz").write_bytes(b"of draw 2")


@pytest.mark.parametrize("mode", MODES)
def test_folder_of_version_1_is_taken_on(operators, tmp_path, passes, mode):
  operator = operators[mode]
  run(operator, workdir=tmp_path, vectors_per_pass=1)
  make_old(tmp_path)
  finished = (tmp_path / "draw_000.npz").read_bytes()
  counts = passes(operator)
  result = run(operator, workdir=tmp_path)
  assert sum(counts) - 1 == 2 * STEPS
  assert_close(result, operator, 0.0)  # as it would have ended then: one by one
  assert (tmp_path / "draw_000.npz").read_bytes() == finished
  about = json.loads((tmp_path / "run.json").read_text())
  assert (about["format_version"], about["basis"]) == (2, "memory")


def test_draw_in_progress_of_version_1_gives_its_room_back_before_others_begin(plain, tmp_path):
  run(plain, workdir=tmp_path, vectors_per_pass=1)
  make_old(tmp_path)
  about = json.loads((tmp_path / "run.json").read_text())
  del about["format_version"]
  with RunFolder(tmp_path, about | {"basis": "memory", "draws_per_pass": None, "target": None}):
    names = {p.name for p in tmp_path.iterdir()}
  assert "basis.f64" not in names and "step.npz" not in names


def test_folder_of_version_1_is_refused_to_a_run_with_a_target(plain, tmp_path):
  run(plain, workdir=tmp_path, vectors_per_pass=1)
  make_old(tmp_path)
  before = {p.name for p in tmp_path.iterdir()}
  with pytest.raises(ValueError, match="target: null there"):
    run(plain, workdir=tmp_path, target_error=0.1)
  assert {p.name for p in tmp_path.iterdir()} == before


# Where bases live.


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_basis_gives_the_result_of_memory(plain, tmp_path, kind, on_disk):
  result = run(plain, vectors_per_pass=3, basis=kind, workdir=tmp_path if on_disk else None)
  # Rows of float32 are off by 2^-24 of their length, which the recurrence magnifies. Without a
  # basis, few steps lose nothing but the rounding of another order of sums.
  exactness = {"float32": 100 * 2.0**-24, "float32_disk": 100 * 2.0**-24, "none": 1e-14}
  assert_close(result, plain, exactness.get(kind, 0.0))
  assert result.config["basis"] == kind
  if on_disk:
    assert json.loads((tmp_path / "run.json").read_text())["basis"] == kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("save", [1, 8, 3 + 3 * STEPS + 3])
def test_every_kind_of_basis_goes_on_bitwise_by_itself(plain, tmp_path, monkeypatch, kind, save):
  interrupt(monkeypatch, plain, tmp_path, save, vectors_per_pass=3, basis=kind)
  result = run(plain, workdir=tmp_path, vectors_per_pass=3)
  assert result.config["basis"] == kind
  assert_same(result, undisturbed(plain, basis=kind))


def test_other_kind_of_basis_is_refused(plain, tmp_path, monkeypatch):
  interrupt(monkeypatch, plain, tmp_path, 8, vectors_per_pass=3, basis="disk")
  with pytest.raises(ValueError, match='basis: "disk" there, "memory" now'):
    run(plain, workdir=tmp_path, basis="memory")


def test_bases_on_disk_without_a_folder_have_no_names_that_could_stay(plain, tmp_path, monkeypatch):
  monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
  seen, original = [], plain.products

  def products(vectors, **options):
    links = [os.readlink(f"/proc/self/fd/{fd}") for fd in open_files()]
    seen.append(sorted({f for f in links if f.startswith(str(tmp_path))}))
    assert not list(tmp_path.iterdir())
    return original(vectors, **options)

  monkeypatch.setattr(plain, "products", products)
  run(plain, vectors_per_pass=2, basis="disk")
  assert len(seen[0]) == 2 and all(name.endswith("(deleted)") for name in seen[0])
  assert seen[-1] == seen[0]  # used again by the draws after them


def open_files():
  """Returns the numbers of the files that this process has open."""
  return [fd for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")]


class Timed(scipy.sparse.linalg.LinearOperator):
  """diag(1, ..., n), whose products take time by a fake clock; a pass shares nothing."""

  vectorized = False

  def __init__(self, clock=None, *, each=1.0, n=24, precision=0.0):
    super().__init__(np.dtype(np.float64), (n, n))
    self.precision = precision
    self.calls = []
    self._clock, self._each = clock, each

  def _matvec(self, x):
    self.calls.append(1)
    if self._clock:
      self._clock.now += 1.0
    return np.arange(1, self.shape[0] + 1) * np.ravel(x)

  def products(self, vectors, *, vectors_per_pass):
    assert len(vectors) <= vectors_per_pass
    self.calls.append(len(vectors))
    self._clock.now += self._each * len(vectors)
    return vectors * np.arange(1, self.shape[0] + 1)


class Clock:
  """Takes the place of the module `time` where draws in lock step look at it."""

  def __init__(self, monkeypatch):
    self.now = 0.0
    for module in (lock_step, shared_products):
      monkeypatch.setattr(module, "time", self)

  def monotonic(self):
    return self.now


BIG = Timed(n=1_000_000)


def needed(count, kind="memory"):
  """Returns the bytes that so many draws of the big operator need in a pass."""
  plan = storage.plan_basis(BIG.shape[0], 20, count, kinds=(kind,), memory=2**50, disk=2**50)
  rest = plan.memory_bytes - (plan.resident_bytes * count)
  return rest + storage.pass_bytes(BIG.shape[0], count)


@pytest.mark.parametrize("draws, sizes", [(10, [10, 5, 4, 3, 2, 1]), (7, [7, 4, 3, 2, 1])])
def test_budget_lowers_the_number_of_draws_in_a_pass(draws, sizes):
  for size, fewer in zip(sizes, [*sizes[1:], None], strict=True):
    layout = plan_layout(BIG, draws, 20, memory=needed(size))
    assert (layout.vectors_per_pass, layout.basis.kind) == (size, "memory")
    if fewer:
      layout = plan_layout(BIG, draws, 20, memory=needed(size) - 1)
      assert (layout.vectors_per_pass, layout.basis.kind) == (fewer, "memory")


def test_no_more_than_32_draws_share_a_pass():
  assert plan_layout(BIG, 100, 20, memory=2**50).vectors_per_pass == 25
  assert plan_layout(BIG, 100, 20, memory=2**50, vectors_per_pass=50).vectors_per_pass == 50


@pytest.mark.parametrize("precision, kind", [(0.0, "disk"), (2.0**-24, "float32")])
def test_budget_too_small_for_one_draw_in_float64_changes_the_kind(tmp_path, precision, kind):
  operator = Timed(n=BIG.shape[0], precision=precision)
  layout = plan_layout(operator, 10, 20, memory=needed(1) - 1, folder=tmp_path)
  assert (layout.vectors_per_pass, layout.basis.kind) == (1, kind)
  layout = plan_layout(operator, 10, 20, memory=needed(1, "float32") - 1, folder=tmp_path)
  assert (layout.vectors_per_pass, layout.basis.on_disk) == (1, True)


@pytest.mark.parametrize("size, draws", [(2, 2), (4, 4)])
def test_more_draws_share_a_pass_where_vectors_are_spread(size, draws):
  workers = storage.Workers(size, 2**50)
  one = plan_layout(BIG, 10, 20, memory=needed(1) - 1, workers=workers)
  assert (one.vectors_per_pass, one.basis.kind) == (1, "workers")
  rows, vectors = 8 * 20 * BIG.shape[0], needed(draws) - draws * 8 * 20 * BIG.shape[0]
  several = plan_layout(
    BIG, 10, 20, basis="workers", memory=rows + vectors + 8 * 4 * BIG.shape[0], workers=workers
  )
  assert (several.vectors_per_pass, several.basis.kind) == (draws, "workers")


def test_run_with_spread_vectors_stays_so_if_it_can(tmp_path):
  (tmp_path / "run.json").write_text(json.dumps({"format_version": 2, "basis": "workers"}))
  workers = storage.Workers(2, 2**50)
  assert plan_layout(BIG, 1, 20, folder=tmp_path, workers=workers).basis.kind == "workers"
  assert plan_layout(BIG, 1, 20, folder=tmp_path).basis.kind != "workers"


@pytest.mark.parametrize("operator", [np.eye(3), make(True, size=3)], ids=["matrix", "Hessian"])
def test_spread_vectors_need_other_workers(operator):
  with pytest.raises(
    ValueError, match="storage.place: 'workers' distributes .* MultiWorkerMirroredStrategy"
  ):
    run(operator, basis="workers", steps=2)


def test_disk_of_the_folder_lowers_the_number_of_draws_too(tmp_path, monkeypatch):
  rows = 8 * 20 * BIG.shape[0]
  monkeypatch.setattr(storage, "free_disk", lambda _: 4 * rows)
  assert plan_layout(BIG, 10, 20, memory=2**50).vectors_per_pass == 10
  layout = plan_layout(BIG, 10, 20, memory=2**50, folder=tmp_path)
  assert (layout.vectors_per_pass, layout.basis.kind) == (4, "memory")


def test_bases_that_lie_in_the_folder_already_count_as_room(tmp_path, monkeypatch):
  rows = 8 * 20 * BIG.shape[0]
  monkeypatch.setattr(storage, "free_disk", lambda _: rows)
  with open(tmp_path / "basis_000", "wb") as file:
    file.truncate(rows)  # no real room
  assert plan_layout(BIG, 10, 20, memory=2**50, folder=tmp_path).vectors_per_pass == 2


@pytest.mark.parametrize("options", [{}, {"vectors_per_pass": 3}, {"basis": "float32"}])
@pytest.mark.parametrize("on_disk", [False, True])
def test_budget_too_small_is_an_error_with_a_remedy_before_any_product(
  counting, tmp_path, options, on_disk
):
  operator = counting()
  with pytest.raises(ValueError, match="no room for 6 steps .*take fewer steps, give more mem"):
    run(operator, memory=1000, workdir=tmp_path / "run" if on_disk else None, **options)
  assert operator.count == 0
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  "options, message",
  [
    ({"memory": 0}, "storage.memory: expected a finite number above 0, got 0"),
    ({"memory": -1.0}, "storage.memory: expected a finite number above 0"),
    ({"vectors_per_pass": 0}, "storage.vectors_per_pass: expected an integer of at least 1, got 0"),
    ({"basis": "disc"}, "storage.place: expected one of .*did you mean 'disk'"),
  ],
)
def test_bad_argument_is_refused_before_any_product(counting, options, message):
  operator = counting()
  with pytest.raises(ValueError, match=message):
    run(operator, **options)
  assert operator.count == 0


def test_machine_without_memory_is_no_bad_argument(monkeypatch):
  monkeypatch.setattr(storage, "available_memory", lambda: 0)
  with pytest.raises(ValueError, match="no room .*there are 0 GB of memory"):
    plan_layout(BIG, 10, 20)


# Passes that are slower than products alone.


@pytest.mark.parametrize(
  "each, expected",
  [
    (0.5, [3] * 3 + [1] * 3 + [3] * (STEPS - 4)),
    (1.0, [3] * 3 + [1] * 3 + [3] * (STEPS - 4)),
    (1.5, [3] * 3 + [1] * 3 * (STEPS - 3)),
  ],
)
def test_passes_that_are_slower_than_products_alone_are_given_up(
  monkeypatch, caplog, each, expected
):
  caplog.set_level("INFO")
  operator = Timed(Clock(monkeypatch), each=each)
  result = run(operator, draws=3)
  # The first tells the matrix from others, and the last does so again.
  assert operator.calls[1:-1] == expected
  assert f"products that share a pass take {each:g} s each, alone 1" in caplog.text
  assert_close(result, Timed(), 0.0, draws=3)


def test_building_of_functions_does_not_count_in_the_comparison(monkeypatch):
  clock = Clock(monkeypatch)

  class Building(Timed):
    """Takes long for the first product of either kind."""

    def _matvec(self, x):
      clock.now += 100.0 * (1 not in self.calls[1:])  # not the one that tells it from others
      return super()._matvec(x)

    def products(self, vectors, *, vectors_per_pass):
      clock.now += 1000.0 * (3 not in self.calls)
      return super().products(vectors, vectors_per_pass=vectors_per_pass)

  operator = Building(clock, each=1.5)
  run(operator, draws=3)
  assert operator.calls[1:-1] == [3] * 3 + [1] * 3 * (STEPS - 3)


def test_no_product_is_made_for_the_comparison_alone(passes):
  operator = make(False)
  counts = passes(operator)
  run(operator, draws=2)
  assert counts[:5] == [2] * 3 + [1] * 2
  assert sum(counts) == 2 * STEPS


def test_passes_that_are_given_up_stay_so(monkeypatch):
  operator = Timed(Clock(monkeypatch), each=2.0)
  monkeypatch.setattr(widths, "MOST_VECTORS", 2)
  run(operator, draws=6)
  assert [c for c in operator.calls if c > 1] == [2, 2, 2]


def test_number_that_was_asked_for_is_kept_however_slow(monkeypatch):
  operator = Timed(Clock(monkeypatch), each=100.0)
  run(operator, draws=3, vectors_per_pass=3)
  assert operator.calls[1 : 1 + STEPS] == [3] * STEPS  # and nothing is timed


# Matrices and other operators.


class Matrix(scipy.sparse.linalg.LinearOperator):
  """A symmetric matrix that lists how many columns its products have."""

  def __init__(self, matrix):
    super().__init__(np.dtype(np.float64), matrix.shape)
    self.columns = []
    self._matrix = matrix

  def _matvec(self, x):
    self.columns.append(1)
    return self._matrix @ x

  def _matmat(self, x):
    self.columns.append(x.shape[1])
    return self._matrix @ x


def test_columns_of_a_matrix_are_multiplied_at_once_if_asked_for(matrix):
  operator = Matrix(matrix)
  result = run(operator, draws=3, vectors_per_pass=3)
  assert [c for c in operator.columns if c > 1] == [3] * STEPS
  assert_close(result, operator, 1e-12, draws=3)


def test_columns_of_a_matrix_are_multiplied_one_by_one_by_default(matrix):
  operator = Matrix(matrix)
  assert_close(run(operator), operator, 0.0)
  assert set(operator.columns) == {1}


def test_operator_with_products_of_single_vectors_alone_has_columns_too(counting):
  operator = counting()
  result = run(operator, draws=3, vectors_per_pass=3)
  assert operator.count == 3 * STEPS
  assert_close(result, counting(), 0.0, draws=3)


@pytest.mark.parametrize("save", SAVES)
def test_interrupted_run_of_a_matrix_goes_on_bitwise(matrix, tmp_path, monkeypatch, save):
  interrupt(monkeypatch, matrix, tmp_path, save, vectors_per_pass=3)
  result = run(matrix, workdir=tmp_path)
  assert result.config["draws_per_pass"] == 3
  assert_same(result, run(matrix, vectors_per_pass=3))


def test_other_number_of_columns_of_a_matrix_is_refused(matrix, tmp_path, monkeypatch):
  interrupt(monkeypatch, matrix, tmp_path, 8, vectors_per_pass=3)
  with pytest.raises(ValueError, match="vectors_per_pass: 3 there, 1 now"):
    run(matrix, workdir=tmp_path, vectors_per_pass=1)


@pytest.mark.parametrize(
  "options, expected",
  [
    ({}, 10),
    ({"mode": "backward_over_backward"}, 1),
    ({"mode": "backward_over_backward", "cache_bytes": 0}, 10),  # read once for all
  ],
)
def test_draws_share_a_pass_where_they_share_more_than_memory(options, expected):
  w = tf.Variable(np.random.default_rng(0).standard_normal(N))
  data = tf.data.Dataset.from_tensor_slices(np.ones((4, N))).batch(2)
  operator = HessianOperator([w], function_loss, data, **options)
  operator.vectorized = False
  assert as_matrix(operator).most_vectors(10) == expected
