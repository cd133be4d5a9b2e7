"""Contracts between makers of passes and those who run them.

Whoever computes something of each batch makes a `Work`. An `Engine` makes a `Pass` of it, by
handing out whole `Batches` to the devices there are. Which examples are in a batch, its weight and
its seed don't depend on the engine. The engine of several workers is a `Group` too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from tf_hessian.numerics import distributed_basis


class Segment(Protocol):
  """A run of batches of one shape, for one graph loop.

  Attributes:
    signature: number of the batches' shape in `Batches.signatures`.
    feed: arguments of the graph function, read by `Batches.read`; the third is the number of
      batches.
  """

  @property
  def signature(self) -> int: ...

  @property
  def feed(self) -> tuple: ...


class Batches(Protocol):
  """A data set as a fixed sequence of batches, such as `curvature.batches.Batches`.

  Attributes:
    num_batches: number of batches.
    cached: whether they are kept in memory; others are streamed.
    signatures: nested `tf.TensorSpec` of a batch, one for each different shape.
    stacks: the stacked batches of each signature, if they are cached; None if not.
  """

  num_batches: int
  cached: bool
  stacks: Any

  @property
  def signatures(self) -> Sequence[Any]: ...

  def segments(self, low: int = 0, high: int | None = None) -> Sequence[Segment]:
    """Returns the segments of batches low to high - 1.

    Of all batches by default. They are made for one pass.
    """

  def read(self, feed: tuple, signature: int, i: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Returns (number, batch) of batch i of a segment; in a graph."""

  def changed(self, b: tf.Tensor, batch: Any) -> tf.Tensor:
    """Returns whether streamed batch number b has changed; in a graph.

    It has if its values are others than at first.
    """

  def table(self, low: int, high: int) -> np.ndarray:
    """Returns the rows of batches low to high - 1: int64.

    A row is (number, signature, position in its stack).
    """

  def shaped(self, batch: Any, signature: int) -> Any:
    """Returns a batch with the static shapes of its signature."""

  def serialized(self) -> bytes:
    """Returns streamed data as a graph that other processes can run."""

  def stream(self, graph: tf.Tensor, low: tf.Tensor, count: tf.Tensor) -> Iterator:
    """Returns an iterator over `count` batches of `serialized` data; in a graph."""

  def checksum(self, low: int, high: int) -> np.int64:
    """Returns the checksum of streamed batches low to high - 1.

    It is the sum of theirs.
    """

  def add_checksum(self, total: tf.Tensor, batch: Any) -> tf.Tensor:
    """Returns a sum with a batch's checksum added; in a graph.

    The sum is an int64.
    """


class Work(Protocol):
  """A computation on one batch, which a pass sums over all.

  The methods are called while a graph is built.

  Attributes:
    name: name of the pass, a word that may be followed by integers.
    shapes: shapes of the sums, whose first dimension may be open.
    signature: `tf.TensorSpec`s of a pass's arguments.
  """

  name: str

  @property
  def shapes(self) -> Sequence[tf.TensorShape]: ...

  @property
  def signature(self) -> Sequence[tf.TensorSpec]: ...

  def count(self, *arguments: tf.Tensor) -> tf.Tensor | None:
    """Returns the open dimension of the sums for such arguments.

    None if none is open.
    """

  def state(self) -> Any:
    """Returns tensors that a pass reads once: a nest.

    Such as parameters.
    """

  @property
  def prepare(self) -> Callable[..., Any]:
    """Function (*arguments) -> nest of tensors.

    A pass makes them once of its arguments.
    """

  def values(
    self, signature: int, b: tf.Tensor, batch: Any, state: Any, prepared: Any
  ) -> list[tf.Tensor]:
    """Returns what batch number b adds to the sums."""


class Pass(Protocol):
  """Sums of some work over all batches.

  Attributes:
    tracing_count: how often its loop over batches was traced.
    culprits: names of those who computed sums that are not finite in the last pass.
    changed: number of the first batch whose data, which are streamed, had changed in the last pass;
      None if there is none.
  """

  culprits: Sequence[str]

  @property
  def tracing_count(self) -> int: ...

  @property
  def changed(self) -> int | None: ...

  @property
  def feeds(self) -> Callable[[], Any]:
    """Function () -> feeds, from which the batches are read.

    Feeds are made anew for each pass.
    """

  def __call__(self, feeds: Any, /, *arguments: tf.Tensor) -> tf.Tensor:
    """Returns the sums, flattened one after the other: float64."""


class SharedPass(Pass, Protocol):
  """A pass in which all workers of a group take part."""

  def join(self, feeds: Any, /) -> None:
    """Takes part in a pass that the chief has announced."""

  def together(self, feeds: Any, /, *arguments: tf.Tensor) -> tf.Tensor:
    """Returns the sums for the sum of all workers' arguments.

    The pass is not announced.
    """


class Engine(Protocol):
  """A way to run passes on the devices there are.

  Attributes:
    leads: whether this process calls the passes; of several workers, only the chief does.
    followers: whether there are processes that `follow`.
    is_cluster: whether batches go to other processes.
    description: plain values that the order of additions depends on, for records.
  """

  leads: bool
  followers: bool
  is_cluster: bool
  description: dict[str, Any]

  def build(self, work: Work, batches: Batches, /) -> Pass:
    """Returns a pass.

    All of several workers must call it, or the others `follow`.
    """

  def agree(self, identity: dict[str, Any], /) -> None:
    """Makes sure that all processes measure the same.

    Args:
      identity: plain values that define it.

    Raises:
      DisagreementError: if one measures something else.
    """

  def follow(self, passes: Mapping[str, Callable], /) -> bytes:
    """Takes part in the chief's passes until it has finished.

    It is for the other workers.

    Args:
      passes: first word of a pass's name -> function that takes part in it; it is given the numbers
        that follow in the name.

    Returns:
      The bytes that the chief gave to `finish`.

    Raises:
      ClusterError: if the chief has ended with an error, in its words, or if a worker is gone.
      ValueError: if this process has nobody to follow, or a pass fails here.
    """

  def finish(self, content: bytes = b"", error: str = "", /) -> None:
    """Lets the followers go, on the chief.

    Args:
      content: bytes of the result, for the followers.
      error: the reason why there is no result; "" if there is one.
    """


class Group(Engine, distributed_basis.Group, Protocol):
  """An engine of several workers, with the ways between them.

  Attributes:
    neighbours: number of workers on this one's host, with itself.
  """

  neighbours: int

  def build(self, work: Work, batches: Batches, /) -> SharedPass:
    """Returns a pass; all workers must call it, or the others `follow`."""

  def gather(self, numbers: tf.Tensor | Sequence[int], /) -> list:
    """Returns the int64 numbers (k,) of all workers.

    A list, of lists if k > 1.
    """
