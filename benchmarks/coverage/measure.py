"""Outcomes of problems: right products, refusals, and what must not be."""

import contextlib
import dataclasses
import os
import re
import traceback
import warnings

import keras
import numpy as np
import tensorflow as tf

from benchmarks.coverage import problems
import tf_hessian
from tf_hessian.curvature import second_order

RIGHT, OTHER_MODE, REFUSED = "right", "right by the other mode", "refused"
NO_WAY, ABSENT, NOT_KERAS = "no float way", "needs another package", "fails in Keras"
WRONG, ERROR, NO_EXAMPLE = "WRONG", "ERROR", "no example"
OUTCOMES = (RIGHT, OTHER_MODE, REFUSED, NO_WAY, ABSENT, NOT_KERAS, WRONG, ERROR, NO_EXAMPLE)
BAD = (WRONG, ERROR, NO_EXAMPLE)

# Central differences with step h have an error of h^2 times third derivatives and of eps / h times
# the gradient: at the best of these steps, 1e-10 in float64 and 1e-4 in float32, times what the
# derivatives are larger than the product. Seen are up to 1e-8 and 2e-3.
_STEPS = {"float64": (3e-4, 1e-4, 3e-5, 1e-5, 3e-6), "float32": (1e-1, 3e-2, 1e-2, 3e-3)}
_TOLERANCE = {"float64": 1e-7, "float32": 1e-2}
# Of a loss computed in two ways: Keras computes some of float64 in float32, such as CTC.
_SAME = {"float64": 1e-6, "float32": 1e-4}
_DRAWS = 3  # of random layers, of which single ones may have no derivative, or another
_ZERO = 1e-6  # products this much smaller than the gradient count as zero
_LOW = {tf.float32.as_datatype_enum, tf.complex64.as_datatype_enum, tf.float16.as_datatype_enum}
_PACKAGE = os.path.dirname(tf_hessian.__file__)
_NO_KERNEL = re.compile(r"Could not find device|No registered|no kernel|not in the list of allowed")


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The outcome of one problem."""

  name: str
  outcome: str  # of OUTCOMES
  reason: str = ""


def measure(problem: problems.Problem, /) -> Outcome:
  """Measures a problem in float64, or in float32 without a kernel."""
  result, note = None, ""
  for floatx in ("float64", "float32"):
    with _clean(floatx):
      try:
        result = _measured(problem, floatx)
      except _NoKernelError as e:
        if floatx == "float64":
          note = "in float32, as it fails in float64"
          continue
        outcome = NOT_KERAS if isinstance(e, _KerasError) else NO_EXAMPLE
        result = Outcome(problem.name, outcome, brief(str(e)))
    break
  if note and result.outcome in (RIGHT, OTHER_MODE):
    result = dataclasses.replace(result, reason=note)
  return result


def callable_at_all(problem: problems.Problem, /) -> str:
  """Returns why Keras itself can't run a problem, or ""."""
  why = ""
  for floatx in ("float64", "float32"):
    with _clean(floatx):
      try:
        _probe(problem)
        return ""
      except _NoKernelError as e:
        why = str(e)
  return why


class _NoKernelError(Exception):
  """Keras itself can't run the problem in this precision."""


class _KerasError(_NoKernelError):
  """Keras itself can't run the problem on TensorFlow, in a graph, as `fit` does."""


@contextlib.contextmanager
def _clean(floatx):
  """Sets Keras's precision, and leaves nothing behind."""
  before, policy = keras.config.floatx(), keras.config.dtype_policy()
  keras.config.set_floatx(floatx)
  keras.config.set_dtype_policy(floatx)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      yield
  finally:
    keras.config.set_floatx(before)
    keras.config.set_dtype_policy(policy)
    keras.backend.clear_session(free_memory=False)


def _probe(problem):
  """Returns (what was built, "" or why no derivative goes through the measured).

  Raises:
    _NoKernelError: if Keras can't build or run it.
    ImportError: if it needs a package that isn't there.
  """
  failure = None
  for domain in problem.domains:
    try:
      built = problem.build(domain)
      way = _float_way(built, problem.training)
      for _ in range(_DRAWS if way and problem.training else 0):  # by chance there may be none
        way = way and _float_way(built, problem.training)
    except ImportError:
      raise
    except Exception as e:  # of whatever type Keras, TensorFlow or Python have
      failure = failure or e
      continue
    if way is not None:
      return built, way
  if problem.takes_integers and problem.takes_integers():
    return None, "takes integers only"
  if failure is None:
    failure = ValueError("NaN or infinity for all inputs that were tried")
  if "TensorFlow backend" in str(failure):
    raise _KerasError(str(failure)) from failure
  raise _NoKernelError(f"{type(failure).__name__}: {failure}") from failure


