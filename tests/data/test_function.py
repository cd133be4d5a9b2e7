"""A user's function gives examples in several ways, or it is said what is wrong."""

import itertools
import sys
import textwrap

import numpy as np
import pytest

from tf_hessian import reading
from tf_hessian.data import function as function_lib
from tf_hessian.data.function import function

HEAD = "import numpy as np\nimport tensorflow as tf\n\n"
FORMS = {
  "data set": "return tf.data.Dataset.from_tensor_slices((X, Y))",
  "data set of unknown size": """
    spec = tf.TensorSpec((2,), tf.float32), tf.TensorSpec((), tf.int32)
    return tf.data.Dataset.from_generator(lambda: zip(X, Y), output_signature=spec)
  """,
  "arrays": "return X, Y",
  "tensors": "return tf.constant(X), tf.constant(Y)",
  "generator": "yield from zip(X, Y)",
  "list of examples": "return list(zip(X, Y))",
}
X = np.arange(24, dtype=np.float32).reshape(12, 2)
Y = np.arange(12, dtype=np.int32)
ARRAYS = "X = np.arange(24, dtype=np.float32).reshape(12, 2)\nY = np.arange(12, dtype=np.int32)\n"


@pytest.fixture
def write(tmp_path):
  """Returns a function: body of a function -> what names it, once it is in a new file."""
  names = (f"users_data_{i}" for i in itertools.count())

  def new(body, head=""):
    path = tmp_path / f"{next(names)}.py"
    body = textwrap.indent(textwrap.dedent(body).strip(), "  ")
    path.write_text(f"{HEAD}{ARRAYS}{head}\ndef examples():\n{body}\n")
    return f"{path}:examples"

  yield new
  for name in [m for m in sys.modules if m.startswith("users_data_")]:
    del sys.modules[name]


def read(dataset, count=-1):
  return tuple(np.stack(a) for a in zip(*dataset.take(count).as_numpy_iterator(), strict=True))


def assert_same(found, expected):
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_array_equal(a, b)
    assert a.dtype == b.dtype


# What it may give.


@pytest.mark.parametrize("form", FORMS)
def test_examples_are_what_the_function_gives_in_order(write, form):
  source = function(function=write(FORMS[form]))
  assert source.num_examples == 12
  assert_same(read(source.examples), (X, Y))


@pytest.mark.parametrize(
  "body",
  ["return X, Y, X[:, 0]", "yield from zip(X, Y, X[:, 0])"],
  ids=["arrays", "generator"],
)
def test_examples_may_have_weights(write, body):
  source = function(function=write(body))
  assert_same(read(source.examples), (X, Y, X[:, 0]))
  assert [t.shape for t in next(iter(source.batches(0, 0, 5)))] == [(5, 2), (5,), (5,)]


def test_inputs_may_be_several_by_name(write):
  source = function(function=write("return {'a': X, 'b': -X}, Y"))
  inputs, target = next(iter(source.examples.skip(3)))
  assert_same((inputs["a"].numpy(), inputs["b"].numpy(), target.numpy()), (X[3], -X[3], Y[3]))


def test_there_is_neither_a_test_set_nor_augmentation(write):
  source = function(function=write("return X, Y"))
  assert source.test is None and source.augmented is None


@pytest.mark.parametrize("form", ["data set", "arrays", "generator"])
def test_examples_can_be_sent_to_other_processes(write, sent, form):
  dataset = function(function=write(FORMS[form])).examples
  assert_same([np.stack(a) for a in zip(*sent(dataset), strict=True)], (X, Y))


def test_file_may_define_layers_that_are_found_by_its_name(write):
  head = "class Layer:\n  pass\n\nassert __import__(__name__).Layer is Layer\n"
  assert function(function=write("return X, Y", head)).num_examples == 12


# Batches.


