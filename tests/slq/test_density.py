"""A density run is the numerics' Lanczos, draw by draw, whatever interrupts it."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import tensorflow as tf

from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.numerics import density, lanczos, probes, quadrature
from tf_hessian.numerics.lanczos import Lanczos
from tf_hessian.slq.density import spectral_density
from tf_hessian.slq.storage import Storage
from tf_hessian.spectrum import Spectrum

STEPS = 6
EPS = np.finfo(np.float64).eps


def run(operator, *, draws=3, steps=STEPS, seed=1, **options):
  return spectral_density(
    operator, num_draws=draws, lanczos_steps=steps, seed=seed, progress=False, **options
  )


def assert_same(first, second, draws=None):
  """Asserts that the tridiagonal matrices are bitwise the same."""
  assert draws or first.num_draws == second.num_draws
  for name in ("diagonals", "off_diagonals"):
    pairs = zip(getattr(first, name)[:draws], getattr(second, name)[:draws], strict=True)
    for a, b in pairs:
      assert (a.shape, a.tobytes()) == (b.shape, b.tobytes())
  assert first.residuals[:draws].tobytes() == second.residuals[:draws].tobytes()
  assert first.statuses[:draws] == second.statuses[:draws]


def assert_is_lanczos(result, operator, seed, **options):
  n = operator.shape[0]
  for i, (d, e) in enumerate(zip(result.diagonals, result.off_diagonals, strict=True)):
    state = Lanczos.start(probes.probe(seed, i, n), STEPS, **options)
    state.run(lambda v: operator @ v)
    np.testing.assert_array_equal(d, state.alphas)
    np.testing.assert_array_equal(e, state.betas[:-1])
    assert result.residuals[i] == state.betas[-1]


# The result.


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
  "kind", [np.asarray, scipy.sparse.csr_array, scipy.sparse.linalg.aslinearoperator]
)
@pytest.mark.parametrize("on_disk", [False, True])
def test_tridiagonals_are_those_of_the_numerics(matrix, tmp_path, kind, seed, on_disk):
  result = run(kind(matrix), seed=seed, workdir=tmp_path / "run" if on_disk else None)
  assert_is_lanczos(result, scipy.sparse.linalg.aslinearoperator(kind(matrix)), seed)


@pytest.mark.parametrize("on_disk", [False, True])
def test_tridiagonals_of_a_model_are_those_of_the_numerics(hessian, tmp_path, on_disk):
  result = run(
    hessian, workdir=tmp_path / "run" if on_disk else None, storage=Storage(vectors_per_pass=1)
  )
  tolerance = lanczos.breakdown_tolerance(hessian.shape[0], hessian.precision)
  assert_is_lanczos(result, hessian, 1, tolerance=tolerance)


def test_draws_do_not_depend_on_their_number(matrix):
  assert_same(run(matrix, draws=2), run(matrix, draws=4), draws=2)


def test_same_seed_gives_bitwise_the_same(matrix):
  assert_same(run(matrix), run(matrix))


def test_other_seed_gives_other_draws(matrix):
  first, second = run(matrix, seed=0), run(matrix, seed=1)
  values = [d[0] for d in first.diagonals + second.diagonals]
  assert len(set(values)) == 6


def test_result_records_the_run(matrix):
  result = run(matrix, config={"name": "test"})
  assert (result.num_parameters, result.num_draws, result.seed) == (24, 3, 1)
  assert result.config["config"] == {"name": "test"}
  assert result.config["lanczos_steps"] == STEPS
  assert result.versions["numpy"] == np.__version__
  assert result.wall_times.shape == (3,)
  assert result.loss is None


def test_result_of_a_model_records_its_variables_and_loss(hessian):
  result = run(hessian)
  assert result.parameter_names == hessian.parameter_names
  assert result.parameter_shapes == ((3, 4), (4,), (4, 2), (2,))
  assert result.loss == hessian.loss()
  json.dumps(result.summary(), allow_nan=False)


@pytest.mark.parametrize("steps, lowered", [(23, False), (24, False), (25, True), (1000, True)])
def test_more_steps_than_parameters_are_lowered_and_logged(matrix, caplog, steps, lowered):
  result = run(matrix, draws=1, steps=steps)
  assert len(result.diagonals[0]) == min(steps, 24)
  assert (f"lowered from {steps} to n = 24" in caplog.text) is lowered


@pytest.mark.parametrize("scale", [2.0**-460, 2.0**-200, 2.0**200, 2.0**460])
def test_extreme_matrices_have_nodes_in_proportion(matrix, scale):
  found, right = (run(scipy.sparse.linalg.aslinearoperator(s * matrix)) for s in (scale, 1.0))
  for a, b in zip(found.nodes, right.nodes, strict=True):
    np.testing.assert_allclose(a / scale, b, rtol=0, atol=1e-12 * np.abs(b).max())


@pytest.mark.parametrize("scale", [1e-170, 1e-160, 1e160, 1e170])
def test_matrices_whose_squares_are_no_float64_are_refused(matrix, scale):
  with pytest.raises(ValueError, match="product of step 0: .*scale the matrix"):
    run(scipy.sparse.linalg.aslinearoperator(scale * matrix))


def test_operator_of_complex_products_is_refused():
  operator = scipy.sparse.linalg.LinearOperator((4, 4), lambda v: (1 + 1j) * v, dtype=np.float64)
  with pytest.raises(TypeError, match="matrix: its products are complex"):
    run(operator)


def test_zero_matrix_has_one_node():
  result = run(np.zeros((5, 5)), steps=3)
  assert [d.tolist() for d in result.diagonals] == [[0.0]] * 3
  assert result.statuses == ("INVARIANT",) * 3


# Bad arguments.


@pytest.mark.parametrize("name", ["num_draws", "lanczos_steps"])
@pytest.mark.parametrize("value", [0, -1])
def test_count_below_one_is_refused(matrix, name, value):
  with pytest.raises(ValueError, match=f"{name}: expected an integer of at least 1, got {value}"):
    spectral_density(matrix, **{name: value})


@pytest.mark.parametrize("name", ["num_draws", "lanczos_steps"])
@pytest.mark.parametrize("value", [2.0, True, "3", None])
def test_count_that_is_no_integer_is_refused(matrix, name, value):
  with pytest.raises(TypeError, match=name):
    spectral_density(matrix, **{name: value})


@pytest.mark.parametrize("count", [{"num_draws": 0}, {"lanczos_steps": 0}])
def test_count_is_refused_before_the_operator_is_looked_at(count):
  with pytest.raises(ValueError, match=next(iter(count))):
    spectral_density(None, **count)


def test_model_in_the_place_of_an_operator_is_refused_with_the_remedy(hessian):
  with pytest.raises(TypeError, match="operator: expected .*tf_hessian.HessianOperator"):
    spectral_density(hessian.model)


def test_storage_that_is_none_is_refused(matrix):
  with pytest.raises(TypeError, match=r"storage: expected .*Storage\(\"disk\"\).* got 'disk'"):
    spectral_density(matrix, storage="disk")


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_array_that_is_not_symmetric_is_refused(dtype):
  a = np.arange(25).reshape(5, 5).astype(dtype)
  with pytest.raises(ValueError, match="operator: expected a symmetric matrix"):
    spectral_density(a, num_draws=1, lanczos_steps=3, progress=False)
  spectral_density(a + a.T, num_draws=1, lanczos_steps=3, progress=False)
  spectral_density(scipy.sparse.csr_array(a + a.T), num_draws=1, lanczos_steps=3, progress=False)


def test_folder_that_is_no_path_and_kernel_without_width_are_refused(matrix):
  with pytest.raises(TypeError, match="workdir: expected the path of a folder, or None, got 3"):
    spectral_density(matrix, workdir=3)
  with pytest.raises(ValueError, match="sigma_squared: expected a finite number above 0"):
    spectral_density(matrix, sigma_squared=-1.0)


def test_negative_seed_is_refused(matrix):
  with pytest.raises(ValueError, match="seed"):
    run(matrix, seed=-1)


def test_matrix_that_is_not_square_is_refused():
  with pytest.raises(ValueError, match="square"):
    run(np.ones((3, 4)), steps=2)


# Interrupted.


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("fail_at", [1, 2, 5, 6, 7, 8, 12, 13, 18])
def test_interrupted_run_computes_only_the_missing_steps(
  matrix, counting, tmp_path, fail_at, error
):
  with pytest.raises(error, match="on purpose"):
    run(counting(fail_at, error), workdir=tmp_path)
  operator = counting()
  result = run(operator, workdir=tmp_path)
  assert operator.count == 3 * STEPS - (fail_at - 1)
  assert_same(result, run(matrix))


def test_run_interrupted_many_times_gives_the_same(matrix, counting, tmp_path):
  products, result = 0, None
  while result is None:
    operator = counting(4)
    try:
      result = run(operator, workdir=tmp_path)
      products += operator.count
    except RuntimeError:
      products += operator.count - 1
  assert products == 3 * STEPS
  assert_same(result, run(matrix))


def test_wall_times_of_an_interrupted_draw_add_up(counting, tmp_path):
  with pytest.raises(RuntimeError):
    run(counting(4), workdir=tmp_path, draws=1)
  with np.load(tmp_path / "step_000.npz") as step:
    before = float(step["wall_time"])
  assert run(counting(), workdir=tmp_path, draws=1).wall_times[0] > before > 0


def test_interrupted_run_of_a_model_gives_the_same(hessian, new_operator, tmp_path, monkeypatch):
  operator, products = new_operator(), []
  original = HessianOperator._matvec

  def matvec(self, x):
    products.append(x)
    if len(products) == 10:
      raise KeyboardInterrupt
    return original(self, x)

  monkeypatch.setattr(HessianOperator, "_matvec", matvec)
  with pytest.raises(KeyboardInterrupt):
    run(operator, workdir=tmp_path, check=False, storage=Storage(vectors_per_pass=1))
  result = run(new_operator(), workdir=tmp_path, check=False, storage=Storage(vectors_per_pass=1))
  # One of the steps twice, and for each start one that tells the matrix from others.
  assert len(products) == 3 * STEPS + 1 + 2
  assert_same(result, run(hessian, storage=Storage(vectors_per_pass=1)))


def test_finished_run_started_again_computes_nothing(counting, tmp_path):
  first = run(counting(), workdir=tmp_path)
  operator = counting()
  second = run(operator, workdir=tmp_path)
  assert operator.count == 0
  assert_same(first, second)
  np.testing.assert_array_equal(first.wall_times, second.wall_times)


@pytest.mark.slow
def test_finished_run_of_a_model_started_again_computes_only_what_tells_the_matrix(
  new_operator, tmp_path, monkeypatch
):
  first = run(new_operator(), workdir=tmp_path)
  products, original = [], HessianOperator._matvec

  def matvec(self, x):
    products.append(x)
    return original(self, x)

  monkeypatch.setattr(HessianOperator, "_matvec", matvec)
  assert_same(run(new_operator(), workdir=tmp_path), first)
  assert len(products) == 1


def test_finished_run_started_again_says_so(counting, tmp_path, caplog):
  caplog.set_level("INFO")
  run(counting(), workdir=tmp_path)
  caplog.clear()
  run(counting(), workdir=tmp_path)
  assert "already" in caplog.text or "finished" in caplog.text


def test_more_draws_reuse_the_finished_ones(matrix, counting, tmp_path):
  run(counting(), workdir=tmp_path, draws=2)
  operator = counting()
  result = run(operator, workdir=tmp_path, draws=4)
  assert operator.count == 2 * STEPS
  assert_same(result, run(matrix, draws=4))


def test_fewer_draws_are_the_first_of_the_finished_ones(matrix, counting, tmp_path, caplog):
  run(counting(), workdir=tmp_path, draws=3)
  operator = counting()
  assert "num_draws=3" not in caplog.text
  assert_same(run(operator, workdir=tmp_path, draws=1), run(matrix, draws=1))
  assert operator.count == 0
  assert "is of 1 of the 3 draws" in caplog.text and "num_draws=3 gives them again" in caplog.text


@pytest.mark.parametrize("name", ["draw_001.npz", "draw_000.npz"])
def test_lost_draw_is_computed_again(matrix, counting, tmp_path, name):
  run(counting(), workdir=tmp_path)
  (tmp_path / name).unlink()
  operator = counting()
  assert_same(run(operator, workdir=tmp_path), run(matrix))
  assert operator.count == STEPS


def test_result_is_written(counting, tmp_path):
  result = run(counting(), workdir=tmp_path)
  assert_same(Spectrum.load(tmp_path / "spectrum.npz"), result)
  assert json.loads((tmp_path / "spectrum.json").read_text()) == json.loads(
    json.dumps(result.summary())
  )


def test_finished_run_keeps_no_basis(counting, tmp_path):
  run(counting(), workdir=tmp_path)
  expected = {"run.json", "lock", "spectrum.npz", "spectrum.json"}
  assert {p.name for p in tmp_path.iterdir()} == expected | {f"draw_00{i}.npz" for i in range(3)}


# The model changes while it is measured.


def train_during_product(operator, monkeypatch, product):
  """Lets the model's weights change during product number `product`; returns an undo."""
  original, count = operator._matvec, []
  weights = operator.model.get_weights()

  def matvec(x):
    count.append(x)
    if len(count) == product:
      operator.model.set_weights([1.5 * w for w in weights])
    return original(x)

  monkeypatch.setattr(operator, "_matvec", matvec)
  return lambda: operator.model.set_weights(weights)


