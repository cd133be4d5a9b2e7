"""What lies in a run's folder may be another run's, damaged, locked, or not fit on the disk."""

import errno
import fcntl
import io
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.numerics.memory_basis import MemoryBasis
from tf_hessian.slq.density import spectral_density
from tf_hessian.slq.run_folder import RunFolder

STEPS, DRAWS = 6, 3


def run(operator, workdir=None, *, draws=DRAWS, steps=STEPS, seed=1, **options):
  return spectral_density(
    operator,
    num_draws=draws,
    lanczos_steps=steps,
    seed=seed,
    workdir=workdir,
    progress=False,
    **options,
  )


def full(*_, **__):
  raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def expected(matrix):
  """The undisturbed run's tridiagonal matrices."""
  return run(matrix).tridiagonals


@pytest.fixture
def half(counting, tmp_path):
  """A folder with draw 0 finished and draw 1 after 3 steps."""
  with pytest.raises(RuntimeError):
    run(counting(STEPS + 4), tmp_path)
  return tmp_path


def contents(folder):
  return {p.name: p.read_bytes() for p in folder.iterdir()}


def assert_goes_on(operator, folder, expected, products):
  """Asserts that a run ends with the right result after so many products."""
  result = run(operator, folder)
  assert operator.count == products
  for a, b in zip(result.tridiagonals, expected, strict=True):
    assert a.tobytes() == b.tobytes()


# Other runs.


@pytest.mark.parametrize(
  "options, difference",
  [({"steps": 5}, "lanczos_steps: 6 there, 5 now"), ({"seed": 2}, "seed: 1 there, 2 now")],
)
def test_run_with_another_argument_is_refused(counting, half, options, difference):
  before, operator = contents(half), counting()
  with pytest.raises(ValueError, match=f"{half}: .*{difference}.*use another folder"):
    run(operator, half, **options)
  assert operator.count == 0
  assert contents(half) == before


def test_run_of_another_matrix_is_refused(matrix, half):
  before = contents(half)
  with pytest.raises(ValueError, match="something else.*product: "):
    run(matrix + np.eye(len(matrix)), half)
  assert contents(half) == before


def test_run_of_a_larger_matrix_is_refused(half):
  with pytest.raises(ValueError, match="n: 24 there, 25 now"):
    run(np.eye(25), half)


@pytest.fixture(scope="module")
def model_folder(new_operator, tmp_path_factory):
  """The folder of a model's run."""
  folder = tmp_path_factory.mktemp("model")
  run(new_operator(), folder, draws=1)
  return folder


def test_run_on_other_data_is_refused(new_operator, model_folder):
  with pytest.raises(ValueError, match="data_fingerprint: "):
    run(new_operator(seed=1), model_folder, draws=1)


def test_run_at_other_weights_is_refused(new_operator, model_folder):
  operator = new_operator()
  operator.model.set_weights([2 * w for w in operator.model.get_weights()])
  with pytest.raises(ValueError, match="point: "):
    run(operator, model_folder, draws=1)


@pytest.mark.parametrize(
  "options, difference",
  [
    ({"num_batches": 1}, "num_batches: 3 there, 1 now"),
    ({"mode": "backward_over_backward"}, "mode: "),
    ({"training": True}, "training: false there, true now"),
    ({"variables": "hidden_1/*"}, "n: 26 there, 16 now"),
  ],
)
def test_run_of_another_operator_is_refused(new_operator, model_folder, options, difference):
  with pytest.raises(ValueError, match=difference):
    run(new_operator(**options), model_folder, draws=1)


# Locks.


def test_folder_in_use_is_refused(counting, half):
  operator = counting()
  with open(half / "lock") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match=f"{half}: another process is working in this folder"):
      run(operator, half)
  assert operator.count == 0


