"""The point that a matrix is of."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
import contextlib
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from tf_hessian.numerics import checks

if TYPE_CHECKING:
  from tf_hessian.curvature.objective import Objective


def unique_names(names: Sequence[str], /) -> list[str]:
  """Returns names of which none is twice: "_1" and so on is added to the second.

  Numbers that would make the name of another one are passed over.
  """
  seen: collections.Counter[str] = collections.Counter()
  taken, result = set(names), []
  for name in names:
    found, number = name, seen[name]
    while number and (found := f"{name}_{number}") in taken:
      number += 1
    taken.add(found)
    seen[name] = number + 1
    result.append(found)
  return result


class Point:
  """The variables of an objective, as one vector.

  It is part of a `CurvatureOperator`.
  """

  objective: Objective

  def __reduce__(self) -> str:
    raise TypeError(
      f"{type(self).__name__}: an operator can't be pickled or copied, since its functions are "
      "TensorFlow's, of this process; make one in each process, from the model's file"
    )

  def parameters(self) -> np.ndarray:
    """Returns the current point, (n,) float64."""
    return np.concatenate(
      [np.ravel(p.numpy()).astype(np.float64) for p in self.objective.parameters]
    )

  def unflatten(self, vector: np.ndarray, /) -> dict[str, np.ndarray]:
    """Returns a vector's parts by variable.

    Args:
      vector: (n,), such as an eigenvector.

    Returns:
      Name of a variable -> array of its shape, in the order of the vector. They are copies, of the
      vector's dtype. Names are those of `parameter_names`; of equal ones, the second has "_1"
      added, and so on, or the next number that is no name.

    Raises:
      ValueError: for another shape.
    """
    vector = np.asarray(vector)
    sizes = self._sizes()
    if vector.dtype.kind not in "fiub":
      vector = checks.as_vector("vector", vector, sum(sizes))
    if vector.shape != (sum(sizes),):
      raise ValueError(f"vector: expected shape ({sum(sizes)},), got {vector.shape}")
    parts = np.split(vector, np.cumsum(sizes)[:-1])
    return {
      name: np.array(part.reshape(shape))
      for name, part, shape in zip(self._names(), parts, self.objective.shapes, strict=True)
    }

  def flatten(self, arrays: Mapping[str, np.ndarray], /) -> np.ndarray:
    """Returns the vector of parts by variable, as `unflatten` returns them.

    Args:
      arrays: name of a variable -> array of its shape; zeros for those that are left out.

    Returns:
      (n,) float64.

    Raises:
      TypeError: for what is no dict, or complex.
      ValueError: for unknown names, or other shapes.
    """
    names, shapes = self._names(), self.objective.shapes
    if not isinstance(arrays, Mapping):
      raise TypeError(
        f"arrays: expected a dict: name of a variable -> array, got {type(arrays).__name__}"
      )
    for name, array in arrays.items():
      if name not in names:
        raise ValueError(
          f"arrays: unknown variable {name!r}{checks.nearest(name, names)}; there are "
          f"{', '.join(names)}"
        )
      expected = shapes[names.index(name)]
      if np.iscomplexobj(array):
        raise TypeError(f"arrays: {name}: expected real numbers, got complex ones")
      if np.shape(array) != expected:
        raise ValueError(f"arrays: {name}: expected shape {expected}, got {np.shape(array)}")
    return np.concatenate(
      [
        np.ravel(np.asarray(arrays.get(name, np.zeros(shape)), np.float64))
        for name, shape in zip(names, shapes, strict=True)
      ]
    )

  @contextlib.contextmanager
  def at(self, point: np.ndarray, /) -> Iterator[None]:
    """Puts the model at another point, and back.

    Afterwards its variables have bitwise the values that they had, also after an error or Ctrl-C.
    Of several processes, each moves its own variables.

    Args:
      point: (n,) of finite numbers; rounded to the variables' types.

    Raises:
      TypeError: if the matrix is of tensors, which can't be moved.
      ValueError: for another shape, or numbers that are not finite.
    """
    point = checks.as_vector("point", point, sum(self._sizes()))
    fixed = [
      n
      for n, p in zip(self._names(), self.objective.parameters, strict=True)
      if not isinstance(p, tf.Variable)
    ]
    if fixed:
      raise TypeError(f"at(): can't move what is no variable: {', '.join(fixed)}")
    before = [p.numpy() for p in self.objective.parameters]
    try:
      self.assign(point)
      yield
    finally:
      try:
        self._assign(before)
      except BaseException:  # a second Ctrl-C
        self._assign(before)
        raise

  def assign(self, point: np.ndarray, /) -> None:
    """Sets the variables to a point (n,), rounded to their types.

    Raises:
      TypeError, ValueError: for another shape, or numbers that the types can't hold.
    """
    point = checks.as_vector("point", point, sum(self._sizes()))
    parts = self.unflatten(point)
    for p, (name, value) in zip(self.objective.parameters, parts.items(), strict=True):
      if max(value.max(initial=0), -value.min(initial=0)) > float(p.dtype.max):
        raise ValueError(f"point: it has numbers too large for {name!r}, which is {p.dtype.name}")
    self._assign(parts.values())

  def _assign(self, values):
    for p, value in zip(self.objective.parameters, values, strict=True):
      p.assign(tf.cast(value, p.dtype))

  def _sizes(self):
    return [int(np.prod(s)) for s in self.objective.shapes]

  def _names(self):
    return unique_names(self.objective.names)