def test_model_that_changes_during_a_run_is_an_error(new_operator, monkeypatch):
  operator = new_operator()
  train_during_product(operator, monkeypatch, STEPS + 2)
  with pytest.raises(ValueError, match="variables changed during the run"):
    run(operator, check=False, storage=Storage(vectors_per_pass=1))


def test_draw_of_a_model_that_changed_is_not_kept(new_operator, tmp_path, monkeypatch):
  operator = new_operator()
  train_during_product(operator, monkeypatch, STEPS + 2)
  with pytest.raises(ValueError, match="variables changed"):
    run(operator, check=False, workdir=tmp_path, storage=Storage(vectors_per_pass=1))
  assert (tmp_path / "draw_000.npz").exists()
  assert not (tmp_path / "draw_001.npz").exists()


@pytest.mark.parametrize(
  "product",
  [STEPS + 2, *(pytest.param(p, marks=pytest.mark.slow) for p in (2, STEPS, STEPS + 5))],
)
def test_run_goes_on_rightly_once_the_model_is_restored(
  hessian, new_operator, tmp_path, monkeypatch, product
):
  operator = new_operator()
  restore = train_during_product(operator, monkeypatch, product)
  with pytest.raises(ValueError, match="variables changed"):
    run(operator, check=False, workdir=tmp_path, storage=Storage(vectors_per_pass=1))
  restore()
  options = {"check": False, "storage": Storage(vectors_per_pass=1)}
  assert_same(run(new_operator(), workdir=tmp_path, **options), run(hessian, **options))


