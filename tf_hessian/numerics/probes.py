"""Start vectors on the unit sphere, and the table of random streams."""

from __future__ import annotations

import enum

import numpy as np


@enum.unique
class Stream(enum.IntEnum):
  """The random streams of a seed that are no draw's.

  Draw i has stream i. These begin where no run has draws, so that nothing else that is random takes
  the vector of a draw.
  """

  CHECK = 2**31  # probes of `check_operator`
  NONZERO_ROWS = 2**31 + 1  # vectors that find the rows of a matrix that are zero
  KNOWN_VECTOR = 2**31 + 2  # vector by whose product a matrix is told from others
  EIGENPAIRS = 2**31 + 3  # start vectors of a search; it takes the following numbers too
  TRACE = 2**39  # vectors of an estimate of the trace
  SIGNS = 2**40  # vectors of random signs; it takes the following numbers too


def generator(seed: int, number: int, /) -> np.random.Generator:
  """Returns the generator of a stream: child `number` of `SeedSequence(seed)`."""
  sequence = np.random.SeedSequence(seed, spawn_key=(number,))
  return np.random.Generator(np.random.PCG64(sequence))


def probe(seed: int, draw: int, /, n: int) -> np.ndarray:
  """Returns the start vector of one draw: random, of length 1.

  It is a standard normal vector divided by its length, so uniform on the unit sphere. The stream is
  child number `draw` of `SeedSequence(seed)`, so a draw does not depend on how many others there
  are or in which order they are made, and (seed 0, draw 1) differs from (seed 1, draw 0).

  Args:
    seed: seed of the run, an integer that is not negative.
    draw: number of the draw, from 0; or a `Stream`.
    n: length of the vector.

  Returns:
    (n,) float64, of length 1.

  Raises:
    ValueError: if seed or draw is negative.

  >>> v = probe(0, 0, 1000)
  >>> v.shape, round(float(v @ v), 12)
  ((1000,), 1.0)
  """
  v = generator(seed, draw).standard_normal(n)
  v /= np.linalg.norm(v)
  return v


def signs(seed: int, number: int, /, n: int) -> np.ndarray:
  """Returns a vector of random signs, independent of all start vectors.

  Args:
    seed: seed of the run, an integer that is not negative.
    number: number of the vector, from 0.
    n: length of the vector.

  Returns:
    (n,) float64, of 1 and -1.

  >>> signs(0, 0, 4)
  array([-1.,  1., -1., -1.])
  """
  bits = generator(seed, Stream.SIGNS + number).integers(0, 2, n, dtype=np.int8)
  return 2.0 * bits - 1.0
