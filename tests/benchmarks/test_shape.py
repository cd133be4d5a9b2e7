"""The shape of the code, measured on source files that are made up."""

import pathlib
import re
import subprocess
import sys
import textwrap

import pytest

from benchmarks import rooms, shape

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMES = "abcdefghijklmnop"  # of parameters
# The measures that hold in every folder, whatever it imports.
SIZES = (
  shape.longest_parameter_list,
  shape.largest_class,
  shape.longest_file,
  shape.longest_function,
)


@pytest.fixture
def package(tmp_path):
  """Returns a function: path=text, ... -> the sources of a package of these files.

  In paths, "__" between names stands for "/".
  """

  def make(**files):
    for name, text in files.items():
      path = tmp_path / "tf_hessian" / f"{re.sub(r'(?<=.)__(?=.)', '/', name)}.py"
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(textwrap.dedent(text))
    return shape.sources(tmp_path / "tf_hessian")

  return make


# Parameters.


@pytest.mark.parametrize(
  "code, count",
  [
    ("def f(): pass", 0),
    ("def f(a, /, b, *, c=1): pass", 3),
    ("def f(a, *args, b, **kwargs): pass", 4),
    ("async def f(a, b): pass", 2),
    ("def f(self, a): pass", 2),  # no method
    ("class A:\n  def f(self, a, *, b): pass", 2),
    ("class A:\n  @classmethod\n  def f(cls, a): pass", 1),
    ("class A:\n  @staticmethod\n  def f(a, b): pass", 2),
    ("class A:\n  if True:\n    def f(self, a): pass", 1),
    ("def g():\n  def f(a, b, c): pass", 3),
    ("class A:\n  def g(self):\n    def f(self, a): pass", 2),
    ("f = lambda a, b: a", 0),
  ],
)
def test_parameters_are_counted_without_self_and_cls(package, code, count):
  assert shape.longest_parameter_list(package(a=code)).value == count


def test_longest_parameter_lists_are_named_with_their_places(package):
  files = package(
    a="\ndef f(a): pass\ndef g(a, b, c): pass", numerics__b="class A:\n  def h(self, a, b): pass"
  )
  assert shape.longest_parameter_list(files).worst == (
    (3, "tf_hessian/a.py:3 g"),
    (2, "tf_hessian/numerics/b.py:2 A.h"),
    (1, "tf_hessian/a.py:2 f"),
  )


# Classes.


@pytest.mark.parametrize(
  "body, count",
  [
    ("x = 1", 0),
    ("def f(self): pass\ndef _g(self): pass\ndef __len__(self): return 0", 3),
    ("@property\ndef f(self): pass\n@f.setter\ndef f(self, x): pass", 2),
    ("def f(self):\n  def nested(): pass\n  return nested", 1),
    ("if x:\n  def f(self): pass\nelse:\n  def g(self): pass", 2),
    ("class B:\n  def f(self): pass\n  def g(self): pass\ndef h(self): pass", 2),  # B has more
    ("async def f(self): pass", 1),
    ("f = lambda self: 0", 0),
  ],
)
def test_methods_are_counted_without_nested_functions(package, body, count):
  files = package(a="class A:\n" + textwrap.indent(body, "  "))
  assert shape.largest_class(files).value == count


def test_largest_class_is_named(package):
  files = package(a="class A:\n  def f(self): pass", b="x = 1\nclass B:\n  pass")
  assert shape.largest_class(files).worst == (
    (1, "tf_hessian/a.py:1 A"),
    (0, "tf_hessian/b.py:2 B"),
  )


# Files and functions.


def test_files_are_counted_in_lines(package):
  found = shape.longest_file(package(a="x = 1\n\n# comment\n", b="x = 1"))
  assert found.worst == ((3, "tf_hessian/a.py"), (1, "tf_hessian/b.py"))


