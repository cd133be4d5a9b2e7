"""Progress of a run: a bar on a terminal, plain log lines elsewhere."""

import sys
import time

from absl import logging
import tqdm

_LOG_SECONDS = 30.0


class Progress:
  """Shows draw, step, seconds a product and time left.

  Args:
    total: number of products of the whole run.
    done: how many an earlier start of the run has already made.
    enabled: False shows nothing.
  """

  def __init__(self, total, *, done=0, enabled=True):
    self._total = total
    self._done = done
    self._begin = self._logged = time.monotonic()
    self._made = 0
    self._log = enabled and not sys.stderr.isatty()
    self._bar = tqdm.tqdm(
      total=total,
      initial=done,
      unit="product",
      disable=not enabled or self._log,
      dynamic_ncols=True,
    )

  def resume(self, steps):
    """Counts the products of a draw that an earlier start has made."""
    self._done += steps
    self._bar.update(steps)

  def update(self, draw, step, *, skipped=0):
    """Counts one more product: step `step` of draw `draw`, and `skipped` that are not needed."""
    self.advance(f"draw {draw}, step {step}", skipped=skipped)

  def advance(self, text, *, skipped=0):
    """Counts one more product, with a text that says where the run is."""
    self._made += 1
    self._done += 1 + skipped
    self._bar.update(1 + skipped)
    self._bar.set_description(text, refresh=False)
    now = time.monotonic()
    if self._log and (now - self._logged > _LOG_SECONDS or self._done == self._total):
      self._logged = now
      seconds = (now - self._begin) / self._made
      left = seconds * (self._total - self._done)
      logging.info(
        "%s: %d of %d products, %.3g s each, %s left",
        text,
        self._done,
        self._total,
        seconds,
        _clock(left),
      )

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self._bar.close()


def _clock(seconds):
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}"
