"""Results are records; those that unpack are tuples in every other way too."""

import copy
import dataclasses
import enum
import importlib
import inspect
import io
import operator
import pickle
import pkgutil

import numpy as np
import pytest

import tf_hessian
from tf_hessian.numerics.density import density
from tf_hessian.numerics.results import Density, Eigenpairs, EigenpairStatus

NAMES = ("grid", "values", "stderr")
ATTRIBUTES = ("draws", "sigma_squared", "missing_mass")


def make(shift=0.0):
  nodes = [np.array([0.0, 1.0]), np.array([0.5 + shift])]
  return density(nodes, [np.array([0.25, 0.75]), np.ones(1)], 1e-2)


@pytest.fixture(scope="module")
def result():
  return make()


def test_a_density_has_three_parts(result):
  assert isinstance(result, tuple)
  assert len(result) == 3 and result._fields == NAMES


@pytest.mark.parametrize("index", [0, 1, 2, -1, -2, -3])
def test_a_density_can_be_indexed(result, index):
  assert result[index] is getattr(result, NAMES[index])


@pytest.mark.parametrize("cut", [slice(2), slice(None), slice(1, None), slice(None, None, -1)])
def test_a_density_can_be_sliced(result, cut):
  expected = [getattr(result, name) for name in NAMES[cut]]
  assert [a is b for a, b in zip(result[cut], expected, strict=True)] == [True] * len(expected)


@pytest.mark.parametrize("name", NAMES + ATTRIBUTES)
def test_a_density_can_not_be_changed(result, name):
  with pytest.raises(AttributeError):
    setattr(result, name, None)


COPIES = {
  "copy": copy.copy,
  "deepcopy": copy.deepcopy,
  "pickle": lambda d: pickle.loads(pickle.dumps(d)),
  "replace": lambda d: d._replace(),
  "made again": lambda _: make(),
}


@pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES)
def test_copies_of_a_density_are_equal_and_have_all_attributes(result, make_copy):
  copied = make_copy(result)
  assert operator.eq(copied, result) and not operator.ne(copied, result)
  for name in NAMES + ATTRIBUTES:
    np.testing.assert_array_equal(getattr(copied, name), getattr(result, name))


CHANGES = [{name: np.zeros(3)} for name in (*NAMES, "draws")] + [
  {"sigma_squared": 1.0},
  {"missing_mass": 0.5},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: next(iter(c)))
def test_a_density_with_another_part_is_another(result, change):
  other = result._replace(**change)
  assert operator.ne(other, result) and not operator.eq(other, result)
  ((name, value),) = change.items()
  assert getattr(other, name) is value


def test_a_density_is_equal_to_no_plain_tuple(result):
  assert result != tuple(result) and result != 1


def test_a_density_of_one_draw_is_equal_to_itself_though_its_error_is_nan():
  one, same = (density([np.zeros(1)], [np.ones(1)], 1e-2) for _ in range(2))
  assert np.isnan(one.stderr).all() and one == same


def results():
  """Yields every class of the package that can be iterated over, a data set of batches excepted."""
  for module in pkgutil.walk_packages(tf_hessian.__path__, "tf_hessian."):
    for found in vars(importlib.import_module(module.name)).values():
      ours = inspect.isclass(found) and found.__module__ == module.name
      ours = ours and not issubclass(found, enum.Enum)  # its members are iterated over
      if ours and hasattr(found, "__iter__") and found.__name__ != "Batches":
        yield found


def test_whatever_unpacks_can_be_indexed_and_has_a_length():
  found = {c for c in results() if not c.__name__.startswith("_")}
  assert Density in found
  lacking = {c.__name__ for c in found if not {"__getitem__", "__len__"} <= set(dir(c))}
  assert not lacking


# Eigenpairs as bytes.


@pytest.fixture(params=EigenpairStatus)
def pairs(request):
  vectors = np.linalg.qr(np.random.default_rng(0).standard_normal((7, 3)))[0].T
  residuals = np.array([0.0, 5e-324, 0.1 + 0.2])
  return Eigenpairs(np.array([3.0, 2.0, -1.0]), vectors, residuals, request.param, 41)


def test_eigenpairs_come_back_from_bytes_bitwise(pairs):
  content = pairs.to_bytes()
  assert isinstance(content, bytes)
  found = Eigenpairs.from_bytes(content)
  for name in ("values", "vectors", "residuals"):
    a, b = getattr(found, name), getattr(pairs, name)
    assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
  assert (found.status, found.num_products) == (pairs.status, 41)
  assert type(found.num_products) is int


def test_bytes_of_a_result_repeat(pairs):
  assert pairs.to_bytes() == pairs.to_bytes()


@pytest.mark.parametrize("change", ["empty", "text", "truncated", "status", "missing"])
def test_bytes_that_are_no_eigenpairs_are_refused(pairs, change):
  content = pairs.to_bytes()
  file = io.BytesIO()
  if change == "status":
    np.savez(file, values=0, vectors=0, residuals=0, status="DONE", num_products=1)
  if change == "missing":
    np.savez(file, values=0, vectors=0, residuals=0, num_products=1)
  bad = {"empty": b"", "text": b"text", "truncated": content[: len(content) // 2]}
  with pytest.raises(ValueError, match="eigenpairs: not a result as bytes, or damaged"):
    Eigenpairs.from_bytes(bad.get(change, file.getvalue()))


def test_bytes_hold_all_fields_of_eigenpairs(pairs):
  with np.load(io.BytesIO(pairs.to_bytes()), allow_pickle=False) as saved:
    assert set(saved.files) == {f.name for f in dataclasses.fields(Eigenpairs)}


def three_pairs():
  q = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 3)))[0].T
  return Eigenpairs(np.arange(3.0), q, np.zeros(3), EigenpairStatus.CONVERGED, 3)


def test_projection_gives_shares_of_energy():
  found = three_pairs()
  v = 3.0 * found.vectors[0] - 4.0 * found.vectors[2]
  np.testing.assert_allclose(found.project(v), [0.36, 0.0, 0.64], atol=1e-15)
  rest = np.linalg.svd(found.vectors)[2][4]  # orthogonal to them all
  np.testing.assert_allclose(found.project(v + 5 * rest), [0.18, 0.0, 0.32], atol=1e-15)
  assert found.project(1e-200 * v).sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
  "vector, message",
  [
    (np.zeros(5), "not zero"),
    (np.full(5, np.nan), "finite"),
    (np.ones(4), r"expected shape \(5,\), got \(4,\)"),
    (np.ones((5, 1)), "expected shape"),
  ],
)
def test_bad_vectors_have_no_projection(vector, message):
  with pytest.raises(ValueError, match=message):
    three_pairs().project(vector)
