"""Functions of one batch: its loss, gradient and Hessian-vector products, as sums.

Each is a pure function (parameters, context, batch, seed, ...) -> tensors, made from an
`Objective`. `ratios` are the factors that the batch's terms S_tb enter with, so that all terms can
be divided by the weight of the first once everything is summed: c_t W_0 / W_t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import contextlib
import functools
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tf_hessian.curvature import fusion, linearize, nested, second_order, soundness

if TYPE_CHECKING:
  from tf_hessian.curvature.objective import Objective

MODES = ("forward_over_backward", "backward_over_backward")


def loss_sums(objective: Objective) -> Callable[..., list[tf.Tensor]]:
  """Returns (parameters, context, batch, seed) -> [S_tb ..., W_tb ...], scalars."""

  def function(params, context, batch, seed):
    terms = objective.terms(params, context, batch, seed)
    return [s for s, _ in terms] + [w for _, w in terms]

  return function


def batch_gradient(
  objective: Objective, connected: Callable[[list[bool]], None] | None = None
) -> Callable[..., list[tf.Tensor]]:
  """Returns (parameters, context, batch, seed, ratios) -> gradient, like the parameters.

  Args:
    objective: an `Objective`.
    connected: (list of bool) -> None: told, when the function is traced, on which parameters the
      loss depends; None if nobody needs it.
  """

  def function(params, context, batch, seed, ratios):
    with tf.GradientTape() as tape:
      tape.watch(params)
      loss = weighted(objective.terms(params, context, batch, seed), ratios)
    grads = tape.gradient(loss, params)
    if connected is not None:
      connected([g is not None for g in grads])
    return dense(grads, params)

  return function


def hessian_product(
  objective: Objective,
  mode: str,
  *,
  blocks: int | None = None,
  connected: Callable[[list[bool]], None] | None = None,
) -> Callable[..., Callable[[list[tf.Tensor]], list[tf.Tensor]]]:
  """Returns the function that makes products with a batch's Hessian.

  It is (parameters, context, batch, seed, ratios) -> v -> H_b v, with v and H_b v lists of tensors
  like the parameters.

  What does not depend on v is computed outside of the inner function where the model allows it:
  see `linearize`.

  Args:
    objective: an `Objective`.
    mode: "forward_over_backward" differentiates the gradient along v; "backward_over_backward"
      differentiates its inner product with v.
    blocks: recompute the activations of so many blocks, forward over backward: only the tensors
      that cross the cuts and their tangents along v are kept. Backward, each block is run once
      more, from its inputs, when the gradient of its outputs is there. That costs one more forward
      pass with tangents: 4/3 of the time.
    connected: (list of bool) -> None: told, when the function is traced, on which parameters the
      loss depends; None if nobody needs it.
  """
  if blocks:
    pieces = objective.pieces(blocks)  # type: ignore[misc]  # `choices.check_blocks` looks at it
    return lambda *arguments: functools.partial(_by_blocks, pieces, connected, *arguments)
  return functools.partial(_HESSIANS[mode], batch_gradient(objective, connected))


def of_one(product: Callable, *, as_shared: bool = False) -> Callable[..., list[tf.Tensor]]:
  """Returns (parameters, context, batch, seed, ratios, v) -> product with v.

  Args:
    product: (parameters, context, batch, seed, ratios) -> v -> product, such as `hessian_product`
      returns.
    as_shared: whether the product is bitwise that of the loop of `of_several`; False by default.
  """
  turns: list[Any] = []  # graphs whose functions are called for as long as this one is there

  def function(params, context, batch, seed, ratios, v):
    of_batch = product(params, context, batch, seed, ratios)
    in_graph = not tf.executing_eagerly()
    return _as_a_turn(of_batch, v, turns) if as_shared and in_graph else of_batch(v)

  return function


def _as_a_turn(product, v, turns):
  """Returns a product by the operations of a turn of a loop.

  Grappler merges constants with those around them, such as two factors, but not those that a loop
  reads from outside, and so rounds differently there. What these operations read from outside is
  hidden from it here: it takes no `PlaceholderWithDefault` for a constant.
  """
  specs = [tf.TensorSpec(x.shape, x.dtype) for x in v]
  turn = tf.function(lambda *v: product(list(v)), autograph=False).get_concrete_function(*specs)
  turns.append(turn)
  result = nested.computed(turn.graph, [*v, *map(_hidden, turn.captured_inputs)])
  for found, made in zip(result, turn.graph.outputs, strict=True):
    found.set_shape(made.shape)
  return result


def _hidden(tensor):
  """Returns a tensor that the optimizer of graphs takes for no constant."""
  if tensor.dtype in (tf.resource, tf.variant):
    return tf.compat.v1.get_default_graph().capture(tensor)
  return tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=tensor.shape)


@contextlib.contextmanager
def _without_remarks():
  """Leaves out TensorFlow's remarks on operations that it vectorizes by loops."""

  def is_other(record):
    return "while_loop" not in str(record.msg)

  logger = tf.get_logger()
  logger.addFilter(is_other)
  try:
    yield
  finally:
    logger.removeFilter(is_other)


