"""What the README says to type works, and what it points to is there."""

import os
import pathlib
import re
import runpy
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [
  "README.md",
  "CONTRIBUTING.md",
  *sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md")),
]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_it_is_under_120_lines():
  assert len(README.splitlines()) < 120


def test_python_examples_are_under_20_and_12_lines():
  example, callback = PYTHON
  assert len([line for line in example.splitlines() if line.strip()]) < 20
  assert "SpectrumCallback" in callback and len(callback.splitlines()) < 12


def test_python_examples_run_and_draw_their_picture(tmp_path, forked):
  script = tmp_path / "example.py"
  script.write_text("\n".join(PYTHON))
  environment = os.environ | {"PYTHONPATH": str(ROOT)}
  process = forked([sys.executable, script], cwd=tmp_path, env=environment)
  _, said = process.communicate(timeout=900)
  assert process.returncode == 0, said
  assert (tmp_path / "spectrum.png").stat().st_size > 1000


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
  text = (ROOT / page).read_text()
  links = re.findall(r"\]\(([^)#]+)\)", text)
  missing = [x for x in links if "://" not in x and not (ROOT / page).parent.joinpath(x).exists()]
  assert not missing


def test_commands_are_modules_with_their_configs():
  commands = re.findall(r"python -m ([\w.]+)", README)
  assert len(commands) >= 3
  for module in commands:
    assert (ROOT / f"{module.replace('.', '/')}.py").exists()
  for config in re.findall(r"--config=(\S+)", README):
    assert (ROOT / config).exists()


def test_make_targets_are_in_the_makefile():
  makefile = (ROOT / "Makefile").read_text()
  targets = {t for page in PAGES for t in re.findall(r"make (\w+)", (ROOT / page).read_text())}
  assert {"demo", "test", "verify", "bench"} <= targets
  for target in {"demo", "test", "verify", "bench"}:
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_links_of_the_description_lead_into_the_repository(monkeypatch, tmp_path):
  monkeypatch.setattr("setuptools.setup", lambda **_: None)
  of_setup = runpy.run_path(str(ROOT / "setup.py"))["long_description"]
  readme = tmp_path / "README.md"
  readme.write_text("![a](b.png) [c\nd](e/f.md#g) [h](https://i) [j](#k)")
  assert of_setup(readme, "") == readme.read_text()
  assert of_setup(readme, "https://x/y") == (
    "![a](https://x/y/raw/main/b.png) [c\nd](https://x/y/blob/main/e/f.md#g) [h](https://i) [j](#k)"
  )
  links = re.findall(r"\]\(([^)#]+)", of_setup(url="https://x/y"))
  assert len(links) > 10 and all("://" in link for link in links)