def test_folder_in_use_by_another_process_is_refused(counting, half, expected):
  code = (
    "import fcntl, sys\nlock = open(sys.argv[1])\nfcntl.flock(lock, fcntl.LOCK_EX)\n"
    "print('locked', flush=True)\nsys.stdin.read()"
  )
  command = [sys.executable, "-c", code, half / "lock"]
  with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
    try:
      assert process.stdout.readline() == b"locked\n"
      with pytest.raises(ValueError, match="another process"):
        run(counting(), half)
    finally:
      process.kill()
  assert_goes_on(counting(), half, expected, DRAWS * STEPS - STEPS - 3)


def test_folder_is_in_use_during_a_run(counting, tmp_path):
  operator = counting()
  original, messages = operator._matvec, []

  def matvec(x):
    if operator.count == 2 and not messages:
      with pytest.raises(ValueError, match="another process") as error:
        run(counting(), tmp_path)
      messages.append(str(error.value))
    return original(x)

  operator._matvec = matvec
  run(operator, tmp_path)
  assert messages


def test_refused_folder_is_not_left_locked(counting, half, expected):
  with pytest.raises(ValueError, match="seed"):
    run(counting(), half, seed=2)
  assert_goes_on(counting(), half, expected, DRAWS * STEPS - STEPS - 3)


# Damage.


def truncated(content):
  return content[: len(content) // 2]


def flipped(content):
  damaged = bytearray(content)
  damaged[content.index(b"descr")] ^= 0xFF  # in an array's header, not in what a zip file ignores
  return bytes(damaged)


def other_npz(_):
  file = io.BytesIO()
  np.savez(file, other=np.arange(3))
  return file.getvalue()


DAMAGES = [truncated, flipped, other_npz, lambda _: b"", lambda _: b"text", lambda c: bytes(len(c))]
DAMAGE_IDS = ["truncated", "flipped", "other", "empty", "text", "zeros"]


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("damage", DAMAGES, ids=DAMAGE_IDS)
def test_damaged_step_begins_the_draw_again(counting, half, expected, caplog, damage):
  path = half / "step_001.npz"
  path.write_bytes(damage(path.read_bytes()))
  assert_goes_on(counting(), half, expected, (DRAWS - 1) * STEPS)
  assert "draw 1 begins again" in caplog.text


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("damage", DAMAGES, ids=DAMAGE_IDS)
@pytest.mark.parametrize("name", ["draw_000.npz"])
def test_damaged_draw_is_computed_again(counting, half, expected, caplog, name, damage):
  path = half / name
  path.write_bytes(damage(path.read_bytes()))
  result = run(counting(), half)
  for a, b in zip(result.tridiagonals, expected, strict=True):
    assert a.tobytes() == b.tobytes()
  assert f"{path} is damaged" in caplog.text


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("name", ["step_001.npz", "draw_000.npz"])
def test_flipped_byte_is_noticed_or_does_no_harm(half, name):
  path = half / name
  content = path.read_bytes()
  identity = json.loads((half / "run.json").read_text())
  escaped = {}
  with RunFolder(half, identity) as folder:
    basis = MemoryBasis(np.fromfile(folder.basis_path(1)).reshape(STEPS, 24))
    load = (lambda: folder.load_draw(0)) if "draw" in name else lambda: folder.load_step(1, basis)
    expected = load()[0]["alphas"]
    # The directory of the file, at its end, is where most can go wrong.
    for place in [*range(0, len(content), 41), *range(len(content) - 100, len(content))]:
      damaged = bytearray(content)
      damaged[place] ^= 0xFF
      path.write_bytes(damaged)
      try:
        found = load()
        assert found is None or np.array_equal(found[0]["alphas"], expected)
      except Exception as e:  # any error, or a wrong result
        escaped[place] = repr(e)[:100]
  assert not escaped


@pytest.mark.parametrize("row", [0, 2, 3])
def test_damaged_basis_begins_the_draw_again(counting, half, expected, caplog, row):
  path = half / "basis_001"
  content = bytearray(path.read_bytes())
  content[8 * (24 * row + 5)] ^= 1
  path.write_bytes(content)
  assert_goes_on(counting(), half, expected, (DRAWS - 1) * STEPS)
  assert "basis is damaged: draw 1 begins again" in caplog.text


def test_rows_of_the_basis_that_do_not_count_do_no_harm(counting, half, expected, caplog):
  path = half / "basis_001"
  content = bytearray(path.read_bytes())
  content[8 * 24 * 4 :] = b"\xff" * (8 * 24 * 2)
  path.write_bytes(content)
  assert_goes_on(counting(), half, expected, DRAWS * STEPS - STEPS - 3)
  assert "damaged" not in caplog.text


@pytest.mark.parametrize("size", [None, 0, 8 * 24 * 2, 8 * 24 * 2 + 3])
def test_short_or_lost_basis_begins_the_draw_again(counting, half, expected, caplog, size):
  path = half / "basis_001"
  if size is None:
    path.unlink()
  else:
    os.truncate(path, size)
  assert_goes_on(counting(), half, expected, (DRAWS - 1) * STEPS)
  assert "basis is damaged" in caplog.text


def test_lost_step_begins_the_draw_again(counting, half, expected):
  (half / "step_001.npz").unlink()
  assert_goes_on(counting(), half, expected, (DRAWS - 1) * STEPS)


@pytest.mark.parametrize("content", ["", "{", "text", "[]", "{}", "3", "null", "\x00" * 100])
def test_damaged_description_is_refused(counting, half, content):
  (half / "run.json").write_text(content)
  operator = counting()
  with pytest.raises(ValueError, match=f"{half}/run.json: damaged"):
    run(operator, half)
  assert operator.count == 0


@pytest.mark.parametrize("version", ["3", None, [1]])
def test_description_with_a_bad_version_is_refused(counting, half, version):
  path = half / "run.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": version}))
  with pytest.raises(ValueError, match=str(path)):
    run(counting(), half)


