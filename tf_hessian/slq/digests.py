"""Digests of arrays, by which matrices and start vectors are told apart."""

from __future__ import annotations

from collections.abc import Iterable
import hashlib

import numpy as np


def of_array(array: np.ndarray, /) -> str:
  """Returns the digest of one array's bytes: text."""
  return of_arrays([array])


def of_arrays(arrays: Iterable[np.ndarray], /) -> str:
  """Returns the digest of several arrays' bytes, in their order: text."""
  result = hashlib.blake2b(digest_size=16)
  for array in arrays:
    result.update(array.tobytes())
  return result.hexdigest()
