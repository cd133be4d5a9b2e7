"""The problems of operations and activations: called by their signature, or by an example."""

import contextlib
import functools
import inspect

import keras
from keras import ops
import numpy as np
import tensorflow as tf

from benchmarks.coverage.catalog import Item
from benchmarks.coverage.measure import NO_EXAMPLE, NO_WAY, Outcome
from benchmarks.coverage.problems import BATCH, Feed, Problem, around_function

_SQUARE = (3, 3)  # with the batch of three: what all operations of matrices and vectors take
_IMAGE = (6, 6, 3)
# Parameters that take a tensor, and its shape without the batch.
_TENSORS = dict.fromkeys(
  ("a", "array", "b", "data", "image", "start", "stop", "tensor", "variable", "x", "x1", "x2", "y"),
  _SQUARE,
) | dict.fromkeys(("images", "image1", "image2"), _IMAGE)
_CONSTANTS = {"M", "N", "beta", "dtype", "n", "shape"}  # that take none
_GUESSES = ("real", "positive")  # domains

_EYE = np.eye(3)
# Without symmetry: eigenvalues of a general matrix that is symmetric come in no steady order.
_DISTINCT = np.diag([1.0, 3.0, 5.0])
_EYES = np.stack([_EYE] * BATCH)
_IDS = np.array([0, 1, 0], "int32")


def _regular(x):
  """Returns matrices that have an inverse."""
  return x + 3.0 * _EYE


def _symmetric(x):
  return x + ops.transpose(x, (0, 2, 1)) + _DISTINCT


def _definite(x):
  """Returns positive definite matrices."""
  return ops.matmul(x, ops.transpose(x, (0, 2, 1))) + _EYE


def _complex(x):
  return tf.complex(x, 0.5 * x * x)


def _squared(x):
  """Squares, with a gradient by hand."""

  @ops.custom_gradient
  def function(y):
    def gradient(*args, upstream=None):
      return 2.0 * y * (args[0] if upstream is None else upstream)

    return y * y, gradient

  return function(x)


def _of(*shapes, domain="real"):
  return tuple(Feed(s, domain) for s in shapes)


_ONE, _TWO = _of(_SQUARE), _of(_SQUARE, _SQUARE)
_PICTURE = _of(_IMAGE)
_UNIT = _of((6, 6, 3), domain="unit")
_CORNERS = np.array([[[0.0, 0.0], [5.0, 0.0], [0.0, 5.0], [5.0, 5.0]]] * BATCH, "float32")
_TRANSFORM = np.array([[0.9, 0.1, 0.2, -0.1, 0.9, 0.3, 0.0, 0.0]] * BATCH, "float32")
_RESIZED = ("nearest", "bilinear", "bicubic", "lanczos3", "lanczos5")
_PLACES = np.array([[[0.3, 1.2, 2.6], [0.1, 1.5, 0.7]]] * BATCH)


def _each(names, call, inputs):
  """Returns {name: example} of operations that are called alike: call(operation, *inputs)."""
  return {name: (functools.partial(call, getattr(ops, name)), inputs) for name in names}


def _by_two(name, x):
  return getattr(ops, name)(x, 2)


def _kinds(function, values, inputs):
  """Returns examples {label: (function, inputs)} of a function (kind, *inputs)."""
  return {v: ((lambda *x, v=v: function(v, *x)), inputs) for v in values}


