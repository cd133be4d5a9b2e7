"""VGG-11: sizes and switches."""

import keras
import numpy as np
import pytest

from tf_hessian.models.normalization import PopulationNormalization
from tf_hessian.models.vgg import vgg11


def trainable(model):
  return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def expected_size(*, width=64, dense_units=256, poolings=3, normalization="none"):
  """Returns the number of weights of configuration A for CIFAR-10, counted by hand."""
  outputs = [width * i for i in (1, 2, 4, 4, 8, 8, 8, 8)]
  kernels = sum(9 * a * b for a, b in zip([3, *outputs[:-1]], outputs, strict=True))
  units = [8 * width * (32 // 2**poolings) ** 2, dense_units, dense_units, 10]
  dense = sum((a + 1) * b for a, b in zip(units, units[1:], strict=False))
  return kernels + sum(outputs) * (1 if normalization == "none" else 2) + dense


def layers(model, kind):
  return [layer for layer in model.layers if isinstance(layer, kind)]


@pytest.mark.parametrize(
  "pooled_stages, size", [((1, 2, 3), 11_386_250), ((1, 2, 3, 4, 5), 9_420_170)]
)
def test_sizes_are_those_of_the_documentation(pooled_stages, size):
  assert trainable(vgg11(pooled_stages=pooled_stages)) == size
  assert expected_size(poolings=len(pooled_stages)) == size


def test_default_pools_after_the_first_three_stages():
  model = vgg11(width=1)
  assert [p.name for p in layers(model, keras.layers.MaxPooling2D)] == [
    f"stage{i}_pool" for i in (1, 2, 3)
  ]


OPTIONS = [
  {},
  {"dense_units": 300},
  {"normalization": "batch"},
  {"normalization": "population", "dense_units": 3},
]


@pytest.mark.parametrize(
  "options, pooled_stages",
  [
    *zip(OPTIONS, [(1, 2, 3), (5, 1, 2, 3)] * 2, strict=True),
    *(
      pytest.param(options, stages, marks=pytest.mark.slow)
      for options, stages in zip(OPTIONS, [(5, 1, 2, 3), (1, 2, 3)] * 2, strict=True)
    ),
  ],
)
def test_number_of_parameters_is_that_of_the_layers(options, pooled_stages):
  model = vgg11(width=2, pooled_stages=pooled_stages, **options)
  assert trainable(model) == expected_size(width=2, poolings=len(pooled_stages), **options)


def test_there_are_eleven_weight_layers():
  kinds = keras.layers.Conv2D, keras.layers.Dense
  assert len(layers(vgg11(width=1), kinds)) == 11


@pytest.mark.parametrize(
  "pooled_stages, sizes",
  [
    ((), [32, 32, 32, 32, 32]),
    ((1, 2, 3), [16, 8, 4, 4, 4]),
    ((2, 5), [32, 16, 16, 16, 8]),
    ((1, 2, 3, 4, 5), [16, 8, 4, 2, 1]),
  ],
)
def test_maps_are_halved_after_the_stages_asked_for(pooled_stages, sizes):
  model = vgg11(width=1, dense_units=1, pooled_stages=pooled_stages)
  following = [f"stage{i}_1_conv" for i in (2, 3, 4, 5)] + ["flatten"]
  assert [model.get_layer(name).input.shape[1:3] for name in following] == [(s, s) for s in sizes]


@pytest.mark.parametrize("pooled_stages", [(0,), (6,), (-1,), (1, 2, 6)])
def test_stages_that_are_not_there_are_refused(pooled_stages):
  with pytest.raises(ValueError, match="pooled_stages: expected stages of 1 to 5, got"):
    vgg11(pooled_stages=pooled_stages)


@pytest.mark.parametrize(
  "normalization, kind, count",
  [
    ("none", None, 0),
    ("batch", keras.layers.BatchNormalization, 8),
    ("population", PopulationNormalization, 8),
  ],
)
def test_normalization_is_the_one_asked_for(normalization, kind, count):
  model = vgg11(width=1, normalization=normalization)
  found = layers(model, keras.layers.BatchNormalization)
  assert [type(layer) for layer in found] == [kind] * count


@pytest.mark.parametrize(
  "normalization, use_bias", [("none", True), ("batch", False), ("population", False)]
)
def test_convolutions_before_a_normalization_have_no_bias(normalization, use_bias):
  model = vgg11(width=1, normalization=normalization)
  assert [c.use_bias for c in layers(model, keras.layers.Conv2D)] == [use_bias] * 8


def test_unknown_normalization_is_refused():
  with pytest.raises(ValueError, match="normalization: .* got 'layer'"):
    vgg11(normalization="layer")


def test_dropout_follows_both_fully_connected_layers():
  model = vgg11(width=1, dropout_rate=0.4)
  found = layers(model, keras.layers.Dropout)
  assert [d.rate for d in found] == [0.4, 0.4]
  assert [d.input for d in found] == [model.get_layer(f"dense_{i}").output for i in (1, 2)]


def test_dropout_of_zero_adds_no_layer():
  assert not layers(vgg11(width=1), keras.layers.Dropout)


@pytest.mark.parametrize(
  "shape, normalization",
  [((32, 32, 3), "none"), ((28, 28, 1), "batch"), ((9, 8, 2), "population")],
)
def test_images_become_finite_logits(shape, normalization):
  model = vgg11(
    width=2, dense_units=4, input_shape=shape, num_classes=5, normalization=normalization
  )
  logits = np.array(model(np.random.default_rng(0).random((3, *shape), np.float32)))
  assert logits.shape == (3, 5)
  assert np.isfinite(logits).all()


def test_outputs_are_logits():
  assert vgg11(width=1).get_layer("logits").activation is keras.activations.linear


def test_saved_model_gives_bitwise_the_same_logits(tmp_path):
  model = vgg11(width=2, dense_units=4, normalization="population")
  x = np.random.default_rng(0).random((3, 32, 32, 3), np.float32)
  model(x, training=True)
  model.save(tmp_path / "model.keras")
  found = keras.models.load_model(tmp_path / "model.keras", compile=False)
  np.testing.assert_array_equal(found(x), model(x))