@pytest.mark.parametrize("form", ["data set of unknown size", "arrays"])
def test_batches_shuffle_all_examples(write, form):
  source = function(function=write(FORMS[form]))
  inputs, targets = read(source.batches(0, 0, 4), 9)
  np.testing.assert_array_equal(inputs, X[targets])
  epochs = targets.reshape(3, 12).tolist()
  assert all(sorted(epoch) == Y.tolist() for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) == 3


def test_batch_does_not_depend_on_the_step_that_training_began_with(write):
  source = function(function=write("return X, Y"))
  expected = read(source.batches(3, 0, 5).skip(4), 3)
  assert_same(read(source.batches(3, 4, 5), 3), expected)


def test_small_buffer_shuffles_nearby_examples(write):
  source = function(function=write("return X, Y"), shuffle_buffer=2)
  _, targets = read(source.batches(0, 0, 12), 1)
  assert sorted(targets[0]) == Y.tolist() != targets[0].tolist()
  # Whatever comes at a place was among the two that were read by then.
  assert (targets[0] <= np.arange(12) + 1).all()


def test_too_large_batches_are_refused(write):
  with pytest.raises(ValueError, match="batch size: .* number of examples, 12, got 13"):
    function(function=write("return X, Y")).batches(0, 0, 13)


# What is wrong.


@pytest.mark.parametrize("name", ["data.py", "data.py:", ":examples", "", "folder/data.py"])
def test_wrong_spelling_is_refused(name):
  with pytest.raises(ValueError, match=f"file.py:name or module:name, got '{name}'"):
    function(function=name)


def test_missing_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=f"there is no file {tmp_path / 'data.py'}"):
    function(function=f"{tmp_path / 'data.py'}:examples")


@pytest.mark.parametrize("name", ["data.txt", "data", "folder"])
def test_what_is_no_python_file_is_refused(tmp_path, name):
  (tmp_path / "folder").mkdir()
  if name != "folder":
    (tmp_path / name).write_text("examples = None\n")
  with pytest.raises(ValueError, match=f"config.data.function: .*{tmp_path / name}"):
    function(function=f"{tmp_path / name}:examples")


def test_missing_function_is_named(write):
  name = write("return X, Y").replace(":examples", ":example")
  with pytest.raises(ValueError, match=r"users_data_0.py has no 'example'"):
    function(function=name)


@pytest.mark.parametrize(
  "body",
  [
    "return X[:0], Y[:0]",
    "return tf.data.Dataset.from_tensor_slices((X, Y)).take(0)",
    "return tf.data.Dataset.from_tensor_slices((X, Y)).filter(lambda x, y: y < 0)",
    "yield from ()",
    "return []",
  ],
)
def test_no_examples_are_refused(write, body):
  name = write(body)
  with pytest.raises(ValueError, match=f"{name} gives no examples"):
    function(function=name)


def test_infinite_data_set_is_refused(write):
  name = write("return tf.data.Dataset.from_tensor_slices((X, Y)).repeat()")
  with pytest.raises(ValueError, match=f"{name}.*infinite"):
    function(function=name)


@pytest.mark.parametrize(
  "result, kind",
  [
    ("None", "NoneType"),
    ("5", "int"),
    ("X, Y[:-1]", "tuple"),
    ("[(X[0], Y[0]), (X[1],)]", "list"),
    ("[(X[0], Y[0]), (Y, Y[1])]", "list"),
  ],
)
def test_other_results_are_refused(write, result, kind):
  name = write(f"return {result}")
  with pytest.raises(ValueError, match=f"{name}: expected a data set, .* got {kind}"):
    function(function=name)


@pytest.mark.parametrize("error", [ValueError, TypeError, AttributeError, OSError])
def test_what_the_function_raises_is_not_hidden(write, error):
  name = write(f"raise {error.__name__}('my own mistake')")
  with pytest.raises(error, match="^my own mistake"):
    function(function=name)


@pytest.mark.parametrize(
  "error",
  [
    ValueError,
    TypeError,
    AttributeError,
  ],
)
def test_what_a_generator_raises_is_not_hidden(write, error):
  name = write(f"yield X[0], Y[0]\nraise {error.__name__}('my own mistake')")
  with pytest.raises(error, match="^my own mistake"):
    function(function=name)


