"""Data that are streamed are watched in every pass."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_hessian
from tf_hessian.curvature.failures import DataChangedError
from tf_hessian.curvature.operator import HessianOperator

layers = keras.layers
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((12, 3)).astype(np.float32), RNG.standard_normal((12, 1))
SIZES = (4, 4, 4)


class Source:
  """Data whose batches change from some reading on."""

  def __init__(self, sizes=SIZES):
    self.sizes = sizes
    self.change = None  # function of (batch number, x, y)

  def __iter__(self):
    ends = np.cumsum(self.sizes)
    for b, (size, end) in enumerate(zip(self.sizes, ends, strict=True)):
      x, y = X[end - size : end], Y[end - size : end]
      yield self.change(b, x.copy(), y.copy()) if self.change else (x, y)

  def dataset(self):
    specs = tf.TensorSpec((None, 3), tf.float32), tf.TensorSpec((None, 1), tf.float64)
    return tf.data.Dataset.from_generator(lambda: iter(self), output_signature=specs)


def operator_of(source, **options):
  parts = [layers.Dense(2, "tanh", name="hidden"), layers.Dense(1, name="head")]
  model = keras.Sequential([keras.Input((3,)), *parts], name="net")
  return HessianOperator(model, "mse", source.dataset(), cache_bytes=1, **options)


def one_ulp(b, x, y):
  if b == 1:
    x[2, 0] = np.nextafter(x[2, 0], np.float32(10))
  return x, y


def one_target(b, x, y):
  if b == 2:
    y[0] += 1e-15 * max(1, abs(y[0, 0]))
  return x, y


CHANGES = {"an input by one ulp": (one_ulp, 1), "a target by one rounding": (one_target, 2)}


INPUT, TARGET = CHANGES
TWO_SHAPES = (4, 4, 3)
QUICK = [
  ("loss", INPUT, SIZES),
  ("gradient", TARGET, TWO_SHAPES),
  ("product", INPUT, TWO_SHAPES),
  ("products", TARGET, SIZES),
]
ALL = [
  (call, name, sizes)
  for call in ("loss", "gradient", "product", "products")
  for name in CHANGES
  for sizes in (SIZES, TWO_SHAPES)
]


@pytest.mark.parametrize(
  "call, name, sizes",
  [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in ALL],
)
def test_a_changed_batch_stops_the_pass_and_is_named(call, name, sizes):
  source = Source(sizes)
  operator = operator_of(source)
  v = np.ones(operator.shape[0])
  calls = {
    "loss": operator.loss,
    "gradient": operator.gradient,
    "product": lambda: operator @ v,
    "products": lambda: operator.products(np.stack([v, 2 * v])),
  }
  before = calls[call]()
  source.change, batch = CHANGES[name]
  with pytest.raises(DataChangedError, match=f"batch {batch} of the data set has other values"):
    calls[call]()
  source.change = None
  np.testing.assert_array_equal(calls[call](), before)


def test_replicas_watch_their_parts():
  strategy = tf.distribute.MirroredStrategy(["CPU:0"])
  source = Source()
  operator = operator_of(source, strategy=strategy)
  v = np.ones(operator.shape[0])
  operator @ v
  source.change = one_ulp
  with pytest.raises(DataChangedError, match="batch 1 "):
    operator @ v


@pytest.fixture(scope="module")
def read_once():
  """A source and its operator, whose product has been made, and which is as good after errors."""
  source = Source()
  operator = operator_of(source)
  operator @ np.ones(operator.shape[0])
  return source, operator


@pytest.fixture
def read_before(read_once):
  """What `read_once` is, without the changes of an earlier test."""
  yield read_once
  source, _ = read_once
  source.sizes, source.change = SIZES, None


@pytest.mark.parametrize("sizes", [(4, 4, 3), (4, 4), (5, 4, 4), (4, 4, 4, 4)])
def test_batches_of_other_shapes_or_numbers_are_told(read_before, sizes):
  source, operator = read_before
  v = np.ones(operator.shape[0])
  source.sizes = sizes
  if sizes == (4, 4, 4, 4):  # more than were counted: those that count are the same
    operator @ v
    return
  with pytest.raises(ValueError, match="the data set ended before|number of batches|not what it"):
    operator @ v


def test_a_data_set_that_fails_later_is_told_with_its_own_reason(read_before):
  source, operator = read_before
  v = np.ones(operator.shape[0])

  def fail(b, x, y):
    if b == 1:
      raise OSError("the disk is gone")
    return x, y

  source.change = fail
  with pytest.raises(ValueError, match="product: the data set can't be read again: .*disk is gone"):
    operator @ v


def test_what_was_computed_before_the_change_is_kept(tmp_path):
  def run(source, change_at=None):
    operator = operator_of(source)
    product, count = operator._matvec, [0]

    def counted(x):
      count[0] += 1
      source.change = one_ulp if change_at and count[0] >= change_at else None
      return product(x)

    operator._matvec = counted
    return tf_hessian.spectral_density(
      operator,
      num_draws=1,
      lanczos_steps=8,
      workdir=tmp_path / ("run" if change_at is not None else "whole"),
      progress=False,
    )

  random.seed(0)
  whole = run(Source())
  random.seed(0)
  with pytest.raises(DataChangedError):
    run(Source(), change_at=7)
  assert list((tmp_path / "run").glob("step_*.npz"))
  random.seed(0)
  again = run(Source(), change_at=0)
  np.testing.assert_array_equal(again.diagonals, whole.diagonals)


def test_batches_in_memory_are_not_watched():
  source = Source()
  model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
  operator = HessianOperator(model, "mse", source.dataset())
  first = operator @ np.ones(4)
  source.change = one_ulp
  np.testing.assert_array_equal(operator @ np.ones(4), first)
