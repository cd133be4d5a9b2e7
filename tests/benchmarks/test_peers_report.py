"""The section that `make bench-peers` writes, and the bounds that it keeps to."""

import types

import numpy as np
import pytest

from benchmarks.peers import report
from benchmarks.peers.worker import OURS

ABOUT = report.About(threads=2, rounds=3, machine="2 cores of a processor", images="random images")
TIMES = ("set_up", "short", "density", "gradient", "product")
GRID = np.linspace(-5, 5, 2001)
NORMAL = np.exp(-(GRID**2) / 2) / np.sqrt(2 * np.pi)


def measured(seconds, versions):
  """Returns figures with the same time for all, one a round."""
  figures = report.Figures(counts=True)
  for one in seconds:
    said = {"seconds": one, "cpu_seconds": 2 * one, "peak_mib": 100 * one}
    for what in TIMES:
      figures.add(what, said | {"versions": versions, "failure": ""})
  return figures


def outcome(peer="peer", **changes):
  """Returns an outcome in which everything is within its bound, but for the peer's changes."""
  setting = types.SimpleNamespace(title="a network", draws=2, steps=3, least_ratio=2.0)
  result = report.Outcome("resnet32", setting)
  result.sigma, result.trace = 0.1, (0.0, 0.1)
  for name, seconds in ((OURS, [1.0, 2.0, 1.0]), (peer, [3.0, 6.0, 3.0])):
    result[name] = measured(seconds, {name: "1.0"})
    result[name].differences = {"loss": 0.0, "gradient": 1e-15, "product": 1e-14}
    result[name].rounding = 1e-3
    result[name].trace, result[name].distance = 0.01, 0.1
  for field, value in changes.items():
    setattr(result[peer], field, value)
  return result


# The section.


def test_only_the_section_is_replaced():
  begin, end = "<!-- begin peers: written by a command -->", "<!-- end peers -->"
  text = f"# A\n\n{begin}\nold\n{end}\n\n## B\n\n<!-- begin other -->\nkept\n"
  new = report.replace_section(text, "peers", "new\n")
  assert new == f"# A\n\n{begin}\n\nnew\n\n{end}\n\n## B\n\n<!-- begin other -->\nkept\n"
  assert report.replace_section(new, "peers", "new") == new


@pytest.mark.parametrize("order", ["", "b", "e", "eb", "bbe", "bee"])
def test_text_without_its_two_markers_is_refused(order):
  begin, end = "<!-- begin peers: written by a command -->", "<!-- end peers -->"
  text = "\n".join({"b": begin, "e": end}[mark] for mark in order)
  with pytest.raises(ValueError, match="begin peers.*once each and in this order"):
    report.replace_section(text, "peers", "new")


def test_file_is_made_and_then_rewritten_in_its_section_only(tmp_path):
  path = tmp_path / "benchmarks.md"
  report.write(path, ABOUT, [outcome()])
  path.write_text(path.read_text() + "\n## By hand\n")
  report.write(path, ABOUT, [outcome("another")])
  text = path.read_text()
  assert text.count("## Peers") == 1 and text.endswith("\n## By hand\n")
  assert "| another |" in text and "| peer |" not in text
  assert [p.name for p in tmp_path.iterdir()] == ["benchmarks.md"]


def test_damaged_file_stays_as_it_was(tmp_path):
  path = tmp_path / "benchmarks.md"
  path.write_text("# Without markers\n")
  with pytest.raises(ValueError, match="once each"):
    report.write(path, ABOUT, [outcome()])
  assert path.read_text() == "# Without markers\n"


def test_section_has_the_figures_and_what_a_package_fails_with():
  result = outcome(failure="RuntimeError: removed", counts=False)
  result["third"] = measured([4.0, 8.0, 4.0], {"torch": "2.0"})
  text = report.markdown(ABOUT, [result])
  assert "2 cores of a processor, 2 threads each, medians of 3 interleaved rounds" in text
  assert "| third | 4 | 4 | 4 | 4 | 4 | 4 | 8 | 400 |" in text
  assert (
    "| peer | 3 | 3 | 3 | - | - | - | - | - |" in text
  )  # a product that isn't counted has no density run
  assert "Own density run of peer: `RuntimeError: removed`" in text
  assert "torch 2.0" in text


