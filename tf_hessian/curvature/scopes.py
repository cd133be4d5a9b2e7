"""Scopes in which Keras variables and random generators have other values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import contextlib
import random
import threading
from typing import Any

import keras
import tensorflow as tf

_place = threading.local()
_LOOSE = 2**20  # more than a model has generators of its own, or targets are drawn


def is_seed(variable: keras.Variable, /) -> bool:
  """Returns whether a variable is the state of a `keras.random.SeedGenerator`."""
  return variable.path.endswith("seed_generator_state") and tuple(variable.shape) == (2,)


def seed_state(seed: tf.Tensor, number: int, variable: keras.Variable, /) -> tf.Tensor:
  """Returns the state (2,) of a random generator.

  Args:
    seed: (2,) int32, that of a batch.
    number: of the generator.
    variable: that holds its state.
  """
  folded = tf.random.experimental.stateless_fold_in(seed, number)
  return tf.cast(tf.bitwise.bitwise_and(folded, 0x7FFFFFFF), variable.dtype)


@contextlib.contextmanager
def python_random_kept() -> Iterator[None]:
  """Leaves Python's random numbers alone, of which new layers make seeds."""
  state = random.getstate()
  try:
    yield
  finally:
    random.setstate(state)


@contextlib.contextmanager
def in_custom_gradient() -> Iterator[None]:
  """Marks a function with a gradient of its own."""
  before = getattr(_place, "custom", False)
  _place.custom = True
  try:
    yield
  finally:
    _place.custom = before


class _Scope(keras.StatelessScope):
  """A scope whose changes of variables can't be differentiated through.

  A variable that is assigned and then read has no gradient either. The states of random generators
  that are read without a value, as those of Keras and others that no model holds, are made from a
  seed.
  """

  def __init__(self, seed: tf.Tensor | None) -> None:
    super().__init__(collect_losses=True)
    self.read: set[int] = set()  # ids of the variables that were read
    self._seed = seed
    self._graph = tf.compat.v1.get_default_graph()
    self._loose: list[keras.Variable] = []  # kept, so that no other gets their ids

  def add_update(self, update: tuple[keras.Variable, Any]) -> None:
    variable, value = update
    if is_seed(variable) and self._in_loop():
      raise ValueError(
        "random numbers are drawn in a loop of TensorFlow, such as that of a recurrent layer: its "
        "steps would all draw the same; draw them before the loop, or unroll it (unroll=True)"
      )
    super().add_update((variable, tf.stop_gradient(value)))

  def get_current_value(self, variable: keras.Variable) -> Any:
    value = super().get_current_value(variable)
    self.read.add(id(variable))
    if value is not None and variable.trainable and getattr(_place, "custom", False):
      raise ValueError(
        f"variable {variable.path!r} is read in a function with a gradient of its own "
        "(keras.remat, tf.recompute_grad, tf.custom_gradient), which would miss it: leave remat "
        "out, as recompute_blocks saves memory, or give the function the variable's value"
      )
    if value is not None or not is_seed(variable):
      return value
    if self._seed is None:
      raise ValueError(
        "recompute_blocks: random numbers are drawn by keras.random without a generator, or by one "
        "that the model does not hold, so that a block can't draw the same again: make a "
        "keras.random.SeedGenerator an attribute of the layer"
      )
    value = seed_state(self._seed, _LOOSE + len(self._loose), variable)
    self._loose.append(variable)
    self.state_mapping[id(variable)] = value
    return value

  def _in_loop(self):
    """Returns whether a loop inside the scope is built."""
    graph = tf.compat.v1.get_default_graph()
    while graph is not None and graph is not self._graph:
      if type(graph).__name__ == "WhileBodyFuncGraph":  # TensorFlow 2.16 to 2.21
        return True
      graph = getattr(graph, "outer_graph", None)
    return False


def with_values(
  mapping: Iterable[tuple[keras.Variable, Any]], /, seed: tf.Tensor | None = None
) -> keras.StatelessScope:
  """Returns a scope in which Keras variables have other values.

  The values may have another dtype than the variables.

  Args:
    mapping: iterable of (Keras variable, value).
    seed: (2,) int32, from which random generators without a value have their states; by default
      there may be none.
  """
  scope = _Scope(seed)
  scope.state_mapping.update((id(v), value) for v, value in mapping)  # Keras's way casts to a dtype
  return scope
