"""Measures the shape of the code: python -m benchmarks.shape [--package=tf_hessian]

Prints, each with its limit and the worst five places: the longest parameter list, the class of most
methods, the longest file and function, public functions without annotations, questions for the
kind of an operator, imports against the arrows, and the lines in all. Ends with exit code 1 if a
limit is broken. It reads the files only, and imports nothing of them.
"""

import argparse
import ast
from collections.abc import Callable, Iterator, Sequence
import dataclasses
import io
import pathlib
import sys
import tokenize

from benchmarks import rooms

PARAMETERS = 14
METHODS = 25
FILE_LINES = 450
FUNCTION_LINES = 60
_WORST = 5

# Behind the door nobody asks for the kind of an operator, but the one file that answers.
BEHIND_THE_DOOR = ("slq", "planning", "experiments", "studies")
ANSWERS = "slq/matrix.py"
_QUESTIONS = ("isinstance", "hasattr", "getattr")

_Function = ast.FunctionDef | ast.AsyncFunctionDef
# Tokens that are no code.
_IDLE = {
  tokenize.COMMENT,
  tokenize.NL,
  tokenize.NEWLINE,
  tokenize.INDENT,
  tokenize.DEDENT,
  tokenize.ENDMARKER,
  tokenize.ENCODING,
}


