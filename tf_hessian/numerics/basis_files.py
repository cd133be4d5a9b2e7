"""Files of bases, opened with room for all rows."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile

from tf_hessian import portable


def open_file(path: str | os.PathLike | None, size: int, /, *, direct: bool) -> int:
  """Returns the descriptor of a file with room for so many bytes.

  Args:
    path: the file, made if needed; None for one without a name in the temporary folder.
    size: the bytes.
    direct: bypass the page cache, where the file system can.

  Raises:
    OSError: if the file can't be written, is a link or has other names, or there is no room for it.
  """
  try:
    file = _scratch_file() if path is None else _own_file(path)
    try:
      if direct:
        with contextlib.suppress(OSError):  # this file system can't
          portable.bypass_cache(file)
      portable.reserve(file, size)
    except BaseException:
      os.close(file)
      raise
  except OSError as e:
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
      raise OSError(
        e.errno, f"{label(path)}: no room for the Lanczos basis of {size / 2**30:.3g} GiB"
      ) from e
    raise OSError(e.errno, f"can't write {label(path)}: {e.strerror}") from e
  return file


def label(path: str | os.PathLike | None, /) -> str | os.PathLike:
  """Returns the words that errors call a file by."""
  return f"a file in {tempfile.gettempdir()}" if path is None else path


def _own_file(path):
  """Returns the descriptor of a file that has no other name."""
  try:
    file = portable.open_no_link(path, os.O_RDWR | os.O_CREAT)
  except OSError as e:
    if e.errno == errno.ELOOP:
      raise OSError(e.errno, "it is a link; remove it") from e
    raise
  found = os.fstat(file)
  if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
    os.close(file)
    raise OSError(errno.EEXIST, "it is not a file, or has other names; remove it")
  return file


def _scratch_file():
  """Returns the descriptor of a file without a name."""
  with tempfile.TemporaryFile(prefix="tf_hessian-", buffering=0) as file:
    return os.dup(file.fileno())
