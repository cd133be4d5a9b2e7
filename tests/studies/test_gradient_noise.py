"""Theorem E.1: the mean squared update along an eigenvector."""

import numpy as np
import pytest
import scipy.linalg

from tf_hessian.studies import gradient_noise
from tf_hessian.studies.chapter import Verdict
from tf_hessian.studies.context import Context
from tf_hessian.studies.gradient_noise import predicted, simulate

RATE = 0.9
STEPS = 25


@pytest.fixture(scope="module")
def problem():
  """(H, its eigenvalues, eigenvectors, noise covariances by name)."""
  values, q, noises = gradient_noise.cases()
  return (q * values) @ q.T, values, q, noises


def along(q, matrix):
  """Returns q_i' M q_i for each column of q."""
  return np.diag(q.T @ matrix @ q)


def propagated(hessian, noise, steps):
  """Returns the covariance of the update after `steps` steps, from theta_0 ~ N(0, I)."""
  keep = np.eye(len(hessian)) - RATE * hessian
  theta = np.eye(len(hessian))
  for _ in range(steps):
    theta = keep @ theta @ keep.T + RATE**2 * hessian @ noise @ hessian
  return RATE**2 * hessian @ (theta + noise) @ hessian


@pytest.fixture(scope="module")
def made(make_study, tmp_path_factory):
  """(the study, its folder), of few chains."""
  folder = tmp_path_factory.mktemp("theorem")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(gradient_noise, "CHAINS", 1500)
    patch.setattr(gradient_noise, "STEPS", 300)
    return make_study("theorem", Context(folder)), folder


# The formula.


def test_limit_is_the_theorems_formula(problem):
  _, values, q, noises = problem
  s = along(q, noises["of other eigenvectors"])
  expected = 2 * RATE**2 * values**2 / (2 - RATE * values) * s
  np.testing.assert_allclose(predicted(values, s, RATE), expected, rtol=1e-14)


@pytest.mark.parametrize("name", ["identity", "of other eigenvectors"])
def test_limit_is_that_of_the_stationary_covariance(problem, name):
  hessian, values, q, noises = problem
  noise, keep = noises[name], np.eye(len(hessian)) - RATE * hessian
  theta = scipy.linalg.solve_discrete_lyapunov(keep, RATE**2 * hessian @ noise @ hessian)
  update = RATE**2 * hessian @ (theta + noise) @ hessian
  # The equation's condition is 1 / (1 - 0.97^2) = 18.
  np.testing.assert_allclose(predicted(values, along(q, noise), RATE), along(q, update), rtol=1e-11)


@pytest.mark.parametrize("steps", [0, 1, 7, 100])
@pytest.mark.parametrize("name", ["similar to the inverse of H", "of other eigenvectors"])
def test_mean_after_few_steps_is_that_of_the_propagated_covariance(problem, name, steps):
  hessian, values, q, noises = problem
  found = predicted(values, along(q, noises[name]), RATE, steps)
  expected = along(q, propagated(hessian, noises[name], steps))
  np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_mean_is_the_derivations_sum_over_the_noise_of_each_step(problem):
  _, values, q, noises = problem
  x, s = RATE * values, along(q, noises["of other eigenvectors"])
  noise = sum((1 - x) ** (2 * j) for j in range(STEPS)) * x**2 * s
  expected = x**2 * ((1 - x) ** (2 * STEPS) + noise + s)
  np.testing.assert_allclose(predicted(values, s, RATE, STEPS), expected, rtol=1e-13)


def test_mean_tends_to_the_limit(problem):
  _, values, q, noises = problem
  s = along(q, noises["of other eigenvectors"])
  limit = predicted(values, s, RATE)
  off = [np.abs(predicted(values, s, RATE, t) / limit - 1).max() for t in (10, 100, 1000)]
  assert off[0] > off[1] > off[2]
  assert off[2] < 1e-14  # 0.97^2000


# The simulation.


@pytest.mark.parametrize(
  "name", ["identity", "similar to H", "similar to the inverse of H", "of other eigenvectors"]
)
def test_simulated_mean_is_the_predicted_one(problem, name):
  hessian, values, q, noises = problem
  chains = 4000
  update = simulate(hessian, noises[name], RATE, steps=STEPS, chains=chains, seed=3)
  assert update.shape == (chains, len(values))
  expected = predicted(values, along(q, noises[name]), RATE, STEPS)
  # Updates are normal, so that the mean of their squares has this relative standard error.
  assert np.abs(np.mean((update @ q) ** 2, axis=0) / expected - 1).max() <= 4.5 * np.sqrt(
    2 / chains
  )


