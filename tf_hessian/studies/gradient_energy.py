"""Energy of gradients in eigenvectors of the small model (section E)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tf_hessian import plotting
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.numerics import quadrature
from tf_hessian.slq import density, eigenpairs
from tf_hessian.spectrum import Spectrum
from tf_hessian.studies import drawing
from tf_hessian.studies.chapter import Chapter, Table, Verdict, number, prose, with_error
from tf_hessian.studies.context import TRAINED, Context

STEPS = 90
COUNT = 10  # of top eigenvectors
BATCH_SIZES = (8, 64, 250)  # 8 is what the small model is trained with


def measure(context: Context) -> dict:
  """Measures gradients' energy in the top eigenspace, in three ways."""
  small = context.trained_model
  direction = small.operator.gradient()
  direction /= np.linalg.norm(direction)
  exact = (small.top_vectors[:COUNT] @ direction) ** 2
  run = density.spectral_density(
    small.operator, num_draws=1, lanczos_steps=STEPS, start="gradient", check=False, progress=False
  )
  pairs = eigenpairs.top_eigenpairs(
    small.operator, COUNT, repeated=False, progress=context.progress
  )
  projected = (pairs.vectors @ direction) ** 2
  lanczos = energies_near(run, pairs.values)
  alone = energies_by_size(small.in_batches_of, small.top_vectors[:COUNT])
  return {
    "curves": _draw(small, run, context.out),
    "eigenvalues": pairs.values.tolist(),
    "exact": exact.tolist(),
    "lanczos": lanczos.tolist(),
    "projections": projected.tolist(),
    "lanczos_error": float(np.abs(lanczos - exact).max()),
    "projection_error": float(np.abs(projected - exact).max()),
    "eigenvalue_error": float(
      np.abs(pairs.values / small.eigenvalues[: -COUNT - 1 : -1] - 1).max()
    ),
    "eigenpair_products": pairs.num_products,
    "eigenpair_residual": float(pairs.residuals.max()),
    "lanczos_products": len(run.diagonals[0]),
    "share": float(exact.sum()),
    "mini_batches": {size: list(pair) for size, pair in alone.items()},
    "share_of_a_random_vector": COUNT / small.n,
  }


def describe(numbers: dict) -> Chapter:
  """Describes gradients' shares, and the agreement of the three ways."""
  shares = ", ".join(
    f"{with_error(100 * mean, 100 * error)} % in batches of {size}"
    for size, (mean, error) in numbers["mini_batches"].items()
  )
  columns = (numbers[k] for k in ("exact", "lanczos", "projections"))
  rows = [
    (f"{t:.4f}", *(f"{x:.3e}" for x in row))
    for t, *row in zip(numbers["eigenvalues"], *columns, strict=True)
  ]
  return Chapter(
    title="Energy of the gradient in the top eigenspace",
    section="the main text",
    claim="gradients of trained networks without batch normalization lie in the top eigenspaces.",
    found=prose(f"""on {TRAINED}, the {COUNT} largest eigenvalues' vectors hold
      {number(100 * numbers["share"])} % of the energy of the full gradient, and of single
      mini-batches' gradients {shares}; a random
      vector has {number(100 * numbers["share_of_a_random_vector"], 2)} % there. One Lanczos run of
      {STEPS} steps from the gradient gives each share to {number(numbers["lanczos_error"], 2)},
      projections on the eigenpairs of `top_eigenpairs` to {number(numbers["projection_error"], 2)}
      for {numbers["eigenpair_products"]} products."""),
    verdict=Verdict.OPEN,
    reason=prose("""One network from one seed is no evidence about trainings: those of the study of
      batch normalization below are from several. Here every share has an exact counterpart: the
      three ways of measuring it agree. The full gradient of a trained network is what its
      mini-batches have left over, and need not lie where theirs do; this one is the last point of
      a training in batches of 8, not a mean of many."""),
    pictures={
      "figure_gradient.png": prose("""The gradient's energy below each eigenvalue, from its own
        Lanczos run and exactly""")
    },
    tables=(
      Table(("eigenvalue", "exact share", "Lanczos from the gradient", "projection"), tuple(rows)),
    ),
  )