def _float_way(built, training):
  """Returns "" if values depend on floats, else why not; None if they aren't finite."""
  watched = [*built.feeds, *(v.value for v in built.variables)]
  with tf.GradientTape() as tape:
    tape.watch(watched)
    outputs = problems.floats(built.outputs(built.feeds))
    total = tf.add_n([problems.projection(y) for y in outputs]) if outputs else None
  if not outputs:
    return "no floating-point output"
  if not watched:
    return "no floating-point input or variable"
  if not np.isfinite(total.numpy()):
    return None
  try:
    gradients = [tf.convert_to_tensor(g) for g in tape.gradient(total, watched) if g is not None]
  except LookupError:  # TensorFlow can't, so the operator has to say so
    return ""
  if not all(np.isfinite(g.numpy()).all() for g in gradients):
    return None
  if any(np.any(g.numpy()) for g in gradients):
    return ""
  if not training and not _changes(built):
    return "constant almost everywhere"
  return "TensorFlow's gradient is zero" if gradients else "TensorFlow has no gradient"


def _changes(built):
  """Tells if outputs change with the inputs although the gradient is zero."""
  rng = np.random.default_rng(2)
  moves = [1e-5 * rng.standard_normal(x.shape) for x in built.feeds]
  moved = [x + tf.cast(by, x.dtype) for x, by in zip(built.feeds, moves, strict=True)]
  before, after = (problems.floats(built.outputs(given)) for given in (built.feeds, moved))
  return any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def _measured(problem, floatx):
  try:
    built, why = _probe(problem)
  except ImportError as e:
    return Outcome(problem.name, ABSENT, brief(str(e)))
  if why:
    return Outcome(problem.name, NO_WAY, why)
  try:
    expected = _keras_loss(built, problem.training)
  except Exception as e:  # of whatever type Keras and TensorFlow have
    raise _KerasError(f"{type(e).__name__}: {e}") from e
  random = problem.training and any("seed_generator" in v.path for v in built.model.variables)
  try:
    # The operator has seeds of its own, so its loss is not Keras's.
    found = _compared(_operator(built, problem.training), None if random else expected, floatx)
    if random and found.outcome in (RIGHT, OTHER_MODE):
      found = _made_again(built, found)
  except Exception as e:  # which kind it is, is what is asked
    if floatx == "float64" and _NO_KERNEL.search(str(e)):
      raise _NoKernelError(str(e)) from e
    return _of_exception(problem.name, e, built.names)
  return dataclasses.replace(found, name=problem.name)


def _operator(built, training, draw=0):
  keras.utils.set_random_seed(draw)  # of what draws in Python, when it is traced
  return tf_hessian.HessianOperator(built.model, built.loss, [built.batch], training=training)


def _made_again(built, found):
  """Returns what was found, if an operator with the same seed is the same whenever it is made."""
  products = []
  for draw in range(_DRAWS):
    operator = _operator(built, True, draw)
    products.append(operator @ np.ones(operator.shape[0]))
  difference = max(_ratio(p - products[0], np.linalg.norm(products[0])) for p in products)
  # The same operations, but for the order of sums.
  if difference > 1e-4:
    return Outcome("", WRONG, f"another matrix each time that it is made, by {difference:.1g}")
  return found


def _keras_loss(built, training):
  """Returns the loss as Keras computes it in a graph, without changing the model."""
  model = built.model
  state = [v.numpy() for v in model.variables]
  model.compile(loss=built.loss)
  inputs, targets = built.batch

  @tf.function
  def loss():
    outputs = model(inputs, training=training)
    return model.compute_loss(x=inputs, y=tf.convert_to_tensor(targets), y_pred=outputs)

  value = float(loss())
  for v, before in zip(model.variables, state, strict=True):
    v.assign(before)
  return value


