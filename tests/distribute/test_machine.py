"""Settings of the machine."""

import os
import sys

import pytest
import tensorflow as tf

from tf_hessian.distribute import machine
from tf_hessian.distribute.grappler import GRAPPLER

SECONDS = 900  # of what hangs


@pytest.fixture(autouse=True)
def restore():
  """Restores the settings of this process."""
  before = tf.config.optimizer.get_experimental_options()
  tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
  yield
  tf.config.optimizer.set_experimental_options(
    {n: before.get(n) for n in GRAPPLER if n not in ("disable_meta_optimizer",)}
    | {n: before.get(n, False) for n in ("disable_meta_optimizer", "disable_model_pruning")}
  )
  tf.config.experimental.enable_tensor_float_32_execution(tf32)


@pytest.mark.parametrize("name", sorted(set(GRAPPLER) - {"arithmetic_optimization"}))
@pytest.mark.parametrize("value", [True, False])
def test_each_rewrite_can_be_switched(name, value):
  machine.set_grappler({name: value})
  assert machine.settings()["grappler"][name] is value


def test_there_is_one_for_each_that_tensorflow_documents():
  documented = tf.config.optimizer.set_experimental_options.__doc__
  listed = {line.split(":")[0].strip()[2:] for line in documented.splitlines() if "    - " in line}
  # TensorFlow 2.21 documents auto_parallel, but does nothing with it; min_graph_nodes is a number.
  assert len(listed) > 10
  assert listed - {"auto_parallel", "min_graph_nodes"} <= set(GRAPPLER)


def test_what_is_not_given_is_left_alone():
  machine.set_grappler({"remapping": False})
  machine.set_grappler({})
  assert machine.settings()["grappler"]["remapping"] is False


def test_unknown_rewrite_is_an_error():
  with pytest.raises(ValueError, match="unknown option 'remaping'"):
    machine.set_grappler({"remaping": True})


def test_arithmetic_optimization_contradicts_determinism():
  with pytest.raises(ValueError, match="order varies"):
    machine.set_grappler({"arithmetic_optimization": True})
  machine.set_grappler({"arithmetic_optimization": True}, deterministic=False)
  assert machine.settings()["grappler"]["arithmetic_optimization"] is True


@pytest.mark.parametrize("value", [True, False])
def test_tf32_is_switched_and_recorded(value):
  machine.set_tf32(value)
  assert machine.settings()["tf32"] is value


def test_memory_growth_and_limit_exclude_each_other():
  with pytest.raises(ValueError, match="exclude each other"):
    machine.set_memory(True, 100)


def test_memory_settings_without_an_accelerator_are_said_to_do_nothing(caplog):
  if tf.config.list_physical_devices("GPU"):
    pytest.skip("there is one")
  machine.set_memory(None, 100)
  assert "there is no accelerator here" in caplog.text


@pytest.mark.parametrize(
  "chosen, variables, expected",
  [
    (2, {}, 3),
    (1, {}, 2),
    (0, {"TF_NUM_INTEROP_THREADS": "1"}, 2),
    (0, {}, len(os.sched_getaffinity(0)) + 1),
  ],
)
def test_servers_have_a_thread_for_the_request_beside_those_of_operations(
  monkeypatch, chosen, variables, expected
):
  monkeypatch.delenv("TF_NUM_INTEROP_THREADS", raising=False)
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setattr(
    tf.config.threading, "get_inter_op_parallelism_threads", lambda: chosen, raising=True
  )
  assert machine.session_config().inter_op_parallelism_threads == expected


def test_threads_are_set_recorded_and_passed_to_servers(forked):
  code = """
from tf_hessian.distribute import machine
machine.set_threads(3, 2)
print(machine.settings()["intra_op_threads"], machine.settings()["inter_op_threads"])
config = machine.session_config()
print(config.intra_op_parallelism_threads, config.inter_op_parallelism_threads)
"""
  process = forked([sys.executable, "-c", code])
  said, _ = process.communicate(timeout=SECONDS)
  assert process.returncode == 0
  assert said.split() == ["3", "2", "3", "3"]