@dataclasses.dataclass(frozen=True)
class Source:
  """A file of a package."""

  path: pathlib.Path
  folder: pathlib.Path  # of the package

  @property
  def name(self) -> str:
    """The path as it is shown, with the package's folder."""
    return self.path.relative_to(self.folder.parent).as_posix()

  @property
  def tree(self) -> ast.Module:
    """The syntax tree."""
    return rooms.tree(self.path)

  @property
  def text(self) -> str:
    """The content."""
    return self.path.read_text(encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Measure:
  """A number of the code, with its limit.

  Attributes:
    name: what is measured.
    value: the number.
    limit: the largest that is allowed; None for a number that is for information.
    worst: (number, place) of the places, the worst first.
    text: the number as it is shown; "" for the number itself.
  """

  name: str
  value: int
  limit: int | None
  worst: tuple[tuple[int, str], ...] = ()
  text: str = ""

  @property
  def broken(self) -> bool:
    """True if the number is above its limit."""
    return self.limit is not None and self.value > self.limit

  def lines(self) -> list[str]:
    """Returns the number, its limit and the worst places, a line each."""
    limit = "" if self.limit is None else f"limit {self.limit}"
    verdict = "BROKEN" if self.broken else ""
    head = f"{self.name:44s}{self.text or f'{self.value:,}':>12s}  {limit:10s}{verdict}"
    places = [f"  {number:8,}  {place}" for number, place in self.worst[:_WORST]]
    return [head.rstrip(), *places]


# Walks. ------------------------------------------------------------------------------------------


def sources(folder: pathlib.Path, /) -> list[Source]:
  """Returns the Python files of a folder, tests aside.

  Raises:
    FileNotFoundError: if there are none.
  """
  folder = folder.resolve()
  found = sorted(p for p in folder.rglob("*.py") if "tests" not in p.relative_to(folder).parts)
  if not found:
    raise FileNotFoundError(f"{folder}: there are no Python files; give the folder of a package")
  return [Source(p, folder) for p in found]


def functions(tree: ast.Module, /) -> Iterator[tuple[_Function, tuple[str, ...], bool]]:
  """Yields every function of a file: (function, its names, is a method)."""

  def walk(node, names, in_class):
    for child in ast.iter_child_nodes(node):
      if isinstance(child, _Function):
        yield child, (*names, child.name), in_class
        yield from walk(child, (*names, child.name, "<locals>"), False)
      elif isinstance(child, ast.ClassDef):
        yield from walk(child, (*names, child.name), True)
      else:
        yield from walk(child, names, in_class)

  yield from walk(tree, (), False)


def parameters(function: _Function, is_method: bool, /) -> list[ast.arg]:
  """Returns a function's parameters, without a method's self or cls."""
  a = function.args
  found = [*a.posonlyargs, *a.args]
  if is_method and found and found[0].arg in ("self", "cls"):
    found = found[1:]
  return [*found, *filter(None, [a.vararg]), *a.kwonlyargs, *filter(None, [a.kwarg])]


def code_lines(text: str, /) -> set[int]:
  """Returns the numbers of lines with code, not blank or comment."""
  found = set()
  for token in tokenize.generate_tokens(io.StringIO(text).readline):
    if token.type not in _IDLE:
      found.update(range(token.start[0], token.end[0] + 1))
  return found


def _docstring_lines(function):
  """Returns the numbers of the lines of a function's docstring."""
  if ast.get_docstring(function, clean=False) is None:
    return set()
  return set(range(function.body[0].lineno, function.body[0].end_lineno + 1))


def _place(source, line, name):
  return f"{source.name}:{line} {name}"


def _ranked(places):
  return tuple(sorted(places, key=lambda p: (-p[0], p[1])))


def _largest(name, places, limit):
  """Returns the `Measure` of the largest of (number, place)."""
  ranked = _ranked(places)
  return Measure(name, ranked[0][0] if ranked else 0, limit, ranked)


# Measures. ---------------------------------------------------------------------------------------


def longest_parameter_list(files: Sequence[Source], /) -> Measure:
  """Measures the parameters of functions; *args and **kwargs are one each."""
  places = [
    (len(parameters(f, method)), _place(s, f.lineno, ".".join(names)))
    for s in files
    for f, names, method in functions(s.tree)
  ]
  return _largest("longest parameter list", places, PARAMETERS)


def largest_class(files: Sequence[Source], /) -> Measure:
  """Measures the methods of classes, with properties, without nested functions."""
  places = []
  for s in files:
    for node in ast.walk(s.tree):
      if isinstance(node, ast.ClassDef):
        count = sum(1 for _ in _methods(node))
        places.append((count, _place(s, node.lineno, node.name)))
  return _largest("largest class, in methods", places, METHODS)


def _methods(node):
  """Yields the functions of a class's body, also below an if."""
  for child in ast.iter_child_nodes(node):
    if isinstance(child, _Function):
      yield child
    elif not isinstance(child, ast.ClassDef | ast.expr):
      yield from _methods(child)


def longest_file(files: Sequence[Source], /) -> Measure:
  """Measures the lines of files."""
  return _largest(
    "longest file, in lines", [(len(s.text.splitlines()), s.name) for s in files], FILE_LINES
  )


def longest_function(files: Sequence[Source], /) -> Measure:
  """Measures functions in lines of code: no docstring, blank line or comment."""
  places = []
  for s in files:
    code = code_lines(s.text)
    for f, names, _ in functions(s.tree):
      own = code.intersection(range(f.lineno, f.end_lineno + 1)) - _docstring_lines(f)
      places.append((len(own), _place(s, f.lineno, ".".join(names))))
  return _largest("longest function, in lines of code", places, FUNCTION_LINES)


def unannotated(files: Sequence[Source], /) -> Measure:
  """Counts public functions without annotations; the text is annotated / all.

  Public are functions and methods whose names, and those of their classes, don't begin with an
  underscore, and the dunder methods of such classes. All parameters and the return are annotated,
  but *args and **kwargs of dunder methods and the return of __init__.
  """
  places, count = [], 0
  for s in files:
    for f, names, method in functions(s.tree):
      if not _is_public(names):
        continue
      count += 1
      lacking = _lacking(f, method)
      if lacking:
        few = ", ".join([*lacking[:3], *(["..."] if len(lacking) > 3 else [])])
        places.append((len(lacking), _place(s, f.lineno, f"{'.'.join(names)}: {few}")))
  text = f"{count - len(places):,} / {count:,}"
  return Measure("public functions annotated", len(places), 0, _ranked(places), text)


def _is_dunder(name):
  return name.startswith("__") and name.endswith("__") and len(name) > 4


def _is_public(names):
  *around, own = names
  if "<locals>" in around or any(n.startswith("_") for n in around):
    return False
  return not own.startswith("_") or _is_dunder(own)


def _lacking(function, is_method):
  """Returns the names of the parameters without an annotation, and "return"."""
  dunder = is_method and _is_dunder(function.name)
  free = {function.args.vararg, function.args.kwarg} if dunder else set()
  missing = [
    a.arg for a in parameters(function, is_method) if a.annotation is None and a not in free
  ]
  if function.returns is None and not (is_method and function.name == "__init__"):
    missing.append("return")
  return missing


def operator_questions(files: Sequence[Source], /) -> Measure:
  """Counts isinstance, hasattr and getattr of something called operator, behind the door."""
  places = []
  for s in files:
    inside = s.path.relative_to(s.folder)
    if inside.parts[0] not in BEHIND_THE_DOOR or inside.as_posix() == ANSWERS:
      continue
    places += [
      (1, _place(s, node.lineno, ast.unparse(node)))
      for node in ast.walk(s.tree)
      if isinstance(node, ast.Call) and _asks(node)
    ]
  return Measure("questions for the kind of an operator", len(places), 0, _ranked(places))


def _asks(call):
  """Tells whether a call asks an operator for its kind."""
  if not (isinstance(call.func, ast.Name) and call.func.id in _QUESTIONS and call.args):
    return False
  first = call.args[0]
  name = getattr(first, "id", getattr(first, "attr", ""))  # of a name, or of an attribute
  return name.endswith("operator")


def imports_against_the_arrows(files: Sequence[Source], /) -> Measure:
  """Counts forbidden imports of rooms, also inside functions."""
  places = [
    (1, _place(s, line, f"{own or rooms.PACKAGE} imports {name}"))
    for s in files
    for own, name, line in rooms.against_the_arrows(s.path, s.folder)
  ]
  return Measure("imports against the arrows", len(places), 0, _ranked(places))


def total_lines(files: Sequence[Source], /) -> Measure:
  """Counts all lines; the places are the largest rooms."""
  count = {}
  for s in files:
    room = f"{s.folder.name}/{s.path.relative_to(s.folder).parts[0]}"
    count[room] = count.get(room, 0) + len(s.text.splitlines())
  ranked = _ranked((lines, room) for room, lines in count.items())
  return Measure("total lines", sum(count.values()), None, ranked)


MEASURES: tuple[Callable[[Sequence[Source]], Measure], ...] = (
  longest_parameter_list,
  largest_class,
  longest_file,
  longest_function,
  unannotated,
  operator_questions,
  imports_against_the_arrows,
  total_lines,
)


# Those that know the rooms of tf_hessian.
_OF_ROOMS = (operator_questions, imports_against_the_arrows)


def measure(folder: pathlib.Path, /) -> list[Measure]:
  """Returns all measures of a package, without rooms of other packages.

  Args:
    folder: of the package.

  Raises:
    FileNotFoundError: if it has no Python files.
    SyntaxError: if a file is no Python; it names the file.
  """
  files = sources(folder)
  left_out = () if folder.resolve().name == rooms.PACKAGE else _OF_ROOMS
  return [function(files) for function in MEASURES if function not in left_out]


def main(arguments: Sequence[str] | None = None) -> int:
  """Prints the measures; returns the exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--package",
    type=pathlib.Path,
    default=pathlib.Path(rooms.PACKAGE),
    help="folder of Python files; of another than tf_hessian the rooms are not looked at",
  )
  options = parser.parse_args(arguments)
  try:
    found = measure(options.package)
  except (OSError, SyntaxError) as e:
    parser.error(str(e))
  for m in found:
    print("\n".join(m.lines()))
  broken = [m.name for m in found if m.broken]
  print(f"broken: {', '.join(broken) or 'nothing'}")
  return int(bool(broken))


if __name__ == "__main__":
  sys.exit(main())
