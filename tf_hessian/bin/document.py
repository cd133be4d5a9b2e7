"""Writes the page about the figures.

  python -m tf_hessian.bin.document --results=runs/figures --page=runs/figures.md

Its numbers are those of the JSON files that tf_hessian.bin.reproduce has left in the folder.
"""

from __future__ import annotations

from absl import flags as absl_flags

from tf_hessian.bin import flags, kinds

RESULTS = kinds.define_path("results", None, "Folder of the results of bin.reproduce.")
PAGE = kinds.define_path("page", None, "Page to write, such as docs/reproduction.md.")


def main() -> None:
  """Writes the page."""
  from tf_hessian.studies import document

  document.write(RESULTS.value, PAGE.value)
  print(f"the page is {PAGE.value}")


if __name__ == "__main__":
  absl_flags.mark_flags_as_required(["results", "page"])
  flags.run_plain(main)
