"""Progress of the first reading of a data set.

It may be endless, or take hours.
"""

from __future__ import annotations

from collections.abc import Callable
import time

from absl import logging

from tf_hessian import notices

FIRST_SECONDS = 10.0


class Reading:
  """A counter of what is read.

  It logs after some seconds, then at intervals that double.

  Args:
    remedy: what to give if there is no end to it, such as "num_batches=".
    total: number of batches or examples, if it is known that there is an end.
    clock: function () -> seconds.
  """

  def __init__(
    self,
    remedy: str,
    /,
    *,
    total: int | None = None,
    clock: Callable[[], float] = time.monotonic,
  ) -> None:
    self._remedy = remedy
    self._total = total
    self._clock = clock
    self._begin = clock()
    self._next = FIRST_SECONDS
    self.batches = self.examples = self.bytes = 0

  @property
  def seconds(self) -> float:
    """Seconds since the beginning."""
    return self._clock() - self._begin

  def add(self, examples: int, size: int = 0, *, batches: int = 0) -> None:
    """Counts more data, and logs the sums if it is time.

    Args:
      examples: number of examples.
      size: bytes.
      batches: number of batches.
    """
    self.batches += batches
    self.examples += examples
    self.bytes += size
    if self.seconds < self._next:
      return
    seconds = self.seconds
    while self._next <= seconds:
      self._next *= 2
    if self._total is not None:
      notices.show("reading the data set for the first time: %s of %s", self, f"{self._total:,}")
      return
    logging.warning(  # which scripts see that have not asked for more
      "reading the data set for the first time: %s so far, in %.0f s; if there is no end to it, "
      "interrupt (Ctrl-C) and give %s",
      self,
      seconds,
      self._remedy,
    )

  def __str__(self) -> str:
    parts = [f"{self.batches:,} batches"] if self.batches else []
    parts.append(f"{self.examples:,} examples")
    parts += [f"{self.bytes / 1e9:.3g} GB"] if self.bytes else []
    return ", ".join(parts)
