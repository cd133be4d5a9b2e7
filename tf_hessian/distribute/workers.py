"""The engine of several processes that run the same program (MultiWorkerMirroredStrategy).

Before each pass the chief broadcasts which one it is, and its arguments. Then every worker runs its
batches, and the sums are reduced once. Nobody waits for anybody within a pass, so workers may have
different numbers of batches. The others either make the same calls as the chief, or `follow` it.
TensorFlow ends the collectives of all workers when one of them dies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import functools
import json
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike
import tensorflow as tf

from tf_hessian import records
from tf_hessian.distribute import (
  accumulators,
  checksums,
  collectives,
  errors,
  kernels,
  members,
  protocols,
)

_SUM = tf.distribute.ReduceOp.SUM
_END = -1
_WORDS = 8  # of what announces a pass
_PIECE = 2**26  # bytes that are broadcast at a time
_CHECKS = 4  # numbers that each replica tells the others after it

_Result = TypeVar("_Result")


class Workers:
  """Equal parts of the batches to the replicas of all workers.

  Args:
    strategy: a `tf.distribute.MultiWorkerMirroredStrategy`.
    patience: seconds that a worker which doesn't answer is waited for.
    deterministic: whether passes are to be bitwise repeatable, as by default; workers then need the
      same kernels.

  Attributes:
    leads: whether this process is the chief.
    followers: whether there are others.
    rank: number of this worker, from 0, the chief's.
    size: number of workers.
    neighbours: number of them on this one's host, with itself.
    is_cluster, description: those of an `Engine`.
  """

  is_cluster = True

  def __init__(
    self,
    strategy: tf.distribute.MultiWorkerMirroredStrategy,
    /,
    *,
    patience: float = 600.0,
    deterministic: bool = True,
  ) -> None:
    resolver = strategy.cluster_resolver
    jobs = resolver.cluster_spec().jobs if resolver.cluster_spec() else ()
    chief = "chief" in jobs
    self.strategy = strategy
    self.rank = (resolver.task_id or 0) + (chief and resolver.task_type == "worker")
    self.leads = not self.rank
    tasks = [resolver.cluster_spec().job_tasks(job) for job in ("chief", "worker") if job in jobs]
    self.addresses = [address for job in tasks for address in job]
    self.size = len(self.addresses) or 1
    hosts = [address.rpartition(":")[0] for address in self.addresses]
    self.neighbours = hosts.count(hosts[self.rank]) if hosts else 1
    self.followers = self.size > 1
    self.description: dict[str, Any] = {
      "strategy": "multi_worker",
      "replicas": strategy.num_replicas_in_sync,
    }
    self._gather = tf.function(self._gather_tensor, autograph=False)
    self._left = False
    self._deterministic = deterministic
    others = [a for r, a in enumerate(self.addresses) if r != self.rank]
    self._guard = collectives.Guard(
      others, patience, "the last finished Lanczos step of its --workdir"
    )
    self._add = tf.function(self._add_tensor, autograph=False)

  def build(self, work: protocols.Work, batches: protocols.Batches, /) -> _WorkersPass:
    """Returns a pass. All workers must call it, or the others `follow`."""
    return _WorkersPass(self, work, batches)

  def agree(self, identity: dict[str, Any], /) -> None:
    """Makes sure that all workers measure the same; all must call it.

    Args:
      identity: dict of plain values.

    Raises:
      DisagreementError: on all workers, if one has another identity than the chief; says which.
      ClusterError: if a worker is gone.
    """
    mine = json.dumps(records.as_plain(identity) | self._kernels, sort_keys=True)
    hashes = self.gather(tf.bitcast(tf.fingerprint([mine]), tf.int64))
    if len(set(hashes)) > 1:
      everyone = [json.loads(self.broadcast_bytes(mine.encode(), r)) for r in range(len(hashes))]
      found = [
        f"worker {r} differs from the chief: {', '.join(errors.differences(everyone[0], other))}"
        for r, other in enumerate(everyone)
        if other != everyone[0]
      ]
      remedy = "start all of them with the same code, config and data"
      if any(other.get(members.KERNELS) != everyone[0].get(members.KERNELS) for other in everyone):
        remedy += f"; {kernels.REMEDY}"
      raise errors.DisagreementError(
        f"the workers don't measure the same, so nothing was computed: {'; '.join(found)}; {remedy}"
      )

  @functools.cached_property
  def _kernels(self):
    """Digests of kernels, on which workers must agree too: a dict."""
    return {members.KERNELS: kernels.digest()} if self._deterministic and self.followers else {}

  def broadcast(self, value: tf.Tensor | ArrayLike, source: int = 0, /) -> tf.Tensor:
    """Returns one worker's tensor on every worker.

    All must call it, with the same shape.
    """
    value = tf.convert_to_tensor(value)
    return self.add(value if self.rank == source else tf.zeros_like(value))

  def add(self, value: tf.Tensor | ArrayLike, /) -> tf.Tensor:
    """Returns the sum of all workers' tensors.

    All must call it, with the same shape. The sum is exact where no more than one worker has
    another number than zero.
    """
    return self.guarded(self._add, tf.convert_to_tensor(value))

  def broadcast_bytes(self, content: bytes, source: int = 0, /) -> bytes:
    """Returns one worker's bytes on every worker; the others pass anything."""
    size = int(self.broadcast(tf.constant(len(content), tf.int64), source))
    result = bytearray(size)
    for start in range(0, size, _PIECE):
      part = memoryview(result)[start : start + _PIECE]
      words = np.zeros(-(-len(part) // 8), np.int64)  # whose sums are exact
      if self.rank == source:
        words.view(np.uint8)[: len(part)] = np.frombuffer(content, np.uint8, len(part), start)
      part[:] = self.broadcast(words, source).numpy().view(np.uint8)[: len(part)]
    return bytes(result)

  def gather(self, numbers: tf.Tensor | Sequence[int], /) -> list:
    """Returns the int64 numbers (k,) of all workers.

    A list, of lists if k > 1.
    """
    rows = self.guarded(self._gather, tf.reshape(tf.cast(numbers, tf.int64), [1, -1])).numpy()
    return [row[0] if len(row) == 1 else row for row in rows.tolist()]

  def failure(self, message: str, /) -> errors.ClusterError:
    """Returns the error of a worker that can't go on.

    All workers raise it at once.
    """
    return errors.ClusterError(message)

  @contextlib.contextmanager
  def committed(self) -> Iterator[None]:
    """Lets no `finish` follow an error in the code within.

    A context manager, for while the others wait for what this process has announced. After an error
    they can't be told anything, and `finish` doesn't try. They find that this process has ended.
    """
    try:
      yield
    except BaseException:
      self._left = True
      raise

  def announce(self, name: str, /) -> None:
    """Announces a pass, or checks that the chief announces the same.

    The chief does the first, the others the second.

    Args:
      name: name of the pass: a word, of which six letters count, and up to six integers.

    Raises:
      ValueError: if the chief runs another pass, or has finished.
      ClusterError: if the chief has ended with an error, or a worker is gone.
    """
    mine = _numbers(name)
    found = self.broadcast(tf.constant(mine, tf.int64)).numpy().tolist()
    if found[0] == _END:
      self._end()
      raise ValueError(f"{name}: the chief has finished, but this worker calls another pass")
    if found != mine:
      raise ValueError(
        f"{name}: the chief runs another pass; workers must make the same calls, or follow()"
      )

  def follow(self, passes: Mapping[str, Callable], /) -> bytes:
    """Takes part in what the chief announces until it has finished.

    It is for the other workers.

    Args:
      passes: first word of a pass's name -> function that takes part in it; it is given the
        numbers that follow in the name.

    Returns:
      The bytes that the chief gave to `finish`.

    Raises:
      ClusterError: if the chief has ended with an error, in its words, or if a worker is gone.
      ValueError: if a pass fails here.
    """
    if self.leads:
      raise ValueError("follow(): is for workers other than the chief; this process leads")
    joins = {_numbers(name)[0]: join for name, join in passes.items()}
    while True:
      word, count, *numbers = self.broadcast(tf.zeros(_WORDS, tf.int64)).numpy().tolist()
      if word == _END:
        return self._end()
      try:
        joins[word](*numbers[:count])
      except tf.errors.OpError as e:  # the chief will find that this worker is gone
        raise ValueError(f"worker {self.rank}: a pass fails: {e.message}") from e

  def finish(self, content: bytes = b"", error: str = "", /) -> None:
    """Lets the followers go, on the chief.

    Args:
      content: bytes of the result, for the followers.
      error: the reason why there is no result; "" if there is one.
    """
    if self._left or self._guard.broken:
      return
    self.broadcast(tf.constant([_END] + [0] * (_WORDS - 1), tf.int64))
    self.broadcast_bytes(error.encode())
    self.broadcast_bytes(content)

  def _end(self):
    error = self.broadcast_bytes(b"").decode()
    content = self.broadcast_bytes(b"")
    if error:
      raise errors.ClusterError(f"the chief has ended: {error}")
    return content

  def guarded(self, function: Callable[..., _Result], /, *arguments: Any) -> _Result:
    """Calls a function with collectives.

    Waits no longer than `patience` for a worker.
    """
    return self._guard.call(function, *arguments)

  def _add_tensor(self, value):
    def replica():
      context = tf.distribute.get_replica_context()
      mine = accumulators.this_replica() == self.local_ids()[0]
      return context.all_reduce(_SUM, tf.identity(value) if mine else tf.zeros_like(value))

    return self.strategy.experimental_local_results(self.strategy.run(replica))[0]

  def _gather_tensor(self, value):
    def replica():
      return tf.distribute.get_replica_context().all_gather(tf.identity(value), axis=0)

    rows = self.strategy.experimental_local_results(self.strategy.run(replica))[0]
    return rows[:: len(self.strategy.extended.worker_devices)]

  def local_ids(self) -> list[int]:
    """Returns the numbers of this worker's replicas among all."""
    count = len(self.strategy.extended.worker_devices)
    return list(range(self.rank * count, (self.rank + 1) * count))


def _numbers(name):
  """Returns the numbers that announce a pass.

  They are the letters of its name's word, how many numbers follow in the name, and those.
  """
  word, *numbers = name.split()
  letters = int.from_bytes(word.encode()[:6], "big")
  return [letters, len(numbers), *map(int, numbers)] + [0] * (_WORDS - 2 - len(numbers))


class _WorkersPass:
  """A pass in which each process computes its own replicas' batches."""

  def __init__(self, engine: Workers, work: protocols.Work, batches: protocols.Batches) -> None:
    self._engine = engine
    self._work = work
    self._ids = engine.local_ids()
    self._parts = accumulators.Parts(work, batches, engine.strategy, self._ids)
    self._run = tf.function(functools.partial(self._pass), autograph=False)
    self.feeds = self._parts.feeds
    self.culprits: Sequence[str] = ()
    self.changed: int | None = None

  @property
  def tracing_count(self) -> int:
    return self._run.experimental_get_tracing_count()

  def __call__(self, feeds: Sequence[Sequence[tuple]], *arguments: tf.Tensor) -> tf.Tensor:
    self._engine.announce(self._work.name)
    return self._participate(feeds, arguments if self._engine.leads else self._nothing())

  def join(self, feeds: Sequence[Sequence[tuple]]) -> None:
    """Takes part in a pass that the chief has announced."""
    self._participate(feeds, self._nothing())

  def together(self, feeds: Sequence[Sequence[tuple]], *arguments: tf.Tensor) -> tf.Tensor:
    """Runs a pass with the sums of all workers' arguments.

    Each worker has a part of them. All must call it, and it is not announced.
    """
    return self._participate(feeds, arguments)

  def _nothing(self):
    return [tf.zeros(s.shape, s.dtype) for s in self._work.signature]

  def _participate(self, feeds, arguments):
    total, reports = self._engine.guarded(self._run, feeds, *arguments)
    received, state, finite, changed = np.reshape(reports, (-1, _CHECKS)).T
    for what, found in (("vectors", received), ("parameters", state)):
      if len(set(found.tolist())) > 1:
        raise errors.DisagreementError(
          f"{self._work.name}: the workers have different {what}; checksums {found.tolist()}"
        )
    self.changed = accumulators.first_changed(changed)
    per_worker = len(self._ids)
    self.culprits = sorted({f"worker {r // per_worker}" for r in np.flatnonzero(finite == 0)})
    return total

  def _pass(self, feeds, *arguments):
    def replica():
      context = tf.distribute.get_replica_context()
      first = accumulators.this_replica() == self._ids[0]
      received = [
        context.all_reduce(_SUM, tf.identity(a) if first else tf.zeros_like(a)) for a in arguments
      ]
      part = self._parts.add_up(feeds, received)
      finite = tf.cast(tf.math.is_finite(tf.reduce_sum(part)), tf.int64)
      checks = [
        checksums.checksum(received),
        checksums.checksum(self._work.state()),
        finite[tf.newaxis],
      ]
      checks.append(self._parts.changed_here()[tf.newaxis])
      report = tf.reshape(tf.concat(checks, 0), [1, _CHECKS])
      return context.all_reduce(_SUM, part), context.all_gather(report, axis=0)

    results = self._engine.strategy.run(replica)
    local = self._engine.strategy.experimental_local_results
    return local(results[0])[0], local(results[1])[0]
