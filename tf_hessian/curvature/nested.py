"""Calls of functions in a graph, passed by tangents like other operations.

Keras computes grouped convolutions by a function that XLA compiles, and users decorate theirs. The
derivative of a call is a call of the derivative, compiled like it, which computes the function's
values again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from tf_hessian.curvature import keras_internals

CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})


def called(op: tf.Operation, /) -> tf.Graph:
  """Returns the graph of the function that an operation calls."""
  return keras_internals.function_graph(op.graph, op.get_attr("f").name)


def body(op: tf.Operation, /) -> tf.Graph | None:
  """Returns the graph of a function that only computes.

  None if it does more, so that it can't be called again.
  """
  graph = called(op)
  pure = all(o.type in CALLS or not o.op_def.is_stateful for o in graph.get_operations())
  return graph if pure else None


def operations(graph: tf.Graph, /) -> Iterator[tf.Operation]:
  """Yields the operations of a graph, and of functions it calls."""
  for op in graph.get_operations():
    yield op
    if op.type in CALLS:
      yield from operations(called(op))


def tangents(
  op: tf.Operation,
  given: Sequence[tf.Tensor | None],
  needed: Sequence[int],
  derivative: Callable[..., list[tf.Tensor]],
  /,
) -> list[tf.Tensor | None]:
  """Returns the tangents of a call's outputs, by another call.

  Args:
    op: the call.
    given: tangents of its inputs, None for those that are constant.
    needed: positions of the outputs whose tangents are wanted; those of others are None.
    derivative: (outputs, inputs, tangents of the inputs) -> tangents of the outputs.
  """
  changing = [i for i, t in enumerate(given) if t is not None]
  count = len(op.inputs)

  def function(*tensors):
    inputs = list(tensors[:count])
    outputs = computed(called(op), inputs)
    chosen = [outputs[k] for k in needed]
    return derivative(chosen, [inputs[i] for i in changing], list(tensors[count:]))

  compiled = "_XlaMustCompile" in op.node_def.attr and op.get_attr("_XlaMustCompile")
  call = tf.function(function, autograph=False, jit_compile=bool(compiled) or None)
  found = iter(call(*op.inputs, *(given[i] for i in changing)))
  return [next(found) if k in needed else None for k in range(len(op.outputs))]


def computed(graph: tf.Graph, values: Sequence[tf.Tensor], /) -> list[tf.Tensor]:
  """Returns the outputs of a function's graph, computed in the current one.

  Args:
    graph: the function's graph, which must live as long as functions that it calls.
    values: the values of its inputs.
  """
  given = {x.name: v for x, v in zip(graph.inputs, values, strict=True)}
  graph_def = graph.as_graph_def()
  own = {x.op.name for x in graph.inputs}
  kept = [n for n in graph_def.node if n.name not in own]  # of which XLA has no placeholders
  del graph_def.node[:]
  for node in kept:
    inputs = [i for i in node.input if i.removeprefix("^") not in own or not i.startswith("^")]
    graph_def.node.add().CopyFrom(node)
    graph_def.node[-1].input[:] = inputs
  read = {i.split(":")[0] for n in graph_def.node for i in n.input}
  names = list(dict.fromkeys(y.name for y in graph.outputs if y.name not in given))
  made = tf.graph_util.import_graph_def(
    graph_def,
    input_map={k: v for k, v in given.items() if k.split(":")[0] in read},
    return_elements=names,
    name="again",
  )
  known = given | dict(zip(names, made, strict=True))
  return [known[y.name] for y in graph.outputs]
