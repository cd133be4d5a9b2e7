"""Losses as users give them, and their names."""

from __future__ import annotations

from typing import Any

import keras


def as_loss(loss: Any, /, *, as_fit: bool) -> Any:
  """Returns a loss whose values for examples can be had.

  Args:
    loss: a Keras loss, its name or a function.
    as_fit: whether it is the one that `fit` minimises.

  Raises:
    TypeError, ValueError: for another thing, or one whose mean is not what it stands for.
  """
  if isinstance(loss, str):
    try:
      return keras.losses.get(loss)
    except ValueError as e:
      raise ValueError(f"loss: Keras knows no loss {loss!r}") from e
  if isinstance(loss, keras.losses.Loss):
    _check_reduction(loss, as_fit)
    _check_call(loss)
    return loss
  if isinstance(loss, type):
    name = loss.__name__
    raise TypeError(f"loss: expected an instance, got the class {name}; give {name}()")
  if callable(loss):
    return loss
  raise TypeError(f"loss: expected a Keras loss, its name or a function, got {loss!r}")


def _check_reduction(loss, as_fit):
  """Refuses losses of which `fit` takes the sum over a batch."""
  if loss.reduction == "sum" or as_fit and loss.reduction in (None, "none"):
    raise ValueError(
      f"loss {loss.name!r} has reduction {loss.reduction!r}"
      f"{'' if loss.reduction == 'sum' else ', of which fit() takes the sum'}, but the Hessian is "
      "that of the mean loss: use 'sum_over_batch_size' and multiply the result by the number of "
      "examples"
    )


def _check_call(loss):
  """Refuses a loss that is more than its method `call`."""
  owner = _owner(loss, "__call__")
  if not owner.__module__.startswith("keras."):
    raise ValueError(
      f"loss {loss.name!r}: class {owner.__name__} has a __call__ of its own, which would be left "
      "out. Put what it computes into call(y_true, y_pred), which gives the examples' losses"
    )


def _owner(loss, method):
  """Returns the class that a method of a loss is of."""
  return next(c for c in type(loss).__mro__ if method in vars(c))


def loss_axis(loss: Any, /) -> int:
  """Returns the axis that a loss of Keras's is along."""
  return int(loss.get_config().get("axis", -1)) if isinstance(loss, keras.losses.Loss) else -1


def loss_name(loss: Any, /) -> str:
  """Returns a loss's name, with its options."""
  if isinstance(loss, keras.losses.Loss):
    config = {k: v for k, v in loss.get_config().items() if isinstance(v, (str, int, float, bool))}
    return f"{type(loss).__name__}({', '.join(f'{k}={v!r}' for k, v in sorted(config.items()))})"
  return getattr(loss, "__name__", type(loss).__name__)


def loss_function_name(loss: Any, /) -> str | None:
  """Returns the name of one of Keras's own losses, else None."""
  fn = loss
  if isinstance(loss, keras.losses.Loss):
    if "call" in vars(loss) or not _owner(loss, "call").__module__.startswith("keras."):
      return None  # it may call Keras's and go on
    fn = getattr(loss, "fn", None)
  if fn is None or not (getattr(fn, "__module__", None) or "").startswith("keras."):
    return None
  return fn.__name__
