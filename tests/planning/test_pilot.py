"""The error that a pilot expects, against theory on the exact spectrum and against draws."""

import itertools
import types

import numpy as np
import pytest

from tf_hessian.numerics import density, quadrature, stopping
from tf_hessian.numerics.lanczos import Lanczos
from tf_hessian.numerics.probes import probe
from tf_hessian.planning import pilot
from tf_hessian.planning.pilot import expect_error
from tf_hessian.slq.method import SLQ, make_target

N, STEPS, SIGMA_SQUARED = 400, 60, 1e-2


@pytest.fixture(scope="module", autouse=True)
def idle_machine():
  """Lets the pilot see a clock that goes on by a microsecond each time, however busy it is here."""
  with pytest.MonkeyPatch.context() as patch:
    clock = types.SimpleNamespace(monotonic=itertools.count(0.0, 1e-6).__next__)
    patch.setattr(pilot, "time", clock)
    yield


@pytest.fixture(scope="module")
def operator():
  """A random symmetric matrix (400, 400) with eigenvalues in -2 .. 2, and one of 5."""
  a = np.random.default_rng(0).standard_normal((N, N)) / np.sqrt(2 * N)
  matrix = a + a.T + 5 / N * np.ones((N, N))
  return types.SimpleNamespace(
    shape=(N, N),
    matrix=matrix,
    matvec=lambda v: matrix @ v,
    batches=types.SimpleNamespace(num_batches=2),
  )


def expect(operator, num_draws=10, steps=STEPS, *, target_error=None, seconds=60.0):
  kernel = {"sigma_squared": SIGMA_SQUARED, "relative": False}
  target = make_target(target_error, *kernel.values())
  method = SLQ(num_draws, steps, target=target)
  return expect_error(operator, method, **kernel, seconds=seconds)


def test_error_of_the_draws_is_that_of_theory_on_the_exact_spectrum(operator):
  eigenvalues = np.linalg.eigvalsh(operator.matrix)
  grid = density.density_grid([eigenvalues], SIGMA_SQUARED)
  exact = density.predicted_l1(eigenvalues, grid, SIGMA_SQUARED, 10)
  found = expect(operator)
  # The pilot knows the density to within its own error of two draws, of which the standard error
  # is the root: half of that, and as much for the steps.
  off = density.predicted_l1(eigenvalues, grid, SIGMA_SQUARED, 2)
  assert found.draws == pytest.approx(exact, rel=off)
  assert off < 0.15
  assert found.draws == pytest.approx(np.sqrt(2 / np.pi) * found.stderr)


def test_error_of_the_draws_falls_with_the_root_of_their_number(operator):
  assert expect(operator, 2).draws == pytest.approx(2 * expect(operator, 8).draws, rel=1e-12)


def test_error_of_the_steps_is_the_change_in_the_last_of_them(operator):
  changes = []
  for draw in range(2):
    state = Lanczos.start(probe(0, draw, N), STEPS)
    state.run(operator.matvec)
    alphas, betas = state.tridiagonal()
    rules = [
      quadrature.gauss_quadrature(alphas[:m], betas[: m - 1])
      for m in (STEPS - stopping.WINDOW, STEPS)
    ]
    found = density.density([r.nodes for r in rules], [r.weights for r in rules], SIGMA_SQUARED)
    changes.append(density.l1_distance(found.grid, *found.draws))
  found = expect(operator)
  assert found.steps == pytest.approx(np.mean(changes), rel=1e-12)
  assert (found.pilot_draws, found.pilot_steps, found.reason) == (2, STEPS, "")


def test_target_suggests_the_draws_whose_standard_error_it_is(operator):
  once = expect(operator, 1).stderr
  found = expect(operator, 100, target_error=once / 4.5)
  assert found.draws_for_target == 21  # 4.5^2 = 20.25
  assert found.stderr == pytest.approx(once / np.sqrt(21), rel=1e-12)


def test_target_that_the_steps_are_too_few_for_suggests_no_draws(operator):
  change = expect(operator).steps
  found = expect(operator, 50, target_error=change / 2)
  assert (found.target, found.draws_for_target) == (change / 2, None)
  assert found.stderr == pytest.approx(expect(operator, 50).stderr, rel=1e-12)


def test_target_suggests_no_fewer_draws_than_a_run_begins_with(operator):
  assert expect(operator, target_error=1.0).draws_for_target == stopping.FIRST_DRAWS


@pytest.mark.parametrize(
  "options, reason",
  [
    ({"seconds": 0}, "no pilot"),
    ({"seconds": 1e-9}, "1 of 60 steps"),
  ],
)
def test_unknown_error_says_why(operator, options, reason):
  found = expect(operator, **options)
  assert (found.draws, found.stderr, found.steps) == (None, None, None)
  assert reason in found.reason


def test_steps_that_end_early_are_exact(operator):
  square = types.SimpleNamespace(
    shape=(N, N), matvec=lambda v: np.sign(np.arange(N) - 9.5) * v, batches=operator.batches
  )
  found = expect(square)
  assert (found.steps, found.pilot_steps) == (0.0, 2)
  assert found.draws > 0
