"""The problems of losses: the classes, and the functions of the same."""

import functools
import inspect

import numpy as np

from benchmarks.coverage.catalog import Item
from benchmarks.coverage.measure import NO_EXAMPLE, Outcome
from benchmarks.coverage.problems import BATCH, PROBABILITIES, Problem, around_loss

_CLASSES = 4
_SHARES = np.random.default_rng(4).dirichlet(np.ones(_CLASSES), BATCH)
_LABELS = np.array([0, 1, 0])  # two of a kind, for the losses that compare examples
_SEQUENCES = np.array([[1, 2], [2, 2], [3, 1]])  # 0 stands for "no label"
_STEPS = 6

# By the name of the function: (targets, shape of outputs, what outputs end with).
_DATA = {
  "categorical_generalized_cross_entropy": (_LABELS, (_CLASSES,), "softmax"),
  "categorical_hinge": (np.eye(_CLASSES)[_LABELS], (_CLASSES,), "softmax"),
  "circle": (_LABELS, (_CLASSES,), "tanh"),
  "ctc": (_SEQUENCES, (_STEPS, _CLASSES), "linear"),
  "sparse_categorical_crossentropy": (_LABELS, (_CLASSES,), "softmax"),
}
_DEFAULT = (_SHARES, (_CLASSES,), "softmax")
# Of parameters without a default.
_ARGUMENTS = {"q": 0.5}


def problems_of(item: Item, /) -> list[Problem] | Outcome:
  """Returns a loss's problems, also of logits, or an `Outcome`."""
  parameters = inspect.signature(item.object).parameters
  arguments = {
    name: _ARGUMENTS.get(name)
    for name, p in parameters.items()
    if p.default is inspect.Parameter.empty and name not in ("y_true", "y_pred")
  }
  if None in arguments.values():
    return Outcome(item.name, NO_EXAMPLE, f"argument {min(k for k in arguments)!r}")
  result = [_problem(item, arguments, "", None)]
  if "from_logits" in parameters:
    # Keras takes the logits of a softmax, where it sees that outputs come from one.
    result += [
      _problem(item, arguments, "probabilities", PROBABILITIES),
      _problem(item, arguments | {"from_logits": True}, "from_logits=True", "linear"),
    ]
  return result


def _problem(item, arguments, label, last):
  function = _function_name(item.object)
  targets, shape, usual = _DATA.get(function, _DEFAULT)

  def build(_):
    names = (item.short, function, f"'{function}'")
    if inspect.isclass(item.object):
      loss = item.object(**arguments)
    elif arguments:
      loss = functools.wraps(item.object)(functools.partial(item.object, **arguments))
    else:
      loss = item.object
    return around_loss(loss, targets, shape, last or usual, names)

  return Problem(item.name + (f" ({label})" if label else ""), build)


def _function_name(loss):
  """Returns the name of the function that a loss is, or that a class of losses calls."""
  if inspect.isclass(loss):
    return inspect.signature(loss).parameters["name"].default
  return loss.__name__
