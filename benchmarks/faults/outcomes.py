"""Outcomes of starting again after a fault."""

from collections.abc import Sequence
import dataclasses
import os
import pathlib
import random
import shutil
import signal

from benchmarks.faults import damages
from benchmarks.faults.folders import Runs, Trainings

GOOD = ("survived", "refused by name")
BAD = ("lost", "stale believed", "tracebacks", "hangs")


class HangError(BaseException):
  """A trial that has not ended."""


@dataclasses.dataclass(frozen=True)
class Case:
  """One kind of trial."""

  state: str  # of `names` of the folders
  file: str
  damage: damages.Damage

  def __str__(self):
    return f"{self.state}-{self.file}-{self.damage.__name__}"


def cases(folders: Runs | Trainings, /) -> list[Case]:
  """Returns every kind of damage of every file of the folders."""
  result = []
  for state in folders.names:
    base = folders.root / state
    for path in sorted(p for p in base.rglob("*") if p.is_file()):
      name = str(path.relative_to(base))
      result += [Case(state, name, damage) for damage in damages.of(path)]
  return result


def damaged(
  folders: Runs | Trainings,
  case: Case,
  scratch: pathlib.Path,
  rng: random.Random,
  /,
  *,
  seed: int = 1,
) -> str:
  """Damages one file and starts again; returns the outcome.

  Args:
    folders: `Runs` or `Trainings`.
    case: the `Case`.
    scratch: an empty folder to try in.
    rng: `random.Random`.
    seed: of the run that is started then; 1 is that of the folder.
  """
  workdir = scratch / "run"
  shutil.copytree(folders.root / case.state, workdir)
  path = workdir / case.file
  case.damage(path, folders.other(case.state, case.file), rng)
  users = _contents(scratch / "outside") | _contents(path)
  good = folders.right(workdir)
  outcome = _outcome(lambda: folders.again(workdir, seed), workdir)
  lost = good.keys() - folders.right(workdir).keys()
  now = _contents(scratch / "outside") | _contents(path)
  if lost or any(now.get(k) != v for k, v in users.items()):
    return "lost"
  return outcome


def _contents(path):
  """Returns path -> content of the files in a folder."""
  if path.is_symlink() or not path.is_dir():
    return {}
  files = (p for p in sorted(path.rglob("*")) if p.is_file() and not p.is_symlink())
  return {str(p): p.read_bytes() for p in files}


def _outcome(start, workdir):
  try:
    return "survived" if start() else "stale believed"
  except (ValueError, OSError) as e:
    return "refused by name" if str(workdir) in str(e) else "tracebacks"
  except HangError:
    return "hangs"
  except Exception:
    return "tracebacks"


USERS = (
  "basis.py",
  "basis.csv",
  "basis_000",
  "basis_data/table.csv",
  "step_size_study.npz",
  "step_000.npz",
  "steps.npz",
  ".cache.npz.bak",
  ".run.json.original",
  "lock",
  "draw_000.npz",
  "spectrum.npz",
  "spectrum.json",
  "run.json",
  "config.json",
  "model.keras",
  "training.keras",
  "train.csv",
  "train.json",
  "checkpoints/step_00000004.keras",
  "notes.txt",
)


def users_folder(folders: Runs | Trainings, names: Sequence[str], scratch: pathlib.Path, /) -> str:
  """Starts in a folder of the user's; returns the outcome."""
  workdir = scratch / "run"
  for name in names:
    (workdir / name).parent.mkdir(parents=True, exist_ok=True)
    (workdir / name).write_text(f"the user's {name}")
  before = _contents(workdir)
  outcome = _outcome(lambda: folders.again(workdir), workdir)
  if _contents(workdir) != before:
    return "lost"
  return "stale believed" if outcome == "survived" else outcome


CALLS = ("replace", "link", "unlink", "fsync", "posix_fallocate", "open")


def killed(folders: Runs, call: str, number: int, scratch: pathlib.Path, /) -> str:
  """Kills a process at a system call; starts again; returns the outcome.

  Args:
    folders: a `Runs`.
    call: name in `os`.
    number: which of such calls it is.
    scratch: an empty folder to try in.
  """
  workdir = scratch / "run"
  child = os.fork()
  if not child:
    try:
      original, left = getattr(os, call), [number]

      def last(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
          os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

      setattr(os, call, last)
      folders.run(workdir)
    finally:
      os._exit(0)
  os.waitpid(child, 0)
  before = folders.right(workdir) if workdir.exists() else {}
  outcome = _outcome(lambda: folders.again(workdir), workdir)
  if before.keys() - folders.right(workdir).keys():
    return "lost"
  if outcome == "survived" and any(p.name.startswith(".") for p in workdir.iterdir()):
    return "lost"  # a temporary file has stayed
  return outcome
