"""Rooms of the package, and the rooms that each may import."""

import ast
from collections.abc import Iterator
import functools
import gc
import pathlib

PACKAGE = "tf_hessian"

# Room -> those that it may import besides itself; "" is the package's own __init__.
MAY_IMPORT = {
  "": set(),
  "__main__": {"bin", "numerics"},
  "installed": set(),
  "keras_inputs": set(),
  "notices": set(),
  "machine_memory": {"portable"},
  "portable": set(),
  "quiet": set(),
  "numerics": {"portable"},
  "models": set(),
  "data": {"keras_inputs", "reading"},
  "distribute": {"notices", "numerics", "portable", "records"},
  "files": {"portable"},
  "folders": {"files", "portable"},
  "reading": {"notices"},
  "records": set(),
  "curvature": {"distribute", "keras_inputs", "numerics", "reading"},
  "training": {"distribute", "files", "folders", "records"},
  "plotting": {"files", "numerics"},
  "spectrum": {"files", "numerics", "plotting", "spectrum_file"},
  "spectrum_file": {"files"},
  "slq": {
    "",
    "curvature",
    "distribute",
    "files",
    "folders",
    "machine_memory",
    "notices",
    "numerics",
    "portable",
    "records",
    "spectrum",
  },
  "landscape": {"curvature", "numerics", "plotting", "slq"},
  "callback": {"curvature", "folders", "numerics", "plotting", "records", "slq", "spectrum"},
  "evolution": {"curvature", "folders", "notices", "slq", "spectrum", "training"},
  "parts": {
    "",
    "curvature",
    "files",
    "folders",
    "notices",
    "numerics",
    "plotting",
    "records",
    "slq",
    "spectrum",
  },
  "planning": {"curvature", "distribute", "folders", "numerics", "slq"},
  "experiments": {
    "curvature",
    "data",
    "distribute",
    "files",
    "folders",
    "machine_memory",
    "models",
    "numerics",
    "planning",
    "plotting",
    "slq",
    "spectrum",
    "training",
  },
  "studies": {
    "curvature",
    "distribute",
    "experiments",
    "files",
    "numerics",
    "planning",
    "plotting",
    "slq",
    "spectrum",
    "training",
  },
  "bin": {
    "distribute",
    "experiments",
    "installed",
    "plotting",
    "portable",
    "quiet",
    "slq",
    "spectrum",
    "studies",
  },
}


def tree(path: pathlib.Path) -> ast.Module:
  """Returns the syntax tree of a file.

  Raises:
    SyntaxError: if it is no Python; it names the file.
  """
  return _parsed(path.read_text(encoding="utf-8"), str(path))


@functools.cache
def _parsed(text, name):
  # A finalizer that parses too, run meanwhile, makes Python 3.11 miscount the depth of the tree.
  gc.disable()
  try:
    return ast.parse(text, name)
  finally:
    gc.enable()


def imports(path: pathlib.Path, folder: pathlib.Path | None = None) -> Iterator[tuple[str, int]]:
  """Yields everything that a file imports, also inside functions: (dotted name, line).

  Args:
    path: the file.
    folder: of the package, to which relative imports are relative; None where there are none.

  Raises:
    ValueError: for a relative import without a folder.
  """
  for node in ast.walk(tree(path)):
    if isinstance(node, ast.Import):
      yield from ((alias.name, node.lineno) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      base = _absolute(node, path, folder) if node.level else node.module
      yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def _absolute(node, path, folder):
  """Returns the module that a relative import is from."""
  if folder is None:
    raise ValueError(f"{path}:{node.lineno}: relative import; write the whole name")
  inside = path.relative_to(folder.parent).parent.parts
  parts = inside[: len(inside) - node.level + 1]
  return ".".join([*parts, *([node.module] if node.module else [])])


def room(module: str, /) -> str:
  """Returns the room of a dotted name, "" for the package itself."""
  names = module.split(".")[1:]
  return names[0] if names and names[0] in MAY_IMPORT else ""


def room_of(path: pathlib.Path, folder: pathlib.Path, /) -> str:
  """Returns the room of a file of the package, known or not."""
  return path.relative_to(folder).with_suffix("").parts[0].replace("__init__", "")


def against_the_arrows(
  path: pathlib.Path, folder: pathlib.Path, /
) -> Iterator[tuple[str, str, int]]:
  """Yields a file's forbidden imports: (own room, dotted name, line).

  A file of a room that the table doesn't know may import nothing of the package.
  """
  own = room_of(path, folder)
  may = MAY_IMPORT.get(own, set()) | {own}
  for name, line in imports(path, folder):
    if name.split(".")[0] == PACKAGE and room(name) not in may:
      yield own, name, line
