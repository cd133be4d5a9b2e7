"""All studies: what --figure knows."""

import dataclasses
import pathlib
import time

from absl import logging

from tf_hessian.experiments import environment
from tf_hessian.numerics import checks
from tf_hessian.studies import (
  batch_norm,
  chebyshev_density,
  concentration,
  deflated,
  document,
  gradient_energy,
  gradient_noise,
  networks,
  quadrature_error,
)
from tf_hessian.studies.context import Context

# In the order of the page; the cheap ones are made first.
FIGURES = {
  "14": concentration.figure_14,
  "1": quadrature_error.figure_1,
  "15": quadrature_error.figure_15,
  "16": quadrature_error.figure_16,
  "17": chebyshev_density.figure_17,
  "18": chebyshev_density.figure_18,
  "theorem": gradient_noise.figure_theorem,
  "gradient": gradient_energy.figure_gradient,
  "networks": networks.figure_networks,
  "deflation": deflated.figure_deflation,
  "19": batch_norm.figure_19,
  "batch_norm": batch_norm.figure_batch_norm,
}
NEED_CIFAR = {"19", "batch_norm"}
ALL = "all"


def reproduce(
  figure, out, /, *, configs="configs", data_dir=None, download=False, progress=True, options=()
):
  """Makes a figure of the paper, or all that can be made here, and the page about them.

  Writes `figure_<id>.json` and pictures into the folder, and reproduction.md about all that are
  there. What is costly is kept in its folder `work`, and interrupted studies go on from there.

  Args:
    figure: one of `FIGURES`, or "all".
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
  checks.check_choice("figure", figure, [*FIGURES, ALL])
  context = Context(pathlib.Path(out), pathlib.Path(configs), data_dir, download, progress)
  try:
    context.out.mkdir(parents=True, exist_ok=True)
  except FileExistsError as e:
    raise FileExistsError(f"{out}: it is a file; give a folder for the results") from e
  lines = []
  for name in FIGURES if figure == ALL else [figure]:
    try:
      lines.append(_make(name, context, options).line())
    except OSError as e:
      # Data may be missing, and the others can be made without.
      if figure != ALL or name not in NEED_CIFAR:
        raise
      lines.append(f"{name}: left out: {e}")
  page = context.out / "reproduction.md"
  try:
    document.write(context.out, page)
    lines.append(f"the page about all figures is {page}")
  except (ValueError, OSError) as e:  # of another figure: what was made is saved
    lines.append(f"no page about all figures: {e}")
  return "\n".join(lines)


def _make(name, context, options):
  logging.info("figure %s", name)
  begin = time.monotonic()
  command = ["python -m tf_hessian.bin.reproduce", f"--figure={name}", "--out=runs/figures"]
  command += ["--data_dir=..."] if name in NEED_CIFAR else []
  made = dataclasses.replace(
    FIGURES[name](context),
    command=" ".join([*command, *options]),
    seconds=round(time.monotonic() - begin, 1),
    versions=environment.versions(),
    device=environment.device(),
  )
  made.save(context.out)
  return made