# Beyond the precision of the products.


def test_an_outlier_far_above_a_bulk_does_not_end_a_float32_run():
  eigenvalues = np.append(np.linspace(0, 0.01, 199), 1000.0).astype(np.float32)
  operator = HessianOperator(
    [tf.Variable(np.ones(200, np.float32))],
    lambda p, batch: batch * tf.reduce_sum(eigenvalues * p[0] ** 2) / 2,
    [np.ones(1, np.float32)],
  )
  result = run(operator, draws=1, steps=20, check=False)
  assert result.statuses == ("COMPLETE",)
  assert len(result.nodes[0]) == 20


def test_numpy_integers_are_integers(matrix, tmp_path):
  result = run(matrix, seed=np.int64(3), steps=np.int64(4), workdir=tmp_path)
  assert_same(Spectrum.load(tmp_path / "spectrum.npz"), result)
  assert_same(run(matrix, seed=3, steps=4), result)


def test_config_that_json_cannot_hold_is_refused_before_the_first_product(counting):
  operator = counting()
  with pytest.raises(TypeError, match="config: expected plain values"):
    run(operator, config={"rate": np.float32(1)})
  assert operator.count == 0


# Start vectors of one's own.


def test_weights_are_the_shares_of_the_start_vector_in_the_eigenvectors(matrix):
  start = np.random.default_rng(5).standard_normal(len(matrix))
  result = run(matrix, draws=1, steps=len(matrix), start=start)
  values, vectors = np.linalg.eigh(matrix)
  shares = (vectors.T @ start) ** 2 / (start @ start)
  # All eigenvalues are nodes after n steps; vectors are right to eps |H| over the smallest gap.
  tolerance = 100 * EPS * np.abs(values).max() / np.diff(values).min()
  np.testing.assert_allclose(result.weights[0], shares, rtol=0, atol=tolerance)
  assert result.seed is None and result.start not in (None, "gradient")


