"""Estimates of traces against those of matrices that are known."""

import numpy as np
import pytest
import scipy.linalg

from tf_hessian.numerics.traces import METHODS, diagonal, trace

N = 60


def matrix(decay):
  """A matrix (60, 60) with eigenvalues exp(-decay i), and its trace."""
  rng = np.random.default_rng(0)
  q = scipy.linalg.qr(rng.standard_normal((N, N)))[0]
  values = np.exp(-decay * np.arange(N))
  return (q * values) @ q.T, values.sum()


def estimates(a, method, count, runs):
  return [
    trace(lambda v: v @ a, N, num_products=count, method=method, rng=np.random.default_rng(s))
    for s in range(runs)
  ]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("decay", [0.0, 0.05, 0.5])
def test_mean_of_many_is_the_trace(method, decay):
  a, expected = matrix(decay)
  found = np.array([e.value for e in estimates(a, method, 12, 400)])
  # Four standard errors of the mean; where all agree, rounding.
  assert abs(found.mean() - expected) <= 4 * found.std() / 20 + 1e-12 * expected


@pytest.mark.parametrize("method", METHODS)
def test_standard_error_is_about_the_spread(method):
  a, _ = matrix(0.1)
  found = estimates(a, method, 18, 200)
  spread = np.std([e.value for e in found])
  ratio = np.sqrt(np.mean([e.stderr**2 for e in found])) / spread
  # Samples of XTrace depend on each other; its authors saw factors of this size.
  assert (0.8 if method != "xtrace" else 0.5) < ratio < (1.25 if method != "xtrace" else 3)


def test_xtrace_is_the_mean_over_what_each_vector_leaves_out():
  a, _ = matrix(0.2)
  m, rng = 5, np.random.default_rng(7)
  v = np.random.default_rng(7).standard_normal((m, N)).T
  samples = []
  for i in range(m):
    q = scipy.linalg.qr(np.delete(a @ v, i, axis=1), mode="economic")[0]
    x = v[:, i] - q @ (q.T @ v[:, i])
    samples.append(np.trace(q.T @ a @ q) + (N - m + 1) * (x @ a @ x) / (x @ x))
  found = trace(lambda w: w @ a, N, num_products=2 * m, rng=rng)
  assert found.value == pytest.approx(np.mean(samples), rel=1e-10)
  assert found.stderr == pytest.approx(np.std(samples, ddof=1) / np.sqrt(m), rel=1e-8)
  assert found.products == 2 * m


def test_of_few_large_eigenvalues_xtrace_is_best_and_hutchinson_worst():
  a, expected = matrix(0.5)
  errors = {
    method: np.sqrt(np.mean([(e.value - expected) ** 2 for e in estimates(a, method, 24, 50)]))
    for method in METHODS
  }
  assert errors["xtrace"] < errors["hutch++"] < 0.1 * errors["hutchinson"]


@pytest.mark.parametrize("method", METHODS)
def test_indefinite_matrices_are_no_less_right(method):
  a = matrix(0.3)[0] - matrix(0.1)[0]
  found = np.array([e.value for e in estimates(a, method, 12, 400)])
  assert abs(found.mean() - np.trace(a)) <= 4 * found.std() / 20


@pytest.mark.parametrize("count", [N, 10 * N])
def test_as_many_products_as_rows_give_it_exactly(count):
  a, expected = matrix(0.1)
  found = estimates(a, "hutchinson", count, 1)[0]
  assert found.value == pytest.approx(expected, rel=1e-14)
  assert (found.stderr, found.products) == (0.0, N)


@pytest.mark.parametrize(
  "method, count, message",
  [
    ("xtrace", 3, "at least 4 for xtrace, got 3"),
    ("hutch++", 5, r"at least 6 for hutch\+\+"),
    ("hutchinson", 1, "at least 2"),
    ("hutchinson", 0, "num_products"),
    ("hutchinsn", 9, "did you mean 'hutchinson'"),
  ],
)
def test_bad_arguments_are_refused(method, count, message):
  with pytest.raises(ValueError, match=message):
    trace(lambda v: v, N, num_products=count, method=method, rng=np.random.default_rng(0))


