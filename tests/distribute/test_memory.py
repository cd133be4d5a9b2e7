"""What the process takes of memory."""

import numpy as np

from tf_hessian.distribute import memory

SIZE = 2**27


def test_peak_has_what_was_given_back_until_it_is_reset():
  memory.reset_peak()
  before = memory.resident()
  block = np.ones(SIZE, np.uint8)
  assert memory.resident() - before > 0.9 * SIZE
  del block
  assert memory.peak() - before > 0.9 * SIZE
  memory.reset_peak()
  assert memory.peak() - before < 0.5 * SIZE


def test_there_is_no_peak_of_an_accelerator_where_there_is_none():
  assert memory.accelerator_peak() is None
