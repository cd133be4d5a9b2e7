"""What MkDocs does beside its settings: pages of notebooks, and of files outside of docs/.

Pages in docs/ link to other files as they lie in the repository, so that they can be read there.
Here these links get pages of their own: a notebook has one with its results, and a file outside of
docs/, such as a config, one that shows it.
"""

from __future__ import annotations

import os
import pathlib
import posixpath
import re
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = "docs"
RUN = ROOT / "build/notebooks"  # where `make docs` has put pages of notebooks
# Files outside of docs/ that have their pages elsewhere.
PAGES = {
  "README.md": "index.md",
  "CONTRIBUTING.md": "contributing.md",
  "CHANGELOG.md": "changelog.md",
}
# By folder or page; what is not here counts once.
_BOOST = {"reference": 4, "guides": 2, "notebooks": 2, "changelog.md": 0.25, "coverage.md": 0.25}
_LINK = re.compile(r"(?<=\]\()([^)#\s]+)")
_LANGUAGES = {".py": "python"}


def on_files(files: Any, config: Any) -> Any:
  """Adds the pages of notebooks and of other files."""
  for path in sorted(pathlib.Path(config.docs_dir, "notebooks").glob("*.ipynb")):
    if not (RUN / f"{path.stem}.md").exists():
      raise PluginError(f"{path.name} was not run: make docs, or docs/tools/notebooks.py {RUN}")
  for path in sorted(RUN.iterdir()):
    uri = f"notebooks/{path.name}"
    if path.suffix == ".md":
      files.append(File.generated(config, uri, content=path.read_text(encoding="utf-8")))
    else:
      files.append(File.generated(config, uri, content=path.read_bytes()))
  shown = {name for name in PAGES if PAGES[name] != "index.md"}
  for file in list(files.documentation_pages()):
    shown |= {target for target, _ in _outside(file.content_string, _source(file.src_uri))}
  for name in sorted(shown - {"README.md"}):
    files.append(File.generated(config, _page_of(name), content=_content(name)))
  return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
  """Lets links lead to the pages of the site, and the search to names before news."""
  source, uri = _source(page.file.src_uri), page.file.src_uri

  page.meta.setdefault("search", {"boost": _BOOST.get(uri.partition("/")[0], 1)})

  def target(found: re.Match) -> str:
    name = _resolved(found[0], source)
    if name is None:
      return found[0]
    return posixpath.relpath(_page_of(name), posixpath.dirname(uri) or ".")

  return _LINK.sub(target, markdown)


def _source(uri):
  """Returns the place in the repository that the links of a page are relative to."""
  names = {page: name for name, page in PAGES.items() if page != "index.md"}
  return names.get(uri, f"{DOCS}/{uri}")


def _resolved(link, source):
  """Returns the path in the repository that a link leads to, or None for another address."""
  if ":" in link:
    return None
  return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _outside(text, source):
  for found in _LINK.finditer(text):
    name = _resolved(found[0], source)
    if name and not name.startswith(f"{DOCS}/") and name not in PAGES and (ROOT / name).is_file():
      yield name, found[0]


def _page_of(name):
  """Returns the path in the site of a file of the repository."""
  if name in PAGES:
    return PAGES[name]
  if not name.startswith(f"{DOCS}/"):
    return f"files/{name}.md"
  inside = name.removeprefix(f"{DOCS}/")
  return inside.replace(".ipynb", ".md") if inside.endswith(".ipynb") else inside


def _content(name):
  text = (ROOT / name).read_text(encoding="utf-8")
  if name.endswith(".md"):
    return text
  language = _LANGUAGES.get(os.path.splitext(name)[1], "text")
  return f"# {name}\n\n```{language}\n{text.rstrip()}\n```\n"
