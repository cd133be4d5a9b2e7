"""The folder of one training: its record, its last two states, and its result.

  config.json             what the training is of; a training of something else is refused
  training.keras          the last state: weights, optimizer, and the log up to there
  training_before.keras   the one before, in case the last is damaged
  checkpoints/            models of named steps
  train.csv               the log
  model.keras             the trained model, with what it has reached
  train.json              that again
  lock                    held while a process trains here

Models carry a note with the digest of config.json, and are believed only beside it. A good one of
another training is renamed, so that it is not lost. Folders of earlier versions have no digests;
what is in them is believed beside a config.json without one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import contextlib
import json
import os
import pathlib
import re
from typing import Any

import keras

from tf_hessian import files, folders, records
from tf_hessian.training import checkpoints, record, steps

KIND = folders.Kind(
  "training folder",
  "config.json",
  made=re.compile(
    r"train\.(csv|json)|(model|training|training_before)\.keras|checkpoints/step_\d{8,}\.keras"
  ),
  below=re.compile("checkpoints"),
  beside=re.compile("(spectrum|spectra|eigenpairs)(_[a-z_]+)?"),  # of any weights, matrix and start
)
_SECTIONS = ("seed", "model", "data", "loss", "train")
# Fields of config.train that the weights don't depend on, and those that say when training ends.
_HARMLESS = {"checkpoint_steps", "log_every", "test_every", "test_examples"}
_ENDS = {"until_accuracy", "max_steps"}


class FollowedFolder:
  """The folder of another process's training, to read from.

  It is a context manager.

  Args:
    path: the folder.
    identity: plain values that say which training it is, as `identity_of` makes them.
  """

  def __init__(self, path: str | os.PathLike, identity: dict[str, Any], /) -> None:
    self.path = pathlib.Path(path)
    self.digest = digest_of(_plain(identity))
    self._unmarked = (self.path / KIND.record).exists() and _unmarked(self.path)

  def __enter__(self) -> FollowedFolder:
    return self

  def __exit__(self, *unused: object) -> None:
    pass

  def check(self, note: Mapping[str, Any] | None, /) -> None:
    """Refuses the note, or None, of a model of another training.

    Raises:
      ValueError: if it is.
    """
    _check_note(note, self.digest, self._unmarked)

  def states(self) -> list[pathlib.Path]:
    """Returns the paths of the states that there are, the last first."""
    return [p for p in _state_paths(self.path) if p.exists()]

  def kept_steps(self) -> str:
    """Returns words about the checkpoints of steps that there are."""
    numbers = list(steps.saved_steps(self.path))
    if not numbers:
      return "there are no checkpoints of steps"
    return f"there are checkpoints of the steps {', '.join(map(str, numbers))}"


class TrainingFolder(folders.OwnedFolder, FollowedFolder):
  """The folder of one training; a context manager that holds its lock.

  Args:
    path: the folder; made if needed.
    identity: plain values that say which training it is, as `identity_of` makes them.

  Attributes:
    digest: of what identifies the training.

  Raises:
    ValueError: if the folder is another training's, damaged, in use, or not one of a training.
    OSError: if it can't be written.
  """

  def __init__(self, path: str | os.PathLike, identity: dict[str, Any], /) -> None:
    path = pathlib.Path(path)
    identity = _plain(identity)
    self.digest = digest_of(identity)
    text = json.dumps(identity | {"digest": self.digest}, indent=2)
    super().__init__(path, KIND, text, lambda found: _compare(path, found, identity))
    try:
      self._unmarked = _unmarked(path) and _begun(path)
      if self._unmarked:
        text = json.dumps(identity, indent=2)
      if files.read_own(path / KIND.record) != text:  # how it ends may change
        files.write_text(path / KIND.record, text)
      for model in self.made():
        self._keep_of_others(model)
      self._check_model()
    except BaseException:
      self.close()
      raise

  def save_model(self, model: keras.Model, /, **note: Any) -> None:
    """Writes model.keras."""
    note = {"run": self.digest, **note}
    checkpoints.save_model(model, self.path / "model.keras", note=note)

  def save_state(
    self, model: keras.Model, rows: Sequence[dict], /, *, replace_last: bool = False
  ) -> None:
    """Writes the state, and keeps the one before it.

    Args:
      model: a compiled Keras model.
      rows: the log up to there.
      replace_last: whether the last state is not kept, as when it is damaged.
    """
    last, before = _state_paths(self.path)
    note = {"run": self.digest, "rows": rows}
    with checkpoints.saved(model, last, compiled=True, note=note):
      if last.exists() and not replace_last:
        os.replace(last, before)

  def save_step(self, model: keras.Model, step: int, /) -> None:
    """Writes the named checkpoint of a step."""
    path = checkpoints.step_path(self.path, step)
    checkpoints.save_model(model, path, note={"run": self.digest, "step": step})

  def finish(self, model: keras.Model, result: dict[str, Any], rows: Sequence[dict], /) -> None:
    """Writes the trained model, with the numbers that it has reached.

    States are not needed any more.
    """
    self.save_model(model, result=result, rows=rows)
    _write_result(self.path, result, rows)

  def _keep_of_others(self, path):
    """Renames a good model of another training.

    It would be written over.
    """
    with contextlib.suppress(OSError, ValueError):  # damaged; said where it is wanted
      if path.suffix == ".keras":
        note = checkpoints.read_note(path)
        try:
          self.check(note)
        except ValueError:
          checkpoints.check_archive(path)
          self.set_aside(path, note and note.get("run"))

  def _check_model(self):
    """Refuses to train over a damaged result.

    Its checkpoints may be good.
    """
    path = self.path / "model.keras"
    if not path.exists() or self.states():
      return
    try:
      checkpoints.check_archive(path)
      checkpoints.read_note(path)
    except ValueError as e:
      raise ValueError(
        f"{e}; {self.kept_steps()}, of which the last has its weights. Delete it to train again"
      ) from e


def identity_of(config: Mapping[str, Any], /) -> dict[str, Any]:
  """Returns what identifies the training of a config's values: a dict."""
  return {k: config[k] for k in _SECTIONS if k in config}


