"""Progress of a run: a bar on a terminal or in a notebook, else log lines."""

from __future__ import annotations

import sys
import time
import warnings

import tqdm

from tf_hessian import notices

_LOG_SECONDS = 30.0
# What is counted -> its plural, and what takes a while for one or several of them.
_UNITS = {
  "product": ("products", "pass"),
  "column": ("columns", "pass"),
  "batch": ("batches", "batch"),
}


class Progress:
  """A display of draw, step, seconds a pass and time left.

  Args:
    total: number of products of the whole run.
    done: number of them that an earlier start of the run has made; none by default.
    enabled: whether to show anything.
    unit: what is counted: "product", "column" or "batch".
  """

  def __init__(
    self, total: int, *, done: int = 0, enabled: bool = True, unit: str = "product"
  ) -> None:
    self._total = total
    self._units, self._each = _UNITS[unit]
    self._done = done
    self._begin = self._logged = time.monotonic()
    self._made = self._passes = 0
    self._log = enabled and not (sys.stderr.isatty() or _in_notebook())
    self._bar = _bar_class()(
      total=total,
      initial=done,
      unit=unit,
      disable=not enabled or self._log,
      dynamic_ncols=True,
    )

  def resume(self, steps: int) -> None:
    """Counts products that an earlier start has made."""
    self._done += steps
    self._bar.update(steps)

  def advance(self, text: str, *, products: int = 1, skipped: int = 0) -> None:
    """Counts one more pass.

    Args:
      text: where the run is.
      products: number of products that the pass has made.
      skipped: number of products that turn out not to be needed.
    """
    self._passes += 1
    self._made += products
    self._done += products + skipped
    now = time.monotonic()
    seconds = (now - self._begin) / self._passes
    self._bar.set_description(f"{text}, {seconds:.3g} s a {self._each}", refresh=False)
    self._bar.update(products + skipped)
    if self._log and (now - self._logged > _LOG_SECONDS or self._done == self._total):
      self._logged = now
      left = (now - self._begin) / self._made * (self._total - self._done)
      notices.show(
        "%s: %d of %d %s, %.3g s a %s, %s left",
        text,
        self._done,
        self._total,
        self._units,
        seconds,
        self._each,
        clock(left),
      )

  def __enter__(self) -> Progress:
    return self

  def __exit__(self, *unused: object) -> None:
    self._bar.close()


def _in_notebook():
  """Returns whether this process is the kernel of a notebook."""
  ipython = sys.modules.get("IPython")
  shell = ipython.get_ipython() if ipython else None
  return shell is not None and "IPKernelApp" in shell.config


def _bar_class():
  if not _in_notebook():
    return tqdm.tqdm
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", tqdm.TqdmWarning)  # without ipywidgets it is a line of text
    from tqdm import auto
  return auto.tqdm


def clock(seconds: float, /) -> str:
  """Returns seconds as hours, minutes and seconds, such as 1:02:03."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}"
