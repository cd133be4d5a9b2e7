"""Finds eigenpairs: python -m tf_hessian.bin.eigenpairs --config=... --workdir=...

Or of a model of your own: --model=model.keras --data=module:function --workdir=...

Writes <workdir>/eigenpairs (eigenpairs_initial with --initial): the state each minute or so, and
the result as eigenpairs.npz and .json. Started again, it goes on from there.
"""

from __future__ import annotations

from absl import flags as absl_flags

from tf_hessian.bin import flags, machine_flags, own_flags, run_flags, weights_flags
from tf_hessian.experiments import first_look
from tf_hessian.experiments.computation import Computation

LARGEST = absl_flags.DEFINE_integer("largest", 10, "Number of the largest eigenvalues.", 0, 10**4)
SMALLEST = absl_flags.DEFINE_integer("smallest", 0, "Number of the smallest ones.", 0, 10**4)
TOLERANCE = absl_flags.DEFINE_float(
  "tolerance", None, "Most of a residual / the largest eigenvalue; default: by the precision.", 0.0
)
absl_flags.register_validator(
  "tolerance", lambda x: x is None or x > 0, "a number above 0 is expected"
)
MAX_PRODUCTS = absl_flags.DEFINE_integer(
  "max_products", None, "Most products before the last check; default: 20 times the basis.", 1
)
BASIS_SIZE = absl_flags.DEFINE_integer(
  "basis_size", None, "Vectors in memory; default: 30, and 2 for each eigenvalue.", 1
)
REPEATED = absl_flags.DEFINE_bool(
  "repeated", True, "Look for more copies of repeated eigenvalues, from new start vectors."
)
WEIGHTS = weights_flags.define()
DATA, CLUSTER, PASSES = (
  run_flags.define_data(),
  run_flags.define_cluster(),
  run_flags.define_passes(),
)


def main() -> None:
  """Finds the eigenpairs, and prints the report."""
  run = (own_flags.config(), flags.WORKDIR.value)
  computation = Computation(**CLUSTER(), **PASSES())
  first_look.look_at_measurement(*run, WEIGHTS(), strategy=computation.strategy)
  machine_flags.apply(computation.deterministic)
  from tf_hessian.experiments.measure import measure
  from tf_hessian.experiments.pairs import Pairs

  size = {"max_products": MAX_PRODUCTS.value, "basis_size": BASIS_SIZE.value}
  wanted = Pairs(LARGEST.value, SMALLEST.value, TOLERANCE.value, **size, repeated=REPEATED.value)
  how = {"check": weights_flags.CHECK.value, **DATA()}
  print(measure(*run, WEIGHTS(), computation=computation, pairs=wanted, **how))


if __name__ == "__main__":
  flags.run(main, needed=["workdir"])
