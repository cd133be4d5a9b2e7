"""Dense matrices that go on from their folder."""

import errno
import json
import os
import shutil
import signal
import sys

import numpy as np
import pytest

from tests.operators import Counting
import tf_hessian
from tf_hessian import files, numerics, portable
from tf_hessian.slq import matrix_folder

N, WIDTH = 150, 64  # blocks of 64, 64 and 22 columns
RNG = np.random.default_rng(0)
FACTOR, DIAGONAL = RNG.standard_normal((N, 5)), RNG.standard_normal(N)
# Of eigenvalues, each right to n roundings of the largest, which is 196.
ATOL = N * 2.3e-16 * 196


class LowRank(Counting):
  """A matrix whose products are symmetric to rounding only."""

  def __init__(self, shift=0.0, **options):
    super().__init__(FACTOR @ FACTOR.T, **options)
    self._diagonal = DIAGONAL + shift

  def _matvec(self, x):
    super()._matvec(x)
    x = x.ravel()
    return self._diagonal * x + FACTOR @ (FACTOR.T @ x)


def dense(operator, folder=None, **options):
  return tf_hessian.dense_hessian(operator, workdir=folder, progress=False, **options)


def exact(operator, folder=None, **options):
  return tf_hessian.exact_spectrum(operator, workdir=folder, progress=False, **options).eigenvalues


@pytest.fixture(scope="module")
def expected():
  """The results without a folder."""
  return {dense: dense(LowRank()), exact: exact(LowRank())}


both = pytest.mark.parametrize("compute, before", [(dense, 0), (exact, 2)])  # before the columns


def test_spectrum_is_that_of_numpy(expected):
  matrix = np.diag(DIAGONAL) + FACTOR @ FACTOR.T
  np.testing.assert_allclose(expected[exact], np.linalg.eigvalsh(matrix), rtol=0, atol=ATOL)
  np.testing.assert_allclose(expected[dense], matrix, rtol=0, atol=1e-14)


@pytest.mark.parametrize("compute", [dense, exact])
def test_result_is_bitwise_that_without_a_folder(tmp_path, expected, compute):
  assert compute(LowRank(), tmp_path).tobytes() == expected[compute].tobytes()


@both
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("last", [1, 64, 65, 66, 129, 150])
def test_interrupted_computation_goes_on_after_the_last_block(
  tmp_path, expected, compute, before, error, last
):
  with pytest.raises(error):
    compute(LowRank(fail_at=last + before, error=error), tmp_path)
  assert not [p for p in tmp_path.iterdir() if files.is_temporary(p.name)]
  rest = LowRank()
  assert compute(rest, tmp_path).tobytes() == expected[compute].tobytes()
  assert rest.count == before + N - (last - 1) // WIDTH * WIDTH


@both
def test_finished_columns_are_read(tmp_path, expected, compute, before):
  compute(LowRank(), tmp_path)
  again = LowRank()
  assert compute(again, tmp_path).tobytes() == expected[compute].tobytes()
  assert again.count == before


def test_both_functions_share_the_columns(tmp_path, expected):
  dense(LowRank(), tmp_path)
  again = LowRank()
  assert exact(again, tmp_path).tobytes() == expected[exact].tobytes()
  assert again.count == 2
  values = tf_hessian.exact_spectrum(again, eigenvectors=True, workdir=tmp_path, progress=False)
  np.testing.assert_allclose(values.eigenvalues, expected[exact], rtol=0, atol=ATOL)
  assert again.count == 4


def test_one_triangle_is_kept(tmp_path):
  exact(LowRank(), tmp_path)
  found = sorted(tmp_path.glob("columns_*"))
  assert [p.name for p in found] == [
    "columns_000000.npz",
    "columns_000064.npz",
    "columns_000128.npz",
  ]
  shapes = []
  for path in found:
    with np.load(path) as saved:
      shapes.append(saved["columns"].shape)
      about = json.loads(saved["about"].tobytes())
      assert about["format"] == "tf_hessian.matrix" and about["format_version"] == 1
      assert about["versions"]["numpy"] == np.__version__ and about["device"]
  assert shapes == [(64, 150), (64, 86), (22, 22)]
  assert matrix_folder.held_bytes(tmp_path) == sum(p.stat().st_size for p in found)