@pytest.mark.parametrize("rank", [0, 1, 5])
def test_of_low_rank_xtrace_is_exact(rank):
  rng = np.random.default_rng(0)
  factors = np.zeros((N, max(rank, 1)))
  factors[: N // 2] = rng.standard_normal((N // 2, max(rank, 1))) * (rank > 0)
  a = factors @ factors.T
  found = estimates(a, "xtrace", 20, 1)[0]
  assert found.value == pytest.approx(np.trace(a), rel=1e-10)
  assert found.stderr <= 1e-10 * np.trace(a)


@pytest.mark.parametrize("method", ["hutchinson", "xtrace"])
def test_target_ends_it_and_uses_all_products(method):
  a, expected = matrix(0.3)
  made = []

  def products(v):
    made.append(len(v))
    return v @ a

  options = {"method": method, "num_products": 59}
  found = trace(products, N, target_error=0.2, rng=np.random.default_rng(0), **options)
  assert found.stderr <= 0.2 * found.value and 10 <= found.products < 59
  assert sum(made) == found.products
  assert abs(found.value - expected) <= 5 * found.stderr
  # What is extended is what that many products give at once, but for rounding.
  whole = estimates(a, method, found.products, 1)[0]
  assert found.value == pytest.approx(whole.value, rel=1e-9)
  assert found.stderr == pytest.approx(whole.stderr, rel=1e-6)


@pytest.mark.parametrize("target", [0.1, 0.03])
def test_target_of_xtrace_is_reached_not_only_seen(target):
  # Where it stopped when it first saw an error below the target, errors were 1.4 times the target.
  eigenvalues = np.append(np.full(190, 0.01), np.arange(1, 11))
  errors = [
    trace(
      lambda v: v * eigenvalues,
      200,
      num_products=100,
      target_error=target,
      rng=np.random.default_rng(seed),
    ).value
    / eigenvalues.sum()
    - 1
    for seed in range(100)
  ]
  assert np.sqrt(np.mean(np.square(errors))) <= 0.8 * target


@pytest.mark.parametrize("count", [20, 59, 130])
def test_target_that_can_not_be_reached_takes_the_products_there_are(count):
  a, expected = matrix(0.05)
  options = {"num_products": count, "target_error": 1e-9, "method": "hutchinson"}
  found = trace(lambda v: v @ a, N, rng=np.random.default_rng(0), **options)
  assert found.products <= count
  if count == 130:  # enough for the exact one, after samples that were too few
    assert found.value == pytest.approx(expected, rel=1e-13) and found.stderr == 0
  else:
    assert found.products == count


@pytest.mark.parametrize("per_pass", [1, 7])
def test_diagonal_is_within_its_errors(per_pass):
  a = matrix(0.05)[0] - matrix(0.3)[0]
  found = diagonal(
    lambda v: v @ a,
    N,
    num_products=40,
    vectors_per_pass=per_pass,
    rng=np.random.default_rng(0),
  )
  assert found.products == 40
  off = (found.values - np.diag(a)) / found.stderrs
  # Of sixty entries with errors by forty samples, one in a thousand such sets is farther off.
  assert np.abs(off).max() < 5 and 0.7 < np.sqrt(np.mean(off**2)) < 1.3


def test_error_of_the_diagonal_is_that_of_the_rest_of_the_row():
  a = matrix(0.05)[0]
  found = diagonal(lambda v: v @ a, N, num_products=59, rng=np.random.default_rng(1))
  expected = np.sqrt((np.sum(a**2, axis=1) - np.diag(a) ** 2) / 59)
  assert np.all(np.abs(np.log(found.stderrs / expected)) < 0.6)  # each by 59 samples: 10 %


def test_diagonal_of_as_many_products_as_rows_is_exact():
  a = matrix(0.05)[0]
  found = diagonal(
    lambda v: v @ a, N, num_products=99, vectors_per_pass=7, rng=np.random.default_rng(1)
  )
  np.testing.assert_allclose(found.values, np.diag(a), rtol=1e-13)
  assert found.products == N and not found.stderrs.any()


@pytest.mark.parametrize(
  "options, message",
  [
    ({"target_error": 0.0}, "target_error"),
    ({"target_error": 0.1, "method": "hutch++"}, "is for 'xtrace' and 'hutchinson'"),
  ],
)
def test_bad_targets_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    trace(lambda v: v, N, num_products=9, rng=np.random.default_rng(0), **options)


def test_diagonal_of_one_product_is_refused():
  with pytest.raises(ValueError, match="at least 2"):
    diagonal(lambda v: v, N, num_products=1, rng=np.random.default_rng(0))
