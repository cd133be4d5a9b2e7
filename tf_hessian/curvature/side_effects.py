"""Changes that a model makes when it is called.

A measurement must not make them. Changes of Keras variables are kept in a scope
(`keras.StatelessScope`). Others are found in the graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tf_hessian.curvature import second_order

# Of resources, those that only read, or make what is gone when the function returns.
_READING = (
  "ReadVariableOp",
  "ResourceGather",
  "ResourceGatherNd",
  "VarHandleOp",
  "VarIsInitializedOp",
  "VariableShape",
)
_CHANGING_PREFIXES = (
  "Assign",
  "Barrier",
  "LookupTableImport",
  "LookupTableInsert",
  "LookupTableRemove",
  "QueueClose",
  "QueueDequeue",
  "QueueEnqueue",
  "Resource",
  "Rng",
)


def refuse_changes(
  concrete: tf.types.experimental.ConcreteFunction,
  graph_def: tf.compat.v1.GraphDef,
  layers: Sequence[str],
  /,
) -> None:
  """Raises ValueError for a function that changes outside variables or tables.

  Args:
    concrete: the traced function.
    graph_def: its `GraphDef`.
    layers: names of the model's layers.
  """
  for node in second_order.graph_nodes(graph_def):
    if node.op in _READING or not node.op.startswith(_CHANGING_PREFIXES):
      continue
    raise ValueError(
      f"{second_order.place_of(node.name, layers)} changes {_changed(concrete, node)} when it is "
      f"called (operation {node.op}), so a measurement would change it too: make it a Keras "
      "variable, by add_weight(trainable=False), whose changes are kept apart, or leave the change "
      "out"
    )


def _changed(concrete, node):
  """Returns the name of what a node changes.

  If that is not known, it is a phrase with all variables in question.
  """
  handles = {inside.op.name: outside for outside, inside in concrete.graph.captures}
  names = {id(v.handle): v.name.split(":")[0] for v in concrete.graph.variables}
  known = [names[id(h)] for h in handles.values() if id(h) in names]
  outside = handles.get(node.input[0].split(":")[0]) if node.input else None
  if outside is not None:
    return f"variable {names[id(outside)]!r}" if id(outside) in names else "a table or queue"
  return f"a variable (one of {', '.join(known)})" if known else "a variable or table"
