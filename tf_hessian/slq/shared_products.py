"""Products of the draws of a step, alone or in shared passes."""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import Any

from absl import logging
import numpy as np

from tf_hessian.slq.layout import Layout
from tf_hessian.slq.matrix import Matrix

# Passes that draws share before those products are made alone once, and the times compared: the
# first, in which functions are built, and two more.
SHARED_FIRST = 3


class SharedProducts:
  """Products with the vectors of draws in lock step.

  Args:
    matrix: the matrix.
    layout: how many vectors share a pass.
    distributed: whether vectors are places in distributed bases; by default they are arrays.
    choose: whether to find out, by a pass of the run itself, if products that share a pass take
      longer than alone; they then don't share any more. By default they go on sharing.
  """

  def __init__(
    self, matrix: Matrix, layout: Layout, /, *, distributed: bool = False, choose: bool = False
  ):
    self._matrix = matrix
    self._layout = layout
    self._choose = choose and layout.unsure
    self._together = layout.vectors_per_pass > 1
    self._seconds: list[float] = []  # of a product, in each pass that was shared to find out
    self._scratch = None
    self._one: Callable[[Any], np.ndarray] = (
      self._one_distributed if distributed else matrix.product
    )
    self._several = self._several_distributed if distributed else self._several_here

  def __call__(self, vectors: dict[int, np.ndarray | tuple], /) -> list[np.ndarray]:
    """Returns the products with vectors, in their order, (n,) each.

    Args:
      vectors: draw -> (n,), or (basis, number of a row) of all if they are distributed.
    """
    layout = self._layout
    if layout.vectorized and layout.vectors_per_pass > 1:
      places = [draw % layout.vectors_per_pass for draw in vectors]
      return self._several(list(vectors.values()), places, layout.vectors_per_pass)
    if not self._together or len(vectors) == 1:
      return [self._one(v) for v in vectors.values()]
    if self._choose and len(self._seconds) == SHARED_FIRST:
      return self._compared(vectors)
    begin = time.monotonic()
    result = self._several(list(vectors.values()), list(range(len(vectors))), len(vectors))
    if self._choose:
      self._seconds.append((time.monotonic() - begin) / len(vectors))
    return result

  def _compared(self, vectors):
    """Returns products, each by itself.

    If that takes less time, later ones don't share a pass.
    """
    result, seconds = [], []
    for vector in vectors.values():
      begin = time.monotonic()
      result.append(self._one(vector))
      seconds.append(time.monotonic() - begin)
    # The least of each, since other programs can only make them longer, as the first is by far.
    each, alone = min(self._seconds), min(seconds)
    logging.info("products that share a pass take %.3g s each, alone %.3g", each, alone)
    self._choose, self._together = False, each <= alone
    if not self._together:
      self._scratch = None  # as large as all the vectors
    return result

  def _one_distributed(self, row):
    return self._matrix.distributed_products([row])[0]

  def _several_distributed(self, rows, places, count):  # noqa: ARG002
    return self._matrix.distributed_products(
      rows, places=places, vectors_per_pass=self._layout.vectors_per_pass
    )

  def _several_here(self, vectors, places, count):
    """Returns the products by one pass of `count` vectors.

    Each vector has its place in the pass.
    """
    if self._scratch is None or len(self._scratch) != count:
      self._scratch = np.empty((count, self._matrix.n))
    self._scratch[:] = 0.0  # where no vector has its place
    for place, vector in zip(places, vectors, strict=True):
      self._scratch[place] = vector
    result = self._matrix.products(self._scratch, vectors_per_pass=self._layout.vectors_per_pass)
    return [result[place] for place in places]
