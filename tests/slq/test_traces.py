"""Traces of blocks against those of the dense matrix."""

import numpy as np
import pytest
import scipy.sparse
from scipy.sparse.linalg import LinearOperator
import tensorflow as tf

import tf_hessian
from tf_hessian.numerics import probes
from tf_hessian.slq.traces import BlockTraces, block_traces, diagonal, trace


@pytest.fixture(scope="module")
def dense(hessian):
  return tf_hessian.dense_hessian(hessian)


def slices(operator, by):
  """Returns the indices of each block's rows."""
  sizes = [int(np.prod(s)) for s in operator.parameter_shapes]
  parts = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
  if by == "variable":
    return dict(zip(operator.parameter_names, parts, strict=True))
  result = {}
  for name, part in zip(operator.parameter_names, parts, strict=True):
    layer = name.rsplit("/", 1)[0]
    result[layer] = np.concatenate([result.get(layer, np.array([], int)), part])
  return result


@pytest.mark.parametrize("by", ["layer", "variable"])
def test_estimates_are_within_their_errors_of_the_dense_blocks(hessian, dense, by):
  found = block_traces(hessian, by, num_probes=200, progress=False)
  blocks = slices(hessian, by)
  assert found.names == tuple(blocks)
  assert found.sizes.tolist() == [len(b) for b in blocks.values()]
  traces = [np.trace(dense[np.ix_(b, b)]) for b in blocks.values()]
  squares = [np.sum(dense[b] ** 2) for b in blocks.values()]
  # Four standard errors: of some ten estimates, one is farther off in a thousand runs.
  assert np.all(np.abs(found.traces - traces) <= 4 * found.trace_errors + 1e-6)
  norms = [np.sum(dense[np.ix_(b, b)] ** 2) for b in blocks.values()]
  assert np.all(np.abs(found.block_squares - norms) <= 4 * found.block_square_errors + 1e-6)
  assert np.all(np.abs(found.row_squares - squares) <= 4 * found.row_square_errors + 1e-6)
  trace, error = found.trace
  assert abs(trace - np.trace(dense)) <= 4 * error
  norm, error = found.frobenius_squared
  assert abs(norm - np.sum(dense**2)) <= 4 * error


def test_samples_are_those_of_whole_products(hessian, dense):
  found = block_traces(hessian, num_probes=3, seed=5, progress=False)
  for i, sample in enumerate(found.samples):
    v = probes.signs(5, i, len(dense))
    expected = [(v * (dense @ v))[b].sum() for b in slices(hessian, "layer").values()]
    np.testing.assert_allclose(sample, expected, rtol=0, atol=1e-5)  # products are float32


def test_it_takes_the_products_of_one_trace(new_operator, monkeypatch):
  operator, made = new_operator(), []
  products = type(operator).products
  monkeypatch.setattr(
    type(operator), "products", lambda self, v: made.append(len(v)) or products(self, v)
  )
  operator.vectors_per_pass = 4
  block_traces(operator, num_probes=10, progress=False)
  assert made == [4, 4, 2]


def test_diagonal_blocks_are_exact():
  point = [tf.Variable([1.0, 2.0], name="a"), tf.Variable([3.0], name="b")]
  loss = lambda p, batch: batch * (p[0][0] ** 2 + 2 * p[0][1] ** 2 + 3 * p[1][0] ** 2)  # noqa: E731
  operator = tf_hessian.HessianOperator(point, loss, [np.ones(1, np.float32)])
  found = block_traces(operator, num_probes=2, progress=False)
  assert (found.names, found.traces.tolist()) == (("a", "b"), [6.0, 6.0])
  assert found.trace_errors.tolist() == [0.0, 0.0]
  assert found.row_squares.tolist() == [20.0, 36.0]
  assert found.block_squares[1] == 36.0  # of a single number, whatever its sign


def test_squared_norms_are_right_in_the_mean():
  rng = np.random.default_rng(0)
  a = rng.standard_normal((6, 6))
  a += a.T
  norm, estimates = np.sum(a[:2, :2] ** 2), []
  for _ in range(4000):
    v = rng.choice([-1.0, 1.0], (3, 6))
    cross = (v[:, :2] @ (v @ a)[:, :2].T)[:, :, np.newaxis]
    found = BlockTraces(("x",), np.array([2]), cross, np.zeros((3, 1)))
    estimates.append(float(found.block_squares[0]))
  # Four standard errors.
  assert abs(np.mean(estimates) - norm) <= 4 * np.std(estimates) / 4000**0.5


def test_single_probe_has_no_error(hessian):
  found = block_traces(hessian, num_probes=1, progress=False)
  assert np.isnan(found.trace_errors).all() and np.isnan(found.trace[1])
  assert np.isnan(found.block_squares).all() and np.isnan(found.block_square_errors).all()


