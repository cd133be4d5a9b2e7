"""Folders of searches for eigenpairs: state and result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import contextlib
import errno
import json
import os
import re
import shutil
import time
from typing import Any

import numpy as np

from tf_hessian import files, folders
from tf_hessian.numerics.results import Eigenpairs, EigenpairStatus
from tf_hessian.slq.array_folder import ArrayFolder

FORMAT, FORMAT_VERSION = "tf_hessian.eigenpairs", 1
RESULT, _STATE = "eigenpairs.npz", "search.npz"
KIND = folders.Kind(
  "folder of eigenpairs", "run.json", made=re.compile(r"eigenpairs\.(npz|json)|search\.npz")
)
_GOES_ON = (EigenpairStatus.OUT_OF_PRODUCTS, EigenpairStatus.COPIES_UNKNOWN)
_SAVE_SECONDS = 60.0
_SHARE = 0.05  # of the time, at most, that writing the state may take


class SearchFolder:
  """A folder for one search, or none.

  A context manager that holds its lock.

  Args:
    path: the folder, or None.
    identity: plain values that say which search it is.
    about: plain values to record in the result, such as names of parameters.

  Raises:
    ValueError: if it is neither empty nor of such a search, or of another one.
    OSError: if it can't be written.
  """

  def __init__(
    self, path: str | os.PathLike | None, identity: Mapping[str, Any], about: Mapping[str, Any]
  ) -> None:
    self._about = dict(about)
    self._saved, self._wait = time.monotonic(), _SAVE_SECONDS
    self._pending: dict[str, np.ndarray] | None = None
    self._folder = None
    if path is not None:
      # Earlier versions recorded the limit of the products. A search that has looked for copies is
      # as good as one that has not.
      form, free = (FORMAT, FORMAT_VERSION), ["max_products"]
      free += [] if identity.get("repeated") else ["repeated"]
      self._folder = ArrayFolder(path, KIND, form, identity, about, free=free)

  def __enter__(self) -> SearchFolder:
    return self

  def __exit__(self, error: object, *unused: object) -> None:
    if self._folder is None:
      return
    try:
      if error is not None and self._pending is not None:
        with contextlib.suppress(OSError):  # the error that there is says more
          self._write(_STATE, self._pending)
    finally:
      self._folder.close()

  def look_for_room(self, size: int, /) -> None:
    """Raises OSError unless so many bytes of a result can be written."""
    if self._folder is None:
      return
    free = shutil.disk_usage(self._folder.path).free
    if free < size:
      raise OSError(
        errno.ENOSPC,
        f"{self._folder.path}: no room for the eigenvectors: {size:,} bytes, and {free:,} are free",
      )

  def result(self, products: int, /) -> Eigenpairs | None:
    """Returns the result that is there, or None.

    Args:
      products: of a search. A result that had fewer, and would go on with more, does not count.
    """
    found = self._read(RESULT)
    if found is None:
      return None
    pairs = Eigenpairs.from_arrays(found)
    searched = pairs.num_products - len(pairs.values)
    return None if pairs.status in _GOES_ON and searched < products else pairs

  def state(self) -> dict[str, np.ndarray] | None:
    """Returns the state of a search that was interrupted, or None."""
    return self._read(_STATE)

  def save_state(self, state: Callable[[], dict[str, np.ndarray]] | None, /) -> None:
    """Writes the state of a search, at most each minute.

    It is written too if an error ends the search.

    Args:
      state: function () -> state, whose arrays stay as they are until this is called again; None if
        they are about to change.
    """
    begin = time.monotonic()
    if self._folder is None:
      return
    self._pending = None if state is None else state()
    if self._pending is None or begin - self._saved < self._wait:
      return
    self._write(_STATE, self._pending)
    self._saved = time.monotonic()
    self._wait = max(_SAVE_SECONDS, (self._saved - begin) / _SHARE)

  def save_result(self, pairs: Eigenpairs, /) -> None:
    """Writes the result, and a summary.

    The state is removed, unless a search with more products could go on from it.
    """
    if self._folder is None:
      return
    goes_on = pairs.status in _GOES_ON
    if goes_on and self._pending is not None:
      self._write(_STATE, self._pending)
    self._pending = None
    self._write(RESULT, pairs.arrays())
    summary = {"values": pairs.values.tolist(), "residuals": pairs.residuals.tolist()}
    summary |= {"status": pairs.status.name, "num_products": pairs.num_products, **self._about}
    path = self._folder.path
    files.write_text(path / RESULT.replace("npz", "json"), json.dumps(summary, indent=2))
    if not goes_on:
      with contextlib.suppress(FileNotFoundError):
        os.unlink(path / _STATE)

  def _write(self, name, arrays):
    self._folder.write(name, arrays)

  def _read(self, name):
    """Returns the arrays of this search's file, or None."""
    return None if self._folder is None else self._folder.read(name)
