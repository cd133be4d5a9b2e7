"""A strategy, and how its workers share the batches of a pass."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tf_hessian.numerics import checks


@dataclasses.dataclass(frozen=True)
class Sharing:
  """A strategy, with its choices for sharing the batches.

  A strategy alone does where their defaults do.

  >>> import tensorflow as tf
  >>> import tf_hessian
  >>> tf_hessian.Sharing(tf.distribute.MirroredStrategy(["CPU:0"]), num_shards=32).num_shards
  32

  Attributes:
    strategy: a `tf.distribute.Strategy`; None for one device.
    num_shards: number of shards that a `ParameterServerStrategy` hands out in a pass. For the same
      number the sums are bitwise the same, with any number of workers. Two to four times the
      largest number of workers is good; the default 16 is for a few.
    patience: seconds that a `ParameterServerStrategy` waits while all workers are gone, and a
      `MultiWorkerMirroredStrategy` for a worker that doesn't answer. The default leaves time to
      start them again.

  Raises:
    TypeError, ValueError: for another kind of strategy, or numbers that can't be right.
  """

  strategy: tf.distribute.Strategy | None = None
  num_shards: int = 16
  patience: float = 600.0

  def __post_init__(self) -> None:
    if self.strategy is not None and not isinstance(self.strategy, tf.distribute.Strategy):
      raise TypeError(
        f"strategy: expected None or a tf.distribute.Strategy, got {type(self.strategy).__name__}"
      )
    checks.check_count("num_shards", self.num_shards)
    checks.check_positive("patience", self.patience)

  @classmethod
  def of(cls, strategy: tf.distribute.Strategy | Sharing | None, /) -> Sharing:
    """Returns a strategy as a `Sharing`, which it may be already."""
    return strategy if isinstance(strategy, cls) else cls(strategy)
