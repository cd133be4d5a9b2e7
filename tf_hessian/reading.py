"""What is said while a data set is read for the first time: it may be endless, or take hours."""

import time

from absl import logging

FIRST_SECONDS = 10.0


class Reading:
  """Counts what is read, and logs it after some seconds, then at intervals that double.

  Args:
    remedy: what to give if there is no end to it, such as "num_batches=".
    total: number of batches or examples, if it is known that there is an end.
    clock: function () -> seconds.
  """

  def __init__(self, remedy, /, *, total=None, clock=time.monotonic):
    self._remedy = remedy
    self._total = total
    self._clock = clock
    self._begin = clock()
    self._next = FIRST_SECONDS
    self.batches = self.examples = self.bytes = 0

  @property
  def seconds(self):
    """Seconds since the beginning."""
    return self._clock() - self._begin

  def add(self, examples, size=0, *, batches=0):
    """Counts what has been read now, and logs the sums if it is time.

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
      logging.info("reading the data set for the first time: %s of %s", self, f"{self._total:,}")
      return
    logging.warning(  # which scripts see that have not asked for more
      "reading the data set for the first time: %s so far, in %.0f s; if there is no end to it, "
      "interrupt (Ctrl-C) and give %s",
      self,
      seconds,
      self._remedy,
    )

  def __str__(self):
    parts = [f"{self.batches:,} batches"] if self.batches else []
    parts.append(f"{self.examples:,} examples")
    parts += [f"{self.bytes / 1e9:.3g} GB"] if self.bytes else []
    return ", ".join(parts)
