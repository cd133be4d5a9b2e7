"""One matrix, whoever computes it: one property over all strategies."""

import numpy as np
import pytest

# Those of `make test`; the others, and second runs, are tested by `make slow`.
QUICK = [
  ("one_device", 1),
  ("mirrored", 2),
  ("multi_worker", 2),
  ("parameter_server", 2),
]
SLOW = [("parameter_server", 1), ("mirrored", 4), ("multi_worker", 3), ("parameter_server", 3)]
QUANTITIES = ("loss", "gradient", "products")
# Quick ones run twice: the second time streaming their data, or just again.
STREAMED = [("parameter_server", 2)]
REPEATED = [("one_device", 1)]
# Two batches, and four replicas or sixteen shards of two workers.
FEW = {"num_batches": 2, "columns": "true", "vectors_per_pass": 2}
FEW_RUN = [("parameter_server", 2)]
# Other matrices than the Hessian, which strategies know nothing of.
OF_MATRICES = [
  ("parameter_server", 2, "sampled_fisher"),
  ("mirrored", 2, "empirical_fisher"),
  ("multi_worker", 2, "gauss_newton"),
  ("mirrored", 2, "sampled_fisher"),
  ("mirrored", 4, "gauss_newton"),
  ("multi_worker", 2, "empirical_fisher"),
  ("multi_worker", 3, "sampled_fisher"),
  ("parameter_server", 2, "gauss_newton"),
  ("parameter_server", 2, "empirical_fisher"),
  ("mirrored", 2, "gradient_covariance"),
  ("multi_worker", 2, "gradient_covariance"),
  ("parameter_server", 2, "gradient_covariance"),
]


def of_matrix(name):
  return {"matrix": f'"{name}"', "examples": 48}  # in whole batches: one shape is traced


TOP = {"top": "true"}
TOP_RUN = [("mirrored", 2), ("multi_worker", 2), ("parameter_server", 2)]


def slowly(configurations):
  return [pytest.param(c, marks=pytest.mark.slow) for c in configurations]


def others(quick):
  return slowly(c for c in QUICK + SLOW if c not in quick)


CONFIGURATIONS = [*QUICK, *slowly(SLOW)]


@pytest.fixture(scope="module", autouse=True)
def all_runs(runs):
  """Begins the quick runs at once; each test waits for its own."""
  for configuration in QUICK:
    runs.start(*configuration)
  for configuration in REPEATED:
    runs.start(*configuration, repeat=1)
  for configuration in STREAMED:
    runs.start(*configuration, cache_bytes=0)
  for configuration in [("one_device", 1), *FEW_RUN]:
    runs.start(*configuration, **FEW)


def name(configuration):
  return "{}-{}".format(*configuration)


def chief(results):
  return results[min(results)]  # "alone", "chief 0", "worker 0"


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=name)
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_agrees_with_one_device(runs, configuration, quantity):
  expected = chief(runs("one_device"))[quantity]
  found = chief(runs(*configuration))[quantity]
  # Batches are added in another order: rounding errors of float64 only.
  assert np.linalg.norm(found - expected) <= 1e-12 * np.linalg.norm(expected)


@pytest.mark.parametrize(
  "strategy, devices, matrix",
  [pytest.param(*c, marks=pytest.mark.slow) for c in OF_MATRICES],
)
def test_other_matrices_agree_with_one_device(runs, strategy, devices, matrix):
  expected = chief(runs("one_device", **of_matrix(matrix)))["products"]
  found = chief(runs(strategy, devices, **of_matrix(matrix)))["products"]
  assert np.linalg.norm(found - expected) <= 1e-12 * np.linalg.norm(expected)


@pytest.mark.parametrize(
  "configuration",
  [*REPEATED, *others(REPEATED)],
  ids=name,
)
def test_is_bitwise_the_same_in_another_run(runs, configuration):
  first, second = (chief(runs(*configuration, repeat=r)) for r in range(2))
  for quantity in QUANTITIES:
    assert np.array_equal(first[quantity], second[quantity])


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=name)
def test_product_is_bitwise_the_same_again(runs, configuration):
  found = chief(runs(*configuration))
  assert np.array_equal(found["products"][0], found["again"])


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=name)
def test_pass_is_traced_once(runs, configuration):
  shapes = 2  # of batches: the last is short
  expected = shapes if configuration[0] == "one_device" else 1
  assert chief(runs(*configuration))["traces"] == expected


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_coordinator_gives_bitwise_the_same_for_any_number_of_workers(runs, workers, quantity):
  one = chief(runs("parameter_server", 1))[quantity]
  assert np.array_equal(chief(runs("parameter_server", workers))[quantity], one)


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_all_workers_have_bitwise_the_same(runs, workers, quantity):
  results = runs("multi_worker", workers)
  assert len(results) == workers
  for other in results.values():
    assert np.array_equal(other[quantity], chief(results)[quantity])


@pytest.mark.parametrize(
  "configuration", [*STREAMED, *slowly([("multi_worker", 2), ("mirrored", 4)])], ids=name
)
def test_streamed_data_give_bitwise_what_cached_data_give(runs, configuration):
  cached, streamed = chief(runs(*configuration)), chief(runs(*configuration, cache_bytes=0))
  for quantity in QUANTITIES:
    assert np.array_equal(cached[quantity], streamed[quantity])


@pytest.mark.parametrize("configuration", [*FEW_RUN, *slowly([("mirrored", 4)])], ids=name)
def test_fewer_batches_than_replicas_and_several_columns_at_a_time(runs, configuration):
  expected = chief(runs("one_device", **FEW))
  found = chief(runs(*configuration, **FEW))
  for quantity in (*QUANTITIES, "columns"):
    error = np.linalg.norm(found[quantity] - expected[quantity])
    assert error <= 1e-12 * np.linalg.norm(expected[quantity])


@pytest.mark.slow
@pytest.mark.parametrize("configuration", TOP_RUN, ids=name)
def test_eigenpairs_and_runs_from_the_gradient_agree_with_one_device(runs, configuration):
  expected = chief(runs("one_device", **TOP))
  for found in runs(*configuration, **TOP).values():  # all workers get them
    # Rounding grows along a recurrence; eigenvalues are off by the square of their residuals.
    for quantity in ("eigenvalues", "energies"):
      np.testing.assert_allclose(found[quantity], expected[quantity], rtol=0, atol=1e-9)
    assert found["residuals"].max() <= 1e-8 * abs(found["eigenvalues"]).max()


@pytest.mark.slow
@pytest.mark.parametrize("configuration", TOP_RUN, ids=name)
def test_dense_matrices_agree_with_one_device(runs, configuration):
  expected = chief(runs("one_device", **TOP))
  results = runs(*configuration, **TOP)
  largest = np.abs(expected["alone"]).max()
  for found in results.values():  # all workers get them
    np.testing.assert_array_equal(found["by_folder"], found["alone"])
    np.testing.assert_allclose(found["alone"], expected["alone"], rtol=0, atol=1e-13 * largest)
    values = found["all_eigenvalues"]
    np.testing.assert_allclose(values, expected["all_eigenvalues"], rtol=0, atol=1e-13 * largest)
    # Of pairs, the error is the square of residuals up to 1e-8.
    np.testing.assert_allclose(values[[-1, -2, 0]], found["eigenvalues"], rtol=0, atol=1e-12)
  # The chief alone writes.
  written = [found["files"] > 0 for found in results.values()]
  assert sum(written) == 1 and chief(results)["files"] == expected["files"]