def test_newer_format_is_refused_with_a_remedy(counting, half):
  path = half / "run.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 3}))
  with pytest.raises(ValueError, match="format version 3: install a newer"):
    run(counting(), half)


# Whose it is.


@pytest.mark.parametrize("seed", [1, 2])
def test_draws_without_their_record_are_not_believed(counting, half, seed):
  (half / "run.json").unlink()
  before, operator = contents(half), counting()
  with pytest.raises(ValueError, match=f"{half}: it holds .*but no run.json.*new or empty folder"):
    run(operator, half, seed=seed)
  assert operator.count == 0
  assert contents(half) == before


def test_draw_of_another_run_is_kept_aside_and_computed(counting, tmp_path, expected, caplog):
  run(counting(), tmp_path / "a")
  run(counting(), tmp_path / "b", seed=2)
  content = (tmp_path / "b" / "draw_001.npz").read_bytes()
  (tmp_path / "a" / "draw_001.npz").write_bytes(content)
  assert_goes_on(counting(), tmp_path / "a", expected, STEPS)
  assert f"{tmp_path}/a/draw_001.npz: it is of another run" in caplog.text
  aside = list((tmp_path / "a").glob("draw_001_of_*.npz"))
  assert [p.read_bytes() for p in aside] == [content]


def test_other_draw_of_the_run_is_not_taken_for_this_one(counting, tmp_path, expected, caplog):
  run(counting(), tmp_path)
  (tmp_path / "draw_001.npz").write_bytes((tmp_path / "draw_000.npz").read_bytes())
  assert_goes_on(counting(), tmp_path, expected, STEPS)
  assert "it is draw 0" in caplog.text


def changed(path, **arrays):
  """Writes some arrays of a file anew; removes those that are None."""
  with np.load(path) as saved:
    state = dict(saved) | arrays
  np.savez(path, **{k: v for k, v in state.items() if v is not None})