def test_matrix_is_a_file_that_changes_leave_alone(tmp_path, expected):
  found = dense(LowRank(), tmp_path)
  assert isinstance(found, np.memmap)
  found += 1.0
  np.testing.assert_array_equal(found, expected[dense] + 1.0)
  np.testing.assert_array_equal(np.load(tmp_path / "matrix.npy"), expected[dense])


def test_single_passes_are_kept_by_several(tmp_path):
  operator = LowRank()
  operator.vectors_per_pass = 3
  exact(operator, tmp_path)
  assert (tmp_path / "columns_000009.npz").exists()
  assert len(list(tmp_path.glob("columns_*"))) == -(-N // 9)


def test_rows_of_zeros_are_no_columns(tmp_path):
  a = np.zeros((90, 90))
  a[20:, 20:] = np.diag(np.arange(1.0, 71.0))
  found = tf_hessian.exact_spectrum(a, workdir=tmp_path, progress=False)
  again = tf_hessian.exact_spectrum(a, workdir=tmp_path, progress=False)
  assert found.num_zero_rows == again.num_zero_rows == 20
  np.testing.assert_array_equal(found.eigenvalues, again.eigenvalues)
  np.testing.assert_allclose(found.nonzero_eigenvalues, np.arange(1.0, 71.0), rtol=1e-15)


def test_no_rows_are_no_matrix(tmp_path):
  assert dense(LowRank(), tmp_path, rows=[]).shape == (0, 0)


# Other matrices.


@pytest.mark.parametrize(
  "change, name",
  [
    ({"operator": LowRank(shift=1.0)}, "product"),
    ({"rows": np.arange(100)}, "rows"),
    ({"rows": np.arange(N)[::-1]}, "rows"),
  ],
)
def test_folder_of_another_matrix_is_refused(tmp_path, change, name):
  dense(LowRank(), tmp_path)
  with pytest.raises(ValueError, match=rf"it holds another run \({name} differ"):
    dense(change.pop("operator", None) or LowRank(), tmp_path, **change)


def test_other_number_of_columns_a_pass_is_refused(tmp_path):
  dense(LowRank(), tmp_path)
  other = LowRank()
  other.vectors_per_pass = 32
  with pytest.raises(ValueError, match="vectors_per_pass differ"):
    dense(other, tmp_path)


def test_model_at_another_point_is_refused(tmp_path, new_operator):
  hessian = new_operator()
  with pytest.raises(KeyboardInterrupt):
    tf_hessian.dense_hessian(hessian, workdir=tmp_path, progress=interrupt)
  found = dense(hessian, tmp_path)
  np.testing.assert_array_equal(found, dense(hessian))
  hessian.assign(1.5 * hessian.parameters())
  with pytest.raises(ValueError, match=r"point, product differ\)"):
    dense(hessian, tmp_path)


def interrupt(_):
  raise KeyboardInterrupt


@pytest.mark.parametrize("compute", [dense, exact])
def test_other_folders_are_left_alone(tmp_path, compute):
  (tmp_path / "mine.txt").write_text("")
  operator = LowRank()
  with pytest.raises(ValueError, match="it holds mine.txt"):
    compute(operator, tmp_path)
  assert operator.count == 0 and os.listdir(tmp_path) == ["mine.txt"]


def test_folder_in_use_is_refused(tmp_path):
  operator = LowRank()

  def second(_):
    dense(operator, tmp_path)

  with pytest.raises(ValueError, match="another process is working in this folder"):
    tf_hessian.dense_hessian(operator, workdir=tmp_path, progress=second)


def test_columns_of_another_matrix_are_not_used(tmp_path, expected):
  dense(LowRank(shift=1.0), tmp_path / "other")
  with pytest.raises(RuntimeError):
    dense(LowRank(fail_at=1), tmp_path / "mine")
  foreign = tmp_path / "other" / "columns_000064.npz"
  foreign.rename(tmp_path / "mine" / foreign.name)
  np.testing.assert_array_equal(dense(LowRank(), tmp_path / "mine"), expected[dense])
  assert len(list((tmp_path / "mine").glob("columns_000064_of_*.npz"))) == 1


# Damage.


def replaced(path, **changes):
  with np.load(path) as saved:
    arrays = dict(saved) | changes
  np.savez(path, **{k: v for k, v in arrays.items() if v is not None})


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


DAMAGE = {
  "bit": flip,
  "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
  "empty": lambda path: path.write_bytes(b""),
  "shape": lambda path: replaced(path, columns=np.zeros((64, 85))),
  "dtype": lambda path: replaced(path, columns=np.zeros((64, 86), np.float32)),
  "judged": lambda path: replaced(path, judged=None),
  "columns": lambda path: replaced(path, columns=None),
}


@both
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_block_alone_is_computed_again(tmp_path, expected, caplog, compute, before, damage):
  compute(LowRank(), tmp_path)
  (tmp_path / matrix_folder.EIGENVALUES).unlink(missing_ok=True)
  DAMAGE[damage](tmp_path / "columns_000064.npz")
  again = LowRank()
  assert compute(again, tmp_path).tobytes() == expected[compute].tobytes()
  assert again.count == before + 64
  assert "columns_000064.npz is damaged" in caplog.text


def test_eigenvalues_are_read_and_damaged_ones_computed_again(tmp_path, expected, monkeypatch):
  exact(LowRank(), tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(numerics.dense, "block_spectrum", None)
    assert exact(LowRank(), tmp_path).tobytes() == expected[exact].tobytes()
  flip(tmp_path / "eigenvalues.npz")
  assert exact(LowRank(), tmp_path).tobytes() == expected[exact].tobytes()


def test_damaged_matrix_is_made_again(tmp_path, expected):
  dense(LowRank(), tmp_path)
  flip(tmp_path / "matrix.npy")
  np.testing.assert_array_equal(dense(LowRank(), tmp_path), expected[dense])


def test_asymmetry_is_remembered(tmp_path):
  a = np.eye(N)
  a[3, 100] = 0.5
  for _ in range(2):
    operator = Counting(a)
    with pytest.raises(ValueError, match="it is off by 0.5 of its largest entry"):
      dense(operator, tmp_path)
  assert operator.count == 0
  assert not (tmp_path / "matrix.npy").exists()


# The disk, and the process's end.


def test_full_disk_is_said_before_the_first_column(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(portable, "reserve", full)
  operator = LowRank()
  with pytest.raises(OSError, match="can't write .*matrix.npy: No space left"):
    dense(operator, tmp_path)
  assert operator.count == 0


def test_room_counts_what_is_there(tmp_path, monkeypatch):
  dense(LowRank(), tmp_path)
  held = matrix_folder.held_bytes(tmp_path)
  monkeypatch.setattr("tf_hessian.slq.exact.free_disk", lambda _: 12 * N**2 - held)
  dense(LowRank(), tmp_path)
  monkeypatch.setattr("tf_hessian.slq.exact.free_disk", lambda _: 12 * N**2 - held - 1)
  with pytest.raises(ValueError, match=f"at most {N - 1} rows fit"):
    dense(LowRank(), tmp_path)


def test_files_of_any_moment_are_gone_on_from(tmp_path, expected):
  """A killed process leaves what there is; this takes less than another process."""
  folder = tmp_path / "run"

  def copy(done):
    shutil.copytree(folder, tmp_path / str(done))

  tf_hessian.dense_hessian(LowRank(), workdir=folder, progress=copy)
  for done, left in ((64, N), (128, N - 64), (150, N - 128)):
    moment = tmp_path / str(done)
    assert [p for p in moment.iterdir() if files.is_temporary(p.name)]
    rest = LowRank()
    np.testing.assert_array_equal(dense(rest, moment), expected[dense])
    assert rest.count == left
    assert not [p for p in moment.iterdir() if files.is_temporary(p.name)]


def run_until_killed(folder):
  """Computes a matrix, and kills this process in the second block."""
  tf_hessian.dense_hessian(
    LowRank(),
    workdir=folder,
    progress=lambda done: os.kill(os.getpid(), signal.SIGKILL) if done > WIDTH else None,
  )


@pytest.mark.slow
def test_killed_computation_goes_on_bitwise(tmp_path, forked, expected):
  process = forked([sys.executable, __file__, str(tmp_path)])
  _, said = process.communicate(timeout=120)
  assert process.returncode == -signal.SIGKILL, said
  assert [p for p in tmp_path.iterdir() if files.is_temporary(p.name)]
  rest = LowRank()
  np.testing.assert_array_equal(dense(rest, tmp_path), expected[dense])
  assert rest.count == N - WIDTH
  assert not [p for p in tmp_path.iterdir() if files.is_temporary(p.name)]


if __name__ == "__main__":
  run_until_killed(sys.argv[1])
