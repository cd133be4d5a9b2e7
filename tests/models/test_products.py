"""Hessian products of the models for small images, against derivatives made without the package."""

import functools
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_hessian
from tf_hessian.models.cifar_resnet import cifar_resnet
from tf_hessian.models.vgg import vgg11

CLASSES = 3
# Two correct computations differ by roundings of 1e-16, summed up in ten layers forth and back;
# 1e-12 leaves room for cancellation, and nothing that passed through float32 meets it.
FLOAT64 = 1e-12


def resnet(residual, normalization):
  return cifar_resnet(
    depth=8,
    width=2,
    num_classes=CLASSES,
    input_shape=(8, 8, 3),
    residual=residual,
    normalization=normalization,
  )


def vgg(normalization):
  return vgg11(
    width=1,
    dense_units=4,
    num_classes=CLASSES,
    input_shape=(16, 16, 1),
    normalization=normalization,
  )


MODELS = {
  "residual, none": lambda: resnet(True, "none"),
  "residual, batch": lambda: resnet(True, "batch"),
  "residual, population": lambda: resnet(True, "population"),
  "plain, none": lambda: resnet(False, "none"),
  "plain, batch": lambda: resnet(False, "batch"),
  "plain, population": lambda: resnet(False, "population"),
  "vgg, none": lambda: vgg("none"),
  "vgg, batch": lambda: vgg("batch"),
}


@pytest.fixture(scope="module")
def problem(in_float64):
  """Returns a function: name -> (float64 model, two batches, vectors (n, k) of norm 1)."""

  @functools.cache
  def build(name):
    random.seed(0)
    with in_float64():
      model = MODELS[name]()
    rng = np.random.default_rng(0)
    for v in model.trainable_variables:
      if len(v.shape) == 1:  # units that are on, and scales that are not 1
        v.assign(v.numpy() + 0.3 * rng.random(v.shape))
    data = [
      (
        rng.standard_normal((4, *model.input_shape[1:])),
        np.eye(CLASSES)[rng.integers(CLASSES, size=4)],
      )
      for _ in range(2)
    ]
    for layer in model.layers:
      if isinstance(layer, keras.layers.BatchNormalization):
        layer.momentum = 0.5
    for x, _ in data * 2:
      model(x, training=True)  # moves statistics
    vectors = rng.standard_normal((len(flat(model.trainable_variables)), 2))
    return model, data, vectors / np.linalg.norm(vectors, axis=0)

  return build


@pytest.fixture
def products(problem, in_float64):
  """Returns a function: (name, options) -> the package's products with the vectors."""

  def compute(name, **options):
    model, data, vectors = problem(name)
    with in_float64():
      loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    operator = tf_hessian.HessianOperator(model, loss, data, **options)
    return np.stack([operator @ v for v in vectors.T], axis=1)

  return compute


def flat(tensors):
  return tf.concat([tf.reshape(t, [-1]) for t in tensors], 0)


def loss_of(model, batch, training):
  """Returns the mean cross entropy, written out; the statistics stay as they were."""
  x, y = batch
  statistics = [v.numpy() for v in model.non_trainable_variables]
  logits = model(x, training=training)
  for v, value in zip(model.non_trainable_variables, statistics, strict=True):
    v.assign(value)
  return tf.reduce_mean(tf.reduce_logsumexp(logits, axis=1) - tf.reduce_sum(logits * y, axis=1))


def products_by_tapes(model, data, vectors, training):
  """Returns the products by nested tapes, averaged over batches of equal size."""
  variables = [v.value for v in model.trainable_variables]
  total = 0
  for batch in data:
    with tf.GradientTape(persistent=True) as outer:
      with tf.GradientTape() as inner:
        loss = loss_of(model, batch, training)
      gradient = flat(inner.gradient(loss, variables))
    rows = [outer.gradient(gradient, variables, v, "zero") for v in vectors.T]
    total += np.stack([flat(r) for r in rows], axis=1)
  return total / len(data)


def products_by_differences(model, data, vectors, h):
  """Returns the products as central differences of the gradient in training."""
  variables = [v.value for v in model.trainable_variables]
  values = [v.numpy() for v in variables]
  ends = np.cumsum([v.size for v in values])[:-1]

  def move(shift):
    for v, value, part in zip(variables, values, np.split(shift, ends), strict=True):
      v.assign(value + part.reshape(value.shape))

  def gradient(shift):
    move(shift)
    with tf.GradientTape() as tape:
      loss = sum(loss_of(model, batch, training=True) for batch in data) / len(data)
    return flat(tape.gradient(loss, variables)).numpy()

  found = [(gradient(h * d) - gradient(-h * d)) / (2 * h) for d in vectors.T]
  move(np.zeros(len(vectors)))
  return np.stack(found, axis=1)


def relative_error(found, expected):
  return np.linalg.norm(found - expected) / np.linalg.norm(expected)


# Tracing takes nearly all of the time, and half as long in the second mode.
@pytest.mark.parametrize(
  "name, training, mode",
  [
    ("residual, none", False, "forward_over_backward"),
    ("residual, population", True, "forward_over_backward"),
    pytest.param("plain, none", False, "backward_over_backward", marks=pytest.mark.slow),
    pytest.param("vgg, none", False, "backward_over_backward", marks=pytest.mark.slow),
    pytest.param("residual, batch", False, "backward_over_backward", marks=pytest.mark.slow),
    pytest.param("plain, population", True, "backward_over_backward", marks=pytest.mark.slow),
  ],
)
def test_products_equal_those_of_nested_tapes(name, training, mode, problem, products):
  expected = products_by_tapes(*problem(name), training)
  found = products(name, training=training, mode=mode)
  assert relative_error(found, expected) <= FLOAT64


# TensorFlow's own second derivative through batch statistics is wrong: docs/design/moments.md.
@pytest.mark.slow
@pytest.mark.parametrize(
  "name",
  [
    "residual, batch",
    pytest.param("plain, batch", marks=pytest.mark.slow),
    pytest.param("vgg, batch", marks=pytest.mark.slow),
  ],
)
def test_products_in_training_equal_differences_of_the_gradient(name, problem, products):
  found = products(name, training=True, mode="backward_over_backward")
  # At h = 1e-5 differences err by h^2 = 1e-10 times third derivatives, and by 1e-16 / h = 1e-11
  # times the gradient; both are up to a hundred times the second derivatives.
  assert relative_error(found, products_by_differences(*problem(name), h=1e-5)) <= 1e-8
