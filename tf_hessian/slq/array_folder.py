"""Folders whose files are arrays of one run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
import json
import os
from typing import Any

from absl import logging
import numpy as np

from tf_hessian import files, folders, records
from tf_hessian.slq import provenance


class ArrayFolder(folders.OwnedFolder):
  """A folder of one run, whose files each say so.

  A context manager that holds its lock.

  Args:
    path: the folder; made if needed.
    kind: its `folders.Kind`.
    form: name and version of the format of its files.
    identity: plain values that say which run it is.
    about: plain values to record in the files; none by default.
    free: names of fields of a record in which it may differ from the identity.

  Raises:
    ValueError: if it is neither empty nor of the kind, in use, or another run's.
    OSError: if it can't be written.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    kind: folders.Kind,
    form: tuple[str, int],
    identity: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
    /,
    *,
    free: Collection[str] = (),
  ) -> None:
    name, version = form
    identity = records.as_plain({"format_version": version, **identity})
    super().__init__(
      path,
      kind,
      json.dumps(identity, indent=2),
      lambda found: records.check_same(path, kind.record, found, identity, free=free),
    )
    # Of what is recorded, whose numbers may be of other types.
    run = folders.digest(folders.recorded(path, kind))
    self._about = {"format": name, "format_version": version, "run": run, **(about or {})}

  def write(self, name: str, arrays: Mapping[str, Any], /) -> None:
    """Writes a file of arrays, whole or not at all.

    Raises:
      OSError: if it can't be written.
    """
    about = self._about | {"versions": provenance.versions(), "device": provenance.device()}
    with files.replacing(self.path / name) as file:
      np.savez(file, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)

  def read(self, name: str, /) -> dict[str, np.ndarray] | None:
    """Returns the arrays of a file of this run, or None.

    A damaged file is not used, which a warning says; one of another run is renamed.
    """
    path = self.path / name
    if not path.exists():
      return None
    try:
      found = files.read_npz(path, follow=False)
      owner = json.loads(found.pop("about").tobytes())["run"]
    except (OSError, ValueError, KeyError, TypeError) as e:
      logging.warning("%s is damaged (%s), and not used", path, e)
      return None
    if owner == self._about["run"]:
      return found
    self.set_aside(path, owner)
    return None
