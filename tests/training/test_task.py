"""What a model is trained for."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.training import task

SMOOTH = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)


def two_heads(dtype="float32"):
  random.seed(0)
  inputs = keras.Input((3,), dtype=dtype)
  heads = [keras.layers.Dense(4, name=name, dtype=dtype)(inputs) for name in ("main", "second")]
  return keras.Model(inputs, heads)


def examples(count=50, classes=4):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((count, 3)).astype(np.float32)
  return x, np.eye(classes, dtype=np.float32)[rng.integers(classes, size=count)]


def cross_entropy(targets, logits, smoothing=0.1):
  """Returns the mean cross entropy, in NumPy."""
  p = targets * (1 - smoothing) + smoothing / targets.shape[1]
  shifted = logits - logits.max(1, keepdims=True)
  log_q = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
  return -np.mean(np.sum(p * log_q, 1))


def test_lowest_cross_entropy_of_ten_smoothed_classes():
  expected = -0.91 * np.log(0.91) - 9 * 0.01 * np.log(0.01)
  assert task.Task(SMOOTH, classes=10).lowest == pytest.approx(expected, rel=1e-12)
  assert round(expected, 4) == 0.5003


def test_lowest_loss_is_that_of_the_best_logits():
  targets = np.eye(10, dtype=np.float64)
  best = np.log(0.9 * targets + 0.01)
  assert cross_entropy(targets, best) == pytest.approx(task.Task(SMOOTH, classes=10).lowest)


@pytest.mark.parametrize(
  "loss, classes",
  [
    (keras.losses.CategoricalCrossentropy(from_logits=True), 10),
    (keras.losses.MeanSquaredError(), 0),
  ],
)
def test_other_losses_can_reach_zero(loss, classes):
  found = task.Task(loss, classes=classes)
  assert found.lowest == 0
  assert "excess" not in found.summary(1.0, 0.5)


def test_losses_of_two_heads_are_added_with_their_weights():
  model, (x, y) = two_heads(), examples()
  found, right = task.Task(SMOOTH, weights=(1.0, 0.4), classes=4).measure(
    model, x, y, training=False
  )
  main, second = (h.numpy() for h in model(x))
  assert float(found) == pytest.approx(cross_entropy(y, main) + 0.4 * cross_entropy(y, second))
  assert int(right) == np.sum(main.argmax(1) == y.argmax(1))


def test_lowest_loss_of_two_heads_counts_both():
  one = task.Task(SMOOTH, classes=4).lowest
  assert task.Task(SMOOTH, weights=(1.0, 0.4), classes=4).lowest == pytest.approx(1.4 * one)


def test_wrong_number_of_weights_is_refused():
  x, y = examples()
  with pytest.raises(ValueError, match="config.loss.weights: .*the model's 2 outputs, got 1"):
    task.Task(SMOOTH, classes=4).measure(two_heads(), x, y, training=False)


@pytest.mark.parametrize("most, count", [(0, 50), (7, 7), (100, 50)])
def test_evaluation_is_over_the_first_examples(monkeypatch, most, count):
  monkeypatch.setattr(task, "_EVALUATED_AT_ONCE", 20)  # the last batch is short
  model, (x, y) = two_heads(), examples()
  data = tf.data.Dataset.from_tensor_slices((x, y))
  both = task.Task(SMOOTH, weights=(1.0, 0.0), classes=4)
  found = both.evaluator(model, data, most=most)()
  logits = model(x[:count])[0].numpy()
  assert found["loss"] == pytest.approx(cross_entropy(y[:count], logits), rel=1e-6)
  assert found["accuracy"] == np.mean(logits.argmax(1) == y[:count].argmax(1))


def test_loss_of_a_float64_model_is_float64():
  x, y = (a.astype(np.float64) for a in examples())
  model = two_heads("float64")
  found, _ = task.Task(SMOOTH, weights=(1.0, 0.0), classes=4).measure(model, x, y, training=False)
  assert float(found) == pytest.approx(cross_entropy(y, model(x)[0].numpy()), rel=1e-14)
