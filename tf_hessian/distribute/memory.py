"""Memory that this process takes of the machine and its accelerators."""

from __future__ import annotations

import pathlib

from absl import logging
import tensorflow as tf


def resident() -> int:
  """Returns the bytes of memory that this process has now."""
  return _status("VmRSS")


def peak() -> int:
  """Returns the most bytes that it has had since `reset_peak`.

  They count from its beginning if that was not called.
  """
  return _status("VmHWM")


def reset_peak() -> None:
  """Begins to measure the peaks anew, of the accelerators too."""
  try:
    pathlib.Path("/proc/self/clear_refs").write_text("5")
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


def _status(field):
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith(f"{field}:"):
      return 1024 * int(line.split()[1])
  raise KeyError(field)