def of_several(product: Callable, *, vectorized: bool = False) -> Callable[..., list[tf.Tensor]]:
  """Returns (parameters, context, batch, seed, ratios, V, used) -> products with V.

  The columns are the first dimension of each tensor of V and of the result.

  Args:
    product: (parameters, context, batch, seed, ratios) -> v -> product, such as `hessian_product`
      returns.
    vectorized: compute all columns by one set of vectorized operations, faster where tensors are
      small. Otherwise the first `used` are computed by a loop around what depends on them. The
      others are zero. Each is bitwise the single product, and their number may be open.
  """

  def function(params, context, batch, seed, ratios, columns, used):
    of_batch = product(params, context, batch, seed, ratios)
    if vectorized:
      with _without_remarks():
        return list(tf.vectorized_map(lambda v: tuple(of_batch(list(v))), tuple(columns)))
    return _by_loop(of_batch, params, columns, used)

  return function


def _by_loop(product, params, columns, used):
  """Returns the products of the first `used` columns, by a loop."""
  count = columns[0].shape[0]
  size = tf.shape(columns[0])[0] if count is None else count
  arrays = [tf.TensorArray(p.dtype, size, element_shape=p.shape) for p in params]

  def body(i, arrays):
    values = product([tf.gather(c, i) for c in columns])
    return i + 1, [a.write(i, x) for a, x in zip(arrays, values, strict=True)]

  start = (tf.zeros((), tf.int32), arrays)
  _, arrays = tf.while_loop(lambda i, _: i < used, body, start, parallel_iterations=1)
  return [
    tf.ensure_shape(a.stack(), [count, *p.shape]) for a, p in zip(arrays, params, strict=True)
  ]