def digest_of(identity: Mapping[str, Any], /) -> str:
  """Returns the digest of a training's identity.

  What may change is left out.

  Raises:
    KeyError, TypeError, AttributeError: if it is not what is recorded.
  """
  identity = {k: v for k, v in identity.items() if k != "digest"}
  fixed = {k: v for k, v in identity["train"].items() if k not in _HARMLESS | _ENDS}
  return folders.digest(_plain(identity) | {"train": fixed})


def finished(
  path: str | os.PathLike, identity: dict[str, Any], /, *, leads: bool = True
) -> dict[str, Any] | None:
  """Returns the result of a finished training, else None.

  Nothing is locked.

  Args:
    path: the folder.
    identity: plain values that say which training it is.
    leads: whether to write train.json and train.csv again where they are lost or damaged.

  Raises:
    ValueError, OSError: if the folder is another training's, or damaged.
  """
  path, identity = pathlib.Path(path), _plain(identity)
  text = folders.look(path, KIND)
  if text is None:
    return None
  _compare(path, text, identity)
  model, result = path / "model.keras", None
  try:
    checkpoints.check_archive(model)
    note = checkpoints.read_note(model)
  except ValueError:  # also if there is none; what is to be said is said when the folder is taken
    return None
  if note is not None:
    result = note.get("result") if note.get("run") == digest_of(identity) else None
  elif _unmarked(path) and (path / "train.json").exists():
    result = _read_result(path / "train.json")
  if result is not None:
    _compare(path, text, identity, finished=True)
    if leads and note is not None:
      _write_result(path, result, note["rows"])
  return result


