"""Checks that a matrix is repeatable, symmetric, and the second derivative.

Cheap against what follows: three products, against the hundreds of a density.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.sparse.linalg import LinearOperator

from tf_hessian.curvature import failures, first_batch, output_checks, repeatable
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.numerics import markup, probes
from tf_hessian.numerics.scaling import scales_of

# Errors of whole products relative to their length, in units of the arithmetic's rounding error:
# seen are 3 to 60 in deep float32 and float64 nets, so this is a heuristic with a margin.
PRODUCT_ROUNDINGS = 1000
# Central differences with step h have an error of h^2 (third derivatives) and eps / h; the best of
# several steps is about eps^(2/3) = 4e-11 times the size of the derivatives. Kinks (ReLU) add more.
# The steps are tried in this order, until one agrees.
_STEPS = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-3, 1e-2)
_TOLERANCE = 1e-6
_AGREED = 1e-8
# In less precise types steps are relative to the length of the parameters, and larger: with
# gradients right to 100 eps = 1e-5, a step of 1e-2 of it leaves 1e-3.
_COARSE_STEPS = (0.1, 0.03, 0.01, 0.003, 0.001)
_COARSE_TOLERANCE = 1e-2
# A product is taken to be wrong if differences are this many times nearer to each other than to it.
_CLEARLY = 5
_COARSE_ROUNDING = 0.1  # relative errors of products from which on they are of no use
# Where H is zero, differences in float64 are rounding errors of the gradient: products this much
# shorter than it count as zero.
_ZERO = 1e-6
_OF_ROUNDING = 10  # asymmetry in units of a product's own rounding error, seen: up to 1
_TOO_COARSE = (
  "rounding is too coarse: products are {:.0%} off those in float64, on the first batch; measure "
  "tf_hessian.float64_model(model), or larger batches where the model normalises by them"
)
_TINY = np.finfo(np.float64).tiny


@dataclasses.dataclass(frozen=True)
class OperatorReport:
  """The findings of `check_operator`.

  >>> import numpy as np
  >>> import tensorflow as tf
  >>> import tf_hessian
  >>> def loss(p, batch):
  ...   return batch * tf.reduce_sum(p[0] ** 4)
  >>> point, data = [tf.Variable([3.0, 1.0])], [np.ones(1, "float32")]
  >>> hessian = tf_hessian.HessianOperator(point, loss, data)
  >>> report = tf_hessian.check_operator(hessian)
  >>> report.passed, report.repeatable, report.difference_error < 1e-6
  (True, True, True)

  Attributes:
    repeatable: two products with one vector were bitwise equal.
    asymmetry: |u'Hv - v'Hu| / |Hu| with v = Hu / |Hu|.
    asymmetry_tolerance: what rounding explains.
    difference_error: |differences - Hv| / |Hv| on the first batch; None where it was not compared.
    difference_skipped: why it was not compared in float64; empty if it was.
    rounding_error: |Hv - H64 v| / |H64 v| on the first batch, H64 the same Hessian in float64;
      None where there is no such comparison.
    problems: sentences; empty if nothing wrong was found.
    compared_in: the type that differences were made in, such as "float64"; empty for none.
    precision: a phrase that says where less precise arithmetic than that of the variables comes
      in; empty if it doesn't.
  """

  repeatable: bool
  asymmetry: float
  asymmetry_tolerance: float
  difference_error: float | None
  difference_skipped: str
  rounding_error: float | None
  problems: tuple
  compared_in: str = ""
  precision: str = ""

  @property
  def passed(self) -> bool | None:
    """Whether the operator is right: True, False, or None.

    It is None where no problem was found but products were compared with nothing.
    """
    if self.problems:
      return False
    return None if self.difference_error is None else True

  def raise_for_problems(self) -> None:
    """Raises ValueError with all problems, if there are any."""
    if self.problems:
      raise ValueError("the matrix can't be relied on: " + "; ".join(self.problems))

  def summary(self) -> str:
    """Returns the report as one line."""
    if self.problems:
      return "FAILED: " + "; ".join(self.problems)
    found = ["repeatable" if self.repeatable else "not repeatable"]
    found.append(f"symmetric to {self.asymmetry:.1g}")
    if self.difference_error is None:
      found.append(f"NOT COMPARED with differences of gradients ({self.difference_skipped})")
    else:
      found.append(f"{self.difference_error:.1g} from differences in {self.compared_in}")
    if self.rounding_error is not None:
      found.append(f"rounding {self.rounding_error:.1g}")
    if self.precision:
      found.append(self.precision)
    return ("passed: " if self.passed else "nothing wrong found: ") + ", ".join(found)

  def __str__(self) -> str:
    return self.summary()

  def _repr_html_(self) -> str:
    rows: dict[str, object] = {
      "passed": self.passed,
      "repeatable": self.repeatable,
      "asymmetry": self.asymmetry,
      "difference": self.difference_skipped
      if self.difference_error is None
      else f"{self.difference_error:.2g} in {self.compared_in}",
      "rounding": "not known" if self.rounding_error is None else self.rounding_error,
      "precision": self.precision or "that of the variables",
    }
    rows |= {f"problem {i + 1}": text for i, text in enumerate(self.problems)}
    return markup.table(rows.items())


def check_operator(
  operator: HessianOperator, /, *, differences: bool = True, seed: int = 0, width: int = 2
) -> OperatorReport:
  """Checks an operator before hours are spent on it.

  - Variables are finite.
  - A product is repeated and must be bitwise equal; the data set is read again and must be the
    same. If not, the report names the cause: the order of the data, the examples themselves, random
    numbers drawn by a layer, or kernels that add up in varying order.
  - |u'Hv - v'Hu| must be rounding error. With v = Hu / |Hu| both are about |Hu|, so that an error
    shows in any dimension; for independent vectors they would be small and hide it.
  - Vectorized products of several vectors must be those of each.
  - A product must agree with central differences of the gradient on the first batch: in float64,
    where the model can compute in it, else in its own precision, which finds errors above a
    percent. Kinks may hide smaller ones there.

  >>> import numpy as np
  >>> import tensorflow as tf
  >>> import tf_hessian
  >>> def loss(p, batch):
  ...   return batch * tf.reduce_sum(p[0] ** 4)
  >>> point, data = [tf.Variable([3.0, 1.0])], [np.ones(1, "float32")]
  >>> hessian = tf_hessian.HessianOperator(point, loss, data)
  >>> tf_hessian.check_operator(hessian).passed
  True

  Args:
    operator: a `HessianOperator`.
    differences: whether to do the last check, which traces the model once more; True by default,
      since no other finds wrong derivatives that are symmetric.
    seed: integer seed of the vectors.
    width: number of vectors of the pass whose vectorized products are compared; 1 for none.

  Returns:
    An `OperatorReport`.

  Raises:
    TypeError: if it is given something else, such as a model.
    NonFiniteError: if a variable is not finite.
  """
  if not hasattr(operator, "check_point"):
    raise failures.no_operator(operator)
  operator.check_point()
  change = operator.batches.changes()
  if change is not None and not operator.batches.cached:  # there is no product to look at
    return OperatorReport(False, np.nan, np.nan, None, "the data change", None, (change,))
  problems = []
  u = probes.probe(seed, probes.Stream.CHECK, operator.shape[0])
  first = operator @ u
  same = np.array_equal(first, operator @ u)
  if change is not None:
    problems.append(change)
  elif not same:
    problems.append(_why_not_repeatable(operator))

  found = _Comparison(skipped="not asked for")
  if differences and change is not None:
    found = _Comparison(skipped="the data change")
  elif differences:
    found = _compare_with_differences(operator, u)

  tolerance = min(0.3, PRODUCT_ROUNDINGS * operator.precision)
  asymmetry = relative_asymmetry(operator, u, first)
  # Of other data, products differ whatever the model does. Rounding that is known, of products that
  # are right in float64, has a sentence of its own if it is large.
  if found.rounding is not None:
    tolerance = max(tolerance, _OF_ROUNDING * found.rounding)
  if not asymmetry <= tolerance and change is None and _agreed(found):
    problems.append(
      f"it is not symmetric: |u'Hv - v'Hu| / |Hu| = {asymmetry:.2g}, though it is the derivative "
      "of the gradient that TensorFlow computes: that is the gradient of no loss, as a custom "
      "gradient makes it (reversed or straight-through)"
    )
  elif not asymmetry <= tolerance and change is None:
    problems.append(
      f"it is not symmetric: |u'Hv - v'Hu| / |Hu| = {asymmetry:.2g}, where rounding would give at "
      f"most {tolerance:.2g}; an operation of the model has a wrong second derivative, or "
      f"{operator.precision_dtype} is too coarse here (check_operator tells which)"
    )
  problems.extend(found.problems)
  shared = width > 1 and operator.vectorized and not problems
  off = _shared_error(operator, u, first, width) if shared else 0.0
  if not off <= tolerance:
    problems.append(
      f"products that share a pass are others than alone, by {off:.2g} of their length: TensorFlow "
      "vectorizes an operation of the model wrongly; set operator.vectorized = False, and please "
      "report the model"
    )
  return OperatorReport(
    same,
    asymmetry,
    tolerance,
    found.error,
    found.skipped,
    found.rounding,
    tuple(problems),
    found.compared_in,
    operator.precision_note,
  )


def relative_asymmetry(operator: LinearOperator, u: np.ndarray, product: np.ndarray, /) -> float:
  """Returns how far an operator is from symmetric, by one product.

  That is |u'Hv - v'Hu| / |Hu| with v = Hu / |Hu|.

  Args:
    operator: H, of order n.
    u: (n,).
    product: H u, (n,).
  """
  (scale,) = scales_of(product[None])  # the squares of extreme numbers are no float64
  product = product / scale
  length = np.linalg.norm(product)
  if not length:
    return 0.0
  v = product / length
  return float(abs(u @ ((operator @ v) / scale) - v @ product) / length)


def _shared_error(operator, u, product, width):
  """Returns how far vectorized products are from one by itself.

  Its vector is in the second place, and the first must have that product's transpose.
  """
  length = np.linalg.norm(product)
  if not length:
    return 0.0
  v = product / length
  other, same = operator.products(np.stack([v, u]), vectors_per_pass=width)
  return float(max(abs(u @ other - v @ product), np.linalg.norm(same - product)) / length)


def _why_not_repeatable(operator):
  found = [
    sentence
    for graph in operator.program.product.graphs
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


@dataclasses.dataclass(frozen=True)
class _Comparison:
  """A comparison of products with differences of gradients.

  Its fields become those of `OperatorReport`.
  """

  error: float | None = None
  skipped: str = ""
  rounding: float | None = None
  compared_in: str = ""
  problems: tuple = ()


def _agreed(comparison):
  return comparison.compared_in == "float64" and comparison.error <= _TOLERANCE


def _compare_with_differences(operator, u):
  """Returns a `_Comparison` in float64, or in the operator's own precision."""
  wide, product, skipped = _in_float64(operator, u)
  if wide is None:
    return _compare_coarsely(operator, u, skipped)
  found = _differences(wide, u, product, _STEPS, zero=_ZERO)
  if found.error <= _TOLERANCE:
    rounding = _rounding(operator, u, product)
    coarse = rounding is not None and rounding > _COARSE_ROUNDING
    problems = (_TOO_COARSE.format(rounding),) if coarse else ()
    return _Comparison(found.error, "", rounding, "float64", problems)
  if found.wrong(_TOLERANCE):
    problem = _not_the_derivative(found.error, "float64")
    return _Comparison(found.error, "", None, "float64", (problem,))
  return _Comparison(skipped=found.disagreement("float64"))


