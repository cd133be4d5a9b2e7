"""A pass: a function of a batch, summed over a data set.

The sum is made in float64. The function is traced once for each shape of batch, and its graph is
made repeatable; an engine (`distribute.protocols`) runs the loop over the batches, on the devices
that there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import contextlib
from typing import TYPE_CHECKING, Any, cast

import tensorflow as tf

from tf_hessian.curvature import (
  ctc,
  failures,
  keras_internals,
  large_logits,
  processes,
  repeatable,
  second_order,
  side_effects,
)
from tf_hessian.distribute import copies

if TYPE_CHECKING:
  from tf_hessian.curvature.batches import Batches
  from tf_hessian.curvature.objective import Objective
  from tf_hessian.distribute.protocols import Engine, SharedPass


class DataPass:
  """The sums of a function of one batch over `Batches`.

  They are the work of an engine.

  Args:
    name: name of the pass.
    function: (parameters, context, batch, seed, *arguments) -> list of tensors.
    objective: the `Objective` whose parameters and context it is called with.
    batches: the `Batches`.
    engine: the `Engine` that runs it; for `join` and `together` that of a `Group`.
    seed: seed of the run; batch b is given a seed made from it and b.
    prepare: (*pass arguments) -> list of the function's arguments: work that is done once a pass.
    signature: `tf.TensorSpec`s of the pass arguments.
    deterministic: whether passes are bitwise repeatable.
    jit_compile: whether the function of a batch is compiled by XLA; False by default.

  Attributes:
    shapes: list of the shapes of the sums. Where an argument has an open first dimension, theirs is
      the same.

  Raises:
    LookupError: if TensorFlow has no gradient for an operation of the function.
    ValueError: if `deterministic` and an operation draws random numbers from a state of its own.
  """

  def __init__(
    self,
    name: str,
    function: Callable,
    objective: Objective,
    batches: Batches,
    engine: Engine,
    *,
    seed: int,
    prepare: Callable,
    signature: Sequence[tf.TensorSpec],
    deterministic: bool,
    jit_compile: bool = False,
  ) -> None:
    self.name = name
    self.signature = signature
    self.prepare = prepare
    self._function = function
    self._objective = objective
    self._batches = batches
    self._seed = seed
    self._deterministic = deterministic
    self._jit_compile = jit_compile
    # Traced here, so that what can't be differentiated is found before the first pass.
    with processes.without_collection():
      self._traced = [self._trace(s, signature) for s in range(len(batches.signatures))]
    self.shapes = [t.shape for t in self._traced[0][0].outputs]
    self._run = engine.build(self, batches)

  @property
  def concretes(self) -> list[tf.types.experimental.ConcreteFunction]:
    """List of the traced functions, one for each shape of batch."""
    return [concrete for concrete, _ in self._traced]

  @property
  def graphs(self) -> list[tf.compat.v1.GraphDef]:
    """List of `GraphDef`s of the function, one for each shape of batch."""
    return [graph_def for _, graph_def in self._traced]

  def draws_random_numbers(self) -> bool:
    """Returns whether the values need random numbers."""
    return any(_random_nodes(graph_def, f.outputs) for f, graph_def in self._traced)

  def ways(self) -> list[tuple[list[tf.Tensor], list[tf.Tensor]]]:
    """Returns (outputs, parameters) of each of the function's graphs.

    There is one pair for each shape of batch.
    """
    count = len(self._objective.parameters)
    return [(concrete.outputs, concrete.inputs[:count]) for concrete, _ in self._traced]

  @property
  def bytes(self) -> list[int]:
    """List of the bytes of all tensors of the function.

    There is one number for each shape of batch.
    """
    return [
      sum(
        t.dtype.size * (t.shape.num_elements() or 0)
        for op in concrete.graph.get_operations()
        for t in op.outputs
      )
      for concrete, _ in self._traced
    ]

  @property
  def tracing_count(self) -> int:
    """Number of times that the loop over batches was traced."""
    return self._run.tracing_count

  @property
  def culprits(self) -> Sequence[str]:
    """Names of those who computed sums that are not finite.

    They are of the last pass, and empty where the engine doesn't know.
    """
    return self._run.culprits

  def __call__(self, *arguments: tf.Tensor) -> tf.Tensor:
    """Runs the pass and returns its sums, a float64 tensor.

    Sums are flattened, one after the other.
    """
    return self._sums(self._run.feeds, arguments)

  def of_batch(self, b: int, batch: Any, /, *arguments: tf.Tensor) -> tf.Tensor:
    """Returns what one batch adds to the sums, a float64 tensor.

    It is for a pass on one device.

    Args:
      b: number of the batch.
      batch: the batch.
      *arguments: those of the pass.
    """
    return self._sums(lambda: self._batches.held(b, batch), arguments)

  def _sums(self, feed, arguments):
    with processes.LOCK:
      # Not inside: there, a data set that draws random numbers would only say that it may not.
      feeds = feed()
      with self._execution():
        result = self._run(feeds, *arguments)
      self._refuse_changes()
      return result

  def join(self) -> None:
    """Takes part in a pass that the workers' chief has announced."""
    with processes.LOCK:
      feeds = self._run.feeds()
      with self._execution():
        cast("SharedPass", self._run).join(feeds)
      self._refuse_changes()

  def together(self, *arguments: tf.Tensor) -> tf.Tensor:
    """Runs the pass with the sums of several workers' arguments.

    All of them call this.
    """
    with processes.LOCK:
      feeds = self._run.feeds()
      with self._execution():
        result = cast("SharedPass", self._run).together(feeds, *arguments)
      self._refuse_changes()
      return result

  def _refuse_changes(self):
    """Refuses a pass in which streamed data were others than at first."""
    changed = self._run.changed
    if changed is not None:
      cause = self._batches.changes()
      raise failures.DataChangedError(
        f"{self.name}: batch {changed} of the data set has other values than when it was first "
        f"read{f': {cause}' if cause else ''}; nothing of this pass counts"
      )

  def single(self, b: int, batch: Any, *arguments: tf.Tensor) -> list[tf.Tensor]:
    """Returns the function's values for one batch, eagerly.

    So the batch at fault can be found.
    """
    return self.eagerly(self._function, b, batch, *self.prepare(*arguments))

  def as_traced(self, b: int, batch: Any, *arguments: tf.Tensor) -> list[tf.Tensor]:
    """Returns the values of the traced function for one batch."""
    _, signature, _ = self._batches.table(b, b + 1)[0]
    concrete, _ = self._traced[signature]
    with processes.LOCK, self._execution():
      return concrete(*self.state(), batch, self._batch_seed(b), *self.prepare(*arguments))

  def eagerly(self, function: Callable, b: int, batch: Any, *arguments: Any, **options: Any) -> Any:
    """Returns the values of another function of a batch, eagerly."""
    with processes.LOCK, self._execution(), _as_traced():
      return function(*self.state(), batch, self._batch_seed(b), *arguments, **options)

  @contextlib.contextmanager
  def _execution(self):
    with (
      keras_internals.graphs_not_run_eagerly(),
      repeatable.repeatable_execution(self._deterministic),
    ):
      yield

  # What an engine asks of its work ------------------------------------------------------------

  def count(self, *arguments: tf.Tensor) -> tf.Tensor | None:
    """Returns the open dimension of the sums for such arguments.

    None if none is open.
    """
    found = zip(self.signature, arguments, strict=True)
    return next((tf.shape(x)[0] for s, x in found if s.shape.rank and s.shape[0] is None), None)

  def state(self) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Returns (parameters, context), as tensors."""
    return (
      [tf.convert_to_tensor(p) for p in self._objective.parameters],
      [tf.convert_to_tensor(copies.first_copy(c)) for c in self._objective.context],
    )

  def values(
    self, signature: int, b: tf.Tensor, batch: Any, state: tuple, prepared: Sequence
  ) -> list[tf.Tensor]:
    """Returns the values that batch number b adds to the sums.

    They are in the graph that is being built.
    """
    concrete, graph_def = self._traced[signature]
    values = [*state, batch, self._batch_seed(b), *prepared]
    return _call(concrete, graph_def, values, self._jit_compile)

  def _batch_seed(self, b):
    base = tf.constant([self._seed & 0x7FFFFFFF, self._seed >> 31 & 0x7FFFFFFF], tf.int32)
    return tf.random.experimental.stateless_fold_in(base, tf.cast(b, tf.int32))

  def _trace(self, signature, argument_specs):
    """Returns (concrete function of a batch, graph with ordered sums)."""
    spec = lambda t: tf.TensorSpec(t.shape, t.dtype)  # noqa: E731
    objective = self._objective
    prepared = tf.function(self.prepare, autograph=False).get_concrete_function(*argument_specs)
    with (
      processes.LOCK,
      keras_internals.graphs_not_run_eagerly(),
      large_logits.for_xla(self._jit_compile),
      _as_traced(),
    ):
      concrete = tf.function(self._function, autograph=False).get_concrete_function(
        [spec(p) for p in objective.parameters],
        [spec(c) for c in objective.context],
        self._batches.signatures[signature],
        tf.TensorSpec((2,), tf.int32),
        *tf.nest.map_structure(spec, prepared.structured_outputs),
      )
    self._refuse_hidden_variables(concrete)
    graph_def = concrete.graph.as_graph_def()
    side_effects.refuse_changes(concrete, graph_def, objective.layers)
    _drop_control_on_placeholders(graph_def)
    if self._jit_compile:
      _refuse_random_numbers(graph_def, concrete.outputs, objective.layers)
    if self._deterministic:
      for problem in repeatable.stateful_random_ops(graph_def, objective.layers):
        raise ValueError(problem)
      repeatable.chain_sums(graph_def)
    return concrete, graph_def

  def _refuse_hidden_variables(self, concrete):
    """Refuses a function that reads an objective's variable by itself.

    The derivative would miss it: the function must read the values that it is given.
    """
    captured = {id(t) for t in concrete.captured_inputs}
    objective = self._objective
    for p in (*objective.parameters, *objective.context):
      if id(_handle(p)) in captured:
        raise ValueError(
          f"variable {p.name!r} is read behind the back of the derivative, by the loss or the "
          "model: as a tf.Variable that is not among the arguments (read the Keras variable, or "
          "the function's `parameters`), in `keras.remat` or `tf.recompute_grad` (leave them out; "
          "recompute_blocks saves memory), or by a graph that was traced before (such as a loaded "
          "SavedModel: use the layers themselves)"
        )


@contextlib.contextmanager
def _as_traced():
  """Runs a user's model inside as operations that can be differentiated twice."""
  with (
    keras_internals.undecorated_functions(),
    keras_internals.marked_custom_gradients(),
    second_order.differentiable_operations(),
    ctc.differentiable_ctc(),
  ):
    yield


