"""Examples in docstrings give what they show."""

import doctest
import importlib
import inspect

import pytest

import tf_hessian
from tf_hessian import plotting

MODULES = (
  "callback",
  "curvature.failures",
  "curvature.fisher",
  "curvature.gauss_newton",
  "curvature.gradient_covariance",
  "curvature.operator",
  "curvature.precision",
  "curvature.second_order",
  "curvature.selfcheck",
  "curvature.split_loss",
  "distribute.cluster",
  "distribute.sharing",
  "evolution",
  "experiments.serve",
  "landscape",
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
  "parts.batch_eigenvalues",
  "parts.block_spectra",
  "planning.plan",
  "planning.planner",
  "plotting.curves",
  "plotting.figures",
  "plotting.spectra",
  "records",
  "slq.density",
  "slq.eigenpairs",
  "slq.exact",
  "slq.solve",
  "slq.storage",
  "slq.traces",
  "spectrum",
)
PUBLIC = [
  (f"{module.__name__}.{name}", getattr(module, name))
  for module in (tf_hessian, plotting)
  for name in module.__all__
]


def unannotated(function):
  """Returns the parameters of a function, and "return", that have no annotation."""
  signature = inspect.signature(function)
  missing = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
  missing += ["return"] if signature.return_annotation is signature.empty else []
  return [name for name in missing if name not in ("self", "cls")]


@pytest.mark.parametrize("found", [v for _, v in PUBLIC], ids=[k for k, _ in PUBLIC])
def test_public_name_has_an_example_among_those_that_run(found):
  assert ">>> " in found.__doc__
  assert found.__module__.removeprefix("tf_hessian.") in MODULES


@pytest.mark.parametrize("found", [v for _, v in PUBLIC], ids=[k for k, _ in PUBLIC])
def test_public_name_has_annotated_signatures(found):
  functions = [found]
  if inspect.isclass(found):
    own = [k for k in found.__mro__ if k.__module__.startswith("tf_hessian.")]
    members = [v for k in own for name, v in vars(k).items() if not name.startswith("_")]
    functions = [getattr(v, "fget", v) or getattr(v, "func", v) for v in members]
    functions = [getattr(f, "__func__", f) for f in functions]
    functions += [vars(k)["__init__"] for k in own if "__init__" in vars(k)]
    functions = [f for f in functions if inspect.isfunction(f)]
  assert not [(f.__name__, unannotated(f)) for f in functions if unannotated(f)]


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
