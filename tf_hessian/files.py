"""Files that are either whole or not there."""

import contextlib
import os
import pathlib
import tempfile

import numpy as np


@contextlib.contextmanager
def replacing(path, /, *, sync=True):
  """Opens a temporary file beside `path` for writing bytes, and renames it to `path` at the end.

  Args:
    path: the file to write or replace; its folder is made if needed.
    sync: force the contents to the disk first, so that they outlast a power failure.

  Yields:
    A binary file object. On an error the temporary file is removed and `path` stays as it was.

  Raises:
    OSError: if the folder can't be written or is full; it names `path`.
  """
  path = pathlib.Path(path)
  temporary = None
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
      dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
      temporary = file.name
      yield file
      file.flush()
      if sync:
        os.fsync(file.fileno())
    os.chmod(temporary, 0o666 & ~_umask())
    os.replace(temporary, path)
  except BaseException as e:
    if temporary is not None:
      with contextlib.suppress(OSError):
        os.unlink(temporary)
    if isinstance(e, OSError) and e.errno is not None:
      raise OSError(e.errno, f"can't write {path}: {os.strerror(e.errno)}") from e
    raise


def read_npz(path, /):
  """Returns the arrays of a `.npz` file: a dict.

  Raises:
    OSError: if there is no such file.
    ValueError: if it is damaged, or something else.
  """
  with open(path, "rb") as file:
    try:
      with np.load(file, allow_pickle=False) as saved:
        return {name: saved[name] for name in saved.files}
    except Exception as e:  # damaged archives fail in many ways inside zipfile and NumPy
      raise ValueError(f"{path}: not an .npz file of arrays, or damaged ({e})") from e


def write_text(path, text, /):
  """Writes a text file by `replacing`."""
  with replacing(path) as file:
    file.write(text.encode())


def _umask():
  mask = os.umask(0)
  os.umask(mask)
  return mask