# The bounds.


def with_times(**seconds):
  """Returns an outcome with other times of the peer."""
  result = outcome()
  result["peer"].seconds |= seconds
  return result


def test_ratio_is_the_median_of_the_ratios_of_a_round():
  result = with_times(density=[3.0, 2.0, 20.0])
  assert result.ratio("peer") == 3.0  # 3 / 1, 2 / 2, 20 / 1


def test_ratio_of_several_times_is_that_of_their_sum():
  result = with_times(set_up=[1.0, 0.0, 1.0], short=[0.0, 0.0, 3.0])
  assert result.ratio("peer", "set_up", "short") == 0.5  # 1 / 2, 0 / 4, 4 / 2


@pytest.mark.parametrize(
  ("times", "text"),
  [
    ({"density": [1.0, 2.0, 1.0]}, "resnet32: density run: peer takes 1 of our time"),
    ({"set_up": [0.5] * 3, "short": [1.0] * 3}, "3 steps with set-up: peer takes 0.75 of our time"),
    ({"density": [np.nan] * 3}, "density run: peer takes nan"),
  ],
)
def test_time_that_misses_its_bound_is_printed_and_named(times, text, capsys):
  result = with_times(**times)
  (line,) = report.failures(result)
  assert text in line
  printed = capsys.readouterr().out.splitlines()
  assert [p.endswith(": missed") for p in printed].count(True) == 1
  assert report.markdown(ABOUT, [result]).count("which is missed") == 1


def test_nothing_fails_within_the_bounds():
  assert report.failures(outcome()) == []


@pytest.mark.parametrize(
  ("changes", "text"),
  [
    ({"trace": 0.8}, "trace / n is 0.8, ours 0"),
    ({"distance": 0.5}, "density is 0.5 from ours, expected is 0.1"),
  ],
)
def test_what_misses_its_bound_is_named(changes, text):
  (line,) = report.failures(outcome(**changes))
  assert text in line


def test_equal_networks_have_no_differences_to_name():
  assert report.unequal_networks(outcome()) == []


@pytest.mark.parametrize(("key", "value"), [("product", 1e-8), ("gradient", np.nan)])
def test_network_that_is_not_equal_is_named(key, value):
  (line,) = report.unequal_networks(outcome(differences={key: value}))
  assert f"peer: its {key} differs by {value:.2g}" in line


def test_product_that_is_not_counted_may_differ():
  assert report.unequal_networks(outcome(counts=False, differences={"product": 1.0})) == []


def test_density_without_reorthogonalisation_has_no_bound_of_its_distance():
  assert report.failures(outcome("curvlinops", distance=1.5)) == []


def test_density_is_compared_by_its_mean_and_its_l1_distance():
  figures = outcome()["peer"]
  figures.compare_density(GRID, NORMAL, NORMAL)
  assert abs(figures.trace) < 1e-12 and figures.distance == 0
  shifted = np.exp(-((GRID - 1) ** 2) / 2) / np.sqrt(2 * np.pi)
  figures.compare_density(GRID, 2 * shifted, shifted)
  # Cut off at 4 sigma: the mean is as good as that.
  assert abs(figures.trace - 1) < 1e-3 and abs(figures.distance - 1) < 1e-3


def test_expected_distance_is_that_of_normal_estimates():
  rng = np.random.default_rng(0)
  stderr = 0.1 * NORMAL
  first, second = NORMAL + stderr * rng.standard_normal((2, 100, len(GRID)))
  mean = np.trapezoid(np.abs(first - second), GRID, axis=-1).mean()
  # 200,000 independent points, of which a few hundred in the middle count most.
  assert report.expected_distance((GRID, NORMAL, stderr)) == pytest.approx(mean, rel=1e-2)
