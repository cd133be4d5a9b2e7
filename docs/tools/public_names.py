"""Lets mkdocstrings see the public names, which the package loads when they are first used."""

from __future__ import annotations

import ast
import re
from typing import Any

import griffe

PACKAGE = "tf_hessian"
_PAGE = re.compile(r"\bdocs/([\w/]+)\.md\b")
_EXAMPLE = re.compile(r"(?:^>>> .*\n(?:(?!\s*$|>>> ).*\n)*)+", re.MULTILINE)


class PublicNames(griffe.Extension):
  """Adds the names of the lazy table, and makes blocks of code of the examples."""

  def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
    """Adds an alias for each name of the package's table."""
    if pkg.name != PACKAGE:
      return
    for name, module in ast.literal_eval(str(pkg.members["_HOME"].value)).items():
      pkg.set_member(name, griffe.Alias(name, f"{module}.{name}", parent=pkg))

  def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
    """Puts fences around the examples of a docstring, and links where it names pages."""
    if obj.docstring is not None:
      text = fenced(obj.docstring.value)
      obj.docstring.value = _PAGE.sub(r"[docs/\1.md](../\1.md)", text)


def fenced(text: str) -> str:
  """Returns a docstring whose examples are fenced blocks."""
  text = text if text.endswith("\n") else f"{text}\n"
  return _EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}```\n", text).rstrip("\n")
