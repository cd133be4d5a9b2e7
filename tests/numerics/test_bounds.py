"""The bounds of Claim 2.3: formulas, inverses, norms of kernels, how often they are exceeded."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from tf_hessian.numerics.bounds import (
  draws_needed,
  epsilon,
  failure_probability,
  kernel_norms,
  worst_case_draws,
  worst_case_epsilon,
  worst_spectral_norm,
)

EPS = np.finfo(np.float64).eps


def eq_11(a, b, n, k, p):
  """Returns Eq. 11 as it is printed."""
  x = np.log(2 / p)
  return 2 * a / (n * np.sqrt(k)) * np.sqrt(x) + 2 * b / (k * n) * x


# Formulas.


def test_epsilon_of_a_case_by_hand():
  # x = 4: 2 3 2 / (4 3) + 2 2 4 / (9 4). The exponent, from exp and log, is right to 2 eps.
  got = epsilon(3.0, 2.0, n=4, draws=9, probability=2 * np.exp(-4))
  np.testing.assert_allclose(got, 1 + 4 / 9, rtol=4 * EPS)


def test_epsilon_of_arrays_is_that_of_each_entry():
  a, b = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.1, 3.0])
  expected = [epsilon(*ab, n=7, draws=3, probability=0.1) for ab in zip(a, b, strict=True)]
  np.testing.assert_array_equal(epsilon(a, b, n=7, draws=3, probability=0.1), expected)


SETTINGS = pytest.mark.parametrize(
  ("n", "draws", "sigma_squared", "probability"),
  [(1, 1, 1.0, 0.5), (50, 10, 1e-5, 0.05), (15_910, 10, 1e-5, 1e-9), (10**9, 1000, 4.0, 0.999)],
)


@SETTINGS
def test_worst_case_is_eq_11_with_the_height_of_the_kernel(n, draws, sigma_squared, probability):
  b = 1 / (np.sqrt(2 * np.pi) * np.sqrt(sigma_squared))
  expected = eq_11(np.sqrt(n) * b, b, n, draws, probability)
  got = worst_case_epsilon(n=n, draws=draws, sigma_squared=sigma_squared, probability=probability)
  np.testing.assert_allclose(got, expected, rtol=8 * EPS)  # of as many operations


@SETTINGS
def test_worst_case_has_the_closed_form_of_eq_12(n, draws, sigma_squared, probability):
  ratio = np.log(2 / probability) / (n * draws)
  expected = np.sqrt(2 / (np.pi * sigma_squared)) * (np.sqrt(ratio) + ratio)
  got = worst_case_epsilon(n=n, draws=draws, sigma_squared=sigma_squared, probability=probability)
  np.testing.assert_allclose(got, expected, rtol=8 * EPS)


@pytest.mark.parametrize("sigma_squared", [1e-5, 1.0, 30.0])
def test_worst_spectral_norm_is_the_height_of_the_kernel(sigma_squared):
  expected = scipy.stats.norm.pdf(0, scale=np.sqrt(sigma_squared))
  np.testing.assert_allclose(worst_spectral_norm(sigma_squared), expected, rtol=4 * EPS)


@pytest.mark.parametrize("t", [-1.3, 0.0, 0.4, 2.0])
def test_worst_case_is_not_below_that_of_a_matrix(t):
  a, b = kernel_norms(np.linspace(-1, 1, 30), np.array([t]), 0.05)
  worst = worst_case_epsilon(n=30, draws=4, sigma_squared=0.05, probability=0.1)
  assert epsilon(a, b, n=30, draws=4, probability=0.1) <= worst


# Inverses.


def random_bounds(count, seed):
  """Yields random a, b, n, k, probability."""
  rng = np.random.default_rng(seed)
  for _ in range(count):
    a, b = rng.uniform(0.01, 30, 2)
    yield a, b, int(rng.integers(1, 1000)), int(rng.integers(1, 400)), rng.uniform(1e-6, 0.999)


def test_draws_needed_is_the_smallest_number_whose_epsilon_is_small_enough():
  every = np.arange(1, 1000)
  numbers = set()
  for a, b, n, k, p in random_bounds(300, seed=0):
    # Between those of k and k + 1, of all of which none is near: no rounding decides.
    wanted = (eq_11(a, b, n, k, p) + eq_11(a, b, n, k + 1, p)) / 2
    smallest = every[np.argmax(eq_11(a, b, n, every, p) <= wanted)]
    numbers.add(smallest)
    assert draws_needed(a, b, n=n, epsilon=wanted, probability=p) == smallest
  assert len(numbers) > 100


@pytest.mark.parametrize(("side", "more"), [(1, 0), (-1, 1)], ids=["above", "below"])
def test_draws_needed_steps_at_the_epsilon_of_a_whole_number(side, more):
  for a, b, n, k, p in random_bounds(300, seed=1):
    # Eight roundings off: those of the formula are fewer, and a draw changes it by 1e-3 or more.
    wanted = eq_11(a, b, n, k, p) * (1 + 8 * side * EPS)
    assert draws_needed(a, b, n=n, epsilon=wanted, probability=p) == k + more


def test_draws_needed_inverts_epsilon():
  for a, b, n, k, p in random_bounds(300, seed=2):
    wanted = epsilon(a, b, n=n, draws=k, probability=p)
    assert draws_needed(a, b, n=n, epsilon=wanted, probability=p) == k


@pytest.mark.parametrize(("a", "b"), [(3.0, 0.0), (0.0, 3.0)], ids=["only a", "only b"])
def test_draws_needed_by_one_norm_alone(a, b):
  # x = 1: epsilon = 3 / sqrt(k), or 3 / k, with n = 2. 1% off whole numbers.
  p = 2 * np.exp(-1)
  expected = 17 if b == 0 else 5
  wanted = 3 / np.sqrt(16.1) if b == 0 else 3 / 4.1
  assert draws_needed(a, b, n=2, epsilon=wanted, probability=p) == expected


def test_one_draw_is_needed_for_an_epsilon_that_is_never_reached():
  assert draws_needed(1.0, 1.0, n=10, epsilon=1e6, probability=0.1) == 1


def test_worst_case_draws_is_the_smallest_number_of_eq_12():
  every = np.arange(1, 100_000)
  ratio = np.log(2 / 0.05) / (500 * every)
  values = np.sqrt(2 / (np.pi * 1e-2)) * (np.sqrt(ratio) + ratio)
  for wanted in [0.01, 0.05, 0.3, 2.0]:
    got = worst_case_draws(n=500, sigma_squared=1e-2, epsilon=wanted, probability=0.05)
    assert got == every[np.argmax(values <= wanted)]


def test_failure_probability_inverts_epsilon():
  for a, b, n, k, p in random_bounds(300, seed=3):
    got = failure_probability(a, b, n=n, draws=k, epsilon=eq_11(a, b, n, k, p))
    # A relative error of x, here of up to eight roundings, is one of x as much in exp(-x).
    assert abs(got / p - 1) <= 8 * EPS * (1 + np.log(2 / p))


def test_failure_probability_is_1_for_an_epsilon_that_promises_nothing():
  # Below x = log 2 the formula 2 exp(-x) is above 1.
  a, b = 2.0, 1.0
  x = np.log(2) / 2
  small = 2 * a * np.sqrt(x) / (9 * np.sqrt(4)) + 2 * b * x / (4 * 9)
  assert failure_probability(a, b, n=9, draws=4, epsilon=small) == 1


def test_failure_probability_where_the_kernel_is_0_is_0():
  # As of kernel_norms far from the spectrum: nothing varies there.
  assert failure_probability(0.0, 0.0, n=9, draws=4, epsilon=0.1) == 0


# Monotone.


def is_falling(values):
  return bool(np.all(np.diff(values) < 0))


def test_epsilon_falls_with_the_number_of_draws():
  assert is_falling([epsilon(3.0, 1.0, n=9, draws=k, probability=0.1) for k in range(1, 200)])


def test_epsilon_falls_with_the_probability():
  probabilities = np.linspace(1e-6, 0.999, 200)
  assert is_falling([epsilon(3.0, 1.0, n=9, draws=4, probability=p) for p in probabilities])


def test_worst_case_epsilon_falls_with_sigma():
  sigmas = np.logspace(-5, 2, 100)
  assert is_falling(
    [worst_case_epsilon(n=9, draws=4, sigma_squared=s, probability=0.1) for s in sigmas]
  )


def test_worst_case_epsilon_falls_with_the_order_of_the_matrix():
  assert is_falling(
    [worst_case_epsilon(n=n, draws=4, sigma_squared=1.0, probability=0.1) for n in range(1, 200)]
  )


def test_failure_probability_falls_with_the_number_of_draws():
  assert is_falling(
    [failure_probability(3.0, 1.0, n=9, draws=k, epsilon=1.0) for k in range(2, 100)]
  )


def test_draws_needed_falls_with_epsilon():
  wanted = np.logspace(-3, -1, 50)
  assert is_falling([draws_needed(3.0, 1.0, n=9, epsilon=e, probability=0.1) for e in wanted])


# Norms of kernels.

SPECTRA = {
  "spread": np.linspace(-1, 1, 12),
  "unsorted": np.random.default_rng(0).permutation(np.linspace(-1, 1, 12)),
  "repeated": np.repeat([-1.0, 0.0, 0.5], [4, 7, 1]),
  "equal": np.full(5, 0.3),
  "two": np.array([1.0, -1.0]),
  "one": np.array([0.3]),
}
# Between eigenvalues, on some of them, half-way (0) and outside of the spectrum.
GRID = np.array([-2.0, -1.2, -1.0, -0.73, -0.2, 0.0, 0.1, 0.3, 0.5, 0.9, 1.0, 1.4, 2.1])


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("sigma_squared", [0.05, 1.0])
def test_kernel_norms_are_those_of_the_dense_kernel(symmetric, name, sigma_squared):
  h = symmetric(SPECTRA[name])
  a, b = kernel_norms(SPECTRA[name], GRID, sigma_squared)
  height = scipy.stats.norm.pdf(0, scale=np.sqrt(sigma_squared))
  kernels = []
  for t in GRID:
    shifted = h - t * np.eye(len(h))
    kernels.append(height * scipy.linalg.expm(-shifted @ shifted / (2 * sigma_squared)))
  # The exponent, up to 3.1^2 / (2 sigma^2), has n eps times that as its error; exp(-z) keeps it.
  tolerance = len(h) * EPS * height * 3.1**2 / (2 * sigma_squared)
  expected = [scipy.linalg.norm(f, "fro") for f in kernels]
  np.testing.assert_allclose(a, expected, rtol=0, atol=tolerance)
  expected = [scipy.linalg.norm(f, 2) for f in kernels]
  np.testing.assert_allclose(b, expected, rtol=0, atol=tolerance)


def test_kernel_norms_do_not_depend_on_the_order_of_the_eigenvalues():
  first = kernel_norms(SPECTRA["spread"], GRID, 0.05)
  np.testing.assert_array_equal(kernel_norms(SPECTRA["unsorted"], GRID, 0.05), first)


def test_kernel_norms_of_one_eigenvalue_are_the_kernel():
  expected = scipy.stats.norm.pdf(GRID, 0.3, np.sqrt(0.05))
  a, b = kernel_norms([0.3], GRID, 0.05)
  # z^2 / 2 is 72 at most.
  np.testing.assert_allclose(a, expected, rtol=4 * 72 * EPS)
  np.testing.assert_allclose(b, expected, rtol=4 * 72 * EPS)


def test_frobenius_norm_of_equal_eigenvalues_is_the_root_of_their_number_times_the_other():
  a, b = kernel_norms(np.full(9, 0.3), GRID, 0.05)
  np.testing.assert_allclose(a, 3 * b, rtol=4 * 72 * EPS)


def test_kernel_norms_far_from_the_spectrum_are_0():
  a, b = kernel_norms([0.0, 1.0], np.array([-9.0, 10.0]), 1e-3)
  assert not a.any() and not b.any()


# How often epsilon is exceeded.

N, DRAWS, RUNS, VARIANCE = 40, 3, 8000, 0.02
EIGENVALUES = np.append(np.random.default_rng(0).exponential(0.2, N - 2), [2.0, 3.0])
POINTS = [-0.2, 0.0, 0.2, 1.0, 2.0, 3.3]


@pytest.fixture(scope="module")
def vectors():
  """Returns start vectors in the eigenvectors' basis, (RUNS, DRAWS, N): normal, and of length 1."""
  normal = np.random.default_rng(7).standard_normal((RUNS, DRAWS, N))
  unit = normal / np.linalg.norm(normal, axis=-1, keepdims=True)
  return {"normal": normal / np.sqrt(N), "unit": unit}


