"""Searches for eigenpairs that go on from their folder."""

import json

import numpy as np
import pytest

from tests.operators import Counting
import tf_hessian
from tf_hessian.numerics.results import EigenpairStatus
from tf_hessian.slq import search_folder

N = 40
RNG = np.random.default_rng(0)
VALUES = np.linspace(-4, 9, N)
Q = np.linalg.qr(RNG.standard_normal((N, N)))[0]
MATRIX = (Q * VALUES) @ Q.T
OPTIONS = {"largest": 2, "smallest": 1, "basis_size": 8, "max_products": 400, "progress": False}


class Stopped(Exception):
  pass


def search(folder=None, operator=None, **options):
  operator = Counting(MATRIX) if operator is None else operator
  return tf_hessian.top_eigenpairs(operator, workdir=folder, **OPTIONS | options)


@pytest.fixture(autouse=True)
def always_saved(monkeypatch):
  monkeypatch.setattr(search_folder, "_SAVE_SECONDS", 0.0)
  monkeypatch.setattr(search_folder, "_SHARE", np.inf)


@pytest.fixture(scope="module")
def expected():
  """The result without a folder, and the number of its products."""
  operator = Counting(MATRIX)
  return search(operator=operator), operator.count


def assert_same(found, expected):
  for name in ("values", "vectors", "residuals"):
    np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
  assert (found.status, found.num_products) == (expected.status, expected.num_products)


def test_pairs_are_those_of_the_dense_matrix(expected):
  pairs, products = expected
  np.testing.assert_allclose(pairs.values, VALUES[[-1, -2, 0]], rtol=0, atol=1e-12)
  assert products > 2 * OPTIONS["basis_size"]  # it restarts more than once


def test_interrupted_search_goes_on_bitwise_from_each_product(tmp_path, expected):
  pairs, products = expected
  for last in (1, 2, 7, 8, 9, 10, 17, products - 3):
    folder = tmp_path / str(last)
    with pytest.raises(Stopped):
      search(folder, Counting(MATRIX, fail_at=last, error=Stopped))
    rest = Counting(MATRIX)
    assert_same(search(folder, rest), pairs)
    assert rest.count == products - (last - 1)
    assert not (folder / "search.npz").exists()


def test_interrupted_search_for_copies_goes_on_bitwise(tmp_path):
  values = np.append(VALUES[:-2], [VALUES[-1]] * 2)
  matrix = (Q * values) @ Q.T
  options = {"tolerance": 1e-5}
  operator = Counting(matrix)
  pairs = search(operator=operator, **options)
  np.testing.assert_allclose(pairs.values, values[[-1, -2, 0]], rtol=0, atol=1e-8)
  for last in range(3, operator.count - 3, 4):
    folder = tmp_path / str(last)
    with pytest.raises(Stopped):
      search(folder, Counting(matrix, fail_at=last, error=Stopped), **options)
    assert_same(search(folder, Counting(matrix), **options), pairs)
  again = Counting(matrix)  # what has looked for copies is good for one who does not ask for it
  assert_same(search(folder, again, repeated=False, **options), pairs)
  assert again.count == 0


@pytest.mark.parametrize("budget", [5, 8, 9, 10, 11, 12, 16, 20])
def test_search_that_had_too_few_products_goes_on_with_more(tmp_path, expected, budget):
  pairs, products = expected
  few = search(tmp_path, max_products=budget)
  assert few.status in (EigenpairStatus.OUT_OF_PRODUCTS, EigenpairStatus.COPIES_UNKNOWN)
  again = Counting(MATRIX)
  assert_same(search(tmp_path, again, max_products=budget), few)
  assert again.count == 0
  rest = Counting(MATRIX)
  assert_same(search(tmp_path, rest), pairs)
  assert rest.count == products - budget
  assert not (tmp_path / "search.npz").exists()
  assert_same(search(tmp_path, again, max_products=budget), pairs)  # it is better than asked for


def test_folder_that_recorded_its_limit_goes_on(tmp_path, expected):
  search(tmp_path, max_products=5)
  path = tmp_path / "run.json"
  record = json.loads(path.read_text()) | {"max_products": 5}
  path.write_text(json.dumps(record))
  pairs = search(tmp_path)
  np.testing.assert_allclose(pairs.values, expected[0].values, rtol=0, atol=1e-9)


def test_folder_of_a_search_without_copies_is_refused_with_the_remedy(tmp_path):
  search(tmp_path, repeated=False)
  with pytest.raises(ValueError, match="has not looked for copies.*; repeated=False, --norepeated"):
    search(tmp_path)


@pytest.mark.parametrize("budget", [None, 12, 20])
@pytest.mark.parametrize("size", [8, 12])
def test_search_interrupted_in_its_last_checks_goes_on_bitwise(tmp_path, budget, size):
  options = {"basis_size": size} | ({"max_products": budget} if budget else {})
  operator = Counting(MATRIX)
  pairs = search(operator=operator, **options)
  for last in range(operator.count - 3, operator.count + 1):
    folder = tmp_path / str(last)
    with pytest.raises(Stopped):
      search(folder, Counting(MATRIX, fail_at=last, error=Stopped), **options)
    rest = Counting(MATRIX)
    assert_same(search(folder, rest, **options), pairs)
    assert rest.count <= operator.count


def test_one_pair_was_never_looked_for_again(tmp_path):
  first = search(tmp_path, largest=1)
  path = tmp_path / "run.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"repeated": True}))
  np.testing.assert_array_equal(search(tmp_path, largest=1).values, first.values)


