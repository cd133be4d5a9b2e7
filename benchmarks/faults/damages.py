"""Damages of files.

Each is a function of (path, the same file of another run, generator).
"""

from collections.abc import Callable
import io
import os
import pathlib
import random
import shutil
import zipfile

import numpy as np

Damage = Callable[[pathlib.Path, pathlib.Path, random.Random], None]


def deleted(path, *_):
  path.unlink()


def empty(path, *_):
  path.write_bytes(b"")


def truncated(path, _, rng):
  content = path.read_bytes()
  path.write_bytes(content[: rng.randrange(len(content) or 1)])


def flipped(path, _, rng):
  content = bytearray(path.read_bytes())
  if content:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  path.write_bytes(content)


def text(path, *_):
  path.write_text("text\n")


def zeros(path, *_):
  path.write_bytes(bytes(path.stat().st_size))


def other_runs(path, other, _):
  shutil.copy(other, path)


def folder(path, *_):
  path.unlink()
  path.mkdir()
  (path / "mine.txt").write_text("the user's")


def link(path, *_):
  shutil.move(path, _outside(path))
  path.symlink_to(_outside(path))


def hard_link(path, *_):
  os.link(path, _outside(path))


def dangling(path, *_):
  path.unlink()
  path.symlink_to(_outside(path))


def pipe(path, *_):
  path.unlink()
  os.mkfifo(path)


ANY = (deleted, empty, truncated, flipped, text, zeros, other_runs, folder, link, hard_link)
ANY += (dangling, pipe)


def _json(content):
  def damage(path, *_):
    path.write_text(content)

  damage.__name__ = f"json_{content}"
  return damage


JSON = tuple(map(_json, ("[]", "{}", "null", "3", '{"format_version": 2}', '{"steps": 1}')))


def _arrays(name, change):
  """Returns a damage of arrays, where `change` maps a dict."""

  def damage(path, *_):
    with np.load(path) as saved:
      arrays = dict(saved)
    np.savez(path, **change(arrays))

  damage.__name__ = name
  return damage


def _each(names, function):
  return lambda arrays: arrays | {n: function(arrays[n]) for n in names if n in arrays}


_COEFFICIENTS = ("alphas", "betas")
_NUMBERS = (*_COEFFICIENTS, "diagonals", "off_diagonals")
ARRAYS = (
  _arrays("fewer_steps", _each(_COEFFICIENTS, lambda a: a[: max(0, len(a) - 1)])),
  _arrays("no_steps", _each(_COEFFICIENTS, lambda a: a[:0])),
  _arrays("text_for_numbers", _each(_NUMBERS, lambda a: a.astype(str))),
  _arrays("float32", _each(_NUMBERS, lambda a: a.astype(np.float32))),
  _arrays("shape", _each(_NUMBERS, lambda a: a[None])),
  _arrays("nan", _each(_NUMBERS, lambda a: a * np.nan)),
  _arrays("lost_array", lambda arrays: {k: v for k, v in arrays.items() if k != "betas"}),
  _arrays("status", _each(["status"], lambda _: np.array("DONE"))),
  _arrays("draw", _each(["draw"], lambda a: a + 1)),
  _arrays("run", _each(["run"], lambda _: np.array("0" * 32))),
)


def wrong_letter(path, _, rng):
  content = bytearray(path.read_bytes())
  places = [i for i, c in enumerate(content) if chr(c).isdigit()]
  content[rng.choice(places)] = ord("x")
  path.write_bytes(content)


def not_finite(path, *_):
  """Makes a model's weights NaN, and keeps its note."""
  import h5py

  with zipfile.ZipFile(path) as archive:
    content = {name: archive.read(name) for name in archive.namelist()}
  memory = io.BytesIO(content["model.weights.h5"])
  with h5py.File(memory, "r+") as weights:
    weights.visititems(lambda _, item: item.write_direct(_nan(item)) if _floats(item) else None)
  content["model.weights.h5"] = memory.getvalue()
  with zipfile.ZipFile(path, "w") as archive:
    for name, data in content.items():
      archive.writestr(name, data)


def _floats(item):
  return hasattr(item, "dtype") and item.dtype.kind == "f" and item.shape


def _nan(item):
  return np.full(item.shape, np.nan, item.dtype)


def of(path: pathlib.Path, /) -> tuple[Damage, ...]:
  """Returns the damages that a file can have."""
  more = {".json": JSON, ".npz": ARRAYS, ".keras": (not_finite,), ".csv": (wrong_letter,)}
  return ANY + more.get(path.suffix, ())


def _outside(path):
  """Returns a file of the user's, beside the folder."""
  result = path.parent.with_name("outside") / path.name
  result.parent.mkdir(exist_ok=True)
  return result
