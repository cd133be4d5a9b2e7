"""The small model's exact side, and the comparison of the estimate with it."""

import json
import shutil

import numpy as np
import pytest

from tf_hessian.numerics import probes
from tf_hessian.studies import comparison, quadrature_error, small_model
from tf_hessian.training import checkpoints

EPS = np.finfo(np.float64).eps
FEW = (1e-5, 1e-4)  # variances of kernels; small ones need large grids


class Computed(Exception):
  """The dense Hessian was asked for."""


@pytest.fixture
def refuse(monkeypatch):
  """Lets no dense Hessian be computed."""

  def fail(*_, **__):
    raise Computed

  monkeypatch.setattr(small_model.exact, "upper_triangle", fail)


@pytest.fixture
def copied(context, tmp_path):
  """A folder with the small model, its exact side and estimates."""
  shutil.copytree(context.work / "small_model", tmp_path / "copy")
  return tmp_path / "copy"


@pytest.fixture
def exact_side(as_operator, dense, small, tmp_path):
  """Returns a function: (matrix, number of draws) -> its exact side, in one folder."""
  gradient = small.operator.gradient()

  def make(matrix=dense, num_draws=3, seed=0):
    operator = as_operator(matrix, gradient)
    return small_model._exact_side(operator, seed, num_draws, tmp_path / "exact.npz", False)

  return make


# The exact side.


def test_model_is_the_trained_one_in_float64(small, context):
  trained = checkpoints.load_model(context.work / "small_model" / "model.keras")
  for ours, w in zip(small.model.weights, trained.weights, strict=True):
    assert ours.dtype == "float64"
    np.testing.assert_array_equal(ours.numpy(), w.numpy())


def test_operator_is_the_hessian_of_the_networks_loss(small, dense, gradient_at, hessian_at):
  point = small.operator.parameters()
  np.testing.assert_allclose(small.operator.gradient(), gradient_at(point), atol=1e-13)
  np.testing.assert_allclose(dense, hessian_at(point), atol=1e-8)


def test_eigenvalues_are_those_of_the_dense_matrix(small, eigen):
  assert small.n == 163
  # Both are off by a few units of rounding of the largest.
  np.testing.assert_allclose(small.eigenvalues, eigen[0], atol=163 * EPS * eigen[0][-1])


def test_every_eigenvalue_weighs_the_same(small):
  np.testing.assert_allclose(small.weights, np.full(163, 1 / 163), rtol=EPS)


def test_top_vectors_are_the_eigenvectors_of_the_largest_eigenvalues(small, dense, eigen):
  q = small.top_vectors
  assert q.shape == (20, 163)
  values = eigen[0][:-21:-1]
  np.testing.assert_allclose(q @ dense, values[:, None] * q, atol=1e-13)
  np.testing.assert_allclose(q @ q.T, np.eye(20), atol=1e-13)


def test_measure_of_a_draw_is_its_start_vectors(small, eigen):
  values, vectors = eigen
  for i, (nodes, weights) in enumerate(small.draws):
    v = probes.probe(0, i, 163)
    np.testing.assert_allclose(weights[-30:-1], ((v @ vectors) ** 2)[-29:], rtol=1e-8, atol=1e-14)
    for power in range(6):
      expected = (v @ vectors) ** 2 @ values**power
      assert weights @ nodes**power == pytest.approx(expected, rel=1e-12)


def test_measure_of_the_gradient_is_its_directions(small, eigen):
  values, vectors = eigen
  g = small.operator.gradient()
  g /= np.linalg.norm(g)
  nodes, weights = small.gradient
  np.testing.assert_allclose(weights[-11:-1], ((g @ vectors) ** 2)[-10:], rtol=1e-8, atol=1e-14)
  for power in range(6):
    expected = (g @ vectors) ** 2 @ values**power
    assert weights @ nodes**power == pytest.approx(expected, rel=1e-10)


