"""Damages what runs and trainings leave on disk: python -m benchmarks.faults [--seconds=60]

Each trial takes a folder of a run or a training, damages a file, puts a user's files into the
folder, or kills the process at a random moment, and starts again. It must end with bitwise the
undisturbed result, or with one error that names the file or folder. Nothing of the user's and no
good result may be touched. Prints what became of the trials; fails if one ended otherwise.
"""

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
import zipfile

import numpy as np
import scipy.sparse.linalg

GOOD = ("survived", "refused by name")
BAD = ("lost", "stale believed", "tracebacks", "hangs")
_LIMIT = 120.0  # seconds after which a trial hangs; one takes a few
_N, _DRAWS, _STEPS = 24, 3, 6


class HangError(BaseException):
  """A trial that has not ended."""


# Damages: functions of (path, the same file of another run, generator). -----------------------


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
  """Returns the damage of an .npz file's arrays: `change` gets and returns a dict."""

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
  """Makes the weights of a model NaN; the note that it carries stays."""
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


def damages(path, /):
  """Returns the damages that a file can have."""
  more = {".json": JSON, ".npz": ARRAYS, ".keras": (not_finite,), ".csv": (wrong_letter,)}
  return ANY + more.get(path.suffix, ())


def _outside(path):
  """Returns a file of the user's beside the folder, which must stay as it is."""
  result = path.parent.with_name("outside") / path.name
  result.parent.mkdir(exist_ok=True)
  return result


# What is damaged. ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
  """One kind of trial."""

  state: str  # name of a folder of `Folders.states`
  file: str
  damage: object

  def __str__(self):
    return f"{self.state}-{self.file}-{self.damage.__name__}"


class Runs:
  """Folders of density runs of a matrix, in several states; the user's own folders too.

  Args:
    root: where they are made.
  """

  names = ("half", "finished")

  def __init__(self, root, /):
    from tf_hessian.slq.density import spectral_density

    self._estimate = spectral_density
    a = np.random.default_rng(0).standard_normal((_N, _N))
    self._matrix = (a + a.T) / 2
    self.root = pathlib.Path(root)
    self.expected = {seed: self.run(None, seed) for seed in (1, 2)}
    self.run(self.root / "finished", 1)
    self.run(self.root / "other", 2)
    self.interrupted(self.root / "half", 1)
    self.interrupted(self.root / "other_half", 2)

  def run(self, workdir, seed=1, steps=_STEPS, operator=None):
    """Returns the bytes of the tridiagonal matrices of a run."""
    result = self._estimate(
      self._matrix if operator is None else operator,
      num_draws=_DRAWS,
      lanczos_steps=steps,
      seed=seed,
      workdir=workdir,
      progress=False,
    )
    return [t.tobytes() for t in result.tridiagonals]

  def interrupted(self, workdir, seed):
    """Makes a folder with draw 0 finished and draw 1 after three steps."""
    operator, left = scipy.sparse.linalg.aslinearoperator(self._matrix), [1 + _STEPS + 3]
    original = operator._matvec

    def matvec(x):
      left[0] -= 1
      if left[0] < 0:
        raise InterruptedError
      return original(x)

    operator._matvec = matvec
    with contextlib.suppress(InterruptedError):
      self.run(workdir, seed, operator=operator)

  def other(self, state, name):
    for folder_name in (f"other_{state}", "other_half", "other"):
      path = self.root / folder_name / name
      if path.exists():
        return path
    return self.root / "other" / "run.json"

  def again(self, workdir, seed=1):
    """Starts again; whether the result is that of an undisturbed run."""
    return self.run(workdir, seed) == self.expected[seed]

  def results(self, workdir):
    """Returns what must not be lost of a folder: digest -> path, of finished draws."""
    found = {}
    for path in _files(workdir, "draw_*.npz"):
      with contextlib.suppress(Exception), open(path, "rb") as file, np.load(file) as saved:
        if np.isfinite(saved["alphas"]).all():
          found[_digest(saved["alphas"].tobytes(), saved["betas"].tobytes())] = path
    return found

  def right(self, workdir):
    """Returns those of `results` that are right, of this run or another."""
    good = [*self.results(self.root / "finished"), *self.results(self.root / "other")]
    return {k: v for k, v in self.results(workdir).items() if k in good}


