"""The whole eigenvalue density of any Keras model's Hessian.

Names are loaded when they are first used, so that `tf_hessian.numerics` needs no TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

_HOME = {
  "BatchEigenvalues": "tf_hessian.parts.batch_eigenvalues",
  "BlockSpectra": "tf_hessian.parts.block_spectra",
  "BlockTraces": "tf_hessian.slq.traces",
  "DiagonalEstimate": "tf_hessian.numerics.traces",
  "DifferentiationError": "tf_hessian.curvature.second_order",
  "Eigenpairs": "tf_hessian.numerics.results",
  "ExactSpectrum": "tf_hessian.numerics.dense",
  "FisherOperator": "tf_hessian.curvature.fisher",
  "GaussNewtonOperator": "tf_hessian.curvature.gauss_newton",
  "GradientCovarianceOperator": "tf_hessian.curvature.gradient_covariance",
  "HessianOperator": "tf_hessian.curvature.operator",
  "LossAlong": "tf_hessian.landscape",
  "NoRoomError": "tf_hessian.slq.storage",
  "NonFiniteError": "tf_hessian.curvature.failures",
  "OperatorReport": "tf_hessian.curvature.selfcheck",
  "Plan": "tf_hessian.planning.plan",
  "Sharing": "tf_hessian.distribute.sharing",
  "Solution": "tf_hessian.slq.solve",
  "Spectrum": "tf_hessian.spectrum",
  "SpectrumCallback": "tf_hessian.callback",
  "SplitLoss": "tf_hessian.curvature.split_loss",
  "Storage": "tf_hessian.slq.storage",
  "TraceEstimate": "tf_hessian.numerics.traces",
  "batch_eigenvalues": "tf_hessian.parts.batch_eigenvalues",
  "block_spectra": "tf_hessian.parts.block_spectra",
  "block_traces": "tf_hessian.slq.traces",
  "check_operator": "tf_hessian.curvature.selfcheck",
  "dense_hessian": "tf_hessian.slq.exact",
  "diagonal": "tf_hessian.slq.traces",
  "exact_spectrum": "tf_hessian.slq.exact",
  "float64_model": "tf_hessian.curvature.precision",
  "l1_distance": "tf_hessian.numerics.density",
  "loss_along": "tf_hessian.landscape",
  "plan": "tf_hessian.planning.planner",
  "release": "tf_hessian.distribute.cluster",
  "serve": "tf_hessian.experiments.serve",
  "solve": "tf_hessian.slq.solve",
  "spectra": "tf_hessian.evolution",
  "spectral_density": "tf_hessian.slq.density",
  "top_eigenpairs": "tf_hessian.slq.eigenpairs",
  "trace": "tf_hessian.slq.traces",
}

__all__ = sorted(_HOME)  # noqa: PLE0605 - typed out just above


def __getattr__(name: str) -> Any:
  if name not in _HOME:
    raise AttributeError(f"module 'tf_hessian' has no attribute {name!r}")
  importlib.import_module("tf_hessian.installed").check()
  importlib.import_module("tf_hessian.quiet").import_quietly()
  return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
  return sorted([*globals(), *__all__])
