"""Folders of one run each, and of nothing else.

Nothing of anybody else's is written or removed in them. Such a folder was empty, or new, when it
was taken, and has carried a record of its run since, which is its first file. A folder without that
record is left as it is, whatever is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import secrets
import shutil
import tempfile
from typing import Any, TypeVar

from absl import logging
import filelock

from tf_hessian import files, portable

LOCK = "lock"
_SCRATCH = "tf_hessian-scratch-"


@dataclasses.dataclass(frozen=True)
class Kind:
  """The contents of folders of a kind.

  Each has a lock and temporary files besides.

  Attributes:
    name: what messages call the folder.
    record: name of the file that says which run it is.
    made: pattern of the other files that are made in it, by their full names, or FOLDER/NAME.
    below: pattern of the full names of folders that are made in it.
    beside: pattern of those of other runs, which it may be made around; nothing is done to them.
  """

  name: str
  record: str
  made: re.Pattern
  below: re.Pattern = re.compile("(?!)")
  beside: re.Pattern = re.compile("(?!)")


def as_path(workdir: str | os.PathLike, /) -> pathlib.Path:
  """Returns the path of a folder that a user names.

  Raises:
    TypeError: if it is none.

  >>> as_path("runs/own").name
  'own'
  """
  if not isinstance(workdir, (str, os.PathLike)):
    raise TypeError(f"workdir: expected the path of a folder, or None, got {workdir!r}")
  return pathlib.Path(workdir)


def look(path: str | os.PathLike, kind: Kind, /) -> str | None:
  """Returns the text of the record in a folder.

  None if it is empty, or there is no folder.

  Raises:
    TypeError: if it is no path.
    ValueError: if it is neither empty nor of the kind, or something else is in a file's place.
    OSError: if there is no such folder and can't be, or it can't be read.
  """
  path = as_path(path)
  try:
    entries = {e.name: e for e in os.scandir(path)}
  except FileNotFoundError:
    return None
  except OSError as e:
    raise _unwritable(path, kind, e) from e
  if kind.record in entries:
    _check_places(path, kind, entries.values())
    try:
      return files.read_own(path / kind.record)
    except UnicodeDecodeError as e:
      raise ValueError(
        f"{path / kind.record}: damaged ({e}); use another folder, or delete this folder with all "
        "that is in it"
      ) from e
  foreign = sorted(name for name, entry in entries.items() if not _harmless(kind, entry))
  if foreign:
    more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
    raise ValueError(
      f"{path}: it holds {', '.join(foreign[:3])}{more}, but no {kind.record} that says it is a "
      f"{kind.name} of tf_hessian; choose a new or empty folder. Nothing was written or removed"
    )
  return None


_Folder = TypeVar("_Folder", bound="OwnedFolder")


def recorded(path: str | os.PathLike, kind: Kind, /) -> dict[str, Any]:
  """Returns the record in a folder of a kind: a dict.

  It is empty if there is no record that can be read.
  """
  try:
    return dict(json.loads(files.read_own(pathlib.Path(path) / kind.record)))
  except (OSError, ValueError, TypeError):
    return {}


class OwnedFolder:
  """A folder of one run; a context manager that holds its lock.

  Args:
    path: the folder; made if needed.
    kind: its `Kind`.
    text: what to write as the record of a new run.
    check: function (text of the record that is there) that raises if it is another run's.

  Attributes:
    path: `pathlib.Path`.

  Raises:
    ValueError: if it is neither empty nor of the kind, in use, or another run's.
    OSError: if it can't be written.
  """

  def __init__(
    self, path: str | os.PathLike, kind: Kind, text: str, check: Callable[[str], object], /
  ) -> None:
    self.path = as_path(path)
    self._kind = kind
    found = look(path, kind)
    if found is not None:
      check(found)
    try:
      files.make_folder(self.path)
      if found is None:
        with contextlib.suppress(FileExistsError):  # of another process, in the meantime
          files.create_text(self.path / kind.record, text)
      look(path, kind)  # the lock may be something else
      self._lock = _lock(self.path / LOCK)
      self._lock.acquire(timeout=0)
    except filelock.Timeout as e:
      raise ValueError(f"{path}: another process is working in this folder") from e
    except OSError as e:
      raise _unwritable(path, kind, e) from e
    try:
      check(look(path, kind) or "")
      for folder in (self.path, *self._below()):
        files.remove_leftovers(folder)
    except BaseException:
      self.close()
      raise

  def __enter__(self: _Folder) -> _Folder:
    return self

  def __exit__(self, *unused: object) -> None:
    self.close()

  def close(self) -> None:
    """Lets others work here."""
    self._lock.release()

  def made(self) -> list[pathlib.Path]:
    """Returns the paths of the files that were made here, in order.

    Those in folders below are among them.
    """
    names = os.listdir(self.path)
    for folder in self._below():
      names += [f"{folder.name}/{name}" for name in os.listdir(folder)]
    return sorted(self.path / name for name in names if self._kind.made.fullmatch(name))

  def set_aside(self, path: pathlib.Path, owner: str | None, /) -> None:
    """Renames a file of another run, which is not to be lost.

    Args:
      path: the file.
      owner: digest of that run, or None if it does not say.
    """
    aside = path.with_name(f"{path.stem}_of_{owner or 'another'}{path.suffix}")
    os.replace(path, aside)
    logging.warning("%s: it is of another run: not used, and renamed to %s", path, aside.name)

  def _below(self):
    return [self.path / n for n in os.listdir(self.path) if self._kind.below.fullmatch(n)]


def digest(values: Mapping[str, Any], /) -> str:
  """Returns a digest of a dict of plain values.

  A value that is None counts as missing.
  """
  text = json.dumps({k: v for k, v in values.items() if v is not None}, sort_keys=True)
  return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@contextlib.contextmanager
def scratch() -> Iterator[pathlib.Path]:
  """Makes an empty temporary folder, and removes it in the end.

  The files in it are removed too. Those that processes left that were killed are removed as well.

  Yields:
    Its path.
  """
  root = pathlib.Path(tempfile.gettempdir())
  for entry in os.scandir(root):
    if re.fullmatch(rf"{_SCRATCH}[0-9a-f]{{16}}", entry.name):
      _remove_left(entry.path)
  path = root / f"{_SCRATCH}{secrets.token_hex(8)}"
  with _lock(f"{path}.{LOCK}"):
    path.mkdir(mode=0o700)
    try:
      yield path
    finally:
      shutil.rmtree(path, ignore_errors=True)
  with contextlib.suppress(OSError):
    os.unlink(f"{path}.{LOCK}")


def _remove_left(path):
  """Removes a scratch folder of this user, unless its process lives."""
  lock = f"{path}.{LOCK}"
  if portable.is_own(path) and portable.is_own(lock):  # so nobody can put a link in their place
    with contextlib.suppress(OSError, filelock.Timeout):
      with _lock(lock).acquire(timeout=0):
        shutil.rmtree(path)
      os.unlink(lock)


def _lock(path):
  return filelock.FileLock(path, mode=0o666, thread_local=False)


def _check_places(path, kind, entries, prefix=""):
  """Refuses all but files and folders where these belong."""
  for entry in entries:
    name = prefix + entry.name
    is_file = name in (kind.record, LOCK) or kind.made.fullmatch(name)
    if is_file and not entry.is_file(follow_symlinks=False):
      expected = "a file"
    elif kind.below.fullmatch(name) and not entry.is_dir(follow_symlinks=False):
      expected = "a folder"
    else:
      continue
    found = "a link" if entry.is_symlink() else "something else"
    raise ValueError(
      f"{path / name}: expected {expected} of this run, found {found}; remove it, or use another "
      "folder"
    )
  for entry in entries:
    if kind.below.fullmatch(prefix + entry.name):
      _check_places(path, kind, list(os.scandir(entry.path)), f"{prefix}{entry.name}/")


def _harmless(kind, entry):
  """Returns whether an entry leaves a folder without a record empty."""
  if kind.beside.fullmatch(entry.name):
    return entry.is_dir()
  return entry.is_file(follow_symlinks=False) and (
    files.is_temporary(entry.name)
    # An earlier version made the lock first.
    or (entry.name == LOCK and not entry.stat().st_size)
  )


def _unwritable(path, kind, error):
  return OSError(error.errno, f"can't write to the {kind.name} {path}: {error.strerror}")
