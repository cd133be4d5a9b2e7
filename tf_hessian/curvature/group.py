"""The processes of one operator: a chief, and workers that follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import os
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import tensorflow as tf

from tf_hessian.curvature.runner import Runner
from tf_hessian.distribute import errors, interrupts, protocols
from tf_hessian.numerics import distributed_basis as distributed

if TYPE_CHECKING:
  from tf_hessian.curvature.operator import CurvatureOperator

_Result = TypeVar("_Result")


class ProcessGroup:
  """The processes that make the products of one matrix together.

  Often it is this one alone.

  Args:
    runner: the `Runner` of the passes.
    describe: () -> dict of plain values that define the matrix.
  """

  def __init__(self, runner: Runner, describe: Callable[[], dict], /) -> None:
    self._runner = runner
    self._program = runner.program
    self._engine: protocols.Engine = runner.program.engine
    self._describe = describe
    self._agreed = False

  def agree(self, about: dict, /) -> None:
    """Makes sure that all processes measure the same matrix.

    It is called before the first pass.

    Args:
      about: dict of plain values that must agree besides what defines the matrix. If it is empty,
        nothing is done from the second time on.

    Raises:
      DisagreementError: if a worker measures another; says the difference.
      ModelChangedError: if the model's loss is another one than when it was traced.
    """
    if about and self._runner.follows_python:
      self._runner.check_trace()
    if about or not self._agreed:
      self._engine.agree(self._describe() | {"names": list(self._program.objective.names)} | about)
      self._agreed = True

  def follow(self) -> bytes:
    """Takes part in the chief's passes until it calls `finish`.

    Returns:
      The bytes that the chief has given to `finish`.
    """
    self.agree({})
    self._runner.look_at_point()
    program = self._program
    passes = {
      "loss": lambda: program.loss.join(),
      "gradient": lambda: program.gradient.join(),
      "product": lambda: program.product.join(),
      "columns": lambda count: program.columns(count).join(),
      "basis": self._shards.join,
      "distributed": self._join_products,
    }
    try:
      return self._engine.follow(passes)
    finally:
      self._shards.clear()

  def basis(self, steps: int, path: str | os.PathLike | None, /) -> distributed.DistributedBasis:
    """Returns a Lanczos basis that is distributed over all workers.

    Args:
      steps: number of rows.
      path: file of each worker's part, to which its place among the workers is added; None for
        memory.

    Raises:
      ValueError: if no workers follow.
    """
    if not self._engine.followers:
      raise ValueError(
        "distributed_basis: expected a MultiWorkerMirroredStrategy of several workers"
      )
    return distributed.DistributedBasis(self._shards, steps, self._program.n, path)

  def products(
    self, rows: Sequence, places: Sequence[int], vectors_per_pass: int, /
  ) -> list[np.ndarray]:
    """Returns the products with rows of distributed bases, by one pass.

    Args:
      rows: list of (basis, number of a row).
      places: for each, its place in the pass.
      vectors_per_pass: how many places there are.

    Returns:
      list of the products, (n,) float64 each.
    """
    self.agree({})
    runner = self._runner
    rows = [(basis.number, j, place) for (basis, j), place in zip(rows, places, strict=True)]
    used = vectors_per_pass if self._program.vectorized else len(rows)
    weight, ratios = runner.weight, runner.ratios  # which may take a pass of their own
    self._group.announce(
      f"distributed {vectors_per_pass} {len(rows)} {used} {distributed.to_bits(weight)}"
    )
    with self._group.committed():
      self._group.broadcast(tf.constant(rows, tf.int64))
      products = self._make_products(rows, vectors_per_pass, used, weight, ratios)
    if not np.isfinite(products.sum()):
      for number, j, _ in rows:
        runner.product(self._shards.lead("row", number, j))  # names the batch and the variable
    return [products[place] for *_, place in rows]

  def _join_products(self, vectors_per_pass, count, used, weight):
    rows = self._group.broadcast(tf.zeros((count, 3), tf.int64)).numpy().tolist()
    ratios = tf.zeros(self._program.ratios_spec.shape, tf.float64)  # the chief's are added to these
    self._make_products(rows, vectors_per_pass, used, distributed.from_bits(weight), ratios)

  def _make_products(self, rows, vectors_per_pass, used, weight, ratios):
    """Returns (vectors_per_pass, n), where each worker has its parts of the vectors."""
    v = np.zeros((vectors_per_pass, self._program.n))
    for number, j, place in rows:
      self._shards.place(number, j, v[place])
    used = used if self._engine.leads else 0  # the chief's is added to zeros
    products = self._runner.products_together(v, used, ratios, weight)
    for number, _, place in rows:
      self._shards.keep(number, products[place])
    return products

  @property
  def _group(self) -> protocols.Group:
    """The engine, which is that of a group wherever there are followers."""
    return cast("protocols.Group", self._engine)

  @functools.cached_property
  def _shards(self):
    """Parts that this worker has of distributed bases."""
    return distributed.Shards(self._group)


def lead(
  operator: CurvatureOperator,
  compute: Callable[[], _Result],
  encode: Callable[[_Result], bytes],
  decode: Callable[[bytes], Any],
  /,
) -> _Result:
  """Runs a computation on the chief while other workers follow its passes.

  Args:
    operator: a `CurvatureOperator` whose workers have agreed.
    compute: function () -> result.
    encode: function (result) -> bytes that the other workers get.
    decode: function (bytes) -> result.

  Returns:
    The result, on all workers.

  Raises:
    ClusterError: on the others, if the chief has ended with an error, or a worker is gone.
  """
  engine = operator.engine
  if not engine.leads:
    return decode(operator.follow())
  try:
    result = compute()
  except (errors.ClusterError, errors.DisagreementError):
    raise  # there is nobody left to be told, or everybody knows
  except BaseException as e:
    try:
      engine.finish(b"", f"{type(e).__name__}: {e}")
    except errors.ClusterError:  # one that has heard it may be gone before all have answered
      interrupts.end_at_once_at_exit(1)
    raise
  engine.finish(encode(result) if engine.followers else b"")
  return result