class Trainings:
  """Folders of trainings of a small network, in several states.

  Args:
    root: where they are made.
  """

  names = ("half", "finished")

  def __init__(self, root, /):
    import keras

    from tf_hessian.data import source
    from tf_hessian.training import task, train

    self._module, self._keras = train, keras
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    self._task = task.Task(loss, classes=3)
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    x = (4 * np.eye(3)[labels] + 0.3 * rng.standard_normal((60, 3))).astype(np.float32)
    self._source = source.in_memory(x, np.eye(3, dtype=np.float32)[labels])
    self.root = pathlib.Path(root)
    self.run(self.root / "finished", 1)
    self.run(self.root / "other", 2)
    self.expected = {1: self.model("finished"), 2: self.model("other")}
    self.interrupted(self.root / "half", 1)
    self.interrupted(self.root / "other_half", 2)

  def model(self, name):
    """Returns the bytes of the weights of a folder's model."""
    return self._weights(self.root / name / "model.keras")

  def run(self, workdir, seed=1):
    from tf_hessian.models.mlp import mlp

    def new_model():
      self._keras.utils.set_random_seed(1)
      return mlp(input_shape=(3,), hidden_units=(8,), num_classes=3)

    config = {"batch_size": 15, "per_replica": False, "learning_rate": 0.3, "momentum": 0.9}
    config |= {"schedule": "constant", "decay_steps": (), "decay_factor": 0.1, "zero_steps": 0}
    config |= {"steps": 12, "until_accuracy": 0.0, "max_steps": 0, "checkpoint_steps": (0, 4)}
    config |= {"log_every": 4, "test_every": 0, "test_examples": 0}
    arguments = new_model, self._task, self._source, config, workdir
    return self._module.train(*arguments, seed=seed, verbose=False)

  def interrupted(self, workdir, seed):
    """Makes a folder of a training after 8 of 12 steps, with two states."""
    training, original = self._module._Training, self._module._Training._advance
    seconds = self._module._SAVE_SECONDS, self._module._SAVE_FACTOR

    def advance(this, step):
      step = original(this, step)
      if step == 8:
        raise InterruptedError
      return step

    try:
      training._advance = advance
      self._module._SAVE_SECONDS = self._module._SAVE_FACTOR = 0.0
      with contextlib.suppress(InterruptedError):
        self.run(workdir, seed)
    finally:
      training._advance = original
      self._module._SAVE_SECONDS, self._module._SAVE_FACTOR = seconds

  def other(self, state, name):
    for folder_name in (f"other_{state}", "other_half", "other"):
      path = self.root / folder_name / name
      if path.exists():
        return path
    return self.root / "other" / "config.json"

  def again(self, workdir, seed=1):
    """Starts again; whether model, log and result are those of an undisturbed training."""
    found = self.run(workdir, seed)
    whole = self.root / {1: "finished", 2: "other"}[seed]
    return (
      self.model(workdir) == self.expected[seed]
      and found == json.loads((whole / "train.json").read_text())
      and found == json.loads((workdir / "train.json").read_text())
      and _log(workdir) == _log(whole)
    )

  def right(self, workdir):
    """Returns what must not be lost of a folder: digest -> path, of trained models."""
    known = self.expected[1], self.expected[2]
    found = {}
    for path in _files(workdir, "model*.keras"):
      with contextlib.suppress(Exception):
        model = self._weights(path)
        if model in known:
          found[_digest(*model)] = path
    return found

  def _weights(self, path):
    found = self._keras.models.load_model(path, compile=False)
    return [w.tobytes() for w in found.get_weights()]


def _files(workdir, pattern):
  return [p for p in workdir.glob(pattern) if p.is_file() and not p.is_symlink()]


