"""Examples in docstrings give what they show."""

import doctest
import importlib
import inspect

import pytest

MODULES = (
  "callback",
  "curvature.fisher",
  "curvature.gauss_newton",
  "curvature.gradient_covariance",
  "curvature.split_loss",
  "landscape",
  "parts.batch_eigenvalues",
  "parts.block_spectra",
  "numerics.basis",
  "numerics.bounds",
  "numerics.chebyshev",
  "numerics.checks",
  "numerics.columns",
  "numerics.deflation",
  "numerics.dense",
  "numerics.density",
  "numerics.disk_basis",
  "numerics.distributed_basis",
  "numerics.eigenpairs",
  "numerics.lanczos",
  "numerics.markup",
  "numerics.memory_basis",
  "numerics.probes",
  "numerics.quadrature",
  "numerics.results",
  "numerics.stopping",
  "numerics.traces",
  "records",
  "slq.solve",
  "slq.traces",
  "spectrum",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module_give_what_they_show(name):
  module = importlib.import_module(f"tf_hessian.{name}")
  found = doctest.testmod(module)
  assert found.attempted and not found.failed


@pytest.mark.parametrize(
  "name",
  [
    "numerics.bounds",
    "numerics.chebyshev",
    "numerics.deflation",
    "numerics.dense",
    "numerics.density",
    "numerics.eigenpairs",
    "numerics.quadrature",
  ],
)
def test_each_function_of_the_numerics_has_an_example(name):
  module = importlib.import_module(f"tf_hessian.{name}")
  for function, value in vars(module).items():
    own = inspect.isfunction(value) and value.__module__ == module.__name__
    if own and not function.startswith("_"):
      assert ">>> " in value.__doc__, function
