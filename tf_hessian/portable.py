"""Calls that not all operating systems have, and their substitutes."""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import errno
import mmap
import os
import stat
import threading

try:
  import fcntl
  import resource
except ImportError:
  _UNIX = False  # as in Windows, where an open file can't be renamed or removed
else:
  _UNIX = True

# Nothing waits for a pipe, no child has the file by accident, and no byte is changed.
_FLAGS = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_FOLDER = getattr(os, "O_DIRECTORY", 0)
_POSITION = threading.Lock()  # of files, where a place can't be given with a transfer


def cores() -> int:
  """Returns how many processors this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def address_space() -> int | None:
  """Returns the limit of this process's address space in bytes, or None."""
  if not _UNIX:
    return None
  soft, _ = resource.getrlimit(resource.RLIMIT_AS)
  return None if soft == resource.RLIM_INFINITY else soft


def open_no_link(path: str | os.PathLike, flags: int, /) -> int:
  """Returns the descriptor of a file, opened through no link.

  Args:
    path: the file.
    flags: those of `os.open`, besides the ones that each file here has.

  Raises:
    OSError: with `errno.ELOOP` if it is a link, or as `os.open` does.
  """
  if not _NO_LINK and os.path.islink(path):
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
  return os.open(path, flags | _FLAGS | _NO_LINK, 0o666)


def is_own(path: str | os.PathLike, /) -> bool:
  """Returns whether a path is this user's own, and no link."""
  try:
    found = os.lstat(path)
  except OSError:
    return False
  return not stat.S_ISLNK(found.st_mode) and (
    not hasattr(os, "getuid") or found.st_uid == os.getuid()
  )


def open_folder(path: str | os.PathLike, /) -> int:
  """Returns the descriptor of a folder; raises OSError where there is none."""
  return os.open(path, os.O_RDONLY | _FOLDER | _FLAGS)


def hold(file: int, /) -> None:
  """Locks an open file until it is closed.

  Raises:
    OSError: if another process has locked it, or its file system has no locks.
  """
  if _UNIX:  # elsewhere an open file is locked
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def open_files_have_names() -> bool:
  """Returns whether an open file can be renamed and removed."""
  return _UNIX


def reserve(file: int, size: int, /) -> None:
  """Gives a file room on the disk for so many bytes.

  Where the system can't, it only gives it the size.

  Raises:
    OSError: if there is no room.
  """
  if hasattr(os, "posix_fallocate"):
    os.posix_fallocate(file, 0, size)
  elif os.fstat(file).st_size < size:
    os.truncate(file, size)


def bypass_cache(file: int, /) -> None:
  """Lets transfers of a file bypass the page cache.

  Does nothing where the system can't.

  Raises:
    OSError: if its file system can't.
  """
  if _UNIX and hasattr(os, "O_DIRECT"):
    fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_DIRECT)


def read_at(file: int, buffers: Sequence[memoryview], place: int, /) -> int:
  """Reads into buffers from a place; returns the number of bytes."""
  if hasattr(os, "preadv"):
    return os.preadv(file, buffers, place)
  with _POSITION:
    os.lseek(file, place, os.SEEK_SET)
    found = os.read(file, len(buffers[0]))
  buffers[0][: len(found)] = found
  return len(found)


def write_at(file: int, buffers: Sequence[memoryview], place: int, /) -> int:
  """Writes buffers to a place; returns the number of bytes."""
  if hasattr(os, "pwritev"):
    return os.pwritev(file, buffers, place)
  with _POSITION:
    os.lseek(file, place, os.SEEK_SET)
    return os.write(file, buffers[0])


def private_memory(size: int, /) -> mmap.mmap:
  """Returns memory of this process alone, in huge pages if possible."""
  if not hasattr(mmap, "MAP_PRIVATE"):
    return mmap.mmap(-1, size)
  # Memory that is shared has small pages.
  memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
  if hasattr(mmap, "MADV_HUGEPAGE"):
    with contextlib.suppress(OSError):  # a kernel without them
      memory.madvise(mmap.MADV_HUGEPAGE)
  return memory
