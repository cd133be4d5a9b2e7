"""Engines in one process, and the choice by strategy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NoReturn

import tensorflow as tf

from tf_hessian.distribute import accumulators, coordinator, sharing, workers
from tf_hessian.distribute.protocols import Batches, Engine, Segment, Work


def make_engine(
  strategy: tf.distribute.Strategy | sharing.Sharing | None, /, *, deterministic: bool = True
) -> Engine:
  """Returns the engine for a `tf.distribute.Strategy` or one device.

  Args:
    strategy: the strategy, or a `Sharing` with one; None for one device.
    deterministic: whether passes are to be bitwise repeatable, as by default.

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


class _OneProcess:
  """Parts of an `Engine` that nobody follows.

  `protocols.Engine` explains its attributes.
  """

  leads = True
  followers = False
  is_cluster = False
  description: dict[str, Any] = {"strategy": "one_device"}

  def agree(self, identity: dict[str, Any], /) -> None:
    """Does nothing: there is one process."""

  def follow(self, passes: Mapping[str, Callable], /) -> NoReturn:  # noqa: ARG002
    """Raises ValueError: there is nobody to follow."""
    raise ValueError("follow(): is for workers other than the chief; this process leads")

  def finish(self, content: bytes = b"", error: str = "", /) -> None:
    """Does nothing: nobody follows."""


class OneDevice(_OneProcess):
  """Batch after batch, on one device."""

  def __init__(self, strategy: tf.distribute.Strategy | None, /) -> None:
    self._device = None if strategy is None else strategy.extended.worker_devices[0]

  def build(self, work: Work, batches: Batches, /) -> _OneDevicePass:
    """Returns a pass."""
    return _OneDevicePass(work, batches, self._device)


class _OneDevicePass:
  """A pass on one device, with one graph call for each segment.

  A single segment shares its call with the rest of the pass. For small models a call takes as long
  as a batch.
  """

  culprits: Sequence[str] = ()

  def __init__(self, work: Work, batches: Batches, device: str | None) -> None:
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
    self._concrete: dict[tuple, Callable] = {}

  @property
  def changed(self) -> int | None:
    return (
      None if self._batches.cached else accumulators.first_changed([self._sums.changed.numpy()])
    )

  @property
  def tracing_count(self) -> int:
    return sum(f.experimental_get_tracing_count() for f in (self._segment, self._whole))

  def feeds(self) -> Sequence[Segment]:
    return self._batches.segments()

  def __call__(self, feeds: Sequence[Segment], *arguments: tf.Tensor) -> tf.Tensor:
    with tf.device(self._device):
      if len(feeds) == 1:
        return self._call(self._whole, feeds[0], arguments)
      self._reset(self._work.count(*arguments))
      for segment in feeds:
        self._call(self._segment, segment, arguments)
      return self._read()

  def _call(self, function, segment, arguments):
    """Calls a function with a segment.

    It is looked up once, for any number of vectors. To look it up each time takes small models a
    tenth of a pass.
    """
    key = segment.signature, function is self._whole
    if key not in self._concrete:
      self._concrete[key] = function.get_concrete_function(
        segment.signature, segment.feed, *self._work.signature
      )
    return self._concrete[key](segment.signature, segment.feed, *arguments)

  def _add_segment(self, signature, feed, *arguments):
    state, prepared = self._work.state(), self._work.prepare(*arguments)
    accumulators.add_batches(
      self._work, self._batches, self._sums, signature, feed, state, prepared
    )

  def _sum_segment(self, *arguments):
    self._sums.reset(self._work.count(*arguments[2:]))
    self._add_segment(*arguments)
    return self._sums.read()


class Replicas(_OneProcess):
  """Equal parts of the batches, for the replicas of this process.

  Sums are added in the replicas' order.
  """

  def __init__(self, strategy: tf.distribute.MirroredStrategy, /) -> None:
    self._strategy = strategy
    self.description = {"strategy": "mirrored", "replicas": strategy.num_replicas_in_sync}

  def build(self, work: Work, batches: Batches, /) -> _ReplicasPass:
    """Returns a pass."""
    return _ReplicasPass(self._strategy, work, batches)


class _ReplicasPass:
  """A pass that is one call of a graph function.

  The replicas run side by side in it. One that has no batches adds zeros, and none waits for
  another before the end.
  """

  def __init__(self, strategy: tf.distribute.Strategy, work: Work, batches: Batches) -> None:
    self._strategy = strategy
    self._batches = batches
    self._parts = accumulators.Parts(work, batches, strategy, range(strategy.num_replicas_in_sync))
    self._run = tf.function(functools.partial(self._pass), autograph=False)
    self.feeds = self._parts.feeds
    self.culprits: Sequence[str] = ()

  @property
  def changed(self) -> int | None:
    return None if self._batches.cached else self._parts.first_changed()

  @property
  def tracing_count(self) -> int:
    return self._run.experimental_get_tracing_count()

  def __call__(self, feeds: Sequence[Sequence[tuple]], *arguments: tf.Tensor) -> tf.Tensor:
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