def _in_float64(operator, u):
  """Returns (the first batch's operator in float64, its product, problem).

  The first two are None where the third says why; otherwise that is empty.
  """
  try:
    wide = first_batch.on_first_batch(operator, float64=True)
    if wide.precision > np.finfo(np.float64).eps:
      return None, None, f"not all of it computes in float64: {wide.precision_place}"
    return wide, wide @ u, ""
  except Exception as e:  # of any code of the user's, that may know float32 only
    return None, None, f"it does not run in float64: {' '.join(str(e).split())[:300]}"


def _not_the_derivative(error, dtype):
  return (
    f"it is not the derivative of the gradient: products differ from central differences by "
    f"{error:.2g} in {dtype}; an operation of the model has a wrong second derivative (as "
    "tf.stop_gradient or tf.custom_gradient may cause), or the point lies on a kink"
  )


@dataclasses.dataclass(frozen=True)
class _Differences:
  """Central differences of the gradient by several steps, against a product.

  Attributes:
    error: least distance to the product, relative to it.
    spread: uncertainty of the best ones, relative to the product: the distance of neighbouring
      ones, and the rounding of gradients over the step.
  """

  error: float
  spread: float

  def wrong(self, tolerance):
    """Returns whether the product is farther off than the differences are uncertain."""
    return not self.error <= max(tolerance, _CLEARLY * self.spread)

  def disagreement(self, dtype):
    """Returns a phrase that says why there is no verdict."""
    return (
      f"differences of gradients in {dtype} have too few digits, or cross kinks: they are known to "
      f"{self.spread:.1g} of the product only"
    )


