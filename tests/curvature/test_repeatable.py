"""What makes two passes bitwise equal."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.curvature import repeatable
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.curvature.repeatable import chain_sums, repeatable_execution, stateful_random_ops
from tf_hessian.curvature.second_order import graph_nodes

layers = keras.layers


def run(graph_def, concrete, *arguments):
  """Runs a `GraphDef` made from a concrete function."""

  @tf.function(autograph=False)
  def imported(*args):
    return tf.graph_util.import_graph_def(
      graph_def,
      input_map={t.name: a for t, a in zip(concrete.inputs, args, strict=True)},
      return_elements=[t.name for t in concrete.outputs],
    )

  return [t.numpy() for t in imported(*arguments)]


def sums_in(graph_def):
  return [n for n in graph_nodes(graph_def) if n.op == "AddN"]


# Powers of two far apart and small integers: exact in float32, in any order of addition.
def terms(x, count):
  return [x * float(2**i) for i in range(count)]


def plain(x, count):
  return tf.add_n(terms(x, count))


def twice(x, count):
  return tf.add_n([tf.add_n(terms(x, count)), *terms(x, count - 1)])


def in_library(x, count):
  @tf.function(autograph=False)
  def inner(y):
    return tf.add_n(terms(y, count))

  return inner(x) + inner(2 * x)


def returned_from_library(x, count):
  @tf.function(autograph=False)
  def inner(y):
    total = tf.add_n(terms(y, count))
    return total, tf.add_n([total, *terms(y, count - 1)])

  first, second = inner(x)
  return first + second


def in_loop(x, count):
  return tf.while_loop(
    lambda i, _: i < 3, lambda i, y: (i + 1, tf.add_n(terms(y, count))), [tf.constant(0), x]
  )[1]


@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("function", [plain, twice, in_library, returned_from_library, in_loop])
def test_chains_replace_all_sums_and_keep_the_value(function, count):
  concrete = tf.function(lambda x: function(x, count), autograph=False).get_concrete_function(
    tf.TensorSpec((3,))
  )
  graph_def = concrete.graph.as_graph_def()
  number = len(sums_in(graph_def))
  assert number > 0
  x = tf.constant([1.0, 2.0, 3.0])
  expected = run(graph_def, concrete, x)
  assert chain_sums(graph_def) == number
  assert not sums_in(graph_def)
  np.testing.assert_array_equal(run(graph_def, concrete, x), expected)


def test_chains_add_in_the_order_of_the_terms():
  concrete = tf.function(lambda a, b, c: tf.add_n([a, b, c])).get_concrete_function(
    *[tf.TensorSpec((), tf.float32)] * 3
  )
  graph_def = concrete.graph.as_graph_def()
  chain_sums(graph_def)
  # (2^25 + 1) - 2^25 loses the 1; any other order keeps it.
  values = [tf.constant(v) for v in (2.0**25, 1.0, -(2.0**25))]
  assert run(graph_def, concrete, *values) == [0.0]


def test_control_inputs_of_a_sum_are_kept():
  concrete = tf.function(lambda x: tf.add_n(terms(x, 3))).get_concrete_function(tf.TensorSpec(()))
  graph_def = concrete.graph.as_graph_def()
  graph_def.node.add(name="barrier", op="NoOp")
  node = sums_in(graph_def)[0]
  node.input.append("^barrier")
  chain_sums(graph_def)
  assert "^barrier" in node.input
  assert run(graph_def, concrete, tf.constant(1.0)) == [7.0]


def test_sums_of_variants_stay():
  graph_def = tf.compat.v1.GraphDef()
  for i in range(3):
    node = graph_def.node.add(name=f"list_{i}", op="Placeholder")
    node.attr["dtype"].type = tf.variant.as_datatype_enum
  node = graph_def.node.add(name="sum", op="AddN", input=[f"list_{i}" for i in range(3)])
  node.attr["T"].type = tf.variant.as_datatype_enum
  node.attr["N"].i = 3
  assert chain_sums(graph_def) == 0
  assert [n.name for n in sums_in(graph_def)] == ["sum"]


# Settings.


def settings():
  from tensorflow.python.framework import config

  option = tf.config.optimizer.get_experimental_options().get("arithmetic_optimization")
  return option, config.is_op_determinism_enabled()


def test_settings_are_on_inside_and_restored():
  before = settings()
  with repeatable_execution():
    assert settings() == (False, True)
  assert settings()[1] == before[1]
  assert settings()[0] in (before[0], None)


@pytest.mark.parametrize("option", [True, False])
def test_an_optimizer_option_that_was_set_is_restored(option):
  tf.config.optimizer.set_experimental_options({"arithmetic_optimization": option})
  try:
    with repeatable_execution():
      pass
    assert settings()[0] is option
  finally:
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": None})


def options():
  return tf.config.optimizer.get_experimental_options()


@pytest.mark.parametrize("gpu", [False, True])
def test_rewrites_of_no_use_are_off_inside_where_there_is_no_gpu(monkeypatch, gpu):
  monkeypatch.setattr(repeatable, "_has_gpu", lambda: gpu)
  before = options()
  with repeatable_execution():
    assert (options().get("shape_optimization") is False) == (not gpu)
    assert options().get("constant_folding") is None  # which changes bits, as does:
    assert options().get("remapping") is None
  assert options() == before


def graph_optimizers():
  """Returns whether the optimizers that have no option of their own are on."""
  options = tf.__internal__.eager_context.get_config().graph_options.rewrite_options
  return options.memory_optimization != options.NO_MEM_OPT, not options.disable_tfg_optimizer


@pytest.mark.parametrize("gpu", [False, True])
def test_optimizers_without_an_option_are_off_inside_where_there_is_no_gpu(monkeypatch, gpu):
  monkeypatch.setattr(repeatable, "_has_gpu", lambda: gpu)
  before = tf.__internal__.eager_context.get_config()
  with repeatable.repeatable_execution():
    assert graph_optimizers() == (gpu, gpu)
    with repeatable.repeatable_execution():
      assert graph_optimizers() == (gpu, gpu)
    assert graph_optimizers() == (gpu, gpu)
  assert tf.__internal__.eager_context.get_config() == before


def test_rewrite_that_was_set_stays():
  tf.config.optimizer.set_experimental_options({"shape_optimization": True})
  try:
    with repeatable_execution():
      assert options()["shape_optimization"] is True and options()["loop_optimization"] is False
    assert options()["shape_optimization"] is True
  finally:
    tf.config.optimizer.set_experimental_options({"shape_optimization": None})


def test_settings_are_restored_after_an_error():
  before = settings()
  with pytest.raises(KeyError), repeatable_execution():
    raise KeyError
  assert settings() == before


def test_settings_nest():
  with repeatable_execution():
    with repeatable_execution():
      pass
    assert settings() == (False, True)


def test_disabled_changes_nothing():
  before = settings()
  with repeatable_execution(False):
    assert settings() == before


def test_products_restore_the_settings():
  before = settings()
  operator = HessianOperator(
    [tf.ones(3)], lambda p, b: b * tf.reduce_sum(p[0] ** 2), [np.ones(2, np.float32)]
  )
  operator @ np.ones(3)
  assert settings() == before


# Random numbers.


class Noise(layers.Layer):
  """Draws from TensorFlow's own stateful generator."""

  def call(self, inputs):
    return inputs * (1 + 0.1 * tf.random.normal(tf.shape(inputs)))