def test_facts_are_those_of_the_matrix(small, dense):
  assert small.facts["zero_rows"] == np.sum(~dense.any(axis=1)) == 24
  assert small.facts["asymmetry"] <= 1e-14
  assert 0 < small.facts["dense_seconds"] <= small.facts["exact_seconds"]


def test_estimate_is_of_the_same_draws(small, dense):
  assert small.spectrum.num_draws == len(small.draws) == 3
  assert [len(d) for d in small.spectrum.diagonals] == [120] * 3
  for i, d in enumerate(small.spectrum.diagonals):
    v = probes.probe(0, i, 163)
    assert d[0] == pytest.approx(v @ dense @ v, rel=1e-11)


def test_other_batches_are_of_the_same_data(small):
  other = small.in_batches_of(7)
  gradients = list(other.batch_gradients())
  assert len(gradients) == 9  # of 60 examples
  sizes = np.array([7] * 8 + [4])
  np.testing.assert_allclose(sizes @ gradients / 60, small.operator.gradient(), atol=1e-14)


# What is kept.


@pytest.mark.usefixtures("refuse")
def test_second_time_reads_what_is_there(config, copied, small):
  again = small_model.prepare(config, copied, num_draws=3, progress=False)
  np.testing.assert_array_equal(again.eigenvalues, small.eigenvalues)
  np.testing.assert_array_equal(again.top_vectors, small.top_vectors)
  np.testing.assert_array_equal(again.gradient, small.gradient)
  np.testing.assert_array_equal(again.draws, small.draws)
  assert again.facts == small.facts


def test_exact_side_is_computed_once(exact_side, monkeypatch):
  calls = []
  original = small_model.exact.upper_triangle
  monkeypatch.setattr(
    small_model.exact, "upper_triangle", lambda *a, **k: calls.append(1) or original(*a, **k)
  )
  first, second = exact_side(), exact_side()
  assert calls == [1]
  for name in first:
    np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize("change", ["matrix", "seed", "draws", "damage", "other arrays"])
def test_what_does_not_fit_is_computed_again(exact_side, dense, tmp_path, change):
  exact_side()
  path = tmp_path / "exact.npz"
  new = {
    "matrix": {"matrix": dense + 1e-3 * np.eye(163)},
    "seed": {"seed": 1},
    "draws": {"num_draws": 2},
  }.get(change, {})
  if change == "damage":
    path.write_bytes(path.read_bytes()[:-2000])
  if change == "other arrays":
    np.savez(path, a=np.zeros(3))
  found = exact_side(**new)
  expected = np.linalg.eigvalsh(new.get("matrix", dense))
  np.testing.assert_allclose(found["eigenvalues"], expected, atol=1e-13)
  starts = [probes.probe(new.get("seed", 0), i, 163) for i in range(new.get("num_draws", 3))]
  traces = [v @ new.get("matrix", dense) @ v for v in starts]
  np.testing.assert_allclose(found["draw_weights"] @ found["nodes"], traces, rtol=1e-10)
  with np.load(path) as saved:
    np.testing.assert_array_equal(saved["eigenvalues"], found["eigenvalues"])
    np.testing.assert_array_equal(saved["draw_weights"], found["draw_weights"])


def test_eigenvectors_of_a_small_matrix_are_all_kept(as_operator, tmp_path):
  matrix = np.diag([3.0, 0.0, 1.0, 2.0])
  matrix[0, 2] = matrix[2, 0] = 0.5
  operator = as_operator(matrix, np.ones(4))
  found = small_model._exact_side(operator, 0, 1, tmp_path / "exact.npz", False)
  q = found["top_vectors"]
  values = np.linalg.eigvalsh(matrix)[:0:-1]  # descending, without the 0
  np.testing.assert_allclose(q @ matrix, values[:, None] * q, atol=1e-14)
  assert not q[:, 1].any()


# Verification.


