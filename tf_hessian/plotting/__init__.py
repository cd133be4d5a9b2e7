"""Pictures of spectra, curves and losses."""

from __future__ import annotations

from tf_hessian.plotting.curves import plot_curves, plot_histograms, plot_losses
from tf_hessian.plotting.figures import new_figure, png, save_figure
from tf_hessian.plotting.spectra import (
  draw_density,
  draw_spectrum,
  plot_by_depth,
  plot_evolution,
  plot_spectra,
  plot_spectrum,
)

__all__ = [
  "draw_density",
  "draw_spectrum",
  "new_figure",
  "plot_by_depth",
  "plot_curves",
  "plot_evolution",
  "plot_histograms",
  "plot_losses",
  "plot_spectra",
  "plot_spectrum",
  "png",
  "save_figure",
]
