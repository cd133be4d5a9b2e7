"""The page about the studies, made from their JSON files, so that its numbers are theirs."""

import os
import pathlib

from tf_hessian import files
from tf_hessian.studies import result

# Order of the page; what it does not know comes at the end.
_ORDER = (
  *("14", "1", "15", "16", "17", "18", "theorem", "gradient"),
  *("networks", "batch_norm", "19", "deflation"),
)
_SIGNS = {
  result.Verdict.AGREES: "agrees",
  result.Verdict.DIFFERS: "**differs**",
  result.Verdict.OPEN: "**open**",
}
_HEAD = """# The paper's results and ours

Made by `python -m tf_hessian.bin.document` from what `python -m tf_hessian.bin.reproduce` measured:
every number below is from a JSON file in {folder}. Section and figure numbers are those of
Ghorbani, Krishnan and Xiao (2019); what they do not have says so.

`make figures` makes them all. Those on CIFAR-10 need the data (`make figures
REPRODUCE_FLAGS=--data_dir=...`, or `--download`) and take hours, the others seconds to minutes.
What was computed once is kept. "Differs" and "open" have their reasons below the result.
"""


def render(folder, page, /):
  """Returns the page about the studies in a folder, as Markdown.

  Args:
    folder: where the JSON files and pictures are.
    page: where the page is to be, which its links are relative to.

  Raises:
    ValueError: if there are none, one is damaged, or a picture is missing.
  """
  folder = pathlib.Path(folder)
  studies = [result.load(f) for f in sorted(folder.glob("figure_*.json"))]
  if not studies:
    raise ValueError(f"{folder}: there are no results (figure_<id>.json); make a figure first")
  rank = {name: i for i, name in enumerate(_ORDER)}
  studies.sort(key=lambda s: (rank.get(s.figure, len(rank)), s.figure))
  missing = [n for s in studies for n in s.pictures if not (folder / n).exists()]
  if missing:
    raise ValueError(f"{folder}: {', '.join(missing)} is missing; make the figure again")
  relative = pathlib.Path(os.path.relpath(folder, pathlib.Path(page).parent)).as_posix()
  where = "this folder" if relative == "." else f"`{relative}`"
  parts = [_HEAD.format(folder=where), _overview(studies)]
  parts += [_chapter(s, relative) for s in studies]
  parts.append(_foot(studies))
  return "\n".join(parts)


def write(folder, page, /):
  """Writes the page about the studies in a folder."""
  files.write_text(page, render(folder, page))


def _overview(studies):
  rows = [
    (f"[{s.title}](#{_anchor(s.title)})", s.section or "not in the paper", _SIGNS[s.verdict])
    for s in studies
  ]
  return _table(result.Table(("result", "paper's section", ""), tuple(rows)))


def _chapter(s, folder):
  claim = "The paper" if s.section else "To show"
  where = f" ({s.section})" if s.section else " (not in the paper)"
  parts = [
    f"## {s.title}",
    f"**{claim}**{where}: {s.claim}",
    f"**Here**: {s.found}",
    f"**Verdict**: {_SIGNS[s.verdict]}. {s.reason}".rstrip(),
    *(_table(t) for t in s.tables),
    *(f"![{caption}]({folder}/{name})" for name, caption in s.pictures.items()),
    f"`{s.command}`" if s.command else "",
  ]
  return "\n\n".join(p.rstrip("\n") for p in parts if p) + "\n"


def _table(table):
  lines = [f"{table.caption}\n"] if table.caption else []
  lines += [_row(table.columns), _row("---" for _ in table.columns)]
  lines += [_row(row) for row in table.rows]
  return "\n".join(lines) + "\n"


def _row(cells):
  return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"


def _foot(studies):
  made = sorted({(s.device, tuple(sorted(s.versions.items()))) for s in studies})
  lines = ["## Made with", ""]
  for device, versions in made:
    lines.append(f"- {device or 'unknown device'}: {', '.join(f'{k} {v}' for k, v in versions)}")
  return "\n".join(lines) + "\n"


def _anchor(title):
  kept = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
  return kept.replace(" ", "-")
