"""A plan counts what the run does, refuses what can't fit, and changes nothing."""

import collections
import itertools
import json
import tempfile
import types

import numpy as np
import pytest
import tensorflow as tf

import tf_hessian
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.curvature.passes import DataPass
from tf_hessian.experiments.computation import Computation
from tf_hessian.experiments.measure import measure
from tf_hessian.experiments.train import train
from tf_hessian.experiments.weights import Weights
from tf_hessian.planning import pilot
from tf_hessian.planning.planner import Planner, plan
from tf_hessian.slq import storage
from tf_hessian.slq.density import spectral_density
from tf_hessian.slq.storage import Storage

STEPS = 4


def make(operator, **options):
  options = {"num_draws": 3, "lanczos_steps": STEPS, "pilot_seconds": 0} | options
  return plan(operator, **options)


@pytest.fixture(scope="module", autouse=True)
def idle_machine():
  """Lets the pilot see a clock that goes on by a microsecond each time, however busy it is here."""
  with pytest.MonkeyPatch.context() as patch:
    clock = types.SimpleNamespace(monotonic=itertools.count(0.0, 1e-6).__next__)
    patch.setattr(pilot, "time", clock)
    yield


@pytest.fixture(scope="module")
def planned(new_operator):
  """The plan of three draws on three workers."""
  return make(
    new_operator(strategy=tf_hessian.Sharing(num_shards=2)), workers=3, pilot_seconds=30.0
  )


@pytest.fixture(scope="module")
def plain(new_operator):
  """The plan of three draws on one machine."""
  return make(new_operator())


# What it counts.


@pytest.mark.parametrize(
  "operator_options, options",
  [
    pytest.param({}, {}, marks=pytest.mark.slow),  # a folder takes one product more
    pytest.param(
      {}, {"storage": Storage(vectors_per_pass=2), "check": False}, marks=pytest.mark.slow
    ),
    ({}, {"num_draws": 1, "start": "gradient"}),
    pytest.param(
      {"deterministic": False}, {"storage": Storage(vectors_per_pass=1)}, marks=pytest.mark.slow
    ),
    pytest.param(
      {"recompute_blocks": 2}, {"storage": Storage(vectors_per_pass=2)}, marks=pytest.mark.slow
    ),
    pytest.param({"recompute_blocks": 2}, {}, marks=pytest.mark.slow),
    pytest.param(
      {"recompute_blocks": 2}, {"check": False, "workdir": "run"}, marks=pytest.mark.slow
    ),
    pytest.param({"recompute_blocks": 2}, {"lanczos_steps": 3}, marks=pytest.mark.slow),
    ({}, {"workdir": "run"}),
  ],
)
def test_passes_are_those_that_the_run_makes(
  new_operator, monkeypatch, tmp_path, operator_options, options
):
  monkeypatch.chdir(tmp_path)
  built, made = set(), collections.Counter()
  init, call = DataPass.__init__, DataPass.__call__

  def noting(self, name, *arguments, **keywords):
    built.add(name.split()[0])
    init(self, name, *arguments, **keywords)

  monkeypatch.setattr(DataPass, "__init__", noting)
  plan = make(new_operator(**operator_options), **options)
  built_for_plan = set(built)
  built.clear()

  def counting(self, *arguments):
    made[self.name.split()[0]] += 1
    return call(self, *arguments)

  monkeypatch.setattr(DataPass, "__call__", counting)
  run = {"num_draws": 3, "lanczos_steps": STEPS, "progress": False} | options
  operator = new_operator(**operator_options)
  result = spectral_density(operator, **run)
  steps = run["lanczos_steps"]
  kinds = {"loss": "loss", "gradient": "gradient", "one vector": "product"}
  expected = collections.Counter()
  # Where draws share a pass that takes any number of vectors, single products are made by it too.
  shared = not operator.vectorized and any("together" in p.what for p in plan.passes)
  for p in plan.passes:
    by_shared = shared and p.what == "one vector"
    expected["columns" if by_shared else kinds.get(p.what, "columns")] += p.count
  assert expected == made
  assert plan.num_passes == made.total()
  assert built <= built_for_plan
  assert not shared or "product" not in built_for_plan
  before = sum(p.count * p.vectors for p in plan.passes if not p.for_draws)
  assert plan.num_products == result.num_draws * steps + before


@pytest.mark.parametrize("in_folder", [pytest.param(False, marks=pytest.mark.slow), True])
def test_products_are_those_of_the_draws_the_check_and_the_identity_of_a_folder(
  plain, new_operator, tmp_path, in_folder
):
  plan = make(new_operator(), workdir=tmp_path / "run") if in_folder else plain
  vectorized = 2  # which are compared with single ones
  assert plan.num_products == 3 * STEPS + 3 + vectorized + in_folder


