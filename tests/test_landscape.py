"""Losses along directions of losses that are known."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_hessian
from tf_hessian.curvature.passes import DataPass
from tf_hessian.landscape import loss_along

A = np.array([[3.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, -1.0]])
POINT = np.array([1.0, -2.0, 0.5])


@pytest.fixture
def quadratic():
  """An operator of x' A x / 2 in float64."""
  variable = tf.Variable(POINT)
  loss = lambda p, batch: batch * tf.tensordot(p[0], tf.linalg.matvec(A, p[0]), 1) / 2  # noqa: E731
  return tf_hessian.HessianOperator([variable], loss, [np.ones(2)])


@pytest.mark.parametrize("normalize", ["none", "unit"])
def test_of_a_quadratic_losses_are_its_own(quadratic, normalize):
  direction = np.array([0.0, 3.0, 4.0])
  found = loss_along(quadratic, direction, normalize=normalize, progress=False)
  t = np.linspace(-1, 1, 21)
  d = direction / (5 if normalize == "unit" else 1)
  x = POINT + t[:, None] * d
  expected = np.einsum("ti,ij,tj->t", x, A, x) / 2
  np.testing.assert_allclose(found.losses, expected, rtol=1e-14)
  np.testing.assert_allclose(found.quadratic, expected, rtol=1e-13, atol=1e-13)
  np.testing.assert_array_equal(found.distances[0], t)
  assert found.slopes[0] == pytest.approx(d @ A @ POINT)
  assert found.curvatures[0, 0] == pytest.approx(d @ A @ d)


def test_of_a_plane_too(quadratic):
  directions, grid = np.eye(3)[:2], (np.array([-1.0, 2.0]), np.array([0.5, 1.0, 3.0]))
  found = loss_along(quadratic, directions, grid, progress=False)
  assert found.losses.shape == (2, 3)
  x = POINT + np.array([[[a, b, 0.0] for b in grid[1]] for a in grid[0]])
  np.testing.assert_allclose(found.losses, np.einsum("abi,ij,abj->ab", x, A, x) / 2, rtol=1e-14)
  np.testing.assert_allclose(found.quadratic, found.losses, rtol=1e-13)
  assert found.loss == pytest.approx(POINT @ A @ POINT / 2)


@pytest.mark.parametrize("distances, passes", [(None, 21), (np.array([1.0, 2.0]), 3)])
def test_points_take_a_pass_each_and_the_quadratic_two(quadratic, monkeypatch, distances, passes):
  quadratic.gradient()  # the weights' pass is made
  made, call = [], DataPass.__call__
  monkeypatch.setattr(
    DataPass, "__call__", lambda self, *a: made.append(self.name) or call(self, *a)
  )
  loss_along(quadratic, np.ones(3), distances, progress=False)
  assert (made.count("loss"), made.count("gradient"), made.count("product")) == (passes, 1, 1)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_model_is_put_back_after_an_error(quadratic, monkeypatch, error):
  def fail():
    raise error

  monkeypatch.setattr(quadratic, "loss", fail)
  with pytest.raises(error):
    loss_along(quadratic, np.ones(3), progress=False)
  np.testing.assert_array_equal(quadratic.parameters(), POINT)


def test_filters_have_the_lengths_of_the_models():
  model = keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Conv2D(3, 2)])
  data = [(np.ones((2, 4, 4, 2), np.float32), np.zeros((2, 3, 3, 3), np.float32))]
  operator = tf_hessian.HessianOperator(model, "mean_squared_error", data)
  direction = np.random.default_rng(0).standard_normal(operator.shape[0])
  found = loss_along(operator, direction, np.zeros(1), normalize="filter", progress=False)
  kernel, bias = operator.unflatten(found.directions[0]).values()
  given, _ = operator.unflatten(direction).values()
  weights = model.layers[0].kernel.numpy()
  norm = lambda x: np.sqrt(np.sum(x.astype(np.float64) ** 2, axis=(0, 1, 2)))  # noqa: E731
  np.testing.assert_allclose(norm(kernel), norm(weights), rtol=1e-6)
  np.testing.assert_allclose(kernel / norm(kernel), given / norm(given), rtol=1e-12)
  assert not bias.any()


@pytest.mark.slow
@pytest.mark.parametrize("directions", [np.ones(3), np.eye(3)[:2]])
def test_picture_is_drawn(quadratic, tmp_path, directions):
  found = loss_along(quadratic, directions, progress=False)
  found.plot(tmp_path / "loss.png", title="a loss")
  assert (tmp_path / "loss.png").stat().st_size > 5_000
  with pytest.raises(ValueError, match="unknown format"):
    found.plot(tmp_path / "loss.bmpx")