@pytest.mark.parametrize(
  "code, count",
  [
    ("def f(): pass", 1),
    ("def f():\n  x = 1\n\n  # comment\n  return x\n", 3),
    ("def f():\n  x = 1  # comment\n  return x\n", 3),
    ('def f():\n  """Does it."""\n  return 1\n', 2),
    ('def f():\n  """Does it.\n\n  Twice.\n  """\n  return 1\n', 2),
    ('def f():\n  """Does it."""\n', 1),
    ("def f(\n  a,\n  # the second\n  b,\n):\n  return a\n", 5),
    ('def f():\n  x = """\n# no comment\n\n  """\n  return x\n', 6),  # text is code
    ("@decorated\n@twice\ndef f():\n  return 1\n", 2),
    ("def f():\n  def g():\n    return 1\n\n  return g\n", 4),
    ("class A:\n  def f(self):\n    return 1\n", 2),
  ],
)
def test_functions_are_counted_in_lines_of_code(package, code, count):
  assert shape.longest_function(package(a=code)).value == count


def test_docstrings_of_nested_functions_count_for_those_around(package):
  code = 'def f():\n  def g():\n    """Does it."""\n    return 1\n  return g\n'
  assert shape.longest_function(package(a=code)).worst == (
    (5, "tf_hessian/a.py:1 f"),
    (2, "tf_hessian/a.py:2 f.<locals>.g"),
  )


# Annotations.


@pytest.mark.parametrize(
  "code, lacking",
  [
    ("def f() -> int: pass", []),
    ("def f(): pass", ["return"]),
    ("def f(a, b: int, *args, c, **kwargs) -> int: pass", ["a", "c", "args", "kwargs"]),
    ("def f(a: int, *args: int, **kwargs: int) -> int: pass", []),
    ("def _f(a): pass", None),
    ("class A:\n  def f(self, a): pass", ["a", "return"]),
    ("class A:\n  @classmethod\n  def f(cls) -> int: pass", []),
    ("class A:\n  @property\n  def f(self): pass", ["return"]),
    ("class A:\n  def _f(self): pass", None),
    ("class _A:\n  def f(self): pass", None),
    ("class A:\n  class _B:\n    def f(self): pass", None),
    ("class A:\n  def __init__(self, a): pass", ["a"]),
    ("class A:\n  def __init__(self): pass", []),
    ("class A:\n  def __exit__(self, *_): pass", ["return"]),
    ("class A:\n  def __call__(self, *args, **kwargs) -> int: pass", []),
    ("class _A:\n  def __init__(self, a): pass", None),
    ("def f() -> int:\n  def g(a): pass", []),
    ("def f() -> int:\n  class A:\n    def g(self): pass", []),
    ("def __getattr__(name): pass", ["name", "return"]),
  ],
)
def test_public_functions_are_annotated_in_all_parts(package, code, lacking):
  found = shape.unannotated(package(a=code))
  if lacking is None:
    assert (found.text, found.value) == ("0 / 0", 0)
  elif lacking:
    assert (found.text, found.value) == ("0 / 1", 1)
    ((number, place),) = found.worst
    assert number == len(lacking)
    assert all(part.strip() in [*lacking, "..."] for part in place.split(": ")[1].split(","))
  else:
    assert (found.text, found.value, found.worst) == ("1 / 1", 0, ())


def test_long_lists_of_what_lacks_an_annotation_are_cut(package):
  found = shape.unannotated(package(a="def f(a, b, c, d): pass"))
  assert found.worst == ((5, "tf_hessian/a.py:1 f: a, b, c, ..."),)


# Questions.


@pytest.mark.parametrize(
  "code, count",
  [
    ("isinstance(operator, A)", 1),
    ("hasattr(self._operator, 'x')", 1),
    ("getattr(run.linear_operator, 'x', None)", 1),
    ("def f():\n  return isinstance(operator, A)", 1),
    ("isinstance(matrix, A)", 0),
    ("isinstance(operators, A)", 0),
    ("isinstance(operator.model, A)", 0),
    ("isinstance(A(operator), B)", 0),
    ("type(operator)", 0),
    ("x.isinstance(operator, A)", 0),
    ("isinstance()", 0),
  ],
)
def test_questions_for_the_kind_of_an_operator_are_counted(package, code, count):
  found = shape.operator_questions(package(slq__a=code))
  assert found.value == len(found.worst) == count


@pytest.mark.parametrize("room", ["slq", "planning", "experiments", "studies"])
def test_questions_are_asked_behind_the_door(package, room):
  code = {f"{room}__a": "x = 1\nisinstance(operator, A)"}
  found = shape.operator_questions(package(**code))
  assert found.worst == ((1, f"tf_hessian/{room}/a.py:2 isinstance(operator, A)"),)


