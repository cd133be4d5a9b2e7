"""Architectures that others wrote: keras.applications, and backbones of KerasHub."""

import inspect
import time

import keras
import numpy as np
import pytest

import tf_hessian

# The smallest of each family; the larger ones repeat the same blocks and take hours.
SMALLEST = (
  "ConvNeXtTiny",
  "DenseNet121",
  "EfficientNetB0",
  "EfficientNetV2B0",
  "InceptionResNetV2",
  "InceptionV3",
  "MobileNet",
  "MobileNetV2",
  "MobileNetV3Small",
  "NASNetMobile",
  "ResNet50",
  "ResNet50V2",
  "VGG16",
  "VGG19",
  "Xception",
)
CONSTRUCTORS = {
  name: thing
  for name, thing in inspect.getmembers(keras.applications, inspect.isfunction)
  if "weights" in inspect.signature(thing).parameters
}
# Of inputs: what the architectures have for their least, from the smallest on.
SIDES = (32, 71, 75, 139, 224)
EXAMPLES, CLASSES = 2, 3
# Differences of float64 gradients are good to 1e-10 times the size of third derivatives; those of
# float32 ones to 1e-4 times it, and 1e-2 finds any error above a percent.
BOUNDS = {"float64": 1e-7, "float32": 1e-2}
LENGTH, WORDS = 6, 20
BLOCKS = {"num_layers": 2, "hidden_dim": 8, "intermediate_dim": 16}
TEXT = BLOCKS | {"vocabulary_size": WORDS}
BACKBONES = {
  "BertBackbone": TEXT | {"num_heads": 2, "max_sequence_length": LENGTH},
  "GPT2Backbone": TEXT | {"num_heads": 2, "max_sequence_length": LENGTH},
  "LlamaBackbone": TEXT | {"num_query_heads": 2, "num_key_value_heads": 1},
  "T5Backbone": TEXT | {"num_heads": 2},
  "ViTBackbone": {
    "image_shape": (8, 8, 3),
    "patch_size": 4,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "mlp_dim": 16,
  },
}


def smallest_model(constructor):
  """Returns a model on the smallest images that its architecture takes."""
  for side in SIDES:
    try:
      return constructor(weights=None, classes=CLASSES, input_shape=(side, side, 3))
    except ValueError as e:
      error = e
  raise error


def shake(model):
  """Moves offsets and means away from zero, where dead units lie on the kinks of ReLU exactly."""
  rng = np.random.default_rng(0)
  for v in model.variables:
    if len(v.shape) == 1 and "variance" not in v.path and "seed_generator" not in v.path:
      v.assign(v.numpy() + 0.1 * rng.standard_normal(v.shape))


def images(model, floatx):
  """Returns images in the range of values that a model rescales, or of [0, 1]."""
  names = {type(layer).__name__ for layer in model.layers}
  top = 255.0 if names & {"Rescaling", "Normalization"} else 1.0
  shape = (EXAMPLES, *model.input_shape[1:])
  return np.random.default_rng(1).uniform(0.0, top, shape).astype(floatx)


def classifier(backbone):
  """Returns a model that tells classes from the mean of what a backbone makes of a sequence."""
  outputs = backbone.output
  if isinstance(outputs, dict):
    outputs = outputs.get("sequence_output", outputs.get("decoder_sequence_output"))
  pooled = keras.ops.mean(outputs, axis=1)
  head = keras.layers.Dense(CLASSES, "softmax", name="head")
  return keras.Model(backbone.input, head(pooled))


def data_of(model, floatx):
  """Returns tokens and masks, or an image, like a model's inputs."""
  if not isinstance(model.input, dict):
    if len(model.input_shape) == 4:
      return images(model, floatx)
    return np.random.default_rng(1).integers(1, WORDS, (EXAMPLES, LENGTH))
  return {name: _tokens(name) for name in model.input}


def _tokens(name):
  if "segment" in name:
    return np.zeros((EXAMPLES, LENGTH), "int32")
  if "mask" in name:
    return np.ones((EXAMPLES, LENGTH), "int32")
  return np.random.default_rng(1).integers(1, WORDS, (EXAMPLES, LENGTH)).astype("int32")


@pytest.fixture
def checked(capsys):
  """Returns a function: (name, model, inputs, bound); it prints what starting took."""

  def check(name, model, inputs, floatx):
    shake(model)
    loss = keras.losses.SparseCategoricalCrossentropy()
    begin = time.monotonic()
    batch = (inputs, np.arange(EXAMPLES) % CLASSES)
    operator = tf_hessian.HessianOperator(model, loss, [batch])
    operator @ np.ones(operator.shape[0])
    seconds = time.monotonic() - begin
    report = tf_hessian.check_operator(operator)
    with capsys.disabled():
      print(
        f"\n{name}, {floatx}, n = {operator.shape[0]:,}: {seconds:.1f} s to the first product, "
        f"{report.difference_error} from differences in {report.compared_in}"
      )
    assert report.passed is True, report.problems
    assert report.difference_error is not None, report.difference_skipped
    assert report.difference_error <= BOUNDS[report.compared_in]  # Llama's norms name float32

  yield check
  keras.backend.clear_session()


def test_each_family_of_architectures_has_a_member_that_is_tried():
  families = {thing.__module__ for thing in CONSTRUCTORS.values()}
  assert families == {CONSTRUCTORS[name].__module__ for name in SMALLEST}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
  "name",
  [
    pytest.param(n, marks=pytest.mark.slow if n in SMALLEST else pytest.mark.hours)
    for n in CONSTRUCTORS
  ],
)
def test_architectures_of_keras_have_the_right_products(name, checked):
  model = smallest_model(CONSTRUCTORS[name])
  checked(name, model, images(model, "float64"), "float64")


# KerasHub's T5 has layers without masks or build(), and Keras says so.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_of_keras_hub_have_the_right_products(name, checked):
  keras_hub = pytest.importorskip("keras_hub")
  model = classifier(getattr(keras_hub.models, name)(**BACKBONES[name]))
  checked(name, model, data_of(model, "float64"), "float64")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_of_keras_hub_are_checked_as_they_are_made(name, checked):
  keras_hub = pytest.importorskip("keras_hub")
  model = classifier(getattr(keras_hub.models, name)(**BACKBONES[name]))
  checked(name, model, data_of(model, "float32"), "float32")
