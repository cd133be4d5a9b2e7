"""The least precise type of a loss, read from its graph."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import tensorflow as tf

from tf_hessian.curvature import linearize, second_order

_EPS = {tf.bfloat16: 2.0**-7, tf.float16: 2.0**-10, tf.float32: 2.0**-23, tf.float64: 2.0**-52}


@dataclasses.dataclass(frozen=True)
class Precision:
  """The precision of a loss.

  Attributes:
    eps: relative rounding error of the least precise type.
    dtype: that type.
    where: a phrase that says where it comes in, if the variables themselves are more precise.
  """

  eps: float
  dtype: tf.DType
  where: str = ""


def of_loss(
  concretes: Sequence[tf.types.experimental.ConcreteFunction],
  num_parameters: int,
  num_state: int,
  layers: Sequence[str],
  /,
) -> Precision:
  """Returns the `Precision` of a loss.

  Data that are less precise than the variables don't count, since widening them rounds nothing.

  Args:
    concretes: its traced functions (parameters, context, batch, seed).
    num_parameters: number of parameters.
    num_state: number of parameters and of context.
    layers: names of the model's layers.
  """
  found: list[Precision] = []
  for concrete in concretes:
    parameters, batch = concrete.inputs[:num_parameters], concrete.inputs[num_state:-1]
    own = min((p.dtype for p in parameters), key=lambda d: -_EPS[d])
    found += [
      Precision(_EPS[own], own),
      *_of_operations(concrete, parameters, layers),
      *_of_data(concrete, batch, own, layers),
      *_of_functions(concrete, own, layers),
    ]
  return max(found, key=lambda p: p.eps)


def _of_operations(concrete, parameters, layers):
  """Yields the precisions of the operations between the parameters and the loss."""
  for op in linearize.between(concrete.outputs, parameters)[0]:
    for y in op.outputs:
      if y.dtype in _EPS:
        yield _computing(op.name, y.dtype, layers)


def _of_functions(concrete, own, layers):
  """Yields the precisions that loops, branches and functions round numbers to."""
  for function in concrete.graph.as_graph_def().library.function:
    for node in function.node_def:
      if node.op == "Cast":
        before, after = (tf.as_dtype(node.attr[k].type) for k in ("SrcT", "DstT"))
        if _rounds(before, after, own):
          yield _computing(node.name, after, layers)


def _computing(op_name, dtype, layers):
  place = second_order.place_of(op_name, layers)
  return Precision(_EPS[dtype], dtype, f"{place} computes in {dtype.name}")


def _rounds(before, after, own):
  """Returns whether a cast rounds, to less than the variables' own type."""
  return before in _EPS and after in _EPS and _EPS[after] > max(_EPS[before], _EPS[own])


def _of_data(concrete, batch, own, layers):
  """Yields the precisions that data are rounded to before the loss."""
  batch = [x for x in batch if x.dtype in _EPS]
  for op in linearize.between(concrete.outputs, batch)[0] if batch else ():
    if op.type == "Cast":
      before, after = op.inputs[0].dtype, op.outputs[0].dtype
      if _rounds(before, after, own):
        place = second_order.place_of(op.name, layers, "the model")
        yield Precision(
          _EPS[after],
          after,
          f"{place} rounds {before.name} data to {after.name}; keras.Input(..., "
          f"dtype={before.name!r}) takes them as they are",
        )
