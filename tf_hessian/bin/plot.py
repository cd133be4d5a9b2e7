"""Draws a spectrum.

  python -m tf_hessian.bin.plot --input=spectrum.npz --output=spectrum.png

Several inputs, each with a name before it (a=x.npz,b=y.npz), are drawn one below the other. Reads
the original code's tridiag_<k> files too.
"""

from __future__ import annotations

from absl import flags as absl_flags

from tf_hessian.bin import flags, kinds

INPUT = kinds.define_paths(
  "input", None, "spectrum.npz, or tridiag_<k> of the original code; or several, name=path each."
)
OUTPUT = kinds.define_path("output", None, "Picture to write; the suffix is the format.")
SIGMA_SQUARED = absl_flags.DEFINE_float("sigma_squared", 1e-5, "Variance of the Gaussian kernel.")
absl_flags.register_validator("sigma_squared", lambda x: x > 0, "a number above 0 is expected")
RELATIVE = absl_flags.DEFINE_bool(
  "relative", False, "Multiply sigma_squared by max(1, range of the nodes), as the original code."
)
DEFLATE = absl_flags.DEFINE_bool(
  "deflate", False, "Isolated eigenvalues get the weight 1/n instead of the draws' random weights."
)
EXACT = kinds.define_path("exact", None, "Exact eigenvalues to overlay, a .npy file.")
LIMITS = absl_flags.DEFINE_list("limits", None, "Ends of the eigenvalue axis: low,high.")
LINEAR = absl_flags.DEFINE_bool("linear", False, "Linear density axis instead of logarithmic.")
NUM_PARAMETERS = absl_flags.DEFINE_integer(
  "num_parameters", None, "Number of parameters, which the original layout does not record.", 1
)


def main() -> None:
  """Draws the picture."""
  from tf_hessian.experiments import pictures

  pictures.draw_spectra(
    INPUT.value,
    OUTPUT.value,
    exact=EXACT.value and pictures.read_eigenvalues(EXACT.value),
    num_parameters=NUM_PARAMETERS.value,
    sigma_squared=SIGMA_SQUARED.value,
    relative=RELATIVE.value,
    deflate=DEFLATE.value,
    limits=LIMITS.value,
    log=not LINEAR.value,
  )
  print(f"the picture is {OUTPUT.value}")


if __name__ == "__main__":
  absl_flags.mark_flags_as_required(["input", "output"])
  flags.run_plain(main)