def load(path: str | os.PathLike, model: str | os.PathLike, /) -> keras.Model:
  """Returns a model of a training folder.

  Where the folder has a record, the model has to be its own.

  Args:
    path: the folder.
    model: path of the `.keras` file.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if it is damaged, or another training's.
  """
  result = checkpoints.load_model(model)
  checkpoints.check_finite(result.variables, model)
  about = pathlib.Path(path) / KIND.record
  if about.exists():
    try:
      found = json.loads(about.read_text())
      note = checkpoints.read_note(model)
      _check_note(note, digest_of(found), "digest" not in found)
      step = None if note is None else note.get("step")
      if step is not None and checkpoints.step_path(path, step) != pathlib.Path(model):
        raise ValueError(f"it is of step {step}")
    except (ValueError, KeyError, AttributeError, TypeError) as e:
      raise ValueError(
        f"{model}: not what {about} is of ({e}); give the model as --checkpoint, and another "
        "--workdir"
      ) from e
  return result


def differences(
  found: Mapping[str, Any], config: Mapping[str, Any], keys: Iterable[str], /
) -> list[str]:
  """Returns the fields that differ and matter, with both values.

  A field that is new since the record was made is the same at its off value: 0, None or empty.

  Raises:
    KeyError, TypeError: if what was found is not what is recorded.
  """
  present = [key for key in keys if key in found or key in config]
  pairs = (({key: found[key]}, {key: config.get(key)}) for key in present)
  return [
    f"{d.name}: {d.first} there, {d.second} now"
    for pair in pairs
    for d in records.differences(*pair, depth=1)
    if d.name.rpartition(".")[2] not in _HARMLESS and (d.second or not d.is_new)
  ]


def _compare(path, text, identity, *, finished=False):
  """Refuses the record of another training.

  Before the end of training, the conditions of its end may still be changed, and before its begin
  everything.
  """
  try:
    found = json.loads(text)
    marked = found.pop("digest", None)
    if marked not in (None, digest_of(found)):
      raise ValueError("its digest is wrong")
    if not finished:
      found["train"] |= {k: identity["train"].get(k) for k in _ENDS}
    different = differences(found, identity, _SECTIONS)
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise ValueError(
      f"{path / KIND.record}: damaged ({e}), or not of a training; use another --workdir, or "
      "delete this folder with all that is in it"
    ) from e
  if different and _begun(path):
    raise ValueError(
      f"{path}: a model was trained there with another config ({'; '.join(different)}); use "
      "another --workdir, or delete this folder with all that is in it"
    )


def _write_result(path, result, rows):
  """Writes train.json and train.csv, unless they are there, and removes states."""
  texts = {"train.json": json.dumps(result, indent=2), "train.csv": record.table(rows)}
  for name, text in texts.items():
    try:
      right = files.read_own(path / name) == text
    except (OSError, ValueError):
      right = False
    if not right:
      files.write_text(path / name, text)
  for state in _state_paths(path):
    state.unlink(missing_ok=True)


def _check_note(note, digest, unmarked):
  if note is None and unmarked:
    return
  if note is None:
    raise ValueError("it does not say which training it is of")
  if note.get("run") != digest:
    raise ValueError("it is of another training")


def _begun(path):
  """Whether there is anything that was trained in a folder."""
  paths = (path / "model.keras", *_state_paths(path))
  return any(map(os.path.lexists, paths)) or bool(steps.saved_steps(path))


def _unmarked(path):
  """Whether the record in a folder is that of an earlier version."""
  return "digest" not in json.loads(files.read_own(path / KIND.record))


def _state_paths(path):
  return path / "training.keras", path / "training_before.keras"


def _read_result(path):
  try:
    result = json.loads(files.read_own(path))
    if not isinstance(result["steps"], int):
      raise TypeError("no number of steps")
    return result
  except (ValueError, KeyError, TypeError) as e:
    raise ValueError(f"{path}: damaged ({e}); delete it to train again") from e


def _plain(values):
  return json.loads(json.dumps(values))
