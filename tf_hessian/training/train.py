"""Training by SGD for a number of steps, on any strategy, resumable."""

from __future__ import annotations

from collections.abc import Callable
import functools
import math
import os
import sys
import time
from typing import Any

from absl import logging
import keras
import numpy as np
import tensorflow as tf
import tqdm

from tf_hessian.training import checkpoints, record, schedules, steppers
from tf_hessian.training import folder as folder_lib
from tf_hessian.training.steps import saved_steps
from tf_hessian.training.task import Task

_SAVE_SECONDS = 2.0  # at least between two states, or this many times what saving takes:
_SAVE_FACTOR = 20
_BAR_SECONDS = 2.0


class DivergedError(ValueError):
  """A loss, or a weight, that is not finite any more."""


def train(
  new_model: Callable[[], keras.Model],
  task: Task,
  source: Any,
  config: dict[str, Any],
  workdir: str | os.PathLike,
  /,
  *,
  seed: int = 0,
  identity: dict[str, Any] | None = None,
  strategy: tf.distribute.Strategy | None = None,
  patience: float = 600.0,
  verbose: bool = True,
) -> dict[str, Any] | None:
  """Trains a model by SGD and saves it.

  It goes on where an interrupted run has stopped.

  A batch depends on the seed and its step alone, so on one device an interrupted run ends with the
  weights of an undisturbed one. Workers of a `ParameterServerStrategy` train independently of each
  other, on batches of their own: their number of steps is that of all together.

  Args:
    new_model: function () -> Keras model with its initial weights.
    task: a `task.Task`.
    source: a `data.source.Source`, or what has its `examples`, `test` and `batches`.
    config: dict; see `schedules.learning_rate`, and:
      batch_size, per_replica (it is that of a replica, else of all together),
      momentum, steps, until_accuracy (on the training set; goes on after `steps` until it is
      reached, at most to max_steps; 0: none), checkpoint_steps (0 is the initial weights; the last
      step comes by itself), log_every, test_every (0: only at the end), test_examples (how many of
      the training and of the test set to measure on; 0 for all).
    workdir: folder for model.keras, checkpoints/step_*.keras, train.csv, train.json; see `folder`.
    seed: seed of the order of the examples and of their augmentation.
    identity: dict of plain values, among them `config` as "train", that tell this training from
      others; by default that and the seed.
    strategy: a `tf.distribute.Strategy`; None for one device.
    patience: seconds that a `ParameterServerStrategy` waits while all workers are gone.
    verbose: log, and show a bar on a terminal.

  Returns:
    dict: steps; loss, excess over the lowest loss there is, accuracy, all on the training set
    outside of training mode; the same of the test set, named test_*. None on workers other than
    the chief.

  Raises:
    DivergedError: a ValueError, if the loss or a weight is not finite.
    ValueError: if the folder is not one of this training, or in use, or the accuracy is not reached
      in max_steps.
    OSError: if the folder can't be written, or (ClusterError) a parameter server is gone.
  """
  identity = {"seed": seed, "train": config} if identity is None else identity
  leads = strategy is None or strategy.extended.should_checkpoint
  result = folder_lib.finished(workdir, identity, leads=leads)
  if result is not None:
    return result
  kind = folder_lib.TrainingFolder if leads else folder_lib.FollowedFolder
  with kind(workdir, identity) as folder:
    stepper = steppers.make_stepper(
      strategy, new_model, functools.partial(_new_optimizer, config), task, patience=patience
    )
    copy = None
    if strategy is not None:
      copy = new_model(), _new_optimizer(config)
      copy[1].build(copy[0].trainable_variables)
    return _Training(stepper, copy, task, source, config, folder, seed, verbose).run()


def _new_optimizer(config):
  return keras.optimizers.SGD(schedules.learning_rate(config), momentum=config["momentum"])


