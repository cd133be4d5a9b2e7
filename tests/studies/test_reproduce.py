"""Making of studies, and what happens when one can't be made."""

import math
import time
import types

import pytest

from tf_hessian.studies import catalog, document, reproduce, result

COMMAND = "python -m tf_hessian.bin.reproduce"


def no_data(_):
  raise FileNotFoundError("data set cifar10: not in /nowhere; add --download to fetch it")


def fail(_):
  raise ValueError("Chebyshev: it does not converge")


def full_disk(_):
  raise OSError(28, "no space left on device")


@pytest.fixture
def make(configs, tmp_path, monkeypatch, new_study):
  """Returns a function: (figure, studies) -> what `reproduce` returns, with these studies alone.

  Studies measure by functions of the context, or None for one that is made at once.
  """

  def run(figure, studies, **options):
    def module(name):
      return types.SimpleNamespace(
        measure=studies[name] or (lambda _: {}), describe=lambda _: new_study(name).chapter
      )

    monkeypatch.setattr(catalog, "STUDIES", dict.fromkeys(studies))
    monkeypatch.setattr(catalog, "module", module)
    return reproduce.reproduce(figure, tmp_path / "out", configs=configs, progress=False, **options)

  return run


def made_in(folder):
  return sorted(p.stem.removeprefix("figure_") for p in folder.glob("out/figure_*.json"))


# Mistakes.


def test_unknown_figure_is_refused_with_the_nearest(root, tmp_path):
  with pytest.raises(ValueError, match="did you mean 'theorem'"):
    reproduce.reproduce("thoerem", tmp_path / "out", configs=root / "configs")
  assert not (tmp_path / "out").exists()


def test_missing_folder_of_configs_is_explained(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"nowhere/mnist_mlp\.py: .*--configs"):
    reproduce.reproduce("networks", tmp_path / "out", configs=tmp_path / "nowhere")


def test_file_in_place_of_the_folder_of_results_is_named(tmp_path):
  (tmp_path / "out").write_text("")
  with pytest.raises(OSError, match="out: it is a file"):
    reproduce.reproduce("14", tmp_path / "out")


def test_damaged_results_of_another_figure_leave_the_line_of_this_one(make, tmp_path, new_study):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "figure_1.json").write_text("{")
  text = make("14", {"14": None})
  assert text.splitlines()[0] == new_study("14").line()
  assert "no page about all figures" in text and "figure_1.json" in text


# What is made.


def test_one_figure_is_made_with_a_line_and_a_page(make, tmp_path, new_study):
  text = make("14", {"14": None, "1": fail})
  assert text.splitlines() == [
    new_study("14").line(),
    f"the page about all figures is {tmp_path / 'out' / 'reproduction.md'}",
  ]
  assert made_in(tmp_path) == ["14"]
  assert "## Title of 14" in (tmp_path / "out" / "reproduction.md").read_text()


def test_all_figures_are_made_in_their_order(make, tmp_path, new_study):
  text = make("all", {"14": None, "1": None, "theorem": None})
  assert text.splitlines()[:-1] == [new_study(n).line() for n in ("14", "1", "theorem")]
  assert made_in(tmp_path) == ["1", "14", "theorem"]


def test_page_is_about_figures_made_before_too(make, tmp_path):
  make("14", {"14": None, "1": None})
  make("1", {"14": None, "1": None})
  page = tmp_path / "out" / "reproduction.md"
  assert page.read_text() == document.render(tmp_path / "out", page)
  assert page.read_text().index("## Title of 14") < page.read_text().index("## Title of 1\n")


def test_result_records_command_time_versions_and_device(make, tmp_path):
  def slow(_):
    time.sleep(0.12)
    return {"n": 3}

  make("14", {"14": slow}, options=("--tf32",))
  found = result.load(result.path(tmp_path / "out", "14"))
  assert found.command == f"{COMMAND} --figure=14 --out=runs/figures --tf32"
  assert found.seconds >= 0.1
  assert {"tf_hessian", "tensorflow", "numpy"} <= set(found.versions)
  assert found.device
  assert found.numbers == {"n": 3}


def test_study_describes_the_numbers_of_the_file(make, tmp_path, monkeypatch):
  seen = []
  original = catalog.describe
  monkeypatch.setattr(catalog, "describe", lambda r: seen.append(r) or original(r))
  make("14", {"14": lambda _: {10: (1.5, math.nan)}})
  saved = result.load(result.path(tmp_path / "out", "14"))
  assert saved.numbers == {"10": [1.5, None]}
  assert seen == [saved, saved]  # for the line, and for the page


def test_command_of_all_figures_is_on_record_as_one_for_each(make, tmp_path):
  make("all", {"14": None, "19": None})
  commands = [result.load(result.path(tmp_path / "out", n)).command for n in ("14", "19")]
  assert commands == [
    f"{COMMAND} --figure=14 --out=runs/figures",
    f"{COMMAND} --figure=19 --out=runs/figures --data_dir=...",
  ]


def test_study_is_given_folders_and_options(make, tmp_path, configs):
  seen = []

  def look(context):
    seen.append((context.out, context.configs, context.data_dir, context.download))
    return {}

  make("14", {"14": look}, data_dir="data", download=True)
  assert seen == [(tmp_path / "out", configs, "data", True)]


def test_studies_share_one_small_model(make, monkeypatch):
  prepared = []
  small = types.SimpleNamespace(seconds=1.0)
  monkeypatch.setattr(
    "tf_hessian.studies.small_model.prepare", lambda *_, **__: prepared.append(1) or small
  )

  def look(context):
    return {"seconds": context.small_model.seconds}

  make("all", {"1": look, "15": look})
  assert prepared == [1]


# What can't be made.


def test_without_cifar_the_other_figures_are_made(make, tmp_path, new_study):
  lines = make("all", {"14": None, "batch_norm": no_data, "19": no_data, "1": None}).splitlines()
  assert lines[0] == new_study("14").line()
  assert lines[1] == new_study("1").line()
  assert lines[2].startswith("19: left out: data set cifar10")
  assert lines[3].startswith("batch_norm: left out: data set cifar10")
  assert made_in(tmp_path) == ["1", "14"]


def test_figure_that_was_asked_for_by_name_is_not_left_out(make, tmp_path):
  with pytest.raises(FileNotFoundError, match="cifar10"):
    make("19", {"19": no_data})
  assert made_in(tmp_path) == []


def test_other_figures_are_not_left_out(make):
  with pytest.raises(OSError, match="no space left"):
    make("all", {"14": None, "1": full_disk})


@pytest.mark.parametrize("name", ["1", "19"])
def test_failing_study_leaves_those_before_it(make, tmp_path, name):
  with pytest.raises(ValueError, match="does not converge"):
    make("all", {"14": None, name: fail, "batch_norm": None})
  assert made_in(tmp_path) == ["14"]