def energies_near(run: Spectrum, values: Sequence[float] | np.ndarray, /) -> np.ndarray:
  """Returns the weights of a run's nodes at each eigenvalue, (k,).

  A node counts for the eigenvalue that is nearest, if it is within a thousandth of the largest; one
  that is farther from all has not converged, or is another eigenvalue.

  Args:
    run: a `Spectrum` of one draw.
    values: (k,) eigenvalues.
  """
  (rule,) = run.quadratures
  distances = np.abs(rule.nodes[:, None] - np.asarray(values))
  nearest = distances.argmin(axis=1)
  near = distances.min(axis=1) <= radius(values)
  return np.bincount(nearest[near], rule.weights[near], minlength=len(values))


def radius(values: Sequence[float] | np.ndarray, /) -> float:
  """Returns the largest distance of a node from its eigenvalue."""
  return 1e-3 * float(np.abs(values).max())


def energies_by_size(
  operator_of: Callable[[int], HessianOperator],
  vectors: np.ndarray,
  sizes: Sequence[int] = BATCH_SIZES,
  /,
) -> dict[int, tuple[float, float]]:
  """Returns dict: batch size -> (mean share of gradients, standard error)."""
  return {size: share_of_batches(operator_of(size), vectors) for size in sizes}


def share_of_batches(operator: HessianOperator, vectors: np.ndarray, /) -> tuple[float, float]:
  """Returns the batches' mean of |V g|²/|g|², and its standard error.

  Args:
    operator: a `HessianOperator`.
    vectors: (k, n) orthonormal rows.
  """
  shares = [
    float(np.sum((vectors @ g) ** 2) / (g @ g)) for g in operator.batch_gradients() if g.any()
  ]
  mean, stderr = quadrature.mean_and_stderr(shares)
  return float(mean), float(stderr)


def of_top_space(
  operator: HessianOperator, count: int, tolerance: float, /, *, progress: bool = True
) -> dict[str, float]:
  """Measures the largest eigenvalues, and gradients in their space.

  Args:
    operator: a `HessianOperator`.
    count: of eigenpairs.
    tolerance: of `top_eigenpairs`.
    progress: show progress.

  Returns:
    dict: the loss, the first and the last of the eigenvalues and their ratio, the shares of the
    energy of the full gradient and of mini-batches' ones, the largest residual over the first
    eigenvalue, and the number of products.
  """
  pairs = eigenpairs.top_eigenpairs(
    operator, count, tolerance=tolerance, repeated=False, progress=progress
  )
  gradient = operator.gradient()
  shares = (pairs.vectors @ (gradient / np.linalg.norm(gradient))) ** 2
  first, last = float(pairs.values[0]), float(pairs.values[-1])
  return {
    "loss": operator.loss(),
    "first": first,
    "tenth": last,
    "ratio": first / last,
    "gradient_share": float(shares.sum()),
    "batch_share": share_of_batches(operator, pairs.vectors)[0],
    "largest_residual": float(pairs.residuals.max()) / first,
    "products": pairs.num_products,
  }


def _draw(small, run, folder):
  figure, axes = plotting.new_figure()
  for (nodes, weights), style in (
    (small.gradient, {"color": "k", "lw": 2.2, "alpha": 0.35, "label": "exact"}),
    ((run.nodes[0], run.weights[0]), {"color": "C0", "lw": 1.0, "label": "Lanczos"}),
  ):
    order = np.argsort(nodes)
    axes.step(nodes[order], np.cumsum(weights[order]), where="post", **style)
  axes.set(xlabel="eigenvalue", ylabel="share of the gradient's energy below")
  axes.legend(frameon=False, fontsize="small")
  axes.set_title(f"Lanczos of {STEPS} steps from the gradient", fontsize="medium")
  return drawing.save(figure, folder / "figure_gradient.png")