@pytest.mark.parametrize(
  "path", ["slq__matrix", "curvature__a", "numerics__a", "bin__a", "spectrum"]
)
def test_questions_elsewhere_are_allowed(package, path):
  assert shape.operator_questions(package(**{path: "isinstance(operator, A)"})).value == 0


def test_adaptor_of_another_room_may_not_ask(package):
  assert shape.operator_questions(package(planning__matrix="getattr(operator, 'n')")).value == 1


# Imports.


@pytest.mark.parametrize(
  "path, code, wrong",
  [
    ("numerics__a", "import tf_hessian.files", ["numerics imports tf_hessian.files"]),
    ("numerics__a", "from tf_hessian import files", ["numerics imports tf_hessian.files"]),
    ("numerics__a", "from tf_hessian.numerics import b", []),
    ("numerics__a", "import tf_hessian", ["numerics imports tf_hessian"]),
    ("numerics__a", "import tf_hessian_other.files, numpy", []),
    ("curvature__a", "from tf_hessian.slq import b", ["curvature imports tf_hessian.slq.b"]),
    ("curvature__a", "from tf_hessian.numerics.basis import B", []),
    ("slq__a", "from tf_hessian import files, spectrum", []),
    ("slq__a", "import tf_hessian.experiments.b", ["slq imports tf_hessian.experiments.b"]),
    ("planning__a", "import tf_hessian.slq.b", []),
    ("planning__a", "import tf_hessian.studies.b", ["planning imports tf_hessian.studies.b"]),
    ("experiments__a", "import tf_hessian.slq.b, tf_hessian.planning.b", []),
    ("studies__a", "import tf_hessian.slq.b, tf_hessian.experiments.b", []),
    (
      "studies__a",
      "import tf_hessian.planning.b, tf_hessian.callback",
      ["studies imports tf_hessian.callback"],
    ),
    ("bin__a", "import tf_hessian.studies.b, tf_hessian.experiments.b", []),
    ("bin__a", "import tf_hessian.numerics.b", ["bin imports tf_hessian.numerics.b"]),
    ("files", "import tf_hessian.folders", ["files imports tf_hessian.folders"]),
    ("__init__", "import tf_hessian.files", ["tf_hessian imports tf_hessian.files"]),
    ("attic__a", "from tf_hessian import files", ["attic imports tf_hessian.files"]),
    ("numerics__a", "from ..files import b", ["numerics imports tf_hessian.files.b"]),
    ("numerics__a", "from .. import files", ["numerics imports tf_hessian.files"]),
    ("numerics__a", "from . import b\nfrom .b import c", []),
    ("numerics__a", "def f():\n  import tf_hessian.files", ["numerics imports tf_hessian.files"]),
    (
      "numerics__a",
      "if TYPE_CHECKING:\n  from tf_hessian import files, reading",
      ["numerics imports tf_hessian.files", "numerics imports tf_hessian.reading"],
    ),
  ],
)
def test_imports_against_the_arrows_are_found(package, path, code, wrong):
  found = shape.imports_against_the_arrows(package(**{path: code}))
  assert [place.split(" ", 1)[1] for _, place in found.worst] == wrong
  assert found.value == len(wrong)


def test_table_has_no_circle():
  left = {room: set(may) for room, may in rooms.MAY_IMPORT.items()}
  while left:
    free = [room for room, may in left.items() if not may]
    assert free, f"rooms that import each other: {left}"
    left = {r: may - set(free) for r, may in left.items() if r not in free}


def test_rooms_of_the_table_know_each_other():
  assert set().union(*rooms.MAY_IMPORT.values()) <= set(rooms.MAY_IMPORT)


# All of it.


def test_lines_are_counted_room_by_room_without_tests(package):
  found = shape.total_lines(
    package(a="x = 1\n", slq__a="x = 1\n\n", slq__b="x = 1\n", slq__tests__c="x = 1\n" * 9)
  )
  assert (found.value, found.broken) == (4, False)
  assert found.worst == ((3, "tf_hessian/slq"), (1, "tf_hessian/a.py"))


