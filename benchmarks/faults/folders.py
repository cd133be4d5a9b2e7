"""Folders of runs and of trainings, in several states, to be damaged."""

import contextlib
import hashlib
import json
import os
import pathlib

import numpy as np
import scipy.sparse.linalg

_N, _DRAWS, _STEPS = 24, 3, 6


class Runs:
  """Folders of density runs of a matrix, in several states.

  Args:
    root: where they are made.
  """

  names = ("half", "finished")

  def __init__(self, root: str | os.PathLike, /):
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

  def run(
    self,
    workdir: pathlib.Path | None,
    seed: int = 1,
    steps: int = _STEPS,
    operator: scipy.sparse.linalg.LinearOperator | None = None,
  ) -> list[bytes]:
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

  def interrupted(self, workdir: pathlib.Path, seed: int) -> None:
    """Makes a folder with draw 0 finished and draw 1 begun."""
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

  def other(self, state: str, name: str) -> pathlib.Path:
    """Returns the same file of another run."""
    for folder_name in (f"other_{state}", "other_half", "other"):
      path = self.root / folder_name / name
      if path.exists():
        return path
    return self.root / "other" / "run.json"

  def again(self, workdir: pathlib.Path, seed: int = 1) -> bool:
    """Starts again; True if the result is the undisturbed one."""
    return self.run(workdir, seed) == self.expected[seed]

  def results(self, workdir: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns a folder's finished draws: digest -> path."""
    found = {}
    for path in _files(workdir, "draw_*.npz"):
      with contextlib.suppress(Exception), open(path, "rb") as file, np.load(file) as saved:
        if np.isfinite(saved["alphas"]).all():
          found[_digest(saved["alphas"].tobytes(), saved["betas"].tobytes())] = path
    return found

  def right(self, workdir: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns those of `results` that are right, of this run or another."""
    good = [*self.results(self.root / "finished"), *self.results(self.root / "other")]
    return {k: v for k, v in self.results(workdir).items() if k in good}


class Trainings:
  """Folders of trainings of a small network, in several states.

  Args:
    root: where they are made.
  """

  names = ("half", "finished")

  def __init__(self, root: str | os.PathLike, /):
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

  def model(self, name: str) -> list[bytes]:
    """Returns the bytes of the weights of a folder's model."""
    return self._weights(self.root / name / "model.keras")

  def run(self, workdir: pathlib.Path, seed: int = 1) -> dict:
    """Trains for 12 steps; returns the result."""
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

  def interrupted(self, workdir: pathlib.Path, seed: int) -> None:
    """Makes a folder of a training after 8 of 12 steps."""
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

  def other(self, state: str, name: str) -> pathlib.Path:
    """Returns the same file of another run."""
    for folder_name in (f"other_{state}", "other_half", "other"):
      path = self.root / folder_name / name
      if path.exists():
        return path
    return self.root / "other" / "config.json"

  def again(self, workdir: pathlib.Path, seed: int = 1) -> bool:
    """Starts again; True if model, log and result are the undisturbed ones."""
    found = self.run(workdir, seed)
    whole = self.root / {1: "finished", 2: "other"}[seed]
    return (
      self.model(workdir) == self.expected[seed]
      and found == json.loads((whole / "train.json").read_text())
      and found == json.loads((workdir / "train.json").read_text())
      and _log(workdir) == _log(whole)
    )

  def right(self, workdir: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns a folder's trained models: digest -> path."""
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
