"""Files that are either whole or not there.

What is written first has a name that nobody can foresee, and is opened as a new file, so never
through a link. The writer holds a lock on it until it has its own name. So what a writer that was
killed has left is known by its name and by that lock, and can be removed.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import errno
import os
import pathlib
import re
import secrets
import stat
from typing import BinaryIO

import numpy as np

from tf_hessian import portable

_TEMPORARY = re.compile(r"\.tf_hessian-[0-9a-f]{16}(\.keras)?")
# Of systems whose folders can't be forced to the disk, or not by those who may only write to them.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def replacing(
  path: str | os.PathLike, /, *, sync: bool = True, suffix: str = ""
) -> Iterator[BinaryIO]:
  """Opens a temporary file for bytes, and renames it at the end.

  It is beside `path`, which it becomes. If `path` is a link, the link itself is replaced, and what
  it points to stays as it is.

  Args:
    path: the file to write or replace; its folder is made if needed.
    sync: force the contents, then the folder, to the disk, so that they outlast a power failure.
    suffix: "" or ".keras", the end of the temporary file's name, for writers that ask for one.

  Yields:
    A binary file object; its `name` is the temporary file's path. On an error that file is removed
    and `path` stays as it was.

  Raises:
    OSError: if the folder can't be written or is full; it names `path`.
  """
  path = pathlib.Path(path)
  temporary = None
  try:
    make_folder(path.parent)
    with _new_file(path.parent, suffix) as file:
      temporary = file.name
      yield file
      file.flush()
      if sync:
        os.fsync(file.fileno())
      if not portable.open_files_have_names():
        file.close()
      os.replace(temporary, path)
    if sync:
      sync_folder(path.parent)
  except BaseException as e:
    if temporary is not None:
      with contextlib.suppress(OSError):
        os.unlink(temporary)
    if isinstance(e, OSError) and e.errno is not None:
      raise OSError(e.errno, f"can't write {path}: {os.strerror(e.errno)}") from e
    raise


def create_text(path: str | os.PathLike, text: str, /) -> None:
  """Writes a new text file, whole or not at all.

  It is never written over one that is there.

  Raises:
    FileExistsError: if there is anything of that name.
    OSError: if it can't be written.
  """
  path = pathlib.Path(path)
  with _new_file(path.parent, "") as file:
    try:
      file.write(text.encode())
      file.flush()
      os.fsync(file.fileno())
      if not portable.open_files_have_names():
        file.close()
      try:
        os.link(file.name, path)  # unlike a rename it fails if there is one
      except FileExistsError:
        raise
      except OSError:  # a file system without hard links
        with _new(path) as new:
          new.write(text.encode())
    finally:
      os.unlink(file.name)
  sync_folder(path.parent)


def write_text(path: str | os.PathLike, text: str, /) -> None:
  """Writes a text file by `replacing`."""
  with replacing(path) as file:
    file.write(text.encode())


def read_npz(
  path: str | os.PathLike | BinaryIO, /, *, follow: bool = True
) -> dict[str, np.ndarray]:
  """Returns the arrays of a `.npz` file: a dict.

  Args:
    path: the file, or a binary file object.
    follow: whether it may be a link, as files of users may.

  Raises:
    OSError: if there is no such file.
    ValueError: if it is damaged, or something else.
  """
  with contextlib.nullcontext(path) if hasattr(path, "read") else _reader(path, follow) as file:
    try:
      with np.load(file, allow_pickle=False) as saved:
        return {name: saved[name] for name in saved.files}
    except Exception as e:  # damaged archives fail in many ways inside zipfile and NumPy
      raise ValueError(f"{path}: not an .npz file of arrays, or damaged ({e})") from e


def read_own(path: str | os.PathLike, /) -> str:
  """Returns the text of a file that must not be a link.

  Raises:
    OSError: if there is none, or it is a link.
    ValueError: if it is not a file of UTF-8 text.
  """
  with _reader(path, follow=False) as file:
    return file.read().decode()


def make_folder(path: str | os.PathLike, /) -> None:
  """Makes a folder and those around it, as needed.

  They outlast a power failure.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    return
  missing = [p for p in (path, *path.parents) if not os.path.lexists(p)]
  path.mkdir(parents=True, exist_ok=True)
  for folder in missing:
    sync_folder(folder.parent)


def sync_folder(path: str | os.PathLike, /) -> None:
  """Forces the names in a folder to the disk, if possible."""
  try:
    file = portable.open_folder(path)
    try:
      os.fsync(file)
    finally:
      os.close(file)
  except OSError as e:
    if e.errno not in _NO_SYNC:
      raise


def is_temporary(name: str, /) -> bool:
  """Returns whether a name is that of a temporary file."""
  return bool(_TEMPORARY.fullmatch(name))


def remove_leftovers(folder: str | os.PathLike[str], /) -> None:
  """Removes the temporary files in a folder whose writers were killed."""
  for entry in os.scandir(folder):
    if is_temporary(entry.name) and entry.is_file(follow_symlinks=False):
      with contextlib.suppress(OSError):  # its writer lives, or has just finished
        if portable.open_files_have_names():
          with open(portable.open_no_link(entry.path, os.O_RDWR), "rb") as file:
            portable.hold(file.fileno())
            os.unlink(entry.path)
        else:
          os.unlink(entry.path)


def _new_file(folder, suffix):
  """Returns a temporary file in a folder, open and locked.

  It has the permissions of the umask.
  """
  while True:
    with contextlib.suppress(FileExistsError):
      file = _new(os.path.join(folder, f".tf_hessian-{secrets.token_hex(8)}{suffix}"))
      with contextlib.suppress(OSError):  # a file system without locks
        portable.hold(file.fileno())
      return file


def _new(path):
  flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
  return open(path, "w+b", opener=lambda name, _: portable.open_no_link(name, flags))


def _reader(path, follow):
  if follow:
    return open(path, "rb")
  file = os.fdopen(portable.open_no_link(path, os.O_RDONLY), "rb")
  if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
    file.close()
    raise ValueError(f"{path}: not a file")
  return file
