"""Private names of Keras and TensorFlow.

They were seen in Keras 3.15 and TensorFlow 2.21, and may be others in another version. Everything
here restores what it has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import inspect
import threading
import types
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.autograph.core import ag_ctx
from tensorflow.python.eager import context
from tensorflow.python.eager.polymorphic_function import autograph_util
from tensorflow.python.framework import func_graph, function_def_to_graph, ops
from tensorflow.python.ops import custom_gradient

from tf_hessian.curvature import scopes

try:
  # There is no public name for what keras.ops calls.
  from keras.src.backend import nn as _keras_nn
except ImportError:  # pragma: no cover
  _keras_nn = None
try:
  # There is no public way to read or undo enable_op_determinism().
  from tensorflow.python.framework import config as _config

  _config.is_op_determinism_enabled, _config.disable_op_determinism  # noqa: B018
except (ImportError, AttributeError):  # pragma: no cover
  _config = None

_lock = threading.RLock()
_LIBRARIES = ("tensorflow.", "keras.", "tf_hessian.")
_Function = type(tf.function(lambda: None))


@contextlib.contextmanager
def undecorated_functions() -> Iterator[None]:
  """Runs the Python code of users' `tf.function`s inside, in this thread.

  A `tf.function` keeps the graph of its first trace. One that was traced by us would hold tensors
  of our graph, and the user's own call would fail afterwards; one that the user has traced would
  read the variables instead of the values that it is to be differentiated in.
  """
  thread = threading.get_ident()

  def call(function, *args, **kwargs):
    python_function = function.python_function
    if threading.get_ident() != thread or _is_of_a_library(python_function):
      return traced_call(function, *args, **kwargs)
    args, kwargs = _by_signature(function, args, kwargs)
    if not function._autograph:
      return python_function(*args, **kwargs)
    with ag_ctx.ControlStatusCtx(status=ag_ctx.Status.ENABLED):
      return autograph_util.py_func_from_autograph(python_function)(*args, **kwargs)

  with _lock:
    traced_call = _Function.__call__
    with replaced((_Function, "__call__", call)):
      yield


def _is_of_a_library(python_function):
  return str(getattr(inspect.unwrap(python_function), "__module__", "")).startswith(_LIBRARIES)


def _by_signature(function, args, kwargs):
  """Makes tensors of arguments that the function's `input_signature` says are tensors."""
  if function.input_signature is None:
    return args, kwargs
  bound = function.function_spec.function_type.bind(*args, **kwargs)
  specs = dict(zip(function.function_spec.arg_names, function.input_signature, strict=False))
  for name, spec in specs.items():
    if name in bound.arguments:
      bound.arguments[name] = tf.nest.map_structure(
        lambda s, x: tf.convert_to_tensor(x, getattr(s, "dtype", None)), spec, bound.arguments[name]
      )
  return bound.args, bound.kwargs


@contextlib.contextmanager
def graphs_not_run_eagerly() -> Iterator[None]:
  """Runs `tf.function`s inside as graphs, whatever `tf.config.run_functions_eagerly` says."""
  before = tf.config.functions_run_eagerly()
  tf.config.run_functions_eagerly(False)
  try:
    yield
  finally:
    tf.config.run_functions_eagerly(before)


@contextlib.contextmanager
def marked_custom_gradients() -> Iterator[None]:
  """Marks functions with gradients of their own while graphs are built."""

  def decorator(function, args, kwargs):
    def marked(*inner):
      with scopes.in_custom_gradient():
        return function(*inner)

    return plain(marked, args, kwargs)

  plain = custom_gradient._graph_mode_decorator
  with replaced((custom_gradient, "_graph_mode_decorator", decorator)):
    yield


@contextlib.contextmanager
def stateless(
  model: keras.Model,
  mapping: Iterable[tuple[keras.Variable, Any]],
  /,
  seed: tf.Tensor | None = None,
) -> Iterator[keras.StatelessScope]:
  """Runs code inside with other values of a model's variables.

  No variable is changed.

  Args:
    model: the `keras.Model`.
    mapping: list of (Keras variable, value).
    seed: of random generators that the model does not hold, as in `scopes.with_values`.

  Yields:
    The `keras.StatelessScope`; `model.losses` are those of the calls inside.
  """
  layers = layers_of(model)
  # A layer knows its losses by the ids of tensors, which may be those of tensors that are gone.
  ids = [set(layer._loss_ids) for layer in layers]
  constants = [(x, x.mean, x.variance) for x in normalizations(layers)]
  for layer in layers:
    layer._loss_ids.clear()
  try:
    with scopes.with_values(mapping, seed) as scope:
      for layer, *_ in constants:
        layer.finalize_state()
      yield scope
  finally:
    for layer, before in zip(layers, ids, strict=True):
      layer._loss_ids.clear()
      layer._loss_ids.update(before)
    for layer, mean, variance in constants:
      layer.mean, layer.variance = mean, variance


