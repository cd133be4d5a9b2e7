"""Lanczos vectors that are spread over the processes of a cluster."""

import json

import numpy as np
import pytest

from benchmarks import distributed_basis

# Of processes; the algebra is tested in tests/numerics.
pytestmark = pytest.mark.slow

STEPS = 12


def spectrum(**options):
  return {"spectrum": json.dumps(options), "examples": 48}  # in whole batches, of one shape


ALONE = spectrum(place="memory")
SPREAD = spectrum(place="workers")


@pytest.fixture(scope="module", autouse=True)
def all_runs(runs):
  """Begins the quick runs at once; each test waits for its own."""
  runs.start("one_device", **ALONE)
  runs.start("multi_worker", 2, **SPREAD)


QUANTITIES = ("1 in a pass", "2 in a pass")


@pytest.mark.parametrize("workers", [2, 3])
def test_spectrum_is_that_of_one_process_and_nobody_holds_all_vectors(runs, workers):
  (expected,) = runs("one_device", **ALONE).values()
  results = runs("multi_worker", workers, **SPREAD)
  assert len(results) == workers
  n = int(expected["n"])
  assert expected["held"] == 8 * STEPS * n
  for found in results.values():
    for quantity in QUANTITIES:
      np.testing.assert_allclose(
        found[quantity], expected[quantity], rtol=0, atol=1e-12 * expected["scale"]
      )
    assert 8 * STEPS * (n // workers) <= found["held"] <= 8 * STEPS * -(-n // workers)


def test_spectrum_without_a_basis_is_that_of_one_process(runs):
  (expected,) = runs("one_device", **ALONE).values()
  for found in runs("multi_worker", 2, **SPREAD).values():
    # Sums in another order; nothing converges in so few steps, so that rounding does not grow.
    difference = found["without a basis"] - expected["2 in a pass"]
    assert np.abs(difference).max() <= 1e-12 * expected["scale"]


def test_nothing_but_start_vectors_moves_beside_the_passes(runs):
  draws = 2 * len(QUANTITIES)
  for found in runs("multi_worker", 2, **SPREAD).values():
    assert found["vectors"] == 2 * draws  # it is sent, and its length is computed


def test_spectrum_is_bitwise_the_same_in_another_run(runs):
  first, second = (runs("multi_worker", 2, repeat=r, **SPREAD)["worker 0"] for r in range(2))
  for quantity in QUANTITIES:
    np.testing.assert_array_equal(first[quantity], second[quantity])


def test_memory_of_the_chief_is_that_of_its_share():
  n, steps = 1_000_000, 40
  alone, shared = (distributed_basis.measure(kind, n, steps) for kind in ("memory", "workers"))
  rows = 8 * n * steps
  assert alone[0]["peak"] >= rows
  for worker in shared:
    # Beside its part of the rows, vectors on their way through TensorFlow.
    assert rows / 2 <= worker["peak"] <= rows / 2 + 12 * 8 * n
  np.testing.assert_allclose(shared[0]["diagonal"], alone[0]["diagonal"], rtol=0, atol=1e-12)
