"""Linear regression has the spectrum that was asked for."""

import numpy as np
import pytest

from tf_hessian.data import synthetic


def arrays(**options):
  examples = list(synthetic.synthetic(**options).examples.as_numpy_iterator())
  return tuple(np.array(a) for a in zip(*examples, strict=True))


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"num_examples": 100},
    {"num_parameters": 10, "num_examples": 1000, "outliers": (2.0,), "bulk": 1.0},
    {"num_parameters": 3, "num_examples": 7},
    {"num_parameters": 5, "num_examples": 9, "outliers": (), "bulk": 0.0},
    {"seed": 3},
  ],
  ids=str,
)
def test_hessian_has_the_prescribed_eigenvalues(options):
  x, _ = arrays(dtype="float64", **options)
  spectrum = {k: v for k, v in options.items() if k not in ("num_examples", "seed")}
  expected = synthetic.eigenvalues(**spectrum)
  np.testing.assert_allclose(np.linalg.eigvalsh(2 * x.T @ x / len(x)), expected, rtol=0, atol=1e-12)


def test_eigenvalues_are_a_bulk_and_outliers_in_order():
  values = synthetic.eigenvalues(num_parameters=5, outliers=(5, 1), bulk=0.2)
  np.testing.assert_allclose(values, [0, 0.1, 0.2, 1, 5])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_examples_have_the_shapes_and_type_asked_for(dtype):
  x, y = arrays(num_examples=30, num_parameters=20, dtype=dtype)
  assert (x.shape, x.dtype, y.shape, y.dtype) == ((30, 20), dtype, (30, 1), dtype)


def test_same_seed_gives_the_same_examples():
  for a, b in zip(arrays(), arrays(), strict=True):
    np.testing.assert_array_equal(a, b)


def test_other_seed_gives_other_examples():
  assert not np.array_equal(arrays()[0], arrays(seed=1)[0])


def test_too_few_examples_are_refused():
  with pytest.raises(ValueError, match="num_examples.*100, got 99"):
    synthetic.synthetic(num_examples=99)


def test_too_many_outliers_are_refused():
  with pytest.raises(ValueError, match="outliers.*num_parameters = 2"):
    synthetic.synthetic(num_parameters=2)


@pytest.mark.parametrize("options", [{"outliers": (-1.0,)}, {"bulk": -0.1}])
def test_negative_eigenvalues_are_refused(options):
  with pytest.raises(ValueError, match="below 0"):
    synthetic.synthetic(**options)