class _Training:
  """One start of a training."""

  def __init__(self, stepper, copy, task, source, config, folder, seed, verbose):
    self._stepper = stepper
    # What is saved and evaluated: the model itself, or a copy on this process's own device.
    self._copied = copy is not None
    self._model, self._optimizer = copy or (stepper.model, stepper.optimizer)
    self._model.compile(self._optimizer)
    self._task = task
    self._source = source
    self._config = config
    self._folder = folder
    self._leads = stepper.leads
    self._verbose = verbose and self._leads
    self._size = config["batch_size"] * (stepper.replicas if config["per_replica"] else 1)
    if self._size % stepper.replicas:
      raise ValueError(
        f"config.train.batch_size: expected a multiple of the {stepper.replicas} replicas, got "
        f"{self._size}"
      )
    self._seed = seed if stepper.in_step else None
    self._last = max(config["steps"], config["max_steps"] if config["until_accuracy"] else 0)
    measured = functools.partial(task.evaluator, self._model, most=config["test_examples"])
    self._evaluate = measured(source.examples)
    self._evaluate_test = None if source.test is None else measured(source.test)
    self._record = self._begin = self._bar = None
    self._part = 1
    self._damaged = False  # whether the last state on disk is
    self._written = None  # the last step whose checkpoint was
    self._saved = time.monotonic()
    self._pause = _SAVE_SECONDS

  def run(self):
    self._record = record.Record(self._folder.path, verbose=self._verbose)
    step = self._restore()
    self._stepper.start(self._source.batches(self._seed, step, self._size))
    self._begin = time.monotonic() - self._record.seconds
    if step == 0 and 0 in self._config["checkpoint_steps"]:
      self._pull()
      self._save_step(0)
    self._bar = tqdm.tqdm(
      total=self._last,
      initial=step,
      unit="step",
      disable=not (self._verbose and sys.stderr.isatty()),
      dynamic_ncols=True,
    )
    with self._bar:
      while step < self._last and not self._finished(step):
        step = self._advance(step)
    return self._end(step)

  def _run_steps(self, count):
    """Runs steps; returns their sums.

    They are run for a few seconds at a time, so that the bar moves.
    """
    total = np.zeros(3)
    while count:
      begin = time.monotonic()
      # Several processes have to ask for the same.
      part = count if self._stepper.several else min(count, self._part)
      total += self._stepper.run(part)
      seconds = time.monotonic() - begin
      self._part = max(1, int(part * min(10.0, _BAR_SECONDS / seconds)))
      count -= part
      self._bar.update(part)
      self._bar.set_postfix(loss=f"{total[0] / total[2]:.4g}", refresh=False)
    return total.tolist()

  def _advance(self, step):
    """Runs to the next step with something to do; returns it."""
    config = self._config
    stops = {self._last, config["steps"], *config["checkpoint_steps"]}
    stops |= {(step // n + 1) * n for n in (config["log_every"], config["test_every"]) if n}
    stop = min(s for s in stops if s > step)
    rate = float(self._stepper.optimizer.learning_rate)
    loss, right, examples = self._run_steps(stop - step)
    if not math.isfinite(loss):
      raise self._diverged(f"the loss is {loss / examples} in steps {step} to {stop - 1}")
    row = {
      "step": stop,
      "learning_rate": rate,
      **self._task.summary(loss / examples, right / examples),
    }
    tests = config["test_every"] and stop % config["test_every"] == 0
    saves = stop in config["checkpoint_steps"] or stop in (config["steps"], self._last)
    # Several processes must agree on whether it is time to save the state, so there it always is.
    due = self._stepper.several or time.monotonic() - self._saved > self._pause
    if tests or saves or due:
      self._pull()
    if tests and stop < self._last and self._leads:
      row |= self._test()
    row["seconds"] = time.monotonic() - self._begin
    self._record.add(row)
    if saves:
      self._save_step(stop)
    if saves or due:
      self._save_state()
    return stop

  def _finished(self, step):
    """Whether the accuracy that the steps after `steps` are for is reached."""
    if step < self._config["steps"]:
      return False
    target = self._config["until_accuracy"]
    if not target:
      return True
    self._pull()
    return self._evaluate()["accuracy"] >= target

  def _end(self, step):
    self._pull()
    if not self._leads:
      return None
    if step != self._written:
      self._save_step(step)
    result = {"steps": step} | self._evaluate() | self._test()
    target = self._config["until_accuracy"]
    if target and result["accuracy"] < target:
      self._save_state()
      self._folder.save_model(self._model)
      raise ValueError(
        f"training: accuracy {result['accuracy']:.4f} after max_steps = {step}, expected {target}; "
        "the model is saved, raise max_steps to go on, or begin anew with another learning rate"
      )
    self._record.save()
    self._folder.finish(self._model, result, self._record.rows)
    return result

  def _test(self):
    if self._evaluate_test is None:
      return {}
    return {f"test_{k}": v for k, v in self._evaluate_test().items()}

  def _pull(self):
    """Brings the variables here, if they are not."""
    if not self._copied:
      return
    for variable, value in zip(self._variables, self._stepper.values(), strict=True):
      variable.assign(value)

  @property
  def _variables(self):
    return [*self._model.variables, *self._optimizer.variables]

  def _check_finite(self, step):
    for variable in self._variables:
      if not np.isfinite(variable.numpy()).all():
        raise self._diverged(f"{variable.path} is not finite after step {step}")

  def _diverged(self, what):
    """Keeps the log up to here; returns the error."""
    if self._leads and self._record.rows:
      self._record.save()
    return DivergedError(f"training: {what}; lower the learning rate. {self._kept()}")

  def _kept(self):
    """Says what is left after a failure."""
    steps = saved_steps(self._folder.path).values()
    last = next(iter([*self._folder.states(), *reversed(steps)]), None)
    return f"The last good checkpoint is {last}" if last else "No checkpoint was saved yet"

  def _save_step(self, step):
    """Writes the named checkpoint of a step."""
    self._check_finite(step)
    if self._leads:
      self._folder.save_step(self._model, step)
      self._written = step

  def _save_state(self):
    """Writes log, weights and optimizer.

    The optimizer's count says how many rows are valid.
    """
    self._check_finite(int(self._optimizer.iterations))
    if not self._leads:
      return
    begin = time.monotonic()
    self._record.save()
    self._folder.save_state(self._model, self._record.rows, replace_last=self._damaged)
    self._damaged = False
    self._saved = time.monotonic()
    self._pause = max(_SAVE_SECONDS, _SAVE_FACTOR * (self._saved - begin))

  def _restore(self):
    """Takes over what an interrupted run saved; returns its step."""
    step, values = self._saved_state()
    if self._stepper.several and self._stepper.mean(step) != step:
      raise ValueError(
        f"{self._folder.path}: this worker found step {step} in it, and others found another; "
        "all workers need the same folder"
      )
    if values is not None:
      self._stepper.set_values(values)
      logging.info("%s: training goes on after step %d", self._folder.path, step)
    return step

  def _saved_state(self):
    """Returns (step, values of all variables) of what was saved.

    (0, None) if nothing was.
    """
    states = self._folder.states()
    for path in states:
      try:
        step, values = self._read_state(path)
        if self._damaged:
          logging.warning("%s, the state before, is gone on from, of step %d", path, step)
        return step, values
      except (OSError, ValueError, KeyError, TypeError) as e:
        logging.warning("%s is not used: %s", path, str(e).removeprefix(f"{path}: "))
        self._damaged = True
    if states or saved_steps(self._folder.path):
      logging.warning(
        "%s: training begins again, since no state can be gone on from; %s",
        self._folder.path,
        self._folder.kept_steps(),
      )
    return 0, None

  def _read_state(self, path):
    """Returns (step, values of all variables) of a state.

    Its log is taken over.
    """
    found, note = checkpoints.load_model(path, compiled=True), checkpoints.read_note(path)
    self._folder.check(note)
    variables = [*found.variables, *found.optimizer.variables]
    checkpoints.check_finite(variables, path)
    if [v.shape for v in variables] != [v.shape for v in self._variables]:
      raise ValueError("it is of another model")
    step = int(found.optimizer.iterations)
    try:
      self._record.restore(step, None if note is None else note["rows"])
    except (OSError, ValueError) as e:  # of an earlier version, which kept the log apart
      logging.warning("the log up to step %d is lost: %s", step, e)
    return step, [v.numpy() for v in variables]
