"""The main numbers of a measurement, as text."""

from __future__ import annotations

import os

from tf_hessian.numerics import stopping
from tf_hessian.spectrum import Spectrum


def report(result: Spectrum, picture: str | os.PathLike, /) -> str:
  """Returns the main numbers of a `Spectrum` as text."""
  lines: dict[str, object] = {
    "largest Ritz values": " ".join(f"{x:.6g}" for x in result.largest(10)),
    "smallest Ritz values": " ".join(f"{x:.6g}" for x in result.smallest(5)),
  }
  if result.start is None:
    trace, stderr = result.trace()
    error = f" ± {stderr:.2g} (standard error over draws)" if result.num_draws > 1 else ""
    lines["trace"] = f"{trace:.6g}{error}"
  else:
    shares = result.summary()["energy_in_largest"]
    shown = ", ".join(f"{share:.4g} in {count}" for count, share in shares.items() if count <= 10)
    bounds = result.residual_bounds()[0][-10:]
    size = max(abs(result.largest(1)[0]), abs(result.smallest(1)[0]))
    within = max(bounds.max(), result.config.get("precision", 0.0) * size)  # products are rounded
    lines["energy of the gradient"] = (
      f"{shown} of the largest Ritz values ({len(bounds)} largest are eigenvalues to within "
      f"{within:.2g})"
    )
  if result.config.get("target"):
    judged = stopping.Reached.from_dict(result.config["target"], result.num_draws)
    lines["target error"] = str(judged)
  lines |= {"loss": f"{result.loss:.8g}", "picture": picture}
  return "\n".join(f"{name:21s} {text}" for name, text in lines.items())
