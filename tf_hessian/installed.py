"""Versions of the packages that this one needs."""

from __future__ import annotations

import functools
from importlib import metadata
import re


@functools.cache
def check() -> None:
  """Compares the packages that are installed with the oldest that will do.

  Raises:
    ImportError: for one that is older; it names what is found and what is needed.
  """
  try:
    needed = metadata.requires("tf_hessian") or []
  except metadata.PackageNotFoundError:  # only on the path
    return
  for line in needed:
    found = re.fullmatch(r"([\w.-]+)>=([\d.]+)", line)  # without those of extras
    if found:
      _check_one(*found.groups())


def _check_one(name, oldest):
  try:
    version = metadata.version(name)
  except metadata.PackageNotFoundError:  # it has other names too, such as tensorflow-cpu
    return
  if _numbers(version) < _numbers(oldest):
    raise ImportError(
      f"tf_hessian needs {name} {oldest} or newer, and {version} is installed: "
      f"pip install --upgrade '{name}>={oldest}'"
    )


def _numbers(version):
  """Returns the numbers of a version, without trailing zeros."""
  numbers = [int(x) for x in re.match(r"[\d.]*", version)[0].strip(".").split(".") if x]
  while numbers and not numbers[-1]:
    numbers.pop()
  return numbers