@pytest.mark.parametrize("alone, shared", [(1.0, 3), (9.0, 9)])
def test_shared_passes_are_those_that_the_comparison_leaves(
  new_operator, monkeypatch, alone, shared
):
  """A pass of three vectors takes 6 seconds; after three of them, one is made alone."""
  seconds = {"one": alone, "together": 6.0, "loss": 1.0}
  monkeypatch.setattr(Planner, "_seconds", lambda _, name, *__: seconds[name])
  operator = new_operator()
  operator.vectorized = False
  plan = make(operator, lanczos_steps=10)
  counts = {p.what: p.count for p in plan.passes if p.for_draws}
  assert counts == {"3 vectors together": shared, "one vector": 3 * (10 - shared)}


def test_total_time_is_the_sum_of_its_parts(planned):
  passes = sum(p.count * p.seconds for p in planned.passes)
  parts = planned.startup_seconds, passes, planned.lanczos_seconds
  assert all(part > 0 for part in parts)
  assert planned.total_seconds == pytest.approx(sum(parts), rel=1e-12)


def test_vectors_that_are_spread_take_each_worker_its_share(new_operator):
  plan = make(new_operator(), workers=2, storage=Storage("workers"))
  assert (plan.basis, plan.basis_bytes) == ("workers", 3 * STEPS * 13 * 8)
  assert "workers: 3 of" in str(plan) and "memory of each of 2 workers" in str(plan)


def test_more_steps_than_parameters_are_lowered(new_operator):
  assert make(new_operator(), lanczos_steps=1000).lanczos_steps == 26


def test_network_bytes_are_those_of_each_design(planned):
  n, width = planned.num_parameters, planned.vectors_per_pass
  vectors = 8 * width * n
  (each,) = (p for p in planned.passes if p.for_draws)
  assert each.network_bytes["equal workers"] == pytest.approx(4 * (2 / 3) * 2 * vectors)
  assert each.network_bytes["coordinator"] == pytest.approx((4 * n + 2 * vectors) * 2 / 3)
  for design, total in planned.network_bytes.items():
    counted = sum(p.count * p.network_bytes[design] for p in planned.passes)
    assert total == pytest.approx(counted)


def test_one_machine_has_no_network(plain):
  assert plain.network_bytes == {}


def test_peak_of_memory_has_the_bases_in_it(plain):
  """As many bytes as rows are added, and the rest is measured: here, that of this process."""
  assert (plain.basis, plain.basis_bytes) == ("memory", 3 * STEPS * 26 * 8)
  assert plain.basis_bytes < plain.host_bytes < plain.available_bytes
  assert plain.device_bytes is None


def test_plan_is_plain_values(planned):
  found = json.loads(json.dumps(planned.to_dict(), allow_nan=False))
  assert found["total_seconds"] == planned.total_seconds
  assert found["passes"][0]["what"] == "loss"


@pytest.mark.parametrize(
  "word",
  ["26", "12 examples in 3 batches", "3 of 4 steps", "s a pass", "start-up", "total time"]
  + ["peak memory", "basis", "equal workers", "coordinator", "error of the draws"],
)
def test_table_has_the_figures(planned, word):
  assert word in str(planned)


# The error.


def test_error_of_few_steps_is_not_told(planned):
  assert planned.error.steps is None
  assert "of which more than 10 would tell" in planned.error.reason
  assert planned.error.draws > 0


@pytest.mark.slow
def test_draws_are_those_that_the_target_suggests(new_operator):
  plans = {
    most: make(
      new_operator(),
      num_draws=most,
      target_error=0.1,
      sigma_squared=0.01,
      pilot_seconds=30.0,
    )
    for most in (5, 1000)
  }
  wanted = plans[5].error.draws_for_target
  assert 5 < wanted == plans[1000].error.draws_for_target < 1000
  assert (plans[5].num_draws, plans[1000].num_draws) == (5, wanted)
  assert plans[1000].error.stderr <= 0.1 < plans[5].error.stderr
  assert f"suggests {wanted} draws" in str(plans[5])


@pytest.mark.slow
def test_target_that_the_steps_are_too_few_for_is_planned_with_all_draws(new_operator):
  options = {"sigma_squared": 1e-3, "pilot_seconds": 30.0, "lanczos_steps": 12}
  plan = make(new_operator(), num_draws=7, target_error=1e-6, **options)
  assert (plan.num_draws, plan.error.draws_for_target) == (7, None)
  assert "needs more than 12 steps; planned are all 7 draws" in str(plan)


@pytest.mark.slow
def test_run_without_a_basis_is_planned_with_its_last_vectors(new_operator):
  plan = make(new_operator(), storage=Storage("none"))
  assert (plan.basis, plan.basis_bytes) == ("none", 3 * 3 * 26 * 8)
  assert plan.lanczos_seconds > 0 and "none" in str(plan)


# What it refuses.


def test_budget_that_holds_no_vector_is_refused_with_the_arguments_to_change(new_operator):
  with pytest.raises(ValueError, match="no room .*arguments storage, lanczos_steps and workdir"):
    make(new_operator(), storage=Storage(memory=1000))


def test_run_that_exceeds_the_memory_is_refused_with_what_to_change(new_operator, monkeypatch):
  monkeypatch.setattr(storage, "available_memory", lambda: -(2**50))
  with pytest.raises(ValueError, match="the run does not fit") as error:
    make(new_operator(), storage=Storage(memory=10**9))
  for remedy in ("hessian.batch_size", "recompute_blocks", "vectors_per_pass", "float32", "disk"):
    assert remedy in str(error.value)


