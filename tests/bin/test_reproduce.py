"""The commands that make the paper's figures and the page about them."""

import json
import re

import pytest

from tf_hessian.studies import catalog

MADE = "python -m tf_hessian.bin.reproduce --figure=14 --out=runs/figures --nomemory_growth"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder for what the commands make."""
  return tmp_path_factory.mktemp("reproduce")


@pytest.fixture(scope="module")
def made(folder, run):
  """What the command said that has made Figure 14 in `folder`/figures."""
  return run("reproduce", "--figure=14", f"--out={folder / 'figures'}", "--nomemory_growth")


@pytest.fixture(scope="module")
def page(made, folder, run):
  """What the command said that has written a page about it in another folder."""
  assert made.returncode == 0, made.stderr
  here = folder / "docs" / "page.md"
  return run("document", f"--results={folder / 'figures'}", f"--page={here}", really=True)


@pytest.fixture(scope="module")
def mistakes(folder, run_all):
  """What the commands said to mistakes: a dict."""
  (folder / "damaged").mkdir()
  (folder / "damaged" / "figure_1.json").write_text("{")
  out, target = f"--out={folder / 'mistake'}", f"--page={folder / 'mistake.md'}"
  return run_all(
    {
      "no figure": ("reproduce", out),
      "no folder": ("reproduce", "--figure=14"),
      "no results": ("document", f"--results={folder / 'none'}", target),
      "damaged results": ("document", f"--results={folder / 'damaged'}", target),
      "no page": ("document", f"--results={folder / 'none'}"),
    }
  )


def test_line_says_whether_claim_and_result_agree(made, folder):
  assert made.returncode == 0, made.stderr
  line, last = made.stdout.strip().splitlines()
  assert line.startswith("Concentration of the estimate: paper: ")
  assert line.endswith(" -> open (the page says why)")
  assert str(folder / "figures" / "reproduction.md") in last


def test_results_are_numbers_a_picture_and_a_page(made, folder):
  assert made.returncode == 0, made.stderr
  files = {p.name for p in (folder / "figures").iterdir()}
  assert files == {"figure_14.json", "figure_14.png", "reproduction.md"}
  assert (folder / "figures" / "figure_14.png").read_bytes().startswith(b"\x89PNG")


def test_numbers_are_on_record_with_what_made_them(made, folder):
  assert made.returncode == 0, made.stderr
  found = json.loads((folder / "figures" / "figure_14.json").read_text())
  assert found["command"] == MADE
  assert found["seconds"] > 0 and found["device"] and "tensorflow" in found["versions"]
  assert found["numbers"]["trials"] == 20_000
  assert all(r["frequency"] <= r["probability"] for r in found["numbers"]["monte_carlo"])


@pytest.mark.slow
def test_page_links_to_the_results(page, folder):
  assert page.returncode == 0, page.stderr
  assert str(folder / "docs" / "page.md") in page.stdout
  text = (folder / "docs" / "page.md").read_text()
  assert "](../figures/figure_14.png)" in text
  assert f"`{MADE}`" in text


@pytest.mark.parametrize(
  "name, message",
  [
    ("no figure", "--figure"),
    ("no folder", "--out"),
    ("no results", "there are no results"),
    ("damaged results", "figure_1.json: damaged"),
    ("no page", "--page"),
  ],
)
def test_mistake_is_explained_without_a_traceback(mistakes, folder, name, message):
  assert mistakes[name].returncode != 0
  assert message in mistakes[name].stderr
  assert "Traceback" not in mistakes[name].stderr
  assert not list(folder.glob("mistake*"))


def test_help_lists_the_figures(run):
  text = run("reproduce", "--help").stdout
  found = re.search(r"--figure: (.*?), or all\.", " ".join(text.split()))
  assert found.group(1).split(", ") == list(catalog.STUDIES)
