"""In which eigenvectors gradients lie."""

import types

import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.slq.density import spectral_density
from tf_hessian.spectrum import Spectrum
from tf_hessian.studies import gradient_energy
from tf_hessian.studies.chapter import Verdict
from tf_hessian.studies.gradient_energy import energies_by_size, energies_near, share_of_batches

VALUES = np.array([5.0, 3.0, 2.5, 1.0, 0.25, 0.0])  # of a diagonal matrix


def run_from(start, steps):
  """Returns the one-draw `Spectrum` of the diagonal matrix, from a vector (6,)."""
  return spectral_density(
    np.diag(VALUES), num_draws=1, lanczos_steps=steps, start=start, progress=False
  )


@pytest.fixture(scope="module")
def made(context, make_study):
  """The study."""
  return make_study("gradient", context)


@pytest.fixture(scope="module")
def direction(small, gradient_at):
  """The gradient's direction, by NumPy."""
  g = gradient_at(small.operator.parameters())
  return g / np.linalg.norm(g)


def stub(gradients):
  return types.SimpleNamespace(batch_gradients=lambda: iter(gradients))


# Shares of eigenvectors.


def test_energy_is_the_squared_component_of_each_eigenvector():
  start = np.array([1.0, -2.0, 0.5, 3.0, 0.1, 1.0])
  found = energies_near(run_from(start, 6), VALUES[:4])
  np.testing.assert_allclose(found, (start**2 / (start @ start))[:4], rtol=1e-10)


def test_eigenvector_without_a_component_has_no_energy():
  start = np.array([1.0, 0.0, 2.0, 1.0, 1.0, 0.0])
  found = energies_near(run_from(start, 6), VALUES[:3])
  np.testing.assert_allclose(found, [1 / 7, 0, 4 / 7], atol=1e-12)


def run_of_nodes(nodes, weights):
  """Returns a one-draw `Spectrum` with these nodes and weights."""
  start = np.sqrt(weights / np.sum(weights))
  return spectral_density(
    np.diag(nodes), num_draws=1, lanczos_steps=len(nodes), start=start, progress=False
  )


@pytest.mark.parametrize(
  "values, energies",
  [
    ([5.0, 4.0], [0.5, 0]),  # the second is too far away
    ([5.0, 4.9945], [0, 0.5]),  # the first node is nearer to the second value
    ([5.0, 4.0, 0.104], [0.5, 0, 0.25]),
  ],
)
def test_nodes_belong_to_the_nearest_value_within_a_thousandth_of_the_largest(values, energies):
  run = run_of_nodes([4.996, 4.006, 0.1], [0.5, 0.25, 0.25])
  np.testing.assert_allclose(energies_near(run, values), energies, atol=1e-12)


def test_next_eigenvalue_is_not_counted_for_the_last_value():
  start = np.array([1.0, 1.0, 3.0, 1.0, 1.0, 0.0])
  found = energies_near(run_from(start, 6), VALUES[:2])  # 5 and 3; 2.5 is the next
  np.testing.assert_allclose(found, [1 / 13, 1 / 13], atol=1e-12)


def test_several_nodes_of_one_value_count_together():
  run = run_of_nodes([2.0, 1.9985, 0.5], [0.5, 0.3, 0.2])
  np.testing.assert_allclose(energies_near(run, [2.0]), [0.8], rtol=1e-12)


def test_run_of_several_draws_is_refused():
  run = Spectrum(
    diagonals=(np.ones(1),) * 2,
    off_diagonals=(np.empty(0),) * 2,
    residuals=np.zeros(2),
    statuses=("COMPLETE",) * 2,
    num_parameters=1,
  )
  with pytest.raises(ValueError):
    energies_near(run, [1.0])


# Shares of batches.