def test_it_goes_through_bytes_and_has_a_table(hessian):
  found = block_traces(hessian, num_probes=2, progress=False)
  again = BlockTraces.from_bytes(found.to_bytes())
  np.testing.assert_array_equal(again.samples, found.samples)
  assert str(again) == str(found)
  lines = str(found).splitlines()
  assert len(lines) == 2 + len(found.names) and lines[-1].startswith("all")


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
def test_trace_is_within_its_error(hessian, dense, method):
  found = trace(hessian, 24, method=method, progress=False)
  assert abs(found.value - np.trace(dense)) <= 4 * found.stderr
  assert found.products == 24
  assert trace(hessian, 24, method=method, progress=False) == found
  assert trace(hessian, 24, method=method, seed=1, progress=False) != found


@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_array])
def test_trace_of_an_array_with_as_many_products_is_exact(kind):
  a = np.diag(np.arange(5.0))
  assert trace(kind(a), progress=False) == (10.0, 0.0, 5)


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
@pytest.mark.parametrize("scale", [2.0**-600, 2.0**600])
def test_extreme_matrices_have_estimates_in_proportion(method, scale):
  a = np.diag(np.append([9.0, 8.0], np.random.default_rng(0).uniform(0, 1, 98)))
  value, stderr, _ = trace(a, 20, method=method, progress=False)
  assert trace(scale * a, 20, method=method, progress=False) == (value * scale, stderr * scale, 20)
  usual, extreme = (diagonal(s * a + s, 20, progress=False) for s in (1, scale))
  np.testing.assert_array_equal(extreme.values, usual.values * scale)
  np.testing.assert_array_equal(extreme.stderrs, usual.stderrs * scale)


@pytest.mark.parametrize("function", [trace, diagonal])
def test_complex_products_and_arrays_that_are_not_symmetric_are_refused(function):
  rotating = LinearOperator((9, 9), matvec=lambda v: np.ravel(v) * (1 + 1j), dtype=float)
  with pytest.raises(TypeError, match="its products are complex"):
    function(rotating, 4, progress=False)
  with pytest.raises(ValueError, match="expected a symmetric matrix"):
    function(np.outer(np.ones(9), np.arange(9)), 4, progress=False)


def test_products_that_share_an_array_are_told_apart():
  a, kept = np.diag(np.arange(9.0)) + 1, np.empty(9)
  reusing = LinearOperator(
    (9, 9), matvec=lambda v: np.matmul(a, np.ravel(v), out=kept), dtype=float
  )
  found, expected = (trace(x, 8, progress=False) for x in (reusing, a))
  np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_products_that_are_not_finite_are_refused():
  with pytest.raises(ValueError, match="NaN or infinity in the array"):
    trace(np.diag([np.nan, 1.0]), progress=False)
  operator = LinearOperator((2, 2), matvec=lambda v: v * np.nan, dtype=float)
  with pytest.raises(ValueError, match="^operator: its products are not finite"):
    trace(operator, progress=False)


@pytest.mark.parametrize(
  "arguments, message",
  [
    ({"method": "xtrac"}, "did you mean 'xtrace'"),
    ({"num_products": 3}, "at least 4 for xtrace"),
    ({"num_products": 0}, "num_products"),
  ],
)
def test_bad_arguments_of_a_trace_are_refused(hessian, arguments, message):
  with pytest.raises(ValueError, match=message):
    trace(hessian, progress=False, **arguments)


@pytest.mark.parametrize(
  "arguments, message",
  [({"by": "layers"}, "did you mean 'layer'"), ({"num_probes": 0}, "num_probes")],
)
def test_bad_arguments_are_refused(hessian, arguments, message):
  with pytest.raises(ValueError, match=message):
    block_traces(hessian, **arguments)


def test_other_matrices_have_no_layers():
  with pytest.raises(TypeError, match="expected a HessianOperator"):
    block_traces(np.eye(3))


def test_diagonal_is_within_its_errors(hessian, dense):
  found = diagonal(hessian, 60, progress=False)
  assert found.products == min(60, len(dense))
  assert np.all(np.abs(found.values - np.diag(dense)) <= 5 * found.stderrs + 1e-6)
  again = diagonal(hessian, 60, progress=False)
  np.testing.assert_array_equal(again.values, found.values)


def test_target_of_a_trace_that_is_missed_is_said(hessian, caplog):
  found = trace(hessian, 12, method="hutchinson", target_error=1e-9, progress=False)
  assert found.products == 12
  assert "misses target_error=1e-09" in caplog.text
