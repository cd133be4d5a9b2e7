"""Files of spectra: ours, and those of the original code.

A spectrum is the dict of its fields here, those of `tf_hessian.spectrum.Spectrum`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import os
from typing import Any, BinaryIO

import numpy as np

from tf_hessian import files

FORMAT = "tf_hessian.spectrum"
FORMAT_VERSION = 1
FLOAT32 = float(np.finfo(np.float32).eps)


def write(
  file: BinaryIO,
  fields: Mapping[str, Any],
  /,
  *,
  nodes: Sequence[np.ndarray],
  weights: Sequence[np.ndarray],
) -> None:
  """Writes the fields of a spectrum to a file of our format.

  Args:
    file: binary, open for writing.
    fields: name -> value.
    nodes: k vectors (m_i,), so that the file can be used without this package.
    weights: k vectors (m_i,), likewise.
  """
  steps = np.array([len(d) for d in fields["diagonals"]])
  about = {
    "format": FORMAT,
    "format_version": FORMAT_VERSION,
    "statuses": list(fields["statuses"]),
    "num_parameters": fields["num_parameters"],
    "seed": fields["seed"],
    "parameter_names": list(fields["parameter_names"]),
    "parameter_shapes": [list(s) for s in fields["parameter_shapes"]],
    "loss": fields["loss"],
    "config": fields["config"],
    "versions": fields["versions"],
    "device": fields["device"],
  }
  np.savez(
    file,
    about=np.frombuffer(json.dumps(about).encode(), np.uint8),
    steps=steps,
    diagonals=_padded(fields["diagonals"], steps),
    off_diagonals=_padded(fields["off_diagonals"], steps),
    residuals=fields["residuals"],
    wall_times=fields["wall_times"],
    nodes=_padded(nodes, steps),
    weights=_padded(weights, steps),
  )


def read(path: str | os.PathLike | BinaryIO, /) -> dict[str, Any]:
  """Returns the fields of the `Spectrum` in a file of our format.

  Args:
    path: the file, or a binary file object.

  Raises:
    OSError: if there is no such file.
    ValueError: if it is damaged, of another kind, or of a newer format.
  """
  arrays = files.read_npz(path)
  try:
    about = dict(json.loads(arrays["about"].tobytes()))
  except (ValueError, KeyError, TypeError) as e:
    raise ValueError(f"{path}: not a spectrum, or damaged ({e})") from e
  if about.get("format") != FORMAT:
    raise ValueError(f"{path}: expected format {FORMAT!r}, got {about.get('format')!r}")
  try:
    if about["format_version"] <= FORMAT_VERSION:
      return _fields(arrays, about)
  except (KeyError, IndexError, ValueError, TypeError) as e:
    raise ValueError(f"{path}: damaged: {e} is missing or wrong") from e
  raise ValueError(
    f"{path}: it has format version {about['format_version']}, and this tf_hessian reads up to "
    f"{FORMAT_VERSION}: install a newer one"
  )


def without_basis(config: Mapping[str, Any], /) -> bool:
  """Returns whether a run kept no basis, by its record.

  Its eigenvalues may then have several nodes, whose weights add up.
  """
  return config.get("basis") == "none"


def rounding(config: Mapping[str, Any], /) -> float:
  """Returns the relative rounding error of a run's nodes, by its record.

  It is that of the products, or of the Lanczos vectors where these are float32. It is 0 where
  nothing is known.
  """
  rows = FLOAT32 if str(config.get("basis")).startswith("float32") else 0.0
  return max(config.get("precision", 0.0), rows)


def read_original(path: str | os.PathLike, precision: float, /) -> dict[str, Any]:
  """Returns the fields of a `Spectrum` in the original code's file.

  Slices that are all zero are draws that had not finished; they are left out.

  Args:
    path: the file, float64 (steps, steps, draws).
    precision: relative rounding error of the products, which it does not record.

  Raises:
    OSError: if there is no such file.
    ValueError: if it is damaged, or not such an array of tridiagonal matrices.
  """
  with open(path, "rb") as file:
    try:
      array = np.load(file, allow_pickle=False)
    except Exception as e:  # damaged files fail in many ways inside zipfile and NumPy
      raise ValueError(f"{path}: not an array of the original code, or damaged ({e})") from e
  if not isinstance(array, np.ndarray) or array.ndim != 3 or array.shape[0] != array.shape[1]:
    raise ValueError(
      f"{path}: expected an array (steps, steps, draws), got {getattr(array, 'shape', 'several')}"
    )
  if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
    raise ValueError(f"{path}: expected finite real numbers, got {array.dtype}")
  matrices = [t for t in np.moveaxis(array, -1, 0).astype(np.float64) if t.any()]
  if not matrices:
    raise ValueError(f"{path}: no finished draw, all entries are zero")
  for i, t in enumerate(matrices):
    if not np.array_equal(np.triu(np.tril(t, 1), -1), t) or not np.array_equal(t, t.T):
      raise ValueError(f"{path}: draw {i} is not a symmetric tridiagonal matrix")
  return {
    "diagonals": tuple(np.diag(t).copy() for t in matrices),
    "off_diagonals": tuple(np.diag(t, 1).copy() for t in matrices),
    "residuals": np.full(len(matrices), np.nan),
    "statuses": ("COMPLETE",) * len(matrices),
    "config": {"read_from": "original layout", "precision": precision},
  }


def is_original(path: str | os.PathLike, /) -> bool:
  """Returns whether a file begins as those of the original code do."""
  with open(path, "rb") as file:
    return file.read(6) == b"\x93NUMPY"


def _fields(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> dict[str, Any]:
  steps = _checked_steps(arrays, about["statuses"])
  return {
    "diagonals": tuple(d[:m] for d, m in zip(arrays["diagonals"], steps, strict=True)),
    "off_diagonals": tuple(e[: m - 1] for e, m in zip(arrays["off_diagonals"], steps, strict=True)),
    "residuals": arrays["residuals"],
    "statuses": tuple(about["statuses"]),
    "num_parameters": about["num_parameters"],
    "seed": about["seed"],
    "parameter_names": tuple(about["parameter_names"]),
    "parameter_shapes": tuple(tuple(s) for s in about["parameter_shapes"]),
    "loss": about["loss"],
    "config": dict(about["config"]),
    "versions": dict(about["versions"]),
    "device": about["device"],
    "wall_times": arrays["wall_times"],
  }


def _checked_steps(arrays: Mapping[str, np.ndarray], statuses: Sequence[str]) -> np.ndarray:
  """Returns the draws' steps, (k,), if arrays can be a result."""
  steps, count = arrays["steps"], len(statuses)
  columns = arrays["diagonals"].shape[-1]
  shapes: dict[str, tuple[int, ...]] = {
    "steps": (count,),
    "residuals": (count,),
    "wall_times": (count,),
    "diagonals": (count, columns),
    "off_diagonals": (count, columns),
  }
  for name, shape in shapes.items():
    array = arrays[name]
    if array.dtype.kind not in ("iu" if name == "steps" else "f"):
      raise ValueError(f"{name} of {array.dtype}")
    if array.shape != shape and not (name == "wall_times" and not array.size):
      raise ValueError(f"{name} of shape {array.shape}")
  if not count or steps.min() < 1 or steps.max() > columns:
    raise ValueError("steps")
  for name, fewer in (("diagonals", 0), ("off_diagonals", 1)):
    used = np.arange(columns) < steps[:, None] - fewer
    if not np.isfinite(arrays[name][used]).all():
      raise ValueError(f"{name}: not finite, which")
  return steps


def _padded(vectors: Sequence[np.ndarray], steps: np.ndarray) -> np.ndarray:
  result = np.full((len(vectors), steps.max()), np.nan)
  for row, v in zip(result, vectors, strict=True):
    row[: len(v)] = v
  return result
