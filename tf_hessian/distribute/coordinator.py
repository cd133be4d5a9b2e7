"""The coordinator engine: a pass is cut into shards, which go to whichever worker is free.

A shard is a fixed run of batches. Its function reads the parameters and the vector once from the
parameter servers, adds up its batches in float64 and returns the sums. So a shard that is run twice
after a failure counts once. The chief adds the shards in their order, so the result does not depend
on the number of workers or on who did what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
import functools
import json
import time
from typing import Any, NoReturn, TypeVar

from absl import logging
import numpy as np
import tensorflow as tf

from tf_hessian import records
from tf_hessian.distribute import accumulators, calls, errors, kernels, members
from tf_hessian.distribute.checksums import checksum
from tf_hessian.distribute.protocols import Batches, Work

# Errors by which a result is lost with the worker that had it.
_LOST = (
  tf.errors.UnavailableError,
  tf.errors.AbortedError,
  tf.errors.CancelledError,
  tf.errors.NotFoundError,
)
_REMEDY = (
  "Start all tasks again with the same commands: the run goes on after the last finished Lanczos "
  "step of its --workdir"
)
_LOG_SECONDS = 30.0
_RETRY_SECONDS = 0.2
_POLL_SECONDS = 0.002
_HOPELESS = 20  # times the seconds of a pass, or the patience before the first has ended

_Value = TypeVar("_Value")


class Coordinator:
  """Shards of batches to the workers of a parameter-server cluster.

  A data set that is kept in memory is sent to each worker once; another is sent as a graph, and
  each worker reads its files itself.

  Args:
    strategy: a `tf.distribute.ParameterServerStrategy`.
    num_shards: number of shards of a pass (at most one a batch). It must stay the same for bitwise
      the same sums, while the number of workers may change.
    patience: seconds without a finished shard after which a pass is given up, if workers are gone.
    deterministic: whether passes are to be bitwise repeatable.

  Attributes:
    leads, followers, is_cluster, description: those of an `Engine`.
  """

  leads = True
  followers = False
  is_cluster = True

  def __init__(
    self,
    strategy: tf.distribute.ParameterServerStrategy,
    /,
    *,
    num_shards: int,
    patience: float,
    deterministic: bool,
  ) -> None:
    if deterministic:
      # For good, unlike in `repeatable`: the coordinator's threads keep the settings they find.
      tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
    self.strategy = strategy
    self.num_shards = num_shards
    self.patience = patience
    self.description: dict[str, Any] = {"strategy": "parameter_server", "num_shards": num_shards}
    # The public property is None for this strategy.
    spec = strategy._cluster_resolver.cluster_spec()
    self.workers = spec.job_tasks("worker")
    self.servers = spec.job_tasks("ps")
    self.coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    self._deterministic = deterministic
    self._kernels: dict[str, str] | None = None  # that workers must have
    self._identity: dict[str, Any] = {}
    self._refused: set[str] = set()
    self._starts: dict[str, str] = {}  # of each worker, the process that was last heard of
    self._data: Any = None
    self.state = _Published(strategy)

  def build(self, work: Work, batches: Batches, /) -> _CoordinatorPass:
    """Returns a pass."""
    return _CoordinatorPass(self, work, batches)

  def agree(self, identity: dict[str, Any], /) -> None:
    """Sets the identity that workers must have; refuses results of others."""
    self._identity = records.as_plain(identity)

  def follow(self, passes: Mapping[str, Callable], /) -> NoReturn:  # noqa: ARG002
    """Raises ValueError: workers of this strategy serve, and run no program."""
    raise ValueError("follow(): workers of a parameter-server cluster serve; see docs/cluster.md")

  def finish(self, content: bytes = b"", error: str = "", /) -> None:
    """Does nothing: servers outlive an operator."""

  def admits(self, note: str) -> bool:
    """Returns whether a worker is the run's; tells others to end.

    They are told the difference.

    Args:
      note: the worker's note of itself (`members.publish`); "" for a plain TensorFlow server.
    """
    if not note:
      return True
    about = json.loads(note)
    if about["start"] in self._refused:
      return False
    found = list(errors.differences(self._identity, about["identity"]))
    reason = f"{about['task']} was started for something else: {'; '.join(found)}"
    if not found and (other := self._other_kernels(about)):
      found = [other]
      reason = f"{about['task']} {other}"
    if not found:
      if self._starts.get(about["task"]) not in (None, about["start"]):
        logging.info("%s is back", about["task"])
      self._starts[about["task"]] = about["start"]
      return True
    self._refused.add(about["start"])
    logging.error("%s; its results are not taken", reason)
    job, index = about["task"].split()
    try:
      members.end(f"/job:{job}/replica:0/task:{index}", reason, about["start"])
    except tf.errors.OpError as e:
      logging.warning("%s could not be told: %s", about["task"], e.message)
    return False

  def _other_kernels(self, note):
    """Returns the difference of a worker's kernels, in words; "" for none."""
    if self._kernels is None:
      return ""
    theirs = note["identity"].get(members.KERNELS)
    if theirs is None:
      return "was started with --nodeterministic, unlike the chief: start it without"
    kinds = [k for k, v in self._kernels.items() if theirs.get(k) != v]
    if not kinds:
      return ""
    return (
      f"rounds otherwise than the other workers ({', '.join(kinds)}), so sums would depend on who "
      f"computes what: {kernels.REMEDY}"
    )

  def compare_kernels(self) -> None:
    """Decides by majority, before the first pass, which kernels workers must have."""
    if self._kernels is not None or not self._deterministic:
      return
    devices = [f"/job:worker/replica:0/task:{i}" for i in range(len(self.workers))]
    asked = [calls.start(functools.partial(members.read, d)) for d in devices]
    futures.wait(asked, min(_LOG_SECONDS, self.patience))
    notes = [c.result() for c in asked if c.done() and c.exception() is None]
    found = [json.loads(note)["identity"].get(members.KERNELS) for note in notes if note]
    self._kernels = kernels.most_common([f for f in found if f], kernels.digest())

  def data(self, batches: Batches) -> Iterator:
    """Returns the workers' iterators, from which shards read cached batches.

    Each yields all of them, again and again. A worker that comes back is sent them anew.
    """
    if self._data is None:
      dataset = tf.data.Dataset.from_tensors(tuple(batches.stacks)).repeat()
      self._data = iter(self.coordinator.create_per_worker_dataset(dataset))
    return self._data

  def take(self, result: tf.distribute.coordinator.RemoteValue) -> Any:
    """Returns a result once the coordinator's own thread has brought it here.

    Fetching it at the same time as that thread makes workers wait for each other.
    """
    while not (getattr(result, "_has_fetched_to_local", True) or self.coordinator.done()):
      time.sleep(_POLL_SECONDS)
    return result.fetch()

  def wait(
    self,
    fetch: Callable[[], Any],
    what: str,
    again: Callable[[], Callable[[], Any]],
    usual: float | None,
  ) -> Any:
    """Returns the value of the first of equal blocking calls to end.

    Args:
      fetch: the first call.
      what: its name, for messages.
      again: makes another call, if the first takes too long, as on a worker that hangs.
      usual: seconds of a whole pass of this kind, or None before the first.

    Raises:
      ClusterError: if a parameter server is gone, or no worker is there for longer than `patience`,
        or the workers there are finish nothing for very much longer than ever before, or, in the
        first pass, than `patience`.
    """
    running = [calls.start(fetch)]
    begin = logged = seen = handed_out = time.monotonic()
    interval = min(_LOG_SECONDS, self.patience / 4)
    slow = max(interval, 2 * usual) if usual else self.patience
    hopeless = max(self.patience, _HOPELESS * (usual or self.patience))
    while True:
      waiting = [c for c in running if not c.done()]
      futures.wait(waiting, min(1.0, interval), futures.FIRST_COMPLETED)
      done = [c for c in running if c.done()]
      good = [c for c in done if c.exception() is None]
      if good or len(done) == len(running):
        return (good or done)[0].result()
      now = time.monotonic()
      if now - logged >= interval:
        logged = now
        self.check_servers()
        calls.check_answers(self.servers, now - begin, self.patience, _REMEDY)
        gone = errors.silent(self.workers, served=True)
        if len(gone) < len(self.workers):
          seen = now
        self._report(what, now - begin, gone)
      if now - seen >= self.patience:
        raise errors.ClusterError(
          f"all workers are gone for {now - seen:.0f} s ({', '.join(self.workers)}): start them "
          "again, then this command, which goes on after the last finished Lanczos step of its "
          "--workdir"
        )
      if now - begin >= hopeless:
        calls.check_answers(self.servers, now - begin, 0.0, _REMEDY)  # workers wait for them
        than = f"a whole pass took {usual:.3g} s" if usual else f"--patience is {self.patience:g} s"
        raise errors.ClusterError(
          f"{what}: the workers answer, but have not finished it in {now - begin:.0f} s, where "
          f"{than}: they hang ({', '.join(self.workers)}), or --patience is too short for a first "
          f"pass. {_REMEDY}"
        )
      if now - handed_out >= slow and len(running) < len(self.workers):
        handed_out = now
        logging.warning("%s takes long and is handed out once more", what)
        running.append(calls.start(again()))

  def _report(self, what, seconds, gone):
    if len(gone) == len(self.workers):
      who = "all workers are gone"
    else:
      who = f"no answer from worker {', '.join(gone)}" if gone else "all workers answer"
    logging.warning("%s is waited for since %.0f s; %s", what, seconds, who)

  def check_servers(self) -> None:
    """Raises ClusterError if a parameter server is gone."""
    gone = errors.silent(self.servers)
    if gone:
      raise errors.ClusterError(
        f"no answer from parameter server {', '.join(gone)}: TensorFlow can't go on without it. "
        f"{_REMEDY}"
      )

  def attended(self, function: Callable[[], _Value], /) -> _Value:
    """Returns the value of a blocking call to the parameter servers.

    Raises ClusterError if one of them has not answered for `patience`.
    """
    return calls.attended(function, self.servers, self.patience, _REMEDY)


