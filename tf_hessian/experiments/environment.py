"""What a result records of where it was made."""

import os
import platform

import keras
import ml_collections
import numpy
import scipy
import tensorflow as tf

import tf_hessian


def versions():
  """Returns a dict: package -> version."""
  return {
    "tf_hessian": tf_hessian.__version__,
    "python": platform.python_version(),
    "tensorflow": tf.__version__,
    "keras": keras.__version__,
    "numpy": numpy.__version__,
    "scipy": scipy.__version__,
    "ml_collections": getattr(ml_collections, "__version__", ""),
  }


def device():
  """Returns what computes: the accelerators, or the processor and its number of cores."""
  accelerators = tf.config.list_physical_devices("GPU") + tf.config.list_physical_devices("TPU")
  if accelerators:
    names = [
      tf.config.experimental.get_device_details(d).get("device_name", d.name) for d in accelerators
    ]
    return ", ".join(names)
  return f"CPU {platform.machine()}, {len(os.sched_getaffinity(0))} cores"