def test_run_from_the_gradient_is_the_run_from_that_vector(hessian):
  from_name = run(hessian, draws=1, start="gradient")
  assert_same(from_name, run(hessian, draws=1, start=hessian.gradient()))
  assert from_name.start == "gradient"


def test_interrupted_run_from_the_gradient_goes_on(hessian, tmp_path, monkeypatch):
  whole = run(hessian, draws=1, start="gradient")
  calls = []

  def failing(v):
    calls.append(v)
    if len(calls) == 5:  # the first tells the matrix from others
      raise KeyboardInterrupt
    return HessianOperator._matvec(hessian, v)

  monkeypatch.setattr(hessian, "_matvec", failing)
  with pytest.raises(KeyboardInterrupt):
    run(hessian, draws=1, start="gradient", check=False, workdir=tmp_path)
  monkeypatch.undo()
  assert_same(run(hessian, draws=1, start="gradient", workdir=tmp_path), whole)


def test_folder_of_random_draws_is_refused_to_a_run_from_the_gradient(hessian, tmp_path):
  run(hessian, draws=1, workdir=tmp_path)
  with pytest.raises(ValueError, match="start"):
    run(hessian, draws=1, start="gradient", workdir=tmp_path)


@pytest.mark.parametrize(
  "options, message",
  [
    ({"start": "gradient", "draws": 2}, "num_draws: expected 1"),
    ({"start": "gradent", "draws": 1}, "start: expected one of .*gradient"),
    ({"start": "gradient", "draws": 1}, "start: .gradient. is for a HessianOperator"),
    ({"start": np.ones(3), "draws": 1}, r"start: expected shape \(24,\)"),
    ({"start": np.zeros(24), "draws": 1}, "start: expected a vector of finite numbers"),
    ({"start": np.full(24, np.nan), "draws": 1}, "start: expected a vector of finite numbers"),
  ],
)
def test_bad_start_is_refused(matrix, options, message):
  with pytest.raises(ValueError, match=message):
    run(matrix, **options)


