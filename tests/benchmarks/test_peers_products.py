"""Products that `make bench-peers` compares: what is asked, their figures, and their bound."""

import numpy as np
import pytest

from benchmarks.peers import making, products, products_report, report, worker
from benchmarks.peers.worker import OURS

ABOUT = report.About(threads=1, rounds=3, machine="2 cores of a processor", images="random images")


class Scaling:
  """A contender whose matrix is a multiple of the identity."""

  versions = {"scaling": "1.0"}
  factor = 2.0
  shares_passes = False

  def __init__(self, problem, dtype):  # noqa: ARG002
    self.dtype = dtype

  def set_up(self, draws, steps):
    pass

  def set_vector(self, v):
    self.v = v

  def gradient(self):
    return self.v

  def product(self):
    return self.factor * self.v

  def to_keras(self, result):
    return result


class Sharing(Scaling):
  """Several products together, by another factor than one alone."""

  shares_passes = True
  shared_factor = 2.0

  def set_vectors(self, vectors):
    self.vectors = vectors

  def products(self):
    return [self.shared_factor * v for v in self.vectors]


class Direct:
  """A `Contender` in this process, which remembers what it was asked."""

  def __init__(self, name, make, folder):
    self.name = name
    self.asked = []
    self._worker = worker.Worker(make, making.make_mlp(), folder)

  def ask(self, what, **arguments):
    self.asked.append(what)
    return getattr(self._worker, what)(**arguments)


def compared(folder, rounds=1, **classes):
  """Returns the outcome of contenders of such classes, and the contenders; ours is right."""
  outcome = products_report.ProductsOutcome("mlp", "a network", "gauss_newton", repeats=1)
  contenders = []
  for name, make in {OURS: Sharing, **classes}.items():
    contenders.append(Direct(name, make, folder))
    contenders[-1].ask("set_up", draws=2)
    outcome[name] = products_report.ProductFigures(make.versions)
  products.compare(outcome, contenders, folder, rounds)
  return outcome, contenders


def timed(**seconds):
  """Returns an outcome with ours at 1, 2 and 1 s a product, half of it in a shared pass."""
  outcome = products_report.ProductsOutcome("resnet32", "a network", "gauss_newton", repeats=1)
  times = {"single": [1.0, 2.0, 1.0], "shared": [0.5, 1.0, 0.5]}
  for name, of_one in {OURS: times, "peer": seconds}.items():
    outcome[name] = products_report.ProductFigures({name: "1.0"}, 1e-15)
    outcome[name].seconds = {"single": [], "shared": []} | of_one
  return outcome


@pytest.mark.parametrize(
  ("network", "expected"),
  [
    ("mlp", ["curvlinops"]),
    ("resnet32", ["curvlinops", "curvlinops, nn.BatchNorm2d"]),
    ("transformer", ["curvlinops", "curvlinops, nn.LayerNorm"]),
  ],
)
def test_pyhessian_and_jax_have_no_gauss_newton_products(network, expected):
  assert products.names(network, ["PyHessian", "curvlinops", "JAX, by hand"]) == expected


@pytest.mark.parametrize(("change", "expected"), [(0.0, 0.0), (1e-9, 1e-9 / 4), (np.nan, np.nan)])
def test_difference_is_relative_to_the_largest_entry(change, expected):
  products_of_two = np.array([[1.0, -4.0, 2.0], [0.0, 8.0, 1.0]])
  other = products_of_two.copy()
  other[0, 2] += change
  found = products.largest_difference(other, products_of_two)
  assert found == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_equal_products_are_within_the_bound(tmp_path):
  outcome, _ = compared(tmp_path, peer=Scaling, other=Sharing)
  assert products_report.failures(outcome) == []
  assert [f.difference for f in outcome.values()] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("factor", [2 + 1e-10, 1.0, np.nan])
def test_other_product_is_named(tmp_path, factor):
  wrong = type("Wrong", (Scaling,), {"factor": factor})
  outcome, _ = compared(tmp_path, peer=wrong, other=Scaling)
  (line,) = products_report.failures(outcome)
  assert "mlp: peer: its gauss_newton products differ by" in line and "bound: 1e-12" in line


@pytest.mark.parametrize(("factor", "text"), [(2.01, "by 0.005 "), (np.nan, "by nan ")])
def test_products_that_are_wrong_only_together_are_named(tmp_path, factor, text):
  wrong = type("Wrong", (Sharing,), {"shared_factor": factor})
  outcome, _ = compared(tmp_path, peer=wrong)
  (line,) = products_report.failures(outcome)
  assert "peer" in line and text in line


def test_products_of_all_are_equal_before_any_is_timed(tmp_path):
  _, (ours, peer) = compared(tmp_path, rounds=2, peer=Scaling)
  before = ["set_up", "agree_products", "prepare_products"]
  assert ours.asked == [*before, "product", "products", "product", "products"]
  assert peer.asked == [*before, "product", "product"]


def test_seconds_of_products_that_share_a_pass_are_those_of_one(tmp_path, monkeypatch):
  monkeypatch.setattr(worker, "_mean_seconds", lambda *_: 5.0)
  outcome, _ = compared(tmp_path, rounds=2)
  assert outcome[OURS].seconds == {"single": [5.0, 5.0], "shared": [5.0 / products.VECTORS] * 2}


def test_ratios_are_those_of_a_round():
  outcome = timed(single=[3.0, 2.0, 20.0])
  np.testing.assert_array_equal(outcome.ratios("peer", "single"), [3.0, 1.0, 20.0])
  assert outcome.ratios("peer", "shared").size == 0


def test_line_of_a_contender_has_its_figures(capsys):
  products_report.print_figures(timed(single=[3.0, 2.0, 20.0]))
  _, ours, peer = capsys.readouterr().out.splitlines()
  assert "a product 1 s, time / ours 1.00; one of ten 0.5 s, time / ours 1.00;" in ours
  assert "a product 3 s, time / ours 3.00 (1.00 to 20.00); greatest difference 1.0e-15" in peer
  assert "one of ten" not in peer


def test_section_of_products_is_beside_that_of_densities(tmp_path):
  path = tmp_path / "benchmarks.md"
  about = report.About(
    threads=1, rounds=3, machine="m", images="random images", flags="--threads=1", load=2.0
  )
  outcome = timed(single=[3.0, 2.0, 20.0], shared=[1.0, 1.0, 1.0])
  body = products_report.markdown(about, [outcome])
  report.write_section(path, report.PRODUCTS_SECTION, body)
  report.write_section(path, report.SECTION, "densities")
  text = path.read_text()
  assert text.index("densities") < text.index("#### a network; random images")
  assert "| peer | 3 | 3.00 (1.00 to 20.00) | 1 | 2.00 (1.00 to 2.00) | 1.0e-15 |" in text
  assert '`make bench-peers PEERS_FLAGS="--threads=1"`, m, 1 thread each' in text
  assert "not idle: its load average was 2.0 at the start" in text


def test_section_of_an_idle_machine_says_the_command_alone():
  text = products_report.markdown(ABOUT, [timed(single=[1.0, 1.0, 1.0])])
  assert text.startswith("`make bench-peers`, 2 cores of a processor, 1 thread each")
  assert "idle" not in text and "| peer | 1 | 1.00 (0.50 to 1.00) | - | - | 1.0e-15 |" in text
