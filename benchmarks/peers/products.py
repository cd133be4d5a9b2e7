"""Products of a matrix by the contenders: compared in float64, and timed in float32."""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
from typing import Any

import numpy as np

from benchmarks.peers.products_report import ProductsOutcome

VECTORS = 10  # of the products that share a pass
COMPARED = 3  # vectors whose products are compared; in float64 they take several times as long


def names(network: str, chosen: Sequence[str]) -> list[str]:
  """Lists the peers that have Gauss-Newton products, in each way of theirs.

  No product differentiates the network twice, so PyTorch's own norms are right here, and count as
  any other way. JAX's products are those of the Hessian only.
  """
  peers = [n for n in chosen if n in ("curvlinops", "hessian-eigenthings")]
  fused = []
  if network == "resnet32":
    fused = [f"{n}, nn.BatchNorm2d" for n in peers]
  elif network == "transformer" and "curvlinops" in peers:  # the other one has it anyhow
    fused = ["curvlinops, nn.LayerNorm"]
  return [*peers, *fused]


def compare(
  outcome: ProductsOutcome, contenders: Sequence[Any], folder: pathlib.Path, rounds: int
) -> None:
  """Compares products of contenders with the first one's, and takes their times.

  Args:
    outcome: with a contender's figures for each; it gets the differences and seconds.
    contenders: `Contender`s, ours first.
    folder: where their files are.
    rounds: in each of which all are timed, one after the other.
  """
  expected = None
  for contender in contenders:
    contender.ask("agree_products", file="products.npz", vectors=COMPARED)
    with np.load(folder / "products.npz") as saved:
      found = dict(saved)
    expected = found["single"] if expected is None else expected
    figures = outcome[contender.name]
    differences = [largest_difference(p, expected) for p in found.values()]
    figures.difference = float(np.max(differences))  # nan if one is
    print(f"  {contender.name}: greatest difference {figures.difference:.1e}", flush=True)
    answer = contender.ask("prepare_products", vectors=VECTORS)
    figures.shares_passes = answer["shares_passes"]
  for i in range(rounds):
    for contender in contenders:
      seconds = outcome[contender.name].seconds
      single = contender.ask("product", repeats=outcome.repeats)["seconds"]
      seconds["single"].append(single)
      if outcome[contender.name].shares_passes:
        together = contender.ask("products", repeats=outcome.repeats)["seconds"]
        seconds["shared"].append(together / VECTORS)
      print(f"  round {i + 1}: {contender.name:35} {single:9.3g} s a product", flush=True)


def largest_difference(products: np.ndarray, expected: np.ndarray) -> float:
  """Returns the greatest max |a - b| / max |a| of two (k, n) of products."""
  sizes = np.abs(expected).max(axis=1)
  return float((np.abs(products - expected).max(axis=1) / sizes).max())
