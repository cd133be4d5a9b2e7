"""A commit checked out beside this tree, and Python processes with the package of either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def checked_out(commit: str, /) -> Iterator[pathlib.Path]:
  """Gives a folder with a commit, for as long as it is needed."""
  with tempfile.TemporaryDirectory() as folder:
    tree = pathlib.Path(folder, "baseline")
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
    try:
      yield tree
    finally:
      subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def run_python(tree: pathlib.Path, arguments: Sequence[Any], /, **environment: str) -> str:
  """Runs Python with the package of a tree, in that folder; returns what it has printed.

  Args:
    tree: the folder.
    arguments: those of Python.
    **environment: further variables of the environment.

  Raises:
    RuntimeError: if it fails; says the end of what it wrote as errors.
  """
  environment = os.environ | {
    "PYTHONPATH": str(tree),
    "TF_CPP_MIN_LOG_LEVEL": "3",
    **environment,
  }
  command = [sys.executable, *map(str, arguments)]
  done = subprocess.run(
    command, cwd=tree, env=environment, capture_output=True, text=True, check=False
  )
  if done.returncode:
    raise RuntimeError(f"{tree}: {' '.join(command)}: {(done.stderr or done.stdout)[-2000:]}")
  return done.stdout
