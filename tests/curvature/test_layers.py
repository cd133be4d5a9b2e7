"""Layer by layer: right second derivatives, or an error that names the layer."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.curvature.second_order import DifferentiationError

layers = keras.layers
IMAGE, SEQUENCE, VECTOR, TOKENS = (6, 6, 2), (3, 2), (6,), (5,)


def attention():
  inputs = keras.Input(SEQUENCE)
  return keras.Model(inputs, layers.MultiHeadAttention(2, 3)(inputs, inputs))


# name: (layers, shape of an example, training). Before layers without parameters, or linear in
# them, stands one with parameters and a smooth activation.
TABLE = {
  "Dense": (lambda: [layers.Dense(4, "tanh")], VECTOR, False),
  "Conv2D": (lambda: [layers.Conv2D(2, 3, activation="tanh")], IMAGE, False),
  "DepthwiseConv2D": (
    lambda: [layers.DepthwiseConv2D(3, strides=2, activation="tanh")],
    IMAGE,
    False,
  ),
  "SeparableConv2D": (lambda: [layers.SeparableConv2D(2, 3, activation="tanh")], IMAGE, False),
  "Conv2DTranspose": (
    lambda: [layers.Conv2DTranspose(2, 3, strides=2, activation="tanh")],
    IMAGE,
    False,
  ),
  "BatchNormalization, batch statistics": (
    lambda: [layers.Dense(4, "tanh"), layers.BatchNormalization()],
    VECTOR,
    True,
  ),
  "BatchNormalization, moving statistics": (
    lambda: [layers.Dense(4, "tanh"), layers.BatchNormalization()],
    VECTOR,
    False,
  ),
  "LayerNormalization": (
    lambda: [layers.Dense(4, "tanh"), layers.LayerNormalization()],
    VECTOR,
    False,
  ),
  "GroupNormalization": (
    lambda: [layers.Conv2D(4, 3, activation="tanh"), layers.GroupNormalization(2)],
    IMAGE,
    False,
  ),
  "MaxPooling2D": (
    lambda: [layers.Conv2D(2, 3, padding="same", activation="tanh"), layers.MaxPooling2D(2)],
    IMAGE,
    False,
  ),
  "MaxPooling2D overlapping": (
    lambda: [
      layers.Conv2D(2, 3, padding="same", activation="tanh"),
      layers.MaxPooling2D(3, strides=2, padding="same"),
    ],
    IMAGE,
    False,
  ),
  "AveragePooling2D": (
    lambda: [layers.Conv2D(2, 3, activation="tanh"), layers.AveragePooling2D(2)],
    IMAGE,
    False,
  ),
  "Embedding": (
    lambda: [layers.Embedding(7, 2), layers.Dense(2, "tanh")],
    TOKENS,
    False,
  ),
  "LSTM": (lambda: [layers.LSTM(2)], SEQUENCE, False),
  "GRU": (lambda: [layers.GRU(2)], SEQUENCE, False),
  "GRU unrolled": (lambda: [layers.GRU(2, unroll=True)], SEQUENCE, False),
  "MultiHeadAttention": (lambda: [attention()], SEQUENCE, False),
  "Dropout": (lambda: [layers.Dense(6, "tanh"), layers.Dropout(0.4)], VECTOR, True),
}


def operator_of(parts, shape, training=False, **options):
  """Returns a float64 operator of layers with two outputs behind them."""
  model = keras.Sequential(
    [keras.Input(shape), *parts, layers.Flatten(), layers.Dense(2, "tanh", name="head")]
  )
  rng = np.random.default_rng(0)
  # Weights away from zero, so that no second derivative is zero by symmetry.
  for v in model.trainable_variables:
    v.assign(v.numpy() + 0.1 * rng.standard_normal(v.shape))
  x = rng.integers(0, 7, (5, *shape)) if shape == TOKENS else rng.standard_normal((5, *shape))
  return HessianOperator(
    model, "mse", [(x, rng.standard_normal((5, 2)))], training=training, **options
  )


# One of each kind of derivative. The others are of the same operations, and convolutions and dense
# layers are in most models of other tests.
QUICK = (
  "BatchNormalization, batch statistics",
  "LayerNormalization",
  "MaxPooling2D overlapping",
  "Embedding",
  "MultiHeadAttention",
  "Dropout",
)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
  "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in TABLE]
)
def test_products_equal_central_differences_of_the_gradient(name, difference_error):
  make, shape, training = TABLE[name]
  operator = operator_of(make(), shape, training)
  directions = np.random.default_rng(1).standard_normal((operator.shape[0], 3))
  directions /= np.linalg.norm(directions, axis=0)
  products = np.stack([operator @ d for d in directions.T], axis=1)
  # Differences at the best step err by some 1e-10 (see difference_error); third derivatives of
  # these nets are up to ten times the second ones.
  assert difference_error(operator, directions, products) <= 1e-8


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("make", [layers.LSTM, layers.GRU])
def test_loops_of_recurrent_layers_choose_the_mode_that_passes_them(make):
  assert operator_of([make(2)], SEQUENCE).mode == "backward_over_backward"


@pytest.mark.usefixtures("float64")
def test_forward_mode_through_a_loop_is_refused_naming_the_layer():
  with pytest.raises(DifferentiationError, match="can't pass operation .*While of layer 'loop'"):
    operator_of([layers.GRU(2, name="loop")], SEQUENCE, mode="forward_over_backward")


class Operation(layers.Layer):
  """A function of TensorFlow as a layer."""

  def __init__(self, function, **kwargs):
    super().__init__(**kwargs)
    self.function = function

  def call(self, inputs):
    return self.function(inputs)


def dilation(x):
  return tf.nn.dilation2d(x, tf.ones((2, 2, 2)), [1, 1, 1, 1], "SAME", "NHWC", [1, 1, 1, 1])


def crop(x):
  boxes = tf.repeat([[0.0, 0.0, 1.0, 1.0]], tf.shape(x)[0], axis=0)
  return tf.image.crop_and_resize(x, boxes, tf.range(tf.shape(x)[0]), (3, 3))


def rotation(x):
  transforms = [[0.9, 0.1, 0.2, -0.1, 0.9, 0.0, 0.0, 0.0]]
  return tf.raw_ops.ImageProjectiveTransformV2(
    images=x, transforms=transforms, output_shape=[6, 6], interpolation="BILINEAR"
  )


def in_float32(function):
  """A function that has no float64 kernel, of float64 images."""
  return lambda x: tf.cast(function(tf.cast(x, tf.float32)), x.dtype)


# docs/limits.md lists the same.
REFUSED = {
  "nn.fractional_max_pool": lambda x: tf.nn.fractional_max_pool(x, 1.5, seed=1)[0],
  "nn.dilation2d": dilation,
  "math.igamma": lambda x: tf.math.igamma(1 + x * x, tf.ones_like(x)),
  "rotation": rotation,
  "image.hsv_to_rgb": lambda x: tf.image.hsv_to_rgb(tf.concat([x, x], -1)[..., :3]),
  "fake quantization": tf.quantization.fake_quant_with_min_max_args,
  "linspace": lambda x: x + tf.raw_ops.LinSpace(start=x[0, 0, 0, 0], stop=1.0, num=2),
  "py_function": lambda x: tf.ensure_shape(tf.py_function(tf.square, [x], x.dtype), x.shape),
  "numpy_function": lambda x: tf.ensure_shape(tf.numpy_function(np.square, [x], x.dtype), x.shape),
}

# Linear in the images, or constant almost everywhere in what is not linear.
IMAGE_OPERATIONS = {
  "UpSampling2D bilinear": layers.UpSampling2D(2, interpolation="bilinear"),
  "UpSampling2D bicubic": layers.UpSampling2D(2, interpolation="bicubic"),
  "Resizing bilinear": layers.Resizing(4, 4, interpolation="bilinear"),
  "Resizing nearest": layers.Resizing(4, 4, interpolation="nearest"),
  "Resizing bicubic": layers.Resizing(4, 4, interpolation="bicubic"),
  "image.resize lanczos5": in_float32(lambda x: tf.image.resize(x, (4, 4), "lanczos5")),
  "image.resize antialias": in_float32(lambda x: tf.image.resize(x, (4, 4), antialias=True)),
  "image.crop_and_resize": crop,
  "MaxPooling2D strides 1 same": layers.MaxPooling2D(2, strides=1, padding="same"),
  "MaxPooling2D size 3": layers.MaxPooling2D(3, strides=1, padding="same"),
  "MaxPooling2D of one pixel": lambda x: tf.nn.max_pool2d(x[:, :1, :1], 2, 2, "SAME"),
  "nn.max_pool2d explicit": lambda x: tf.nn.max_pool2d(x, 2, 2, [[0, 0], [1, 1], [0, 0], [0, 0]]),
  "nn.max_pool_with_argmax": lambda x: tf.nn.max_pool_with_argmax(x, 2, 2, "SAME")[0],
  "nn.local_response_normalization": in_float32(tf.nn.local_response_normalization),
  "softsign": layers.Activation("softsign"),
}

# test_operations has quick examples of softsign and of maxima with their places.
FAST = (
  "UpSampling2D bilinear",
  "MaxPooling2D strides 1 same",
)


def with_culprit(layer):
  """Layers with a given one, named "culprit", after one that has parameters."""
  if isinstance(layer, layers.Layer):
    # In the dtype of the test, not that of the table.
    culprit = type(layer).from_config(layer.get_config() | {"name": "culprit", "dtype": None})
  else:
    culprit = Operation(layer, name="culprit")
  return [layers.Conv2D(2, 3, padding="same", activation="tanh"), culprit]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_differentiated_twice_is_refused_naming_the_layer(name):
  with pytest.raises(DifferentiationError, match="'culprit'"):
    operator = operator_of(with_culprit(REFUSED[name]), IMAGE)
    operator @ np.ones(operator.shape[0])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
  "name",
  [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in IMAGE_OPERATIONS],
)
def test_image_operations_pass_forward_over_backward(name, difference_error):
  operator = operator_of(with_culprit(IMAGE_OPERATIONS[name]), IMAGE)
  assert operator.mode == "forward_over_backward"
  directions = np.random.default_rng(1).standard_normal((2, operator.shape[0]))
  directions /= np.linalg.norm(directions, axis=1, keepdims=True)
  products = np.stack([operator @ d for d in directions])
  # Resizing gives float32: eps^(2/3) = 2e-5 at best, times third derivatives. A part that is
  # dropped is more than a percent here.
  single = "ool" not in name and name != "softsign"
  steps = (1e-2, 3e-3, 1e-3) if single else (1e-4, 1e-5, 1e-6)  # these have kinks
  error = difference_error(operator, directions.T, products.T, steps=steps)
  assert error <= (1e-3 if single else 1e-7)
  # Some roundings, in sums of up to 180 terms.
  atol = 100 * np.finfo(np.float32 if single else np.float64).eps * np.abs(products).max()
  forms = directions @ products.T
  np.testing.assert_allclose(forms, forms.T, rtol=0, atol=atol)
  for stacked in (True, False):
    operator.vectorized = stacked
    np.testing.assert_allclose(operator.products(directions), products, rtol=0, atol=atol)


@pytest.mark.parametrize("name", ["UpSampling2D bilinear", "MaxPooling2D strides 1 same"])
def test_image_operations_are_refused_backward_over_backward_naming_the_layer(name):
  parts = with_culprit(IMAGE_OPERATIONS[name])
  operator = operator_of(parts, IMAGE, mode="backward_over_backward")
  with pytest.raises(DifferentiationError, match="'culprit'"):
    operator @ np.ones(operator.shape[0])


def test_what_is_dropped_in_blocks_is_refused_naming_the_operation():
  with pytest.raises(DifferentiationError, match="uses the operation ResizeBilinearGrad"):
    operator = operator_of(with_culprit(layers.Resizing(4, 4)), IMAGE, recompute_blocks=2)
    operator @ np.ones(operator.shape[0])


@pytest.mark.usefixtures("float64")
def test_a_decorated_resizing_is_that_of_the_function_in_it():
  plain = lambda x: tf.image.resize(x, (4, 4))  # noqa: E731
  operators = []
  for function in (plain, tf.function(plain)):
    random.seed(0)
    operators.append(operator_of(with_culprit(function), IMAGE))
  v = np.ones(operators[0].shape[0])
  np.testing.assert_array_equal(*(o @ v for o in operators))


def test_recomputed_activations_are_refused_backward_over_backward():
  made = with_culprit(tf.recompute_grad(tf.math.sin))
  operator = operator_of(made, IMAGE, mode="backward_over_backward")
  with pytest.raises(DifferentiationError, match="recompute_grad"):
    operator @ np.ones(operator.shape[0])


@pytest.mark.usefixtures("float64")
def test_recomputed_activations_are_differentiated_forward_over_backward(difference_error):
  operator = operator_of(with_culprit(tf.recompute_grad(tf.math.sin)), IMAGE)
  directions = np.eye(operator.shape[0])[:, :3]
  products = np.stack([operator @ d for d in directions.T], axis=1)
  assert difference_error(operator, directions, products) <= 1e-8


@pytest.mark.usefixtures("float64")
def test_variables_behind_what_cannot_be_differentiated_twice_can_be_chosen(difference_error):
  made = with_culprit(REFUSED["py_function"])
  operator = operator_of(made, IMAGE, variables="head")
  directions = np.eye(operator.shape[0])[:, :3]
  products = np.stack([operator @ d for d in directions.T], axis=1)
  assert difference_error(operator, directions, products) <= 1e-8


@pytest.mark.parametrize("make", [layers.RandomRotation, layers.RandomZoom])
def test_image_transforms_behind_variables_are_refused(make):
  parts = [layers.Conv2D(2, 3, padding="same", activation="tanh"), make(0.3, name="culprit")]
  operator = operator_of(parts, IMAGE, training=True)
  with pytest.raises(DifferentiationError, match="'culprit'.*wrong gradient"):
    operator @ np.ones(operator.shape[0])


@pytest.mark.slow
def test_image_transforms_of_the_inputs_pass():
  parts = [layers.RandomRotation(0.3), layers.Conv2D(2, 3, activation="tanh")]
  operator = operator_of(parts, IMAGE, training=True)
  dense = operator @ np.eye(operator.shape[0])
  # float32 products; behind variables the asymmetry was 0.3.
  assert np.abs(dense - dense.T).max() <= 1e-5 * np.abs(dense).max()


@pytest.mark.usefixtures("float64")
@pytest.mark.slow
def test_grouped_convolutions_pass_every_time(difference_error):
  for _ in range(6):  # half of them failed when sums in functions were renamed in varying order
    operator = operator_of([layers.Conv2D(4, 3, groups=2, activation="tanh")], IMAGE)
    directions = np.eye(operator.shape[0])[:, :1]
    products = np.stack([operator @ d for d in directions.T], axis=1)
  assert difference_error(operator, directions, products) <= 1e-8


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
  "make",
  [
    layers.SimpleRNN,
    *(pytest.param(layer, marks=pytest.mark.slow) for layer in (layers.LSTM, layers.GRU)),
  ],
)
def test_several_columns_through_loops_equal_single_ones(make):
  operator = operator_of([make(2)], SEQUENCE)
  columns = np.eye(operator.shape[0])[:, :40]
  expected = np.stack([operator @ v for v in columns.T], axis=1)
  np.testing.assert_array_equal(operator @ columns, expected)


@pytest.mark.usefixtures("float64")
def test_tf_nn_moments_is_restored_after_tracing():
  before = tf.nn.moments
  make, shape, training = TABLE["BatchNormalization, batch statistics"]
  operator_of(make(), shape, training).loss()
  assert tf.nn.moments is before
