"""The page about the studies, made from their JSON files."""

from __future__ import annotations

import os
import pathlib

from tf_hessian import files
from tf_hessian.studies import catalog, result
from tf_hessian.studies.chapter import Table, Verdict, number

_SIGNS = {
  Verdict.AGREES: "agrees",
  Verdict.DIFFERS: "**differs**",
  Verdict.EXPLAINED: "**differs**, explained",
  Verdict.OPEN: "**open**",
}
_HEAD = """# The paper's results and ours

Made by `python -m tf_hessian.bin.document` from what `python -m tf_hessian.bin.reproduce` measured:
every number below that was measured is from a JSON file in {folder}. Section and figure numbers are
those of Ghorbani, Krishnan and Xiao (2019); what they do not have says so. Claims are theirs in our
words.

`make figures` makes them all. Those on CIFAR-10 need the data (`make figures
REPRODUCE_FLAGS=--data_dir=...`, or `--download`) and take hours, the others seconds to minutes.
What was computed once is kept. "Differs" and "open" have their reasons below the result.

The rules: a claim about training is judged from five seeds or more, a curve from three; fewer leave
it open. Intervals over seeds are 95 % t-intervals; differences are paired, since seeds are the
same, with their p. What several claims need is asked of each of them, without a correction. "Orders
of magnitude" are a factor of 100 at least. The narrow ResNet-14 of several chapters has 8 channels
at first (`configs/cifar10_small_resnet.py`, n = 43,634); the small model is the MLP of section B. A
cost is the time of the computation on the machine below, which had other work too. It holds the
trainings that other studies have made and this one uses, which files of 0.1.0 leave out. Reading
finished work costs nothing.

Open for want of computing: the networks of section F trained as long as the paper trained them,
with accuracies (ResNet-32 92 %, about 85 % without augmentation, VGG-11 81 %, 83 % with 2,048
units, ResNet-18 71.9 %) and spectra; the rate of 1e-6 that Inception V3 needs (section G); and the
times of section C on GPUs. A short training of ResNet-32, and first runs of the others, have
chapters.
"""


def render(folder: str | os.PathLike, page: str | os.PathLike, /) -> str:
  """Returns the page about the studies in a folder, as Markdown.

  Args:
    folder: where the JSON files and pictures are.
    page: where the page is to be, which its links are relative to.

  Raises:
    ValueError: if there are none, one is damaged, or a picture is missing.
  """
  folder = pathlib.Path(folder)
  results = [result.load(f) for f in sorted(folder.glob("figure_*.json"))]
  if not results:
    raise ValueError(f"{folder}: there are no results (figure_<id>.json); make a figure first")
  rank = {name: i for i, name in enumerate(catalog.STUDIES)}
  results.sort(key=lambda r: (rank.get(r.figure, len(rank)), r.figure))
  chapters = [catalog.describe(r) for r in results]
  missing = [n for c in chapters for n in c.pictures if not (folder / n).exists()]
  if missing:
    raise ValueError(f"{folder}: {', '.join(missing)} is missing; make the figure again")
  relative = pathlib.Path(os.path.relpath(folder, pathlib.Path(page).parent)).as_posix()
  where = "this folder" if relative == "." else f"`{relative}`"
  texts = [_text(c, r, relative) for c, r in zip(chapters, results, strict=True)]
  return "\n".join([_HEAD.format(folder=where), _overview(chapters), *texts, _foot(results)])


def write(folder: str | os.PathLike, page: str | os.PathLike, /) -> None:
  """Writes the page about the studies in a folder."""
  files.write_text(page, render(folder, page))


def _overview(chapters):
  rows = [
    (f"[{c.title}](#{_anchor(c.title)})", c.section or "not in the paper", _SIGNS[c.verdict])
    for c in chapters
  ]
  return _table(Table(("result", "paper's section", ""), tuple(rows)))


def _text(chapter, made, folder):
  """Returns a chapter as Markdown, with cost and command below."""
  claim = "The paper" if chapter.section else "To show"
  where = f" ({chapter.section})" if chapter.section else " (not in the paper)"
  parts = [
    f"## {chapter.title}",
    f"**{claim}**{where}: {chapter.claim}",
    f"**Here**: {chapter.found}",
    f"**Verdict**: {_SIGNS[chapter.verdict]}. {chapter.reason}".rstrip(),
    *(_table(t) for t in chapter.tables),
    *(f"![{caption}]({folder}/{name})" for name, caption in chapter.pictures.items()),
    f"**Cost**: {_duration(made.seconds)}." if made.seconds else "**Cost**: not recorded.",
    f"`{made.command}`" if made.command else "",
  ]
  return "\n\n".join(p.rstrip("\n") for p in parts if p) + "\n"


def _duration(seconds):
  """Returns seconds as text, in a unit of which there are some."""
  unit, length = next(
    (u, s) for u, s in (("h", 3600), ("min", 60), ("s", 1)) if seconds >= 2 * s or s == 1
  )
  return f"{number(seconds / length, 2)} {unit}"


def _table(table):
  caption = [f"{table.caption}\n"] if table.caption else []
  rows = [table.columns, ["---"] * len(table.columns), *table.rows]
  return "\n".join([*caption, *map(_row, rows)]) + "\n"


def _row(cells):
  return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"


def _foot(results):
  made = sorted({(r.device, tuple(sorted(r.versions.items()))) for r in results})
  lines = [
    f"- {device or 'unknown device'}: {', '.join(f'{k} {v}' for k, v in versions)}"
    for device, versions in made
  ]
  return "\n".join(["## Made with", "", *lines]) + "\n"


def _anchor(title):
  kept = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
  return kept.replace(" ", "-")