def _compared(operator, expected, floatx):
  """Compares an operator's products with differences of gradients, these with those of losses."""
  rng = np.random.default_rng(3)
  directions = rng.standard_normal((2, operator.shape[0]))
  directions /= np.linalg.norm(directions, axis=1, keepdims=True)
  products = np.stack([operator @ d for d in directions])
  loss, gradient = operator.loss(), operator.gradient()
  if not np.isfinite([loss, *gradient]).all() or not np.isfinite(products).all():
    return Outcome("", WRONG, "NaN or infinity in the product")
  note = ""
  for kind in ("float64", "float32") if floatx == "float64" else ("float32",):
    found = _differences(operator, directions, products, gradient, loss, kind)
    if expected is not None and not abs(loss - expected) <= _SAME[kind] * max(1.0, abs(expected)):
      found = f"the loss is another than Keras's, by {abs(loss - expected):.1g}"
    if kind != floatx:
      note = "computes in float32 inside"
    if found is None:
      break
    if not _has_low_precision(operator):
      break
  if found is not None:
    return Outcome("", WRONG, found)
  chosen = operator.mode == "backward_over_backward"
  return Outcome("", OTHER_MODE if chosen else RIGHT, note)


def _differences(operator, directions, products, gradient, loss, floatx):
  """Returns None if all agree to within the arithmetic of `floatx`, or what does not."""
  point, tolerance = operator.parameters(), _TOLERANCE[floatx]
  size = max(np.linalg.norm(products), _ZERO * np.linalg.norm(gradient))
  rate = max(np.linalg.norm(directions @ gradient), 1e-3 * np.linalg.norm(gradient))
  of_gradients, of_losses = [], []
  for step in _STEPS[floatx]:
    second, first = [], []
    for d in directions:
      gradients, losses = [], []
      for sign in (1, -1):
        operator.assign(point + sign * step * d)
        gradients.append(operator.gradient())
        losses.append(operator.loss())
      second.append((gradients[0] - gradients[1]) / (2 * step))
      first.append((losses[0] - losses[1]) / (2 * step))
    of_gradients.append(_ratio(np.stack(second) - products, size))
    of_losses.append(_ratio(np.array(first) - directions @ gradient, rate))
  operator.assign(point)
  if not min(of_gradients) <= tolerance:
    return f"differs from differences of gradients by {min(of_gradients):.1g}"
  # Differences of losses have eps * loss / h: more than those of gradients where these are small.
  rounding = 2 * np.finfo(floatx).eps * abs(loss) / min(_STEPS[floatx]) / max(rate, 1e-300)
  if not min(of_losses) <= max(10 * tolerance, rounding):
    return f"the gradient differs from differences of losses by {min(of_losses):.1g}"
  u, v = directions
  asymmetry = _ratio(u @ products[1] - v @ products[0], size)
  if not asymmetry <= tolerance:
    return f"not symmetric, by {asymmetry:.1g}"
  return None


def _ratio(difference, size):
  length = float(np.linalg.norm(difference))
  return length / size if size else length


def _has_low_precision(operator):
  """Tells if a product of float64 computes anything in less."""
  return any(
    attr.type in _LOW
    for graph in operator.program.product.graphs
    for node in second_order.graph_nodes(graph)
    for attr in node.attr.values()
  )


def _of_exception(name, error, names):
  """Returns what an exception is: a refusal if it is ours and says what it is about."""
  if isinstance(error, tf_hessian.NonFiniteError):
    return Outcome(name, WRONG, brief(str(error)))
  inside = traceback.extract_tb(error.__traceback__)[-1].filename.startswith(_PACKAGE)
  ours = isinstance(error, (TypeError, ValueError)) and inside
  named = any(n in str(error) for n in names) or re.search(r"operation [A-Z]\w+", str(error))
  if ours and named:
    return Outcome(name, REFUSED, brief(str(error)))
  kind = "an error that names nothing" if ours else type(error).__name__
  return Outcome(name, ERROR, brief(f"{kind}: {error}"))


def brief(text: str, length: int = 140) -> str:
  """Returns the first words of a message, for a cell."""
  bold = re.search(r"\x1b\[1m(.*?)\x1b\[0m", text, re.DOTALL)  # Keras's own, of what it quotes
  if bold:
    text = bold[1]
  if "in user code:" in text:  # TensorFlow's traceback, which ends with the message
    text = text.strip().splitlines()[-1]
  text = re.sub(r"\{\{.*?\}\}|\[Op:\w+\]|0x[0-9a-f]+", "", text)
  text = " ".join(text.split()).replace("|", "/").split("; replace it")[0]
  return text if len(text) <= length else text[: length - 1].rsplit(" ", 1)[0] + " …"
