"""Models that are changed after their operator was made: followed, or refused."""

import keras
import numpy as np
import pytest

import tf_hessian
from tf_hessian.curvature.failures import ModelChangedError

layers = keras.layers
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((12, 4)).astype(np.float32), RNG.integers(0, 3, 12)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Penalty(layers.Layer):
  """Adds a loss with a factor, a Python number or a variable."""

  def __init__(self, factor=0.0):
    super().__init__(name="penalty")
    self.factor = factor

  def call(self, inputs):
    self.add_loss(self.factor * keras.ops.mean(inputs**4))
    return inputs


def build(factor=0.1):
  keras.utils.set_random_seed(0)
  l2 = keras.regularizers.L2(0.01)
  return keras.Sequential(
    [
      keras.Input((4,)),
      layers.Dense(4, "tanh", kernel_regularizer=l2, name="first"),
      layers.BatchNormalization(name="norm"),
      layers.Dropout(0.2, name="drop"),
      Penalty(factor),
      layers.Dense(3, name="last"),
    ]
  )


def regularize(model):
  model.get_layer("first").kernel_regularizer.l2 = 1.0


def penalize(model):
  model.get_layer("penalty").factor = 2.0


def freeze(model):
  model.get_layer("norm").trainable = False


def drop(model):
  model.get_layer("drop").rate = 0.7


def adapt_low_rank(model):
  layer = model.get_layer("last")
  layer.enable_lora(2)
  layer.lora_kernel_b.assign(np.arange(6.0).reshape(2, 3))


SLOW_CHANGES = [regularize, freeze, adapt_low_rank]
RUNS = {
  "spectrum": lambda o: tf_hessian.spectral_density(
    o, num_draws=1, lanczos_steps=3, check=False, progress=False
  ),
  "pairs": lambda o: tf_hessian.top_eigenpairs(o, 1, progress=False),
  "trace": lambda o: tf_hessian.trace(o, 4, progress=False),
  "solve": lambda o: tf_hessian.solve(o, np.ones(o.shape[0]), damping=1.0, progress=False),
  "dense": lambda o: tf_hessian.dense_hessian(o, progress=False),
}


@pytest.mark.parametrize(
  "change", [penalize, drop, *(pytest.param(c, marks=pytest.mark.slow) for c in SLOW_CHANGES)]
)
def test_change_that_python_reads_is_refused_before_a_run(change):
  model = build()
  operator = tf_hessian.HessianOperator(model, LOSS, [(X, Y)], training=True)
  RUNS["pairs"](operator)
  change(model)
  with pytest.raises(ModelChangedError, match="make a new operator, or keep .* in a tf.Variable"):
    RUNS["pairs"](operator)


@pytest.mark.parametrize("name", RUNS)
def test_every_kind_of_run_looks(name):
  model = build()
  operator = tf_hessian.HessianOperator(model, LOSS, [(X, Y)])
  penalize(model)
  with pytest.raises(ModelChangedError):
    RUNS[name](operator)


def test_weights_and_variables_that_change_are_followed():
  factor = keras.Variable(0.1)
  model = build(factor)
  operator = tf_hessian.HessianOperator(model, LOSS, [(X, Y)], training=True)
  RUNS["spectrum"](operator)
  factor.assign(2.0)
  model.layers[0].kernel.assign(0.5 * model.layers[0].kernel)
  model.get_layer("norm").moving_mean.assign(np.ones(4))
  found = RUNS["spectrum"](operator)
  fresh = RUNS["spectrum"](
    tf_hessian.HessianOperator(model, LOSS, [(X, Y)], training=True, seed=operator.seed)
  )
  np.testing.assert_array_equal(found.diagonals[0], fresh.diagonals[0])


class Random(layers.Layer):
  """Multiplies by a number that Python draws whenever it is called."""

  def call(self, inputs):
    return inputs * float(RNG.uniform(0.5, 2.0))


def test_model_that_python_computes_in_another_way_each_time_stays_as_it_was_traced():
  model = keras.Sequential([keras.Input((4,)), Random(), layers.Dense(3)])
  operator = tf_hessian.HessianOperator(model, LOSS, [(X, Y)])
  first, second = (RUNS["pairs"](operator).values for _ in range(2))
  np.testing.assert_array_equal(first, second)


# What `fit` would train otherwise, though the first batch's loss is the same.


def compiled(loss="mean_squared_error", **options):
  keras.utils.set_random_seed(0)
  model = keras.Sequential(
    [keras.Input((4,)), layers.Dense(3, "tanh", name="first"), layers.Dense(1, name="last")]
  )
  model.compile("sgd", loss, **options)
  return model


@pytest.mark.parametrize(
  "change, word",
  [
    (lambda m: m.compile("sgd", "mean_squared_error", loss_weights=7.0), "compiled with"),
    (lambda m: m.compile("sgd", "log_cosh"), "compiled with the loss {'loss': 'log_cosh'}"),
    (lambda m: m.compile("sgd", "huber"), "compiled with"),
    (lambda m: setattr(m.layers[0], "trainable", False), "other variables are trained"),
    (lambda m: m.layers[0].enable_lora(1), "other variables are trained"),
  ],
)
def test_change_of_what_is_trained_is_refused(change, word):
  model = compiled()
  operator = tf_hessian.HessianOperator(model, None, [(X, Y[:, None].astype(np.float32))])
  change(model)
  with pytest.raises(ModelChangedError) as caught:
    RUNS["trace"](operator)
  assert word in str(caught.value)


@pytest.mark.parametrize(
  "change",
  [
    lambda m: m.compile("adam", "mean_squared_error"),
    lambda m: setattr(m.layers[0], "trainable", True),
  ],
)
def test_change_of_what_does_not_matter_is_none(change):
  model = compiled()
  operator = tf_hessian.HessianOperator(model, None, [(X, Y[:, None].astype(np.float32))])
  before = RUNS["trace"](operator)
  change(model)
  assert operator.objective.changes() == ""
  assert RUNS["trace"](operator) == before


def test_loss_that_was_given_is_kept_whatever_the_model_is_compiled_with():
  model = compiled()
  data = [(X, Y[:, None].astype(np.float32))]
  operator = tf_hessian.HessianOperator(model, "mean_squared_error", data, variables="last*")
  before = RUNS["trace"](operator)
  model.compile("sgd", "log_cosh")
  model.layers[0].trainable = False  # not of the block
  assert RUNS["trace"](operator) == before


def test_label_that_no_output_is_of_is_named_with_its_batch():
  model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  data = [(np.ones((4, 3), "f4"), np.array(y)) for y in ([0, 1, 2, 2], [0, 1, 7, 2])]
  operator = tf_hessian.HessianOperator(model, loss, data)
  with pytest.raises(ValueError, match="^loss: batch 1 of the data set fails: .*7"):
    tf_hessian.spectral_density(operator, num_draws=1, lanczos_steps=2, progress=False)
  operator = tf_hessian.HessianOperator(model, loss, data[1:])
  with pytest.raises(ValueError, match="^loss: batch 0 of the data set fails: .*7"):
    tf_hessian.spectral_density(operator, num_draws=1, lanczos_steps=2, progress=False)