def _forward_over_backward(gradient, params, *batch):
  """Returns v -> H_b v, by forward over backward.

  Values that do not depend on v are computed outside of it.
  """
  obstacle = None
  if not tf.executing_eagerly():
    grads = gradient(params, *batch)
    derivative = linearize.Linearization(grads, params, fuse=fusion.available())
    if derivative.obstacle is None:
      return lambda v: dense(derivative(v), params)
    obstacle = derivative.obstacle_op
    problem = soundness.gradient_problem(grads, params)
    if problem:
      raise problem

  def product(v):
    try:
      with tf.autodiff.ForwardAccumulator(params, v) as accumulator:
        grads = gradient(params, *batch)
      tangents = accumulator.jvp(grads, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    except (TypeError, ValueError) as e:  # which name no operation
      if obstacle is None:
        raise
      raise second_order.NoDerivativeError(obstacle, f"forward accumulation fails: {e}") from e
    return dense(tangents, params)

  return product


def _backward_over_backward(gradient, params, *batch):
  """Returns v -> H_b v, by backward over backward.

  It computes all anew for each v.
  """

  def product(v):
    with tf.GradientTape() as tape:
      tape.watch(params)
      grads = gradient(params, *batch)
    # output_gradients= gives the inner product with v without making it.
    return dense(tape.gradient(grads, params, output_gradients=v), params)

  return product


_HESSIANS = {
  "forward_over_backward": _forward_over_backward,
  "backward_over_backward": _backward_over_backward,
}


def batch_gradient_by_blocks(
  objective: Objective, count: int, connected: Callable[[list[bool]], None] | None = None
) -> Callable[..., list[tf.Tensor]]:
  """Does what `batch_gradient` does, recomputing the activations of `count` blocks."""
  pieces = objective.pieces(count)  # type: ignore[misc]  # `choices.check_blocks` looks at it

  def function(params, context, batch, seed, ratios):
    return _by_blocks(pieces, connected, params, context, batch, seed, ratios, None)

  return function


def _by_blocks(pieces, connected, params, context, batch, seed, ratios, v):
  """Returns the gradient, or its derivative along v, with the blocks recomputed."""
  *inner, outermost = pieces.used(params, context, batch, seed)
  xs = pieces.start(batch)
  tangents = _zeros(xs)
  states = None
  saved = []
  for k in range(pieces.count):
    saved.append((xs, tangents, states))
    if k < pieces.count - 1:
      with _along(_chosen(params, inner[k]), _chosen(v, inner[k]), xs, tangents) as acc:
        xs, _, states = pieces.run(k, params, context, seed, states, xs)
      tangents = _jvp(acc, xs)

  totals = [None] * len(params)
  depends = [False] * len(params)
  above = above_tangents = reached = scale = None
  for k in reversed(range(pieces.count)):
    xs, tangents, states = saved.pop()
    last = k == pieces.count - 1
    used = sorted({*inner[k], *(outermost if last else ())})
    if not last:
      # Not before the gradient is there, or all blocks would be recomputed at once.
      with tf.control_dependencies([*above, *(above_tangents or ())]):
        xs = [tf.identity(x) for x in xs]
    mine, floats = _chosen(params, used), _floating(xs)
    known = [*xs, *([] if last else above)]
    known_tangents = None if v is None else [*tangents, *([] if last else above_tangents)]
    with _along(mine, _chosen(v, used), known, known_tangents) as acc:
      with tf.GradientTape() as tape:
        tape.watch([*mine, *floats])
        ys, penalties, _ = pieces.run(k, params, context, seed, states, xs)
        if last:
          terms, own = pieces.finish(params, context, batch, seed, ys)
          weight = terms[0][1]
          terms.append((_total([*penalties, *own], weight) * weight, weight))
          targets, outer = [weighted(terms, ratios)], None
          scale = tf.cast(ratios[len(terms) - 1], weight.dtype) * weight
        else:
          live = [(y, g) for y, g, r in zip(_floating(ys), above, reached, strict=True) if r]
          targets = [*(y for y, _ in live), _total(penalties, scale)]
          outer = [*(g for _, g in live), scale]
      found = tape.gradient(targets, [*mine, *floats], output_gradients=outer)
      grads = dense(found, [*mine, *floats])
    for j, g in zip(used, found, strict=False):
      depends[j] |= g is not None
    wanted = grads if v is None else dense(_jvp(acc, grads), [*mine, *floats])
    for j, part in zip(used, wanted, strict=False):
      totals[j] = part if totals[j] is None else totals[j] + part
    # Of a sum, all terms have one tensor for gradient, which can't be several primals.
    above = [tf.identity(g) for g in grads[len(mine) :]]
    above_tangents = None if v is None else wanted[len(mine) :]
    reached = [g is not None for g in found[len(mine) :]]
  if connected is not None:
    connected(depends)
  return [tf.zeros_like(p) if t is None else t for t, p in zip(totals, params, strict=True)]


def _along(params, v, tensors, tangents):
  """Returns a `ForwardAccumulator` of parameters and tensors along their tangents.

  Those of the parameters are v. Where there is no v, it is a context that does nothing.
  """
  if v is None:
    return contextlib.nullcontext()
  floats = [i for i, x in enumerate(tensors) if x.dtype.is_floating]
  primals = [*params, *(tensors[i] for i in floats)]
  return tf.autodiff.ForwardAccumulator(primals, [*v, *(tangents[i] for i in floats)])


def _jvp(accumulator, tensors):
  if accumulator is None:
    return None
  return [
    accumulator.jvp(t, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    if t.dtype.is_floating
    else tf.zeros_like(t)
    for t in tensors
  ]


def _chosen(values, positions):
  return None if values is None else [values[j] for j in positions]


def _floating(tensors):
  return [t for t in tensors if t.dtype.is_floating]


def _zeros(tensors):
  return [tf.zeros_like(t) for t in tensors]


def _total(values, like):
  return sum((tf.cast(tf.reduce_sum(x), like.dtype) for x in values), tf.zeros_like(like))


def weighted(terms: Sequence[tuple[tf.Tensor, tf.Tensor]], ratios: tf.Tensor, /) -> tf.Tensor:
  """Returns the sum of a batch's terms, each with its factor."""
  total = None
  for t, (value, _) in enumerate(terms):
    part = value * tf.cast(ratios[t], value.dtype)
    total = part if total is None else total + tf.cast(part, total.dtype)
  return total


def dense(values: Sequence, like: Sequence[tf.Tensor], /) -> list[tf.Tensor]:
  """Returns dense tensors of known shape.

  It makes them of sparse ones, as embeddings' gradients, and of None.
  """
  tensors = [
    tf.zeros_like(p) if v is None else tf.convert_to_tensor(v)
    for v, p in zip(values, like, strict=True)
  ]
  for tensor, parameter in zip(tensors, like, strict=True):
    tensor.set_shape(parameter.shape)
  return tensors
