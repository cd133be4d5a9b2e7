"""The Gaussian kernel's width, as peers without such an argument take it."""

import math


def curvlinops_kernel(low, high, steps, sigma):
  """Returns the arguments of curvlinops that make a kernel of width sigma.

  It scales the spectrum from low to high, with a margin of 9 sigma here, to -1 .. 1, where the
  width is 2 / (steps - 1) / sqrt(8 log kappa).
  """
  margin = 9 * sigma / (high - low)
  half = (high - low) * (0.5 + margin)
  return {"margin": margin, "kappa": math.exp((2 * half / ((steps - 1) * sigma)) ** 2 / 8)}
