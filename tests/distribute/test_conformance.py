"""One matrix, whoever computes it: one property over all strategies."""

import numpy as np
import pytest

CONFIGURATIONS = [
  ("one_device", 1),
  ("mirrored", 2),
  ("mirrored", 4),
  ("multi_worker", 2),
  ("multi_worker", 3),
  ("parameter_server", 1),
  ("parameter_server", 2),
  ("parameter_server", 3),
]
QUANTITIES = ("loss", "gradient", "products")
# Each configuration runs twice: the second time streaming its data, or just again.
STREAMED = [("mirrored", 2), ("multi_worker", 2), ("parameter_server", 2)]
REPEATED = [("one_device", 1), ("parameter_server", 3)]
REPEATED_SLOWLY = [c for c in CONFIGURATIONS if c not in STREAMED + REPEATED]
# Two batches, and four replicas or sixteen shards.
FEW = {"num_batches": 2, "columns": "true", "columns_per_pass": 2}
FEW_RUN = [("mirrored", 4), ("parameter_server", 2)]


@pytest.fixture(scope="module", autouse=True)
def all_runs(runs):
  """Begins all runs at once; each test waits for its own."""
  for configuration in CONFIGURATIONS:
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
  "configuration",
  [*REPEATED, *(pytest.param(c, marks=pytest.mark.slow) for c in REPEATED_SLOWLY)],
  ids=lambda c: name(c),
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


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_coordinator_gives_bitwise_the_same_for_any_number_of_workers(runs, workers, quantity):
  one = chief(runs("parameter_server", 1))[quantity]
  assert np.array_equal(chief(runs("parameter_server", workers))[quantity], one)


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_all_workers_have_bitwise_the_same(runs, workers, quantity):
  results = runs("multi_worker", workers)
  assert len(results) == workers
  for other in results.values():
    assert np.array_equal(other[quantity], chief(results)[quantity])


@pytest.mark.parametrize("configuration", STREAMED, ids=name)
def test_streamed_data_give_bitwise_what_cached_data_give(runs, configuration):
  cached, streamed = chief(runs(*configuration)), chief(runs(*configuration, cache_bytes=0))
  for quantity in QUANTITIES:
    assert np.array_equal(cached[quantity], streamed[quantity])


@pytest.mark.parametrize("configuration", FEW_RUN, ids=name)
def test_fewer_batches_than_replicas_and_several_columns_at_a_time(runs, configuration):
  expected = chief(runs("one_device", **FEW))
  found = chief(runs(*configuration, **FEW))
  for quantity in (*QUANTITIES, "columns"):
    error = np.linalg.norm(found[quantity] - expected[quantity])
    assert error <= 1e-12 * np.linalg.norm(expected[quantity])
