"""TensorFlow's import without its lines that all is well.

These come from its C++ code before anything can be set, so the descriptor of the standard error is
turned away while it is imported; what else was written there is written afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import importlib.abc
import importlib.util
import os
import re
import sys
import tempfile
import types
from typing import BinaryIO

_SETTING = "TF_CPP_MIN_LOG_LEVEL"  # of TensorFlow: who has set it wants to see what it says
_NOISE = re.compile(
  rb"oneDNN custom operations are on|before absl::InitializeLog|Could not find cuda drivers"
  rb"|Unable to register cu[A-Z]+ factory|computation placer already registered"
  rb"|optimized to use available CPU instructions|To enable the following instructions"
)


def import_quietly() -> None:
  """Lets TensorFlow be imported without a word, whenever that will be.

  Its errors in C++ are left out afterwards too, as they come once more as exceptions. Does nothing
  if it is there already, or TF_CPP_MIN_LOG_LEVEL is set.
  """
  known = any(isinstance(finder, _Finder) for finder in sys.meta_path)
  if not known and "tensorflow" not in sys.modules and _SETTING not in os.environ:
    sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
  """Finds TensorFlow once, with a loader that is quiet."""

  def find_spec(
    self,
    name: str,
    path: Sequence[str] | None,  # noqa: ARG002 - of the interface
    target: types.ModuleType | None = None,  # noqa: ARG002
  ) -> importlib.machinery.ModuleSpec | None:
    if name != "tensorflow":
      return None
    sys.meta_path.remove(self)
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.loader is not None:
      execute = spec.loader.exec_module

      def exec_module(module):
        os.environ.setdefault(_SETTING, "3")
        with turned_away():
          execute(module)

      spec.loader.exec_module = exec_module  # type: ignore[method-assign]
    return spec


@contextlib.contextmanager
def turned_away() -> Iterator[None]:
  """Leaves TensorFlow's noise out of the standard error."""
  with contextlib.suppress(OSError, ValueError):
    sys.stderr.flush()
  try:
    before = os.dup(2)
  except OSError:  # there is none
    yield
    return
  with tempfile.TemporaryFile() as file, os.fdopen(before, "wb", closefd=True) as own:
    os.dup2(file.fileno(), 2)
    try:
      yield
    finally:
      os.dup2(own.fileno(), 2)
      _write_rest(file, own)


def _write_rest(file: BinaryIO, own: BinaryIO) -> None:
  file.seek(0)
  for line in file:
    if not _NOISE.search(line):
      own.write(line)
