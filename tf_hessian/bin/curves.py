"""Draws how runs trained.

  python -m tf_hessian.bin.curves --picture=loss.png runs/a runs/b

Takes the folders of runs; a name may precede each, as in batch=runs/a. Prints first, last and
smallest values.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags as absl_flags

from tf_hessian.bin import flags, kinds

PICTURE = kinds.define_path("picture", None, "Picture to write; the suffix is the format.")
COLUMN = absl_flags.DEFINE_string("column", "loss", "Column of train.csv, such as test_accuracy.")
LOG = absl_flags.DEFINE_bool("log", False, "Logarithmic axis of the values.")


def main(arguments: Sequence[str]) -> None:
  """Draws the curves of the folders that the arguments name."""
  from tf_hessian.experiments import pictures

  arguments = [kinds.expanded(a) for a in arguments]
  print(pictures.draw_curves(arguments, PICTURE.value, column=COLUMN.value, log=LOG.value))


if __name__ == "__main__":
  absl_flags.mark_flags_as_required(["picture"])
  flags.run_plain(main, arguments=True)