def test_products_that_ran_out_while_looking_are_enough_without(tmp_path, expected):
  alone = search(repeated=False)
  few = search(tmp_path, max_products=alone.num_products - 3 + 1)
  assert few.status is EigenpairStatus.COPIES_UNKNOWN
  found = search(tmp_path, max_products=few.num_products - 3, repeated=False)
  assert found.status is EigenpairStatus.CONVERGED
  np.testing.assert_array_equal(found.values, few.values)
  np.testing.assert_allclose(found.values, expected[0].values, rtol=0, atol=1e-9)


@pytest.mark.parametrize("tolerance", [1, 1.0])
def test_numbers_of_another_type_are_the_same_search(tmp_path, tolerance):
  first = search(tmp_path, tolerance=1.0)
  again = Counting(MATRIX)
  assert_same(search(tmp_path, again, tolerance=tolerance), first)
  assert again.count == 0


def test_values_are_told_where_they_can_not_be_saved(tmp_path, monkeypatch, caplog):
  def full(*_):
    raise OSError("no space")

  monkeypatch.setattr(search_folder.SearchFolder, "save_result", full)
  with pytest.raises(OSError, match="no space"):
    search(tmp_path)
  assert f"{VALUES[-1]:.6g}"[:5] in caplog.text


def test_finished_search_is_read(tmp_path, expected):
  search(tmp_path)
  again = Counting(MATRIX)
  assert_same(search(tmp_path, again), expected[0])
  assert again.count == 0


def test_files_say_what_they_are_of(tmp_path, expected):
  search(tmp_path, config={"name": "mine"})
  assert_same(tf_hessian.Eigenpairs.load(tmp_path / "eigenpairs.npz"), expected[0])
  with np.load(tmp_path / "eigenpairs.npz") as saved:
    about = json.loads(saved["about"].tobytes())
  assert about["format"] == "tf_hessian.eigenpairs" and about["format_version"] == 1
  assert about["config"] == {"name": "mine"}
  assert about["versions"]["tf_hessian"] == tf_hessian.__version__ and about["device"]
  summary = json.loads((tmp_path / "eigenpairs.json").read_text())
  assert summary["values"] == expected[0].values.tolist()


@pytest.mark.parametrize(
  "change, name",
  [
    ({"seed": 1}, "seed"),
    ({"largest": 3}, "largest"),
    ({"tolerance": 1e-4}, "tolerance"),
    ({"operator": Counting(MATRIX + np.eye(N))}, "product"),
    ({"start": np.ones(N)}, "start"),
  ],
)
def test_folder_of_another_search_is_refused(tmp_path, change, name):
  search(tmp_path)
  with pytest.raises(ValueError, match=rf"it holds another run \({name} differ"):
    search(tmp_path, **change)


@pytest.mark.parametrize("name", ["eigenpairs.npz", "search.npz"])
def test_damaged_file_is_said_and_not_used(tmp_path, expected, caplog, name):
  with pytest.raises(Stopped):
    search(tmp_path, Counting(MATRIX, fail_at=9, error=Stopped))
  (tmp_path / name).write_bytes(b"nothing")
  assert_same(search(tmp_path), expected[0])
  assert f"{name} is damaged" in caplog.text


def test_other_folders_are_left_alone(tmp_path):
  (tmp_path / "mine.txt").write_text("")
  with pytest.raises(ValueError, match="it holds mine.txt"):
    search(tmp_path)


def test_state_is_written_rarely(tmp_path, monkeypatch):
  monkeypatch.setattr(search_folder, "_SAVE_SECONDS", 60.0)
  written = []
  monkeypatch.setattr(
    search_folder.SearchFolder, "_write", lambda _, name, __: written.append(name)
  )
  search(tmp_path)
  assert written == ["eigenpairs.npz"]


@pytest.mark.parametrize("last", [1, 5, 8, 9, 20])
def test_interruption_loses_no_product(tmp_path, monkeypatch, expected, last):
  monkeypatch.setattr(search_folder, "_SAVE_SECONDS", 60.0)
  with pytest.raises(KeyboardInterrupt):
    search(tmp_path, Counting(MATRIX, fail_at=last, error=KeyboardInterrupt))
  rest = Counting(MATRIX)
  assert_same(search(tmp_path, rest), expected[0])
  assert rest.count == expected[1] - (last - 1)


def test_result_is_loaded_from_its_folder_and_nothing_else(tmp_path, expected):
  search(tmp_path / "run")
  assert_same(tf_hessian.Eigenpairs.load(tmp_path / "run"), expected[0])
  (tmp_path / "other.npz").write_bytes(b"nothing")
  with pytest.raises(ValueError, match="other.npz: not the eigenpairs of a search"):
    tf_hessian.Eigenpairs.load(tmp_path / "other.npz")


@pytest.mark.slow
def test_folder_is_of_the_models_weights(tmp_path):
  import tensorflow as tf

  from tests.operators import make_operator

  operator = make_operator()
  found = tf_hessian.top_eigenpairs(operator, 2, workdir=tmp_path, progress=False)
  exact = np.linalg.eigvalsh(operator @ np.eye(operator.shape[0]))
  np.testing.assert_allclose(found.values, exact[:-3:-1], rtol=1e-5)
  operator.model.trainable_variables[0].assign_add(
    tf.ones_like(operator.model.trainable_variables[0])
  )
  with pytest.raises(ValueError, match="point"):
    tf_hessian.top_eigenpairs(operator, 2, workdir=tmp_path, progress=False)


def test_result_without_room_is_refused_before_the_search(tmp_path, monkeypatch):
  usage = search_folder.shutil.disk_usage(tmp_path)._replace(free=3 * N * 8 - 1)
  monkeypatch.setattr(search_folder.shutil, "disk_usage", lambda _: usage)
  operator = Counting(MATRIX)
  with pytest.raises(OSError, match="no room for the eigenvectors: 960 bytes, and 959 are free"):
    search(tmp_path, operator)
  assert operator.count == 0
