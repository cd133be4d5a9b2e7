"""Is it the same matrix every time, is it symmetric, and is it the second derivative?

Cheap against what follows: three products, against the hundreds of a density.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from tf_hessian.curvature import repeatable
from tf_hessian.curvature.precision import float64_model
from tf_hessian.numerics import probes

# Errors of whole products relative to their length, in units of the arithmetic's rounding error:
# seen are 3 to 60 in deep float32 and float64 nets, so this is a heuristic with a margin.
_PRODUCT_ROUNDINGS = 1000
# Central differences with step h have an error of h^2 (third derivatives) and eps / h; the best of
# several steps is about eps^(2/3) = 4e-11 times the size of the derivatives. Kinks (ReLU) add more.
_DIFFERENCE_STEPS = (1e-3, 1e-4, 1e-5, 1e-6)
_DIFFERENCE_TOLERANCE = 1e-6
_ZERO = 1e-6  # products this much smaller than the gradient count as zero
_TINY = np.finfo(np.float64).tiny
_STREAM = 2**31  # of the check's probes, apart from those of the draws


@dataclasses.dataclass(frozen=True)
class OperatorReport:
  """What `check_operator` found."""

  repeatable: bool  # two products with one vector were bitwise equal
  asymmetry: float  # |u'Hv - v'Hu| / |Hu| with v = Hu / |Hu|
  asymmetry_tolerance: float
  # |differences - Hv| / |Hv| in float64 on the first batch; None where it was not computed, and why
  difference_error: float | None
  difference_skipped: str
  # |Hv - H64 v| / |H64 v| on the first batch, H64 the same Hessian in float64; None likewise.
  rounding_error: float | None
  problems: tuple  # sentences; empty if all is well

  @property
  def passed(self):
    return not self.problems

  def raise_for_problems(self):
    """Raises ValueError with all problems, if there are any."""
    if self.problems:
      raise ValueError("the Hessian can't be relied on: " + "; ".join(self.problems))


def check_operator(operator, /, *, differences=True, seed=0):
  """Checks an operator before hours are spent on it.

  - A product is repeated and must be bitwise equal; the data set is read again and must be the
    same. If not, the report names the cause: the order of the data, the examples themselves, random
    numbers drawn by a layer, or kernels that add up in varying order.
  - |u'Hv - v'Hu| must be rounding error. With v = Hu / |Hu| both are about |Hu|, so that an error
    shows in any dimension; for independent vectors they would be small and hide it.
  - A product must agree with central differences of the gradient, in float64, on the first batch.
    For that a float64 copy of the model is built, where that can be done.

  Args:
    operator: a `HessianOperator`.
    differences: whether to do the last check, which traces the model once more.
    seed: seed of the vectors.

  Returns:
    An `OperatorReport`.
  """
  problems = []
  u = probes.probe(seed, _STREAM, operator.shape[0])
  first = operator @ u
  same = np.array_equal(first, operator @ u)
  change = operator.batches.changes()
  if change is not None:
    problems.append(change)
  elif not same:
    problems.append(_why_not_repeatable(operator))

  tolerance = min(0.3, _PRODUCT_ROUNDINGS * operator.precision)
  asymmetry = _asymmetry(operator, u, first)
  if not asymmetry <= tolerance:
    problems.append(
      f"it is not symmetric: |u'Hv - v'Hu| / |Hu| = {asymmetry:.2g}, where rounding would give at "
      f"most {tolerance:.2g}; an operation of the model has a wrong second derivative"
    )

  error, skipped, rounding = None, "not asked for", None
  if differences:
    error, skipped, rounding = _compare_with_differences(operator, u)
    if error is not None and not error <= _DIFFERENCE_TOLERANCE:
      problems.append(
        f"it is not the derivative of the gradient: products differ from central differences by "
        f"{error:.2g} in float64; an operation of the model has a wrong second derivative (as "
        "tf.stop_gradient or tf.custom_gradient may cause), or the point lies on a kink"
      )
  return OperatorReport(same, asymmetry, tolerance, error, skipped, rounding, tuple(problems))


def _asymmetry(operator, u, product):
  length = np.linalg.norm(product)
  if not length:
    return 0.0
  v = product / length
  return float(abs(u @ (operator @ v) - v @ product) / length)


def _why_not_repeatable(operator):
  found = [
    sentence
    for graph in operator.graphs()
    for sentence in repeatable.stateful_random_ops(graph, operator.objective.layers)
  ]
  if found:
    return "two products with the same vector differ: " + found[0]
  if operator.deterministic:
    return (
      "two products with the same vector differ, though no random numbers are drawn: a kernel adds "
      "up in varying order; run with one inter-op thread "
      "(tf.config.threading.set_inter_op_parallelism_threads(1)), and please report the model"
    )
  return (
    "two products with the same vector differ: kernels that add up in varying order; make the "
    "operator with deterministic=True"
  )


def _compare_with_differences(operator, v):
  """Returns (error of differences, why it was skipped, rounding error of the operator)."""
  try:
    exact = _float64_copy(operator)
  except (NotImplementedError, TypeError, ValueError) as e:
    return None, f"no float64 copy of the model could be built: {e}", None
  try:
    product = exact @ v
  except ValueError as e:  # a kernel that there is for float32 only
    return None, f"the float64 copy of the model does not run: {e}", None
  point = exact.parameters()
  # Where H is zero, the differences are rounding errors of the gradient.
  size = max(np.linalg.norm(product), _ZERO * np.linalg.norm(exact.gradient()), _TINY)
  errors = []
  for step in _DIFFERENCE_STEPS:
    gradients = []
    for sign in (1, -1):
      _assign(exact, point + sign * step * v)
      gradients.append(exact.gradient())
    errors.append(np.linalg.norm((gradients[0] - gradients[1]) / (2 * step) - product) / size)
  return float(min(errors)), "", _rounding(operator, v, product)


def _rounding(operator, v, product):
  """Returns the relative difference to the float64 product, or None where there is no comparing."""
  if (
    operator.objective.description.get("random_layers")
    and operator.objective.description["training"]
  ):
    return None  # Keras draws other random numbers in float64
  length = np.linalg.norm(product)
  if not length:
    return None
  single = operator.like(dataset=[next(iter(operator.batches))])
  return float(np.linalg.norm(single @ v - product) / length)


def _assign(operator, point):
  start = 0
  for p in operator.objective.parameters:
    size = p.shape.num_elements()
    p.assign(np.reshape(point[start : start + size], p.shape))
    start += size


def _float64_copy(operator):
  """Returns the operator of the first batch on a float64 copy of the model."""
  model = operator.model
  batch = tf.nest.map_structure(_to_float64, next(iter(operator.batches)))
  if isinstance(model, keras.Model):
    copy = float64_model(model)
    variables = copy.trainable_variables
  else:
    copy = variables = [tf.Variable(_to_float64(tf.convert_to_tensor(p))) for p in model]
  chosen = [variables[i] for i in operator.objective.chosen]
  return operator.like(model=copy, dataset=[batch], variables=chosen)


def _to_float64(tensor):
  return tf.cast(tensor, tf.float64) if tensor.dtype.is_floating else tensor
