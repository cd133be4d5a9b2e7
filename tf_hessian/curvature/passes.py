"""A pass: one function of a batch, summed over a whole data set in float64.

The loop over the batches runs in a graph, traced once for each shape of batch. The sums stay on the
device until the pass is over.
"""

import functools

import tensorflow as tf

from tf_hessian.curvature import repeatable, second_order
from tf_hessian.curvature.accumulators import Accumulators


class DataPass:
  """Sums a function of one batch over `Batches`.

  Args:
    function: (parameters, context, batch, seed, *arguments) -> list of tensors.
    objective: the `Objective` whose parameters and context it is called with.
    batches: the `Batches`.
    seed: seed of the run; batch b is given a seed made from it and b.
    prepare: (*pass arguments) -> list of the function's arguments: work that is done once a pass.
    signature: `tf.TensorSpec`s of the pass arguments.
    deterministic: passes are bitwise repeatable.

  Raises:
    LookupError: if TensorFlow has no gradient for an operation of the function.
    ValueError: if `deterministic` and an operation draws random numbers from a state of its own.
  """

  def __init__(self, function, objective, batches, *, seed, prepare, signature, deterministic):
    self._function = function
    self._objective = objective
    self._batches = batches
    self._seed = seed
    self._prepare = prepare
    self._deterministic = deterministic
    # Traced here, so that what can't be differentiated is found before the first pass.
    self._traced = [self._trace(s, signature) for s in range(len(batches.signatures))]
    shapes = [t.shape for t in self._traced[0][0].outputs]
    self._sums = Accumulators(shapes)
    # partial() gives each its own identity; else TensorFlow counts the traces of all passes
    # together and warns of retracing.
    self.segment_function = tf.function(functools.partial(self._segment), autograph=False)
    self._reset = tf.function(functools.partial(self._sums.reset), autograph=False)
    self._read = tf.function(functools.partial(self._sums.read), autograph=False)

  @property
  def graphs(self):
    """List of `GraphDef`s of the function, one for each shape of batch."""
    return [graph_def for _, graph_def in self._traced]

  @property
  def bytes(self):
    """List of the bytes of all tensors of the function, one number for each shape of batch."""
    return [
      sum(
        t.dtype.size * (t.shape.num_elements() or 0)
        for op in concrete.graph.get_operations()
        for t in op.outputs
      )
      for concrete, _ in self._traced
    ]

  def __call__(self, *arguments):
    """Runs the pass; returns the sums, flattened one after the other: a float64 tensor."""
    # Not inside: there, a data set that draws random numbers would only say that it may not.
    segments = self._batches.segments()
    with repeatable.repeatable_execution(self._deterministic):
      self._reset()
      for segment in segments:
        self.segment_function(segment.signature, segment.feed, *arguments)
      return self._read()

  def single(self, b, batch, *arguments):
    """Returns the function's values for one batch, eagerly; for looking for the one at fault."""
    with repeatable.repeatable_execution(self._deterministic):
      return self._function(*self._state(), batch, self._batch_seed(b), *self._prepare(*arguments))

  def _state(self):
    return (
      [tf.convert_to_tensor(p) for p in self._objective.parameters],
      [tf.convert_to_tensor(c) for c in self._objective.context],
    )

  def _batch_seed(self, b):
    base = tf.constant([self._seed & 0x7FFFFFFF, self._seed >> 31 & 0x7FFFFFFF], tf.int32)
    return tf.random.experimental.stateless_fold_in(base, tf.cast(b, tf.int32))

  def _trace(self, signature, argument_specs):
    """Returns (concrete function of a batch, its graph with sums in fixed order)."""
    spec = lambda t: tf.TensorSpec(t.shape, t.dtype)  # noqa: E731
    objective = self._objective
    prepared = tf.function(self._prepare, autograph=False).get_concrete_function(*argument_specs)
    with second_order.differentiable_moments():
      concrete = tf.function(self._function, autograph=False).get_concrete_function(
        [spec(p) for p in objective.parameters],
        [spec(c) for c in objective.context],
        self._batches.signatures[signature],
        tf.TensorSpec((2,), tf.int32),
        *tf.nest.map_structure(spec, prepared.structured_outputs),
      )
    self._refuse_hidden_variables(concrete)
    graph_def = concrete.graph.as_graph_def()
    if self._deterministic:
      for problem in repeatable.stateful_random_ops(graph_def, objective.layers):
        raise ValueError(problem)
      repeatable.chain_sums(graph_def)
    return concrete, graph_def

  def _refuse_hidden_variables(self, concrete):
    """Refuses a function that reads a variable behind the back of the objective's parameters."""
    captured = {id(t) for t in concrete.captured_inputs}
    objective = self._objective
    for p in (*objective.parameters, *objective.context):
      if id(getattr(p, "handle", None)) in captured:
        raise ValueError(
          f"variable {p.name!r} is read by a tf.function of the model or its loss that was traced "
          "before, which hides it from the derivative: remove that decorator"
        )

  def _segment(self, signature, feed, *arguments):
    concrete, graph_def = self._traced[signature]
    params, context = self._state()
    prepared = self._prepare(*arguments)

    def body(i):
      b, batch = self._batches.read(feed, signature, i)
      values = [params, context, batch, self._batch_seed(b), *prepared]
      self._sums.add(_call(concrete, graph_def, values))
      return i + 1

    # One batch at a time: overlapping ones would need more memory and add up in varying order.
    count = feed[2]
    tf.while_loop(lambda i: i < count, body, [tf.zeros((), tf.int64)], parallel_iterations=1)


def _capture(resource):
  """Returns a resource that stands outside, such as a lookup table, as a tensor of this graph."""
  return tf.compat.v1.get_default_graph().capture(resource)


def _call(concrete, graph_def, values):
  """Calls a rewritten graph on tensors of the graph that is being built."""
  inputs = tf.nest.flatten(values) + list(concrete.captured_inputs)
  # A graph can be imported only onto tensors of this graph, not of one around it.
  inputs = [_capture(t) if t.dtype == tf.resource else tf.identity(t) for t in inputs]
  return tf.graph_util.import_graph_def(
    graph_def,
    input_map={t.name: x for t, x in zip(concrete.inputs, inputs, strict=True)},
    return_elements=[t.name for t in concrete.outputs],
    name="batch",
  )
