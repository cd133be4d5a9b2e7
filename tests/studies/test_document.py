"""The page about the studies, and the one in docs/."""

import json
import pathlib
import re
import types

import pytest

from tf_hessian.studies import catalog, document, result
from tf_hessian.studies.chapter import Table, Verdict

VERDICTS = {
  Verdict.AGREES: "agrees",
  Verdict.DIFFERS: "**differs**",
  Verdict.EXPLAINED: "**differs**, explained",
  Verdict.OPEN: "**open**",
}


def headings(page):
  return re.findall(r"^## (.*)$", page, re.MULTILINE)


def links(page):
  """Returns the targets of a page's pictures."""
  return re.findall(r"!\[[^\]]*\]\(([^)]*)\)", page)


def cells(row):
  """Returns the cells of a row of a table."""
  return [c.strip() for c in re.split(r"(?<!\\)\|", row)[1:-1]]


def anchor(heading):
  """Returns what GitHub links to a heading by."""
  return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.fixture
def save(tmp_path, monkeypatch):
  """Returns a function: (studies, folder) -> None, which saves them for `describe` to find."""
  chapters = {}
  monkeypatch.setattr(
    catalog,
    "module",
    lambda name: types.SimpleNamespace(describe=lambda _: chapters[name]),
  )

  def write(*studies, folder=tmp_path):
    for study in studies:
      study.result.save(folder)
      chapters[study.result.figure] = study.chapter
      for name in study.pictures:
        pathlib.Path(folder, name).touch()

  return write


@pytest.fixture
def render(new_study, save, tmp_path):
  """Returns a function: (studies or figures, page) -> the page about them in tmp_path."""

  def make(*studies, page="page.md"):
    save(*(new_study(s) if isinstance(s, str) else s for s in studies))
    return document.render(tmp_path, tmp_path / page)

  return make


@pytest.mark.parametrize("verdict", Verdict)
def test_chapter_has_what_the_study_says(render, new_study, verdict):
  made = new_study("15", verdict=verdict, reason="Since it is so.", command="make it", seconds=30)
  chapter = render(made).split("## Title of 15")[1]
  for text in (
    "**The paper** (B): claim of 15.",
    "**Here**: found for 15.",
    f"**Verdict**: {VERDICTS[verdict]}. Since it is so.",
    "`make it`",
    "**Cost**: 30 s.",
  ):
    assert text in chapter


@pytest.mark.parametrize(
  "seconds, text",
  [(0, "not recorded"), (0.25, "0.25 s"), (119, "119 s"), (150, "2.5 min"), (9000, "2.5 h")],
)
def test_cost_is_in_a_unit_of_which_there_are_some(render, new_study, seconds, text):
  assert f"**Cost**: {text}." in render(new_study(seconds=seconds))


def test_what_the_paper_does_not_have_says_so(render, new_study):
  page = render(new_study("deflation", section=""))
  assert "**To show** (not in the paper): claim of deflation." in page
  assert cells(next(r for r in page.splitlines() if "](#" in r))[1] == "not in the paper"


@pytest.mark.parametrize("verdict", Verdict)
def test_overview_has_section_and_verdict_of_each_study(render, new_study, verdict):
  page = render("14", new_study("1", section="B, Figure 1", verdict=verdict))
  rows = [cells(row) for row in page.splitlines() if "](#" in row]
  assert rows == [
    ["[Title of 14](#title-of-14)", "B", "agrees"],
    ["[Title of 1](#title-of-1)", "B, Figure 1", VERDICTS[verdict]],
  ]


def test_tables_are_below_their_captions(render, new_study):
  table = Table(("m", "L1"), (("10", "0.5"), ("20", "1e-3")), "Distances")
  page = render(new_study(tables=(table,)))
  assert "Distances\n\n| m | L1 |\n| --- | --- |\n| 10 | 0.5 |\n| 20 | 1e-3 |\n" in page


def test_bars_in_cells_are_no_borders(render, new_study):
  page = render(new_study(tables=(Table(("|f - g|", "b"), (("1 | 2", "|"),)),)))
  rows = [cells(row) for row in page.splitlines() if row.startswith("|")]
  assert [r"\|f - g\|", "b"] in rows
  assert [r"1 \| 2", r"\|"] in rows


def test_chapters_are_in_the_order_of_the_paper_whatever_the_files_are(render):
  page = render("batch_norm", "deflation", "19", "gradient", "1", "15", "14", "theorem")
  names = ["14", "1", "15", "theorem", "gradient", "batch_norm", "19", "deflation"]
  assert headings(page)[:-1] == [f"Title of {name}" for name in names]


def test_unknown_figures_are_at_the_end(render):
  page = render("zebra", "deflation", "ant", "14")
  known = [f"Title of {name}" for name in ("14", "deflation")]
  assert headings(page)[:-1] == [*known, "Figure ant", "Figure zebra"]


