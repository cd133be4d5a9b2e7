"""The pages of the site: examples run, names stand in the reference, links lead somewhere."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
GUIDES = sorted((DOCS / "guides").glob("*.md"))
QUICK = ("docs/index.md", "docs/guides/run.md")  # whose examples `make test` runs
PAGES = sorted(p for p in DOCS.rglob("*.md"))
REFERENCE = "".join(p.read_text() for p in sorted((DOCS / "reference").glob("*.md")))
SETTINGS = (ROOT / "mkdocs.yml").read_text()
NAV = re.findall(r":\s+(\S+\.md)$", SETTINGS[SETTINGS.index("\nnav:") :], re.MULTILINE)
# Pages of the site that are files of the repository's root.
OF_THE_ROOT = {"contributing.md", "changelog.md"}


def code(page):
  return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def name(path):
  return path.relative_to(ROOT).as_posix()


def public_names():
  """Yields the dotted public names, without importing the package."""
  tree = ast.parse((ROOT / "tf_hessian/__init__.py").read_text())
  (table,) = (
    x.value
    for x in tree.body
    if isinstance(x, ast.Assign) and getattr(x.targets[0], "id", "") == "_HOME"
  )
  yield from (f"tf_hessian.{key}" for key in ast.literal_eval(table))
  tree = ast.parse((ROOT / "tf_hessian/plotting/__init__.py").read_text())
  (listed,) = (x.value for x in tree.body if isinstance(x, ast.Assign))
  yield from (f"tf_hessian.plotting.{key}" for key in ast.literal_eval(listed))


PUBLIC = sorted(public_names())


def places(text):
  """Returns the places of a page that links may lead to."""
  titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
  slugs = [re.sub(r"[^\w\- ]", "", t.replace("`", "")).lower().replace(" ", "-") for t in titles]
  return set(slugs) | set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))


# Examples.


@pytest.mark.parametrize(
  "page",
  [
    pytest.param(p, id=name(p), marks=[] if name(p) in QUICK else pytest.mark.slow)
    for p in [DOCS / "index.md", *GUIDES]
    if code(p)
  ],
)
def test_examples_of_a_guide_run(page, tmp_path, forked):
  if "keras_hub" in page.read_text():
    pytest.importorskip("keras_hub")
  script = tmp_path / "guide.py"
  script.write_text("\n".join(code(page)))
  environment = os.environ | {"PYTHONPATH": str(ROOT)}
  process = forked([sys.executable, script], cwd=tmp_path, env=environment)
  _, said = process.communicate(timeout=900)
  assert process.returncode == 0, said


@pytest.mark.parametrize("path", sorted((DOCS / "notebooks").glob("*.ipynb")), ids=name)
def test_notebook_is_small_and_without_results(path):
  text = path.read_text()
  assert len(text) < 100_000
  assert '"output_type"' not in text


# The reference.


@pytest.mark.parametrize("public", PUBLIC)
def test_public_name_stands_once_in_the_reference(public):
  assert len(re.findall(rf"^::: {re.escape(public)}$", REFERENCE, re.MULTILINE)) == 1


@pytest.mark.parametrize("public", [p for p in PUBLIC if ".plotting." not in p])
def test_public_name_is_listed_with_its_page(public):
  page = (DOCS / "reference/index.md").read_text()
  ((file, place),) = re.findall(rf"\[`{public.split('.')[-1]}`\]\((\w+\.md)#([\w.]+)\)", page)
  assert place == public
  assert f"::: {public}\n" in (DOCS / "reference" / file).read_text() + "\n"


# Pages and links.


def test_each_page_stands_once_in_the_navigation():
  own = {p.relative_to(DOCS).as_posix() for p in PAGES}
  own |= {f"notebooks/{p.stem}.md" for p in (DOCS / "notebooks").glob("*.ipynb")}
  assert sorted(NAV) == sorted(own | OF_THE_ROOT)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_and_their_places(page):
  for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
    if "://" in link:
      continue
    path, _, place = link.partition("#")
    target = page.parent / path if path else page
    assert target.is_file(), link
    if place:
      assert place in places(target.read_text()), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lists_have_a_line_before_them(page):
  """Some readers of Markdown take them for text otherwise."""
  text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.M | re.S)
  lines = text.splitlines()
  for before, line in zip(lines, lines[1:], strict=False):
    if re.match(r"(- |\d+\. )", line):
      assert not before or re.match(r"(- |\d+\. |  )", before), line


# The built site.


@pytest.fixture
def site(tmp_path):
  """Returns a function that makes a site of pages, and what the check says of it."""

  def check(**pages):
    for stem, body in pages.items():
      (tmp_path / f"{stem}.html").write_text(f"<html><body>{body}</body></html>")
    (tmp_path / "search").mkdir(exist_ok=True)
    (tmp_path / "search/search_index.json").write_text(
      '{"docs": [{"title": "spectral_density", "location": "a.html"}]}'
    )
    done = subprocess.run(
      [sys.executable, ROOT / "docs/tools/check.py", tmp_path],
      capture_output=True,
      text=True,
      timeout=60,
    )
    return done.returncode, done.stdout

  return check


def test_good_links_pass(site):
  code, said = site(a='<a href="b.html#x">b</a>', b='<p id="x"><a href="http://other/">o</a></p>')
  assert (code, said) == (0, "2 links and pictures of 2 pages, 0 broken\n")


@pytest.mark.parametrize(
  "body, problem",
  [
    ('<a href="c.html">c</a>', "no such file"),
    ('<img src="c.png">', "no such file"),
    ('<a href="#there">c</a>', "no such place"),
    ('<script src="https://other/x.js"></script>', "fetched from elsewhere"),
    ('<link rel="stylesheet" href="//other/x.css">', "fetched from elsewhere"),
  ],
)
def test_broken_link_is_named(site, body, problem):
  code, said = site(a=body)
  assert code == 1 and problem in said and "a.html: " in said
