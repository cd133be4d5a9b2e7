"""Prints the oldest packages that setup.py allows, as requirements of pip.

Of the tests' packages those that run them; linters are the same everywhere.
"""

import pathlib
import re
import runpy

import setuptools

# Of tensorflow-datasets. Newer ones need a protobuf that TensorFlow 2.18 does not allow, on Python
# 3.10, and don't say so.
OTHERS = ["tensorflow-metadata==1.17.2"]
LINTERS = ("mypy", "ruff")


def main():
  found = {}
  setuptools.setup = lambda **options: found.update(options)
  runpy.run_path(str(pathlib.Path(__file__).resolve().parents[1] / "setup.py"))
  tests = [x for x in found["extras_require"]["test"] if not x.startswith(LINTERS)]
  needed = found["install_requires"] + tests
  print("\n".join([re.sub(r"[>=]=", "==", line) for line in needed] + OTHERS))


if __name__ == "__main__":
  main()
