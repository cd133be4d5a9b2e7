"""Trainings that studies make."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.studies import normalization
from tf_hessian.studies.context import Context
from tf_hessian.training.train import DivergedError

ROWS = "step,loss,seconds\n20,2.3,5.5\n"


@pytest.mark.parametrize("text, cost", [(ROWS, 5.5), (None, 0.0)], ids=["later", "at once"])
def test_divergence_is_an_error_whose_cost_counts(tmp_path, monkeypatch, text, cost):
  def train(config, folder, **_):  # noqa: ARG001
    folder.mkdir()
    if text:
      (folder / "train.csv").write_text(text)
    raise DivergedError("training: the loss is nan")

  monkeypatch.setattr(normalization, "train", train)
  context, folder = Context(tmp_path, progress=False), tmp_path / "training"
  before = context.costs.total()
  with pytest.raises(DivergedError):
    normalization.trained(context, None, folder)
  assert [row["loss"] for row in normalization.log(folder)] == ([2.3] if text else [])
  assert context.costs.total() - before == pytest.approx(cost, abs=0.5)


def test_settled_statistics_are_the_means_over_batches_and_weights_stay(monkeypatch):
  monkeypatch.setattr(normalization, "SETTLING", 3)
  rng = np.random.default_rng(0)
  x = (3 + 2 * rng.standard_normal((40, 5))).astype(np.float32)
  model = keras.Sequential([keras.Input((5,)), keras.layers.BatchNormalization(momentum=0.9)])
  before = [w.numpy() for w in model.trainable_variables]

  def batches(seed, first, size):
    assert (seed, first) == (0, 0)
    return tf.data.Dataset.from_tensor_slices((x, x)).batch(size)

  source = types.SimpleNamespace(batches=batches)
  setup = types.SimpleNamespace(config={"train": {"batch_size": 10}}, source=source)
  normalization.settle(model, setup)
  (layer,) = model.layers
  parts = x[:30].reshape(3, 10, 5).astype(np.float64)
  np.testing.assert_allclose(layer.moving_mean, parts.mean(axis=1).mean(axis=0), rtol=1e-5)
  np.testing.assert_allclose(layer.moving_variance, parts.var(axis=1).mean(axis=0), rtol=1e-5)
  assert layer.momentum == 0.9
  for variable, value in zip(model.trainable_variables, before, strict=True):
    np.testing.assert_array_equal(variable, value)