@pytest.mark.parametrize("error", [ValueError, AttributeError])
def test_what_the_file_raises_is_not_hidden(write, error):
  name = write("return X, Y", head=f"raise {error.__name__}('my own mistake')\n")
  with pytest.raises(error, match="^my own mistake"):
    function(function=name)


@pytest.mark.parametrize(
  "body", ["return X", "return tf.data.Dataset.from_tensor_slices(X)", "return X, Y, X, Y"]
)
def test_examples_that_are_no_pairs_are_refused(write, body):
  with pytest.raises(ValueError, match=r"expected examples \(input, target\)"):
    function(function=write(body))


# Data without an end.

ENDLESS = {
  "generator": "while True:\n  yield from zip(X, Y)",
  "data set of unknown size": """
    def forever():
      while True:
        yield from zip(X, Y)
    spec = tf.TensorSpec((2,), tf.float32), tf.TensorSpec((), tf.int32)
    return tf.data.Dataset.from_generator(forever, output_signature=spec)
  """,
  "data set": "return tf.data.Dataset.from_tensor_slices((X, Y)).repeat()",
}


@pytest.mark.parametrize("form", ENDLESS)
def test_first_examples_of_what_has_no_end_are_taken(write, form):
  source = function(function=write(ENDLESS[form]), num_examples=17)
  assert source.num_examples == 17
  again = np.arange(17) % 12
  assert_same(read(source.examples), (X[again], Y[again]))


@pytest.mark.parametrize("form", FORMS)
def test_first_examples_of_what_has_an_end_are_taken(write, form):
  source = function(function=write(FORMS[form]), num_examples=5)
  assert source.num_examples == 5
  assert_same(read(source.examples), (X[:5], Y[:5]))


@pytest.mark.parametrize("form", FORMS)
def test_more_examples_than_there_are_are_refused(write, form):
  with pytest.raises(ValueError, match="config.data.num_examples: expected at most 12, got 13"):
    function(function=write(FORMS[form]), num_examples=13)


def test_what_is_yielded_for_ever_is_refused_once_it_has_no_room(write):
  name = write(ENDLESS["generator"])
  with pytest.raises(ValueError, match=f"{name}: yields more than fits .* give config.data.num_ex"):
    function(function=name, memory=10**6)


@pytest.mark.parametrize("form", ["generator", "data set of unknown size"])
def test_reading_that_takes_long_is_logged_with_the_remedy(write, form, caplog, monkeypatch):
  class Slow(reading.Reading):
    def __init__(self, remedy):
      super().__init__(remedy, clock=itertools.count(0, 20).__next__)

  monkeypatch.setattr(function_lib, "Reading", Slow)
  name = write(FORMS[form])
  function(function=name)
  line = caplog.records[0].getMessage()
  assert "examples" in line and f"give config.data.num_examples ({name})" in line


@pytest.mark.parametrize("sizes", [(4, 4, 4), (5, 5, 2), (12,)])
def test_batches_that_are_yielded_are_cut_into_examples(write, sizes):
  starts = np.cumsum((0, *sizes[:-1])).tolist()
  name = write(f"""
    for start, size in zip({starts}, {sizes}):
      yield X[start : start + size], Y[start : start + size]
  """)
  found = function(function=name, batched=True)
  assert found.num_examples == 12
  for a, b in zip(read(found.examples), (X, Y), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  "batched, word", [(None, "say --batched, or config.data.batched"), (True, "pad them")]
)
def test_parts_of_different_shapes_are_refused_with_both(write, batched, word):
  last = "X[8:]" if batched is None else "X[8:, :1]"
  name = write(f"yield X[:8], Y[:8]\nyield {last}, Y[8:]")
  with pytest.raises(ValueError, match="of different shapes, .*and ") as caught:
    function(function=name, batched=batched)
  assert word in str(caught.value)