def _log(workdir):
  """Returns the table of a training without the seconds."""
  return [line.rsplit(",", 1)[0] for line in (workdir / "train.csv").read_text().splitlines()]


def _digest(*contents):
  return hashlib.blake2b(b"".join(contents), digest_size=8).hexdigest()


def cases(folders, /):
  """Returns every kind of damage of every file of `Runs` or `Trainings`: a list of `Case`."""
  result = []
  for state in folders.names:
    base = folders.root / state
    for path in sorted(p for p in base.rglob("*") if p.is_file()):
      name = str(path.relative_to(base))
      result += [Case(state, name, damage) for damage in damages(path)]
  return result


def damaged(folders, case, scratch, rng, /, *, seed=1):
  """Returns what becomes of a folder with one damaged file: of `GOOD` or `BAD`.

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
  """Returns path -> content of the files in a folder; none of what is no folder."""
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


def users_folder(folders, names, scratch, /):
  """Returns what becomes of a folder of the user's that is given as the folder of a run."""
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


def killed(folders, call, number, scratch, /):
  """Returns what becomes of a folder whose process is killed at a call of the system.

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


# All of it, at random. -------------------------------------------------------------------------


class Trials:
  """Trials at random.

  Args:
    root: an empty folder.
    seed: of the choices.
    training: the share of trials of trainings, which take longer.
  """

  def __init__(self, root, seed, /, *, training=0.1):
    self._root = pathlib.Path(root)
    self._rng = random.Random(seed)
    self._training = training
    self._runs = Runs(self._root / "runs")
    self._trainings = Trainings(self._root / "trainings") if training else None
    self._cases = {f: cases(f) for f in (self._runs, self._trainings) if f}
    self.count = collections.Counter()
    self.bad = []

  def one(self):
    """Makes one trial."""
    rng = self._rng
    folders = self._trainings if rng.random() < self._training else self._runs
    scratch = self._root / "trial"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    kind = rng.random()
    if kind < 0.15:
      names = rng.sample(USERS, rng.randint(1, 5))
      what = f"user's {', '.join(names)}"
      outcome = self._limited(lambda: users_folder(folders, names, scratch))
    elif kind < 0.35 and folders is self._runs:
      call, number = rng.choice(CALLS), rng.randrange(40)
      what = f"killed at {call} {number}"
      outcome = self._limited(lambda: killed(folders, call, number, scratch))
    else:
      case, seed = rng.choice(self._cases[folders]), rng.choice((1, 1, 1, 2))
      what = f"{case}, seed {seed}"
      outcome = self._limited(lambda: damaged(folders, case, scratch, rng, seed=seed))
    self.count[outcome] += 1
    if outcome not in GOOD:
      self.bad.append(f"{type(folders).__name__}, {what}: {outcome}")

  def _limited(self, function):
    """Returns what a function does, or "hangs"."""

    def expired(*_):
      raise HangError

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, _LIMIT)
    try:
      return function()
    except HangError:
      return "hangs"
    finally:
      signal.setitimer(signal.ITIMER_REAL, 0)
      signal.signal(signal.SIGALRM, before)

  def report(self):
    """Returns the numbers as text."""
    count = {"tried": sum(self.count.values())} | {n: self.count[n] for n in GOOD + BAD}
    return ", ".join(f"{name} {number}" for name, number in count.items())


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--seconds", type=float, default=60.0)
  parser.add_argument("--seed", type=int, default=0)
  options = parser.parse_args()
  from absl import logging

  logging.set_verbosity(logging.ERROR)  # what is damaged is said, many times over
  end = time.monotonic() + options.seconds
  with tempfile.TemporaryDirectory() as root:
    trials = Trials(root, options.seed)
    while time.monotonic() < end:
      trials.one()
  print(f"seed {options.seed}: {trials.report()}")
  for line in trials.bad:
    print(line)
  sys.exit(bool(trials.bad))


if __name__ == "__main__":
  main()
