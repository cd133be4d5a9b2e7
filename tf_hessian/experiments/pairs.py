"""The search for eigenpairs that a command asks for."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

from tf_hessian.curvature.operator import CurvatureOperator
from tf_hessian.slq.eigenpairs import top_eigenpairs
from tf_hessian.slq.matrix import as_matrix
from tf_hessian.slq.search_folder import RESULT


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Choices of the eigenpairs that are looked for, as in `top_eigenpairs`."""

  largest: int = 10
  smallest: int = 0
  tolerance: float | None = None
  max_products: int | None = None
  basis_size: int | None = None
  repeated: bool = True


def find(
  operator: CurvatureOperator,
  wanted: Pairs,
  folder: str | os.PathLike,
  /,
  *,
  seed: int,
  check: bool,
  progress: bool,
  config: Any,
) -> str:
  """Finds eigenpairs in a folder; returns a report of some lines.

  Args:
    operator: the operator.
    wanted: the pairs.
    folder: where the search goes on, and the result goes.
    seed: seed of the start vector.
    check: check the operator first.
    progress: show progress.
    config: plain values to record.

  Raises:
    ValueError: for bad arguments, another search's folder or a matrix that can't be relied on.
    OSError: if the folder can't be written, or (ClusterError) other processes are gone.
  """
  if check and not pathlib.Path(folder, RESULT).exists():
    as_matrix(operator).check()
  found = top_eigenpairs(
    operator,
    **dataclasses.asdict(wanted),
    seed=seed,
    workdir=folder,
    progress=progress,
    config=config,
  )
  rows = zip(found.values.tolist(), found.residuals.tolist(), strict=True)
  lines = ["    eigenvalue  residual", *(f"{value:14.8g}  {error:8.2g}" for value, error in rows)]
  lines += [f"{'status':21s} {found.status.value}", f"{'products':21s} {found.num_products}"]
  lines += [f"{'loss':21s} {operator.loss():.8g}", f"{'eigenvectors':21s} {folder}/{RESULT}"]
  return "\n".join(lines)
