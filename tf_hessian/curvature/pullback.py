"""Products J' M J of a batch.

J is the derivative of the model's outputs, and M is a matrix of the outputs, such as the Hessian of
the loss in them. A product takes one forward pass for J v and one backward pass for J' u.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
from typing import TYPE_CHECKING, Protocol

import tensorflow as tf

from tf_hessian.curvature import fusion, linearize, products
from tf_hessian.curvature.outputs import Cut

if TYPE_CHECKING:
  from tf_hessian.curvature.objective import Objective


class OutputMatrix(Protocol):
  """A matrix M of a batch's outputs, and perhaps of parameters besides.

  Attributes:
    chosen: positions of the outputs that it is of.
    kept: positions of what it gives: of the chosen outputs, and then of the parameters.
  """

  chosen: list[int]
  kept: list[int]

  def by_linearization(
    self, make: Callable[..., linearize.Linearization], /
  ) -> Callable[[Sequence[tf.Tensor]], list[tf.Tensor]] | None:
    """Returns (tangents of chosen outputs and of parameters) -> product, or None."""

  def by_tape(self, tape: tf.GradientTape, /) -> Callable[[Sequence[tf.Tensor]], list[tf.Tensor]]:
    """Does what `by_linearization` does, by a tape.

    The tape has recorded how the matrix was made.
    """


def product(
  objective: Objective,
  matrix: Callable[..., OutputMatrix],
  mode: str,
  connected: Callable[[list[bool]], None] | None = None,
  /,
) -> Callable[..., Callable[[list[tf.Tensor]], list[tf.Tensor]]]:
  """Returns the function that makes products of a batch.

  It is (parameters, context, batch, seed, ratios) -> v -> J' M J v, with v and the product lists of
  tensors like the parameters.

  Args:
    objective: an `Objective` whose loss can be told apart from its outputs.
    matrix: (cut, tape, loss, parameters, seed, ratios) -> `OutputMatrix`, where the persistent tape
      has recorded the batch's loss of the `Cut` outputs.
    mode: "forward_over_backward" builds J v operation by operation; "backward_over_backward" takes
      it as the derivative of J' u in u, which is linear.
    connected: (list of bool) -> None: told, when the function is traced, on which parameters the
      loss depends; None if nobody needs it.
  """

  def of_batch(*arguments):
    if mode == "forward_over_backward" and not tf.executing_eagerly():
      result = _Pullback(objective, matrix, connected, *arguments).by_linearization()
      if result is not None:
        return result
    return lambda v: _Pullback(objective, matrix, connected, *arguments).by_tapes(v)

  return of_batch


class _Pullback:
  """The outputs and the loss of a batch, and their derivatives.

  Args:
    objective, matrix, connected: as in `product`.
    params, context, batch, seed, ratios: the arguments of a product.
  """

  def __init__(self, objective, matrix, connected, params, context, batch, seed, ratios):
    self._params = params
    cut = Cut()
    # Outside, the derivative of the gradients; inside, the gradients.
    with tf.GradientTape(persistent=True) as self._tape:
      self._tape.watch(params)
      with tf.GradientTape(persistent=True) as tape:
        tape.watch(params)
        cut.watch = (self._tape, tape)
        loss = products.weighted(objective.terms(params, context, batch, seed, cut=cut), ratios)
      self._matrix = matrix(cut, tape, loss, params, seed, ratios)
      self._outputs = [cut.outputs[i] for i in self._matrix.chosen]
      # Not zeros, for which gradient functions leave parts out.
      self._back = [tf.identity(tf.ones_like(z)) for z in self._outputs]
      self._tape.watch(self._back)
      found = tape.gradient(self._outputs, params, output_gradients=self._back)
      self._pulled = products.dense(found, params)  # inside, as those of gathered rows are sparse
    if connected is not None:
      direct = {i - len(self._outputs) for i in self._matrix.kept}
      connected([g is not None or i in direct for i, g in enumerate(found)])

  def by_linearization(self):
    """Returns v -> product, operation by operation.

    It is None where an operation stands in the way. What doesn't depend on v is computed outside.
    """
    make = functools.partial(linearize.Linearization, fuse=fusion.available())
    forward = make(self._outputs, self._params)
    back = make(self._pulled, self._back)
    inner = self._matrix.by_linearization(make)
    if inner is None or forward.obstacle is not None or back.obstacle is not None:
      return None
    return lambda v: self._product(v, forward, inner, back)

  def by_tapes(self, v):
    """Returns the product with v by tapes.

    They differentiate J' u in u, the matrix of the outputs, and the outputs.
    """
    forward = functools.partial(_pulled, self._tape, self._pulled, self._back)
    back = functools.partial(_pulled, self._tape, self._outputs, self._params)
    return self._product(v, forward, self._matrix.by_tape(self._tape), back)

  def _product(self, v, forward, inner, back):
    changes = inner([*forward(v), *v])
    return _with_direct(back, changes, self._matrix, self._params)


def _pulled(tape, ys, xs, tangents):
  return products.dense(tape.gradient(ys, xs, output_gradients=tangents), xs)


def _with_direct(back, changes, matrix, params):
  """Returns J' of changes of outputs, with those of parameters."""
  count = len(matrix.chosen)
  result = list(back(changes[:count]))
  for i, change in zip(matrix.kept[count:], changes[count:], strict=True):
    result[i - count] += change
  return products.dense(result, params)


def field(
  objective: Objective,
  matrix: Callable[..., OutputMatrix],
  values: Callable[[OutputMatrix, OutputMatrix, list[tf.Tensor]], list[tf.Tensor]],
  connected: Callable[[list[bool]], None],
  /,
) -> Callable[..., Callable[[list[tf.Tensor]], list[tf.Tensor]]]:
  """Returns the function that makes a field whose derivative is the matrix.

  It is (parameters, context, batch, seed, ratios) -> point -> J(point)' u, with u by the
  parameters.

  Args:
    objective: as in `product`.
    matrix: as in `product`.
    values: (M at the point, M at the parameters, differences of the chosen outputs) -> u, and parts
      in the parameters that are kept.
    connected: as in `product`.
  """

  def of_batch(params, context, batch, seed, ratios):
    def at(point):
      cut = Cut()
      with tf.GradientTape(persistent=True) as tape:
        tape.watch(point)
        cut.watch = (tape,)
        loss = products.weighted(objective.terms(point, context, batch, seed, cut=cut), ratios)
      return cut, tape, matrix(cut, tape, loss, point, seed, ratios)

    def function(point):
      there, tape, base = at(point)
      here, _, now = at(params)
      outputs = [there.outputs[i] for i in base.chosen]
      moved = [here.outputs[i] - z for i, z in zip(base.chosen, outputs, strict=True)]
      found = []

      def back(u):
        found.extend(tape.gradient(outputs, point, output_gradients=u))
        return products.dense(found, params)

      result = _with_direct(back, values(base, now, moved), base, params)
      connected([g is not None for g in found])
      return result

    return function

  return of_batch
