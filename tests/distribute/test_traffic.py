"""Bytes over the network, against what each design moves."""

from tf_hessian.distribute import traffic


def test_every_shard_moves_parameters_vectors_and_sums():
  assert traffic.of_shards(4, 8, 16, num_shards=10, num_workers=5) == 28 * 2


def test_equal_workers_reduce_vectors_and_sums_around_a_ring():
  """Of a ring of 4, each sends and receives 3 of 4 parts twice."""
  assert traffic.of_equal_parts(100, 300, num_workers=4) == 2 * 2 * 3 / 4 * 400


def test_one_worker_alone_moves_nothing():
  assert traffic.of_equal_parts(100, 300, num_workers=1) == 0