# name: (function, inputs), or {label: (function, inputs)} for several.
EXAMPLES = {
  # Of elements
  "arange": (lambda x: ops.arange(x[0, 0, 0], x[0, 0, 0] + 3.0), _ONE),
  "kaiser": (lambda x: ops.kaiser(5, x[0, 0, 0]), _ONE),
  "cast": (lambda x: ops.cast(x, keras.config.floatx()), _ONE),
  "saturate_cast": (lambda x: ops.saturate_cast(x, keras.config.floatx()), _ONE),
  "clip": (lambda x: ops.clip(x, -0.5, 0.5), _ONE),
  "full_like": (lambda x: ops.full_like(x, 2.0), _ONE),
  "full": (lambda x: ops.full((2, 2), x[0, 0, 0]), _ONE),
  "ldexp": (lambda x: ops.ldexp(x, 2), _ONE),
  "mod": (lambda x, y: ops.mod(x, y), _of(_SQUARE, _SQUARE, domain="positive")),
  "polar": (ops.polar, _TWO),
  "power": (ops.power, _of(_SQUARE, _SQUARE, domain="positive")),
  "threshold": (lambda x: ops.threshold(x, 0.1, 0.0), _ONE),
  "view": (lambda x: ops.view(x, keras.config.floatx()), _ONE),
  "view_as_complex": (ops.view_as_complex, _of((3, 2))),
  "view_as_real": (lambda x: ops.view_as_real(_complex(x)), _ONE),
  "where": (lambda x, y: ops.where(x > 0, x, y), _TWO),
  "select": (lambda x, y: ops.select([x > 0.3, y > 0.3], [x, y], 0.0), _TWO),
  "angle": (lambda x: ops.angle(_complex(x)), _ONE),
  "real": (lambda x: ops.real(_complex(x)), _ONE),
  "imag": (lambda x: ops.imag(_complex(x)), _ONE),
  "conj": (lambda x: ops.conj(_complex(x)), _ONE),
  **_each(("bartlett", "blackman", "hamming", "hanning"), lambda f, _: f(5), _ONE),
  "bincount": (lambda x: ops.bincount(_IDS, weights=x[0, 0]), _ONE),
  # Of shapes and places
  "argpartition": (lambda x: ops.argpartition(x, 1), _ONE),
  "array_split": (lambda x: ops.array_split(x, 2, axis=2), _ONE),
  "broadcast_to": (lambda x: ops.broadcast_to(x, (2, 3, 3, 3)), _ONE),
  **_each(("dsplit", "hsplit", "split", "vsplit"), lambda f, x: f(x, 3), _ONE),
  "expand_dims": (lambda x: ops.expand_dims(x, 1), _ONE),
  "extract_sequences": (lambda x: ops.extract_sequences(x, 4, 2), _of((8,))),
  "get_item": (lambda x: ops.get_item(x, 1), _ONE),
  "meshgrid": (lambda x, y: ops.meshgrid(x[0, 0], y[0, 0]), _TWO),
  "moveaxis": (lambda x: ops.moveaxis(x, 1, 2), _ONE),
  "pad": _kinds(
    lambda m, x: ops.pad(x, ((1, 1),) * 3, mode=m), ("constant", "reflect", "symmetric"), _ONE
  ),
  "rearrange": (lambda x: ops.rearrange(x, "a b c -> c (a b)"), _ONE),
  "repeat": (lambda x: ops.repeat(x, 2, axis=1), _ONE),
  "reshape": (lambda x: ops.reshape(x, (9, 3)), _ONE),
  "roll": (lambda x: ops.roll(x, 1, axis=1), _ONE),
  "scatter": (lambda x: ops.scatter([[0], [2], [0]], x, (4, 3, 3)), _ONE),
  "scatter_update": {
    str(r): (
      (lambda x, y, r=r: ops.scatter_update(x, [[0], [2]], y[:2], reduction=r)),
      _TWO,
    )
    for r in (None, "add", "max", "min", "mul")
  },
  "slice": (lambda x: ops.slice(x, (0, 1, 1), (3, 2, 2)), _ONE),
  "slice_update": (lambda x, y: ops.slice_update(x, (0, 1, 1), y[:, :2, :2]), _TWO),
  "squeeze": (ops.squeeze, _of((1, 3))),
  "swapaxes": (lambda x: ops.swapaxes(x, 1, 2), _ONE),
  "stack": (lambda x, y: ops.stack([x, y]), _TWO),
  "take": (lambda x: ops.take(x, [0, 2, 0], axis=1), _ONE),
  "take_along_axis": (lambda x: ops.take_along_axis(x, np.argsort(_EYE[None]), axis=2), _ONE),
  "tile": (lambda x: ops.tile(x, (2, 1, 1)), _ONE),
  "vander": (lambda x: ops.vander(x[0, 0]), _ONE),
  # Of order
  "digitize": (lambda x: ops.digitize(x, np.array([-0.5, 0.0, 0.5])), _ONE),
  "searchsorted": (lambda x: ops.searchsorted(ops.sort(x[0, 0]), x[0, 1]), _ONE),
  "histogram": (lambda x: ops.histogram(x[0, 0], 3), _ONE),
  "unravel_index": (lambda x: ops.unravel_index(ops.argsort(x), (3, 1)), _ONE),
  "in_top_k": (lambda x: ops.in_top_k(_IDS, x[0], 2), _ONE),
  "isin": (lambda x: ops.isin(x, [0.5]), _ONE),
  "top_k": (lambda x: ops.top_k(x, 2), _ONE),
  **_each(("percentile", "nanpercentile"), lambda f, x: f(x, 30.0, axis=-1), _ONE),
  **_each(("quantile", "nanquantile"), lambda f, x: f(x, 0.3, axis=-1), _ONE),
  **_each(
    ("segment_max", "segment_min", "segment_prod", "segment_sum"),
    lambda f, x: f(x, _IDS, num_segments=2),
    _ONE,
  ),
  # Of matrices
  "cholesky": (lambda x: ops.cholesky(_definite(x)), _ONE),
  "cholesky_inverse": (lambda x: ops.cholesky_inverse(ops.cholesky(_definite(x))), _ONE),
  "correlate": (lambda x, y: ops.correlate(x[0, 0], y[0, 0], mode="full"), _TWO),
  "corrcoef": (lambda x: ops.corrcoef(x[0]), _ONE),
  "det": (lambda x: ops.det(_regular(x)), _ONE),
  "diag": (lambda x: ops.diag(x[0]), _ONE),
  "eig": (lambda x: ops.eig(0.3 * x + _DISTINCT)[0], _ONE),
  "eigh": {
    "values": (lambda x: ops.eigh(_symmetric(x))[0], _ONE),
    "values and vectors": (lambda x: ops.eigh(_symmetric(x)), _ONE),
  },
  "einsum": (lambda x, y: ops.einsum("abc,acd->abd", x, y), _TWO),
  "inner": (lambda x, y: ops.inner(x[0], y[0]), _TWO),
  "kron": (lambda x, y: ops.kron(x[0], y[0]), _TWO),
  "inv": (lambda x: ops.inv(_regular(x)), _ONE),
  "logdet": (lambda x: ops.logdet(_definite(x)), _ONE),
  "lstsq": (lambda x, y: ops.lstsq(_regular(x)[0], y[0]), _TWO),
  "lu_factor": (lambda x: ops.lu_factor(_regular(x)[0])[0], _ONE),
  "norm": {
    str(o): ((lambda x, o=o: ops.norm(x, ord=o, axis=(1, 2))), _ONE)
    for o in (None, "fro", "nuc", 1, 2, np.inf)
  },
  "pinv": (lambda x: ops.pinv(_regular(x)), _ONE),
  "qr": (lambda x: ops.qr(_regular(x)), _ONE),
  "slogdet": (lambda x: ops.slogdet(_regular(x)), _ONE),
  "solve": (lambda x, y: ops.solve(_regular(x), y), _TWO),
  "solve_triangular": (lambda x, y: ops.solve_triangular(_regular(x), y, lower=True), _TWO),
  "svd": {
    "values": (lambda x: ops.svd(_regular(x), compute_uv=False), _ONE),
    "values and vectors": (lambda x: ops.svd(_regular(x)), _ONE),
  },
  # Of Fourier
  **_each(("fft", "fft2", "ifft2", "irfft"), lambda f, x, y: f((x, y)), _TWO),
  "stft": (lambda x: ops.stft(x, 8, 4, 8), _of((16,))),
  "istft": (lambda x, y: ops.istft((x, y), 8, 4, 8), _of((4, 5), (4, 5))),
  # Of neural networks
  **{
    name: {f"{d}D": (functools.partial(_by_two, name), _of((4,) * d + (2,))) for d in (1, 2, 3)}
    for name in ("adaptive_average_pool", "adaptive_max_pool", "average_pool", "max_pool")
  },
  "batch_normalization": (
    lambda x, y: ops.batch_normalization(x, y[0, 0], 1.5 + y[0, 1], axis=-1),
    _TWO,
  ),
  "binary_crossentropy": {
    "": (lambda x: ops.binary_crossentropy(_EYES, x), _of(_SQUARE, domain="unit")),
    "from_logits=True": (
      lambda x: ops.binary_crossentropy(_EYES, x, from_logits=True),
      _ONE,
    ),
  },
  "categorical_crossentropy": {
    "": (lambda x: ops.categorical_crossentropy(_EYE, ops.softmax(x[0])), _ONE),
    "from_logits=True": (
      lambda x: ops.categorical_crossentropy(_EYE, x[0], from_logits=True),
      _ONE,
    ),
  },
  "sparse_categorical_crossentropy": {
    "": (lambda x: ops.sparse_categorical_crossentropy(_IDS, ops.softmax(x[0])), _ONE),
    "from_logits=True": (
      lambda x: ops.sparse_categorical_crossentropy(_IDS, x[0], from_logits=True),
      _ONE,
    ),
  },
  # The batch of three is the first dimension of a kernel too.
  **{
    name: {
      f"{d}D": (getattr(ops, name), _of((4,) * d + (2,), (2,) * (d - 1) + last)) for d in dimensions
    }
    for name, dimensions, last in (
      ("conv", (1, 2, 3), (2, 2)),
      ("conv_transpose", (1, 2, 3), (2, 2)),
      ("depthwise_conv", (1, 2), (2, 1)),
    )
  },
  "separable_conv": (
    lambda x, k: ops.separable_conv(x, k, np.ones((1, 1, 2, 2))),
    _of((4, 4, 2), (2, 2, 1)),
  ),
  "ctc_decode": (lambda x: ops.ctc_decode(x, np.array([5, 5, 5])), _of((5, 4))),
  "ctc_loss": (
    lambda x: ops.ctc_loss(
      np.array([[1, 2], [2, 2], [3, 1]]), x, np.array([2, 2, 2]), np.array([6, 6, 6])
    ),
    _of((6, 4)),
  ),
  "depth_to_space": (lambda x: ops.depth_to_space(x, 2), _of((2, 2, 4))),
  "space_to_depth": (lambda x: ops.space_to_depth(x, 2), _of((4, 4, 2))),
  "dot_product_attention": (ops.dot_product_attention, _of((4, 2, 3), (5, 2, 3), (5, 2, 3))),
  "fold": (lambda x: ops.fold(x, 4, 2, stride=2), _of((4, 4))),
  "unfold": (lambda x: ops.unfold(x, 2), _of((2, 4, 4))),
  "glu": (ops.glu, _of((3, 4))),
  "layer_normalization": (lambda x, y: ops.layer_normalization(x, y[0, 0], y[0, 1]), _TWO),
  "rms_normalization": (lambda x, y: ops.rms_normalization(x, y[0, 0]), _TWO),
  "moments": (lambda x: ops.moments(x, (0, 1)), _ONE),
  "multi_hot": (lambda x: ops.multi_hot(ops.cast(x, "int32"), 3), _ONE),
  "one_hot": (lambda x: ops.one_hot(ops.cast(x, "int32"), 3), _ONE),
  "psnr": (lambda x, y: ops.psnr(x, y, 1.0), _TWO),
  # With functions
  "associative_scan": (lambda x: ops.associative_scan(lambda a, b: a * b + a, x), _ONE),
  "cond": (lambda x: ops.cond(x[0, 0, 0] > 0, lambda: ops.sin(x), lambda: ops.exp(x)), _ONE),
  "custom_gradient": (_squared, _ONE),
  "fori_loop": (
    lambda x: ops.fori_loop(0, 3, lambda i, y: ops.sin(y + ops.cast(i, y.dtype)) * x, x),
    _ONE,
  ),
  "jvp": (lambda x, y: ops.jvp(ops.sin, (x,), (y,)), _TWO),
  "map": (lambda x: ops.map(ops.sin, x), _ONE),
  "scan": (lambda x: ops.scan(lambda c, y: (ops.sin(c) * y, c), x[0], x), _ONE),
  "switch": (lambda x: ops.switch(1, [ops.sin, ops.exp], x), _ONE),
  "vectorize": (lambda x: ops.vectorize(ops.sin)(x), _ONE),
  "vectorized_map": (lambda x: ops.vectorized_map(ops.sin, x), _ONE),
  "while_loop": (
    lambda x: ops.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, ops.sin(y) * x), (0, x)),
    _ONE,
  ),
  # Of images
  "image.affine_transform": _kinds(
    lambda i, x: ops.image.affine_transform(x, _TRANSFORM, interpolation=i),
    ("nearest", "bilinear"),
    _PICTURE,
  ),
  "image.perspective_transform": _kinds(
    lambda i, x: ops.image.perspective_transform(x, _CORNERS, 0.8 * _CORNERS, interpolation=i),
    ("nearest", "bilinear"),
    _PICTURE,
  ),
  "image.elastic_transform": (lambda x: ops.image.elastic_transform(x, seed=1), _PICTURE),
  "image.crop_images": (
    lambda x: ops.image.crop_images(
      x, top_cropping=1, left_cropping=1, target_height=3, target_width=3
    ),
    _PICTURE,
  ),
  "image.pad_images": (
    lambda x: ops.image.pad_images(
      x, top_padding=1, left_padding=1, target_height=8, target_width=8
    ),
    _PICTURE,
  ),
  "image.extract_patches": (lambda x: ops.image.extract_patches(x, 2), _PICTURE),
  "image.extract_patches_3d": (lambda x: ops.image.extract_patches_3d(x, 2), _of((4, 4, 4, 2))),
  "image.hsv_to_rgb": (ops.image.hsv_to_rgb, _UNIT),
  "image.rgb_to_hsv": (ops.image.rgb_to_hsv, _UNIT),
  "image.map_coordinates": {
    f"order={o}": (
      (lambda x, y, o=o: ops.image.map_coordinates(x[0], 1.5 + ops.transpose(y[0]), o)),
      _of((5, 4), (4, 2)),
    )
    for o in (0, 1)
  },
  "image.resize": {
    **_kinds(lambda i, x: ops.image.resize(x, (4, 4), interpolation=i), _RESIZED, _PICTURE),
    "antialias=True": (lambda x: ops.image.resize(x, (4, 4), antialias=True), _PICTURE),
  },
  "image.scale_and_translate": (
    lambda x: ops.image.scale_and_translate(
      x, (BATCH, 4, 4, 3), np.array([0.7, 0.7]), np.array([0.1, 0.1]), (1, 2), "linear"
    ),
    _PICTURE,
  ),
  "image.ssim": (
    lambda x, y: ops.image.ssim(x, y, filter_size=3),
    _of((6, 6, 3), (6, 6, 3), domain="unit"),
  ),
}
# Of activations.
_ARGUMENTS = {"threshold": 0.1, "default_value": 0.0}


