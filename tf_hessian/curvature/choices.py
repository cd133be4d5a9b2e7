"""Decisions from a batch's traced loss: refusals, precision, mode, vectors per pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import logging
import keras

from tf_hessian.curvature import (
  arithmetic,
  batches,
  blocks,
  nested,
  passes,
  second_order,
  soundness,
  stopped,
  widths,
)
from tf_hessian.curvature.objective import Objective
from tf_hessian.numerics import checks

if TYPE_CHECKING:
  from tf_hessian.curvature.program import Program

_VECTORS_BYTES = 2**30
_STACKED_BYTES = 2**26


def check_rows(model: object, program: Program, /) -> None:
  """Traces the loss, and refuses batches whose rows are not examples.

  They are accepted if the loss weighs them.

  Raises:
    TypeError, ValueError: for data that don't fit the model or the loss.
  """
  of_keras, uneven = isinstance(model, keras.Model), None
  try:
    batches.check_examples(program.batches)
  except ValueError as e:
    uneven = e
  try:
    program.loss  # noqa: B018
  except (TypeError, ValueError) as e:
    raise (uneven if of_keras and uneven else e) from e
  # A function's batches of the same shapes weigh the same, whatever their rows are.
  matters = of_keras or len(program.batches.signatures) > 1
  if matters and uneven is not None and not program.objective.weighs_batches():
    raise ValueError(
      f"{uneven}; where rows are not examples, a loss that returns a pair (sum, weight) says "
      "what a batch weighs"
    )


def check_blocks(model: object, objective: Objective, count: int | None, /) -> None:
  """Refuses a number of blocks that the model can't be cut into.

  Args:
    model: what the objective was made from.
    objective: the `Objective`.
    count: number of blocks whose activations are recomputed; None for none.

  Raises:
    TypeError, ValueError: if it is no count, or too many, or the loss is a function.
  """
  if count is None:
    return
  checks.check_count("recompute_blocks", count)
  if objective.pieces is None:
    raise ValueError(
      "recompute_blocks: is for Keras models with losses of their outputs; a function can "
      "recompute by itself"
    )
  blocks.check_count(model, count)


def find_precision(objective: Objective, loss: passes.DataPass, /) -> arithmetic.Precision:
  """Returns the precision of a traced loss."""
  count = len(objective.parameters)
  return arithmetic.of_loss(loss.concretes, count, count + len(objective.context), objective.layers)


def tell_stops(objective: Objective, loss: passes.DataPass, /) -> None:
  """Warns of values that a traced loss holds fixed.

  Only those that depend on the variables are named.
  """
  places = stopped.stopping_places(loss.concretes, len(objective.parameters), objective.layers)
  if places:
    logging.warning(
      "%s: tf.stop_gradient holds values fixed that depend on the variables. Products are those "
      "of the loss with these values frozen, which may not be the derivative of the gradient: "
      "check_operator() tells",
      ", ".join(places),
    )


def choose_mode(program: Program, mode: str | None, /) -> None:
  """Sets `program.mode`.

  Args:
    program: whose product is not built yet.
    mode: what is asked for, one of `products.MODES`, or None.

  Raises:
    DifferentiationError: if the loss can't be differentiated twice, or not in that mode.
    ValueError: if blocks are to be recomputed and the mode can't be forward over backward.
  """
  loss, layers = program.loss, program.objective.layers
  for way in loss.ways():
    problem = soundness.loss_problem(*way)
    if problem:
      raise second_order.explain(problem, (), layers)
  found = (second_order.backward_only_op(g, layers) for g in loss.graphs)
  op = next((f for f in found if f), None)
  if program.blocks and (op or mode == "backward_over_backward"):
    raise ValueError(
      "recompute_blocks: works forward over backward only"
      + (f", and the model has {op}, which that can't pass" if op else "")
    )
  if mode is None and op:
    logging.info("mode backward_over_backward, which alone can pass %s", op)
    program.mode = "backward_over_backward"
  elif mode is None:
    _take_mode_that_passes(program)
  elif mode == "forward_over_backward" and op:
    raise second_order.DifferentiationError(
      f"mode {mode!r} can't pass {op}; use mode='backward_over_backward'"
    )
  else:
    program.mode = mode


def _take_mode_that_passes(program):
  """Takes forward over backward, unless only the other can be built.

  Builds the product only if tests leave an operation between parameters and loss unproved.
  """
  program.mode = "forward_over_backward"
  if program.blocks or all(soundness.is_proved(*way) for way in program.loss.ways()):
    return
  try:
    program.product  # noqa: B018
  except second_order.DifferentiationError as e:
    program.mode = "backward_over_backward"
    try:
      program.product  # noqa: B018
    except second_order.DifferentiationError:
      raise e from None
    logging.info("mode backward_over_backward, since forward over backward fails: %s", e)


def can_be_vectorized(program: Program, /) -> bool:
  """Returns whether products of several vectors are to be vectorized.

  Where tensors are larger than caches, vectorized operations are slower: 1.5 times for a small
  residual network. For a small dense one they are 1.5 times faster. The rule is fixed, not
  timed, since rounding depends on it.
  """
  fit = not program.blocks and not _not_vectorized(program)
  return fit and _activation_bytes(program.loss) <= _STACKED_BYTES


def check_vectorized(program: Program, /) -> None:
  """Refuses to vectorize what TensorFlow would fail at, or get wrong.

  Raises:
    ValueError: naming the operation.
  """
  found = _not_vectorized(program)
  if found:
    raise ValueError(f"vectorized: expected False, since {found} can't be vectorized")


def _not_vectorized(program):
  layers = program.objective.layers
  found = [second_order.not_vectorized_op(g, layers) for g in program.loss.graphs]
  # Of which TensorFlow takes the groups of all vectors for those of one, and says nothing.
  found += [
    f"grouped convolution of {second_order.place_of(name, layers)}"
    for concrete in program.loss.concretes
    for name in _grouped(concrete.graph)
  ]
  return next(filter(None, found), None)


def _grouped(graph):
  """Yields names of the calls or operations that make grouped convolutions."""
  for op in graph.get_operations():
    inner = nested.operations(nested.called(op)) if op.type in nested.CALLS else [op]
    if any(_is_grouped(o) for o in inner):
      yield op.name


def _is_grouped(op):
  if op.type not in ("Conv2D", "Conv3D"):
    return False
  x, kernel = op.inputs
  channels_last = op.get_attr("data_format").endswith(b"C")
  return x.shape[-1 if channels_last else 1] != kernel.shape[-2]


def choose_width(program: Program, /) -> int:
  """Returns how many vectors a pass takes at once.

  That is as many as 1 GiB holds, at most 32.
  """
  size = widths.PARAMETER_BYTES * program.n
  if program.vectorized:
    size += _activation_bytes(program.loss)
  return max(1, min(widths.MOST_VECTORS, _VECTORS_BYTES // size))


def _activation_bytes(loss):
  # A rough bound, not measured: four tensors of a product for each that the loss has.
  return 4 * max(loss.bytes)