@pytest.mark.parametrize(
  "arrays, reason",
  [
    ({"alphas": np.zeros(5), "betas": np.zeros(5)}, "5 steps of 6, and the status COMPLETE"),
    ({"alphas": np.zeros(0), "betas": np.zeros(0)}, "0 steps and is not finished"),
    ({"alphas": np.zeros(7), "betas": np.zeros(7)}, "7 steps of 6"),
    ({"alphas": np.array(list("abcdef"))}, "alphas is <U1 of shape"),
    ({"alphas": np.zeros(6, np.float32)}, "alphas is float32"),
    ({"alphas": np.zeros((6, 1))}, "alphas is float64 of shape"),
    ({"betas": np.full(6, np.nan)}, "betas has numbers that can't be"),
    ({"betas": np.full(6, -1.0)}, "betas has numbers that can't be"),
    ({"betas": np.zeros(5)}, "don't fit each other"),
    ({"wall_time": np.float64(np.inf)}, "wall_time has numbers that can't be"),
    ({"status": np.array("RUNNING")}, "6 steps and is not finished"),
    ({"status": np.array("DONE")}, "status 'DONE'"),
    ({"run": None}, "no array 'run'"),
    ({"draw": None}, "no array 'draw'"),
  ],
)
def test_draw_that_does_not_fit_is_named_and_computed_again(
  counting, half, expected, caplog, arrays, reason
):
  changed(half / "draw_000.npz", **arrays)
  if arrays.get("run", "") is None:  # it would be a draw of an earlier version
    with np.load(half / "draw_000.npz") as saved:
      np.savez(half / "draw_000.npz", alphas=saved["alphas"])
  assert_goes_on(counting(), half, expected, DRAWS * STEPS - 3)
  assert f"{half}/draw_000.npz is damaged" in caplog.text
  assert reason in caplog.text or "run" in arrays


@pytest.mark.parametrize(
  "arrays",
  [
    {"run": np.array("0" * 32)},
    {"draw": np.array(0)},
    {"checksums": np.zeros(0, np.uint32)},
    {"checksums": None},
    {"alphas": np.full(3, np.nan)},
    {"status": np.array("COMPLETE")},
  ],
)
def test_step_that_does_not_fit_begins_the_draw_again(counting, half, expected, caplog, arrays):
  changed(half / "step_001.npz", **arrays)
  assert_goes_on(counting(), half, expected, (DRAWS - 1) * STEPS)
  assert f"{half}/step_001.npz: " in caplog.text and "draw 1 begins again" in caplog.text


def make_unmarked(folder):
  """Makes a folder one of the same format as an earlier version left it."""
  about = json.loads((folder / "run.json").read_text())
  del about["digest"]
  (folder / "run.json").write_text(json.dumps(about, indent=2))
  for path in folder.glob("draw_*.npz"):
    changed(path, run=None, draw=None)
  for path in folder.glob("step_*.npz"):
    changed(path, run=None)


def test_folder_of_an_earlier_version_goes_on_bitwise(counting, half, expected):
  make_unmarked(half)
  about = (half / "run.json").read_bytes()
  assert_goes_on(counting(), half, expected, DRAWS * STEPS - STEPS - 3)
  assert (half / "run.json").read_bytes() == about
  assert_goes_on(counting(), half, expected, 0)


def test_draw_of_an_earlier_version_is_not_believed_without_its_record(counting, half):
  make_unmarked(half)
  (half / "run.json").unlink()
  with pytest.raises(ValueError, match="no run.json"):
    run(counting(), half)


def test_draw_of_an_earlier_version_is_kept_aside_in_a_newer_folder(
  counting, half, tmp_path_factory, expected
):
  make_unmarked(half)
  newer = tmp_path_factory.mktemp("newer")
  run(counting(), newer)
  (newer / "draw_000.npz").write_bytes((half / "draw_000.npz").read_bytes())
  assert_goes_on(counting(), newer, expected, STEPS)
  assert (newer / "draw_000_of_another.npz").exists()


def test_record_that_was_changed_is_damaged(counting, half):
  path = half / "run.json"
  path.write_text(path.read_text().replace('"digest": "', '"digest": "0'))
  with pytest.raises(ValueError, match=f"{path}: damaged .its digest is wrong"):
    run(counting(), half)


