"""Runs the notebooks, and writes each as a page with its results.

  python docs/tools/notebooks.py build/notebooks

Prints the seconds of each. Ends with exit code 1 if a cell fails or warns, or a notebook takes more
than two minutes. The notebooks themselves are left as they are, without results.
"""

from __future__ import annotations

import base64
import os
import pathlib
import sys
import tempfile
import time

import nbclient
import nbformat

NOTEBOOKS = pathlib.Path(__file__).resolve().parents[1] / "notebooks"
MOST_SECONDS = 120

# Before IPython's own settings: no lines about processors and devices, and no hint that bars of
# progress, which no page shows, could be prettier.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"


class NotebookError(Exception):
  """A notebook that fails, warns, or takes too long."""


def run(path: pathlib.Path) -> tuple[nbformat.NotebookNode, float]:
  """Returns a notebook with its results, and the seconds that it took."""
  notebook = nbformat.read(path, as_version=4)
  begin = time.monotonic()
  with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as said:
    client = nbclient.NotebookClient(
      notebook, timeout=10 * MOST_SECONDS, resources={"metadata": {"path": folder}}
    )
    try:
      client.execute(stderr=said)  # of the process; that of cells is in the notebook
    except (nbclient.exceptions.CellExecutionError, nbclient.exceptions.DeadKernelError) as e:
      said.seek(0)
      raise NotebookError(f"{path.name}: {e}\n{said.read()}") from e
  seconds = time.monotonic() - begin
  warned = [text for cell in notebook.cells for text in _warnings(cell)]
  if warned:
    raise NotebookError(f"{path.name}: warns:\n{''.join(warned)}")
  if seconds > MOST_SECONDS:
    raise NotebookError(f"{path.name}: took {seconds:.0f} s, more than {MOST_SECONDS} s")
  return notebook, seconds


def _warnings(cell):
  for output in cell.get("outputs", ()):
    text = output.get("text", "")
    if output.output_type == "stream" and output.name == "stderr" and "Warning: " in text:
      yield text


def page(notebook: nbformat.NotebookNode, name: str, folder: pathlib.Path) -> str:
  """Returns a notebook as a page; its pictures go to a folder."""
  parts = []
  for i, cell in enumerate(notebook.cells):
    if cell.cell_type == "markdown":
      parts.append(cell.source)
      continue
    parts.append(f"```python\n{cell.source}\n```")
    for j, output in enumerate(cell.outputs):
      parts += _shown(output, f"{name}_{i}_{j}.png", folder)
  link = f'<a href="{name}.ipynb" download>The notebook as a file</a>'
  return "\n\n".join([*parts, f"{link}: its cells, without results.", ""])


def _shown(output, picture, folder):
  if output.output_type == "stream":
    # Bars of progress and lines about devices go to stderr.
    return [_text(output.text)] if output.name == "stdout" else []
  data = output.get("data", {})
  if "image/png" in data:
    (folder / picture).write_bytes(base64.b64decode(data["image/png"]))
    return [f"![Picture that the cell above draws]({picture})"]
  if "text/html" in data:
    return [f'<div class="cell-output">{data["text/html"]}</div>']
  return [_text(data["text/plain"])] if "text/plain" in data else []


def _text(text):
  return f"```{{.text .cell-output}}\n{text.rstrip()}\n```"


def main() -> None:
  """Runs all notebooks."""
  folder = pathlib.Path(sys.argv[1])
  folder.mkdir(parents=True, exist_ok=True)
  for old in folder.iterdir():
    old.unlink()
  failed = False
  for path in sorted(NOTEBOOKS.glob("*.ipynb")):
    try:
      notebook, seconds = run(path)
    except NotebookError as e:
      print(e, file=sys.stderr)
      failed = True
      continue
    (folder / f"{path.stem}.md").write_text(page(notebook, path.stem, folder), encoding="utf-8")
    print(f"{path.name:24s} {seconds:6.1f} s", flush=True)
  sys.exit(int(failed))


if __name__ == "__main__":
  main()
