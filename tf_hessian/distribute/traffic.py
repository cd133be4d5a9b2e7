"""Bytes that a pass moves over the network.

They are counted from the sizes of the tensors that a strategy moves.
"""

from __future__ import annotations


def of_shards(
  parameters: int, vectors: int, sums: int, /, *, num_shards: int, num_workers: int
) -> float:
  """Returns the bytes that a coordinator's worker moves in a pass.

  For every shard it receives parameters and vectors, and sends its sums.

  Args:
    parameters: bytes of the parameters.
    vectors: bytes of the vectors that a pass multiplies.
    sums: bytes of the sums that it returns.
    num_shards: number of shards of the pass; number of batches, if each batch is sent by itself.
    num_workers: number of workers that share them.
  """
  return (parameters + vectors + sums) * num_shards / num_workers


def of_equal_parts(vectors: int, sums: int, /, *, num_workers: int) -> float:
  """Returns the bytes that each of equal workers moves in a pass.

  It receives and sends them. Vectors and sums are each reduced once around a ring; parameters stay
  where they are.

  Args:
    vectors: bytes of the vectors that a pass multiplies.
    sums: bytes of the sums that it returns.
    num_workers: number of workers that share the batches.
  """
  around = 2 * (num_workers - 1) / num_workers  # of one reduction, each way
  return 2 * around * (vectors + sums)