def compiled_loss(model: keras.Model, /) -> tuple[Any, Any]:
  """Returns (loss, loss weights) that a model was compiled with.

  Each is None if the model has none.
  """
  compiled = getattr(model, "_compile_loss", None)
  if compiled is None:
    return None, None
  return compiled._user_loss, compiled._user_loss_weights


@contextlib.contextmanager
def recorded_gradients(model: keras.Model, /) -> Iterator[list]:
  """Runs code such as a `train_step` inside, without changing the model.

  Gradients in the model's variables are zeros, and optimizers do nothing.

  Yields:
    A list, filled with the losses that gradients in the model's variables are taken of.
  """
  thread = threading.get_ident()
  own = {id(v) for v in model.trainable_variables}
  losses = []

  def gradient(tape, target, sources, output_gradients=None, *args, **kwargs):
    flat = tf.nest.flatten(sources)
    if threading.get_ident() != thread or not own.intersection(map(id, flat)):
      return taken(tape, target, sources, output_gradients, *args, **kwargs)
    losses.append(_weighted(target, output_gradients))
    return tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), sources)

  def unchanged(_, value, *unused, **unused_too):  # noqa: ARG001
    return value

  nothing: Callable[..., dict] = lambda *unused, **unused_too: {}  # noqa: ARG005, E731
  taken = tf.GradientTape.gradient
  with replaced(
    (tf.GradientTape, "gradient", gradient),
    *_everywhere(keras.optimizers.Optimizer, "apply", nothing),
    *_everywhere(keras.optimizers.Optimizer, "apply_gradients", nothing),
    *_everywhere(keras.optimizers.Optimizer, "scale_loss", unchanged),
    (keras.Model, "compute_metrics", nothing),
  ):
    yield losses


def _everywhere(base, name, value):
  """Returns changes of a method in a class and its overrides."""
  kinds, found = [base], []
  for kind in kinds:  # which grows
    if kind is base or name in vars(kind):
      found.append((kind, name, value))
    kinds.extend(kind.__subclasses__())
  return found


def _weighted(target, factors):
  """Returns what has the gradient of a target with `output_gradients`."""
  if factors is None:
    return target
  return tf.nest.map_structure(
    lambda t, f: t if f is None else t * tf.cast(tf.stop_gradient(f), t.dtype), target, factors
  )


@contextlib.contextmanager
def replaced(*changes: tuple[Any, str, Any]) -> Iterator[None]:
  """Replaces attributes of modules and classes, for one thread at a time.

  Args:
    *changes: (owner, name, value) of each; a class may have inherited the attribute.
  """
  with _lock:
    before = [(owner, name, vars(owner).get(name)) for owner, name, _ in changes]
    for change in changes:
      setattr(*change)
    try:
      yield
    finally:
      for owner, name, value in before:
        if value is None:
          delattr(owner, name)
        else:
          setattr(owner, name, value)


@contextlib.contextmanager
def float64_arithmetic(model: keras.Model, /) -> Iterator[None]:
  """Lets a model's own layers compute in float64 inside.

  It does so whatever types they were made with. Types of integers and strings stay. Layers that
  name a type in their code keep that one.

  Args:
    model: a `keras.Model`.
  """
  layers = layers_of(model)
  graphs = [*layers, *(m._functional for m in layers if isinstance(m, keras.Sequential))]
  inputs = [t for m in graphs for t in getattr(m, "_inputs", None) or ()]
  inputs += [x for x in layers if isinstance(x, keras.layers.InputLayer)]
  computing = [x for x in layers if _is_float(x.compute_dtype)]
  variables = [v for v in model.variables if _is_float(v._dtype)]
  policy, default, floatx = (
    keras.DTypePolicy("float64"),
    keras.config.dtype_policy(),
    keras.config.floatx(),
  )
  changes = [
    *((x, "_dtype_policy", policy) for x in computing),
    *((t, "_dtype", "float64") for t in inputs if _is_float(t._dtype)),
    *((v, "_dtype", "float64") for v in variables),
  ]
  before = [(owner, name, vars(owner)[name]) for owner, name, _ in changes]
  try:
    for owner, name, value in changes:
      object.__setattr__(owner, name, value)
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy(policy)
    yield
  finally:
    for owner, name, value in before:
      object.__setattr__(owner, name, value)
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(default)


def _is_float(dtype):
  return "float" in str(dtype)


# Models -----------------------------------------------------------------------------------------


def layers_of(model: keras.Model, /, *, include_self: bool = True) -> list[keras.layers.Layer]:
  """Returns a model's layers, and those inside of them, however deep."""
  return list(model._flatten_layers(include_self=include_self))


