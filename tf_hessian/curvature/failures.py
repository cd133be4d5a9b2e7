"""Failures of a pass over the data: their batch, variable and worker.

They stop the pass, or make its sums NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import tensorflow as tf

from tf_hessian.curvature.batches import Batches
from tf_hessian.curvature.objective import Objective
from tf_hessian.distribute import copies

if TYPE_CHECKING:
  from tf_hessian.curvature.passes import DataPass


class NonFiniteError(ValueError):
  """NaN or infinity in a loss, gradient or product.

  >>> import numpy as np
  >>> import tensorflow as tf
  >>> import tf_hessian
  >>> point, data = [tf.Variable([np.nan])], [np.ones(1, "float32")]
  >>> try:
  ...   tf_hessian.HessianOperator(point, lambda p, b: b * p[0][0] ** 2, data).check_point()
  ... except tf_hessian.NonFiniteError as e:
  ...   print(str(e).partition(",")[0])
  variable 'Variable' has NaN or infinity in 1 of 1 entries
  """


class DataChangedError(ValueError):
  """A batch with other values than when it was first read."""


class ModelChangedError(ValueError):
  """A loss that Python computes otherwise than when it was traced."""


def no_operator(value: object, expected: str = "a HessianOperator", /) -> TypeError:
  """Returns the error for an argument that is no operator."""
  return TypeError(
    f"operator: expected {expected}, got {type(value).__name__}; of a model, "
    "tf_hessian.HessianOperator(model, loss, dataset)"
  )


# Of memory and of other processes; who runs the pass knows more of them.
_NOT_OF_DATA = (
  tf.errors.AbortedError,
  tf.errors.CancelledError,
  tf.errors.DeadlineExceededError,
  tf.errors.ResourceExhaustedError,
  tf.errors.UnavailableError,
)


@contextlib.contextmanager
def explained(
  what: str, data_pass: DataPass, arguments: Sequence[tf.Tensor], batches: Batches, /
) -> Iterator[None]:
  """Explains TensorFlow's errors in a pass that is run inside.

  Args:
    what: what the pass computes, for messages.
    data_pass: the `DataPass`.
    arguments: tensors that it is called with.
    batches: the `Batches`.

  Raises:
    ValueError: if the data set ends early, or a batch fails; names it.
  """
  try:
    yield
  except tf.errors.OutOfRangeError as e:
    raise ValueError(f"{what}: the data set ended before its {batches.num_batches} batches") from e
  except _NOT_OF_DATA:
    raise
  except tf.errors.OpError as e:
    raise _explanation(what, data_pass, arguments, batches, e) from e


def _explanation(what, data_pass, arguments, batches, error):
  """Returns the error that says why a pass failed.

  The cause is the data, a batch, or TensorFlow's graph.
  """
  b = 0
  try:
    change = None if batches.cached else batches.changes()
    if change:
      return DataChangedError(f"{what}: {change}; nothing of this pass counts")
    for b, batch in enumerate(batches):
      try:
        data_pass.single(b, batch, *arguments)
      except tf.errors.OpError as e:
        return ValueError(f"{what}: batch {b} of the data set fails: {_reason(e)}")
  except tf.errors.OpError as e:
    return ValueError(f"{what}: the data set can't be read again: {_reason(e)}")
  return ValueError(
    f"{what}: TensorFlow fails to run its own graph, though each batch passes without one: "
    f"{_reason(error)}"
  )


def _reason(error):
  text = error.message.split(" [Op:")[0].replace("{{function_node __wrapped__", "{")
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  return " ".join(lines)[-600:]


def raise_not_finite(
  what: str,
  data_pass: DataPass,
  arguments: Sequence[tf.Tensor],
  batches: Batches,
  objective: Objective,
  /,
) -> NoReturn:
  """Raises a NonFiniteError for the first batch that is not finite.

  It names the batch and the variable; of a loss, the term.

  Args:
    what: what the pass has computed: "loss", "gradient" or "product".
    data_pass: the `DataPass`.
    arguments: tensors that it was called with.
    batches: the `Batches`.
    objective: the `Objective`.
  """
  for b, batch in enumerate(batches):
    values = data_pass.single(b, batch, *arguments)
    bad = [i for i, v in enumerate(values) if not np.isfinite(v.numpy()).all()]
    if not bad:
      continue
    if what == "loss":
      names = objective.term_names * 2
      cause = f"{names[bad[0]]} is {values[bad[0]].numpy()}"
    else:
      cause = f"the part of variable {objective.names[bad[0]]!r} has NaN or infinity"
    raise NonFiniteError(
      f"{what}: in batch {b} of the data set {cause}{_bad_parameter(objective)}{_by(data_pass)}"
    )
  raise NonFiniteError(
    f"{what}: NaN or infinity in the sum over the data set{_by(data_pass)}, but in no batch that "
    "this process computes alone"
  )


def check_variable(name: str, value: tf.Tensor | tf.Variable, /) -> None:
  """Raises a NonFiniteError unless a variable has finite numbers.

  Each copy on a replica must have them too.

  Args:
    name: its name.
    value: a tensor or variable; only floating-point ones are looked at.
  """
  if not value.dtype.is_floating:
    return
  for copy in copies.copies_of(value) or (value,):
    values = tf.convert_to_tensor(copy).numpy()
    if not np.isfinite(np.sum(values)) and not np.isfinite(values).all():
      bad = np.argwhere(~np.isfinite(values))
      raise NonFiniteError(
        f"variable {name!r} has NaN or infinity in {len(bad)} of {values.size} entries, first "
        f"at {tuple(map(int, bad[0]))}: take a checkpoint from before that, or train anew"
      )


def _by(data_pass):
  """Returns who computed what is not finite, where several do."""
  return f"; computed by {', '.join(data_pass.culprits)}" if data_pass.culprits else ""


def _bad_parameter(objective):
  for name, p in zip(objective.names, objective.parameters, strict=True):
    if not np.isfinite(p.numpy()).all():
      return f"; the value of variable {name!r} itself is not finite"
  return ""
