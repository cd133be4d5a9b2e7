"""Reasons why a tf.data pipeline gives other batches in each pass.

They are found from its steps. The steps are read from the graph that TensorFlow makes of a data
set. It has the data in memory in it too; for large ones the Python objects are asked instead, which
know less.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import dataclasses
import math
import re

import tensorflow as tf

from tf_hessian.curvature import repeatable, second_order

_MAX_BYTES = 2**28  # of data in a graph, of which TensorFlow makes several copies
_IGNORE_STATE = 1  # of DatasetToGraphV2

_SHUFFLES = frozenset({"Shuffle", "ShuffleAndRepeat", "GlobalShuffle"})
_CACHES = frozenset({"Cache", "Snapshot"})
# After another order, these give other examples.
_CUTS = {
  "Take": "take()",
  "Skip": "skip()",
  "Shard": "shard()",
  "TakeWhile": "take_while()",
  "Zip": "zip()",
}
_PYTHON_OPS = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})
# Of tf.random.Generator: each call moves its state on.
_GENERATOR_OPS = frozenset({"RngReadAndSkip", "RngSkip"})
_ASSIGNMENTS = frozenset({"AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"})


@dataclasses.dataclass(frozen=True, eq=False)
class _Step:
  """One data set of a pipeline."""

  kind: str  # such as "Map", for Dataset.map()
  parallel: bool
  flags: dict  # of its options, those that are known
  inputs: list  # the steps that it reads
  nodes: list  # `NodeDef`s of the functions that it runs
  texts: bool = False  # whether it yields single strings, as list_files() does

  @property
  def name(self):
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.kind).lower() + "()"


@dataclasses.dataclass(frozen=True)
class _Cause:
  """A reason why a pass may read other examples than before."""

  step: str  # its name
  does: str
  remedy: str
  certain: bool = True  # it makes a difference; else it may
  order_only: bool = False
  cut: str = ""  # what makes other examples of another order
  cached: bool = False  # a cache comes after it

  @property
  def sentence(self):
    return f"{self.step} {self.does}: {self.remedy}"


_FIX_NUMBERS = (
  "leave the augmentation out, give its random numbers a fixed seed made from the example "
  "(tf.random.stateless_*), or cache() what it makes"
)
_HOLDS_NOTHING = (
  "cache() after it holds nothing, since no pass reads it to the end: take() the part before it"
)
_FIX_ORDER = "give it reshuffle_each_iteration=False and a seed, or leave it out"


# How passes differ: what is said, and what if no cause is found.
_DIFFERENCES = {
  "order": (
    "the order of the examples changes between passes over the data set",
    f"if it has a shuffle(), {_FIX_ORDER}",
  ),
  "examples": (
    "the examples themselves change between passes over the data set",
    f"as a random map() or a part of shuffled data does: {_FIX_NUMBERS}",
  ),
  "once": (
    "the data set is not what it was when it was read first",
    "leave the files, variables or arrays that it reads as they are",
  ),
}


def explain_changes(
  dataset: tf.data.Dataset | list, find_difference: Callable[[], str], /, *, cut: bool = False
) -> str:
  """Returns a sentence on why passes over a data set differ.

  It says the remedy too.

  Args:
    dataset: a `tf.data.Dataset` whose passes differ.
    find_difference: function that says how they differ, called where the steps don't tell: "order"
      (the same examples), "examples", or "once" (not any more).
    cut: whether the last take() is that of num_batches; False by default, for none.
  """
  causes = list(dict.fromkeys(_causes(dataset, cut)))
  # A cache that is read to its end holds what comes before.
  causes = [c for c in causes if not c.cached] or causes
  causes = [c for c in causes if c.certain] or causes
  because = "; ".join(c.sentence for c in causes)
  if causes and all(c.cached for c in causes):
    because += f"; {_HOLDS_NOTHING}"
  cutting = next((c for c in causes if c.cut), None)
  if cutting and all(c.order_only for c in causes):
    what = "each pass over the data set has other examples"
    return f"{what}, since {cutting.cut} comes after {cutting.step}: {because}"
  if causes and causes[0].certain:
    difference = "order" if all(c.order_only for c in causes) else "examples"
  else:
    difference = find_difference()
  what, otherwise = _DIFFERENCES[difference]
  return f"{what}: {because or otherwise}"


def _causes(dataset, cut):
  """Yields the `_Cause`s that make passes differ.

  They come from the end of a pipeline to its beginnings.
  """
  sink = _read(dataset)
  if sink is None:
    return
  last = next((s for s in _chain(sink) if s.kind == "Take"), None) if cut else None
  stack, seen = [(sink, ())], set()
  while stack:
    step, after = stack.pop()
    cached = any(s.kind in _CACHES for s in after)
    if (id(step), cached) in seen:
      continue
    seen.add((id(step), cached))
    cuts = ["num_batches" if s is last else _CUTS[s.kind] for s in after if s.kind in _CUTS]
    for cause in _causes_of(step):
      by = cuts[0] if cuts and cause.order_only else ""
      yield dataclasses.replace(cause, cut=by, cached=cached)
    stack.extend((i, (*after, step)) for i in reversed(step.inputs))


def _chain(step):
  """Yields a step and those before it, up to a branch."""
  yield step
  while len(step.inputs) == 1:
    (step,) = step.inputs
    yield step


def _causes_of(step):
  """Yields what a step does to make passes differ."""
  if step.kind in _SHUFFLES and step.flags["reshuffle_each_iteration"]:
    remedy = _FIX_ORDER
    if any(s.kind == "TensorSlice" and s.texts for s in step.inputs):
      remedy += "; list_files() has one, unless it gets shuffle=False"
    yield _Cause("shuffle()", "gives another order each time", remedy, order_only=True)
  if step.flags["rerandomize_each_iteration"]:
    yield _Cause(
      "Dataset.random() or sample_from_datasets()",
      "draws other random numbers each time",
      "leave rerandomize_each_iteration out",
    )
  if step.flags["deterministic"] == "false":
    does, remedy = "with deterministic=False gives its elements as they come", "leave that out"
    yield _Cause(step.name, does, remedy, order_only=True)
  if step.kind.startswith("DataService"):
    yield _Cause("a tf.data service", "hands elements out as they come", "read without it")
  yield from _random_causes(step)
  yield from _python_causes(step)


def _random_causes(step):
  """Yields what the functions that a step runs draw anew each time."""
  ops = {n.op for n in step.nodes}
  for op in sorted(ops & (repeatable.STATEFUL_RANDOM_OPS | _GENERATOR_OPS)):
    nodes = [n for n in step.nodes if n.op == op]
    seeded = all(n.attr["seed"].i or n.attr["seed2"].i for n in nodes) and op not in _GENERATOR_OPS
    # Seeded ones begin anew in each pass, but threads take them as they come.
    if not seeded or step.parallel:
      yield _Cause(step.name, f"draws random numbers ({op})", _FIX_NUMBERS)
  if ops & _ASSIGNMENTS:
    does = "changes a variable, as Keras's random layers and seed generators do"
    yield _Cause(step.name, does, _FIX_NUMBERS)
  for node in step.nodes:
    if _kind(node.op) in _SHUFFLES and not _shuffles_by_seed(node, step.nodes):
      yield _Cause(f"shuffle() inside {step.name}", "has no seed", "give it one", order_only=True)


def _python_causes(step):
  """Yields the Python code that a step runs, which may do anything."""
  ops = {n.op for n in step.nodes}
  if "GeneratorDataset" in ops:
    yield _Cause(
      "from_generator()",
      "runs Python code, which doesn't yield the same each time",
      "make what is random in it anew from a seed at each call",
      certain=False,
    )
  elif ops & _PYTHON_OPS:
    yield _Cause(
      step.name,
      "runs Python code (py_function, numpy_function), which may return something else each time",
      "make what is random in it from the example alone, or cache() what it makes",
      certain=False,
    )


def _shuffles_by_seed(node, nodes):
  """Returns whether a shuffle inside a function has a seed.

  Two constants 0 mean none.
  """
  constants = {n.name: n.attr["value"].tensor for n in nodes if n.op == "Const"}
  seeds = [constants.get(i.split(":")[0]) for i in node.input[2:4]]
  return not all(s is not None and not tf.make_ndarray(s).any() for s in seeds)


# Reading ----------------------------------------------------------------------------------------


def _read(dataset):
  """Returns the last step of a data set.

  It is None if the steps can't be known.
  """
  large = False
  try:
    large = _size(dataset) > _MAX_BYTES
    if large:
      return _step_of_object(dataset, {})
  except (AttributeError, NotImplementedError, TypeError):  # pragma: no cover
    if large:  # these are private parts of TensorFlow, and may be others some day
      return None
  return _step_of_variant(tf.data.experimental.to_variant(dataset))


def _kind(name):
  return re.sub(r"^_?(Legacy)?(Parallel)?|(V\d)?(Dataset)?(V\d)?$", "", name)


def _step_of_variant(variant):
  """Returns the step that a tensor stands for.

  It is None if the tensor is no data set.
  """
  graph = tf.compat.v1.GraphDef()
  with contextlib.suppress(tf.errors.OpError):
    graph.ParseFromString(
      tf.raw_ops.DatasetToGraphV2(
        input_dataset=variant, external_state_policy=_IGNORE_STATE, strip_device_assignment=True
      ).numpy()
    )
  library = {f.signature.name: f for f in graph.library.function}
  steps = {}
  # Inputs come before the nodes that use them.
  for node in graph.node:
    inputs = [steps[i] for i in (i.split(":")[0] for i in node.input) if i in steps]
    if node.op == "_Retval":
      return inputs[0] if inputs else None
    if "Dataset" in node.op:
      flags = {
        "reshuffle_each_iteration": node.attr["reshuffle_each_iteration"].b,
        "rerandomize_each_iteration": node.attr["rerandomize_each_iteration"].b,
        "deterministic": node.attr["deterministic"].s.decode(),
      }
      steps[node.name] = _Step(
        _kind(node.op),
        "Parallel" in node.op,
        flags,
        inputs,
        list(_function_nodes(node, library, set())),
        list(node.attr["Toutput_types"].list.type) == [tf.string.as_datatype_enum],
      )
  return None


def _function_nodes(node, library, seen):
  """Yields the nodes of all functions that a node calls.

  Those that these call are included.
  """
  for value in node.attr.values():
    for name in (value.func.name, *(f.name for f in value.list.func)):
      if name in library and name not in seen:
        seen.add(name)
        for inner in library[name].node_def:
          yield inner
          yield from _function_nodes(inner, library, seen)


def _size(dataset):
  """Returns the bytes of in-memory tensors that a data set reads."""
  tensors = getattr(dataset, "_tensors", ())
  own = sum(t.dtype.size * math.prod(t.shape) for t in tensors if isinstance(t, tf.Tensor))
  return own + sum(map(_size, dataset._inputs()))


def _step_of_object(dataset, made):
  dataset = getattr(dataset, "_dataset", dataset)  # an adapter of the first version
  name = type(dataset).__name__
  if name == "_VariantDataset":
    return _step_of_variant(tf.data.experimental.to_variant(dataset))
  if id(dataset) not in made:
    inputs = [_step_of_object(i, made) for i in dataset._inputs()]
    functions = [f.function for f in dataset._functions()]
    captured = [t for f in functions for t in f.captured_inputs if t.dtype == tf.variant]
    made[id(dataset)] = _Step(
      _kind(name),
      "Parallel" in name,
      {
        "reshuffle_each_iteration": getattr(dataset, "_reshuffle_each_iteration", True),
        "rerandomize_each_iteration": getattr(dataset, "_rerandomize", False),
        "deterministic": getattr(dataset, "_deterministic", ""),
      },
      [s for s in inputs + [_step_of_variant(t) for t in captured] if s is not None],
      [n for f in functions for n in second_order.graph_nodes(f.graph.as_graph_def())],
      dataset.element_spec == tf.TensorSpec((), tf.string),
    )
  return made[id(dataset)]
