"""A dense matrix on disk, which survives its process's death.

It is computed by blocks of columns. In the folder are:

  matrix.json         what the matrix is of; another one is refused
  columns_NNNNNN.npz  a block of columns from column NNNNNN on, and of them the upper triangle: each
                      from row NNNNNN on. Whole or not there, so the next start goes on after them
  eigenvalues.npz     its eigenvalues, once `exact_spectrum` has them
  matrix.npy          the whole matrix, of `dense_hessian`: made of the blocks each time
  lock                held while a process works here
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import os
import re
from typing import Any

from absl import logging
import numpy as np

from tf_hessian import files, folders, portable
from tf_hessian.slq.array_folder import ArrayFolder

FORMAT, FORMAT_VERSION = "tf_hessian.matrix", 1
EIGENVALUES, _WHOLE = "eigenvalues.npz", "matrix.npy"
_BLOCK = r"columns_\d{6,}\.npz"
KIND = folders.Kind(
  "folder of a matrix",
  "matrix.json",
  made=re.compile(rf"{_BLOCK}|{re.escape(EIGENVALUES)}|{re.escape(_WHOLE)}"),
)


class MatrixFolder(ArrayFolder):
  """The folder of one matrix; a context manager that holds its lock.

  Args:
    path: the folder; made if needed.
    identity: plain values that say which matrix it is.

  Raises:
    ValueError: if it is neither empty nor of a matrix, in use, or another one's.
    OSError: if it can't be written.
  """

  def __init__(self, path: str | os.PathLike, identity: Mapping[str, Any], /) -> None:
    super().__init__(path, KIND, (FORMAT, FORMAT_VERSION), identity)

  def columns(self, start: int, shape: tuple[int, int], /) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns a block of columns as `save_columns` was given it.

    None if it is not there, or damaged, which a warning says.

    Args:
      start: number of its first column.
      shape: that of the block.
    """
    found = self.read(_block(start))
    if found is None:
      return None
    shapes = {"columns": shape, "judged": (2,)}
    if {n: a.shape for n, a in found.items() if a.dtype == np.float64} != shapes:
      logging.warning("%s is damaged, and not used", self.path / _block(start))
      return None
    return found["columns"], found["judged"]

  def save_columns(self, start: int, columns: np.ndarray, judged: np.ndarray, /) -> None:
    """Writes a block of columns, and what `Triangle.judge` has said of it."""
    self.write(_block(start), {"columns": columns, "judged": judged})

  @contextlib.contextmanager
  def new_matrix(self, size: int, /) -> Iterator[np.ndarray]:
    """Makes the file of the whole matrix, which `matrix` opens afterwards.

    Yields:
      (size, size) float64, mapped into memory, to be filled.

    Raises:
      OSError: if there is no room for it.
    """
    with files.replacing(self.path / _WHOLE) as file:
      array = np.lib.format.open_memmap(file.name, "w+", np.float64, (size, size))
      portable.reserve(file.fileno(), array.offset + array.nbytes)  # writing can't fail then
      yield array
      array.flush()

  def matrix(self) -> np.ndarray:
    """Returns the whole matrix, mapped into memory.

    It may be changed, which the file is not.
    """
    return np.load(self.path / _WHOLE, mmap_mode="c")


def held_bytes(path: str | os.PathLike[str], /) -> int:
  """Returns the bytes that a folder's blocks take.

  Temporary files, which are removed at the next start, count too; no folder has 0.
  """
  if not os.path.isdir(path):
    return 0
  return sum(
    e.stat(follow_symlinks=False).st_size
    for e in os.scandir(path)
    if re.fullmatch(_BLOCK, e.name) or files.is_temporary(e.name)
  )


def _block(start):
  return f"columns_{start:06d}.npz"