def frequency(vectors, t, probability):
  """Returns how often the density at t is further from its mean than epsilon."""
  kernel = scipy.stats.norm.pdf(t, EIGENVALUES, np.sqrt(VARIANCE))
  errors = np.abs((vectors**2 @ kernel).mean(axis=1) - kernel.mean())
  a, b = kernel_norms(EIGENVALUES, np.array([t]), VARIANCE)
  return np.mean(errors > epsilon(a, b, n=N, draws=DRAWS, probability=probability))


@pytest.mark.parametrize("kind", ["normal", "unit"])
@pytest.mark.parametrize("t", POINTS)
@pytest.mark.parametrize("probability", [0.9, 0.5, 0.1, 0.01])
def test_epsilon_is_not_exceeded_more_often_than_promised(vectors, kind, t, probability):
  # Four binomial standard errors.
  margin = 4 * np.sqrt(probability * (1 - probability) / RUNS)
  assert frequency(vectors[kind], t, probability) <= probability + margin


@pytest.mark.parametrize("t", POINTS)
def test_epsilon_of_probability_a_half_is_exceeded_less_than_one_time_in_sixteen(vectors, t):
  # Measured 0.019 to 0.052, with standard errors of 0.0015 to 0.0025; at 0.1, 0.0014 to 0.0038.
  assert 0.01 <= frequency(vectors["normal"], t, 0.5) <= 1 / 16