def _differences(operator, v, product, steps, *, zero=0.0):
  """Returns `_Differences` along v; ends early once one agrees."""
  gradient = np.linalg.norm(operator.gradient())
  size = max(np.linalg.norm(product), zero * gradient, _TINY)
  point = operator.parameters()
  errors, spreads = [], []
  before = None
  for step in steps:
    found = _difference(operator, point, v, step)
    errors.append(np.linalg.norm(found - product) / size)
    if errors[-1] <= _AGREED:
      return _Differences(float(errors[-1]), 0.0)
    if before is not None:
      rounding = operator.precision * gradient / step
      spreads.append(max(np.linalg.norm(found - before), rounding) / size)
    before = found
  return _Differences(float(np.min(errors)), float(np.min(spreads)))


def _difference(operator, point, v, step):
  """Returns the central difference of the field along v.

  For the Hessian that is the gradient.
  """
  gradients = []
  for sign in (1, -1):
    operator.assign(point + sign * step * v)
    gradients.append(operator.field(point))
  return (gradients[0] - gradients[1]) / (2 * step)


def _compare_coarsely(operator, u, skipped):
  """Returns a `_Comparison` in the operator's own precision.

  It is along u and along Hu. Along u products may be too short for the gradients' digits; along Hu
  they are as long as can be.
  """
  dtype = operator.precision_dtype
  try:
    own = first_batch.on_first_batch(operator, float64=False)
    scale = max(np.linalg.norm(own.parameters()), 1.0)
    product = own @ u
    found = [
      _differences(own, v, own @ v, [step * scale for step in _COARSE_STEPS])
      for v in (u, product / max(np.linalg.norm(product), _TINY))
    ]
  except Exception as e:  # of any code of the user's
    return _Comparison(skipped=f"{skipped}; nor alone: {' '.join(str(e).split())[:300]}")
  tolerance = max(_COARSE_TOLERANCE, 3 * np.sqrt(own.precision))
  wrong = [d.error for d in found if d.wrong(tolerance)]
  if wrong:
    problem = _not_the_derivative(max(wrong), dtype)
    return _Comparison(max(wrong), skipped, compared_in=dtype, problems=(problem,))
  agreed = [d.error for d in found if d.error <= tolerance]
  if agreed:
    return _Comparison(max(agreed), skipped, compared_in=dtype)
  best = min(found, key=lambda d: d.spread)
  return _Comparison(skipped=f"{skipped}; {best.disagreement(dtype)}")


def _rounding(operator, v, product):
  """Returns the relative difference to the float64 product.

  It is None where they can't be compared.
  """
  if operator.program.loss.draws_random_numbers():
    return None  # other ones are drawn in float64
  length = np.linalg.norm(product)
  if not length:
    return None
  with output_checks.looked_at("data"):
    single = operator.like(dataset=[next(iter(operator.batches))], strategy=None)
  return float(np.linalg.norm(single @ v - product) / length)
