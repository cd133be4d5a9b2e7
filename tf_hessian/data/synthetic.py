"""Linear regression whose Hessian has a prescribed spectrum, for tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tf_hessian.data import source

_LARGEST = 10**8  # entries of the matrix of inputs, of which there are a few for a moment


def eigenvalues(
  *,
  num_parameters: int = 100,
  outliers: Sequence[float] = (1.0, 2.0, 5.0),
  bulk: float = 0.1,
) -> np.ndarray:
  """Returns the spectrum: a bulk spread evenly over [0, bulk], and outliers.

  Args:
    num_parameters: n.
    outliers: eigenvalues apart from the bulk.
    bulk: upper end of the bulk.

  Returns:
    (n,) float64, ascending.

  Raises:
    ValueError: if there are more outliers than parameters, or a negative eigenvalue.
  """
  if len(outliers) > num_parameters:
    raise ValueError(f"outliers: expected at most num_parameters = {num_parameters} of them")
  rest = np.linspace(0, bulk, num_parameters - len(outliers))
  values = np.sort(np.concatenate([rest, np.asarray(outliers, np.float64)]))
  if values[0] < 0:
    raise ValueError(f"eigenvalues: a sum of squares has none below 0, got {values[0]}")
  return values


def synthetic(
  *,
  num_examples: int = 400,
  num_parameters: int = 100,
  outliers: Sequence[float] = (1.0, 2.0, 5.0),
  bulk: float = 0.1,
  seed: int = 0,
  dtype: str = "float32",
) -> source.Source:
  """Returns a `Source` whose mean squared error has that spectrum.

  Its examples are (input (n,), target (1,)). With N inputs as rows of X, the Hessian of the mean of
  (x w - y)^2 is 2 X'X / N. X is made from its singular value decomposition, with random singular
  vectors.

  Args:
    num_examples: N, at least num_parameters.
    num_parameters: n.
    outliers: eigenvalues apart from the bulk.
    bulk: upper end of the bulk, which is spread evenly over [0, bulk].
    seed: of the singular vectors and targets.
    dtype: "float32" or "float64".

  Raises:
    ValueError: if num_examples is less than num_parameters, or both are large.
  """
  if num_examples < num_parameters:
    raise ValueError(
      f"num_examples: expected at least num_parameters = {num_parameters}, got {num_examples}"
    )
  if num_examples * num_parameters > _LARGEST:
    raise ValueError(
      f"num_examples, num_parameters: expected a product of at most {_LARGEST:,}, got "
      f"{num_examples * num_parameters:,}"
    )
  values = eigenvalues(num_parameters=num_parameters, outliers=outliers, bulk=bulk)
  rng = np.random.Generator(np.random.PCG64(seed))
  left = np.linalg.qr(rng.standard_normal((num_examples, num_parameters)))[0]
  right = np.linalg.qr(rng.standard_normal((num_parameters, num_parameters)))[0]
  inputs = left * np.sqrt(values * num_examples / 2) @ right.T
  targets = rng.standard_normal((num_examples, 1))
  return source.in_memory(inputs.astype(dtype), targets.astype(dtype))
