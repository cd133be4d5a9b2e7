"""Makes the paper's figures.

  python -m tf_hessian.bin.reproduce --figure=15 --out=runs/figures

Writes a picture and a JSON file with the numbers, and prints a line: what the paper claims, what
came out, whether they agree. --figure=all makes all that can be made here.
"""

from __future__ import annotations

from absl import flags as absl_flags

from tf_hessian.bin import flags, kinds, machine_flags, run_flags
from tf_hessian.studies import catalog

FIGURE = absl_flags.DEFINE_string(
  "figure", None, f"{', '.join(catalog.STUDIES)}, or {catalog.ALL}."
)
OUT = kinds.define_path("out", None, "Folder of the results.")
CONFIGS = kinds.define_path("configs", "configs", "Folder of the configs.")
DATA = run_flags.define_data()


def main() -> None:
  """Makes the figures, and prints what came out."""
  machine_flags.apply(True)
  from tf_hessian.studies import reproduce

  print(
    reproduce.reproduce(
      FIGURE.value,  # type: ignore[arg-type]  # it is required
      OUT.value,
      configs=CONFIGS.value,
      options=machine_flags.given(),
      **DATA(),
    )
  )


if __name__ == "__main__":
  absl_flags.mark_flags_as_required(["figure", "out"])
  flags.run_plain(main)
