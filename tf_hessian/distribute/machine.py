"""Settings of the machine: threads, memory, Grappler, TF32.

They are made before devices are initialised.
"""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any

from absl import logging
import tensorflow as tf

from tf_hessian import portable
from tf_hessian.distribute.grappler import GRAPPLER


def set_threads(intra_op: int = 0, inter_op: int = 0, /) -> None:
  """Sets the numbers of threads; 0 leaves the choice to TensorFlow."""
  tf.config.threading.set_intra_op_parallelism_threads(intra_op)
  tf.config.threading.set_inter_op_parallelism_threads(inter_op)


def set_memory(growth: bool | None = None, limit: int | None = None, /) -> None:
  """Sets how accelerators' memory is taken.

  Args:
    growth: whether to take it as it is needed instead of all at once; None leaves that alone.
    limit: MiB for this process on each accelerator; None for no limit.

  Raises:
    ValueError: if both are given, of which TensorFlow allows one.
  """
  if growth is None and limit is None:
    return
  if growth and limit is not None:
    raise ValueError("memory growth and a memory limit exclude each other: choose one")
  accelerators = tf.config.list_physical_devices("GPU")
  if not accelerators:
    logging.warning("settings of accelerators' memory: there is no accelerator here")
  for device in accelerators:
    if limit is not None:
      part = tf.config.LogicalDeviceConfiguration(memory_limit=limit)
      tf.config.set_logical_device_configuration(device, [part])
    else:
      tf.config.experimental.set_memory_growth(device, growth)


def set_grappler(options: Mapping[str, bool], /, *, deterministic: bool = True) -> None:
  """Switches rewrites of graphs on or off.

  Args:
    options: name in `GRAPPLER` -> whether it is on; others are left alone.
    deterministic: whether products are to be bitwise repeatable, as by default.

  Raises:
    ValueError: for an unknown name, or one that contradicts `deterministic`.
  """
  for name in options:
    if name not in GRAPPLER:
      raise ValueError(f"Grappler: unknown option {name!r}; expected one of {', '.join(GRAPPLER)}")
  if deterministic and options.get("arithmetic_optimization"):
    raise ValueError(
      "arithmetic_optimization makes sums whose order varies: leave it out, or switch "
      "determinism off"
    )
  tf.config.optimizer.set_experimental_options(dict(options))


def set_tf32(enabled: bool, /) -> None:
  """Allows TF32 in float32 matrix products and convolutions, or not.

  TF32 has 10 bits of mantissa.
  """
  tf.config.experimental.enable_tensor_float_32_execution(enabled)


def settings() -> dict[str, Any]:
  """Returns the settings that the numbers depend on: plain values.

  They are for records.
  """
  return {
    "grappler": tf.config.optimizer.get_experimental_options(),
    "tf32": tf.config.experimental.tensor_float_32_execution_enabled(),
    "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
    "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
  }


def session_config() -> tf.compat.v1.ConfigProto:
  """Returns these settings as the `ConfigProto` of a server.

  It has one thread more than operations may run at a time: a server handles a request in a thread
  of the same pool, which waits there for the operations of the request. With a single thread they
  would wait for each other for ever.
  """
  config = tf.compat.v1.ConfigProto()
  config.intra_op_parallelism_threads = tf.config.threading.get_intra_op_parallelism_threads()
  config.inter_op_parallelism_threads = 1 + _inter_op_threads()
  for device in tf.config.list_physical_devices("GPU"):
    config.gpu_options.allow_growth = bool(tf.config.experimental.get_memory_growth(device))
    limits = [p.memory_limit for p in tf.config.get_logical_device_configuration(device) or ()]
    config.gpu_options.experimental.virtual_devices.add(memory_limit_mb=limits)
  return config


def _inter_op_threads():
  """Returns how many operations may run at a time.

  Also where the choice is TensorFlow's.
  """
  chosen = tf.config.threading.get_inter_op_parallelism_threads()
  text = os.environ.get("TF_NUM_INTEROP_THREADS", "")
  return chosen or (text.isdigit() and int(text)) or portable.cores()
