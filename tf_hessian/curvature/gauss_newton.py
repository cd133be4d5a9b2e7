"""The generalized Gauss-Newton matrix.

It is the Hessian of the mean loss with the model replaced by its linearization at the point,

  G = J' f_zz J + J' f_zp + f_pz J + f_pp,

where z are the model's outputs, J their derivative in the parameters p, and f(z, p) the loss. Where
the loss reads no parameters besides the outputs, only the first part is left. Penalties have their
own Hessian in f_pp. See Schraudolph (2002) and Martens (2020).
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import TYPE_CHECKING

import tensorflow as tf

from tf_hessian.curvature import fusion, linearize, outputs, products
from tf_hessian.curvature.operator import CurvatureOperator

if TYPE_CHECKING:
  import numpy as np

  from tf_hessian.curvature.objective import Objective


class GaussNewtonOperator(CurvatureOperator):
  """The generalized Gauss-Newton matrix of the mean loss over a data set.

  Its arguments, attributes and methods are those of a `HessianOperator`. It has no blocks whose
  activations are recomputed. The loss must be told apart from the model's outputs: a Keras loss of
  them, the model's own `compute_loss`, or a `SplitLoss`.

  Where the loss is computed from the logits in front of a softmax or sigmoid output, as Keras does
  for cross entropies, these logits are the outputs.

  >>> import keras
  >>> import numpy as np
  >>> import tf_hessian
  >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
  >>> data = [(np.eye(2, dtype="float32"), np.ones((2, 1), "float32"))]
  >>> tf_hessian.GaussNewtonOperator(model, "mean_squared_error", data) @ np.array([1.0, 2.0])
  array([1., 2.])
  """

  matrix = "gauss_newton"

  def _check_objective(self, blocks):
    outputs.check_split(self.objective, "Gauss-Newton matrix")
    if blocks is not None:
      raise ValueError(
        "recompute_blocks: is for the Hessian; of a Gauss-Newton product, each vector takes one "
        "forward and one backward pass already"
      )

  def field(self, point: np.ndarray, /) -> np.ndarray:
    """Returns J(point)' f_z + f_p, (n,) float64.

    f_z and f_p are those where the parameters are.
    """
    function = functools.partial(_frozen_gradient, self.objective, self.program.note)
    return self.runner.along(function, point)

  @staticmethod
  def batch_product(
    objective: Objective,
    mode: str,
    *,
    blocks: int | None = None,
    connected: Callable[[list[bool]], None] | None = None,
  ) -> Callable[..., Callable[[list[tf.Tensor]], list[tf.Tensor]]]:
    """Returns the function that makes products with a batch's Gauss-Newton matrix.

    It is (parameters, context, batch, seed, ratios) -> v -> G_b v, with v and G_b v lists of
    tensors like the parameters.

    Args:
      objective: an `Objective` whose loss can be told apart from its outputs.
      mode: "forward_over_backward" builds J v operation by operation; "backward_over_backward"
        takes it as the derivative of J' u in u, which is linear.
      blocks: None.
      connected: (list of bool) -> None: told, when the function is traced, on which parameters the
        loss depends; None if nobody needs it.
    """
    del blocks

    def of_batch(*arguments):
      if mode == "forward_over_backward" and not tf.executing_eagerly():
        product = _LossAndOutputs(objective, connected, *arguments).by_linearization()
        if product is not None:
          return product
      return lambda v: _LossAndOutputs(objective, connected, *arguments).by_tapes(v)

    return of_batch


class _LossAndOutputs:
  """The outputs and the loss of a batch, and their derivatives.

  Args:
    objective: the `Objective`.
    connected: as in `GaussNewtonOperator.batch_product`.
    params, context, batch, seed, ratios: the arguments of a product.
  """

  def __init__(self, objective, connected, params, context, batch, seed, ratios):
    self._params = params
    cut = outputs.Cut()
    # Outside, the derivative of the gradients; inside, the gradients.
    with tf.GradientTape(persistent=True) as self._tape:
      self._tape.watch(params)
      with tf.GradientTape(persistent=True) as tape:
        tape.watch(params)
        cut.watch = (self._tape, tape)
        loss = products.weighted(objective.terms(params, context, batch, seed, cut=cut), ratios)
      self._gradient, self._inner = cut.gradient(tape, loss, params)
      self._outputs, places = cut.used
      # Not zeros, for which gradient functions leave parts out.
      self._back = [tf.identity(tf.ones_like(z)) for z in self._outputs]
      self._tape.watch(self._back)
      found = tape.gradient(self._outputs, params, output_gradients=self._back)
    self._pulled = products.dense(found, params)
    self._places = places
    if connected is not None:
      direct = {i - len(places) for i in self._inner if i >= len(places)}
      connected([g is not None or i in direct for i, g in enumerate(found)])

  def by_linearization(self):
    """Returns v -> G_b v, operation by operation.

    It is None where an operation stands in the way. What doesn't depend on v is computed outside.
    """
    make = functools.partial(linearize.Linearization, fuse=fusion.available())
    forward = make(self._outputs, self._params)
    inner = make(self._gradient, [*self._places, *self._params])
    back = make(self._pulled, self._back)
    if any(part.obstacle is not None for part in (forward, inner, back)):
      return None
    return lambda v: self._product(v, forward, inner, back)

  def by_tapes(self, v):
    """Returns G_b v by tapes.

    They differentiate J' u in u, the loss's gradient, and the outputs.
    """

    def forward(v):
      return self._transposed(self._pulled, self._back, v)

    def inner(tangents):  # which is symmetric
      wanted = [*self._places, *self._params]
      found = self._transposed(self._gradient, wanted, [tangents[i] for i in self._inner])
      return [found[i] for i in self._inner]

    def back(tangents):
      return self._transposed(self._outputs, self._params, tangents)

    return self._product(v, forward, inner, back)

  def _transposed(self, ys, xs, tangents):
    found = self._tape.gradient(ys, xs, output_gradients=tangents)
    return products.dense(found, xs)

  def _product(self, v, forward, inner, back):
    changes = inner([*forward(v), *v])
    count = len(self._places)
    result = back(changes[:count])
    for i, change in zip(self._inner[count:], changes[count:], strict=True):
      result[i - count] += change
    return products.dense(result, self._params)


def _frozen_gradient(objective, connected, params, context, batch, seed, ratios):
  """Returns p -> J(p)' f_z + f_p.

  f_z and f_p are those at the parameters. As a function of these, its derivative at p is G.
  """

  def field(point):
    cut = outputs.Cut()
    with tf.GradientTape(persistent=True) as tape:
      tape.watch(params)
      cut.watch = (tape,)
      loss = products.weighted(objective.terms(params, context, batch, seed, cut=cut), ratios)
    gradient, inner = cut.gradient(tape, loss, params)
    count = len(cut.used[0])
    there = outputs.Cut()
    with tf.GradientTape() as tape:
      tape.watch(point)
      objective.terms(point, context, batch, seed, cut=there)
    zs = [there.outputs[i] for i in cut.chosen]
    found = tape.gradient(zs, point, output_gradients=gradient[:count])
    connected([g is not None for g in found])
    result = products.dense(found, params)
    for i, part in zip(inner[count:], gradient[count:], strict=True):
      result[i - count] += part
    return result

  return field