@pytest.fixture(scope="module")
def verified(config, context, tmp_path_factory):
  """(numbers of `verify`, its folder)."""
  folder = tmp_path_factory.mktemp("verify") / "run"
  shutil.copytree(context.work / "small_model", folder)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(quadrature_error, "KERNEL_VARIANCES", FEW)
    return small_model.verify(config, folder, num_draws=3, progress=False), folder


def test_verification_compares_the_extremes(verified, eigen):
  numbers, values = verified[0], eigen[0]
  np.testing.assert_allclose(numbers["largest_exact"], values[:-11:-1], rtol=1e-12)
  # 120 steps have found them to rounding.
  np.testing.assert_allclose(numbers["largest_estimated"], values[:-11:-1], rtol=1e-10)
  np.testing.assert_allclose(numbers["smallest_exact"], values[:5], rtol=1e-10)
  np.testing.assert_allclose(numbers["smallest_estimated"], values[:5], rtol=1e-8)
  assert numbers["trace_exact"] == pytest.approx(values.sum(), rel=1e-12)


def test_verification_estimates_the_trace_from_the_draws(verified, dense):
  draws = [163 * v @ dense @ v for v in (probes.probe(0, i, 163) for i in range(3))]
  numbers = verified[0]
  assert numbers["trace_estimated"] == pytest.approx(np.mean(draws), rel=1e-10)
  assert numbers["trace_stderr"] == pytest.approx(np.std(draws, ddof=1) / 3**0.5, rel=1e-10)


def test_verification_writes_its_numbers_eigenvalues_and_pictures(verified, small):
  numbers, folder = verified
  assert json.loads((folder / "verify.json").read_text()) == json.loads(json.dumps(numbers))
  np.testing.assert_array_equal(np.load(folder / "exact_eigenvalues.npy"), small.eigenvalues)
  assert {p.name for p in folder.glob("*.png")} == {
    "figure_1.png",
    "figure_15.png",
    "figure_16.png",
  }


def test_errors_of_single_draws_are_the_largest(verified):
  numbers = verified[0]
  for steps in (90, 120):
    assert numbers[f"l1_draw_{steps}"] == max(numbers["l1_draws_by_steps"][steps])


def test_verification_finds_no_failure_here(verified):
  # Of three draws, the distance of the mean is a random number.
  assert set(verified[0]["failed"]) <= {"l1_mean_over_predicted"}


@pytest.mark.parametrize("value, failed", [(1.0, []), (1.5, []), (1.6, ["x"]), (np.nan, ["x"])])
def test_numbers_above_their_bounds_fail(config, small, tmp_path, monkeypatch, value, failed):
  monkeypatch.setattr(small_model, "EXPECTED", {"x": 1.5})
  monkeypatch.setattr(small_model, "prepare", lambda *_, **__: small)
  monkeypatch.setattr(small_model, "_distances", lambda _: {"x": value})
  monkeypatch.setattr(comparison, "draw_densities", lambda *_: None)
  monkeypatch.setattr(quadrature_error, "draw_errors", lambda *_: None)
  assert small_model.verify(config, tmp_path)["failed"] == failed


def test_no_bound_is_one_of_seconds():
  assert not [name for name in small_model.EXPECTED if "second" in name]


def test_report_has_the_numbers(verified):
  numbers, folder = verified
  lines = {line[:24].strip(): line[24:] for line in small_model.report(*verified).split("\n")}
  assert lines["n"].startswith("163 (24 rows")
  assert float(lines["loss"]) == pytest.approx(numbers["loss"], rel=1e-7)
  found = [float(x) for x in lines["largest, exact"].split()]
  assert found == pytest.approx(numbers["largest_exact"], rel=1e-5)
  median = float(lines["L1 of draws, m = 20"].split()[1].strip(","))
  assert median == pytest.approx(np.median(numbers["l1_draws_by_steps"][20]), rel=0.05)
  assert str(folder) in lines["written"]
  assert small_model.report(numbers | {"failed": ["a", "b"]}, folder).endswith("a, b")
  assert small_model.report(numbers | {"failed": []}, folder).endswith("nothing")