def _handle(tensor):
  """Returns the resource of a variable.

  It is None of tensors without one, and of variables that have one on each replica.
  """
  try:
    return getattr(tensor, "handle", None)
  except ValueError:
    return None


def _call(concrete, graph_def, values, jit_compile):
  """Calls a rewritten graph on tensors of the graph being built."""
  inputs = tf.nest.flatten(values) + list(concrete.captured_inputs)
  # A graph can be imported only onto tensors of this graph, not of one around it.
  inputs = list(map(tf.compat.v1.get_default_graph().capture, inputs))

  def imported(*tensors):
    mapped = {t.name: x for t, x in zip(concrete.inputs, tensors, strict=True)}
    return tf.graph_util.import_graph_def(
      graph_def,
      input_map={k: x for k, x in mapped.items() if k.split(":")[0] in named},
      return_elements=[t.name for t in concrete.outputs],
      name="batch",
    )

  named = {n.name for n in graph_def.node}
  if not jit_compile:
    return imported(*inputs)
  # XLA has no placeholders, not even unused ones, which the import leaves behind.
  graph_def = _without_placeholders(graph_def)
  named = {i.lstrip("^").split(":")[0] for n in graph_def.node for i in n.input}
  return tf.function(imported, jit_compile=True, autograph=False)(*inputs)


