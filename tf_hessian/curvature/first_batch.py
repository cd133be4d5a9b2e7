"""An operator of the first batch alone.

It is on copies of the parameters, perhaps in float64. The copies can be moved without moving the
model. In float64 they tell what rounding does, and differences of gradients along them have digits
enough to judge a product by.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

import keras
import tensorflow as tf

from tf_hessian.curvature import keras_internals
from tf_hessian.distribute import copies

if TYPE_CHECKING:
  from tf_hessian.curvature.operator import CurvatureOperator


def on_first_batch(operator: CurvatureOperator, /, *, float64: bool) -> CurvatureOperator:
  """Returns an operator of the same kind, on the first batch.

  It is of the operator's loss. The model and its loss are run as they are, with copies of its
  variables for values. So models that no config describes, with layers of their own and tables, are
  copied too. It runs on one device, and without recomputing activations.

  Args:
    operator: a `CurvatureOperator`.
    float64: whether to make copies and data float64, and let Keras layers compute in it. The
      result's `precision` tells whether all of the loss does.

  Raises:
    Exception: of any kind, where code of the model's own can't run in float64.
  """
  objective = operator.objective
  convert = _to_float64 if float64 else tf.identity
  wide = float64 and isinstance(operator.model, keras.Model)

  def terms(*arguments, **options):
    types = keras_internals.float64_arithmetic(operator.model) if wide else contextlib.nullcontext()
    with types:
      return objective.terms(*arguments, **options)

  copied = dataclasses.replace(
    objective,
    parameters=tuple(tf.Variable(convert(tf.convert_to_tensor(p))) for p in objective.parameters),
    context=tuple(convert(tf.convert_to_tensor(copies.first_copy(c))) for c in objective.context),
    terms=terms,
    pieces=None,
    losses=(),  # which have been looked at
    compute_dtypes=frozenset(("bfloat16", "float16", "float32")),
  )
  batch = tf.nest.map_structure(convert, next(iter(operator.batches)))
  return type(operator)(
    copied,
    None,
    [batch],
    seed=operator.seed,
    mode=operator.mode,
    deterministic=operator.deterministic,
    **operator.matrix_options,
  )


def _to_float64(tensor):
  return tf.cast(tensor, tf.float64) if tensor.dtype.is_floating else tf.identity(tensor)