def test_updates_have_the_covariance_of_the_recursion(problem):
  hessian, _, _, noises = problem
  noise = noises["of other eigenvectors"]
  update = simulate(hessian, noise, RATE, steps=3, chains=20_000)
  expected = propagated(hessian, noise, 3)
  d = np.diag(expected)
  stderr = np.sqrt((np.outer(d, d) + expected**2) / 20_000)
  assert (np.abs(update.T @ update / 20_000 - expected) <= 4.5 * stderr).all()


def test_simulation_is_repeatable_and_depends_on_its_seed(problem):
  hessian, _, _, noises = problem
  runs = [simulate(hessian, noises["identity"], RATE, steps=2, chains=3, seed=s) for s in (1, 1, 2)]
  np.testing.assert_array_equal(runs[0], runs[1])
  assert np.abs(runs[0] - runs[2]).min() > 0


# The cases.


def test_eigenvectors_are_orthonormal_and_eigenvalues_descend(problem):
  _, values, q, _ = problem
  assert np.abs(q.T @ q - np.eye(len(values))).max() < 1e-14
  assert (np.diff(values) < 0).all() and values[-1] > 0


def test_noises_are_covariances(problem):
  for noise in problem[3].values():
    np.testing.assert_allclose(noise, noise.T, atol=1e-13)
    assert np.linalg.eigvalsh(noise)[0] > 1e-6


@pytest.mark.parametrize("name", ["identity", "similar to H", "similar to the inverse of H"])
def test_noises_that_are_compared_have_the_same_energy(problem, name):
  assert np.trace(problem[3][name]) == pytest.approx(gradient_noise.ORDER, rel=1e-12)


def test_noises_are_what_their_names_say(problem):
  hessian, _, _, noises = problem
  ratio = noises["similar to H"] / hessian
  np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-9)
  product = noises["similar to the inverse of H"] @ hessian
  np.testing.assert_allclose(product, product[0, 0] * np.eye(len(hessian)), atol=1e-12)
  other = noises["of other eigenvectors"]
  assert np.abs(other @ hessian - hessian @ other).max() > 0.1


# The study.


def test_figure_has_predictions_scores_and_shares(made, problem):
  study, folder = made
  _, values, q, noises = problem
  assert set(study.pictures) == {p.name for p in folder.iterdir()} == {"figure_theorem.png"}
  for name, noise in noises.items():
    n = {k: np.array(v) for k, v in study.numbers[name].items()}
    s = along(q, noise)
    limit = 2 * RATE**2 * values**2 / (2 - RATE * values) * s
    np.testing.assert_allclose(n["predicted"], limit, rtol=1e-12)
    # The standard error of a mean of squares of normal variables; its own is sqrt(14 / 8 / chains)
    # of it.
    np.testing.assert_allclose(n["stderr"], limit * np.sqrt(2 / 1500), rtol=0.2)
    score = (n["measured"] - limit) / n["stderr"]
    np.testing.assert_allclose(n["standard_errors_off"], score, rtol=1e-9, atol=1e-9)
    assert np.abs(score).max() <= 4.5
    assert n["chi_square_per_eigenvector"] == pytest.approx(np.mean(score**2), rel=1e-9)
    share = n["measured"][0] / n["measured"].sum()
    assert n["share_of_the_first"] == pytest.approx(share, rel=1e-12)


def test_noise_similar_to_the_matrix_enhances_the_first_eigenvector(made):
  shares = [
    made[0].numbers[n]["share_of_the_first"]
    for n in ("similar to H", "identity", "similar to the inverse of H")
  ]
  assert shares[0] > shares[1] > shares[2]


def test_figure_agrees_with_the_formula(made):
  assert made[0].verdict is Verdict.AGREES


def test_figure_differs_where_updates_are_larger(tmp_path, make_study, monkeypatch):
  monkeypatch.setattr(gradient_noise, "CHAINS", 500)
  monkeypatch.setattr(gradient_noise, "simulate", lambda *a, **k: 1.2 * simulate(*a, **k))
  assert make_study("theorem", Context(tmp_path)).verdict is Verdict.DIFFERS


def test_noises_are_described_under_the_names_of_the_cases(problem):
  assert tuple(problem[3]) == gradient_noise.NOISES


def test_table_has_the_alpha_that_was_measured(made, problem):
  _, values, q, noises = problem
  (table,) = made[0].tables
  for row in table.rows:
    measured = np.array(made[0].numbers[row[0]]["measured"])
    alpha = measured / ((values / values[0]) ** 2 * along(q, noises[row[0]]))
    found = [float(x) for x in row[-1].split(" to ")]
    assert found == pytest.approx([alpha.min(), alpha.max()], rel=5e-3)  # three digits
