"""The problems of layers: arguments by the names of parameters, or from a table."""

import atexit
import dataclasses
import inspect
import shutil
import tempfile

import keras
import numpy as np
import tensorflow as tf

from benchmarks.coverage.catalog import Item
from benchmarks.coverage.measure import NO_EXAMPLE, Outcome
from benchmarks.coverage.problems import BATCH, Feed, Problem, Raw, around_layer

L = keras.layers

# What a parameter without a default is, wherever it is called so.
_ARGUMENTS = {
  "activation": "tanh",
  "cells": lambda: [L.LSTMCell(2), L.GRUCell(2)],
  "factor": 0.5,
  "filters": 2,
  "height": 4,
  "height_factor": 0.2,
  "kernel_size": 2,
  "output_size": 2,
  "pool_size": 2,
  "rate": 0.4,
  "stddev": 0.3,
  "units": 2,
  "width": 4,
  "width_factor": 0.2,
}
# By the dimension in a layer's name.
_SHAPES = {"1D": (6, 2), "2D": (6, 6, 2), "3D": (4, 4, 4, 2)}
_VECTOR, _SEQUENCE, _IMAGE, _PIXELS = (6,), (3, 2), (8, 8, 3), Feed((8, 8, 3), "pixels")
_WORDS = np.array([["a", "b"], ["b", "c"], ["c", "z"]])
_NUMBERS = np.array([[1, 2], [2, 3], [3, 0]])


@dataclasses.dataclass(frozen=True)
class Example:
  """Arguments and call of a layer that its signature doesn't tell.

  Attributes:
    arguments: of the constructor; values that are functions give the value, anew for each layer.
    inputs: `Feed`s, shapes of such, or `Raw`s.
    call: (layer, *inputs) -> outputs.
    label: what tells it from other examples of the layer.
  """

  arguments: dict = dataclasses.field(default_factory=dict)
  inputs: tuple | None = None
  call: object = None
  label: str = ""


def _listed(layer, *inputs):
  return layer(list(inputs))


def _spread(layer, *inputs):
  return layer(*inputs)


def _labelled(layer, images, labels):
  return layer({"images": images, "labels": labels})["images"]


class Inside(L.Layer):
  """Calls a layer that models would leave out.

  Its symbolic output is its symbolic input.
  """

  def __init__(self, layer):
    super().__init__()
    self.layer = layer

  def call(self, inputs, training=None):
    return self.layer(inputs, training=training)

  def compute_output_spec(self, inputs, **_):
    return keras.KerasTensor(inputs.shape, inputs.dtype)


def _options(name, values, **fixed):
  """Returns an example for each value of an argument."""
  return [Example(fixed | {name: v}, label=f"{name}={v}") for v in values]


def _saved_model():
  """Returns the folder of a SavedModel of tanh."""
  module = tf.Module()
  kind = tf.TensorSpec([None, *_VECTOR], keras.config.floatx())
  module.serve = tf.function(tf.tanh, input_signature=[kind])
  folder = tempfile.mkdtemp()
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  tf.saved_model.save(module, folder)
  return folder


_MERGED = [Example(inputs=(_VECTOR, _VECTOR), call=_listed)]
_RESIZED = ("nearest", "bilinear", "bicubic", "lanczos3", "lanczos5")
_ATTENTION = [Example(inputs=((3, 4), (5, 4)), call=_listed)]
_TRANSFORMED = ("nearest", "bilinear")