def problems_of(item: Item, /) -> list[Problem] | Outcome:
  """Returns the `Problem`s of an operation or activation, or an `Outcome`."""
  examples = EXAMPLES.get(item.name.removeprefix(f"{item.kind}."))
  if examples is None:
    return _guessed(item)
  examples = examples if isinstance(examples, dict) else {"": examples}
  return [_problem(item, *e, label=label) for label, e in examples.items()]


def _guessed(item):
  """Returns the problem of calling an operation by what its parameters are called."""
  parameters = inspect.signature(item.object).parameters.values()
  names = [
    p.name
    for p in parameters
    if p.default is inspect.Parameter.empty and p.kind is not inspect.Parameter.VAR_KEYWORD
  ]
  fixed = {n: _ARGUMENTS[n] for n in names if n in _ARGUMENTS}
  names = [n for n in names if n not in fixed]
  if names == ["xs"]:  # a list of tensors
    return [_problem(item, lambda x, y: item.object([x, y]), _TWO, domains=_GUESSES)]
  if set(names) <= _CONSTANTS:
    return Outcome(item.name, NO_WAY, "takes no tensors")
  unknown = [n for n in names if n not in _TENSORS]
  if unknown:
    return Outcome(item.name, NO_EXAMPLE, f"argument {unknown[0]!r}")

  def function(*tensors):
    return item.object(**dict(zip(names, tensors, strict=True)), **fixed)

  inputs = _of(*(_TENSORS[n] for n in names))
  return [_problem(item, function, inputs, domains=_GUESSES, takes_integers=_takes_integers_only)]


def _takes_integers_only(function, inputs):
  """Tells if a function takes integers of one kind, but no floats."""
  shapes = [(BATCH, *i.shape) for i in inputs]
  floats = [tf.ones(s, keras.config.floatx()) for s in shapes], [5.0] * len(shapes)
  integers = [tf.ones(s, tf.int32) for s in shapes], [5] * len(shapes)
  return any(_takes(function, x) for x in integers) and not any(_takes(function, x) for x in floats)


def _takes(function, values):
  with contextlib.suppress(Exception):  # of whatever type Keras and TensorFlow have
    function(*values)
    return True
  return False


def _problem(item, function, inputs, *, label="", domains=(None,), takes_integers=None):
  def build(domain):
    return around_function(function, inputs, item.short, domain=domain)

  return Problem(
    item.name + (f" ({label})" if label else ""),
    build,
    domains=domains,
    takes_integers=takes_integers and (lambda: takes_integers(function, inputs)),
  )