def test_gradient_that_is_zero_gives_no_start():
  w = tf.Variable(np.zeros(3), name="w")
  operator = HessianOperator(
    [w], lambda p, batch: tf.reduce_sum(p[0] ** 2 * batch[0]), [(np.ones((2, 3)),)]
  )
  with pytest.raises(ValueError, match="gradient is exactly zero"):
    run(operator, draws=1, steps=2, start="gradient")


# Until the density is good enough.

TARGET = {"target_error": 0.08, "sigma_squared": 0.01}


@pytest.fixture(scope="module")
def uniform():
  """A symmetric matrix (100, 100) with eigenvalues from -1 to 1."""
  q = np.linalg.qr(np.random.default_rng(0).standard_normal((100, 100)))[0]
  h = (q * np.linspace(-1, 1, 100)) @ q.T
  return (h + h.T) / 2


@pytest.fixture(scope="module")
def enough(uniform):
  """A run of fewer draws than allowed, each of 20 or 30 steps."""
  return run(uniform, draws=30, steps=60, **TARGET)


def rest(result, draw, steps):
  """Returns the L1 distance of a draw's densities at its last step and `steps` steps before."""
  d, e = result.diagonals[draw], result.off_diagonals[draw]
  m = len(d) - steps
  rules = [quadrature.gauss_quadrature(d, e), quadrature.gauss_quadrature(d[:m], e[: m - 1])]
  found = density.density([q.nodes for q in rules], [q.weights for q in rules], 0.01)
  return density.l1_distance(found.grid, *found.draws)


