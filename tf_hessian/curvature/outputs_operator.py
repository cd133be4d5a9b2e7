"""Matrices J' M J of a model's outputs, whatever M is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_hessian.curvature import outputs, pullback
from tf_hessian.curvature.objective import Objective
from tf_hessian.curvature.operator import CurvatureOperator


class OutputsOperator(CurvatureOperator):
  """A matrix J' M J, perhaps with parts of parameters alone.

  Classes have an `_output_matrix`, the `matrix` of `pullback.product`.

  Attributes:
    what: what messages call it.
  """

  what = ""
  _output_matrix: Callable[..., pullback.OutputMatrix]

  def _check_objective(self, blocks):
    outputs.check_split(self.objective, self.what, blocks)

  @staticmethod
  def _field_values(base: Any, now: Any, moved: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns u of the field J(point)' u, as `pullback.field` takes it."""
    del now
    return base.times(moved)

  def field(self, point: np.ndarray, /) -> np.ndarray:
    """Returns J' M (z - z(point)), (n,) float64.

    The outputs z are those where the parameters are; J and M are those at the point.
    """
    function = pullback.field(
      self.objective, self._output_matrix, self._field_values, self.program.note
    )
    return self.runner.along(function, point)

  def batch_product(
    self,
    objective: Objective,
    mode: str,
    *,
    blocks: int | None = None,
    connected: Callable[[list[bool]], None] | None = None,
  ) -> Callable[..., Callable[[list[tf.Tensor]], list[tf.Tensor]]]:
    """Returns the function that makes products with a batch's matrix (`pullback.product`)."""
    del blocks  # there are none
    return pullback.product(objective, self._output_matrix, mode, connected)
