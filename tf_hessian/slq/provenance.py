"""Records of the versions and the device that made a result."""

from __future__ import annotations

import functools
import hashlib
import pathlib
import platform
from typing import Any

import keras
import ml_collections
import numpy
import scipy
import tensorflow as tf

import tf_hessian
from tf_hessian import portable


def versions() -> dict[str, str]:
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


def identity() -> dict[str, Any]:
  """Returns what all processes of a run must have in common.

  A dict of plain values: versions of packages, and a digest of the code.
  """
  names = ("tf_hessian", "tensorflow", "keras", "numpy")
  found = versions()
  return {"versions": {n: found[n] for n in names}, "code": _code_digest()}


@functools.cache
def _code_digest():
  """Returns a digest of the package's source files."""
  root = pathlib.Path(tf_hessian.__file__).parent
  digest = hashlib.blake2b(digest_size=8)
  for path in sorted(root.rglob("*.py")):
    digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
  return digest.hexdigest()


def device() -> str:
  """Returns the accelerators, or the processor and its number of cores: text."""
  accelerators = tf.config.list_physical_devices("GPU") + tf.config.list_physical_devices("TPU")
  if accelerators:
    return ", ".join(
      tf.config.experimental.get_device_details(d).get("device_name", d.name) for d in accelerators
    )
  return f"CPU {platform.machine()}, {portable.cores()} cores"