# Items are in the order of the documentation: of the same kind together.
EXAMPLES = {
  # Core
  "EinsumDense": [Example({"equation": "abc,cd->abd", "output_shape": (3, 4)}, (_SEQUENCE,))],
  "Embedding": [Example({"input_dim": 4, "output_dim": 3}, (Raw(_NUMBERS),))],
  "ReversibleEmbedding": [
    Example({"input_dim": 4, "output_dim": 3}, (Raw(_NUMBERS),)),
    Example(
      {"input_dim": 4, "output_dim": 2},
      (_SEQUENCE, Raw(_NUMBERS)),
      lambda layer, x, tokens: [layer(tokens), layer(x, reverse=True)],
      "reverse",
    ),
  ],
  "Lambda": [Example({"function": lambda: keras.ops.sin})],
  "Masking": [Example(inputs=(_SEQUENCE,))],
  "Pipeline": [Example({"layers": lambda: [L.Rescaling(2.0), L.Dense(3, "tanh")]})],
  # Merging
  **dict.fromkeys(("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply"), _MERGED),
  "Subtract": _MERGED,
  "Dot": [
    Example({"axes": 1, "normalize": n}, (_VECTOR, _VECTOR), _listed, f"normalize={n}")
    for n in (False, True)
  ],
  # Attention
  "AdditiveAttention": _ATTENTION,
  "Attention": [
    Example({"score_mode": m, "use_scale": True}, ((3, 4), (5, 4)), _listed, f"score_mode={m}")
    for m in ("dot", "concat")
  ],
  "MultiHeadAttention": [
    Example({"num_heads": 2, "key_dim": 3, "dropout": 0.2}, ((3, 4), (5, 4)), _spread)
  ],
  "GroupQueryAttention": [
    Example(
      {"head_dim": 3, "num_query_heads": 4, "num_key_value_heads": 2, "dropout": 0.2},
      ((3, 4), (5, 4)),
      _spread,
    )
  ],
  # Recurrent
  **dict.fromkeys(("GRU", "LSTM", "SimpleRNN"), _options("unroll", (False, True), units=2)),
  "ConvLSTM1D": [Example(inputs=((2, 4, 2),))],
  "ConvLSTM2D": [Example(inputs=((2, 4, 4, 2),))],
  "ConvLSTM3D": [Example(inputs=((2, 3, 3, 3, 2),))],
  "RNN": [Example({"cell": lambda: L.GRUCell(2)})],
  "Bidirectional": [Example({"layer": lambda: L.LSTM(2)})],
  "TimeDistributed": [Example({"layer": lambda: L.Dense(3, "tanh")}, (_SEQUENCE,))],
  # Convolutions and pooling
  **{
    f"Conv{d}": _options("padding", ("valid", "same"), filters=2, kernel_size=2)
    for d in ("1D", "2D", "3D")
  },
  **{
    f"MaxPooling{d}": [
      Example({"pool_size": 2}, label=""),
      Example(
        {"pool_size": 2, "strides": 1, "padding": "same"},
        # In three dimensions there is only float32, whose steps cross the kinks of many maxima.
        inputs=((2, 2, 2, 1),) if d == "3D" else (),
        label="strides=1, same",
      ),
    ]
    for d in ("1D", "2D", "3D")
  },
  "UpSampling2D": _options("interpolation", _RESIZED),
  # Normalization
  "BatchNormalization": [Example(label="vectors"), Example(inputs=((4, 4, 2),), label="images")],
  "GroupNormalization": [Example({"groups": 2}, ((4, 4, 4),))],
  "Normalization": [Example({"mean": 0.1, "variance": 2.0})],
  "SpectralNormalization": [Example({"layer": lambda: L.Dense(3, "tanh")})],
  # Regularization and reshaping
  "ActivityRegularization": [Example({"l1": 0.1, "l2": 0.1})],
  "Permute": [Example({"dims": (2, 1)}, (_SEQUENCE,))],
  "RepeatVector": [Example({"n": 2})],
  "Reshape": [Example({"target_shape": (3, 2)})],
  # Of data
  "CategoryEncoding": [Example({"num_tokens": 4}, (Raw(_NUMBERS),))],
  "Discretization": [Example({"bin_boundaries": [-0.5, 0.0, 0.5]})],
  "HashedCrossing": [
    Example({"num_bins": 3}, (Raw(_NUMBERS[:, :1]), Raw(_NUMBERS[:, 1:])), lambda f, *x: f(x))
  ],
  "Hashing": [Example({"num_bins": 3}, (Raw(_NUMBERS),))],
  "IntegerLookup": [Example({"vocabulary": [1, 2, 3]}, (Raw(_NUMBERS),))],
  "StringLookup": [Example({"vocabulary": ["a", "b", "c"]}, (Raw(_WORDS),))],
  "TextVectorization": [Example({"vocabulary": ["a", "b", "c"]}, (Raw(_WORDS[:, :1]),))],
  "MelSpectrogram": [
    Example(
      {
        "fft_length": 16,
        "sequence_stride": 8,
        "sampling_rate": 100,
        "num_mel_bins": 4,
        "min_freq": 1.0,
      },
      ((32,),),
    )
  ],
  "STFTSpectrogram": [
    Example({"mode": m, "frame_length": 8}, ((32, 1),), label=f"mode={m}")
    for m in ("log", "magnitude", "psd", "real", "imag", "angle")
  ],
  "Rescaling": [Example({"scale": 0.5, "offset": 0.1})],
  # Images
  "CenterCrop": [Example(inputs=(_IMAGE,))],
  **dict.fromkeys(
    ("CutMix", "MixUp"),
    [Example(inputs=(_IMAGE, Raw(np.eye(BATCH, dtype="float32"))), call=_labelled)],
  ),
  "Equalization": [Example(call=lambda layer, x: Inside(layer)(x))],
  "MaxNumBoundingBoxes": [Example({"max_number": 2}, (_IMAGE,))],
  "RandomColorJitter": [
    Example(
      {
        "brightness_factor": 0.3,
        "contrast_factor": 0.3,
        "saturation_factor": (0.3, 0.6),
        "hue_factor": 0.3,
      }
    )
  ],
  "RandomFlip": [Example(inputs=(_IMAGE,))],
  "RandomCrop": [Example(inputs=(_IMAGE,), call=lambda f, x: keras.ops.mean(f(x), (1, 2)))],
  "RandomPosterization": [Example({"factor": 4})],
  **dict.fromkeys(
    ("RandomPerspective", "RandomRotation", "RandomTranslation", "RandomZoom"),
    [Example({"interpolation": i}, (_IMAGE,), label=f"interpolation={i}") for i in _TRANSFORMED],
  ),
  "RandomShear": [
    Example(
      {"x_factor": 0.3, "y_factor": 0.3, "interpolation": i}, (_IMAGE,), label=f"interpolation={i}"
    )
    for i in _TRANSFORMED
  ],
  "RandomGrayscale": [Example(inputs=(_PIXELS,))],
  "ContrastLimitedAdaptiveHistogramEqualization": [Example({"tile_grid_size": (2, 2)})],
  "Resizing": [
    *(
      Example({"height": 4, "width": 4, "interpolation": i}, (_IMAGE,), label=f"interpolation={i}")
      for i in _RESIZED
    ),
    Example({"height": 4, "width": 4, "antialias": True}, (_IMAGE,), label="antialias=True"),
  ],
  # Other frameworks; without them, making the layer is an ImportError
  "JaxLayer": [Example({"call_fn": lambda: len, "params": {}})],
  "FlaxLayer": [Example({"module": None})],
  "TorchModuleWrapper": [Example({"module": None})],
  "TFSMLayer": [Example({"filepath": _saved_model})],
}