def test_files_of_the_users_beside_a_run_stay(counting, half, expected):
  mine = ("basis.py", "basis_data.csv", "step_sizes.npz", "steps.npz", ".cache.npz.bak", "basis_0")
  for name in mine:
    (half / name).write_text("mine")
  (half / "basis_000_old").mkdir()
  assert_goes_on(counting(), half, expected, DRAWS * STEPS - STEPS - 3)
  assert all((half / name).read_text() == "mine" for name in mine)
  assert (half / "basis_000_old").is_dir()


# Folders that can't be written.


@pytest.mark.parametrize("below", ["file", "file/run"])
def test_folder_that_is_a_file_is_an_error_before_any_product(counting, tmp_path, below):
  (tmp_path / "file").write_text("")
  operator = counting()
  with pytest.raises(OSError, match=f"can't write to the run folder {tmp_path / below}"):
    run(operator, tmp_path / below)
  assert operator.count == 0


def test_no_room_is_an_error_before_any_product(counting, tmp_path, monkeypatch):
  monkeypatch.setattr(os, "posix_fallocate", full)
  operator = counting()
  with pytest.raises(
    OSError, match=f"{tmp_path}/basis_000: no room for the Lanczos basis of .* GiB"
  ):
    run(operator, tmp_path)
  assert operator.count == 0


def test_no_room_is_an_error_before_the_products_of_the_check(new_operator, tmp_path, monkeypatch):
  monkeypatch.setattr(os, "posix_fallocate", full)
  products, original = [], HessianOperator._matvec

  def matvec(self, x):
    products.append(x)
    return original(self, x)

  monkeypatch.setattr(HessianOperator, "_matvec", matvec)
  with pytest.raises(OSError, match="no room"):
    run(new_operator(), tmp_path)
  assert len(products) == 1  # which tells the matrix from others


def test_run_goes_on_once_there_is_room(counting, tmp_path, monkeypatch, expected):
  with monkeypatch.context() as patch:
    patch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="no room"):
      run(counting(), tmp_path)
  assert_goes_on(counting(), tmp_path, expected, DRAWS * STEPS)


# One more write for the start vector of each draw, and one for the draw.
WRITES = STEPS + 2


@pytest.mark.parametrize("call", ["numpy.savez", "os.replace"])
@pytest.mark.parametrize("written", [1, 2, 5, STEPS, STEPS + 1, WRITES, WRITES + 1, 2 * WRITES - 2])
def test_full_disk_is_an_error_and_the_run_goes_on_afterwards(
  counting, tmp_path, monkeypatch, expected, call, written
):
  module = {"numpy": np, "os": os}[call.split(".")[0]]
  original, count = getattr(module, call.split(".")[1]), []

  def limited(*args, **kwargs):
    count.append(args)
    if len(count) > written:
      full()
    return original(*args, **kwargs)

  operator = counting()
  with monkeypatch.context() as patch:
    patch.setattr(module, call.split(".")[1], limited)
    with pytest.raises(OSError, match=f"can't write {tmp_path}/(step|draw)_00..npz: No space"):
      run(operator, tmp_path)
  # The products whose steps are on disk: each draw has one write more before and after them.
  draw, rest = divmod(written, WRITES)
  kept = draw * STEPS + min(max(rest - 1, 0), STEPS)
  assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
  assert_goes_on(counting(), tmp_path, expected, DRAWS * STEPS - kept)


def test_full_disk_at_the_end_keeps_the_draws(counting, tmp_path, monkeypatch, expected):
  with monkeypatch.context() as patch:
    original, count = np.savez, []

    def limited(*args, **kwargs):
      count.append(args)
      if len(count) > DRAWS * WRITES:
        full()
      return original(*args, **kwargs)

    patch.setattr(np, "savez", limited)
    with pytest.raises(OSError, match="spectrum.npz"):
      run(counting(), tmp_path)
  assert_goes_on(counting(), tmp_path, expected, 0)