def test_unknown_figure_says_where_its_numbers_are(render):
  chapter = render("14", "zebra").split("## Figure zebra")[1]
  assert "no study of this name" in chapter and "figure_zebra.json" in chapter
  assert "**open**" in chapter


def test_overview_is_in_the_order_of_the_chapters(render):
  page = render("theorem", "zebra", "14", "19", "1")
  assert re.findall(r"\[(.*)\]\(#", page) == headings(page)[:-1]


@pytest.mark.parametrize(
  "title",
  ["Theorem E.1, by simulation", "A (b): c_d - e/f", "Straße & Énergie", "1/2 'quoted' `code`"],
)
def test_overview_links_to_the_heading(render, new_study, title):
  page = render(new_study(title=title))
  assert re.findall(r"\]\(#([^)]*)\)", page) == [anchor(title)]
  assert title in headings(page)


@pytest.mark.parametrize("page", ["page.md", "../page.md", "a/b/page.md", "../other/page.md"])
def test_pictures_are_found_from_the_page(render, new_study, tmp_path, page):
  made = render(new_study(pictures={"a.png": "A", "b.png": "B"}), page=page)
  found = [(tmp_path / page).parent / link for link in links(made)]
  assert [f.resolve() for f in found] == [tmp_path.resolve() / n for n in ("a.png", "b.png")]


def test_relative_folder_of_results_is_linked_from_the_page(new_study, save, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  save(new_study(pictures={"a.png": "A"}), folder="docs/figures")
  page = document.render("docs/figures", "docs/page.md")
  assert links(page) == ["figures/a.png"]
  assert "JSON file in `figures`" in page


def test_picture_that_is_missing_is_named(new_study, save, tmp_path):
  save(new_study(pictures={"a.png": "A"}))
  (tmp_path / "a.png").unlink()
  with pytest.raises(ValueError, match=r"a\.png is missing"):
    document.render(tmp_path, tmp_path / "page.md")


def test_pictures_have_their_captions(render, new_study):
  assert "![The bulk](" in render(new_study(pictures={"a.png": "The bulk"}))


def test_versions_are_named_once_for_each_machine(render, new_study):
  ours, other = {"numpy": "2.1", "keras": "3"}, {"numpy": "1.9"}
  page = render(
    new_study("1", versions=ours, device="CPU"),
    new_study("14", versions=ours, device="CPU"),
    new_study("15", versions=other),
  )
  foot = page.split("## Made with")[1].split("\n")
  assert sorted(filter(None, foot)) == [
    "- CPU: keras 3, numpy 2.1",
    "- unknown device: numpy 1.9",
  ]


def test_folder_without_results_is_refused(tmp_path):
  (tmp_path / "other.json").write_text("{}")
  with pytest.raises(ValueError, match="no results.*make a figure first"):
    document.render(tmp_path, tmp_path / "page.md")


def test_damaged_result_is_refused_with_its_name(render, tmp_path):
  (tmp_path / "figure_1.json").write_text("{")
  with pytest.raises(ValueError, match=r"figure_1\.json: damaged"):
    render("14")


def test_page_is_written_as_it_is_rendered(render, tmp_path):
  page = render("14", "σ²")
  document.write(tmp_path, tmp_path / "page.md")
  assert (tmp_path / "page.md").read_text(encoding="utf-8") == page


# The page in the repository.


@pytest.fixture
def committed(root, monkeypatch):
  """The chapters of docs/figures: a dict."""
  monkeypatch.chdir(root)
  found = [result.load(f) for f in pathlib.Path("docs/figures").glob("figure_*.json")]
  assert found, "docs/figures has no results"
  return {r.figure: catalog.describe(r) for r in found}


def test_page_in_the_repository_is_made_of_the_results_beside_it(committed):
  page = pathlib.Path("docs/reproduction.md").read_text(encoding="utf-8")
  assert page == document.render("docs/figures", "docs/reproduction.md")
  assert len(headings(page)) == len(committed) + 1


def test_page_in_the_repository_is_about_every_study(committed):
  assert set(committed) == set(catalog.STUDIES)


def test_results_in_the_repository_hold_no_sentences(root):
  for file in (root / "docs" / "figures").glob("figure_*.json"):
    content = json.loads(file.read_text())
    assert content["format_version"] == result.FORMAT_VERSION
    assert not {"title", "claim", "found", "reason", "tables"} & set(content)


def test_pictures_of_the_page_in_the_repository_exist(committed):
  page = document.render("docs/figures", "docs/reproduction.md")
  assert len(links(page)) == sum(len(c.pictures) for c in committed.values()) > 0
  for link in links(page):
    assert pathlib.Path("docs", link).read_bytes().startswith(b"\x89PNG")


def test_headings_of_the_page_in_the_repository_differ(committed):
  titles = [anchor(c.title) for c in committed.values()]
  assert len(set(titles)) == len(titles)