@pytest.mark.parametrize("t", POINTS)
def test_epsilon_is_exceeded_less_often_on_the_sphere(vectors, t):
  # Measured 0.02 to 0.98 times as often, least where most eigenvalues are. Four standard errors.
  unit, normal = (frequency(vectors[kind], t, 0.9) for kind in ("unit", "normal"))
  assert unit <= normal + 4 * np.sqrt((unit + normal) / RUNS)


# Mistakes.

CALLS = [
  (epsilon, (1.0, 1.0), {"n": 5, "draws": 3, "probability": 0.1}),
  (draws_needed, (1.0, 1.0), {"n": 5, "epsilon": 0.1, "probability": 0.1}),
  (failure_probability, (1.0, 1.0), {"n": 5, "draws": 3, "epsilon": 0.1}),
  (worst_case_epsilon, (), {"n": 5, "draws": 3, "sigma_squared": 0.1, "probability": 0.1}),
  (worst_case_draws, (), {"n": 5, "sigma_squared": 0.1, "epsilon": 0.1, "probability": 0.1}),
]


def with_argument(*names):
  """Returns a mark: functions whose call takes one of these, and the name of it."""
  cases = [
    pytest.param(
      lambda bad, f=f, norms=norms, options=options, name=name: f(*norms, **options | {name: bad}),
      name,
      id=f"{f.__name__}-{name}",
    )
    for f, norms, options in CALLS
    for name in names
    if name in options
  ]
  return pytest.mark.parametrize(("call", "name"), cases)