def test_share_of_batches_is_that_of_gradients_by_tensorflow(small, examples):
  x, y = examples
  smoothed = 0.9 * y + 0.1 / 3
  vectors = small.top_vectors[:4]
  shares = []
  for start in range(0, 60, 20):
    with tf.GradientTape() as tape:
      logits = small.model(x[start : start + 20])
      losses = tf.nn.softmax_cross_entropy_with_logits(smoothed[start : start + 20], logits)
      value = tf.reduce_mean(losses)
    parts = tape.gradient(value, small.model.trainable_variables)
    g = np.concatenate([np.ravel(p) for p in parts])
    shares.append(np.sum((vectors @ g) ** 2) / np.sum(g**2))
  mean, stderr = share_of_batches(small.operator, vectors)
  assert mean == pytest.approx(np.mean(shares), rel=1e-10)
  assert stderr == pytest.approx(np.std(shares, ddof=1) / 3**0.5, rel=1e-9)
  assert np.ptp(shares) > 0.01


def test_batch_whose_gradient_is_zero_is_left_out():
  gradients = [np.array([3.0, 4.0]), np.zeros(2), np.array([1.0, 0.0])]
  mean, stderr = share_of_batches(stub(gradients), np.array([[1.0, 0.0]]))
  assert mean == pytest.approx((9 / 25 + 1) / 2)
  assert stderr == pytest.approx((1 - 9 / 25) / 2)


def test_single_batch_has_no_standard_error():
  mean, stderr = share_of_batches(stub([np.array([3.0, 4.0])]), np.array([[0.0, 1.0]]))
  assert mean == pytest.approx(16 / 25)
  assert np.isnan(stderr)


def test_shares_are_measured_for_each_size():
  operators = {2: stub([np.array([1.0, 0.0])]), 5: stub([np.array([0.0, 1.0])])}
  found = energies_by_size(operators.get, np.array([[1.0, 0.0]]), (2, 5))
  assert {size: mean for size, (mean, _) in found.items()} == {2: 1.0, 5: 0.0}


# The study.


def test_exact_shares_are_those_of_the_dense_eigenvectors(made, eigen, direction):
  expected = ((direction @ eigen[1]) ** 2)[:-11:-1]
  np.testing.assert_allclose(made.numbers["exact"], expected, rtol=1e-8, atol=1e-13)
  assert made.numbers["share"] == pytest.approx(expected.sum(), rel=1e-10)


def test_lanczos_and_projections_find_the_exact_shares(made, eigen, direction):
  expected = ((direction @ eigen[1]) ** 2)[:-11:-1]
  numbers = made.numbers
  np.testing.assert_allclose(numbers["lanczos"], expected, atol=1e-10)
  # Residuals of 1e-8 of the largest eigenvalue, over gaps of a hundredth of it.
  np.testing.assert_allclose(numbers["projections"], expected, atol=1e-5)
  for name, found in (("lanczos", "lanczos"), ("projection", "projections")):
    off = np.abs(np.subtract(numbers[found], numbers["exact"])).max()
    assert numbers[f"{name}_error"] == pytest.approx(off, rel=1e-9, abs=1e-16)


def test_shares_of_mini_batches_are_measured_in_three_sizes(made, small):
  found = made.numbers["mini_batches"]
  assert list(found) == [8, 64, 250]
  full = made.numbers["share"]  # of batches that hold all 60 examples
  assert found[64][0] == pytest.approx(full, rel=1e-9)
  assert found[250][0] == pytest.approx(full, rel=1e-9)
  assert np.isnan(found[64][1]) and 0 < found[8][1] < 0.2
  assert made.numbers["share_of_a_random_vector"] == pytest.approx(10 / small.n)


def test_study_has_picture_and_table(made, context, small):
  assert set(made.pictures) == {"figure_gradient.png"}
  assert (context.out / "figure_gradient.png").read_bytes().startswith(b"\x89PNG")
  (table,) = made.tables
  found = np.array(table.rows, float)
  np.testing.assert_allclose(found[:, 0], small.eigenvalues[:-11:-1], atol=6e-5)  # four decimals
  np.testing.assert_allclose(found[:, 1], made.numbers["exact"], rtol=1e-3)
  np.testing.assert_allclose(found[:, 3], made.numbers["projections"], rtol=1e-3)


def test_one_network_leaves_the_claim_about_trainings_open(
  with_model, small, make_study, monkeypatch
):
  monkeypatch.setattr(gradient_energy, "energies_by_size", lambda *_: {8: (0.5, 0.1)})
  monkeypatch.setattr(gradient_energy, "_draw", lambda *_: None)
  assert make_study("gradient", with_model(small)).verdict is Verdict.OPEN
