"""What the README says to type works, and what it points to is there."""

import os
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [
  "README.md",
  "CONTRIBUTING.md",
  *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_python_example_is_under_20_lines():
  (example,) = PYTHON
  assert len([line for line in example.splitlines() if line.strip()]) < 20


def test_python_example_runs_and_draws_its_picture(tmp_path, forked):
  script = tmp_path / "example.py"
  script.write_text(PYTHON[0])
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
