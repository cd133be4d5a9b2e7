"""The first line of each docstring is short, and says what a thing does or is."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "tf_hessian").rglob("*.py"))
MOST_WORDS = 12
QUESTIONS = {"what", "who", "where", "how", "when", "see", "why"}


def first_lines(path):
  """Yields (name, first line) of each docstring of a file."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
      text = ast.get_docstring(node)
      if text:
        yield getattr(node, "name", path.stem), text.splitlines()[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_first_lines_are_short_phrases(path):
  lines = list(first_lines(path))
  assert not [x for x in lines if len(x[1].partition(": ")[0].split()) > MOST_WORDS]
  assert not [x for x in lines if x[1].split()[0].strip(".,:`").lower() in QUESTIONS]
