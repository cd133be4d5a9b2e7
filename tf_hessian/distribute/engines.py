"""Engines: how a pass over batches is run on the devices there are.

An engine is given work and batches. Whole batches are handed out; which examples are in a batch,
its weight and its seed don't depend on the engine.

Work is an object with

  name                 of the pass
  shapes               shapes of the sums
  signature            `tf.TensorSpec`s of a pass's arguments
  state()              nest of tensors that a pass reads once, such as parameters
  prepare(*arguments)  nest of tensors that a pass makes once of its arguments
  values(signature, b, batch, state, prepared)
                       what batch number b adds to the sums: a list of tensors

whose methods are called while a graph is built. Batches are those of `curvature.batches`.

`engine.build(work, batches)` returns a pass with

  feeds()                   what it reads the batches from, made anew for each pass
  __call__(feeds, *arguments)  the sums, flattened one after the other: float64
  tracing_count             how often its loop over batches was traced
  culprits                  who computed sums that are not finite, in the last pass: strings
  changed                   number of the first batch whose data had changed in the last pass, or
                            None; of data that are streamed
"""

import functools

import tensorflow as tf

from tf_hessian.distribute import accumulators, coordinator, sharing, workers


def make_engine(strategy, /, *, deterministic=True):
  """Returns the engine for a `tf.distribute.Strategy`, or for one device if it is None.

  Args:
    strategy: the strategy, or a `Sharing` with it.
    deterministic: passes are to be bitwise repeatable.

  Raises:
    TypeError: for a strategy that isn't supported.
  """
  shared = sharing.Sharing.of(strategy)
  strategy = shared.strategy
  if strategy is None or isinstance(strategy, tf.distribute.OneDeviceStrategy):
    return OneDevice(strategy)
  if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
    return workers.Workers(strategy, patience=shared.patience, deterministic=deterministic)
  if isinstance(strategy, tf.distribute.MirroredStrategy):
    return Replicas(strategy)
  if isinstance(strategy, tf.distribute.ParameterServerStrategy):
    return coordinator.Coordinator(
      strategy,
      num_shards=shared.num_shards,
      patience=shared.patience,
      deterministic=deterministic,
    )
  raise TypeError(
    "strategy: expected None, or a OneDeviceStrategy, MirroredStrategy, MultiWorkerMirroredStrategy"
    f" or ParameterServerStrategy, got {type(strategy).__name__}"
  )


class Engine:
  """What an engine in one process is to its operator; others replace parts of it.

  Attributes:
    leads: whether this process calls the passes; of several workers, only the chief does.
    followers: whether there are processes that `follow`.
    is_cluster: whether batches go to other processes.
    description: what the order of additions depends on, for records.
  """

  leads = True
  followers = False
  is_cluster = False
  description = {"strategy": "one_device"}

  def agree(self, identity, /):
    """Makes sure that all processes measure the same: `identity` is a dict of plain values."""

  def follow(self, passes, /):  # noqa: ARG002
    """On workers other than the chief: takes part in its passes until it has finished."""
    raise ValueError("follow(): is for workers other than the chief; this process leads")

  def finish(self, content=b"", error="", /):
    """On the chief: lets the followers go, with a result or the reason why there is none."""


class OneDevice(Engine):
  """Batch after batch, on one device."""

  def __init__(self, strategy, /):
    self._device = None if strategy is None else strategy.extended.worker_devices[0]

  def build(self, work, batches, /):
    """Returns a pass; see the module."""
    return _OneDevicePass(work, batches, self._device)


class _OneDevicePass:
  """A pass whose runs of batches are one call of a graph function each, a single one with the rest.

  For small models a call takes as long as a batch.
  """

  culprits = ()

  def __init__(self, work, batches, device):
    self._work = work
    self._batches = batches
    self._device = device
    with tf.device(device):
      self._sums = accumulators.Accumulators(work.shapes)
    # partial() gives each its own identity; else TensorFlow counts the traces of all passes
    # together and warns of retracing.
    self._segment = tf.function(functools.partial(self._add_segment), autograph=False)
    self._whole = tf.function(functools.partial(self._sum_segment), autograph=False)
    self._reset = tf.function(functools.partial(self._sums.reset), autograph=False)
    self._read = tf.function(functools.partial(self._sums.read), autograph=False)

  @property
  def changed(self):
    return (
      None if self._batches.cached else accumulators.first_changed([self._sums.changed.numpy()])
    )

  @property
  def tracing_count(self):
    return sum(f.experimental_get_tracing_count() for f in (self._segment, self._whole))

  def feeds(self):
    return self._batches.segments()

  def __call__(self, feeds, *arguments):
    with tf.device(self._device):
      if len(feeds) == 1:
        return self._whole(feeds[0].signature, feeds[0].feed, *arguments)
      self._reset()
      for segment in feeds:
        self._segment(segment.signature, segment.feed, *arguments)
      return self._read()

  def _add_segment(self, signature, feed, *arguments):
    state, prepared = self._work.state(), self._work.prepare(*arguments)
    accumulators.add_batches(
      self._work, self._batches, self._sums, signature, feed, state, prepared
    )

  def _sum_segment(self, *arguments):
    self._sums.reset()
    self._add_segment(*arguments)
    return self._sums.read()


class Replicas(Engine):
  """Equal parts of the batches to the replicas of this process; sums added in their order."""

  def __init__(self, strategy, /):
    self._strategy = strategy
    self.description = {"strategy": "mirrored", "replicas": strategy.num_replicas_in_sync}

  def build(self, work, batches, /):
    """Returns a pass; see the module."""
    return _ReplicasPass(self._strategy, work, batches)


class _ReplicasPass:
  """A pass that is one call of a graph function, in which the replicas run side by side.

  One that has no batches adds zeros, and none waits for another before the end.
  """

  def __init__(self, strategy, work, batches):
    self._strategy = strategy
    self._batches = batches
    self._parts = accumulators.Parts(work, batches, strategy, range(strategy.num_replicas_in_sync))
    self._run = tf.function(functools.partial(self._pass), autograph=False)
    self.feeds = self._parts.feeds
    self.culprits = ()

  @property
  def changed(self):
    return None if self._batches.cached else self._parts.first_changed()

  @property
  def tracing_count(self):
    return self._run.experimental_get_tracing_count()

  def __call__(self, feeds, *arguments):
    total, finite = self._run(feeds, *arguments)
    self.culprits = [
      f"replica {r} ({device})"
      for r, device in enumerate(self._strategy.extended.worker_devices)
      if not finite[r]
    ]
    return total

  def _pass(self, feeds, *arguments):
    sums = self._strategy.run(lambda: self._parts.add_up(feeds, arguments))
    parts = self._strategy.experimental_local_results(sums)
    finite = tf.stack([tf.math.is_finite(tf.reduce_sum(p)) for p in parts])
    # Not add_n, which adds in varying order.
    return functools.reduce(tf.add, parts), finite
