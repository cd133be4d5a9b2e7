"""The diagonal blocks of a model's matrix, by layer or variable."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import keras
import numpy as np

from tf_hessian.curvature import keras_internals
from tf_hessian.curvature.point import unique_names
from tf_hessian.numerics import checks

if TYPE_CHECKING:
  from tf_hessian.curvature.operator import CurvatureOperator

_BY = ("layer", "variable")


class Block(NamedTuple):
  """The variables of a block, and their parts of the vector.

  Attributes:
    name: that of the layer or variable.
    names, shapes: those of its variables.
    parts: their slices of a vector.
  """

  name: str
  names: tuple[str, ...]
  shapes: tuple[tuple[int, ...], ...]
  parts: tuple[slice, ...]

  @property
  def n(self) -> int:
    """Number of parameters."""
    return sum(part.stop - part.start for part in self.parts)


def check_by(by: str, /) -> None:
  """Raises ValueError for what there are no blocks by."""
  checks.check_choice("by", by, _BY)


def of_operator(operator: CurvatureOperator, by: str, /) -> list[Block]:
  """Returns the blocks of a matrix, in the order of the vector.

  Args:
    operator: the matrix.
    by: "layer" for all variables of a layer together, or "variable".
  """
  shapes = operator.parameter_shapes
  stops = np.cumsum([int(np.prod(s)) for s in shapes]).tolist()
  owners = owners_of(operator)
  groups: dict[tuple, list] = {}  # (path, owner) -> variables
  for i, (name, shape) in enumerate(zip(operator.parameter_names, shapes, strict=True)):
    start = stops[i - 1] if i else 0
    path = name if by == "variable" else name.rpartition("/")[0] or name
    # Layers and variables may have the same path.
    key = path, i if by == "variable" else id(owners[i])
    groups.setdefault(key, []).append((name, shape, slice(start, stops[i])))
  names = unique_names([path for path, _ in groups])
  found = zip(names, groups.values(), strict=True)
  return [Block(name, *map(tuple, zip(*group, strict=True))) for name, group in found]


def owners_of(operator: CurvatureOperator, /) -> list[keras.layers.Layer | None]:
  """Returns the innermost layer of each variable, where it is known."""
  model = operator.model
  if not isinstance(model, keras.Model):
    return [None] * len(operator.parameter_names)
  owners = {
    id(v.value): layer
    for layer in keras_internals.layers_of(model)  # those inside come later
    for v in layer.variables
  }
  return [owners.get(id(p)) for p in operator.objective.parameters]
