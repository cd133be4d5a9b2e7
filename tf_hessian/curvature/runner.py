"""Running the passes of a program for loss, gradient and products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import functools
from typing import TYPE_CHECKING, Any

from absl import logging
import numpy as np
import tensorflow as tf

from tf_hessian.curvature import choices, failures
from tf_hessian.distribute import copies, engines
from tf_hessian.numerics import checks
from tf_hessian.numerics.scaling import scales_of

if TYPE_CHECKING:
  from tf_hessian.curvature.objective import Objective
  from tf_hessian.curvature.passes import DataPass
  from tf_hessian.curvature.program import Program


_ANEW = "make a new operator, or keep what changes in a tf.Variable"
_SAME_LOSS = 1e-4  # relative, of one batch's loss that is computed in two ways
_SMALL_LOSS = 1e-3  # of an example, below which a loss may be rounding


class Runner:
  """The loss, gradient and products that a program's passes give.

  It is for one thread at a time.

  Args:
    model: what the objective was made from.
    program: the `Program`, of which nothing is built.
    mode: how the product is to be differentiated, one of `products.MODES`; None chooses the first
      that can be built.

  Attributes:
    program: the `Program`.
    follows_python: whether runs begin with `check_trace`; to be set to False where training does
      not follow Python either.
    batch_type: class of single batches; to be set by matrices that are no sums over batches.
    precision: the `arithmetic.Precision` of the loss.
    precision_note: where its least precise type comes in, empty if the layers declare that type.

  Raises:
    TypeError, ValueError: for data or a loss that can't be measured, by the checks of `choices`.
  """

  def __init__(self, model: object, program: Program, /, *, mode: str | None) -> None:
    objective = program.objective
    choices.check_blocks(model, objective, program.blocks)
    self.program = program
    self._objective = objective
    self._looked_at_point = False
    self.follows_python = True
    self.batch_type: type[SingleBatch] = SingleBatch
    self._along: DataPass | None = None
    # The loss is traced here, so that what doesn't fit together is said now.
    choices.check_rows(model, program)
    self.precision = choices.find_precision(objective, program.loss)
    declared = self.precision.dtype.name in objective.compute_dtypes
    self.precision_note = "" if declared else self.precision.where
    if self.precision_note:
      logging.warning(
        "products are right to about %.1g: %s", self.precision.eps, self.precision_note
      )
    choices.tell_stops(objective, program.loss)
    choices.choose_mode(program, mode)
    self._vectors_per_pass = choices.choose_width(program)

  @property
  def vectors_per_pass(self) -> int:
    """Number of vectors that a pass takes, unless its caller says.

    At first as many as `choices.choose_width` finds room for.
    """
    return self._vectors_per_pass

  @vectors_per_pass.setter
  def vectors_per_pass(self, count: int) -> None:
    checks.check_count("vectors_per_pass", count)
    self._vectors_per_pass = count

  def loss(self) -> float:
    """Returns the mean loss over the data set, with `model.losses`."""
    sums, weights = self._term_sums()
    return float(np.dot(self._objective.coefficients, sums / weights))

  def gradient(self, factors: np.ndarray | float = 1.0, /) -> np.ndarray:
    """Returns the gradient of `loss()`, (n,) float64.

    Args:
      factors: (terms,) by which the loss's terms are multiplied.
    """
    return self._mean("gradient", self.program.gradient, self.ratios * factors)

  def single_batches(self, start: int = 0) -> Iterator[SingleBatch]:
    """Yields each batch, for gradients and products of its own.

    They are those of the batch's own mean loss, computed by this process alone.

    Args:
      start: number of the first one.
    """
    alone = self.program.on_one_device()
    for b, batch in alone.batches.since(start):
      yield self.batch_type(alone, b, batch)

  def product(self, x: np.ndarray, /) -> np.ndarray:
    """Returns the product with a vector (n,) or (n, 1): (n,) float64.

    Raises:
      TypeError, ValueError: for a vector, or a product, that is not of finite real numbers.
    """
    x = np.asarray(x)
    if self.program.by_columns:
      return self.products(np.reshape(x, (1, -1)))[0]
    check_operand(x)
    (scale,) = scales_of(np.reshape(x, (1, -1)))
    return self._alone(x) if scale == 1 else self._alone(x / scale) * scale

  def _alone(self, x):
    v = tf.convert_to_tensor(np.ascontiguousarray(x, dtype=np.float64).reshape(-1))
    program = self.program
    data_pass = program.straight_product if program.straight else program.product
    return self._mean("product", data_pass, self.ratios, v)

  def along(self, function: Callable, x: np.ndarray, /) -> np.ndarray:
    """Returns the mean of a function's results with a vector (n,): (n,) float64.

    Args:
      function: as in `Program.along`.
      x: (n,).
    """
    if self._along is None:
      self._along = self.program.along("field", function)
    return self._mean("field", self._along, self.ratios, tf.convert_to_tensor(x, tf.float64))

  def products(self, vectors: np.ndarray, vectors_per_pass: int | None = None, /) -> np.ndarray:
    """Returns the products with vectors (k, n): (k, n) float64.

    Args:
      vectors: (k, n).
      vectors_per_pass: how many share a pass over the data; None for the runner's own number.

    Raises:
      TypeError, ValueError: for bad vectors, or products that are not finite.
    """
    count = self.vectors_per_pass if vectors_per_pass is None else vectors_per_pass
    checks.check_count("vectors_per_pass", count)
    vectors = np.asarray(vectors)
    check_operand(vectors)
    if vectors.ndim != 2 or vectors.shape[1] != self.program.n:
      raise ValueError(f"vectors: expected shape (k, {self.program.n}), got {vectors.shape}")
    scales = scales_of(vectors)[:, None]
    if (scales != 1).any():
      return self.products(vectors / scales, count) * scales
    result = np.empty(vectors.shape)
    for start in range(0, len(vectors), count):
      part = slice(start, start + count)
      self._write_products(vectors[part], count, result[part])
    return result

  def _write_products(self, vectors, count, out):
    """Writes the products with at most `count` vectors, by one pass."""
    k = len(vectors)
    v = np.ascontiguousarray(vectors, np.float64)
    if self.program.takes_any_number:
      count = k
    elif k < count:  # fewer than usual are filled up with zeros, so that nothing is traced again
      v = np.zeros((count, self.program.n))
      v[:k] = vectors
    columns = self.program.columns(count)
    flat = self.run("product", columns, self.ratios, tf.convert_to_tensor(v), tf.constant(k))
    self._unpack(flat, count, self.weight, out)
    if not np.isfinite(out.sum()):
      for vector in vectors:
        self._alone(vector)  # names the batch and the variable

  def products_together(
    self, vectors: np.ndarray, used: int, ratios: tf.Tensor, weight: float, /
  ) -> np.ndarray:
    """Returns the products with vectors that are distributed over workers.

    Each worker has parts of them, and all must call this.

    Args:
      vectors: (k, n): this worker's parts, zeros elsewhere; they are overwritten by the result.
      used: how many are used, on the chief; 0 on the others.
      ratios: the chief's `ratios`; zeros on the others.
      weight: the chief's `weight`.

    Returns:
      (k, n) float64.
    """
    arguments: tuple
    if len(vectors) == 1:
      arguments = self.program.product, ratios, tf.convert_to_tensor(vectors[0])
    else:
      columns = self.program.columns(len(vectors))
      arguments = columns, ratios, tf.convert_to_tensor(vectors), tf.constant(used)
    flat = self.run("product", *arguments, together=True)
    return self._unpack(flat, len(vectors), weight, vectors)

  def _unpack(self, flat, count, weight, out):
    """Writes sums of products, divided by a weight, and returns them.

    The sums are of `count` vectors, of which the first k are written, (k, n).
    """
    start = 0
    for size in self.program.sizes:
      block = flat[start * count : (start + size) * count].reshape(count, size)
      np.divide(block[: len(out)], weight, out=out[:, start : start + size])
      start += size
    return out

  @property
  def weight(self) -> float:
    """Sum of the examples' weights, by which sums are divided.

    It is W of the first term.
    """
    return self._weights[0]

  @functools.cached_property
  def ratios(self) -> tf.Tensor:
    """Factors of the loss's terms, c_t W_0 / W_t: (terms,) float64."""
    return tf.constant(np.array(self._objective.coefficients) * self.weight / self._weights)

  @functools.cached_property
  def _weights(self):
    """Sums of the terms' weights, W_t: (terms,) float64.

    They depend on the data only.
    """
    return self._term_sums()[1]

  def _term_sums(self):
    """Returns (S_t, W_t), each (terms,) float64, of the whole data set."""
    data_pass = self.program.loss
    sums = self.run("loss", data_pass)
    if not np.isfinite(sums).all():
      failures.raise_not_finite("loss", data_pass, (), self.program.batches, self._objective)
    totals, weights = np.split(sums, 2)
    for name, weight in zip(self._objective.term_names, weights, strict=True):
      if not weight > 0:
        raise ValueError(f"{name}: expected a positive sum of the examples' weights, got {weight}")
    return totals, weights

  def run(
    self, what: str, data_pass: DataPass, /, *arguments: tf.Tensor, together: bool = False
  ) -> np.ndarray:
    """Returns a pass's sums; explains what stops it.

    Args:
      what: "loss", "gradient" or "product".
      data_pass: the pass.
      *arguments: its arguments.
      together: whether arguments are summed over all workers, which then all call this; False by
        default.
    """
    self.look_at_point()
    with failures.explained(what, data_pass, arguments, self.program.batches):
      return (data_pass.together if together else data_pass)(*arguments).numpy()

  def _mean(self, what, data_pass, *arguments):
    """Returns a pass's sums divided by the weight.

    If they are not finite, an error explains why.
    """
    result = self.run(what, data_pass, *arguments)
    if not np.isfinite(np.sum(result)) and not np.isfinite(result).all():
      failures.raise_not_finite(what, data_pass, arguments, self.program.batches, self._objective)
    result /= self.weight
    return result

  def check_trace(self) -> None:
    """Checks that Python still computes the loss that was traced.

    Attributes of layers, and which of them are trained, are read when a function is traced. The
    loss of the first batch tells most changes. It is not looked at in a cluster.

    Raises:
      ModelChangedError: if it is another one.
    """
    data_pass, batches = self.program.loss, self.program.batches
    if not isinstance(self.program.engine, engines.OneDevice):
      return
    changes = self._objective.changes()
    if changes:
      raise failures.ModelChangedError(f"since the operator was made, {changes}: {_ANEW}")
    b, batch = next(iter(batches.since()))

    def values(compute):
      with failures.explained("loss", data_pass, (), batches):
        return np.stack([t.numpy() for t in compute(b, batch)])

    traced, now = values(data_pass.as_traced), values(data_pass.single)
    tolerance = max(_SAME_LOSS, 100 * self.precision.eps)
    sizes = np.maximum(np.abs(traced), _SMALL_LOSS * np.abs(traced[len(traced) // 2 :]).max())
    differs = (np.abs(now - traced) > tolerance * sizes).any()
    # What Python draws anew each time stays as it was traced.
    if differs and np.array_equal(now, values(data_pass.single)):
      raise failures.ModelChangedError(
        f"sums of the first batch's loss and weights are {now} now, and were {traced} for the same "
        "variables when the operator was made. What Python reads in a model, such as a factor of "
        f"regularization or which layers are trained, is read once: {_ANEW}"
      )

  def look_at_point(self) -> None:
    """Checks the variables before the first pass.

    Fused kernels may clip NaN to numbers.
    """
    if not self._looked_at_point:
      self.check_point()

  def check_point(self) -> None:
    """Checks that variables and moving statistics are finite numbers.

    Raises:
      NonFiniteError: names the first that is not.
    """
    check_point(self._objective)
    self._looked_at_point = True


class SingleBatch:
  """One batch, with the derivatives of its own mean loss.

  Args:
    program: the `Program`, on one device.
    b: number of the batch.
    batch: the batch.

  Attributes:
    number: the number.
    empty: whether its weights have no positive sum, so that it has no mean loss. Of several
      outputs the first counts, as penalties weigh what it does; others may weigh nothing.
  """

  def __init__(self, program: Program, b: int, batch: Any, /) -> None:
    self.number = b
    self._program, self._batch = program, batch
    sums = program.loss.of_batch(b, batch).numpy()
    weights = sums[sums.size // 2 :]
    some = weights > 0
    self.empty = not some[0]
    self._weight = weights[0]
    coefficients = np.array(program.objective.coefficients)
    self._ratios = np.zeros_like(weights)
    self._ratios[some] = coefficients[some] * self._weight / weights[some]

  def gradient(self, factors: np.ndarray | float = 1.0, /) -> np.ndarray:
    """Returns the gradient of the batch's mean loss, (n,) float64.

    Args:
      factors: (terms,) by which the loss's terms are multiplied.
    """
    return self._mean("gradient", self._program.gradient, factors=factors)

  def product(self, x: np.ndarray, /) -> np.ndarray:
    """Returns the product of the batch's matrix with a vector (n,): (n,) float64."""
    return self._mean("product", self._program.product, tf.convert_to_tensor(x, tf.float64))

  def _mean(self, what, data_pass, *arguments, factors=1.0):
    if self.empty:
      raise ValueError(f"batch {self.number}: expected a positive sum of the examples' weights")
    ratios = tf.constant(self._ratios * factors)
    found = data_pass.of_batch(self.number, self._batch, ratios, *arguments).numpy()
    if not np.isfinite(found).all():
      raise failures.NonFiniteError(
        f"{what}: NaN or infinity in batch {self.number} of the data set"
      )
    return found / self._weight


def check_point(objective: Objective, /) -> None:
  """Checks that the variables of an objective are finite numbers.

  Warns of those whose copies on replicas differ.

  Raises:
    NonFiniteError: names the first that has NaN or infinity.
  """
  for name, value in zip(
    (*objective.names, *objective.context_names),
    (*objective.parameters, *objective.context),
    strict=True,
  ):
    failures.check_variable(name, value)
  differing = [
    n for n, c in zip(objective.context_names, objective.context, strict=True) if copies.differ(c)
  ]
  if differing:
    logging.warning(
      "variables whose copies on the replicas differ: %s. Those of the first replica are used "
      "everywhere, as Keras reads and saves them",
      ", ".join(differing),
    )


def check_operand(x: np.ndarray, /) -> None:
  """Raises TypeError or ValueError unless an array has finite real numbers."""
  if np.iscomplexobj(x):
    raise TypeError("vector: expected real numbers, got complex ones")
  if not np.isfinite(np.sum(x)) and not np.isfinite(x).all():
    raise ValueError("vector: expected finite numbers, got NaN or infinity")
