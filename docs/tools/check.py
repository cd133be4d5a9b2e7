"""Looks for what is broken in the built site: links, places in pages, pictures, and the search.

  python docs/tools/check.py site

Reads every page. A link or picture has to lead to a file of the site, and a "#place" to an element
of that page. Nothing may be fetched from elsewhere: addresses of other hosts are allowed in links
only. The index of the search has to know `spectral_density`. Ends with exit code 1 otherwise.
"""

from __future__ import annotations

import html.parser
import json
import pathlib
import sys
import urllib.parse

SOUGHT = "spectral_density"
# Tag -> attribute with an address that a browser fetches by itself.
_FETCHED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}


class Page(html.parser.HTMLParser):
  """What a page has: ids, links, and what it fetches."""

  def __init__(self, text: str):
    super().__init__()
    self.ids: set[str] = set()
    self.links: list[str] = []
    self.fetched: list[str] = []
    self.feed(text)

  def handle_starttag(self, tag: str, attrs: list) -> None:
    """Notes what a tag has."""
    found = dict(attrs)
    self.ids |= {found[k] for k in ("id", "name") if found.get(k)}
    if tag == "a" and found.get("href"):
      self.links.append(found["href"])
    address = found.get(_FETCHED.get(tag, ""))
    if address and not (tag == "link" and found.get("rel") in ("canonical", "next", "prev")):
      self.fetched.append(address)


def broken(site: pathlib.Path) -> tuple[int, list[str]]:
  """Returns the number of addresses that were looked at, and a line for each broken one."""
  pages = {p: Page(p.read_text(encoding="utf-8")) for p in sorted(site.rglob("*.html"))}
  count, problems = 0, []
  for path, page in pages.items():
    for address in page.links + page.fetched:
      count += 1
      problem = _problem(address, path, pages, address in page.fetched)
      if problem:
        problems.append(f"{path.relative_to(site)}: {address}: {problem}")
  return count, problems


def _problem(address, path, pages, fetched):
  parts = urllib.parse.urlsplit(address)
  if parts.scheme == "data":
    return ""
  if parts.scheme or parts.netloc:
    return "fetched from elsewhere" if fetched else ""
  if path.name == "404.html" and parts.path.startswith("/"):
    return ""  # of the root of a server, wherever the missing page was
  target = path.parent / urllib.parse.unquote(parts.path) if parts.path else path
  target = target.resolve()
  if not target.is_file():
    return "no such file"
  place = urllib.parse.unquote(parts.fragment)
  if place and target.suffix == ".html" and place not in pages[target].ids:
    return "no such place"
  return ""


def sought(site: pathlib.Path) -> list[str]:
  """Returns the places that the search knows for the name that it has to find."""
  index = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))
  return [entry["location"] for entry in index["docs"] if SOUGHT in entry["title"]]


def main() -> None:
  """Checks the site of a folder."""
  site = pathlib.Path(sys.argv[1]).resolve()
  count, problems = broken(site)
  found = sought(site)
  if not found:
    problems.append(f"the search finds no heading with {SOUGHT}")
  print(*problems, sep="\n", end="\n" if problems else "")
  pages = len(list(site.rglob("*.html")))
  print(f"{count} links and pictures of {pages} pages, {len(problems)} broken")
  sys.exit(int(bool(problems)))


if __name__ == "__main__":
  main()