class _Published:
  """Tensors on the parameter servers, sent again only when they change."""

  def __init__(self, strategy):
    self._strategy = strategy
    self._variables = None
    self._digests = None

  def set(self, tensors):
    digests = [checksum(t).numpy() for t in tensors]
    if self._variables is None:
      with self._strategy.scope():
        self._variables = [tf.Variable(t, trainable=False) for t in tensors]
    else:
      for i, tensor in enumerate(tensors):
        if digests[i] != self._digests[i]:
          self._variables[i].assign(tensor)
    self._digests = digests
    return self._variables


class _CoordinatorPass:
  """A pass that is one scheduled function a shard."""

  def __init__(self, engine: Coordinator, work: Work, batches: Batches) -> None:
    self._engine = engine
    self._work = work
    self._batches = batches
    self._count = min(engine.num_shards, batches.num_batches)
    self._arguments = _Published(engine.strategy)
    # Captured as a tensor: Grappler would fold a constant into a data set, which can't be sent.
    self._graph = None if batches.cached else tf.constant(batches.serialized())
    self._checksums = None
    self._seconds = None  # of the last pass
    self._shard = tf.function(functools.partial(self._sum_shard), autograph=False)
    self.culprits: Sequence[str] = ()

  changed: int | None = None  # a shard whose data have changed is refused when it comes back

  @property
  def tracing_count(self) -> int:
    return self._shard.experimental_get_tracing_count()

  def feeds(self) -> list[np.ndarray]:
    """Returns the shards' tables of batches (`Batches.table`)."""
    count = self._batches.num_batches
    ends = [accumulators.bounds(count, self._count, s) for s in range(self._count)]
    return [self._batches.table(*e) for e in ends]

  def __call__(self, feeds: Sequence[np.ndarray], *arguments: tf.Tensor) -> tf.Tensor:
    try:
      return self._pass(feeds, arguments)
    except _LOST as e:
      self._engine.check_servers()
      raise errors.ClusterError(f"the cluster failed: {e.message}") from e

  def _pass(self, feeds, arguments):
    engine = self._engine
    engine.compare_kernels()
    state = self._work.state()
    self._structure = tf.nest.map_structure(lambda t: t.dtype, state)
    self._parameters = engine.attended(lambda: engine.state.set(tf.nest.flatten(state)))
    self._vectors = engine.attended(lambda: self._arguments.set(arguments))
    if not self._batches.cached and self._checksums is None:
      self._checksums = [self._batches.checksum(f[0, 0], f[-1, 0] + 1) for f in feeds]
    self.culprits = []
    begin = time.monotonic()
    results = [self._schedule(feed) for feed in feeds]
    total = None
    for s, feed in enumerate(feeds):
      value = self._fetch(s, feed, results)
      total = np.array(value) if total is None else np.add(total, value, out=total)
      results[s] = None  # lets the worker free it
    self._seconds = time.monotonic() - begin
    return tf.constant(total)

  def _schedule(self, feed):
    arguments = [tf.constant(feed)]
    if self._batches.cached:
      arguments.append(self._engine.data(self._batches))
    return self._engine.coordinator.schedule(self._shard, args=tuple(arguments))

  def _taking(self, result):
    return lambda: self._engine.take(result)

  def _fetch(self, shard, feed, results):
    """Returns a shard's sums; a shard that was lost is scheduled again."""
    what = f"{self._work.name}: shard {shard} (batches {feed[0, 0]} to {feed[-1, 0]})"
    while True:
      try:
        value, note, checksum = self._engine.wait(
          self._taking(results[shard]),
          what,
          lambda: self._taking(self._schedule(feed)),
          self._seconds,
        )
      except _LOST as e:
        self._engine.check_servers()
        logging.warning("%s was lost with its worker and is computed again", what)
        logging.debug("%s", e.message)
      else:
        if self._engine.admits(note.decode()):
          break
      time.sleep(_RETRY_SECONDS)
      results[shard] = self._schedule(feed)
    worker = json.loads(note)["task"] if note else "a worker"
    if self._checksums is not None and checksum != self._checksums[shard]:
      raise errors.DisagreementError(
        f"{what}: {worker} reads other data than the chief: its files must be the same"
      )
    if not np.isfinite(value.sum()):
      self.culprits.append(f"{worker} (shard {shard}, batches {feed[0, 0]} to {feed[-1, 0]})")
    return value

  def _sum_shard(self, table, iterator=None):
    """Returns (sums, note of the worker, checksum of its data).

    In a graph. Sums are (size,) float64.
    """
    work, batches = self._work, self._batches
    values = [v.read_value() for v in self._parameters]
    state = tf.nest.pack_sequence_as(self._structure, values)
    prepared = work.prepare(*[v.read_value() for v in self._vectors])
    if batches.cached:
      source = next(iterator)
    else:
      source = batches.stream(self._graph, table[0, 0], tf.shape(table, tf.int64)[0])

    def add(signature, row, sums, checksum):
      if batches.cached:
        batch = tf.nest.map_structure(lambda s: s[row[2]], source[signature])
      else:
        batch = batches.shaped(next(source), signature)
        checksum = batches.add_checksum(checksum, batch)
      values = work.values(signature, row[0], batch, state, prepared)
      sums = [t + tf.cast(v, tf.float64) for t, v in zip(sums, values, strict=True)]
      return (*sums, checksum)

    def body(i, *carried):
      row, sums, checksum = table[i], carried[:-1], carried[-1]
      branches = [
        functools.partial(add, s, row, sums, checksum) for s in range(len(batches.signatures))
      ]
      if len(branches) == 1:
        new = branches[0]()
      else:
        new = tf.switch_case(tf.cast(row[1], tf.int32), branches)
      return (i + 1, *new)

    initial = [tf.zeros(s, tf.float64) for s in work.shapes] + [tf.zeros((), tf.int64)]
    count = tf.shape(table)[0]
    _, *sums, checksum = tf.while_loop(
      lambda i, *_: i < count, body, [tf.constant(0), *initial], parallel_iterations=1
    )
    flat = tf.concat([tf.reshape(s, [-1]) for s in sums], 0)
    return flat, members.read_in_graph(), checksum
