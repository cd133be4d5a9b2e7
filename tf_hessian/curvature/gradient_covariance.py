"""The covariance of the gradients of single examples.

S = mean of g g' - (mean of g)(mean of g)', g the gradient of the loss of an example: the empirical
Fisher matrix less the square of the mean. It is the covariance of the noise of stochastic gradients
with batches of one example.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

from tf_hessian.curvature import batches, fit_losses, output_checks, processes
from tf_hessian.curvature.fisher import empirical
from tf_hessian.curvature.outputs_operator import OutputsOperator
from tf_hessian.curvature.runner import SingleBatch


def _of_examples(objective):
  """Returns 1 for terms of examples, 0 for penalties: (terms,)."""
  return np.array([name != fit_losses.PENALTIES for name in objective.term_names], np.float64)


class _CentredBatch(SingleBatch):
  """One batch, with the covariance of its own examples' gradients."""

  @functools.cached_property
  def _mean_gradient(self):
    return self.gradient(_of_examples(self._program.objective))

  def product(self, x: np.ndarray, /) -> np.ndarray:
    """Returns the product of the batch's covariance with a vector (n,): (n,) float64."""
    g = self._mean_gradient
    return super().product(x) - g * (g @ np.ravel(x))


class GradientCovarianceOperator(OutputsOperator):
  """The covariance of the examples' gradients over a data set.

  Its arguments, attributes and methods are those of a `HessianOperator`. An example is a row of a
  batch, with all its positions and outputs, and counts by its weight. Penalties don't count, since
  they are of no example. The mean of the gradients takes one pass whenever the model has moved.

  >>> import keras
  >>> import numpy as np
  >>> import tf_hessian
  >>> model = keras.Sequential([
  ...   keras.Input((2,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
  ... ])
  >>> data = [(np.eye(2, dtype="float32"), np.ones((2, 1), "float32"))]
  >>> covariance = tf_hessian.GradientCovarianceOperator(model, "mean_squared_error", data)
  >>> covariance @ np.array([1.0, 0.0])  # of the gradients (-2, 0) and (0, -2)
  array([ 1., -1.])
  """

  matrix = "gradient_covariance"
  what = "covariance of gradients"
  distributes_bases = False  # of the workers, only the chief knows whole vectors

  def _look_at_outputs(self):
    self.runner.batch_type = _CentredBatch
    if self.objective.as_fit and self.program.batches.weighs:
      raise ValueError(
        "loss: fit divides by the number of examples, whatever their sample weights, and a "
        "covariance needs their weighted mean: give the loss instead of None"
      )
    output_checks.warn_of_negative_weights(self.program, self.what)
    output_checks.refuse_coupled(self.program)

  @property
  def _output_matrix(self):
    return functools.partial(empirical, self.objective)

  def mean_gradient(self) -> np.ndarray:
    """Returns the mean of the examples' gradients, without penalties: (n,) float64."""
    tensors = [tf.convert_to_tensor(p) for p in self.objective.parameters]
    tensors += [tf.convert_to_tensor(c) for c in self.objective.context]
    point = batches.digest(tensors)
    if self._mean_gradient[0] != point:
      self._mean_gradient = point, self.runner.gradient(_of_examples(self.objective))
    return self._mean_gradient[1]

  _mean_gradient: tuple[bytes, np.ndarray] = (b"", np.zeros(0))

  def field(self, point: np.ndarray, /) -> np.ndarray:
    """Returns what `FisherOperator.field` does, less g (g' (p - point)).

    p are the parameters as they are, and g is the mean gradient at the point.
    """
    moved = self.parameters() - point
    result = super().field(point)
    with self.at(point):
      g = self.mean_gradient()
    return result - g * (g @ moved)

  @processes.one_at_a_time
  def products(self, vectors: np.ndarray, *, vectors_per_pass: int | None = None) -> np.ndarray:
    """Returns the products with several vectors, as a `CurvatureOperator` does."""
    result = super().products(vectors, vectors_per_pass=vectors_per_pass)
    g = self.mean_gradient()
    for row, v in zip(result, np.asarray(vectors), strict=True):
      row -= g * (g @ np.ravel(v))  # not vectors @ g, whose rounding depends on their number
    return result

  @processes.one_at_a_time
  def _matvec(self, x):
    result = super()._matvec(x)
    g = self.mean_gradient()
    return result - g * (g @ np.ravel(x))
