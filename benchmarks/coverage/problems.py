"""A small model around one layer, loss or operation: what is measured.

  z -> a Dense layer with tanh for each input -> the measured -> a Dense layer -> loss

Layers before and behind are smooth and have parameters, so that the second derivative of the
measured has a part in the Hessian.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

BATCH, FEATURES, OUTPUTS = 3, 3, 2

# (factor, offset) of values in [-1, 1]: what an input may be. Operations are tried with the first
# two, in order.
DOMAINS = {"real": (1.0, 0.0), "positive": (0.4, 1.5), "unit": (0.4, 0.5), "pixels": (100.0, 127.5)}
PROBABILITIES = "probabilities"  # outputs of a softmax that Keras doesn't see
_LARGE = 4.0  # outputs beyond are scaled, or the tanh behind would be flat


@dataclasses.dataclass(frozen=True)
class Feed:
  """A floating-point input that depends on variables."""

  shape: tuple[int, ...]  # without the batch
  domain: str = "real"


@dataclasses.dataclass(frozen=True)
class Raw:
  """An input that is data: integers or strings of (BATCH, ...)."""

  values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Problem:
  """A model to be measured.

  Attributes:
    name: such as "layers.Dropout (training)".
    build: (domain or None) -> `Built`; in the current floatx.
    training: whether the model is called in training mode.
    domains: names in DOMAINS to try in turn; (None,) where the inputs say theirs.
    takes_integers: () -> whether it runs on integers, if not on floats; or None.
  """

  name: str
  build: Callable
  training: bool = False
  domains: tuple = (None,)
  takes_integers: Callable | None = None


@dataclasses.dataclass(frozen=True)
class Built:
  """A model around the measured.

  Attributes:
    model: the whole.
    loss: as `HessianOperator` takes it.
    batch: (inputs, targets), arrays.
    feeds: the measured's inputs that depend on variables, values.
    variables: the measured's own trainable variables.
    outputs: (feeds) -> what the measured gives, in the mode asked for.
    names: one of which a refusal has to have in it.
  """

  model: keras.Model
  loss: object
  batch: tuple
  feeds: list
  variables: list
  outputs: Callable
  names: tuple


def around_layer(
  make: Callable[[str], keras.layers.Layer],
  call: Callable,
  inputs: Sequence[Feed | Raw],
  name: str,
  *,
  training: bool = False,
) -> Built:
  """Builds the model around a Keras layer.

  Args:
    make: (name) -> layer.
    call: (layer, *inputs) -> outputs, a structure of tensors.
    inputs: `Feed`s and `Raw`s.
    name: the layer's.
    training: mode in which `outputs` runs.
  """
  keras.utils.set_random_seed(0)
  sources, tensors, arrays = _inputs(inputs)
  layer = make(name)
  found = call(layer, *tensors)
  middle = keras.Model(tensors, found)
  feeds = [t for t, kind in zip(tensors, inputs, strict=True) if isinstance(kind, Feed)]
  before = keras.Model(sources, tensors)
  values = tf.nest.flatten(before(arrays))
  _shake(middle.trainable_variables)
  outputs = [o for o in tf.nest.flatten(found) if tf.as_dtype(o.dtype).is_floating]
  sizes = [
    _magnitude(v) for v in tf.nest.flatten(middle(values, training=training)) if v.dtype.is_floating
  ]
  flat = [keras.layers.Flatten()(_scaled(o, size)) for o, size in zip(outputs, sizes, strict=True)]
  # A model has to have variables, even if nothing floats out of the measured.
  flat = flat or [keras.layers.Flatten()(f) for f in feeds] or [sources[0]]
  joined = keras.layers.Concatenate(name="joined")(flat) if len(flat) > 1 else flat[0]
  head = keras.layers.Dense(OUTPUTS, "tanh", name="head")
  model = keras.Model(sources, head(joined))
  _shake(head.trainable_variables)
  positions = [i for i, kind in enumerate(inputs) if isinstance(kind, Feed)]

  def run(given):
    full = list(values)
    for i, value in zip(positions, given, strict=True):
      full[i] = value
    return middle(full, training=training)

  return Built(
    model=model,
    loss="mse",
    batch=(arrays if len(arrays) > 1 else arrays[0], _targets()),
    feeds=[values[i] for i in positions],
    variables=middle.trainable_variables,
    outputs=run,
    names=tuple(repr(x.name) for x in middle._flatten_layers(include_self=False)),
  )


def around_function(
  function: Callable, inputs: Sequence[Feed], name: str, *, domain: str | None = None
) -> Built:
  """Builds the model around a function of tensors, of whatever shapes.

  Args:
    function: (*inputs) -> a structure of tensors.
    inputs: `Feed`s.
    name: of the layer that the function becomes.
    domain: of the inputs, in place of their own.
  """
  keras.utils.set_random_seed(0)
  inputs = [Feed(i.shape, domain or i.domain) for i in inputs]
  sources, tensors, arrays = _inputs(inputs)
  layer = Operation(function, name=name)
  joined = layer(tensors)
  head = keras.layers.Dense(OUTPUTS, "tanh", name="head")
  model = keras.Model(sources, head(joined))
  _shake(head.trainable_variables)
  return Built(
    model=model,
    loss="mse",
    batch=(arrays[0], _targets()),
    feeds=tf.nest.flatten(keras.Model(sources, tensors)(arrays)),
    variables=[],
    outputs=lambda given: function(*given),
    names=(repr(name),),
  )


def around_loss(
  loss: Callable,
  targets: np.ndarray,
  shape: tuple[int, ...],
  last: str,
  names: tuple[str, ...],
) -> Built:
  """Builds the model that a loss is put on.

  Args:
    loss: a Keras loss, or a function of (targets, outputs).
    targets: array of (BATCH, ...).
    shape: of the outputs, without the batch.
    last: the function of Keras that they end with, or PROBABILITIES.
    names: one of which a refusal has to have in it.
  """
  keras.utils.set_random_seed(0)
  sources, tensors, arrays = _inputs([Feed(shape)])
  if last == PROBABILITIES:
    outputs = keras.layers.Rescaling(1.0)(keras.layers.Softmax()(tensors[0]))
  else:
    outputs = keras.layers.Activation(last)(tensors[0])
  model = keras.Model(sources, outputs)
  targets = targets.astype(keras.config.floatx()) if targets.dtype.kind == "f" else targets

  def call(given):
    return loss(tf.convert_to_tensor(targets), given[0])

  values = tf.identity(model(arrays[0]))  # without the logits that Keras remembers
  return Built(model, loss, (arrays[0], targets), [values], [], call, names)


class Operation(keras.layers.Layer):
  """A function of tensors as a layer: its inputs, and one number made of all its outputs."""

  def __init__(self, function, **kwargs):
    super().__init__(**kwargs)
    self.function = function

  def call(self, inputs):
    parts = [tf.reshape(x, (BATCH, -1)) for x in inputs]
    number = tf.add_n(
      [projection(y) for y in floats(self.function(*inputs))] or [0.0 * parts[0][0, 0]]
    )
    return tf.concat([*parts, tf.fill((BATCH, 1), tf.sin(tf.cast(number, parts[0].dtype)))], axis=1)

  def compute_output_spec(self, inputs):
    size = sum(int(np.prod(x.shape[1:])) for x in inputs)
    return keras.KerasTensor((BATCH, size + 1), self.compute_dtype)


def projection(y: tf.Tensor) -> tf.Tensor:
  """Returns a number that depends on all elements of a tensor."""
  flat = tf.reshape(y, [-1])
  weights = tf.cos(tf.cast(tf.range(tf.size(flat)), flat.dtype))
  count = tf.cast(tf.maximum(tf.size(flat), 1), flat.dtype)
  return tf.cast(tf.reduce_sum(flat * weights) / tf.sqrt(count), keras.config.floatx())


def floats(outputs: Any) -> list[tf.Tensor]:
  """Lists the real tensors of a structure; complex ones are two."""
  found = []
  for y in tf.nest.flatten(outputs):
    if not tf.is_tensor(y):
      continue
    if y.dtype.is_complex:
      found += [tf.math.real(y), tf.math.imag(y)]
    elif y.dtype.is_floating:
      found.append(y)
  return found


def _inputs(inputs):
  """Returns symbolic sources, symbolic inputs of the measured, and the data of the sources."""
  rng = np.random.default_rng(0)
  source = keras.Input((FEATURES,), batch_size=BATCH)
  arrays = [rng.standard_normal((BATCH, FEATURES)).astype(keras.config.floatx())]
  sources, tensors, used = [], [], False
  for i, kind in enumerate(inputs):
    if isinstance(kind, Raw):
      dtype = "string" if kind.values.dtype.kind in "OUS" else str(kind.values.dtype)
      sources.append(keras.Input(kind.values.shape[1:], batch_size=BATCH, dtype=dtype))
      tensors.append(sources[-1])
      arrays.append(tf.constant(kind.values) if dtype == "string" else kind.values)
      continue
    used = True
    before = keras.layers.Dense(int(np.prod(kind.shape)), "tanh", name=f"before_{i}")
    x = keras.layers.Reshape(kind.shape, name=f"shape_{i}")(before(source))
    _shake(before.trainable_variables, seed=i + 1)
    factor, offset = DOMAINS[kind.domain]
    tensors.append(x if kind.domain == "real" else keras.layers.Rescaling(factor, offset)(x))
  if used or not sources:
    return [source, *sources], tensors, arrays
  return sources, tensors, arrays[1:]


def _shake(variables, seed=0):
  """Moves weights away from zero, so that no second derivative is zero by symmetry."""
  rng = np.random.default_rng(seed)
  for v in variables:
    v.assign(v.numpy() + 0.1 * rng.standard_normal(v.shape))


def _magnitude(value):
  return float(np.max(np.abs(value.numpy()), initial=0.0))


def _scaled(tensor, size):
  return keras.layers.Rescaling(1 / size)(tensor) if size > _LARGE else tensor


def _targets():
  rng = np.random.default_rng(1)
  return rng.standard_normal((BATCH, OUTPUTS)).astype(keras.config.floatx())