def normalizations(layers: Iterable[keras.layers.Layer], /) -> list[keras.layers.Normalization]:
  """Returns the layers that were adapted to the statistics of data.

  They read constants, which `finalize_state` makes of their variables.
  """
  return [x for x in layers if isinstance(x, keras.layers.Normalization) and x.input_mean is None]


def graph_of(model: keras.Model, /) -> keras.Model:
  """Returns the functional model that a sequential one consists of.

  Another model is returned as it is.
  """
  return model._functional if isinstance(model, keras.Sequential) else model


def calls_of(model: keras.Model, /) -> list:
  """Returns the calls that make up a functional model.

  They are in the order in which they are run.
  """
  by_depth = keras.Function(model.inputs, model.outputs)._nodes_by_depth
  return [n for depth in sorted(by_depth, reverse=True) for n in by_depth[depth] if not n.is_input]


def standardized_inputs(graph: keras.Model, inputs: Any, /) -> list:
  """Returns inputs of any form as a functional model's tensors."""
  return list(graph._standardize_inputs(inputs))


def packed_outputs(graph: keras.Model, outputs: Sequence, /) -> Any:
  """Returns a functional model's output tensors as the model returns them."""
  return keras.tree.pack_sequence_as(graph._outputs_struct, outputs)


def run_calls(calls: Sequence, values: dict[int, Any], operation: Callable, /) -> None:
  """Runs calls of a functional model, some of `calls_of` in their order.

  Args:
    calls: the calls.
    values: id of symbolic tensor -> its value, of what they need; what they make is added.
    operation: makes of each operation what is called in its place.
  """
  for node in calls:
    args, kwargs = node.arguments.fill_in(values)
    made = keras.tree.flatten(operation(node.operation)(*args, **kwargs))
    values |= {id(x): value for x, value in zip(node.outputs, made, strict=True)}


def has_mask(tensor: keras.KerasTensor, /) -> bool:
  """Returns whether a symbolic tensor carries a mask."""
  return getattr(tensor, "_keras_mask", None) is not None


def ctc_module() -> types.ModuleType | None:
  """Returns the module whose `ctc_loss` Keras's losses call.

  None if it isn't there.
  """
  return _keras_nn if hasattr(_keras_nn, "ctc_loss") else None


# TensorFlow -------------------------------------------------------------------------------------


def is_at_work() -> bool:
  """Returns whether TensorFlow has started its threads in this process."""
  current = context.context_safe()
  return current is not None and current._context_handle is not None


def op_determinism() -> bool | None:
  """Returns whether operations run deterministically, or None if that can't be read."""
  return None if _config is None else _config.is_op_determinism_enabled()


@contextlib.contextmanager
def fewer_graph_optimizers() -> Iterator[None]:
  """Leaves out two optimizers of graphs that TensorFlow has no option for.

  They are the one that swaps tensors to another device and the one that MLIR makes. Functions see
  it after `tf.config.optimizer.set_experimental_options` was called, inside and afterwards.
  """
  current = context.context()
  before = getattr(current, "_config", None)
  config = tf.compat.v1.ConfigProto()
  if before is not None:
    config.CopyFrom(before)
  options = config.graph_options.rewrite_options
  options.memory_optimization = options.NO_MEM_OPT
  options.disable_tfg_optimizer = True
  current._config = config
  try:
    yield
  finally:
    current._config = before


def disable_op_determinism() -> None:
  """Takes `tf.config.experimental.enable_op_determinism` back, if that can be done."""
  if _config is not None:
    _config.disable_op_determinism()


def gradient_registry() -> dict:
  """Returns TensorFlow's own table of gradients.

  It is a dict: type of operation -> {"type": function, ...}.
  """
  return ops.gradient_registry._registry


def gradient_function(op: tf.Operation, /) -> Callable | None:
  """Returns the registered gradient of an operation.

  None if it is registered as none.

  Raises:
    LookupError: if there is none.
  """
  return ops.get_gradient_function(op)


def is_function(op: tf.Operation, /) -> bool:
  """Returns whether an operation calls a function of TensorFlow 1."""
  return op.graph._get_function(op.type) is not None


def scratch_graph(graph: tf.Graph, /) -> tf.Graph:
  """Returns a graph that captures tensors of another one.

  It leaves the other as it is.
  """
  with graph.as_default():
    return func_graph.FuncGraph("derivative")


def function_graph(graph: tf.Graph, name: str, /) -> tf.Graph:
  """Returns the graph of a function by its name.

  The given graph, or one around it, must know the name.

  Raises:
    LookupError: if there is none.
  """
  while graph is not None:
    function = graph._get_function(name)
    if function is not None:
      if hasattr(function, "graph"):
        return function.graph
      with graph.as_default():  # one of TensorFlow 1
        return function_def_to_graph.function_def_to_graph(function.definition)
    graph = getattr(graph, "outer_graph", None)
  raise LookupError(f"function {name} is in no graph")