@with_argument("n", "draws")
@pytest.mark.parametrize(("bad", "error"), [(0, ValueError), (2.0, TypeError), (True, TypeError)])
def test_count_that_is_not_an_integer_of_at_least_1_is_refused(call, name, bad, error):
  with pytest.raises(error, match=f"^{name}: expected an integer of at least 1"):
    call(bad)


def test_worst_case_of_a_negative_order_is_refused_by_name():
  with pytest.raises(ValueError, match="^n: expected an integer of at least 1"):
    worst_case_epsilon(n=-1, draws=3, sigma_squared=0.1, probability=0.1)


@with_argument("epsilon", "probability", "sigma_squared")
@pytest.mark.parametrize("bad", [0, -0.1, np.nan, np.inf, "0.1", None])
def test_number_that_is_not_above_0_is_refused(call, name, bad):
  with pytest.raises(ValueError, match=f"^{name}: expected a finite number above 0"):
    call(bad)


@with_argument("probability")
@pytest.mark.parametrize("bad", [1, 1.0, 1.5])
def test_probability_that_is_not_below_1_is_refused(call, name, bad):
  with pytest.raises(ValueError, match=f"^{name}: expected a number below 1, got 1"):
    call(bad)


@pytest.mark.parametrize("bad", [0, -1e-5, np.nan, np.inf])
def test_kernel_norms_refuse_a_sigma_squared_that_is_not_above_0(bad):
  with pytest.raises(ValueError, match="^sigma_squared: expected"):
    kernel_norms([0.0, 1.0], GRID, bad)


@pytest.mark.parametrize("bad", [0, -1e-5, np.nan, np.inf])
def test_worst_spectral_norm_refuses_a_sigma_squared_that_is_not_above_0(bad):
  with pytest.raises(ValueError, match="^sigma_squared: expected"):
    worst_spectral_norm(bad)
