"""Plans of Lanczos vectors without a model."""

import pytest

from tf_hessian.planning.vectors import plan_vectors
from tf_hessian.slq.storage import Storage


def test_rows_are_spread_over_equal_machines_and_memory_is_not():
  options = {"num_draws": 3, "lanczos_steps": 5}
  one = plan_vectors(40_000, storage=Storage("memory"), **options)
  four = plan_vectors(40_000, workers=4, storage=Storage("workers"), **options)
  assert (one.rows_bytes, four.rows_bytes) == (5 * 40_000 * 8, 5 * 10_000 * 8)
  # Vectors on their way are whole on each worker.
  assert four.memory_bytes == four.rows_bytes + one.memory_bytes - one.rows_bytes + 4 * 40_000 * 8
  assert one.orthogonalization_seconds > 0 and four.orthogonalization_seconds > 0


def test_network_is_that_of_vectors_and_sums_around_a_ring():
  plan = plan_vectors(10_000, num_draws=2, lanczos_steps=5, workers=4, storage=Storage("workers"))
  vector, sums, each_way = 8 * 10_000, 8 * 10_000, 2 * 3 / 4
  assert plan.network_bytes == 2 * 5 * 2 * each_way * (vector + sums)
  assert plan_vectors(10_000, num_draws=2, lanczos_steps=5).network_bytes == 0


def test_vectors_that_have_no_room_are_planned_without_a_basis(monkeypatch):
  monkeypatch.setattr("tf_hessian.slq.storage.free_disk", lambda _: 0)
  plan = plan_vectors(10_000, lanczos_steps=50, storage=Storage(memory=10**6))
  assert (plan.basis.kind, plan.rows_bytes) == ("none", 3 * 8 * 10_000)


@pytest.mark.parametrize("options", [{"workers": 0}, {"num_draws": 0}, {"lanczos_steps": 0}])
def test_counts_below_one_are_refused(options):
  with pytest.raises(ValueError, match="expected an integer of at least 1"):
    plan_vectors(100, **options)