def test_folder_without_room_for_the_files_is_refused(new_operator, monkeypatch, tmp_path):
  monkeypatch.setattr(storage, "free_disk", lambda _: 100)
  with pytest.raises(ValueError, match="no room for .* take fewer steps"):
    make(new_operator(), workdir=tmp_path, storage=Storage("memory"))


def test_pass_that_exhausts_an_accelerator_is_refused_with_what_to_change(
  new_operator, monkeypatch
):
  def exhausted(_):
    raise ValueError("batch 0") from tf.errors.ResourceExhaustedError(None, None, "OOM")

  monkeypatch.setattr(HessianOperator, "gradient", exhausted)
  with pytest.raises(ValueError, match="does not fit .* smaller batches .*recompute_blocks"):
    make(new_operator(), num_draws=1, start="gradient")


def test_cluster_is_refused_with_the_remedy(new_operator, monkeypatch):
  operator = new_operator()
  monkeypatch.setattr(operator.engine, "is_cluster", True)
  with pytest.raises(ValueError, match="not by a cluster: make the operator without .* as workers"):
    make(operator)


def test_other_operator_is_refused_by_name():
  with pytest.raises(TypeError, match="operator: expected a HessianOperator, got ndarray"):
    plan(np.eye(3))


@pytest.mark.parametrize(
  "options",
  [{"workers": 0}, {"num_draws": 0}, {"pilot_seconds": -1}, {"target_error": 0}]
  + [{"start": "hessian"}, {"sigma_squared": 0}],
)
def test_bad_argument_is_named(hessian, options):
  with pytest.raises(ValueError, match=f"^{next(iter(options))}: expected"):
    make(hessian, **options)


# What it leaves alone.


def test_nothing_is_written_and_the_model_stays(new_operator, monkeypatch, tmp_path):
  (tmp_path / "temporary").mkdir()
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
  operator = new_operator()
  before = [v.numpy() for v in operator.model.variables]
  make(operator, workdir=tmp_path / "run", storage=Storage("disk"), pilot_seconds=1.0)
  for variable, value in zip(operator.model.variables, before, strict=True):
    np.testing.assert_array_equal(variable.numpy(), value)
  assert [p.name for p in tmp_path.rglob("*")] == ["temporary"]


# The command.


def test_command_prints_the_table_and_writes_nothing(config, tmp_path):
  text = measure(config, tmp_path / "run", Weights(initial=True), plan_workers=2)
  assert text.startswith("parameters            6\n")
  assert "by 2 equal machines" in text
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_command_plans_a_step_of_training(config, tmp_path):
  config.train.checkpoint_steps = (1, 2)
  train(config, tmp_path)
  there = sorted(tmp_path.rglob("*"))
  assert "step_00000002_gradient" in measure(
    config, tmp_path, Weights(step=2), gradient=True, plan_workers=1
  )
  assert sorted(tmp_path.rglob("*")) == there


@pytest.mark.parametrize(
  "options, remedy",
  [
    ({"weights": Weights(all_steps=True)}, "give step instead"),
    (
      {"computation": Computation("multi_worker")},
      "leave strategy 'multi_worker' out, and give .* plan_workers",
    ),
    ({"computation": Computation("parameter_server")}, "leave strategy 'parameter_server' out"),
  ],
)
def test_command_refuses_what_is_no_single_run_of_this_process(config, tmp_path, options, remedy):
  with pytest.raises(ValueError, match=f"^plan: .*{remedy}"):
    measure(config, tmp_path, plan_workers=1, **options)


@pytest.mark.parametrize("num_draws", [10**9, 10**20])
def test_draws_whose_results_have_no_room_are_refused(new_operator, num_draws):
  message = f"num_draws: expected at most .* draws of {STEPS} steps, .* got {num_draws}"
  with pytest.raises(ValueError, match=message):
    make(new_operator(), num_draws=num_draws)


@pytest.mark.slow
def test_machines_beyond_the_number_of_batches_have_nothing_to_do(planned, new_operator):
  assert planned.workers == 3  # of 3 batches
  assert make(new_operator(), workers=10**12).workers == 10**12


@pytest.mark.parametrize("place", [pytest.param("memory", marks=pytest.mark.slow), "none"])
def test_pilot_keeps_a_basis_if_the_run_does(new_operator, monkeypatch, place):
  kept, start = [], pilot._start
  monkeypatch.setattr(pilot, "_start", lambda v, m, keep: kept.append(keep) or start(v, m, keep))
  found = make(new_operator(), storage=Storage(place), pilot_seconds=30.0)
  assert set(kept) == {place == "memory"} and found.error.pilot_steps == STEPS


def test_folder_of_other_draws_is_refused(new_operator, tmp_path):
  operator = new_operator()
  spectral_density(operator, num_draws=1, lanczos_steps=3, workdir=tmp_path, progress=False)
  with pytest.raises(ValueError, match="it holds a run .*lanczos_steps: 3 there, 5 now"):
    plan(operator, num_draws=1, lanczos_steps=5, workdir=tmp_path)
