"""Start vectors: uniform on the unit sphere, one independent stream a draw."""

import numpy as np


def probe(seed, draw, /, n):
  """Returns the start vector of one draw: a standard normal vector divided by its length.

  The stream is child number `draw` of `SeedSequence(seed)`, so a draw does not depend on how many
  others there are or in which order they are made, and (seed 0, draw 1) differs from
  (seed 1, draw 0).

  Args:
    seed: seed of the run, an integer that is not negative.
    draw: number of the draw, from 0.
    n: length of the vector.

  Returns:
    (n,) float64, of length 1.
  """
  sequence = np.random.SeedSequence(seed, spawn_key=(draw,))
  v = np.random.Generator(np.random.PCG64(sequence)).standard_normal(n)
  v /= np.linalg.norm(v)
  return v