def problems_of(item: Item, /) -> list[Problem] | Outcome:
  """Returns a layer's problems in each of its modes, or an `Outcome`."""
  if not inspect.isclass(item.object):  # such as add(inputs)
    made = Example(inputs=(_VECTOR, _VECTOR), call=_listed)
    arguments = {"axes": 1} if item.short == "dot" else {}
    return [_problem(item, made, _function_layer(item.object, arguments), False)]
  result = []
  for example in EXAMPLES.get(item.short, [Example()]):
    arguments = _required(item.object, example.arguments)
    missing = [k for k, v in arguments.items() if v is inspect.Parameter.empty]
    if missing:
      return Outcome(item.name, NO_EXAMPLE, f"argument {missing[0]!r}")
    trains = "training" in inspect.signature(item.object.call).parameters
    make = _maker(item.object, arguments)
    result += [_problem(item, example, make, t) for t in ((False, True) if trains else (False,))]
  return result


def _required(cls, given):
  """Returns the arguments of a constructor, `Parameter.empty` for those that nobody knows."""
  needed = {
    name: _ARGUMENTS.get(name, inspect.Parameter.empty)
    for name, p in inspect.signature(cls).parameters.items()
    if p.default is inspect.Parameter.empty
    and p.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
  }
  return needed | given


def _maker(cls, arguments):
  def make(name):
    made = {k: v() if callable(v) else v for k, v in arguments.items()}
    if hasattr(cls, "state_size") or "states" in inspect.signature(cls.call).parameters:
      return L.RNN(cls(**made), name=name)
    return cls(**made, name=name)

  return make


def _function_layer(function, arguments):
  return lambda name: lambda inputs: function(inputs, **arguments, name=name)


def _problem(item, example, make, training):
  inputs = example.inputs or (_default_input(item),)
  inputs = [x if isinstance(x, (Feed, Raw)) else Feed(x) for x in inputs]
  labels = [x for x in (example.label, "training" if training else "") if x]
  name = item.name + (f" ({', '.join(labels)})" if labels else "")

  def build(_):
    return around_layer(make, example.call or _spread, inputs, item.short, training=training)

  return Problem(name, build, training)


def _default_input(item):
  parameters = inspect.signature(item.object).parameters
  if "value_range" in parameters:
    return _PIXELS
  dimension = next((d for d in _SHAPES if item.short.endswith((d, f"{d}Transpose"))), None)
  if dimension:
    return Feed(_SHAPES[dimension])
  is_cell = "states" in inspect.signature(item.object.call).parameters
  recurrent = is_cell or issubclass(item.object, L.RNN) or item.short == "Bidirectional"
  return Feed(_SEQUENCE if recurrent else _VECTOR)
