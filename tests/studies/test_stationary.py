"""Theorem E.1 at the stationary end of SGD."""

import dataclasses
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.curvature import precision
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.studies import stationary
from tf_hessian.studies.chapter import Verdict
from tf_hessian.studies.context import Context
from tf_hessian.training.task import Task

RATE = 0.2


@pytest.fixture
def network(small, examples):
  """(model of 163 parameters, function: indices -> losses), float64."""
  x, y = (tf.constant(a) for a in examples)
  model = precision.float64_model(keras.models.clone_model(small.model))
  model.set_weights(small.model.get_weights())
  return model, stationary._losses(small.setup, model, x, y)


def test_slopes_are_those_of_each_examples_gradient(network, small, examples, gradient_of):
  model, losses = network
  vectors = np.random.default_rng(0).standard_normal((3, 163))
  x, y = examples
  point = small.operator.parameters()
  gradients = [gradient_of(point, x[i : i + 1], y[i : i + 1]) for i in range(60)]
  expected = vectors @ np.array(gradients).T
  np.testing.assert_allclose(stationary._slopes(model, losses, 60)(vectors), expected, atol=1e-10)


def test_chain_is_sgd_on_batches_drawn_with_replacement(network, small, examples, gradient_of):
  model, losses = network
  vectors = np.random.default_rng(0).standard_normal((2, 163))
  run = stationary._chain(model, losses, 60, 12, RATE)
  along, energy, mean = run(4, (3, 1), vectors)
  x, y = examples
  point, points, steps = small.operator.parameters(), [], []
  for i in range(4):
    chosen = tf.random.stateless_uniform([12], [3001, i], maxval=60, dtype=tf.int32).numpy()
    steps.append(-RATE * gradient_of(point, x[chosen], y[chosen]))
    point = point + steps[-1]
    points.append(point)
  np.testing.assert_allclose(along, np.array(steps) @ vectors.T, atol=1e-10)
  np.testing.assert_allclose(energy, np.sum(np.square(steps), axis=1), rtol=1e-9)
  np.testing.assert_allclose(mean, np.mean(points, axis=0), atol=1e-10)


@pytest.fixture(scope="module")
def quadratic():
  """Measurement of a linear regression, whose loss is quadratic: there the theorem is exact."""
  rng = np.random.default_rng(1)
  x = rng.standard_normal((200, 4)) * [1.6, 1.1, 0.8, 0.5]
  y = x @ rng.standard_normal((4, 1)) + rng.standard_normal((200, 1))
  model = keras.Sequential(
    [keras.Input((4,), dtype="float64"), keras.layers.Dense(1, use_bias=False, dtype="float64")]
  )
  loss = keras.losses.MeanSquaredError()
  data = tf.data.Dataset.from_tensor_slices((x, y))
  setup = types.SimpleNamespace(
    task=Task(loss),
    source=types.SimpleNamespace(examples=data, num_examples=200),
    operator=lambda model: HessianOperator(model, loss, data.batch(200)),
  )
  lengths = {"settling": 400, "steps": 6000, "parts": 200}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(stationary, "TOP", 3)
    return stationary.stationary(setup, model, 20, RATE, 0, **lengths), 2 * x.T @ x / 200


def test_steps_on_a_quadratic_are_those_of_the_theorem(quadratic):
  found, hessian = quadratic
  np.testing.assert_allclose(found["eigenvalues"], np.linalg.eigvalsh(hessian)[:0:-1], rtol=1e-6)
  numbers = {"rate": RATE, "sizes": {"20": {k: [v] for k, v in found.items()}}}
  # The mean of 6,000 squares has a standard error of 2 to 4 %, as they are not normal.
  np.testing.assert_allclose(stationary.ratios(numbers, "20"), 1, atol=0.12)
  assert 0.5 < found["share"] <= 1


def numbers_of(ratio, seeds=5):
  """Returns numbers whose measured steps are so many times the predicted ones."""
  values = np.linspace(0.5, 2.0, 10)
  jitter = 1 + 0.01 * np.linspace(-1, 1, seeds)[:, None]
  measured = ratio * jitter * 2 * RATE**2 / (2 - RATE * values) * 3.0
  row = {
    "eigenvalues": np.tile(values, (seeds, 1)).tolist(),
    "noise": np.full((seeds, 10), 3.0).tolist(),
    "noise_at_the_point": np.full((seeds, 10), 3.0).tolist(),
    "measured": measured.tolist(),
    "share": [0.5] * seeds,
    "gradient_norm": [0.1] * seeds,
  }
  lengths = {"settling": 50, "steps": 100, "parts": 10}
  return {"rate": RATE, "sizes": {"8": row, "128": row}} | lengths


def test_rates_named_are_those_of_all_sizes():
  numbers = numbers_of(1.0)
  row = numbers["sizes"]["8"]
  numbers["sizes"]["128"] = row | {"eigenvalues": np.multiply(row["eigenvalues"], 2).tolist()}
  reason = stationary.describe(numbers).reason
  assert "eta lambda_1 is 0.4 to 0.8" in reason
  assert f"up to {2 / (2 - 0.8):.3g} here" in reason


@pytest.mark.parametrize(
  "ratio, seeds, verdict",
  [
    (1.0, 5, Verdict.AGREES),
    (1.3, 5, Verdict.DIFFERS),
    (0.7, 5, Verdict.DIFFERS),
    (1.1, 5, Verdict.OPEN),
    (1.0, 4, Verdict.OPEN),
  ],
)
def test_verdict_is_that_of_the_interval_within_the_margin(ratio, seeds, verdict):
  chapter = stationary.describe(numbers_of(ratio, seeds))
  assert chapter.verdict is verdict
  row = chapter.tables[0].rows[0]
  assert float(row[1].split(" ")[0]) == pytest.approx(ratio, rel=5e-3)


@pytest.mark.slow
def test_study_is_made_of_each_seed_and_size_and_measured_once(
  configs, tmp_path, make_study, monkeypatch
):
  short = dataclasses.replace(stationary.SMALL, sizes=(8,), settling=20, steps=20, parts=2)
  for name, value in {"SEEDS": (0, 1), "TOP": 3, "SMALL": short}.items():
    monkeypatch.setattr(stationary, name, value)
  context = Context(tmp_path, configs, progress=False)
  made = make_study("stationary", context)
  assert set(made.pictures) == {p.name for p in tmp_path.glob("*.png")}
  for row in made.numbers["sizes"].values():
    assert np.shape(row["measured"]) == (2, 3)
    assert np.min(row["noise"]) > 0

  def refuse(*_):
    raise AssertionError("measured again")

  monkeypatch.setattr(stationary, "stationary", refuse)
  again = make_study("stationary", dataclasses.replace(context))
  assert again.numbers == made.numbers