def test_target_ends_the_draws(enough):
  assert 4 < enough.num_draws < 30
  first = dataclasses.replace(
    enough, diagonals=enough.diagonals[:4], off_diagonals=enough.off_diagonals[:4]
  )
  grid, _, stderr = first.density(0.01)
  assert np.trapezoid(stderr, grid) > 0.08


def test_target_ends_the_steps_of_each_draw(enough):
  assert enough.statuses == ("CONVERGED",) * enough.num_draws
  assert {len(d) for d in enough.diagonals} == {20, 30}
  for draw in range(enough.num_draws):
    assert rest(enough, draw, 10) < 0.08


def test_draws_that_a_target_ends_are_the_first_steps_of_whole_ones(enough, uniform):
  whole = run(uniform, draws=enough.num_draws, steps=60)
  for name in ("diagonals", "off_diagonals"):
    for a, b in zip(getattr(enough, name), getattr(whole, name), strict=True):
      np.testing.assert_array_equal(a, b[: len(a)])


def test_reached_error_is_the_integral_of_the_standard_error(enough):
  target = enough.config["target"]
  found = enough.density(0.01)
  assert target["stderr"] == pytest.approx(np.trapezoid(found.stderr, found.grid), rel=1e-12)
  assert target["reached"] and target["stderr"] <= target["error"] == 0.08


