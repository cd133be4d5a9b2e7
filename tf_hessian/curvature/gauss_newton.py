"""The generalized Gauss-Newton matrix.

It is the Hessian of the mean loss with the model replaced by its linearization at the point,

  G = J' f_zz J + J' f_zp + f_pz J + f_pp,

where z are the model's outputs, J their derivative in the parameters p, and f(z, p) the loss. Where
the loss reads no parameters besides the outputs, only the first part is left. Penalties have their
own Hessian in f_pp. See Schraudolph (2002) and Martens (2020).
"""

from __future__ import annotations

import functools

import tensorflow as tf

from tf_hessian.curvature import output_checks, products
from tf_hessian.curvature.outputs import OutputsError
from tf_hessian.curvature.outputs_operator import OutputsOperator


class GaussNewtonOperator(OutputsOperator):
  """The generalized Gauss-Newton matrix of the mean loss over a data set.

  Its arguments, attributes and methods are those of a `HessianOperator`. It has no blocks whose
  activations are recomputed. The loss must be told apart from the model's outputs: a Keras loss of
  them, the model's own `compute_loss`, or a `SplitLoss`.

  Where the loss is computed from the logits in front of a softmax or sigmoid output, as Keras does
  for cross entropies, these logits are the outputs.

  >>> import keras
  >>> import numpy as np
  >>> import tf_hessian
  >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
  >>> data = [(np.eye(2, dtype="float32"), np.ones((2, 1), "float32"))]
  >>> tf_hessian.GaussNewtonOperator(model, "mean_squared_error", data) @ np.array([1.0, 2.0])
  array([1., 2.])
  """

  matrix = "gauss_newton"
  what = "Gauss-Newton matrix"

  @functools.cached_property
  def _output_matrix(self):
    warn = functools.partial(
      output_checks.warn_of_probabilities, layers=self.objective.layers, said=set()
    )
    return functools.partial(_LossHessian, warn)

  def _look_at_outputs(self):
    output_checks.warn_of_negative(self.program)
    output_checks.warn_of_negative_weights(self.program, self.what)

  @staticmethod
  def _field_values(base, now, moved):
    """Returns f_z and f_p, where the parameters are."""
    del base, moved
    return now.gradient


class _LossHessian:
  """The Hessian of a batch's loss in what it reads.

  That is outputs of the model, and perhaps parameters besides.

  Args:
    warn: called with the `outputs.Losses` of each output.
    cut, tape, loss, params: as in `pullback.product`.

  Attributes:
    chosen, kept: those of a `pullback.OutputMatrix`.
    gradient: list of the loss's gradients in what is kept.

  Raises:
    ValueError: if the loss depends on no output.
  """

  def __init__(self, warn, cut, tape, loss, params, *_):
    for losses in cut.losses:
      warn(losses)
    found = tape.gradient(loss, [*cut.places, *params])
    count = len(cut.places)
    self.chosen = [i for i in range(count) if found[i] is not None]
    if not self.chosen:
      raise OutputsError(
        "loss: it does not depend on the model's outputs, so it has no Gauss-Newton matrix; a "
        "compute_loss() must be of its argument y_pred"
      )
    parts = [found[i] for i in self.chosen] + found[count:]
    self.kept = [i for i, g in enumerate(parts) if g is not None]
    self.gradient = [tf.convert_to_tensor(parts[i]) for i in self.kept]
    self._wanted = [*(cut.places[i] for i in self.chosen), *params]

  def by_linearization(self, make):
    result = make(self.gradient, self._wanted)
    return None if result.obstacle is not None else result

  def by_tape(self, tape):
    def function(tangents):  # it is symmetric
      chosen = [tangents[i] for i in self.kept]
      found = tape.gradient(self.gradient, self._wanted, output_gradients=chosen)
      found = products.dense(found, self._wanted)
      return [found[i] for i in self.kept]

    return function
