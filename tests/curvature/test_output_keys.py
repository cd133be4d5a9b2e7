"""Losses and loss weights go to the outputs that Keras gives them to, or are refused."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.curvature import output_keys
from tf_hessian.curvature.output_losses import OutputLosses

layers = keras.layers
RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 3)).astype(np.float32)
NAMES = ("zu", "av")  # not in the order of the alphabet
TARGETS = [RNG.standard_normal((6, 2)).astype(np.float32) for _ in NAMES]
LOSSES = ("mse", "mae")

LOSS_FORMS = {
  "one": "mse",
  "list": list(LOSSES),
  "dict": dict(zip(NAMES, LOSSES, strict=True)),
  "dict, other order": dict(zip(NAMES[::-1], LOSSES[::-1], strict=True)),
}
WEIGHT_FORMS = {
  "none": None,
  "number": 0.5,
  "list": [3.0, 0.1],
  "list of one": [0.25],
  "dict of one": {NAMES[1]: 0.25},
  "tuple": (3.0, 0.1),
  "dict": {NAMES[0]: 3.0, NAMES[1]: 0.1},
  "dict, other order": {NAMES[1]: 0.1, NAMES[0]: 3.0},
  "other names": {"x": 3.0, "y": 0.1},
  "too many": [1.0, 2.0, 3.0],
}


class Subclassed(keras.Model):
  """A model that says nothing of its outputs."""

  def __init__(self, kind):
    super().__init__()
    self.kind, self.parts = kind, [layers.Dense(2) for _ in NAMES]

  def call(self, inputs):
    found = [part(inputs) for part in self.parts]
    if self.kind == "single":
      return found[0]
    return found if self.kind == "list" else dict(zip(NAMES, found, strict=True))


def new_model(kind, functional):
  keras.utils.set_random_seed(0)
  if not functional:
    model = Subclassed(kind)
    model(X)
    return model
  inputs = keras.Input((3,))
  outputs = [layers.Dense(2, name=name)(inputs) for name in NAMES]
  if kind == "single":
    return keras.Model(inputs, outputs[0])
  return keras.Model(inputs, outputs if kind == "list" else dict(zip(NAMES, outputs, strict=True)))


def targets_of(kind):
  if kind == "single":
    return TARGETS[0]
  return TARGETS if kind == "list" else dict(zip(NAMES, TARGETS, strict=True))


def value_of(model, kind, loss, weights, as_fit):
  losses = OutputLosses(model, loss, weights, as_fit=as_fit)
  targets = tf.nest.map_structure(tf.constant, targets_of(kind))
  terms = losses.terms(targets, model(X), None)
  return sum(c * float(s / w) for c, (s, w) in zip(losses.coefficients, terms, strict=True))


@pytest.mark.parametrize("functional", [True, False])
@pytest.mark.parametrize("kind", ["single", "list", "dict"])
def test_weights_are_those_of_fit_in_any_structure(kind, functional):
  model, compared = new_model(kind, functional), 0
  for loss, weights in itertools.product(LOSS_FORMS.values(), WEIGHT_FORMS.values()):
    try:
      model.compile("sgd", loss, loss_weights=weights)
      right = float(model.compute_loss(X, targets_of(kind), model(X)))
    except (ValueError, KeyError, TypeError):
      continue
    try:
      value = value_of(model, kind, loss, weights, as_fit=True)
    except ValueError:  # what fit does with these is of no use, or not known of a subclassed model
      refused = LOSS_FORMS["list" if kind == "single" or functional else "one"]
      assert loss == refused or (kind, functional, loss) == ("dict", False, LOSS_FORMS["list"])
      continue
    assert value == pytest.approx(right, rel=1e-6), (loss, weights)
    compared += 1
  assert compared >= (3 if kind == "single" else 6)


@pytest.mark.parametrize("functional", [True, False])
@pytest.mark.parametrize("kind", ["list", "dict"])
@pytest.mark.parametrize("weights", WEIGHT_FORMS)
def test_given_weights_are_taken_or_refused(kind, functional, weights):
  model = new_model(kind, functional)
  loss = LOSS_FORMS["list" if kind == "list" else "dict"]
  given = WEIGHT_FORMS[weights]
  if weights == "dict of one":
    return  # which is not what fit does with it, and tested below
  if weights in ("list of one", "other names", "too many") or (
    weights.startswith("dict") and kind == "list" and not functional  # which knows no names
  ):
    with pytest.raises(ValueError, match="loss_weights: "):
      value_of(model, kind, loss, given, as_fit=False)
    return
  first, second = {"none": (1, 1), "number": (0.5, 0.5)}.get(weights, (3.0, 0.1))
  if kind == "dict" and weights in ("list", "tuple"):
    first, second = second, first  # Keras has lists for dicts in the order of their names
  a, b = ({n: value_of(model, kind, loss, w, as_fit=False) for n, w in _single(kind)}).values()
  value = value_of(model, kind, loss, given, as_fit=False)
  assert value == pytest.approx(first * a + second * b, rel=1e-6)


def _single(kind):
  """Yields weights by which only one output counts."""
  for i, name in enumerate(NAMES):
    ones = [float(i == j) for j in range(2)]
    yield name, ones if kind == "list" else dict(zip(NAMES, ones, strict=True))


def test_weights_that_fit_takes_for_other_outputs_are_said(caplog):
  model = new_model("list", functional=True)
  weights = WEIGHT_FORMS["dict"]
  value_of(model, "list", LOSS_FORMS["dict"], weights, as_fit=True)
  assert not caplog.text
  value_of(model, "list", LOSS_FORMS["list"], weights, as_fit=True)
  assert "in the order of their names" in caplog.text and "{'zu': 0.1, 'av': 3.0}" in caplog.text


def test_a_part_of_a_dict_of_weights_leaves_the_others_at_one():
  outputs = output_keys.output_keys(new_model("dict", functional=False))
  found = output_keys.weights_by_key(LOSS_FORMS["dict"], {"av": 2.0}, outputs, as_fit=False)
  assert found == {"av": 2.0}


@pytest.mark.parametrize("kind", ["list", "dict"])
@pytest.mark.parametrize("weights", [[2.0], {"av": 2.0}])
def test_a_single_weight_of_a_single_loss_is_that_of_all_outputs_in_fit(kind, weights):
  model = new_model(kind, functional=True)
  model.compile("sgd", "mse", loss_weights=weights)
  right = float(model.compute_loss(X, targets_of(kind), model(X)))
  assert value_of(model, kind, "mse", weights, as_fit=True) == pytest.approx(right, rel=1e-6)
