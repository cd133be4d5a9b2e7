"""The file that both environments read, and where PyTorch has its axes."""

import numpy as np
import pytest

from benchmarks.peers import making
from benchmarks.peers import problem as problem_lib

LAYOUT = (
  ("conv/kernel", "conv/bias", "dense/kernel", "dense/bias"),
  ((3, 3, 2, 5), (5,), (4, 6), (6,)),
)
N = 90 + 5 + 24 + 6
# Of an attention with 2 heads of 3 numbers, between embeddings and layers of width 4.
ATTENTION = (
  ("tokens/embeddings", "a/query/kernel", "a/query/bias", "a/attention_output/kernel"),
  ((5, 4), (4, 2, 3), (2, 3), (2, 3, 4)),
)


@pytest.fixture
def vector():
  return np.random.default_rng(0).standard_normal(N)


def small(**changes):
  fields = {
    "network": "mlp",
    "inputs": np.arange(14, dtype=np.float32).reshape(7, 2),
    "labels": np.arange(7),
    "batch_size": 3,
    "names": ("a/kernel", "a/bias"),
    "shapes": ((2, 3), (3,)),
    "parameters": np.arange(9, dtype=np.float32),
  }
  return problem_lib.Problem(**fields | changes)


def test_convolution_kernel_has_output_and_input_channels_first(vector):
  kernel = vector[:90].reshape(3, 3, 2, 5)
  moved = problem_lib.torch_arrays(vector, *LAYOUT)[0]
  assert moved.shape == (5, 2, 3, 3)
  assert moved[4, 1, 0, 2] == kernel[0, 2, 1, 4]


def test_dense_kernel_is_transposed_and_vectors_stay(vector):
  _, bias, kernel, _ = problem_lib.torch_arrays(vector, *LAYOUT)
  np.testing.assert_array_equal(kernel, vector[95:119].reshape(4, 6).T)
  np.testing.assert_array_equal(bias, vector[90:95])


def test_vector_comes_back_from_torch_arrays(vector):
  arrays = problem_lib.torch_arrays(vector, *LAYOUT)
  np.testing.assert_array_equal(problem_lib.keras_vector(arrays, LAYOUT[0]), vector)


def test_heads_of_an_attention_are_one_axis_in_torch():
  vector = np.random.default_rng(0).standard_normal(20 + 24 + 6 + 24)
  embeddings, query, bias, output = problem_lib.torch_arrays(vector, *ATTENTION)
  np.testing.assert_array_equal(embeddings, vector[:20].reshape(5, 4))  # not transposed
  assert query.shape == (6, 4) and output.shape == (4, 6) and bias.shape == (6,)
  # Head 1, its number 2; from or to number 3 of the layer.
  assert query[5, 3] == vector[20:44].reshape(4, 2, 3)[3, 1, 2]
  assert output[3, 5] == vector[50:].reshape(2, 3, 4)[1, 2, 3]
  arrays = [embeddings, query, bias, output]
  np.testing.assert_array_equal(problem_lib.keras_vector(arrays, ATTENTION[0]), vector)


def test_torch_vector_has_the_entries_of_its_arrays_one_after_the_other(vector):
  arrays = problem_lib.torch_arrays(vector, *LAYOUT)
  expected = np.concatenate([a.ravel() for a in arrays])
  moved = problem_lib.torch_vector(vector, *LAYOUT)
  np.testing.assert_array_equal(moved, expected)
  assert not np.array_equal(moved, vector)


def test_vector_of_another_length_is_refused(vector):
  with pytest.raises(ValueError, match="expected 125 numbers for the shapes, got 124"):
    problem_lib.split(vector[1:], LAYOUT[1])


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("stem_conv/kernel", "stem_conv.weight"),
    ("stem_bn/gamma", "stem_bn.weight"),
    ("stem_bn/beta", "stem_bn.bias"),
    ("logits/bias", "logits.bias"),
    ("tokens/embeddings", "tokens.weight"),
    ("block1_attention/query/kernel", "block1_attention.query.weight"),
  ],
)
def test_name_in_torch(name, expected):
  assert problem_lib.torch_name(name) == expected


def test_batches_are_all_examples_in_order():
  problem = small()
  batches = list(problem.batches())
  assert [len(y) for _, y in batches] == [3, 3, 1] and problem.num_batches == 3
  np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), problem.inputs)
  np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), problem.labels)


def test_problem_is_loaded_as_it_was_saved(tmp_path):
  problem = small(shapes=((2, 3), (3,)))
  problem.save(tmp_path / "problem.npz")
  loaded = problem_lib.load(tmp_path / "problem.npz")
  for field in ("network", "batch_size", "names", "shapes"):
    assert getattr(loaded, field) == getattr(problem, field)
  for field in ("inputs", "labels", "parameters"):
    np.testing.assert_array_equal(getattr(loaded, field), getattr(problem, field))


def test_problem_of_resnet32_names_every_parameter_for_torch():
  problem = making.make_resnet32(2, 3)
  assert len(problem.parameters) == 464_154 == sum(np.prod(s) for s in problem.shapes)
  assert problem.inputs.shape == (6, 32, 32, 3) and problem.num_batches == 2
  assert len({problem_lib.torch_name(n) for n in problem.names}) == len(problem.names)


def test_problem_of_the_small_network_is_one_batch_of_the_digits():
  problem = making.make_mlp()
  assert problem.parameters.shape == (15_910,) and problem.num_batches == 1
  assert problem.labels.shape == (1000,)


def test_problem_of_the_transformer_predicts_each_next_token():
  problem = making.make_transformer(2, 3)
  assert len(problem.parameters) == 1_058_536 == sum(np.prod(s) for s in problem.shapes)
  assert problem.inputs.shape == problem.labels.shape == (6, 64) and problem.num_batches == 2
  np.testing.assert_array_equal(problem.inputs[:, 1:], problem.labels[:, :-1])
  assert len({problem_lib.torch_name(n) for n in problem.names}) == len(problem.names)