@pytest.mark.parametrize(
  "measure, limit, code",
  [
    (shape.longest_parameter_list, 14, lambda n: f"def f({', '.join(NAMES[:n])}): 0"),
    (shape.largest_class, 25, lambda n: "class A:\n" + "  def f(self): 0\n" * n),
    (shape.longest_file, 450, lambda n: "x = 1\n" * n),
    (shape.longest_function, 60, lambda n: "def f():\n" + "  x = 1\n" * (n - 1)),
    (shape.unannotated, 0, lambda n: "def f(): 0\n" * n),
    (shape.operator_questions, 0, lambda n: "isinstance(operator, A)\n" * n),
    (shape.imports_against_the_arrows, 0, lambda n: "import tf_hessian.bin.a\n" * n),
  ],
)
def test_limit_is_broken_by_one_more(package, measure, limit, code):
  assert not measure(package(slq__a=code(limit))).broken
  assert measure(package(slq__a=code(limit + 1))).broken
  assert measure(package(slq__a=code(limit + 1))).value == limit + 1


def test_lines_have_value_limit_and_the_worst_five():
  worst = tuple((9 - i, f"place {i}") for i in range(7))
  lines = shape.Measure("longest of all", 9, 8, worst).lines()
  assert lines[0].split() == ["longest", "of", "all", "9", "limit", "8", "BROKEN"]
  assert [line.split() for line in lines[1:]] == [[str(9 - i), "place", str(i)] for i in range(5)]
  assert "BROKEN" not in shape.Measure("longest of all", 8, 8).lines()[0]
  assert "limit" not in shape.Measure("all", 8, None).lines()[0]


@pytest.mark.parametrize("code, exit_code", [("def f() -> int: return 0", 0), ("def f(): 0", 1)])
def test_exit_code_says_whether_a_limit_is_broken(package, tmp_path, capsys, code, exit_code):
  package(a=code)
  assert shape.main([f"--package={tmp_path / 'tf_hessian'}"]) == exit_code
  last = capsys.readouterr().out.splitlines()[-1]
  assert last == f"broken: {'public functions annotated' if exit_code else 'nothing'}"


@pytest.mark.parametrize("code", [None, "def f(:"])
def test_folder_that_is_no_package_is_explained(package, tmp_path, capsys, code):
  if code:
    package(broken=code)
  with pytest.raises(SystemExit) as stopped:
    shape.main([f"--package={tmp_path / 'tf_hessian'}"])
  assert stopped.value.code == 2
  text = capsys.readouterr().err
  assert ("broken.py" in text) if code else ("no Python files" in text)


def test_rooms_of_another_folder_are_not_looked_at(package, tmp_path):
  package(slq__a="isinstance(operator, A)\nimport tf_hessian.bin.a")
  names = {m.name for m in shape.measure(tmp_path / "tf_hessian")}
  others = {m.name for m in shape.measure(tmp_path / "tf_hessian" / "slq")}
  assert names - others == {"questions for the kind of an operator", "imports against the arrows"}


@pytest.mark.slow
def test_command_measures_the_package_and_imports_nothing_of_it():
  code = (
    "import sys\nfrom benchmarks import shape\nshape.main([])\n"
    "print(*{'tf_hessian', 'tensorflow', 'numpy'} & set(sys.modules), 'imported')"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=ROOT
  )
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  names = [line[:44].strip() for line in lines[:-2] if not line.startswith(" ")]
  assert len(names) == len(shape.MEASURES)
  assert lines[-1].strip() == "imported"


@pytest.mark.parametrize("measure", SIZES, ids=lambda m: m.__name__)
@pytest.mark.parametrize("folder", ["tf_hessian/studies", "benchmarks"])
def test_studies_and_benchmarks_are_within_the_limits(folder, measure):
  found = measure(shape.sources(ROOT / folder))
  assert not found.broken, found.worst[:3]


def test_public_functions_of_the_studies_are_annotated():
  found = shape.unannotated(shape.sources(ROOT / "tf_hessian" / "studies"))
  assert not found.broken, found.worst


def test_package_keeps_all_limits(monkeypatch, capsys):
  monkeypatch.chdir(ROOT)
  assert shape.main([]) == 0, capsys.readouterr().out
