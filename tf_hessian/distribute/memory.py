"""Memory that this process takes of the machine and its accelerators."""

from __future__ import annotations

import pathlib

from absl import logging
import psutil
import tensorflow as tf

_PROCESS = pathlib.Path("/proc/self")  # Linux's table of this process


def resident() -> int:
  """Returns the bytes of memory that this process has now."""
  return psutil.Process().memory_info().rss


def peak() -> int:
  """Returns the most bytes that it has had since `reset_peak`.

  They count from its beginning if that was not called, or the system can't begin anew.
  """
  if _PROCESS.exists():
    rows = dict(line.split(":", 1) for line in (_PROCESS / "status").read_text().splitlines())
    return 1024 * int(rows["VmHWM"].split()[0])
  found = psutil.Process().memory_info()
  if hasattr(found, "peak_wset"):  # Windows
    return found.peak_wset
  import resource

  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes, on macOS


def reset_peak() -> None:
  """Begins to measure the peaks anew, of the accelerators too."""
  try:
    (_PROCESS / "clear_refs").write_text("5")
  except OSError as e:
    logging.warning("the peak of memory can't be reset (%s), so it is that since the start", e)
  for device in _accelerators():
    tf.config.experimental.reset_memory_stats(device)


def accelerator_peak() -> int | None:
  """Returns the most bytes that an accelerator has had since `reset_peak`.

  None without an accelerator.
  """
  peaks = [tf.config.experimental.get_memory_info(d)["peak"] for d in _accelerators()]
  return max(peaks, default=None)


def _accelerators():
  return [
    ":".join(d.name.rsplit(":", 2)[1:])
    for d in tf.config.list_logical_devices()
    if d.device_type == "GPU"
  ]