def activation_model(activation):
  keras.utils.set_random_seed(0)
  inputs = keras.Input((3,))
  return keras.Model(inputs, keras.layers.Dense(2, activation, name="dense")(inputs), name="same")


def test_folder_of_another_function_with_the_same_variables_is_refused(tmp_path):
  data = [(np.ones((4, 3), np.float32), np.zeros((4, 2), np.float32))]
  run(HessianOperator(activation_model("relu"), "mse", data), tmp_path)
  with pytest.raises(ValueError, match="a run of something else .*product"):
    run(HessianOperator(activation_model("tanh"), "mse", data), tmp_path)


def test_model_that_is_built_again_goes_on_where_keras_numbers_its_layers_anew(tmp_path):
  data = [(np.ones((4, 3), np.float32), np.zeros((4, 2), np.float32))]

  def again():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "tanh")])
    return run(HessianOperator(model, "mse", data), tmp_path)

  keras.utils.clear_session(free_memory=False)
  first = again()
  with pytest.raises(ValueError, match="variables: names .* others.*clear_session"):
    again()
  keras.utils.clear_session(free_memory=False)
  np.testing.assert_array_equal(again().nodes, first.nodes)


def test_run_of_other_kernels_is_refused_with_what_may_differ(matrix, half):
  """Which rounding tells, by the product of a fixed vector alone."""
  with pytest.raises(ValueError, match="product: .*kernels differ .*instruction set") as error:
    run(np.nextafter(matrix, np.inf), half)
  digest = json.loads((half / "run.json").read_text())["product"]
  assert digest not in str(error.value)


@pytest.mark.parametrize("field, value", [("basis", "memorz"), ("basis", 3), ("basis", None)])
@pytest.mark.parametrize("marked", [True, False])
def test_damaged_choice_on_record_is_refused_with_the_folder(half, matrix, field, value, marked):
  _check_damaged_choice(half, matrix, field, value, marked)


@pytest.mark.parametrize("value", [0, -1, True, 2.5, "2", [1]])
@pytest.mark.parametrize("marked", [True, False])
def test_damaged_number_on_record_is_refused_with_the_folder(half, matrix, value, marked):
  _check_damaged_choice(half, matrix, "draws_per_pass", value, marked)


def _check_damaged_choice(folder, matrix, field, value, marked):
  path = folder / "run.json"
  record = json.loads(path.read_text())
  record[field] = value
  if not marked:
    del record["digest"]
  path.write_text(json.dumps(record))
  with pytest.raises(ValueError, match=f"{folder}.*: (it holds a run of something else|damaged)"):
    run(matrix, folder)
  assert path.read_text() == json.dumps(record)


@pytest.mark.parametrize("name", ["notes.txt", "draw_000_of_another.npz", "step_000.npz"])
def test_folder_with_anything_in_it_keeps_its_record(tmp_path, name):
  with RunFolder(tmp_path, {"n": 3}) as folder:
    (tmp_path / "basis_000").write_bytes(b"")
    (tmp_path / name).write_text("")
    folder.forget_unless_begun()
  assert (tmp_path / "run.json").exists() and (tmp_path / name).exists()


def test_folder_without_a_step_is_left_to_another_run(tmp_path):
  with RunFolder(tmp_path, {"n": 3}) as folder:
    (tmp_path / "basis_000").write_bytes(b"")
    folder.forget_unless_begun()
  assert {p.name for p in tmp_path.iterdir()} <= {"lock"}
  with RunFolder(tmp_path, {"n": 4}):
    pass


def test_record_without_a_digest_has_that_of_its_own_numbers(tmp_path):
  with RunFolder(tmp_path, {"n": 3, "tolerance": 1}) as folder:
    first = folder.digest
  path = tmp_path / "run.json"
  record = json.loads(path.read_text())
  path.write_text(json.dumps({k: v for k, v in record.items() if k != "digest"}))
  with RunFolder(tmp_path, {"n": 3, "tolerance": 1.0}) as folder:
    assert folder.digest == first
