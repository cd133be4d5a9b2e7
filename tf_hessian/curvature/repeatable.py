"""Bitwise equal passes, beyond TensorFlow's op determinism.

The kernel of `AddN` begins its sum with whichever input buffer it may reuse, and that depends on
which consumer ran first: with several inter-op threads, three or more terms are added in varying
order. Gradients are summed by `AddN`, and Grappler's arithmetic optimizer makes more of them from
ordinary additions. So each `AddN` of a traced graph becomes a chain of additions of two terms,
whose order is fixed, and the functions run without that optimizer (docs/design/repeatable.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import functools

import tensorflow as tf

from tf_hessian.curvature import keras_internals, second_order
from tf_hessian.distribute.grappler import OF_NO_USE

# Ops that draw from a generator of their own: another result each time, whatever the seeds.
STATEFUL_RANDOM_OPS = frozenset(
  {
    "Multinomial",
    "ParameterizedTruncatedNormal",
    "RandomGamma",
    "RandomPoisson",
    "RandomPoissonV2",
    "RandomShuffle",
    "RandomStandardNormal",
    "RandomUniform",
    "RandomUniformInt",
    "StatefulRandomBinomial",
    "StatefulStandardNormalV2",
    "StatefulTruncatedNormal",
    "StatefulUniform",
    "StatefulUniformFullInt",
    "StatefulUniformInt",
    "TruncatedNormal",
  }
)


@contextlib.contextmanager
def repeatable_execution(enabled: bool = True) -> Iterator[None]:
  """Makes TensorFlow functions inside give bitwise the same result each time.

  Inside, op determinism is on and Grappler's arithmetic optimizer is off, and without a GPU those
  of its optimizers that are of no use, unless they were set; all is restored afterwards. They are
  settings of the process, which threads enter one at a time (`processes.LOCK`); other functions
  that run meanwhile see them.

  Args:
    enabled: False leaves all as it is.
  """
  if not enabled:
    yield
    return
  known = tf.config.optimizer.get_experimental_options()
  off = {"arithmetic_optimization"}
  deterministic = keras_internals.op_determinism()
  with contextlib.ExitStack() as stack:
    if not _has_gpu():
      off.update(name for name in OF_NO_USE if known.get(name) is None)
      stack.enter_context(keras_internals.fewer_graph_optimizers())
    tf.config.optimizer.set_experimental_options(dict.fromkeys(off, False))
    tf.config.experimental.enable_op_determinism()
    try:
      yield
    finally:
      stack.close()  # before the options, which functions read anew when they are set
      tf.config.optimizer.set_experimental_options({name: known.get(name) for name in off})
      if deterministic is False:
        keras_internals.disable_op_determinism()


@functools.cache
def _has_gpu():
  return bool(tf.config.list_physical_devices("GPU"))


def chain_sums(graph_def: tf.compat.v1.GraphDef, /) -> int:
  """Replaces, in place, every numeric `AddN` by a chain of two-term additions.

  Args:
    graph_def: a `GraphDef`; the functions in its library are changed too.

  Returns:
    The number of `AddN` replaced.
  """
  count = _chain_nodes(graph_def.node, output="")
  for function in graph_def.library.function:
    # Inside a function, a reference names the output argument as well.
    names = {n.name for n in function.node_def if _is_sum(n)}
    count += _chain_nodes(function.node_def, output=":z:0")
    references = {f"{name}:sum:0": f"{name}:z:0" for name in names}
    for node in function.node_def:
      for i, ref in enumerate(node.input):
        node.input[i] = references.get(ref, ref)
    for key, ref in list(function.ret.items()):
      function.ret[key] = references.get(ref, ref)
  return count


def _is_sum(node):
  # Lists of tensors (variants), which loops accumulate, have no two-term addition.
  return node.op == "AddN" and node.attr["T"].type != tf.variant.as_datatype_enum


def _chain_nodes(nodes, output):
  sums = [n for n in nodes if _is_sum(n) and n.attr["N"].i > 1]
  for node in sums:
    terms = [i for i in node.input if not i.startswith("^")]
    control = [i for i in node.input if i.startswith("^")]
    total = terms[0]
    for i, term in enumerate(terms[1:-1], 1):
      part = nodes.add(name=f"{node.name}/chain_{i}", op="AddV2", device=node.device)
      part.input.extend([total, term, *control])
      part.attr["T"].CopyFrom(node.attr["T"])
      total = part.name + output
    del node.input[:]
    node.input.extend([total, terms[-1], *control])
    node.op = "AddV2"
    del node.attr["N"]
  return len(sums)


def stateful_random_ops(
  graph_def: tf.compat.v1.GraphDef, layers: Sequence[str], /
) -> Iterator[str]:
  """Yields a sentence for each op that draws from its state.

  That is a state of its own, not one that it is given. The sentence has the layer and the remedy.

  Args:
    graph_def: a `GraphDef`.
    layers: names of the model's layers.
  """
  for node in second_order.graph_nodes(graph_def):
    if node.op in STATEFUL_RANDOM_OPS:
      yield (
        f"{second_order.place_of(node.name, layers)} draws random numbers with the operation "
        f"{node.op} (from tf.random), which gives others in every pass, so there is no fixed "
        "Hessian: use keras.random with a keras.random.SeedGenerator of the layer, or "
        "tf.random.stateless_*"
      )
