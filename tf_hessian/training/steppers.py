"""Ways to run the steps of a training: one device, replicas in step, free workers.

A stepper has

  model, optimizer    on the devices of its strategy
  replicas            how many parts a batch of the data set is cut into
  in_step             whether every step takes the next batch, so that a seed fixes what happens
  several             whether several processes call the same methods; then all have to
  leads               whether this process is the one that writes files
  start(batches)      takes the data set of the batches, from the next step on
  run(count)          runs so many steps; returns their summed (loss, right classes, examples)
  values()            the values of all variables, arrays
  set_values(values)  sets them
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import time

import keras
import numpy as np
import tensorflow as tf

from tf_hessian.distribute import calls, collectives, errors
from tf_hessian.training.task import Task

_UNIT = 10  # steps that a free worker makes at a time
_POLL_SECONDS = 0.01
_LOOK_SECONDS = 5.0
_HOPELESS = 20  # times the longest that steps have taken, or the patience before the first
_REMEDY = (
  "start all tasks again with the same commands, and training goes on after the last checkpoint"
)


def make_stepper(
  strategy: tf.distribute.Strategy | None,
  new_model: Callable[[], keras.Model],
  new_optimizer: Callable[[], keras.Optimizer],
  task: Task,
  /,
  *,
  patience: float = 600.0,
) -> Synchronous | Asynchronous:
  """Returns the stepper of a `tf.distribute.Strategy`, or of one device for None.

  Args:
    strategy: the strategy.
    new_model: function () -> Keras model.
    new_optimizer: function () -> Keras optimizer.
    task: a `task.Task`.
    patience: seconds that a `ParameterServerStrategy` waits while all workers are gone, or a
      `MultiWorkerMirroredStrategy` for a worker that doesn't answer.
  """
  arguments = strategy or tf.distribute.get_strategy(), new_model, new_optimizer, task
  free = isinstance(strategy, tf.distribute.ParameterServerStrategy)
  return (Asynchronous if free else Synchronous)(*arguments, patience)


def _others(strategy):
  """Returns the addresses of the other workers of a `MultiWorkerMirroredStrategy`."""
  if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
    return []
  resolver = strategy.cluster_resolver
  spec = resolver.cluster_spec().as_dict() if resolver.cluster_spec() else {}
  return [
    address
    for job in ("chief", "worker")
    for index, address in enumerate(spec.get(job, ()))
    if (job, index) != (resolver.task_type, resolver.task_id)
  ]


class _Stepper:
  """The common part: variables, and the function of one step."""

  def __init__(
    self,
    strategy: tf.distribute.Strategy,
    new_model: Callable[[], keras.Model],
    new_optimizer: Callable[[], keras.Optimizer],
    task: Task,
    patience: float,
  ) -> None:
    self.strategy = strategy
    self.replicas = strategy.num_replicas_in_sync
    self.several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    self._patience = patience
    self._guard = collectives.Guard(_others(strategy), patience, "the last checkpoint")
    self.leads = strategy.extended.should_checkpoint
    self._task = task
    self.model: keras.Model
    self.optimizer: keras.Optimizer
    self._guard.call(self._build, new_model, new_optimizer)
    self._iterator = None
    self._run = tf.function(functools.partial(self._steps), autograph=False)

  def _build(self, new_model, new_optimizer):
    """Makes the variables; of several workers, all get those of the first."""
    with self.strategy.scope():
      self.model = new_model()
      self.optimizer = new_optimizer()
      self.optimizer.build(self.model.trainable_variables)

  @property
  def variables(self) -> list[keras.Variable]:
    """All variables, the optimizer's too."""
    return [*self.model.variables, *self.optimizer.variables]

  def values(self) -> list[np.ndarray]:
    return [v.numpy() for v in self.variables]

  def set_values(self, values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(self.variables, values, strict=True):
      variable.assign(value)

  def mean(self, number: float) -> float:
    """Returns the mean of what the processes give."""

    @tf.function(autograph=False)
    def mean():
      parts = self.strategy.run(lambda: tf.constant(number, tf.float64))
      return self.strategy.reduce("MEAN", parts, axis=None)

    return float(self._guard.call(mean))

  def _steps(self, iterator, count):
    """Runs so many steps in a graph.

    Returns (summed losses, right classes, examples), float64.
    """

    def body(i, sums):
      parts = self.strategy.run(self._step, args=next(iterator))
      return i + 1, sums + self.strategy.reduce("SUM", parts, axis=None)

    zeros = tf.zeros(3, tf.float64)
    return tf.while_loop(
      lambda i, _: i < count, body, [tf.constant(0), zeros], parallel_iterations=1
    )[1]

  def _step(self, inputs, targets):
    """Makes a step on a replica's part of a batch.

    Returns what it adds to the sums.
    """
    variables = self.model.trainable_variables
    with tf.GradientTape() as tape:
      loss, right = self._task.measure(self.model, inputs, targets, training=True)
      part = loss / self.replicas
    gradients = tape.gradient(part, [v.value for v in variables])
    self.optimizer.apply(gradients, variables)
    size = tf.cast(tf.shape(targets)[0], tf.float64)
    return tf.stack([tf.cast(loss, tf.float64) * size, tf.cast(right, tf.float64), size])


class Synchronous(_Stepper):
  """Replicas that each take an equal part of every batch.

  They are of one process or several.

  What a step does depends on the number of replicas only by rounding, by batch normalization, whose
  statistics are those of a replica's part, and by random layers.
  """

  in_step = True

  def start(self, batches: tf.data.Dataset) -> None:
    if self.replicas == 1:
      self._iterator = iter(batches)
      return
    replicas = self.replicas

    def parts(context):
      local = replicas // context.num_input_pipelines
      first = context.input_pipeline_id * local

      def cut(tensor):
        shape = [replicas, tensor.shape[0] // replicas, *tensor.shape[1:]]
        return tf.reshape(tensor, shape)[first : first + local]

      return batches.map(lambda *b: tuple(cut(t) for t in b)).unbatch()

    self._iterator = iter(self.strategy.distribute_datasets_from_function(parts))

  def run(self, count: int) -> list[float]:
    return self._guard.call(self._run, self._iterator, tf.constant(count)).numpy().tolist()


class Asynchronous(_Stepper):
  """Workers that each make steps of their own.

  They read the variables from the parameter servers, and write them there.

  They don't wait for each other, as in the paper's training on ImageNet. TensorFlow's coordinator
  hands the steps of a worker that dies to the others, those that it had made among them.
  """

  in_step = False

  def __init__(
    self,
    strategy: tf.distribute.ParameterServerStrategy,
    new_model: Callable[[], keras.Model],
    new_optimizer: Callable[[], keras.Optimizer],
    task: Task,
    patience: float,
  ) -> None:
    super().__init__(strategy, new_model, new_optimizer, task, patience)
    spec = strategy._cluster_resolver.cluster_spec()  # the public property is None
    self._workers, self._servers = spec.job_tasks("worker"), spec.job_tasks("ps")
    self._slowest = 0.0  # seconds of what a worker makes at a time
    self._coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)

  def values(self) -> list[np.ndarray]:
    return calls.attended(super().values, self._servers, self._patience, _REMEDY)

  def set_values(self, values: Sequence[np.ndarray]) -> None:
    setting = functools.partial(super().set_values, values)
    calls.attended(setting, self._servers, self._patience, _REMEDY)

  def start(self, batches: tf.data.Dataset) -> None:
    self._iterator = iter(self._coordinator.create_per_worker_dataset(batches))

  def run(self, count: int) -> list[float]:
    units = [min(_UNIT, count - i) for i in range(0, count, _UNIT)]
    try:
      results = [
        self._coordinator.schedule(self._run, args=(self._iterator, tf.constant(u))) for u in units
      ]
      self._wait(results)
      return sum(r.fetch() for r in results).tolist()
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as e:
      gone = errors.silent(self._servers)
      raise errors.ClusterError(
        f"no answer from parameter server {', '.join(gone)}, or it was started anew: {_REMEDY}"
      ) from e

  def _wait(self, results):
    """Waits for what is scheduled.

    Raises ClusterError if there is nobody to do it.
    """
    begin = moved = looked = seen = time.monotonic()
    finished = 0
    while not self._coordinator.done():
      time.sleep(_POLL_SECONDS)
      now = time.monotonic()
      if now - looked < min(_LOOK_SECONDS, self._patience / 2):
        continue
      looked = now
      # The public methods of a result wait for it.
      count = sum(r._status_available_event.is_set() for r in results)
      if count > finished:
        self._slowest = max(self._slowest, now - moved)
        finished, moved = count, now
      if len(gone := errors.silent(self._workers, served=True)) < len(self._workers):
        seen = now
      self._look(now - seen, now - moved, gone)
    self._slowest = max(self._slowest, (time.monotonic() - begin) / max(1, len(results)))
    self._coordinator.join()

  def _look(self, alone, waiting, gone):
    """Raises ClusterError if it is time to give up.

    Args:
      alone: seconds without a worker.
      waiting: seconds in which nothing was finished.
      gone: addresses of the workers that don't answer.
    """
    if alone > self._patience:
      raise errors.ClusterError(
        f"all workers are gone for {alone:.0f} s ({', '.join(gone)}): {_REMEDY}"
      )
    calls.check_answers(self._servers, waiting, self._patience, _REMEDY)
    if waiting > max(self._patience, _HOPELESS * (self._slowest or self._patience)):
      there = [a for a in self._workers if a not in gone]
      raise errors.ClusterError(
        f"no step was finished for {waiting:.0f} s, though {', '.join(there)} answer: they hang; "
        f"{_REMEDY}"
      )
