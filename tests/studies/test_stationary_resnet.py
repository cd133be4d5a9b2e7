"""Theorem E.1 on a small ResNet: what is trained, and the words about it."""

import numpy as np

from tf_hessian.experiments import experiment
from tf_hessian.studies import stationary_resnet
from tf_hessian.studies.chapter import Verdict
from tf_hessian.studies.context import Context


def test_network_has_fewer_parameters_than_outputs_and_a_constant_rate(root, tmp_path):
  context = Context(tmp_path, root / "configs", progress=False)
  config = stationary_resnet._config(context, 3)
  values = experiment.check(config)
  fields = {k: v for k, v in values["model"].items() if k != "name"}
  model = experiment.MODELS[values["model"]["name"]](**fields)
  count = sum(int(np.prod(w.shape)) for w in model.trainable_variables)
  assert f"n = {count:,}" in stationary_resnet.describe(numbers_of(1.0)).found
  assert count < 10 * stationary_resnet.IMAGES
  train = values["train"]
  assert (values["seed"], train["schedule"], train["momentum"]) == (3, "constant", 0.0)
  assert not values["data"]["augment"] and not values["hessian"]["training"]


def numbers_of(ratio):
  """Returns numbers whose measured steps are so many times the predicted ones."""
  rate, values = 0.05, np.linspace(5, 13, 10)
  measured = ratio * 2 * rate**2 / (2 - rate * values) * np.linspace(0.99, 1.01, 5)[:, None]
  row = {
    "eigenvalues": np.tile(values, (5, 1)).tolist(),
    "noise": np.ones((5, 10)).tolist(),
    "noise_at_the_point": np.ones((5, 10)).tolist(),
    "measured": measured.tolist(),
    "share": [0.5] * 5,
    "gradient_norm": [0.1] * 5,
  }
  more = {"images": 1024, "training_steps": 20_000, "batch_size": 16}
  lengths = {"settling": 1000, "steps": 2000, "parts": 10}
  return {"rate": rate, "sizes": {"8": row}} | lengths | more


def test_verdict_is_that_of_the_theorem_on_this_network():
  assert stationary_resnet.describe(numbers_of(1.0)).verdict is Verdict.AGREES
  assert stationary_resnet.describe(numbers_of(1.3)).verdict is Verdict.DIFFERS


def test_wandering_is_the_reason_unless_the_largest_batches_differ_too():
  numbers = numbers_of(1.3)
  numbers["sizes"]["128"] = numbers_of(1.0)["sizes"]["8"]
  assert "wanders far" in stationary_resnet.describe(numbers).reason
  assert "wanders least" not in stationary_resnet.describe(numbers).reason
  numbers["sizes"]["128"] = numbers_of(1.12)["sizes"]["8"]
  assert "batches of 128, in which it wanders least" in stationary_resnet.describe(numbers).reason
