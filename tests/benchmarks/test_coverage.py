"""Whether coverage of Keras is complete, and whether its measurements find what they are for."""

import fnmatch
import pathlib

from keras import ops
import pytest
import tensorflow as tf

from benchmarks.coverage import catalog, measure, problems, report, run
from benchmarks.coverage.measure import BAD, ERROR, NO_WAY, OTHER_MODE, REFUSED, RIGHT, WRONG

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "coverage.md"
ITEMS = {item.name: item for item in catalog.public_items()}


def found(pattern):
  """Returns the outcomes of the problems that a pattern fits, and no others of their items."""
  names = [name for name in ITEMS if fnmatch.fnmatchcase(pattern.split(" (")[0], name)]
  made = [p for name in names for p in run.problems_of(ITEMS[name])]
  return [measure.measure(p).outcome for p in made if p.name == pattern]


def of_function(function, *, name="culprit", shape=(3,)):
  """Returns what becomes of a function of one tensor."""

  def build(_):
    return problems.around_function(function, [problems.Feed(shape)], name)

  return measure.measure(problems.Problem(name, build))


# Completeness.


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_each_public_name_has_an_example_or_a_rule(kind):
  items = [item for item in ITEMS.values() if item.kind == kind]
  made = [run.problems_of(item) for item in items]
  missing = [m for m in made if isinstance(m, measure.Outcome) and m.outcome == measure.NO_EXAMPLE]
  assert len(items) > 25 and not missing


def test_the_page_has_a_row_for_each_measurement_of_this_keras():
  rows = {o.name for o in report.read(PAGE.read_text())}
  assert set(run.names()) == rows, f"run {report.COMMAND}"


@pytest.mark.parametrize("outcome", BAD)
def test_the_page_has_nothing_that_must_not_be(outcome):
  assert outcome not in {o.outcome for o in report.read(PAGE.read_text())}


def test_what_has_several_names_is_there_once():
  assert "layers.Conv2D" in ITEMS and "layers.Convolution2D" not in ITEMS
  assert ITEMS["layers.Conv2D"].aliases == ("layers.Convolution2D",)
  assert "ops.relu" in ITEMS and "ops.nn.relu" not in ITEMS


# A few of each sort.


@pytest.mark.parametrize(
  ("name", "outcome"),
  [
    pytest.param("layers.Dense", RIGHT, marks=pytest.mark.slow),
    pytest.param("layers.Dropout (training)", RIGHT, marks=pytest.mark.slow),
    pytest.param("layers.BatchNormalization (vectors, training)", RIGHT, marks=pytest.mark.slow),
    pytest.param("layers.MaxPooling1D", RIGHT, marks=pytest.mark.slow),
    ("layers.Embedding", RIGHT),
    ("layers.Hashing", NO_WAY),
    pytest.param("losses.Huber", RIGHT, marks=pytest.mark.slow),
    pytest.param("losses.categorical_crossentropy (probabilities)", RIGHT, marks=pytest.mark.slow),
    ("losses.SparseCategoricalCrossentropy (from_logits=True)", RIGHT),
    pytest.param("activations.gelu", RIGHT, marks=pytest.mark.slow),
    ("activations.threshold", RIGHT),
    ("ops.log", RIGHT),
    pytest.param("ops.matmul", RIGHT, marks=pytest.mark.slow),
    pytest.param("ops.cond", OTHER_MODE, marks=pytest.mark.slow),
    ("ops.image.affine_transform (bilinear)", REFUSED),
    ("ops.floor", NO_WAY),
    ("ops.argmax", NO_WAY),
    ("ops.bitwise_and", NO_WAY),
  ],
)
def test_members_of_each_sort_are_what_they_should_be(name, outcome):
  assert found(name) == [outcome]


# What must not be is found.


@pytest.mark.slow
def test_another_derivative_than_that_of_the_values_is_wrong():
  @tf.custom_gradient
  def square(x):
    return x * x, lambda g: 3.0 * x * g

  outcome = of_function(square)
  assert outcome.outcome == WRONG and "differences of losses" in outcome.reason


@pytest.mark.slow
def test_a_second_derivative_that_is_lost_is_wrong():
  @tf.custom_gradient
  def square(x):
    return x * x, lambda g: 2.0 * tf.stop_gradient(x) * g

  outcome = of_function(square)
  assert outcome.outcome == WRONG and "differences of gradients" in outcome.reason


@pytest.mark.slow
def test_a_product_with_nan_is_wrong():
  # At 0 the first derivative of |y|^1.5 is 0, the second infinite.
  assert of_function(lambda x: x + (x - x) ** 1.5).outcome == WRONG


def test_an_error_of_tensorflow_is_an_error():
  @tf.custom_gradient
  def square(x):
    def gradient(g):
      if not tf.executing_eagerly():
        raise KeyError("lost")
      return 2.0 * x * g

    return x * x, gradient

  assert of_function(square).outcome == ERROR


def test_a_function_that_fails_in_a_graph_of_keras_is_told_apart():
  outcome = of_function(lambda x: x * x if tf.reduce_sum(x) > -10.0 else x)
  assert outcome.outcome == measure.NOT_KERAS


@pytest.mark.parametrize(
  ("function", "reason"),
  [
    (ops.round, "constant almost everywhere"),
    (ops.stop_gradient, "TensorFlow has no gradient"),
    (ops.isnan, "no floating-point output"),
  ],
)
def test_what_has_no_derivative_is_found_by_rule(function, reason):
  outcome = of_function(function)
  assert (outcome.outcome, outcome.reason) == (NO_WAY, reason)


def test_precision_is_set_back():
  before = tf.keras.config.floatx()
  of_function(ops.isnan)
  assert tf.keras.config.floatx() == before


# The page.


def test_the_page_counts_what_it_lists():
  outcomes = [
    measure.Outcome("layers.A", RIGHT),
    measure.Outcome("layers.B (training)", REFUSED, "layer 'B' is so"),
    measure.Outcome("ops.c", RIGHT),
  ]
  text = report.page(outcomes)
  assert "3 measurements: 2 right, 1 refused." in text
  assert "| B (training) | refused | layer 'B' is so |" in text
  assert report.read(text) == outcomes and text == report.page(outcomes)


def test_messages_are_cut_to_a_cell_of_a_table():
  text = measure.brief("a | b\n {{node x}}" + " word" * 50)
  assert "|" not in text and "node" not in text and len(text) <= 140 and text.endswith(" …")
