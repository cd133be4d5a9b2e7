"""Sums over columns, whatever the threads, blocks and tiles."""

import numpy as np
import pytest

from tf_hessian.numerics.columns import PIECE, SMALL, subtract_times, thread_blocks, times

EPS = np.finfo(np.float64).eps
STEPS = 7


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("kind", ["memory", "disk float32"])
def test_number_of_threads_changes_no_bit(new, kind, threads, random_rows, fill):
  rows, w = random_rows(STEPS, 70_001), np.random.default_rng(2).standard_normal(70_001)

  def result(number, path):
    x = w.copy()
    basis = fill(new(kind, STEPS, 70_001, path, threads=number), rows)
    return *basis.orthogonalize(x, 6, 0.0), x

  for a, b in zip(result(1, "one"), result(threads, "more"), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("columns", [1, 2047, 2048, 2049, 8192, 5000, 8193, 20_000])
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8, 11])
def test_products_in_tiles_are_the_products(rows, columns):
  rng = np.random.default_rng(3)
  piece = rng.standard_normal((rows, columns + 7))[:, :columns]  # as a part of longer rows
  x, part = rng.standard_normal(columns), rng.standard_normal(rows)
  atol = columns * EPS * 10
  sums = times(piece, x)
  np.testing.assert_allclose(sums.sum(axis=0), piece @ x, rtol=0, atol=atol)
  expected = x - part @ piece
  subtract_times(x, part, piece)
  np.testing.assert_allclose(x, expected, rtol=0, atol=rows * EPS * 20)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize(
  "n", [1, SMALL, SMALL + 1, 3 * PIECE, 70_001, 4 * 8 * PIECE, 4 * 8 * PIECE + 1, 10**6]
)
def test_blocks_of_threads_are_all_columns_in_whole_pieces(n, threads):
  blocks = thread_blocks(n, threads)
  assert [i for b in blocks for i in (b.start, b.stop)][1:-1:2] == [b.start for b in blocks[1:]]
  assert (blocks[0].start, blocks[-1].stop) == (0, n)
  assert all(b.start < b.stop for b in blocks)
  assert all(b.start % PIECE == 0 for b in blocks)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [70_001, 500_000, 10**6])
def test_threads_share_columns_evenly(n, threads):
  blocks = thread_blocks(n, threads)
  assert len(blocks) >= threads
  lengths = [b.stop - b.start for b in blocks]
  assert max(lengths) - min(lengths) < 2 * PIECE  # one piece, and the last one is not full
  assert max(lengths) <= 8 * PIECE + PIECE