@pytest.mark.parametrize(
  "directions, distances, options, message",
  [
    (np.ones(4), None, {}, r"expected shape \(3,\) or \(2, 3\), got \(4,\)"),
    (np.ones((3, 3)), None, {}, "expected shape"),
    (np.zeros(3), None, {}, "not zero"),
    (np.array([[1.0, 0, 0], [0, 0, 0]]), None, {}, "not zero"),
    (np.array([np.nan, 0, 0]), None, {}, "finite"),
    (np.ones(3), np.array([np.inf]), {}, "distances: expected an array of finite"),
    (np.eye(3)[:2], np.zeros(3), {}, "distances: expected two arrays"),
    (np.ones(3), None, {"normalize": "filters"}, "did you mean 'filter'"),
    (np.ones(3), None, {"normalize": "filter"}, "takes biases and scales out"),
  ],
)
def test_bad_arguments_are_refused(quadratic, directions, distances, options, message):
  with pytest.raises(ValueError, match=message):
    loss_along(quadratic, directions, distances, progress=False, **options)


# Filters.


def filtered(layer, shape, seed=0):
  """Returns (weights, normalized direction) of a layer, by the names of its variables."""
  keras.utils.set_random_seed(seed)
  inputs = keras.Input(shape)
  x = layer(inputs, inputs) if isinstance(layer, keras.layers.MultiHeadAttention) else layer(inputs)
  x = keras.layers.Dense(1)(keras.layers.Flatten()(x))
  model = keras.Model(inputs, x)
  for v in model.trainable_variables:  # biases are zeros at first, which would hide them
    v.assign(v + 0.1 * np.random.default_rng(1).standard_normal(v.shape))
  data = [(np.random.default_rng(2).standard_normal((2, *shape)), np.ones((2, 1)))]
  operator = tf_hessian.HessianOperator(model, "mse", data)
  v = np.random.default_rng(3).standard_normal(operator.shape[0])
  found = loss_along(operator, v, np.array([0.0]), normalize="filter", progress=False)
  return operator.unflatten(operator.parameters()), operator.unflatten(found.directions[0])


K = keras.layers
# Layer, shape of its inputs, and by variable the axes within a filter; others are no kernels.
FILTERS = {
  "convolution": (lambda: K.Conv2D(3, 2), (4, 4, 2), {"kernel": (0, 1, 2)}),
  "transposed": (lambda: K.Conv2DTranspose(3, 2), (4, 4, 2), {"kernel": (0, 1, 3)}),
  "depthwise": (
    lambda: K.DepthwiseConv2D(2, depth_multiplier=2),
    (4, 4, 2),
    {"kernel": (0, 1)},
  ),
  "separable": (
    lambda: K.SeparableConv2D(3, 2),
    (4, 4, 2),
    {"depthwise_kernel": (0, 1), "pointwise_kernel": (0, 1, 2)},
  ),
  "attention": (lambda: K.MultiHeadAttention(2, 3), (4, 2), {"kernel": (0, 1)}),
  "recurrent": (lambda: K.GRU(2), (4, 2), {"kernel": (0,), "recurrent_kernel": (0,)}),
  "einsum": (
    lambda: K.EinsumDense("abc,cde->abde", output_shape=(4, 2, 3), bias_axes="de"),
    (4, 2),
    {"kernel": (0, 1)},
  ),
  "PReLU": (lambda: K.PReLU(), (4, 2), {}),
  "norm": (lambda: K.LayerNormalization(axis=(1, 2)), (4, 2), {}),
}


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(n, marks=[] if n in ("transposed", "separable", "recurrent") else pytest.mark.slow)
    for n in FILTERS
  ],
)
def test_filters_have_the_lengths_of_the_models_in_any_layer(name):
  make, shape, kernels = FILTERS[name]
  weights, direction = filtered(make(), shape)
  for path, part in direction.items():
    axes = kernels.get(path.rpartition("/")[2])
    if path.startswith("dense"):
      continue
    if axes is None:
      assert not part.any(), path
    else:
      lengths = [
        np.sqrt(np.sum(x.astype(np.float64) ** 2, axis=axes)) for x in (part, weights[path])
      ]
      np.testing.assert_allclose(*lengths, rtol=1e-5)
