"""Exactness of densities from recurrences that keep no basis.

  python -m benchmarks.without_basis --workdir=runs/verify

Of the small model, whose whole spectrum is known (`make verify` leaves it in that folder; it is
computed if it is not there), draws are compared with their exact densities, over steps and kernel
variances, with a basis and without. Of ResNet-32 the two are compared with each other. Ends with
exit code 1 if a figure is above its bound.
"""

import sys

from absl import app, flags, logging
import numpy as np

from benchmarks.products import _resnet, _row
from tf_hessian.experiments import configs
from tf_hessian.numerics import density
from tf_hessian.numerics.lanczos import Lanczos
from tf_hessian.numerics.memory_basis import MemoryBasis
from tf_hessian.numerics.probes import probe
from tf_hessian.numerics.quadrature import distinct, gauss_quadrature
from tf_hessian.numerics.recent_basis import ROWS, RecentBasis
from tf_hessian.numerics.results import Quadrature
from tf_hessian.studies import small_model

WORKDIR = flags.DEFINE_string("workdir", "runs/verify", "Folder of the small model.")
CONFIG = flags.DEFINE_string("model_config", "configs/mnist_mlp.py", "Its config.")
DRAWS = flags.DEFINE_integer("draws", 10, "Draws of the small model.", 1, 10)
IMAGES = flags.DEFINE_integer("images", 64, "Images of ResNet-32; 0 leaves it out.", 0)

STEPS = (10, 20, 40, 60, 90, 120, 160, 200, 300, 400)
VARIANCES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
ERRORS = (1e-2, 1e-4, 1e-6)
_EPS = np.finfo(np.float64).eps


def main(_):
  logging.set_verbosity(logging.WARNING)
  rows = [*_small(), *(_resnet32() if IMAGES.value else ())]
  if any(bound is not None and not value <= bound for _, value, bound in rows):
    sys.exit("failed: a figure is above its bound")


def _recurrences(matvec, n, steps, draw):
  """Returns recurrences from the same start, with a basis and without."""
  made = []
  for basis in (MemoryBasis(np.empty((steps, n))), RecentBasis(np.empty((ROWS, n)), steps)):
    basis.store(0, probe(0, draw, n))
    made.append(Lanczos(basis))
    made[-1].run(matvec)
    basis.close()
  return made


def _rule(lanczos, steps):
  return gauss_quadrature(lanczos.alphas[:steps], lanczos.betas[: steps - 1])


def _distance(first, second, variance):
  grid = density.density_grid([first.nodes, second.nodes], variance)
  return density.l1_distance(
    grid, *(density.smooth(q.nodes, q.weights, grid, variance) for q in (first, second))
  )


def _small():
  """Distances of draws of the small model to their exact densities."""
  small = small_model.prepare(configs.load_config(CONFIG.value), WORKDIR.value, progress=False)
  draws = range(min(DRAWS.value, len(small.draws)))
  pairs = [_recurrences(small.operator.matvec, small.n, max(STEPS), draw) for draw in draws]
  errors = np.array(
    [
      [
        [[_distance(_rule(r, m), Quadrature(*exact), v) for m in STEPS] for v in VARIANCES]
        for r in pair
      ]
      for pair, exact in zip(pairs, small.draws, strict=False)
    ]
  )  # (draws, 2, variances, steps)
  median = np.median(errors, axis=0)
  print(f"small model, n = {small.n}, float64: median L1 of {len(draws)} draws to the exact ones")
  print(f"{'sigma^2':10s}{'basis':8s}" + "".join(f"{f'm = {m}':>10s}" for m in STEPS))
  for i, variance in enumerate(VARIANCES):
    for name, row in zip(("kept", "none"), median[:, i], strict=True):
      print(f"{variance:<10g}{name:8s}" + "".join(f"{x:10.1e}" for x in row), flush=True)
  rows = []
  for i, variance in enumerate(VARIANCES):
    for error in ERRORS:
      first = [
        next((m for m, x in zip(STEPS, r, strict=True) if x <= error), 0) for r in median[:, i]
      ]
      if first[0]:
        name = f"sigma^2 = {variance:g}, L1 <= {error:g}: steps with a basis {first[0]}, without"
        rows.append(_row(name, first[1] or np.inf))
  outliers = small.eigenvalues[small.eigenvalues > 0.1 * small.eigenvalues[-1]]
  for m in (90, 400):
    nodes = [_rule(r, m).nodes for _, r in pairs]
    count = np.mean([np.sum(n > 0.1 * small.eigenvalues[-1]) for n in nodes])
    rows.append(_row(f"nodes above a tenth of the largest, m = {m}, of {outliers.size}", count))
    found = [distinct(_rule(r, m), _EPS).nodes[-outliers.size :] for _, r in pairs]
    worst = np.abs(np.array(found) - outliers).max() / outliers[-1]
    # Its copies are merged; what is left is rounding of n products a row.
    rows.append(
      _row("  error of as many distinct ones / the largest", worst, 1e-12 if m > 90 else 1)
    )
  # The recurrences see the same measure: where the kernel is wide, to rounding.
  rows.append(_row("L1 without a basis at sigma^2 = 1e-3, m = 400", median[1, -1, -1], 1e-11))
  return rows


def _resnet32():
  """Densities of ResNet-32 with products in float32, with a basis and without."""
  operator = _resnet(1, IMAGES.value)
  kept, none = _recurrences(operator.matvec, operator.shape[0], 90, 0)
  first, second = _rule(kept, 90), _rule(none, 90)
  print(f"ResNet-32, n = {operator.shape[0]}, {IMAGES.value} images, m = 90, products in float32")
  rows = []
  for variance in (1e-5, 1e-4, 1e-3, 1e-2):
    relative = variance * max(1.0, np.ptp(first.nodes))
    name = f"L1 of both, sigma^2 = {variance:g} times the range"
    rows.append(_row(name, _distance(first, second, relative)))
    # Of a density that has not converged, two runs have two.
    change = _distance(first, _rule(kept, 80), relative)
    rows.append(_row("  change of the one with a basis by its last ten steps", change))
  rows.append(_row("nodes above a tenth of the largest, with a basis", _above(first.nodes)))
  rows.append(_row("nodes above a tenth of the largest, without", _above(second.nodes)))
  found = distinct(second, operator.precision)
  rows.append(_row("  of them distinct", _above(found.nodes)))
  top = np.abs(found.nodes[-5:] - first.nodes[-5:]).max() / first.nodes[-1]
  # Both have the errors of products in float32, a few roundings each.
  rows.append(_row("  difference of the largest 5 / the largest", top, 1e-5))
  return rows


def _above(nodes):
  return np.sum(nodes > 0.1 * nodes[-1])


if __name__ == "__main__":
  app.run(main)