def _refuse_random_numbers(graph_def, outputs, layers):
  random = _random_nodes(graph_def, outputs)
  places = [second_order.layer_in(node.name, layers) for node in random]
  if places:
    # Those outside of layers make the layers' seeds.
    named = next((f"layer {p!r}" for p in places if p), None)
    raise ValueError(
      f"jit_compile: {named or 'the matrix, the model or its loss'} draws random numbers, and XLA "
      "draws others from the same seed, which would be another matrix: leave jit_compile out"
      f"{', or use training=False' if named else ''}"
    )


def _random_nodes(graph_def, outputs):
  """Returns the nodes that draw random numbers which outputs need."""
  needed = second_order.needed_nodes(graph_def, [y.op.name for y in outputs])
  return [n for n in needed if n.op.startswith("StatelessRandom")]


def _drop_control_on_placeholders(graph_def):
  """Removes, in place, orders to wait for an input.

  The import would leave them on a placeholder. Gradients of tanh, sqrt and others wait for the
  gradient that comes in, which may be v itself.
  """
  waits = {f"^{n.name}" for n in graph_def.node if n.op == "Placeholder"}
  for node in graph_def.node:
    kept = [i for i in node.input if i not in waits]
    if len(kept) < len(node.input):
      node.input[:] = kept


def _without_placeholders(graph_def):
  result = tf.compat.v1.GraphDef()
  result.CopyFrom(graph_def)
  del result.node[:]
  result.node.extend(n for n in graph_def.node if n.op != "Placeholder")
  for node in result.node:
    node.attr.pop("_class", None)  # whose device it shares, which may be a placeholder's
  return result