def test_reached_error_has_that_of_the_steps_too(enough):
  expected = np.mean([rest(enough, draw, 10) for draw in range(enough.num_draws)])
  assert enough.config["target"]["change"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("steps, change", [(8, None), (12, 0.5)])
def test_target_is_not_reached_by_draws_of_too_few_steps(uniform, caplog, steps, change):
  result = run(uniform, draws=100, steps=steps, target_error=0.2, sigma_squared=0.001)
  target = result.config["target"]
  assert target["stderr"] <= 0.2 and not target["reached"]
  assert target["change"] is None if change is None else target["change"] > change
  (record,) = (r for r in caplog.records if "target_error" in r.getMessage())
  assert record.levelname == "WARNING" and "NOT reached: allow more steps" in record.getMessage()


def test_steps_that_span_the_space_are_enough(uniform):
  small = uniform[:8, :8]
  target = run(small, draws=10, steps=20, target_error=1.0, sigma_squared=0.1).config["target"]
  assert target["change"] == 0.0 and target["reached"]


def test_run_whose_matrix_was_refused_leaves_its_folder_to_another(uniform, tmp_path):
  wrong = uniform.copy()
  wrong[0, 1] += 1
  with pytest.raises(ValueError, match="expected a symmetric matrix"):
    run(wrong, draws=1, steps=5, workdir=tmp_path, check=True)
  run(uniform, draws=1, steps=5, workdir=tmp_path, check=True)
  with pytest.raises(ValueError, match="it holds a run of something else"):
    run(wrong, draws=1, steps=5, workdir=tmp_path, check=True)
  assert Spectrum.load(tmp_path / "spectrum.npz").num_draws == 1


def test_numbers_of_another_type_are_the_same_run(uniform, counting_of, tmp_path):
  options = {"draws": 4, "steps": 20, "workdir": tmp_path}
  first = run(counting_of(uniform), target_error=1.0, sigma_squared=1.0, **options)
  operator = counting_of(uniform)
  again = run(operator, target_error=1, sigma_squared=1, **options)
  np.testing.assert_array_equal(again.diagonals, first.diagonals)
  assert operator.count <= 1  # that which tells the matrix


def test_relative_variance_of_a_target_is_that_of_the_density(uniform):
  result = run(3 * uniform, draws=30, steps=60, **TARGET, relative=True)
  found, target = result.density(0.01, relative=True), result.config["target"]
  assert target["stderr"] == pytest.approx(np.trapezoid(found.stderr, found.grid), rel=1e-12)
  assert target["reached"] and target["relative"]


def test_target_records_the_products_that_it_saved(enough, tmp_path):
  products = sum(map(len, enough.diagonals))
  target = enough.config["target"]
  assert (target["products"], target["saved"]) == (products, 900 - products)
  enough.save(tmp_path / "spectrum.npz")
  assert Spectrum.load(tmp_path / "spectrum.npz").config["target"] == target


def test_target_makes_only_the_products_it_records(uniform, enough, counting_of):
  operator = counting_of(uniform)
  assert_same(run(operator, draws=30, steps=60, **TARGET), enough)
  assert operator.count == enough.config["target"]["products"]


def test_reached_target_is_logged_with_what_it_saved(uniform, enough, caplog):
  caplog.set_level("INFO")
  run(uniform, draws=30, steps=60, **TARGET)
  (record,) = (r for r in caplog.records if "target_error" in r.getMessage())
  assert record.levelname == "INFO"
  assert "target_error 0.08 reached: L1" in record.getMessage()
  saved = enough.config["target"]["saved"]
  share = f"{saved} ({saved / 9:.0f} %) fewer than 10 draws of 90 steps"
  assert share in record.getMessage()


@pytest.mark.parametrize("draws", [2, 4, 6])
def test_target_out_of_reach_is_a_warning(uniform, caplog, draws):
  result = run(uniform, draws=draws, steps=20, target_error=1e-3, sigma_squared=0.01)
  assert result.num_draws == draws
  target = result.config["target"]
  assert target["reached"] is False and target["stderr"] > 1e-3
  (record,) = (r for r in caplog.records if "target_error" in r.getMessage())
  assert (
    record.levelname == "WARNING"
    and "NOT reached: allow more draws and steps" in record.getMessage()
  )


def test_steps_that_are_not_enough_end_at_their_number(uniform):
  result = run(uniform, draws=4, steps=20, target_error=1e-3, sigma_squared=0.01)
  assert result.statuses == ("COMPLETE",) * 4
  assert [len(d) for d in result.diagonals] == [20] * 4


def test_target_of_a_model_shares_passes_of_the_first_draws(hessian):
  result = run(hessian, draws=20, steps=20, target_error=1.9, sigma_squared=0.01)
  assert result.num_draws == result.config["draws_per_pass"] == 4


@pytest.mark.parametrize("vectors_per_pass", [1, 3])
@pytest.mark.parametrize(
  "fail_at", [1, 81, *(pytest.param(n, marks=pytest.mark.slow) for n in (20, 61, 262))]
)
def test_interrupted_run_with_a_target_goes_on_bitwise(
  uniform, enough, counting_of, tmp_path, fail_at, vectors_per_pass
):
  options = {
    "draws": 30,
    "steps": 60,
    "workdir": tmp_path,
    "storage": Storage(vectors_per_pass=vectors_per_pass),
  }
  with pytest.raises(RuntimeError, match="on purpose"):
    run(counting_of(uniform, fail_at), **options, **TARGET)
  result = run(counting_of(uniform), **options, **TARGET)
  assert_same(result, enough)  # `counting_of` makes products one by one
  assert result.config["target"] == enough.config["target"]


@pytest.mark.parametrize(
  "draws", [2, 6, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 13))]
)
def test_target_goes_on_with_more_draws_allowed_as_if_never_stopped(
  uniform, enough, tmp_path, draws
):
  options = {"steps": 60, "workdir": tmp_path, **TARGET}
  assert run(uniform, draws=draws, **options).num_draws == draws
  assert_same(run(uniform, draws=30, **options), enough)


def test_finished_run_with_a_target_computes_nothing(uniform, enough, counting_of, tmp_path):
  options = {"draws": 30, "steps": 60, "workdir": tmp_path, **TARGET}
  run(counting_of(uniform), **options)
  operator = counting_of(uniform)
  result = run(operator, **options)
  assert operator.count == 0
  assert_same(result, enough)
  assert result.config["target"] == enough.config["target"]


