"""Names of the checkpoints of a training's steps.

It imports no TensorFlow.
"""

from __future__ import annotations

import os
import pathlib
import re

FOLDER = "checkpoints"


def name(step: int, /) -> str:
  """Returns the name of a step's checkpoint, without a suffix."""
  return f"step_{step:08d}"


def saved_steps(workdir: str | os.PathLike, /) -> dict[int, pathlib.Path]:
  """Returns the checkpoints in a folder of training: step -> path, ascending."""
  found = pathlib.Path(workdir, FOLDER).glob("step_*.keras")
  named = [(re.fullmatch(r"step_(\d+)\.keras", p.name), p) for p in found]
  return dict(sorted((int(m[1]), p) for m, p in named if m))
