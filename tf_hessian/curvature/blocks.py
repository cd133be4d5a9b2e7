"""A Keras model cut into blocks whose activations are recomputed.

Products recompute them block by block. What a product keeps of the whole model is then only what
crosses the cuts; the activations inside a block are made again when the backward pass reaches it.
`tf.recompute_grad` keeps the activations in a product, and its gradient reads variables by itself;
`keras.RematScope` fails inside a `tf.function` in Keras 3.15.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import functools

import keras
import numpy as np
import tensorflow as tf

from tf_hessian.curvature import fit_losses, keras_internals


@dataclasses.dataclass(frozen=True)
class Block:
  """A part of the model between two cuts.

  Attributes:
    run: (mapping, states, inputs, training, read=None) -> (outputs, penalties, states): mapping and
      states are lists of (Keras variable, value), states of what may change, whose values
      afterwards are returned; inputs and outputs are lists of tensors. The ids of the variables
      that it reads are added to the set `read`.
    variables: ids of the Keras variables of its layers.
  """

  run: Callable
  variables: frozenset


@dataclasses.dataclass(frozen=True)
class Pieces:
  """The loss of one batch as a chain of blocks.

  Each block is a pure function.

  Attributes:
    count: number of blocks.
    used: (parameters, context, batch, seed) -> for each block, the positions of the parameters that
      it reads, and last of those that the end reads. It traces all once for each shape.
    start: (batch) -> inputs of the first block: a list of tensors.
    run: (number of the block, parameters, context, seed, states, inputs, read=None) -> (outputs,
      penalties, states): lists; the states of random generators are None before the first block.
    finish: (parameters, context, batch, seed, outputs of the last block, read=None) -> (terms
      without that of `model.losses`, penalties of the parameters).
  """

  count: int
  used: Callable
  start: Callable
  run: Callable
  finish: Callable


def build_pieces(
  model: keras.Model,
  losses: fit_losses.GivenLosses,
  values: Callable[..., list],
  count: int,
  /,
  *,
  chosen: Sequence[keras.Variable],
  drawn: Sequence[keras.Variable],
  training: bool,
) -> Pieces:
  """Returns the `Pieces` of a Keras model's loss.

  Args:
    model: a functional or sequential `keras.Model`.
    losses: its `fit_losses.GivenLosses`.
    values: (parameters, context, seed) -> list of (Keras variable, value) of all variables.
    count: number of blocks; fewer where the model can't be cut so often.
    chosen: the Keras variables of the parameters.
    drawn: the Keras variables that hold states of random generators.
    training: whether the layers are called in training mode.

  Raises:
    ValueError: for a model that can't be cut: a subclassed one, or one with masks.
  """
  parts = split(model, count)
  graph = keras_internals.graph_of(model)
  carried = [*drawn, *_of_several(parts, model, drawn)]
  ids = {id(v) for v in carried}

  def run(k, params, context, seed, states, tensors, read=None):
    mapping = values(params, context, seed)
    if states is None:
      found = {id(v): value for v, value in mapping}
      states = [found[id(v)] for v in carried]
    fixed = [(v, value) for v, value in mapping if id(v) not in ids]
    states = list(zip(carried, states, strict=True))
    return parts[k].run(fixed, states, tensors, training, read)

  def start(batch):
    inputs, _, _ = fit_losses.unpack(batch)
    return keras_internals.standardized_inputs(graph, inputs)

  def finish(params, context, batch, seed, outputs, read=None):
    _, targets, sample_weight = fit_losses.unpack(batch)
    predictions = keras_internals.packed_outputs(graph, outputs)
    if isinstance(predictions, (list, tuple)) and len(predictions) == 1:
      predictions = predictions[0]
    mapping = values(params, context, seed)
    with keras_internals.stateless(model, mapping, seed) as scope:
      penalties = [v.regularizer(v.value) for v, _ in mapping if _penalized(v)]
      terms = losses.terms(targets, predictions, sample_weight)
    if read is not None:
      read |= scope.read
    return terms, penalties

  found: dict[str, list[list[int]]] = {}

  def used(*arguments):
    tensors = tf.nest.flatten(arguments, expand_composites=True)
    shapes = str([None if t is None else (t.shape, t.dtype) for t in tensors])
    if shapes not in found:  # a layer may read others in other shapes
      found[shapes] = _positions_read(len(parts), start, run, finish, chosen, arguments)
    return found[shapes]

  return Pieces(
    count=len(parts),
    used=used,
    start=start,
    run=run,
    finish=finish,
  )


def _positions_read(count, start, run, finish, chosen, arguments):
  """Returns positions of the variables that each block reads, and the end.

  A layer may read another one's, and so may a loss. So all is traced, in a graph that is not run.
  """
  read: list[set[int]] = [set() for _ in range(count + 1)]

  def trace(params, context, batch, seed):
    tensors, states = start(batch), None
    for k in range(count):
      tensors, _, states = run(k, params, context, seed, states, tensors, read[k])
    finish(params, context, batch, seed, tensors, read[count])

  tf.function(trace, autograph=False).get_concrete_function(*arguments)
  return [[j for j, v in enumerate(chosen) if id(v) in ids] for ids in read]


def _of_several(parts, model, drawn):
  """Returns other states that one block may change and another reads."""
  known = {id(v) for v in drawn}
  return [
    v
    for v in model.non_trainable_variables
    if id(v) not in known and sum(id(v) in part.variables for part in parts) > 1
  ]


def _penalized(variable):
  return variable.trainable and variable.regularizer is not None


def split(model: keras.Model, count: int, /) -> list[Block]:
  """Returns `Block`s whose activations take about equal memory.

  Args:
    model: a functional or sequential `keras.Model`.
    count: number of blocks; fewer where the model can't be cut so often.

  Raises:
    ValueError: for a model that can't be cut: a subclassed one, or one with masks.
  """
  if not isinstance(model, (keras.Sequential, keras.Function)):
    raise ValueError(
      f"recompute_blocks: model {model.name!r} is not functional or sequential, so it can't be cut "
      "into blocks"
    )
  if _has_own_call(model):
    raise ValueError(
      f"recompute_blocks: model {model.name!r} has a call() of its own, so its layers don't tell "
      "what it computes: put what that adds into layers"
    )
  nodes = keras_internals.calls_of(model)
  cuts = _cuts(model, nodes, count)
  blocks = []
  inputs, begin = list(model.inputs), 0
  for cut, live in [*cuts, (len(nodes), list(model.outputs))]:
    blocks.append(_block(model, inputs, live, nodes[begin:cut]))
    inputs, begin = live, cut
  return blocks


def _has_own_call(model):
  """Returns whether a functional or sequential model runs code beside its graph."""
  owner = next(c for c in type(model).__mro__ if "call" in vars(c))
  return not owner.__module__.startswith("keras.") or "call" in vars(model)


def check_count(model: keras.Model, count: int, /) -> None:
  """Raises ValueError for more blocks than the model has calls of layers.

  Args:
    model: a Keras model; those that can't be cut are left to `split`.
    count: number of blocks.
  """
  if isinstance(model, (keras.Sequential, keras.Function)):
    most = len(keras_internals.calls_of(model))
    if count > most:
      raise ValueError(
        f"recompute_blocks: expected at most {most}, the number of calls of layers that "
        f"{model.name!r} consists of, got {count}"
      )


def _cuts(model, nodes, count):
  """Returns a list of cuts: (number of nodes before, crossing tensors)."""
  sizes = [sum(_size(t) for t in node.outputs) for node in nodes]
  cumulated = np.cumsum(sizes)
  crossing = [_crossing(model, nodes, i) for i in range(1, len(nodes))]
  cost = np.array([sum(_size(t) for t in live) for live in crossing])
  cuts = []
  for k in range(1, count):
    # Of the places near where the k-th of equal parts ends, that which fewest numbers cross.
    target = cumulated[-1] * k / count
    near = np.abs(cumulated[:-1] - target) <= cumulated[-1] / (2 * count)
    near &= np.arange(1, len(nodes)) > (cuts[-1] if cuts else 0)
    if near.any():
      cuts.append(int(np.flatnonzero(near)[np.argmin(cost[near])]) + 1)
  return [(cut, crossing[cut - 1]) for cut in cuts]


def _crossing(model, nodes, cut):
  """Returns the tensors made before a cut and needed after it."""
  needed = {id(t) for node in nodes[cut:] for t in node.input_tensors}
  needed |= {id(t) for t in model.outputs}
  made = [*model.inputs, *(t for node in nodes[:cut] for t in node.outputs)]
  return [t for t in made if id(t) in needed]


def _size(tensor):
  return int(np.prod([d for d in tensor.shape[1:] if d is not None], dtype=np.int64))


def _block(model, inputs, outputs, nodes):
  for tensor in inputs:
    if keras_internals.has_mask(tensor):
      raise ValueError(
        f"recompute_blocks: model {model.name!r} passes masks, which would be lost between blocks"
      )
  layers = [n.operation for n in nodes if isinstance(n.operation, keras.layers.Layer)]
  used = frozenset(id(v) for layer in layers for v in layer.variables)

  def run(mapping, states, tensors, training, read=None):
    losses = []
    with keras_internals.stateless(model, [*mapping, *states]) as scope:
      values = {id(x): value for x, value in zip(inputs, tensors, strict=True)}

      def call(operation, *args, **kwargs):
        result = _in_mode(operation, training)(*args, **kwargs)
        # A layer that is called by itself, and again, forgets what it has added before.
        losses.extend(scope.losses)
        scope.losses.clear()
        return result

      keras_internals.run_calls(nodes, values, lambda op: functools.partial(call, op))
    if read is not None:
      read |= scope.read
    return (
      [values[id(x)] for x in outputs],
      losses,
      [scope.get_current_value(v) for v, _ in states],
    )

  return Block(run, used)


def _in_mode(operation, training):
  """Returns an operation of a model's graph, in a given mode.

  A layer is told whether it is trained.
  """
  if not isinstance(operation, keras.layers.Layer):
    return operation
  # Over what the graph has recorded, as Keras does.
  return lambda *args, **kwargs: operation(*args, **kwargs | {"training": training})