@pytest.mark.parametrize(
  "change", [{"target_error": 0.1}, {"sigma_squared": 0.02}, {"relative": True}, None]
)
def test_run_with_another_target_is_refused(uniform, tmp_path, change):
  options = {"draws": 4, "steps": 20, "workdir": tmp_path}
  run(uniform, **options, **TARGET)
  with pytest.raises(ValueError, match="target: .* there, .* now"):
    run(uniform, **options, **({} if change is None else TARGET | change))


@pytest.mark.parametrize(
  "options, message",
  [
    ({"target_error": 0.0}, "target_error: expected a finite number above 0, got 0.0"),
    ({"target_error": 0.1, "sigma_squared": -1}, "sigma_squared: expected a finite number above 0"),
    ({"target_error": 0.1, "draws": 1}, "num_draws: expected at least 2 with target_error, got 1"),
  ],
)
def test_bad_target_is_refused_before_any_product(counting, options, message):
  operator = counting()
  with pytest.raises(ValueError, match=message):
    run(operator, **options)
  assert operator.count == 0


def test_bad_target_is_refused_before_the_operator_is_looked_at():
  with pytest.raises(ValueError, match="target_error"):
    spectral_density(None, target_error=-1.0)


@pytest.mark.parametrize("num_draws", [10**9, 10**20])
def test_draws_whose_results_have_no_room_are_refused_before_a_product(counting, num_draws):
  operator = counting()
  with pytest.raises(ValueError, match="num_draws: expected at most .* draws of 6 steps"):
    spectral_density(operator, num_draws=num_draws, lanczos_steps=6, progress=False)
  assert operator.count == 0


# Without a basis.


@pytest.fixture(scope="module")
def outliers():
  values = 0.05 * np.random.default_rng(0).standard_normal(400)
  values[:4] = 50.0, 30.0, 8.0, -3.0
  return np.diag(values)


def test_result_without_a_basis_says_so_and_counts_eigenvalues_once(outliers):
  kept, none = (run(outliers, steps=60, storage=Storage(place)) for place in ("auto", "none"))
  assert np.sum(none.nodes[0] > 1) > 3 and none.config["basis"] == "none"
  np.testing.assert_allclose(none.largest(3), kept.largest(3), rtol=1e-13)
  np.testing.assert_allclose(none.smallest(1), kept.smallest(1), rtol=1e-13)
  np.testing.assert_allclose(none.moments(2), kept.moments(2), rtol=1e-11)
  assert set(none.statuses) == {"WITHOUT_BASIS"} and "without a basis" in repr(none)
  assert none.summary()["basis"] == "none"
  loaded = Spectrum.from_bytes(none.to_bytes())
  assert loaded.largest(3).tobytes() == none.largest(3).tobytes()
  with pytest.raises(ValueError, match=r'deflation: needs the Lanczos .*\(Storage\("none"\)'):
    none.deflated()


def test_energies_of_a_start_vector_count_copies_together(outliers):
  start = np.ones(400)
  kept, none = (
    run(outliers, draws=1, steps=60, start=start, storage=Storage(place))
    for place in ("auto", "none")
  )
  for count in (1, 3):
    energy = [s.summary()["energy_in_largest"][count] for s in (kept, none)]
    assert energy[1] == pytest.approx(energy[0], rel=1e-10) == pytest.approx(count / 400, rel=1e-10)


def test_run_without_room_for_vectors_keeps_none_and_warns(outliers, monkeypatch, caplog):
  monkeypatch.setattr("tf_hessian.slq.storage.free_disk", lambda _: 0)
  result = run(outliers, steps=60, storage=Storage(memory=8 * 400 * 20))
  assert result.config["basis"] == "none"
  assert "there is no room for the Lanczos vectors, so none are kept" in caplog.text
  assert "memory would need" in caplog.text


def test_run_without_a_basis_goes_on_without_a_warning(outliers, tmp_path, caplog):
  run(outliers, draws=2, storage=Storage("none"), workdir=tmp_path)
  result = run(outliers, draws=3, workdir=tmp_path)
  assert result.config["basis"] == "none"
  assert "there is no room" not in caplog.text
