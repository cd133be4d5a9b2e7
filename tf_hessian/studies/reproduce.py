"""Making of studies: measures, keeps the numbers, writes the page."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os
import pathlib

from absl import logging

from tf_hessian.numerics import checks
from tf_hessian.slq import provenance
from tf_hessian.studies import catalog, document, pieces, result
from tf_hessian.studies.context import Context


def reproduce(
  figure: str,
  out: str | os.PathLike,
  /,
  *,
  configs: str | os.PathLike = "configs",
  data_dir: str | None = None,
  download: bool = False,
  progress: bool = True,
  options: Sequence[str] = (),
) -> str:
  """Makes a figure of the paper, or all, and the page.

  Writes `figure_<id>.json` and pictures into the folder, and reproduction.md about all that are
  there. What is costly is kept in its folder `work`, and interrupted studies go on from there.

  Args:
    figure: one of `catalog.STUDIES`, or "all".
    out: folder of the results.
    configs: folder of the configs.
    data_dir: folder with TFDS data sets; None for TFDS's own choice.
    download: fetch a data set that isn't there.
    progress: show progress.
    options: further flags of the command that go on record, such as those of the machine.

  Returns:
    Text: a line for each figure.

  Raises:
    ValueError: for another figure, or what a study can't do.
    OSError: if data or configs are missing, or the folder can't be written.
  """
  checks.check_choice("figure", figure, [*catalog.STUDIES, catalog.ALL])
  context = Context(pathlib.Path(out), pathlib.Path(configs), data_dir, download, progress)
  try:
    context.out.mkdir(parents=True, exist_ok=True)
  except FileExistsError as e:
    raise FileExistsError(f"{out}: it is a file; give a folder for the results") from e
  lines = []
  for name in catalog.making_order() if figure == catalog.ALL else [figure]:
    try:
      lines.append(catalog.describe(_make(name, context, options)).line())
    except OSError as e:
      # Data may be missing, and the others can be made without.
      if figure != catalog.ALL or name not in catalog.NEED_CIFAR:
        raise
      lines.append(f"{name}: left out: {e}")
  return "\n".join([*lines, _write_page(context.out)])


def _write_page(out):
  """Writes the page about all results; returns a line about it."""
  page = out / "reproduction.md"
  try:
    document.write(out, page)
    return f"the page about all figures is {page}"
  except (ValueError, OSError) as e:  # of another figure: what was made is saved
    return f"no page about all figures: {e}"


def _make(name, context, options):
  """Returns the `Result` of a study that is measured and saved."""
  logging.info("figure %s", name)
  context = dataclasses.replace(context, costs=pieces.Costs())
  numbers = result.plain(catalog.module(name).measure(context))
  command = ["python -m tf_hessian.bin.reproduce", f"--figure={name}", "--out=runs/figures"]
  command += ["--data_dir=..."] if name in catalog.NEED_CIFAR else []
  made = result.Result(
    name,
    numbers,
    command=" ".join([*command, *options]),
    seconds=round(context.costs.total(), 1),
    versions=provenance.versions(),
    device=provenance.device(),
  )
  made.save(context.out)
  return made