def noisy_model():
  return keras.Sequential([keras.Input((3,)), Noise(name="noise"), layers.Dense(1)])


NOISE_DATA = [(np.ones((4, 3), np.float32), np.zeros((4, 1), np.float32))]


def test_a_stateful_random_op_is_refused_naming_layer_and_op():
  with pytest.raises(ValueError, match="layer 'noise' .*RandomStandardNormal.*keras.random"):
    operator = HessianOperator(noisy_model(), "mse", NOISE_DATA)
    operator @ np.ones(4)


def test_a_stateful_random_op_of_a_loss_function_is_refused():
  def loss(parameters, batch):
    return batch * parameters[0] ** 2 * tf.random.uniform(())

  with pytest.raises(ValueError, match="the model or its loss .*RandomUniform"):
    operator = HessianOperator([tf.ones(())], loss, [np.ones(2, np.float32)])
    operator @ np.ones(1)


def test_a_stateful_random_op_is_allowed_without_determinism():
  operator = HessianOperator(noisy_model(), "mse", NOISE_DATA, deterministic=False)
  assert not np.array_equal(operator @ np.ones(4), operator @ np.ones(4))


def test_stateless_random_ops_are_none_of_these():
  concrete = tf.function(lambda seed: tf.random.stateless_normal((3,), seed)).get_concrete_function(
    tf.TensorSpec((2,), tf.int32)
  )
  assert not list(stateful_random_ops(concrete.graph.as_graph_def(), ()))


# The whole.


RESNET = """
import hashlib
import keras
import numpy as np
import tensorflow as tf
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.models.cifar_resnet import cifar_resnet

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
images = rng.standard_normal((40, 32, 32, 3), dtype=np.float32)
operator = HessianOperator(
  cifar_resnet(depth=32, dropout_rate=0.2),
  keras.losses.SparseCategoricalCrossentropy(from_logits=True),
  tf.data.Dataset.from_tensor_slices((images, np.arange(40) % 10)).batch(16),
  training=True,
)
v = rng.standard_normal(operator.shape[0])
for _ in range(10):
  print("product", hashlib.sha256((operator @ v).tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_ten_products_of_resnet_32_are_bitwise_equal_in_one_process_and_in_another():
  # At the same time, so that their threads run in varying order.
  processes = [
    subprocess.Popen([sys.executable, "-c", RESNET], stdout=subprocess.PIPE, text=True)
    for _ in range(2)
  ]
  try:
    outputs = [p.communicate(timeout=900)[0] for p in processes]
  finally:
    for p in processes:
      p.kill()
      p.wait()
  products = [line for out in outputs for line in out.splitlines() if line.startswith("product")]
  assert len(products) == 20
  assert len(set(products)) == 1
